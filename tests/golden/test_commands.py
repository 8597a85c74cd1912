"""The real command, from questions to a report, on a tiny model: every verb, every exit code, every file it leaves."""

import csv
import json
import signal
import time

import pytest

from calibrant.scores import Scores
from command import finish, run, start

VERBS = (
    "restore",
    "score",
    "score-served",
    "measure",
    "compare",
    "diagnose",
    "sensitivity",
    "rescale",
    "tune",
    "ladder",
    "align-check",
    "export",
    "drift",
    "report",
    "demo",
)
METRICS = ("accuracy", "conf_ece", "cw_ece", "nll", "brier", "signed_gap")


@pytest.fixture(scope="module")
def room(tmp_path_factory, model_folder, make_questions):
    """A folder with a model and questions: CSV with mixed K, and two files from out of the domain."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "model").symlink_to(model_folder())
    with (folder / "capitals.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "question", "A", "B", "C", "D", "answer", "subject"])
        for q in make_questions("capitals", 60, ks=(4, 2, 3)):
            choices = [*q.choices, *[""] * (4 - len(q.choices))]
            rows.writerow([q.id, q.text, *choices, "ABCD"[q.answer], q.subject])
    make_questions("far", 20).save(folder / "far.jsonl")
    make_questions("odd", 20, ks=(5, 3)).save(folder / "odd.jsonl")
    (folder / "settings.yaml").write_text("patience: 0\nbatch_size: 8\nlora: {rank: 4, alpha: 8}\n")
    return folder


@pytest.fixture(scope="module")
def scored(room):
    """Two scores files of the same questions, before and after a tuning by the command, and one for fitting."""
    quiet = ("--quiet", "--device", "cpu")
    questions = ("--questions", "far.jsonl")
    run("score", "model", *questions, "--out", "before.safetensors", *quiet, cwd=room)
    tuning = ("--calibration", "odd.jsonl", "--config", "settings.yaml", "--epochs", "3", "--lr", "0.01")
    out, _ = run("tune", "model", "--questions", "capitals.csv", *tuning, "--out", "tuned", *quiet, cwd=room)
    assert "tuned/adapter: cft, 24 steps" in out
    adapted = start(
        "score", "model", *questions, "--adapter", "tuned/adapter", "--out", "after.safetensors", *quiet, cwd=room
    )
    fitting = start("score", "model", "--questions", "odd.jsonl", "--out", "fit.safetensors", *quiet, cwd=room)
    assert finish(adapted)[1] == ""
    finish(fitting)
    return room


# ---- the main job ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_restore_is_interrupted_goes_on_and_returns_the_finished_run(room):
    """SIGINT in the middle of the tuning; the same command finishes; once more, and nothing is done again."""
    arguments = ("restore", "model", "--questions", "capitals.csv", "--ood", "far.jsonl", "--ood", "odd.jsonl")
    settings = ("--objective", "rcft", "--config", "settings.yaml", "--epochs", "30", "--device", "cpu", "--out", "run")
    process = start(*arguments, *settings, cwd=room)
    checkpoints = room / "run" / "tuning" / "checkpoints"
    while not list(checkpoints.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert "the same command goes on" in err
    assert not (room / "run" / "tuning" / "result.json").exists()
    before = {p: p.stat().st_mtime_ns for p in (room / "run" / "scores").rglob("*.safetensors")}
    assert {p.stem for p in before} == {"calibration", "test", "far", "odd"}

    out, _ = run(*arguments, *settings, "--quiet", cwd=room)
    assert out == "run/report/index.html\n"
    assert {p: p.stat().st_mtime_ns for p in before} == before  # what was scored is not scored again
    check_restored(room / "run")

    made = {p: p.stat().st_mtime_ns for p in (room / "run").rglob("*") if p.suffix in {".safetensors"}}
    out, err = run(*arguments, *settings, "--quiet", cwd=room)
    assert (out, err) == ("run/report/index.html\n", "")
    assert {p: p.stat().st_mtime_ns for p in made} == made

    _, err = run(*arguments, *settings[:-1], "run", "--seed", "9", cwd=room, code=2)
    assert three_parts(err)[1].startswith("found: it holds another one, with a different config")


def check_restored(folder):
    sizes = {"test": 12, "far": 20, "odd": 20}
    assert Scores.load(folder / "scores" / "before" / "calibration.safetensors").n == 12
    for when in ("before", "after"):
        kept = {name: Scores.load(folder / "scores" / when / f"{name}.safetensors") for name in sizes}
        assert {name: s.n for name, s in kept.items()} == sizes
        assert kept["odd"].k == 5
        assert (kept["test"].provenance["adapter"] is None) == (when == "before")
        assert kept["test"].provenance["command"].startswith("calibrant restore model")
    hashes = [set(Scores.load(folder / f"scores/before/{name}.safetensors").hashes) for name in ("calibration", "test")]
    assert not hashes[0] & hashes[1]
    result = json.loads((folder / "tuning" / "result.json").read_text())
    assert (result["objective"], result["steps"], result["questions"]) == ("rcft", 150, 36)
    assert len(result["history"]) == 31
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= {
        p.name for p in (folder / "tuning" / "adapter").iterdir()
    }
    report = json.loads((folder / "report" / "report.json").read_text())
    page = (folder / "report" / "index.html").read_text()
    assert report
    for name in ("test", "far", "odd"):
        assert name in page
    assert 'src="http' not in page
    left = [p for p in folder.rglob("*") if p.name.startswith(".") or "partial" in p.name or p.name == "checkpoints"]
    assert sorted(left) == [folder / ".lock", folder / "tuning" / ".lock"]  # empty: what another process waits at


# ---- the other verbs ------------------------------------------------------------------------------------------------


def test_measure_prints_one_json_object_as_promised(scored):
    out, err = run("measure", "before.safetensors", "--json", cwd=scored)
    assert err == ""
    assert out.count("\n") == 1
    found = json.loads(out)
    scores = Scores.load(scored / "before.safetensors")
    assert found["n"] == 20
    for name in METRICS:
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    for name in ("conf_ece", "cw_ece"):
        assert 0 < found[name]["floor_mean"] < found[name]["floor_p95"] < 1
    assert found["accuracy"]["value"] == pytest.approx(scores.correct_N.mean())
    assert found["signed_gap"]["value"] == pytest.approx(scores.confidence_N.mean() - scores.correct_N.mean())
    text, _ = run("measure", "before.safetensors", cwd=scored)
    for label in ("accuracy", "conf-ECE", "cw-ECE", "NLL", "Brier", "signed gap", "20 questions"):
        assert label in text


def test_compare_pairs_the_questions(scored):
    out, _ = run("compare", "before.safetensors", "after.safetensors", "--json", cwd=scored)
    found = json.loads(out)
    before, after = (Scores.load(scored / f"{name}.safetensors") for name in ("before", "after"))
    assert found["n"] == 20
    assert found["accuracy"]["value"] == pytest.approx(after.correct_N.mean() - before.correct_N.mean())
    same = json.loads(run("compare", "before.safetensors", "before.safetensors", "--json", cwd=scored)[0])
    assert same["conf_ece"]["value"] == same["nll"]["value"] == 0


def test_diagnose_says_what_is_wrong_and_what_to_do(scored):
    out, _ = run("diagnose", "before.safetensors", cwd=scored)
    assert "Verdict:" in out
    assert "Action:" in out
    found = json.loads(run("diagnose", "before.safetensors", "--json", cwd=scored)[0])
    assert found["action"] in {"nothing", "temperature", "cft", "rcft", "other-reading", "score-more"}


def test_diagnose_reads_the_path_of_a_run_and_preference_pairs(scored):
    names = ("chosen_logp_aligned", "chosen_logp_reference", "rejected_logp_aligned", "rejected_logp_reference")
    pairs = [dict(zip(names, (-9.0 - i, -8.0, -15.0, -11.0), strict=True)) for i in range(4)]
    (scored / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    more = ("--path", "tuned", "--path", "after.safetensors", "--preferences", "pairs.jsonl")
    found = json.loads(run("diagnose", "after.safetensors", *more, "--json", cwd=scored)[0])
    history = json.loads((scored / "tuned" / "result.json").read_text())["history"]
    assert [p["accuracy"] for p in found["path"]] == [
        *(p["accuracy"] for p in history),
        found["numbers"]["accuracy"]["value"],
    ]
    assert all(p["train_accuracy"] is not None for p in found["path"][:-1])
    assert found["preferences"]["chosen"]["value"] == -2.5
    _, err = run("diagnose", "after.safetensors", "--path", "capitals.csv.gone", cwd=scored, code=2)
    assert "no such file" in three_parts(err)[1]


def test_rescale_fits_on_one_file_and_applies_to_another(scored):
    out, _ = run("rescale", "before.safetensors", "--fit", "fit.safetensors", "--out", "cooled.safetensors", cwd=scored)
    before, after = (Scores.load(scored / f"{name}.safetensors") for name in ("before", "cooled"))
    note = json.loads((scored / "cooled.temperature.json").read_text())
    assert f"temperature {note['temperature']:.4f}" in out
    assert after.provenance["scaler"]["temperature"] == note["temperature"]
    assert (after.prediction_N == before.prediction_N).all()
    _, err = run("rescale", "fit.safetensors", "--fit", "fit.safetensors", "--out", "x.safetensors", cwd=scored, code=2)
    assert "used to fit" in three_parts(err)[1]
    assert not (scored / "x.safetensors").exists()


def test_report_draws_a_page_from_scores(scored):
    out, _ = run(
        "report", "--before", "before.safetensors", "--after", "after.safetensors", "--out", "page", cwd=scored
    )
    assert out == "page/index.html\n"
    names = {p.name for p in (scored / "page").iterdir()}
    assert {"index.html", "report.md", "report.json"} <= names
    assert any(name.endswith(".svg") for name in names)
    assert any(name.endswith(".png") for name in names)
    settings = ("--bins", "7", "--draws", "60", "--level", "0.9", "--seed", "3")
    run("report", "--before", "before.safetensors", *settings, "--out", "page", cwd=scored)
    made = json.loads((scored / "page" / "report.json").read_text())
    assert made["settings"] == {"n_bins": 7, "n_boot": 60, "level": 0.9, "seed": 3, "cluster": None}
    assert made["diagnosis"]["n_bins"] == 7
    assert made["domains"][0]["before"] == json.loads(
        run("measure", "before.safetensors", *settings, "--json", cwd=scored)[0]
    )
    assert not [path for path in (scored / "page").iterdir() if "after" in path.name]


# ---- help and errors ------------------------------------------------------------------------------------------------


def test_help_of_every_verb(tmp_path):
    started = {verb: start(verb, "--help", cwd=tmp_path) for verb in VERBS}
    out, _ = run("--help", cwd=tmp_path)
    for verb, process in started.items():
        text, _ = finish(process)
        assert verb in out
        assert f"Usage: calibrant {verb}" in text
        assert len(text.splitlines()) > 5
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert set(listed) == set(VERBS)
    assert run("--version", cwd=tmp_path)[0].startswith("calibrant 0.")


def three_parts(err):
    lines = [line for line in err.splitlines() if line.strip()]
    assert [line.partition(":")[0] for line in lines] == ["asked", "found", "to do"], err
    return lines


BAD_INPUT = {
    "scores that are not there": (("measure", "nothing.safetensors"), "no such file"),
    "scores that are something else": (("measure", "far.jsonl"), "not a readable scores file"),
    "scores that are damaged": (("measure", "damaged.safetensors"), "checksum"),
    "questions that are not there": (
        ("score", "model", "--questions", "fat.jsonl", "--out", "x"),
        "did you mean 'far.jsonl'",
    ),
    "an empty file": (("score", "model", "--questions", "empty.jsonl", "--out", "x"), "no rows"),
    "an answer out of range": (
        ("score", "model", "--questions", "range.jsonl", "--out", "x"),
        "answer 'E' for 4 options",
    ),
    "one option": (("score", "model", "--questions", "one.jsonl", "--out", "x"), "1 options"),
    "the same option twice": (("score", "model", "--questions", "twice.jsonl", "--out", "x"), "are both 'a'"),
    "no source of scores": (("score", "--out", "x"), "no source"),
    "an unknown reading": (
        ("score", "model", "--questions", "far.jsonl", "--out", "x", "--reading", "tea"),
        "reading is one",
    ),
    "a level that is none": (("measure", "before.safetensors", "--level", "95"), "95"),
    "two sets of other questions": (("compare", "before.safetensors", "fit.safetensors"), ""),
    "a model that is not there": (("score", "no/such", "--questions", "far.jsonl", "--out", "x"), ""),
    "a device that is not there": (
        ("score", "model", "--questions", "far.jsonl", "--out", "x", "--device", "cuda:77"),
        "",
    ),
    "a setting that is unknown": (
        (
            "tune",
            "model",
            "--questions",
            "far.jsonl",
            "--calibration",
            "odd.jsonl",
            "--out",
            "x",
            "--config",
            "typo.yaml",
        ),
        "did you mean 'epochs'",
    ),
    "training questions among the calibration ones": (
        ("tune", "model", "--questions", "far.jsonl", "--calibration", "far.jsonl", "--out", "x"),
        "20: ",
    ),
    "an option without use for an import": (
        ("score", "--from-lm-eval", "nothing", "--limit", "100", "--out", "x"),
        "no use for that",
    ),
    "columns of something that has none": (
        ("score", "--from-lm-eval", "nothing", "--columns", "{id: x}", "--out", "x"),
        "no use for that",
    ),
    "two sets of one name": (
        ("restore", "model", "--questions", "far.jsonl", "--ood", "odd.jsonl", "--ood", "sub/odd.jsonl", "--out", "x"),
        "'odd'",
    ),
}


@pytest.mark.slow
def test_bad_input_is_three_lines_and_exit_code_2_and_nothing_is_written(scored):
    row = {"question": "Up?", "choices": ["a", "b", "c", "d"], "answer": 1}
    for name, change in {
        "range": {"answer": "E"},
        "one": {"choices": ["a"], "answer": 0},
        "twice": {"choices": ["a", "b", "a"]},
    }.items():
        (scored / f"{name}.jsonl").write_text(json.dumps({**row, **change}) + "\n")
    (scored / "empty.jsonl").write_text("")
    (scored / "typo.yaml").write_text("epoch: 3\n")
    (scored / "sub").mkdir()
    (scored / "sub" / "odd.jsonl").write_text((scored / "odd.jsonl").read_text().replace("odd ", "even "))
    content = bytearray((scored / "before.safetensors").read_bytes())
    content[-3] ^= 1
    (scored / "damaged.safetensors").write_bytes(content)
    waiting = list(BAD_INPUT.items())
    while waiting:
        some, waiting = waiting[:3], waiting[3:]
        started = [(name, start(*args, cwd=scored), found) for name, (args, found) in some]
        for name, process, found in started:
            _, err = finish(process, 2)
            assert found in three_parts(err)[1], name
    assert not (scored / "x").exists()
