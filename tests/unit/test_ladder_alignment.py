"""Alignment in the table: from checks of a known change that are laid into a ladder's folder by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from calibrant.alignment import AlignmentCheck, AlignSettings, Collected, Thresholds, load_preferences, load_prompts
from calibrant.alignment.preferences import PairLogps, preference_check
from calibrant.alignment.verdict import checks_of
from calibrant.errors import ConfigError, QuestionError
from calibrant.files import claim_folder, write_json
from calibrant.ladder import read_table, write_table
from calibrant.ladder.alignment import CHECK, Asked, alignment_of, reason_against
from calibrant.ladder.cells import Place, places
from calibrant.ladder.fixes import FIXES, by_name
from calibrant.ladder.words import headline, unfinished
from calibrant.metrics import Estimate
from calibrant.metrics.estimates import Sampling
from calibrant.scores import Scores

N = 400
PAIRS = load_preferences([{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(50)])
PROMPTS = load_prompts([{"prompt": f"Tell {i}."} for i in range(40)])
SHARP = {"aligned": 2.5, "temperature": 1.6, "cft": 1.0, "cft+temperature": 1.5, "sft": 3.0, "brier": 1.8, "focal": 2.0}
"""By how much log-probabilities are too far apart; 1 is calibrated."""
SHIFT, KL = {"cft": 0.0, "sft": -4.0}, {"cft": 0.01, "sft": 0.3}
"""By how many nats the preferred response became more probable (300 pairs, β = .1), and KL a token (40 prompts)."""


def world(sharp):
    """Answers drawn from softmax(z); the model says softmax(sharp z)."""
    rng = np.random.default_rng(1)
    z_NK = rng.normal(0, 1.3, (N, 4))
    p_NK = np.exp(z_NK) / np.exp(z_NK).sum(1, keepdims=True)
    answer_N = (rng.random((N, 1)) > p_NK.cumsum(1)).sum(1).clip(0, 3)
    return Scores.from_logp(sharp * z_NK, answer_N)


def checked(name, *, n=300):
    """A whole check in which only the preferred responses and the KL moved."""
    rng = np.random.default_rng(0)
    aligned_P2 = rng.normal(-50, 10, (n, 2))
    logp = {"aligned": aligned_P2, "tuned": aligned_P2 + np.array([SHIFT[name], 0.0])}
    pairs = PairLogps(tuple(map(str, range(n))), np.arange(n), np.full((n, 2), 20), logp)
    preferences = preference_check(pairs, how=Sampling(100))
    kl = Estimate(KL[name], KL[name] * 0.9, KL[name] * 1.1, 40)
    checks = checks_of(Thresholds(), 0.95, preferences=preferences, divergence=[("aligned", kl)])
    whole = AlignmentCheck(preferences, (), None, None, None, checks, Thresholds(), 0.95, (), {})
    return json.loads(json.dumps(whole.to_json()))


@pytest.fixture
def lay(tmp_path):
    """A function that lays a ladder of some fixes, each with one seed, into a folder."""

    def lay(*names):
        questions = {name: {"name": name, "n": N, "digest": "d"} for name in ("train", "calibration", "test")}
        prompt = {"reading": "letters", "format": "raw", "variant": "sum"}
        claim_folder(
            tmp_path, {"model": "hub/tiny", "budget": "quick", "prompt": prompt, "questions": questions}, "ladder"
        )
        for name in names:
            place = Place(tmp_path, by_name(name))
            place.claim(None)
            cell = place.cell(place.fix.candidates[0], 0)
            cell.claim({})
            cell.finish({"nll": 1.0, "seconds": 1.0, "parameters": 9, "steps": 3})
            world(SHARP[name]).save(cell.path("test"))
            tried = [{"setting": cell.setting.name, "values": {}, "nll": 1.0, "error": None}]
            place.choose({"setting": cell.setting.name, "criterion": "x", "nll": 1.0, "candidates": tried})
        return tmp_path

    return lay


def cell_of(root, name):
    place = next(place for place in places(root) if place.fix.name == name)
    return place.cell(place.chosen, 0)


@pytest.fixture
def contest(lay):
    """CFT is best calibrated and keeps alignment, SFT does not, the check of Brier failed, focal was not reached yet."""
    root = lay(*SHARP)
    asked = Asked.of(PAIRS, PROMPTS, None, 0)
    asked.write(root)
    for name in ("cft", "sft"):
        write_json(cell_of(root, name).folder / asked.folder / "alignment.json", checked(name))
    cell_of(root, "brier").fail(QuestionError(asked="pairs", found="none of 50 fits", todo="give shorter ones"), CHECK)
    return root


# ---- reading --------------------------------------------------------------------------------------------------------


def test_every_fix_has_its_verdict(contest):
    found = {s.fix.name: s.alignment for s in read_table(contest, n_boot=100).fixes}
    assert {name: (a.verdict, a.of) for name, a in found.items()} == {
        "aligned": ("unchanged", None),
        "temperature": ("unchanged", None),
        "cft": ("kept", "cft"),
        "cft+temperature": ("kept", "cft"),
        "sft": ("not kept", "sft"),
        "brier": ("failed", "brier"),
        "focal": ("not checked", None),
    }
    assert found["temperature"].reason == "the model is not touched"
    assert found["brier"].reason == "none of 50 fits"


def test_the_json_holds_the_numbers_of_the_checks(contest):
    plain = {one["name"]: one["alignment"] for one in read_table(contest, n_boot=100).to_json()["fixes"]}
    margin = plain["sft"]["checks"]["margin"]
    assert (margin["value"], margin["n"], margin["verdict"]) == (pytest.approx(-0.4), 300, "not kept")
    assert plain["sft"]["checks"]["kl_aligned"]["low"] == pytest.approx(0.27)
    ranking = plain["cft"]["checks"]["ranking"]
    assert ranking["value"] == 0
    assert ranking["low"] < 0 < ranking["high"]
    assert ranking["aligned"] == ranking["tuned"]
    assert plain["cft+temperature"]["checks"] == plain["cft"]["checks"]
    assert plain["focal"] == {
        "verdict": "not checked", "reason": "", "of": None, "seed": None, "level": None, "checks": {},
    }  # fmt: skip


def test_page_markdown_and_verdict_say_the_same(contest):
    table = read_table(contest, n_boot=300)
    assert headline(table).headline.startswith("cft is best calibrated")
    assert headline(table).sentences[1].endswith("Alignment was kept.")
    page = write_table(table, contest)
    markdown, html = page.with_suffix(".md").read_text(), page.read_text()
    column = {
        row.split(" | ")[0].removeprefix("| "): row.split(" | ")[3]
        for row in re.findall(r"^\| \S+ \| 0\.\d.*", markdown, re.M)
    }
    assert column == {s.fix.name: s.alignment.verdict for s in table.fixes}
    told = markdown.partition("## Alignment kept")[2].partition("## Cost")[0]
    rows = {row.split(" | ")[0]: row for row in told.splitlines()}
    (block,) = re.findall(r"(?:^\|.*\n)+", told, re.M)
    assert {line.count("|") for line in block.splitlines()} == {7}
    assert "| not kept | " in rows["| sft"]
    assert "| −0.4000 [−0.4000 to −0.4000] | 0.3000 [0.2700 to 0.3300] |" in rows["| sft"]
    assert "Implicit reward margin of tuned against aligned (−0.4000)" in rows["| sft"]
    assert "| kept | +0.0 pts [" in rows["| cft"]
    assert "all 3 numbers within their limits" in rows["| cft+temperature (as cft: its map does not touch the answers)"]
    assert "none of 50 fits" in rows["| brier"]
    assert "Unchanged, as the model is not touched: temperature." in markdown
    section = html.partition('<h2 id="alignment">')[2].partition("</section>")[0]
    for text in (
        "−0.4000",
        "0.2700 to 0.3300",
        "none of 50 fits",
        "50 preference pairs",
        "40 prompts",
        "95% intervals",
    ):
        assert text in section
    assert '<span class="tone-word bad">not kept</span>' in html.partition('<h2 id="alignment">')[0]
    assert any(line.startswith("brier: complete: brier/default/seed-0, alignment check:") for line in unfinished(table))


def test_a_winner_that_lost_its_alignment_is_no_plain_good_news(lay):
    root = lay("aligned", "cft")
    before = headline(read_table(root, n_boot=300))
    asked = Asked.of(PAIRS, None, None, 0)
    asked.write(root)
    write_json(cell_of(root, "cft").folder / asked.folder / "alignment.json", checked("sft"))
    after = headline(read_table(root, n_boot=300))
    assert (before.tone, after.tone) == ("good", "mixed")
    assert "Alignment was not kept: " in after.sentences[1]
    assert "lignment" not in before.sentences[1]


def test_a_folder_without_checks_is_read_and_says_so(lay):
    root = lay("aligned", "temperature", "cft")
    table = read_table(root, n_boot=100)
    assert table.asked is None
    assert table.to_json()["alignment"] is None
    assert [s.alignment.verdict for s in table.fixes] == ["unchanged", "unchanged", "not checked"]
    text = write_table(table, root).with_suffix(".md").read_text()
    section = text.partition("## Alignment kept")[2].partition("## Cost")[0]
    assert "Not checked: neither preference pairs nor prompts were given" in section
    assert "|" not in section


# ---- asking ---------------------------------------------------------------------------------------------------------


def test_another_question_has_another_folder_and_the_last_one_is_shown(contest):
    first, more = Asked.of(PAIRS, PROMPTS, None, 0), Asked.of(PAIRS, None, None, 0)
    renamed = Asked.of(replace(PAIRS, name="other"), PROMPTS, None, 0)
    longer = Asked.of(PAIRS, PROMPTS, AlignSettings(max_new_tokens=9), 0)
    assert len({first.folder, more.folder, longer.folder}) == 3
    assert renamed.folder == first.folder
    more.write(contest)
    assert read_table(contest, n_boot=100).alignment("cft").verdict == "not checked"
    first.write(contest)
    assert read_table(contest, n_boot=100).alignment("cft").verdict == "kept"


def test_instructions_are_asked_where_there_are_prompts_and_cost_is_counted():
    assert not Asked.of(PAIRS, None, None, 0).settings.instructions
    assert Asked.of(None, PROMPTS, None, 7).settings == AlignSettings(instructions=True, seed=7)
    pairs, both = Asked.of(PAIRS, None, None, 0), Asked.of(PAIRS, PROMPTS, None, 0)
    assert (pairs.passes(first=True), pairs.passes(first=False)) == (200, 100)  # two responses a pair, under two models
    assert both.passes(first=False) == pytest.approx(
        100 + 120 * 256 * 0.1 + 80
    )  # 40 prompts, 80 instructions, 2 · 40 for KL


def test_nothing_to_check_on_is_refused():
    assert Asked.of(None, None, None, 0) is None
    with pytest.raises(ConfigError, match="no preference pairs and no prompts"):
        Asked.of(None, None, AlignSettings(), 0)
    with pytest.raises(ConfigError, match="no prompts"):
        Asked.of(PAIRS, Collected("none", ()), None, 0)


def test_every_fix_is_checked_or_has_a_reason_or_one_that_it_builds_on(tmp_path):
    reasons = {fix.name: reason_against(fix) for fix in FIXES}
    assert {name for name, reason in reasons.items() if reason is None} == {
        "interpolation", *(fix.name for fix in FIXES if fix.family == "tuning"),
    }  # fmt: skip
    assert "align-check takes adapters of the aligned one" in reasons["scaled-alignment"]
    alone = Place(tmp_path, by_name("rcft+temperature"))
    assert alignment_of(alone, [alone], None).verdict == "not checked"
