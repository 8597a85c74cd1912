"""What ``measure`` and ``compare`` say beyond their headline, through the real command, on scores whose truth is known."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from calibrant import Scores
from command import COMMAND
from command import run as called


def run(*args, cwd, code=0):
    """What it says on stdout, or why it refuses."""
    out, err = called(*args, cwd=cwd, code=code)
    return out if code == 0 else err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Law is right 90 % of the time, art 50 %, both say 70 %: calibrated on average, in neither part."""
    place = tmp_path_factory.mktemp("scores")
    answer = ([0] * 9 + [1]) * 20 + ([0] * 5 + [1] * 5) * 20
    subjects = ["law"] * 200 + ["art"] * 200
    Scores.from_probs([[0.7, 0.3]] * 400, answer, subjects=subjects).save(place / "flat")
    Scores.from_probs([[0.9, 0.1]] * 200 + [[0.5, 0.5]] * 200, answer, subjects=subjects).save(place / "sharp")
    Scores.from_probs([[0.99, 0.01]] * 400, answer, subjects=subjects).save(place / "sure")
    return place


def test_a_miscalibrated_subject_behind_a_calibrated_average_is_found(folder):
    found = json.loads(run("measure", "flat", "--by", "subject", "--json", cwd=folder))
    assert found["conf_ece"]["verdict"] == "not distinguishable from calibrated"
    assert {s["name"]: round(s["signed_gap"]["value"], 2) for s in found["slices"]} == {"art": 0.2, "law": -0.2}
    assert all(s["p_holm"] < 0.01 for s in found["slices"])


def test_a_threshold_keeps_its_promise_and_says_when_it_cannot(folder):
    found = json.loads(run("measure", "sharp", "--target-accuracy", "0.8", "--json", cwd=folder))["decision"]
    assert (found["threshold"], found["coverage"], found["accuracy"]) == (pytest.approx(0.9), 0.5, 0.9)
    assert found["accuracy_low"] >= 0.8
    assert "cannot be guaranteed" in run("measure", "flat", "--target-accuracy", "0.95", cwd=folder)
    assert "to do:" in run("measure", "flat", "--target-accuracy", "1.5", cwd=folder, code=2)


def test_the_battery_is_added(folder):
    found = json.loads(run("measure", "sharp", "--battery", "--json", cwd=folder))
    # right: 180 at .9, 100 at .5; wrong: 20 at .9, 100 at .5; pairs in order 180·100, tied 180·20 + 100·100
    assert found["battery"]["auroc"]["value"] == pytest.approx((18_000 + 13_600 / 2) / (280 * 120))
    assert "smooth ece" in run("measure", "sharp", "--battery", cwd=folder)


def test_what_knows_of_no_clusters_is_said(folder):
    for option in (("--battery",), ("--by", "answer"), ("--target-accuracy", "0.6")):
        assert "Only the first table knows of the clusters" in run(
            "measure", "flat", *option, "--cluster", "subject", cwd=folder
        )
    found = json.loads(run("measure", "flat", "--battery", "--cluster", "subject", "--json", cwd=folder))
    assert any("takes questions as independent" in note for note in found["notes"])
    assert "independent" not in run("measure", "flat", "--cluster", "subject", cwd=folder)
    assert "in 2 clusters" in run("diagnose", "flat", "--cluster", "subject", cwd=folder)
    assert "no use for that" in run("compare", "sure", "sharp", "--metric", "nll", cwd=folder, code=2)


def test_a_refused_copy_is_told_what_decided(folder):
    """Near ties of a fifth of the questions turn over: it hardly moved, and it is right less often."""
    answer = [0] * 300 + [1] * 200
    before = [[0.7, 0.3]] * 200 + [[0.502, 0.498]] * 100 + [[0.7, 0.3]] * 200
    after = [[0.7, 0.3]] * 200 + [[0.498, 0.502]] * 100 + [[0.7, 0.3]] * 200
    for name, p in (("before", before), ("after", after)):
        Scores.from_probs(p, answer).save(folder / name)
    assert "found: accuracy fell by 0.2, beyond chance" in run("drift", "before", "after", cwd=folder, code=3)
    assert "found: it moved by" in run("drift", "flat", "sure", cwd=folder, code=3)
    run("drift", "flat", "nowhere", cwd=folder, code=2)  # an error is not a drift


def test_a_metric_by_the_name_that_is_printed_and_a_file_once(folder):
    names = ("conf_ece", "conf-ECE", "NLL", "signed gap")
    found = [run("compare", "sure", "sharp", "flat", "--metric", name, cwd=folder) for name in names]
    assert found[0] == found[1]
    assert [text.splitlines()[1].split("  ")[0] for text in found[1:]] == ["b: conf-ECE", "b: NLL", "b: signed gap"]
    assert "found: sharp twice" in run("compare", "sure", "sharp", "sharp", cwd=folder, code=2)


def test_several_are_compared_with_a_correction(folder):
    whole = json.loads(run("compare", "sure", "sharp", "flat", "sure", "--json", cwd=folder))
    assert (whole["a"], whole["metric"], whole["n_boot"], whole["level"]) == ("sure", "conf_ece", 1000, 0.95)
    found = whole["b"]
    assert found["sharp"]["matched_by"] == "row number"
    assert found["sharp"]["value"] == pytest.approx(-0.29)  # |.7 − .99| = .29 to 0: .9 and .5 are met exactly
    assert found["sharp"]["p_holm"] < 0.05
    assert found["sure"]["p_holm"] == 1
    text = run("compare", "sure", "sharp", "sure", cwd=folder)
    assert "b is better" in text
    assert "undecided" in text
    for name, one in found.items():  # what is printed is what the JSON says
        assert (one["verdict"] == "undecided") == (one["p_holm"] > 0.05), name


def test_a_page_on_scores_of_two_models_says_so(folder):
    made = []
    for name, model in (("one", "X/one"), ("two", "Y/two")):
        scores = Scores.load(folder / "sharp")
        replace(scores, provenance={**scores.provenance, "model": model}).save(folder / name)
        made += ["--before", name]
    os.symlink(os.fsencode(folder / "two"), os.fsencode(folder / "caf") + b"\xe9")  # a name that is not UTF-8
    run("report", *made, "--before", os.fsdecode(b"caf\xe9"), "--draws", "60", "--out", "page", cwd=folder)
    text = (folder / "page" / "report.md").read_text()
    assert "not all of one model, asked in one way: model X/one on 'one', Y/two on 'two'" in text
    assert "Y/two on 'caf?'" in text


def test_rounded_rows_of_a_table_are_said(folder):
    (folder / "thirds.csv").write_text("p_a,p_b,p_c,answer\n.33,.33,.33,A\n")
    command = [str(COMMAND), "score", "--from-table", "thirds.csv", "--out", "thirds"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "1 of 1 rows sum to 1 up to rounding only" in done.stderr


def test_percentages_that_the_user_gave_are_said_in_full(folder):
    text = run("measure", "sharp", "--level", "0.996", "--target-accuracy", "0.805", cwd=folder)
    assert "99.6% interval" in text
    assert "accuracy is at least 0.805 with 99.6% confidence" in text
    assert "100%" not in text


def test_options_that_nothing_uses_are_refused(folder):
    told = run("drift", "flat", "flat", "--in-4bit", "--limit", "3", cwd=folder, code=2)
    assert "--limit" in told
    assert "--in-4bit" in told
    assert "with two scores files" in told


def test_a_chat_template_for_a_raw_prompt_is_refused(folder):
    (folder / "q.jsonl").write_text('{"question": "?", "choices": ["a", "b"], "answer": 0}\n')
    told = run("score", "m", "--questions", "q.jsonl", "--chat-template", "other", "--out", "o", cwd=folder, code=2)
    assert "--chat-template with --format raw" in told


@pytest.mark.parametrize("name", ["/", "x" * 300])
def test_a_place_that_cannot_be_written_is_told_in_three_lines(folder, name):
    (folder / "t.csv").write_text("p_0,p_1,answer\n.5,.5,0\n")
    told = run("score", "--from-table", "t.csv", "--out", name, cwd=folder, code=2)
    assert told.startswith("asked: write")
    assert "Traceback" not in told


def test_memory_that_is_not_there_is_told_in_three_lines(folder):
    limited = f"ulimit -v 8000000; OMP_NUM_THREADS=1 {COMMAND} measure flat --bins 1000000000"
    done = subprocess.run(["bash", "-c", limited], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "memory is full" in done.stderr


def test_a_terminal_without_greek_letters_is_written_to_all_the_same(folder):
    done = subprocess.run(
        [str(COMMAND), "drift", "flat", "flat"],
        cwd=folder,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u0394 conf-ECE" in done.stdout


def test_tasks_are_chosen_by_a_list_and_what_is_left_out_is_said(folder):
    real = Path(__file__).parents[1] / "unit" / "data" / "lm_eval" / "v0.4.13" / "SmolLM2-135M-Instruct"
    command = [str(COMMAND), "score", "--from-lm-eval", str(real), "--out"]
    done = subprocess.run(
        [*command, "two", "--tasks", "own_easy, own_gaps"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert set(Scores.load(folder / "two").subjects) == {"own_easy", "own_gaps"}
    every = subprocess.run([*command, "all"], cwd=folder, capture_output=True, text=True, check=True)
    skipped = Scores.load(folder / "all").provenance["skipped"]
    assert [line for line in every.stderr.splitlines() if "left out" in line] == [
        f"task {task} left out: {reason}" for task, reason in skipped.items()
    ]
    assert "left out" not in done.stderr


def test_json_is_ascii_whatever_the_subjects_are(folder):
    scores = replace(Scores.load(folder / "flat"), subjects=("😀",) * 200 + ("é",) * 200)
    scores.save(folder / "signs")
    found = run("measure", "signs", "--by", "subject", "--json", cwd=folder)
    assert found.isascii()
    assert {s["name"] for s in json.loads(found)["slices"]} == {"😀", "é"}


def test_a_name_that_no_file_can_have_is_refused_in_three_lines(folder):
    assert "to do:" in run("measure", "x" * 300, cwd=folder, code=2)
