"""The table, its words, pictures and page, from scores of a known world that are laid into a ladder's folder by hand."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import norm

from calibrant.errors import ConfigError, ModelError
from calibrant.files import claim_folder
from calibrant.ladder import read_table, write_table
from calibrant.ladder.cells import Place, places
from calibrant.ladder.families import concatenated
from calibrant.ladder.fixes import by_name
from calibrant.ladder.words import COLUMNS, cell, headline, losses, too_few_draws, unfinished
from calibrant.metrics import holm, tukey
from calibrant.reporting.contest import Contender, accuracy_error_plot, metric_plot
from calibrant.scores import Scores

N = 700


def world(*, sharp, seed=0, jitter=0.0, run=0, n=N, k=4):
    """Answers drawn from softmax(z); the model says softmax(sharp z + jitter): calibrated at sharp = 1, jitter = 0."""
    rng = np.random.default_rng(seed)
    z_NK = rng.normal(0, 1.3, (n, k))
    p_NK = np.exp(z_NK) / np.exp(z_NK).sum(1, keepdims=True)
    answer_N = (rng.random((n, 1)) > p_NK.cumsum(1)).sum(1).clip(0, k - 1)
    noise_NK = np.random.default_rng([seed, run, 1]).normal(0, 1, (n, k))
    return Scores.from_logp(sharp * z_NK + jitter * noise_NK, answer_N, subjects=[f"s{i % 20}" for i in range(n)])


@pytest.fixture
def lay(tmp_path):
    """A function that lays scores into a ladder's folder: fix -> set -> one scores a seed."""

    def lay(fixes, sets=("test",)):
        questions = {name: {"name": name, "n": N, "digest": "d"} for name in ("train", "calibration", *sets)}
        prompt = {"reading": "letters", "format": "raw", "variant": "sum"}
        identity = {"model": "hub/tiny-model", "budget": "standard", "prompt": prompt, "questions": questions}
        claim_folder(tmp_path, identity, "ladder")
        for name, of_sets in fixes.items():
            seeds = tuple(range(max(map(len, of_sets.values()))))
            place = Place(tmp_path, by_name(name), seeds)
            place.claim(None)
            setting = place.fix.candidates[0]
            for seed in seeds:
                cell = place.cell(setting, seed)
                cell.claim({})
                cell.finish({"nll": 1.0, "seconds": 10.0 + seed, "parameters": 100, "steps": 30})
                for which, runs in of_sets.items():
                    if seed < len(runs):
                        runs[seed].save(cell.path(which))
            tried = [{"setting": setting.name, "values": {}, "nll": 1.0, "error": None}]
            place.choose({"setting": setting.name, "criterion": "x", "nll": 1.0, "candidates": tried})
        return tmp_path

    return lay


def contest(lay):
    """Temperature is calibrated; CFT, in three seeds, half-way; SFT makes it worse; CFT then temperature blurs the answer."""
    seeds = range(3)
    return lay(
        {
            "aligned": {"test": [world(sharp=2.5)]},
            "temperature": {"test": [world(sharp=1.0)]},
            "cft": {"test": [world(sharp=1.7, jitter=0.05, run=s) for s in seeds]},
            "sft": {"test": [world(sharp=4.0, jitter=0.05, run=s) for s in seeds]},
        }
    )


def test_the_winner_is_named_and_the_papers_method_is_said_to_lose_where_it_does(lay):
    table = read_table(contest(lay), n_boot=300)
    main = table.sets[0]
    assert main.best["conf_ece"] == main.best["nll"] == "temperature"
    words = headline(table)
    assert words.headline == "temperature is best calibrated"
    assert words.tone == "good"
    assert "Every other fix that was measured (2) is worse" in words.sentences[1]
    (said,) = losses(table)
    assert said.startswith("cft: Worse than temperature on test: conf-ECE ")
    assert "the aligned model" not in said
    rows = main.entries
    assert [rows[n].against_aligned["conf_ece"].verdict for n in ("temperature", "cft", "sft")] == [
        "better",
        "better",
        "worse",
    ]
    assert [rows[n].against_best["conf_ece"].verdict for n in ("temperature", "cft", "sft")] == [
        "better",
        "worse",
        "worse",
    ]
    assert [rows[n].against_best["conf_ece"].other for n in ("temperature", "cft", "sft")] == [
        "cft",
        "temperature",
        "temperature",
    ]
    assert rows["temperature"].against_aligned["accuracy"].verdict == "undecided"  # no map of the confidence moves it
    assert rows["temperature"].against_aligned["accuracy"].difference.value == 0


def test_cuts_are_worked_by_hand_and_end_where_the_error_is_zero(lay):
    entries = read_table(contest(lay), n_boot=300).sets[0].entries
    before = entries["aligned"].estimates["conf_ece"]
    assert entries["aligned"].cut is None
    for name in ("temperature", "cft", "sft"):
        after, cut = entries[name].estimates["conf_ece"], entries[name].cut
        excess = before.value - before.floor_mean
        assert cut.value == pytest.approx(100 * (1 - (after.value - after.floor_mean) / excess))
        assert cut.low <= cut.value <= cut.high <= 100 * (1 + after.floor_mean / excess) + 1e-9
    assert entries["temperature"].cut.value > 90
    assert entries["sft"].cut.value < 0


def test_p_values_are_corrected_metric_by_metric(lay):
    entries = read_table(contest(lay), n_boot=300).sets[0].entries
    rivals = ("temperature", "sft", "cft")
    for metric in ("conf_ece", "nll", "auroc"):
        for found, correct in (("against_aligned", holm), ("against_best", tukey)):
            contrasts = [getattr(entries[name], found)[metric] for name in rivals]
            z, least = [c.z for c in contrasts], 1 / 301
            wanted = (
                holm([max(2 * norm.sf(x), least) for x in z]) if correct is holm else np.maximum(tukey(z, 3), least)
            )
            assert [c.p_corrected for c in contrasts] == pytest.approx(wanted)


def test_too_few_draws_for_any_verdict_are_said(lay):
    out = contest(lay)
    assert too_few_draws(read_table(out, n_boot=50))
    assert not too_few_draws(read_table(out, n_boot=100))


def test_a_contest_that_nobody_wins_and_one_that_harms(lay):
    out = lay({"aligned": {"test": [world(sharp=1.0)]}, "isotonic": {"test": [world(sharp=1.0, jitter=0.1)]}})
    words = headline(read_table(out, n_boot=200))
    assert words.headline == "No fix is detectably better calibrated than the aligned model"
    assert words.tone == "neutral"
    lower = lay({"aligned": {"test": [world(sharp=1.0, jitter=0.1)]}, "isotonic": {"test": [world(sharp=1.0)]}})
    assert headline(read_table(lower, n_boot=200)).headline.startswith(
        "isotonic has the lowest calibration error, but not detectably"
    )
    assert "the only fix" in words.sentences[1]


def test_a_fix_that_harms_is_said_to(lay):
    out = lay({"aligned": {"test": [world(sharp=1.0)]}, "isotonic": {"test": [world(sharp=3.0)]}})
    assert headline(read_table(out, n_boot=200)).headline == "No fix helps; isotonic harms least"


def test_half_a_ladder_is_read_and_says_so(lay):
    half = [world(sharp=1.7, jitter=0.05, run=s) for s in range(3)]
    out = lay({"aligned": {"test": [world(sharp=2.5)]}, "cft": {"test": half[:2], "far": half}}, sets=("test", "far"))
    place = Place(out, by_name("daca"))
    place.claim("needs the pre-alignment model (--reference)")
    table = read_table(out, n_boot=100)
    states = {one.fix.name: (one.state, one.reason) for one in table.fixes}
    assert states["cft"] == ("2 of 3 seeds", "")
    assert states["aligned"][0] == "0 of 1 seeds"  # its far scores lack
    assert states["daca"] == ("not run", "needs the pre-alignment model (--reference)")
    assert [one.seconds for one in table.fixes if one.fix.name == "cft"] == [11.0]
    assert [list(one.entries) for one in table.sets] == [["aligned", "cft"], ["cft"]]
    assert table.sets[1].entries["cft"].against_aligned == {}
    page = write_table(table, out).read_text()
    assert "daca: not run: needs the pre-alignment model" in page


def test_clusters_are_passed_on(lay):
    out = contest(lay)
    plain, clustered = (read_table(out, n_boot=200, cluster=c).sets[0] for c in (None, "subject"))
    assert (plain.n_clusters, clustered.n_clusters) == (None, 20)
    ends = [s.entries["aligned"].estimates["accuracy"] for s in (plain, clustered)]
    assert ends[0].value == ends[1].value
    assert ends[0].low != ends[1].low
    with pytest.raises(ConfigError, match="clusters by column"):
        read_table(out, cluster="nothing")


def test_a_setting_that_failed_in_a_sweep_is_no_failure_of_the_fix(lay):
    out = contest(lay)
    place = next(one for one in places(out) if one.fix.name == "cft")
    other = next(one for one in place.fix.candidates if one != place.chosen)
    for setting, found in ((other, []), (place.chosen, ["cft: complete: "])):
        cell = place.cell(setting, 0)
        if cell.result is None:
            cell.claim({})
        cell.fail(ModelError(asked="a", found="not finite", todo="b"), "score")
        said = [line for line in unfinished(read_table(out, n_boot=50)) if line.startswith("cft:")]
        assert [line[: len("cft: complete: ")] for line in said] == found


def test_every_call_that_a_table_came_from_is_named(lay):
    runs = [replace(world(sharp=2.0, run=s), provenance={"command": f"call {max(s, 1)}"}) for s in range(3)]
    table = read_table(lay({"aligned": {"test": runs[:1]}, "cft": {"test": runs}}), n_boot=50)
    assert table.facts["command"] == "call 1; call 2"


def test_chance_is_said_to_be_that_of_clusters_where_they_are_resampled(lay):
    out = contest(lay)
    for cluster, said in ((None, "labels are drawn from the model"), ("subject", "over all clusters")):
        assert said in write_table(read_table(out, n_boot=100, cluster=cluster), out).read_text()


def test_sets_whose_names_differ_in_signs_only_have_pictures_of_their_own(lay):
    names = ("test", "arc-easy", "arc_easy", "ARC easy")
    out = lay({"aligned": {name: [world(sharp=2.0)] for name in names}}, sets=names)
    page = write_table(read_table(out, n_boot=100), out)
    pictures = sorted(path.stem for path in page.parent.glob("accuracy-error-*.svg"))
    assert pictures == [f"accuracy-error-set-{n}" for n in ("arc-easy", "arc-easy-3", "arc-easy-4", "test")]


def test_no_ladder_no_table(tmp_path):
    with pytest.raises(ConfigError, match="no ladder there"):
        read_table(tmp_path)
    (tmp_path / "run.json").write_text('{"cut')
    with pytest.raises(ConfigError, match="JSON from"):
        read_table(tmp_path)


def test_a_fix_that_is_proven_better_is_named_beside_a_lower_value_that_is_not(lay):
    """Three seeds of CFT scatter from cured to flat, so that their lower mean proves nothing; the temperature's does."""
    out = lay(
        {
            "aligned": {"test": [world(sharp=1.6)]},
            "temperature": {"test": [world(sharp=1.2)]},
            "cft": {"test": [world(sharp=sharp) for sharp in (1.0, 1.0, 1.35)]},
        }
    )
    table = read_table(out, n_boot=300)
    entries = table.sets[0].entries
    means = {name: entry.estimates["conf_ece"].value for name, entry in entries.items()}
    verdicts = {name: entries[name].against_aligned["conf_ece"].verdict for name in ("temperature", "cft")}
    said = headline(table)
    if means["cft"] < means["temperature"] and verdicts == {"temperature": "better", "cft": "undecided"}:
        assert said.headline.endswith("but not detectably below the aligned model's; temperature is")
        assert said.tone == "mixed"
    else:
        pytest.fail(f"the world does not show what it should: {means}, {verdicts}")


def test_an_infinite_loss_is_no_undecided_one_and_one_fix_has_its_sign(lay):
    sure = Scores.from_probs(np.eye(4)[np.zeros(N, int)], [0] * 400 + [1] * (N - 400))
    known = Scores.from_probs([[0.6, 0.2, 0.1, 0.1]] * N, [0] * 400 + [1] * (N - 400))
    table = read_table(lay({"aligned": {"test": [sure]}, "cft": {"test": [known]}}), n_boot=300)
    entry = table.sets[0].entries["cft"]
    columns = {column.key: column for column in COLUMNS}
    assert cell(entry, columns["conf_ece"])["signs"] == "+"  # there is no other fix to be told from
    loss = cell(entry, columns["nll"])
    assert (loss["signs"], loss["aligned"]) == ("?", "no comparison with aligned: an answer has probability 0")
    always = Scores.from_probs([[0.9, 0.1, 0, 0]] * 400 + [[0.1, 0.9, 0, 0]] * (N - 400), known.answer_N)
    right = read_table(lay({"aligned": {"test": [always]}, "cft": {"test": [known]}}), n_boot=100)
    assert "all right or all wrong" in cell(right.sets[0].entries["cft"], columns["auroc"])["aligned"]
    entries = read_table(contest(lay), n_boot=100).sets[0].entries
    for fix, signs in (("aligned", 0), ("temperature", 2), ("cft", 2)):
        shown = cell(entries[fix], columns["conf_ece"])
        assert (len(shown["signs"]), bool(shown["best"])) == (signs, signs > 0)


def test_a_finished_fix_stays_where_a_later_call_could_not_run_it(lay):
    """More seeds, and this time without the reference that one of the fixes needs."""
    out = contest(lay)
    place = Place(out, by_name("temperature"), (0,))
    place.claim("needs the pre-alignment model (--reference)")
    table = read_table(out, n_boot=100)
    assert "temperature" in table.sets[0].entries
    assert not unfinished(table)
    Place(out, by_name("daca"), (0,)).claim("needs the pre-alignment model (--reference)")
    table = read_table(out, n_boot=100)
    assert unfinished(table) == ["daca: not run: needs the pre-alignment model (--reference)"]
    assert f"\n* {unfinished(table)[0]}\n" in (write_table(table, out).parent / "table.md").read_text()


def test_the_seconds_of_a_fix_on_top_of_another_hold_those_of_the_other(lay):
    runs = {"test": [world(sharp=1.5, run=s) for s in range(3)]}
    table = read_table(lay({"aligned": {"test": [world(sharp=2.5)]}, "cft": runs, "cft+temperature": runs}), n_boot=50)
    cost = {one.fix.name: one for one in table.fixes}
    assert (cost["cft"].seconds, cost["cft"].seconds_all) == (11, 33)
    assert (cost["cft+temperature"].seconds, cost["cft+temperature"].seconds_all) == (22, 66)
    assert cost["cft+temperature"].seconds_own == 33


def test_precisions_that_were_mixed_are_all_named(lay):
    facts = {"dtype": "float32", "device": "cpu", "versions": {"torch": "2.13"}}
    other = {"dtype": "bfloat16", "device": "cuda", "versions": {"torch": "2.11"}}
    one, two = world(sharp=2.5), world(sharp=1.5)
    out = lay(
        {"aligned": {"test": [replace(one, provenance=facts)]}, "cft": {"test": [replace(two, provenance=other)]}}
    )
    known = read_table(out, n_boot=50).facts
    assert (known["dtype"], known["device"]) == ("float32 and bfloat16", "cpu and cuda")
    assert known["versions"] == {"torch": "2.13 and 2.11"}


def test_groups_that_a_fix_was_made_by_are_told(lay, make_questions):
    out = contest(lay)
    (out / "questions").mkdir()
    for name, size in (("train", 12), ("calibration", 4), ("test", 30)):
        make_questions(name, size).save(out / "questions" / f"{name}.jsonl")
    (said,) = read_table(out, n_boot=50, cluster="subject").shared
    assert said.startswith("Of the ")
    assert re.search(r"\d+ in the training questions and 4 in the calibration questions too", said)
    assert read_table(out, n_boot=50).shared == ()


# ---- page, markdown, json -------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Tags that are opened and not closed, and addresses."""

    VOID = ("meta", "link", "br", "path", "use", "rect", "circle")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_says_the_numbers_of_the_json(lay):
    out = contest(lay)
    table = read_table(out, n_boot=300)
    page = write_table(table, out)
    text, found = page.read_text(), json.loads((out / "table" / "table.json").read_text())
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert all(a.startswith(("data:", "#")) or a in ("table.json", "table.md") for a in tags.addresses)
    assert "<script" not in text
    assert found["verdict"]["headline"] in text
    assert "Where the paper's methods lose" in text
    markdown = (out / "table" / "table.md").read_text()
    for name, row in found["sets"][0]["rows"].items():
        for metric in ("conf_ece", "nll", "auroc"):
            assert f"{row[metric]['value']:.3f}" in text
            assert f"{row[metric]['value']:.3f}" in markdown
        assert name in markdown
    assert {f"{name}.{kind}" for name in found["figures"] for kind in ("svg", "png")} <= {
        p.name for p in page.parent.iterdir()
    }
    assert len(found["figures"]) == 8


def test_markdown_rows_have_as_many_cells_as_their_head(lay):
    out = contest(lay)
    write_table(read_table(out, n_boot=100), out)
    blocks = re.findall(r"(?:^\|.*\n)+", (out / "table" / "table.md").read_text(), flags=re.M)
    assert len(blocks) == 3
    for block in blocks:
        assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1
    first = blocks[0].splitlines()
    assert first[2].startswith("| temperature |")
    assert "++" in first[2]
    assert "(3 seeds)" in first[3]


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_pictures_show_every_fix_once_and_refuse_nothing(lay):
    one = read_table(contest(lay), n_boot=100).sets[0]
    some = [Contender(e.name, by_name(e.name).family, e.estimates, e.runs) for e in one.entries.values()]
    ax = accuracy_error_plot(some)
    assert sorted(text.get_text() for text in ax.texts) == sorted(one.entries)
    figure = metric_plot({"test": some, "far": some[:2]}, "auroc", label="AUROC", lower_is_better=False)
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    values = [one.entries[name].estimates["auroc"].value for name in rows]
    assert values == sorted(values, reverse=True)
    with pytest.raises(ConfigError):
        accuracy_error_plot([])
    with pytest.raises(ConfigError):
        metric_plot({}, "nll", label="NLL", lower_is_better=True)


def test_scores_of_two_splits_are_one(lay):
    a, b = world(sharp=1.0, n=20, k=3), world(sharp=1.0, n=30, seed=1, k=4)
    both = concatenated([a, b])
    assert (both.n, both.k) == (50, 4)
    assert both.k_N.tolist() == [3] * 20 + [4] * 30
    assert np.array_equal(both.logp_NK[:20, :3], a.logp_NK)
    assert np.array_equal(both.logp_NK[20:], b.logp_NK)
    assert both.subjects == a.subjects + b.subjects
