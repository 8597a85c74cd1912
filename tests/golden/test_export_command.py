"""The real command, from a real restore run to a served folder: what it writes, what it says, what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from transformers.utils import logging

from calibrant.cli import main
from calibrant.intake import load_questions
from calibrant.questions import QuestionSet
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.scoring import score
from command import ENVIRONMENT
from command import run as called


def run(*args, cwd):
    out, err = called(*args, cwd=cwd)
    assert err == ""
    return out


@pytest.fixture
def no_bars():
    """What the command asks for before it loads the libraries; here they are loaded."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def call(room, monkeypatch, capsys, no_bars):
    """The command's entry point in this process, where the libraries are loaded already."""

    def entered(*args, code=0):
        monkeypatch.chdir(room)
        monkeypatch.setattr(sys, "argv", ["calibrant", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert (stopped.value.code or 0) == code, f"{stopped.value.code}\n{out}\n{err}"
        return out, err

    return entered


def save_learnable(questions, path):
    """Seven in ten have the first option as their answer: something that a tiny random model can learn."""
    first = [q if i % 10 > 6 else replace(q, answer=0) for i, q in enumerate(questions)]
    QuestionSet("all", tuple(first)).save(path)


@pytest.fixture(scope="module")
def room(tmp_path_factory, model_folder, make_questions):
    """A folder with a tiny model, questions, and a finished run of the main job on them."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "model").symlink_to(model_folder())
    save_learnable(make_questions("all", 420, ks=(3,)), folder / "all.jsonl")
    (folder / "settings.yaml").write_text(
        "patience: 0\nbatch_size: 16\nlearning_rate: 0.01\nlora: {rank: 4, alpha: 8}\n"
    )
    settings = ("--config", "settings.yaml", "--epochs", "4", "--objective", "cft", "--device", "cpu", "--quiet")
    run("restore", "model", "--questions", "all.jsonl", *settings, "--no-temperature", "--out", "run", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def served(room):
    asked = ("--temperature-from", "calibration", "--target-accuracy", "0.5", "--level", "0.9")
    out = run("export", "run", "--out", "served", *asked, "--quiet", cwd=room)
    return room / "served", out


def test_what_is_written_is_what_the_run_measured(room, served):
    folder, out = served
    facts = json.loads((folder / "serving.json").read_text())
    assert out.splitlines()[0] == "served"
    assert "drift: Faithful on 84 questions" in out
    assert facts["adapter"]["weights"]
    assert facts["adapter"]["merged"]
    test = load_questions(room / "run" / "questions" / "test.jsonl")
    after = Scores.load(room / "run" / "scores" / "after" / "test.safetensors")
    before = Scores.load(room / "run" / "scores" / "before" / "test.safetensors")
    assert np.abs(after.p_NK - before.p_NK).max() > 0.1  # the tuning did something
    assert 0.2 < facts["temperature"]["value"] < 5
    np.testing.assert_allclose(score(str(folder), test, device="cpu").logp_NK, after.logp_NK, atol=1e-4)
    scaler = Temperature.from_json(json.loads((folder / "scaler.json").read_text()))
    assert facts["temperature"] == {
        "value": scaler.temperature_, "folded": False, "where": None, "apply": scaler.temperature_,
        "file": "scaler.json", "cautions": [],
    }  # fmt: skip
    shown = facts["expected"]
    assert (shown["n"], shown["split"]) == (84, "test")
    assert shown["accuracy"]["value"] == pytest.approx(after.correct_N.mean())
    assert shown["mean_confidence"]["value"] == pytest.approx(scaler.apply(after).confidence_N.mean())


def test_the_temperature_that_the_run_ended_with_is_shipped(room):
    shutil.copytree(room / "run", room / "ended")
    scaler = Temperature().fit(Scores.load(room / "run" / "scores" / "tuned" / "calibration.safetensors"))
    (room / "ended" / "temperature.json").write_text(json.dumps(scaler.to_json()))
    run("export", "ended", "--out", "shipped", "--quiet", cwd=room)
    shipped, kept = json.loads((room / "shipped" / "scaler.json").read_text()), scaler.to_json()
    assert kept["fitted_on"].pop("model") == "model"  # folders of this machine are not shipped
    assert kept["fitted_on"].pop("adapter")
    assert shipped == kept
    facts = json.loads((room / "shipped" / "serving.json").read_text())
    assert facts["temperature"]["apply"] == scaler.temperature_
    tuned = Scores.load(room / "run" / "scores" / "tuned" / "test.safetensors")
    assert facts["expected"]["mean_confidence"]["value"] == pytest.approx(scaler.apply(tuned).confidence_N.mean())


def test_threshold_and_temperature_stand_on_different_calibration_questions(room, served):
    folder, out = served
    threshold, scaler = (json.loads((folder / f"{name}.json").read_text()) for name in ("threshold", "scaler"))
    fit, held = ({key for key in one["fit_keys"] if len(key) == 16} for one in (scaler, threshold))
    hashes = {q.content_hash for q in load_questions(room / "run" / "questions" / "calibration.jsonl")}
    assert fit | held == hashes
    assert not fit & held
    assert threshold["target"] == 0.5
    assert threshold["on_test"]["n"] == 84
    assert "not strict" in threshold["note"]
    assert f"at least {threshold['threshold']!r}" in out


def test_the_code_of_the_card_runs(served, monkeypatch):
    folder, _ = served
    card = (folder / "README.md").read_text()
    read, decided = re.findall(r"```python\n(.*?)```", card, re.DOTALL)

    def ran(code, last):
        shown = "import json\n" + code.replace(last, f"found = {last}") + "\nprint(json.dumps(found))"
        done = subprocess.run(
            [sys.executable, "-c", shown], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    found = ran(read, "reader.answer(")
    given = ran(decided, "decide({")
    assert [given[choice] for choice in ("Lyon", "Paris")] == pytest.approx(
        found["probabilities"], abs=0.03
    )  # one token a letter
    assert sum(found["probabilities"]) == pytest.approx(1)
    limit = json.loads((folder / "threshold.json").read_text())["threshold"]
    assert found["abstain"] == (found["confidence"] < limit)
    for words in ("base_model" not in card, "library_name: transformers" in card, "conf-ECE" in card):
        assert words


def test_again_it_is_found_and_with_other_settings_refused(call, served):
    folder, _ = served
    when = (folder / "model.safetensors").stat().st_mtime_ns
    asked = ("--temperature-from", "calibration", "--target-accuracy", "0.5", "--level", "0.9")
    call("export", "run", "--out", "served", *asked, "--quiet")
    assert (folder / "model.safetensors").stat().st_mtime_ns == when
    _, err = call("export", "run", "--out", "served", "--quiet", code=2)
    assert "it holds another one, with a different" in err


def test_drift_between_exports_and_scores(call, served):
    call("export", "run", "--out", "alone", "--no-merge", "--quiet")
    half = ("--dtype", "bfloat16", "--tolerance", "0.3")
    call("export", "run", "--out", "half", *half, "--quiet")
    asked = ("--questions", "run/questions/test.jsonl", "--device", "cpu", "--quiet")
    out, _ = call("drift", "alone", "served", *asked)
    assert "faithful, on 84 questions" in out
    out, _ = call("drift", "served", "half", *asked, "--tolerance", "0.3", "--json")
    found = json.loads(out)
    assert 0 < found["movement"] < 0.3
    out, err = call("drift", "model", "served", *asked, code=3)  # the untuned model is not a copy of it
    assert "drifted, on 84 questions" in out
    assert err.startswith("asked: served within 0.02 of model")
    out, _ = call("drift", "served/check/before.safetensors", "served/check/after.safetensors")
    assert "faithful, on 84 questions" in out


def test_a_model_with_an_adapter_and_scores_of_it(call, room):
    adapter = ("--adapter", "run/tuning/adapter", "--quiet", "--device", "cpu")
    questions = "run/questions/calibration.jsonl"
    call("score", "model", *adapter, "--questions", questions, "--out", "cal.scores")
    asked = ("--temperature-from", "cal.scores", "--test-scores", "run/scores/after/test.safetensors")
    out, _ = call("export", "--model", "model", *adapter, *asked, "--out", "own", "--check", questions)
    scaler = Temperature().fit(Scores.load(room / "cal.scores"))
    assert f"T = {scaler.temperature_:.4g}" in out
    call("rescale", "run/scores/after/test.safetensors", "--fit", "cal.scores", "--out", "x.scores")
    given = ("--scaler", "x.temperature.json")
    call("export", "--model", "model", *adapter, *given, "--out", "given", "--check", questions)
    ours, theirs = (json.loads((room / name / "scaler.json").read_text()) for name in ("own", "given"))
    assert ours == theirs


BAD = {
    "no source": (("export", "--out", "x"), "neither a run nor --model"),
    "two sources": (("export", "run", "--model", "model", "--out", "x"), "both a run"),
    "a run that knows its prompt": (("export", "run", "--format", "chat", "--out", "x"), "the run knows that itself"),
    "no threshold": (
        ("export", "run", "--calibration", "cal.scores", "--level", "0.8", "--out", "x"),
        "no use for that",
    ),
    "no check": (("export", "--model", "model", "--tolerance", "0.5", "--out", "x"), "no use for that"),
    "no adapter": (("export", "--model", "model", "--adapter-revision", "main", "--out", "x"), "no use for that"),
    "a run that knows how to load": (("export", "run", "--allow-pickle", "--out", "x"), "the run knows that itself"),
    "no run": (("export", "model", "--out", "x"), "no restore run"),
    "fold without a temperature": (("export", "run", "--fold", "--out", "x"), "no temperature"),
    "a scaler that is none": (("export", "run", "--scaler", "all.jsonl", "--out", "x"), ""),
    "a promise too high": (("export", "run", "--target-accuracy", "0.99", "--out", "x", "--quiet"), "at least 598"),
    "drift of models without questions": (("drift", "model", "run/tuning/adapter"), "no questions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_three_lines_and_exit_code_2(name, call, room):
    args, found = BAD[name]
    _, err = call(*args, code=2)
    lines = [line for line in err.splitlines() if line.strip()]
    assert [line.partition(":")[0] for line in lines] == ["asked", "found", "to do"], err
    assert found in lines[1]
    assert not (room / "x").exists()
