"""The section on alignment in page, Markdown and model card: from plain JSON alone."""

import json
import re

import numpy as np
import pytest

from calibrant.alignment.instructions import instruction_check, instruction_set
from calibrant.alignment.preferences import PairLogps, preference_check
from calibrant.alignment.result import AlignmentCheck
from calibrant.alignment.verdict import Thresholds, checks_of
from calibrant.errors import ConfigError
from calibrant.metrics.estimates import Sampling
from calibrant.reporting import Domain, model_card, report
from calibrant.reporting.kept import alignment_words
from calibrant.scores import Scores

BOOT = 60


@pytest.fixture(scope="module")
def checked():
    """A check of 200 pairs whose margin fell far, and of the instructions, of which none changed."""
    rng = np.random.default_rng(0)
    aligned_P2 = rng.normal(-50, 10, (200, 2))
    tuned_P2 = aligned_P2 + np.array([-8.0, 0.0]) + rng.normal(0, 1, (200, 2))
    pairs = PairLogps(
        tuple(map(str, range(200))), np.arange(200), np.full((200, 2), 20), {"aligned": aligned_P2, "tuned": tuned_P2}
    )
    how = Sampling(100)
    preferences = preference_check(pairs, how=how)
    texts = ["Some words of an answer"] * 80
    followed = instruction_check(instruction_set(), {"aligned": texts, "tuned": texts}, how=how)
    checks = checks_of(Thresholds(), 0.95, preferences=preferences, instructions=followed)
    judge = {"base_url": "https://host/v1", "model": "judge <1>", "prompt": "Which | is better?\n{first}"}
    whole = AlignmentCheck(preferences, (), None, followed, None, checks, Thresholds(), 0.95, ("3 rows left out.",), {})
    return json.loads(json.dumps(whole.to_json() | {"wins": {"judge": judge}}))


@pytest.fixture(scope="module")
def scores():
    before = Scores.from_probs([[0.9, 0.1]] * 100, [0] * 60 + [1] * 40)
    after = Scores.from_probs([[0.62, 0.38]] * 100, [0] * 60 + [1] * 40)
    return Domain("quiz", True, before, after)


def test_words_say_the_numbers_of_the_check(checked):
    words = alignment_words(checked)
    assert (words["headline"], words["tone"]) == ("Alignment not kept", "bad")
    assert "Implicit reward margin" in words["sentence"]
    margin = next(row for row in words["rows"] if row["label"].startswith("Implicit reward margin"))
    assert margin["change"].startswith("−0.")
    assert (margin["verdict"], margin["aligned"], margin["n"]) == ("not kept", "", "200 pairs")
    same = next(row for row in words["rows"] if "instructions" in row["label"])
    assert same["change"] == "+0.0 pts"
    assert same["aligned"] == same["tuned"]


def test_page_and_markdown_and_json_hold_the_section(checked, scores, tmp_path):
    page = report([scores], alignment=checked, tuning={"objective": "cft"}, out=tmp_path, n_boot=BOOT)
    html, markdown = page.read_text(), (tmp_path / "report.md").read_text()
    section = re.search(r'<section class="tone bad" aria-labelledby="alignment">.*?</section>', html, re.DOTALL).group(
        0
    )
    assert "judge &lt;1&gt;" in section
    assert "3 rows left out." in section
    assert "## Alignment: Alignment not kept" in markdown
    rows = [line for line in markdown.split("## Alignment")[1].split("## ")[0].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(checked["checks"])
    assert {line.count(" | ") for line in rows[2:]} == {5}
    assert "Which \\| is better?" in markdown
    assert json.loads((tmp_path / "report.json").read_text())["alignment"] == checked
    for check in checked["checks"]:
        assert check["label"] in section
        assert check["label"] in markdown


def test_without_a_check_there_is_no_section(scores, tmp_path):
    page = report([scores], tuning={"objective": "cft"}, out=tmp_path, n_boot=BOOT)
    assert 'id="alignment"' not in page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["alignment"] is None


def test_the_model_card_holds_it_too(checked, scores):
    card = model_card([scores], tuning={"objective": "cft", "adapter": "adapter"}, alignment=checked, n_boot=BOOT)
    assert "## Alignment: Alignment not kept" in card
    assert "## Alignment" not in model_card([scores], tuning={"adapter": "adapter"}, n_boot=BOOT)


def test_what_is_no_check_is_refused(scores, tmp_path):
    with pytest.raises(ConfigError, match="format 'other'"):
        report([scores], alignment={"format": "other"}, out=tmp_path, n_boot=BOOT)


@pytest.mark.parametrize("missing", ["headline", "verdict", "sentence", "checks", "level"])
def test_a_check_of_which_a_part_is_missing_is_refused_by_its_name(checked, missing):
    found = {name: value for name, value in checked.items() if name != missing}
    with pytest.raises(ConfigError, match=f"without {missing}"):
        alignment_words(found)
