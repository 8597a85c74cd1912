"""The recipes of the contest, as scripts, on a tiny model and a handful of questions."""

import json
from pathlib import Path

import pytest

from command import run as called

RECIPES = Path(__file__).parents[2] / "recipes"


def run(script, *arguments, cwd):
    return called(*arguments, cwd=cwd, script=RECIPES / script)[0]


@pytest.fixture
def room(tmp_path, model_folder, make_questions):
    (tmp_path / "model").symlink_to(model_folder())
    for name in (
        "arc_easy-train",
        "arc_easy-test",
        "arc_challenge-test",
        "openbookqa-test",
        "commonsenseqa-validation",
        "mmlu-test",
        "mmlu-val",
        "mmlu-dev",
        "medmcqa-train_sample1000",
        "medmcqa-validation",
        "openbookqa-train",
        "mmlu",
        "medmcqa",
        "openbookqa",
        "arc_challenge",
    ):
        make_questions(name, 60).save(tmp_path / "data" / f"{name}.jsonl")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}?", "chosen": "Paris", "rejected": "Rome"}) + "\n" for i in range(4))
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"City {i}?"}) + "\n" for i in range(3)))
    return tmp_path


@pytest.mark.slow
def test_a_contest_of_five(room):
    sizes = ("--train", 24, "--calibration", 16, "--test", 30, "--ood", 20, "--epochs", 1, "--seeds", 1, "--draws", 100)
    where = ("--contest", "arc", "--data", "data", "--model", "model", "--device", "cpu", "--reading", "letters")
    rest = ("--fixes", "temperature,cft", "--budget", "quick", "--numbers", "numbers.json")
    rest += ("--preferences", room / "pairs.jsonl", "--prompts", "prompts.jsonl", "--max-new-tokens", 4)
    assert "cft/(chosen)/seed-0" in run("ladder.py", *where, *sizes, *rest, "--dry", cwd=room)
    run("ladder.py", *where, *sizes, *rest, cwd=room)
    found = json.loads((room / "numbers.json").read_text())
    assert (found["sets"]["test"]["n"], found["sets"]["arc_challenge-test"]["n"]) == (30, 20)
    assert {name: q["n"] for name, q in found["questions"].items()} == {
        "train": 24, "calibration": 16, "test": 30, "arc_challenge-test": 20, "openbookqa-test": 20,
        "commonsenseqa-validation": 20, "mmlu-test": 20,
    }  # fmt: skip
    assert set(found["sets"]["test"]["rows"]) == {"aligned", "temperature", "cft"}
    assert found["sets"]["test"]["rows"]["cft"]["conf_ece"]["against_aligned"]["verdict"] in {
        "better",
        "worse",
        "undecided",
    }
    kept = {name: fix["alignment"] for name, fix in found["fixes"].items()}
    assert (kept["temperature"], kept["cft"]["of"]) == ({"verdict": "unchanged", "of": None}, "cft")
    assert {name: kept["cft"][name]["n"] for name in ("ranking", "kl_aligned")} == {"ranking": 4, "kl_aligned": 3}
    assert found["alignment"]["settings"]["max_new_tokens"] == 4
    kept = found["command"]
    assert kept.startswith("python recipes/ladder.py --contest arc --data data --model model --device cpu")
    assert "--preferences pairs.jsonl --prompts prompts.jsonl --max-new-tokens 4" in kept
    assert "numbers.json" not in kept
    assert str(room) not in json.dumps(found)
    assert (room / "runs/ladder/arc/table/table.html").exists()


@pytest.mark.slow
def test_the_mixture_takes_equal_parts_and_reads_texts_by_the_variant(room):
    sizes = ("--train", 20, "--calibration", 13, "--test", 30, "--ood", 20, "--epochs", 1, "--seeds", 1, "--draws", 100)
    where = ("--contest", "mixture", "--data", "data", "--model", "model", "--device", "cpu", "--variant", "per_char")
    rest = ("--fixes", "temperature,cft-options", "--budget", "quick", "--numbers", "numbers.json")
    run("ladder.py", *where, *sizes, *rest, cwd=room)
    found = json.loads((room / "numbers.json").read_text())
    assert {name: q["n"] for name, q in found["questions"].items()} == {
        "train": 20, "calibration": 13, "test": 30, "arc_challenge-test": 20, "commonsenseqa-validation": 20,
    }  # fmt: skip
    assert (found["prompt"]["reading"], found["prompt"]["variant"]) == ("continuation", "per_char")
    parts = {}
    for split in ("train", "calibration", "test"):
        text = (room / f"runs/ladder/mixture/questions/{split}.jsonl").read_text()
        names = [json.loads(line)["id"].partition("-")[0] for line in text.splitlines()]
        parts[split] = sorted(names.count(name) for name in set(names))
    assert parts == {"train": [6, 7, 7], "calibration": [4, 4, 5], "test": [10, 10, 10]}
    folder = "runs/ladder/mixture"
    which = ("--pairs", "temperature:cft-options", "aligned:aligned", "--data", "data", "--fresh", 10)
    run("across.py", folder, folder, *which, "--sets", "arc_challenge-test", "--numbers", "across.json", cwd=room)
    across = json.loads((room / "across.json").read_text())
    stored = across["contest"]["test"]["seed 0"]["temperature -> cft-options"]
    for side, fix in (("a", "temperature"), ("b", "cft-options")):
        in_table = found["sets"]["test"]["rows"][fix]
        assert [stored[side][m]["value"] for m in ("accuracy", "nll")] == pytest.approx(
            [in_table[m]["value"] for m in ("accuracy", "nll")], abs=1e-5
        )
    fresh = across["fresh"]["arc_challenge-test"]
    assert fresh["temperature -> cft-options"]["a"]["nll"]["n"] == 10
    assert fresh["aligned -> aligned"]["change"]["nll"]["value"] == 0
    assert fresh["temperature -> cft-options"]["change"]["nll"]["value"] != 0
    which = ("--fix", "cft-options", "--data", "data", "--n", 10, "--sets", "arc_challenge-test", "--device", "cpu")
    run("fresh.py", folder, *which, "--numbers", "fresh.json", cwd=room)
    read = json.loads((room / "fresh.json").read_text())["sets"]["arc_challenge-test"]
    assert len(read) == 16  # two models, four readings, with and without a temperature
    assert read["aligned, sum, temperature"]["change"]["nll"]["value"] == 0
    for ours, theirs in (
        ("aligned, per_char", "aligned -> aligned"),
        ("cft-options, per_char", "temperature -> cft-options"),
    ):
        assert read[ours]["nll"]["value"] == pytest.approx(fresh[theirs]["b"]["nll"]["value"], abs=1e-5)
    which = ("--fixes", "aligned", "cft-options", "--sizes", 4, "--draws", 3)
    run("few_labels.py", folder, *which, "--numbers", "few.json", cwd=room)
    few = json.loads((room / "few.json").read_text())["sets"]
    assert set(few) == {"arc_challenge-test", "commonsenseqa-validation"}
    for one in few.values():
        assert {fix: (found["n"], found["seeds"]) for fix, found in one.items()} == {
            "aligned": (20, [0]), "cft-options": (20, [0]),
        }  # fmt: skip
        assert list(one["aligned"]["by_size"]) == ["0", "4"]


@pytest.mark.slow
def test_the_papers_protocol(room):
    sizes = ("--train", 20, "--calibration", 12, "--test", 31, "--epochs", 1, "--seeds", 1, "--draws", 100, "--rank", 4)
    where = ("--model", "model", "--data", "data", "--device", "cpu", "--budget", "quick", "--batch-size", 8)
    run("paper_protocol.py", *where, *sizes, "--fixes", "temperature,cft,mmce,rcft-once", cwd=room)
    found = json.loads((room / "runs/paper/model/numbers.json").read_text())
    assert {name: q["n"] for name, q in found["questions"].items()} == {
        "train": 20, "calibration": 12, "test": 31, "arc_challenge": 60,
    }  # fmt: skip
    assert found["prompt"]["format"] == "release"
    config = found["config"]
    assert (config["lora"]["rank"], config["lora"]["alpha"], config["lora"]["dropout"]) == (4, 2.0, 0.05)
    assert (config["schedule"], config["warmup"]) == ("cosine", 0.1)
    trained = json.loads((room / "runs/paper/model/cells/cft/default/seed-0/tuning/result.json").read_text())
    assert trained["config"]["micro_batch_size"] == 2
    states = {name: fix["state"] for name, fix in found["fixes"].items()}
    assert states == {
        "aligned": "complete", "temperature": "complete", "cft": "complete", "rcft-once": "complete", "mmce": "not run",
    }  # fmt: skip
    assert "whole batch" in found["fixes"]["mmce"]["reason"]
    text = (room / "runs/paper/model/questions/train.jsonl").read_text()
    assert {json.loads(line)["id"].partition("-")[0] for line in text.splitlines()} == {"mmlu", "medmcqa", "openbookqa"}


@pytest.mark.slow
def test_settings_one_at_a_time(room):
    where = ("--model", "model", "--device", "cpu", "--out", "out", "--numbers", "settings.json", "--entities", 3)
    run("settings.py", *where, "--only", "cft", cwd=room)
    found = json.loads((room / "settings.json").read_text())
    assert list(found["cells"]) == ["cft"]
    cells = found["cells"]["cft"]
    assert len(cells) == 9
    assert cells["base"]["change"] is None
    assert cells["rank 4"]["change"]["nll"]["n"] == found["questions"]["judged"]["n"]
    assert cells["8 questions a step"]["steps"] > cells["base"]["steps"]
    assert {q["entities"] for q in found["questions"].values()} == {3}
    assert found["command"] == "python recipes/settings.py --model model --device cpu --entities 3 --only cft"
