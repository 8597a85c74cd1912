"""The example of the page on alignment prints what it shows, and its limits are those of the code."""

import doctest
import re
from pathlib import Path

from calibrant.alignment import Thresholds
from calibrant.alignment.instructions import TEXTS, TOPICS, instruction_set

PAGE = Path(__file__).parents[2] / "docs" / "alignment-check.md"


def test_the_example_prints_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 10)


def test_the_limits_on_the_page_are_the_defaults():
    text, t = " ".join(PAGE.read_text(encoding="utf-8").split()), Thresholds()
    said = re.search(
        r"accuracy may fall by (\S+), the margin by (\S+), KL may be (\S+) nats a token, length may change by (\d+) %, "
        r"shares by (\S+), instructions may fall by (\S+), the win rate may be (\S+) below",
        text,
    ).groups()
    wanted = (t.accuracy, t.margin, t.kl, t.length * 100, t.share, t.instructions, t.win_rate)
    assert tuple(float(x) for x in said) == wanted
    assert f"fewer than {t.least_n} items" in text
    assert f"{len(instruction_set())} instructions" in text
    assert (len(TEXTS), len(TOPICS)) == (10, 8)
    assert "ten kinds on eight topics" in text
