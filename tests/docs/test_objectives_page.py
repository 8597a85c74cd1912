"""The page of objectives names them all, in the package's order, with settings that exist, and its example runs."""

import doctest
import re
from pathlib import Path

from calibrant.objectives import OBJECTIVES
from calibrant.tuning import TuneConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")


def test_the_table_has_a_row_for_each_objective():
    table = re.search(r"<!-- objectives -->\n(.*?)<!-- end of objectives -->", PAGE, re.S)
    assert table is not None
    assert re.findall(r"^\| `(\w+)` \|", table.group(1), re.M) == list(OBJECTIVES)
    assert {line.count("|") for line in table.group(1).strip().splitlines()} == {5}


def test_settings_and_values_that_it_names_exist():
    for name, value in re.findall(r"`(over|language|e_step): (\w+)`", PAGE):
        objective = "rcft" if name != "over" else "cft"
        assert getattr(TuneConfig(objective=objective, **{name: value}), name) == value
    for value in re.findall(r"^\| `(\w+)` \| the (?:training|calibration) questions", PAGE, re.M):
        assert TuneConfig(objective="rcft", e_step=value).e_step == value


def test_example_runs():
    examples = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, "objectives.md", "objectives.md", 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
