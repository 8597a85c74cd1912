"""The real command on a tiny model: three fixes, two seeds, interrupted in the middle, and the table at any time."""

import json
import signal
import time

import pytest

from command import finish
from command import start as started


def start(*args, cwd):
    return started("ladder", *args, cwd=cwd)


@pytest.fixture
def room(tmp_path, model_folder, make_questions):
    (tmp_path / "model").symlink_to(model_folder())
    make_questions("capitals", 70, ks=(4, 3)).save(tmp_path / "capitals.jsonl")
    make_questions("far", 20).save(tmp_path / "far.jsonl")
    pairs = [{"prompt": f"Capital {i}?", "chosen": f"Paris {i}", "rejected": "Rome"} for i in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"City {i}?"}) + "\n" for i in range(4)))
    (tmp_path / "settings.yaml").write_text(
        "batch_size: 8\nepochs: 20\nlearning_rate: 0.01\nlora: {rank: 2, alpha: 4}\n"
    )
    return tmp_path


ARGUMENTS = (
    "model", "--questions", "capitals.jsonl", "--ood", "far.jsonl", "--out", "run", "--config", "settings.yaml",
    "--fixes", "temperature,cft,cft+temperature", "--seeds", "2", "--budget", "quick", "--device", "cpu", "--draws", "100",
    "--preferences", "pairs.jsonl", "--prompts", "prompts.jsonl", "--limit-prompts", "3", "--max-new-tokens", "4",
    "--no-instructions",
)  # fmt: skip


@pytest.mark.slow
def test_a_ladder_is_interrupted_read_resumed_and_read_again(room):
    out, _ = finish(start(*ARGUMENTS, "--dry", cwd=room))
    assert not (room / "run").exists()
    assert "cft/(chosen)/seed-1" in out
    assert "2 trainings of 120 optimiser steps each" in out  # 42 questions in steps of 8: 6 an epoch
    assert [line.split()[:2] for line in out.splitlines() if " align " in line] == [["cft/(chosen)/seed-0", "align"]]

    process = start(*ARGUMENTS, cwd=room)
    first = room / "run/cells/cft/default/seed-0/tuning/checkpoints"
    while not list(first.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert "the same command goes on" in err
    assert not (room / "run/cells/cft/choice.json").exists()
    assert not list((room / "run/cells/cft").rglob("test.safetensors"))

    out, _ = finish(start("--out", "run", "--table", "--draws", "100", cwd=room))
    assert "| temperature |" in out
    calibration, _, alignment = out.partition("## Cost")[0].partition("## Alignment kept")
    assert "| cft |" not in calibration
    assert "| cft | not checked |" in alignment
    assert "waiting" in out
    before = {
        path: path.stat().st_mtime_ns for path in (room / "run").rglob("*.safetensors") if "tuning" not in path.parts
    }

    out, err = finish(start(*ARGUMENTS, "--quiet", cwd=room))
    assert out == "run/table/table.html\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads((room / "run/table/table.json").read_text())
    assert {one["name"]: one["state"] for one in found["fixes"]} == dict.fromkeys(
        ("aligned", "temperature", "cft", "cft+temperature"), "complete"
    )
    assert {name: row["seeds"] for name, row in found["sets"][0]["rows"].items()} == {
        "aligned": [0], "temperature": [0], "cft": [0, 1], "cft+temperature": [0, 1],
    }  # fmt: skip
    assert [one["name"] for one in found["sets"]] == ["test", "far"]
    assert (found["sets"][0]["n"], found["sets"][1]["n"]) == (14, 20)
    kept = {one["name"]: one["alignment"] for one in found["fixes"]}
    assert [kept[name]["verdict"] for name in ("aligned", "temperature")] == ["unchanged", "unchanged"]
    assert kept["cft"] == kept["cft+temperature"]
    assert [kept["cft"]["checks"][name]["n"] for name in ("ranking", "margin", "kl_aligned")] == [5, 5, 3]
    assert "instructions" not in kept["cft"]["checks"]
    assert (found["alignment"]["preferences"]["name"], found["alignment"]["settings"]["max_new_tokens"]) == ("pairs", 4)
    assert found["facts"]["command"].startswith("calibrant ladder model --questions capitals.jsonl")
    leftovers = [p for p in (room / "run").rglob("*") if p.name.startswith(".") or p.name in ("checkpoints", "mixed")]
    leftovers = [p for p in leftovers if p.name != ".lock"]  # empty: what another process waits at
    assert leftovers == []

    made = {path: path.stat().st_mtime_ns for path in (room / "run/cells").rglob("*.safetensors")}
    finish(start(*ARGUMENTS, "--quiet", cwd=room))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    _, err = finish(start(*ARGUMENTS, "--quiet", "--seed", "5", cwd=room), 2)
    assert "it holds another one, with a different config" in err


def with_other(option, value):
    at = ARGUMENTS.index(option)
    return (*ARGUMENTS[:at], option, value, *ARGUMENTS[at + 2 :])


@pytest.mark.slow
def test_what_is_wrong_is_three_lines(room):
    wrong = {
        "no MODEL": ("--out", "run"),
        "no --questions": ("model", "--out", "run"),
        "no ladder there": ("--out", "run", "--table"),
        "did you mean 'temperature'": with_other("--fixes", "temprature"),
        "only the last value would count": (*ARGUMENTS, "--fixes", "cft"),
        "budgets: quick, standard, thorough": with_other("--budget", "huge"),
        "did you mean 'lr-x3'": (*ARGUMENTS, "--settings", "cft=lr-x4"),
        "no such file": with_other("--prompts", "absent.jsonl"),
        "of test": (*ARGUMENTS, "--ood", "capitals.jsonl"),
        "95": (*ARGUMENTS, "--level", "95"),
        "one writes nothing": (*ARGUMENTS, "--dry", "--table"),
    }
    started = {found: start(*arguments, cwd=room) for found, arguments in wrong.items()}
    for found, process in started.items():
        _, err = finish(process, 2)
        lines = [line for line in err.splitlines() if line.strip()]
        assert [line.partition(":")[0] for line in lines] == ["asked", "found", "to do"], err
        assert found in err
    assert not (room / "run").exists()
