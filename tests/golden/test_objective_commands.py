"""Objectives by name, through the real command."""

import json

import pytest

from calibrant.objectives import OBJECTIVES
from command import run as called


def run(*args, cwd, code=0):
    """What it says on stdout, or why it refuses."""
    out, err = called(*args, cwd=cwd, code=code)
    return out if code == 0 else err


@pytest.fixture
def room(tmp_path, model_folder, make_questions):
    (tmp_path / "model").symlink_to(model_folder())
    make_questions("train", 16).save(tmp_path / "train.jsonl")
    make_questions("held", 12).save(tmp_path / "held.jsonl")
    make_questions("test", 12).save(tmp_path / "test.jsonl")
    (tmp_path / "settings.yaml").write_text("epochs: 1\nbatch_size: 8\nlora: {rank: 4, alpha: 8}\nepsilon: 0.2\n")
    return tmp_path


@pytest.mark.slow
def test_restore_by_label_smoothing_over_the_options(room):
    files = ("--questions", "train.jsonl", "--calibration", "held.jsonl", "--test", "test.jsonl")
    how = ("--objective", "label_smoothing", "--over", "options", "--config", "settings.yaml")
    run(
        "restore",
        "model",
        *files,
        *how,
        "--reading",
        "continuation",
        "--device",
        "cpu",
        "--out",
        "run",
        "--quiet",
        cwd=room,
    )
    result = json.loads((room / "run" / "tuning" / "result.json").read_text())
    assert (result["objective"], result["config"]["over"], result["config"]["epsilon"]) == (
        "label_smoothing",
        "options",
        0.2,
    )
    assert result["rows"]["route"] == "packed"
    report = (room / "run" / "report" / "report.md").read_text()
    assert OBJECTIVES["label_smoothing"] in report
    assert "0.2" in report


@pytest.mark.slow
def test_restore_takes_the_objective_of_the_settings_and_holds_groups_out_together(room):
    """Four questions each of 15 countries in one file: no country is in two splits, and the settings' objective is done."""
    lines = [json.loads(line) for line in (room / "train.jsonl").read_text().splitlines()]
    rows = [
        {**lines[i % len(lines)], "id": f"{i}", "question": f"Number {i}?", "country": f"c{i % 15}"} for i in range(60)
    ]
    (room / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (room / "rcft.yaml").write_text(
        (room / "settings.yaml").read_text().replace("epsilon: 0.2", "objective: rcft\nlam: 2")
    )
    how = (
        "--config",
        "rcft.yaml",
        "--language",
        "sft1",
        "--cluster",
        "country",
        "--device",
        "cpu",
        "--out",
        "run",
        "--quiet",
    )
    run("restore", "model", "--questions", "all.jsonl", *how, cwd=room)
    result = json.loads((room / "run" / "tuning" / "result.json").read_text())
    assert [result["objective"], *(result["config"][name] for name in ("lam", "language"))] == ["rcft", 2, "sft1"]
    parts = {
        name: [
            json.loads(line)["columns"]["country"]
            for line in (room / f"run/questions/{name}.jsonl").read_text().splitlines()
        ]
        for name in ("train", "calibration", "test")
    }
    assert {name: len(found) for name, found in parts.items()} == {"train": 36, "calibration": 12, "test": 12}
    assert {name: len(set(found)) for name, found in parts.items()} == {"train": 9, "calibration": 3, "test": 3}
    assert len(set().union(*parts.values())) == 15
    assert "training questions too" not in (room / "run" / "report" / "report.md").read_text()


@pytest.mark.slow
def test_tune_leaves_leaked_questions_out_of_training_where_asked(room):
    leaked = (room / "held.jsonl").read_text().splitlines()[0]
    (room / "more.jsonl").write_text((room / "train.jsonl").read_text() + leaked + "\n")
    files = ("--questions", "more.jsonl", "--calibration", "held.jsonl", "--config", "settings.yaml", "--device", "cpu")
    settings = ("--objective", "label_smoothing", "--out", "tuned", "--quiet")
    assert "common question" in run("tune", "model", *files, *settings, cwd=room, code=2)
    _, err = called("tune", "model", *files, *settings, "--skip-bad", cwd=room)
    assert "1 rows of 'more' left out:" in err
    assert "also in 'held'" in err
    assert json.loads((room / "tuned" / "result.json").read_text())["questions"] == 16


@pytest.mark.slow
def test_setting_of_another_objective_is_three_lines_and_exit_code_2(room):
    files = ("--questions", "train.jsonl", "--calibration", "held.jsonl")
    error = run("tune", "model", *files, "--objective", "focal", "--lam", "2", "--out", "x", cwd=room, code=2)
    assert [line.split(":")[0] for line in error.strip().splitlines()] == ["asked", "found", "to do"]
    assert "lam belongs to rcft, brier, mmce, soft_ece" in error
    assert not (room / "x").exists()


@pytest.mark.slow
def test_help_names_every_objective(room):
    for verb in ("tune", "restore"):
        text = " ".join(run(verb, "--help", cwd=room).split())
        assert all(name in text for name in OBJECTIVES), verb
