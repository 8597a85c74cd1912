"""The page on reading the report says what the report does."""

import re
import runpy
from pathlib import Path

import calibrant.reporting
from calibrant.metrics import measure
from calibrant.reporting import words

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "reading-the-report.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["page"] == Path("report/index.html")
    assert (tmp_path / "report" / "both.pdf").stat().st_size > 1000
    assert names["ax"].get_title(loc="left") == "my model"


def test_every_headline_of_the_page_is_one_of_the_code_and_the_other_way_round():
    source = Path(words.__file__).read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([A-Z][^|]+?) \|", TEXT, re.MULTILINE)
    assert len(listed) == 5
    assert all(f'"{headline}' in source for headline in listed)
    alone = re.findall(r'Verdict\("([^"]+)"', source)
    assert len(alone) == 3
    for headline in alone:
        assert headline in source
        assert headline in re.sub(r"\s+", " ", TEXT)


def test_the_pictures_that_are_named_exist():
    (names,) = re.findall(r"global style alone: (.*?)\.\s*$", TEXT, re.DOTALL)
    drawn = re.findall(r"`(\w+)`", names)
    assert len(drawn) == 7
    assert all(name in calibrant.reporting.__all__ for name in drawn)


def test_the_figure_is_small_and_shows_what_its_caption_says():
    svg = (DOCS / "figures" / "before-after.svg").read_text(encoding="utf-8")
    assert len(svg) < 60_000
    sick, well = runpy.run_path(str(DOCS / "figures" / "reading.py"))["worlds"]()
    for scores in (sick, well):
        m = measure(scores, n_boot=50)
        shown = f"mean {m['mean_confidence'].value:.1%} (dashed), right {m['accuracy'].value:.1%} (solid), n = {m.n}"
        assert shown in svg
    assert words.direction(measure(sick, n_boot=200)) == "overconfident"
    assert words.direction(measure(well, n_boot=200)) == ""
