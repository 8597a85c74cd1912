"""The page on regimes says what the package does."""

import doctest
import re
from pathlib import Path

from calibrant.diagnosis import collapse, options, path, verdict
from calibrant.diagnosis.result import ACTIONS, CAVEAT

PAGE = Path(__file__).parents[3] / "docs" / "regimes.md"
TEXT = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))


def test_the_examples_print_what_the_page_shows():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 12)


def test_the_page_has_each_action_the_caveat_and_the_numbers_of_the_rule():
    for action in ACTIONS:
        assert f"| {action} |" in TEXT, action
    assert CAVEAT.split(": ", 1)[1] in TEXT
    assert verdict.TOLERANCE == 0.05
    assert "tolerance of .05" in TEXT
    assert verdict.LEAST_N == 30
    assert "fewer than 30 questions" in TEXT
    assert verdict.PURE_RESCALING == 0.25
    assert "up to .25 nats" in TEXT
    assert (verdict.PRIOR_DISTANCE, verdict.PRIOR_P) == (0.05, 0.001)
    assert "5 % or more of the probability at wrong positions, with p < .001" in TEXT
    assert (path.GROWTH, path.NLL_RISE) == (0.05, 0.01)
    assert "grew by more than .05" in TEXT
    assert "more than .01 nats above" in TEXT
    assert options.LOW_MASS == 0.5
    assert "option mass under .5" in TEXT
    assert collapse.NEAR_ONE == 0.99
    assert "at .99 or more" in TEXT
