"""One folder, several processes and several calls: a ladder is filled by all, any other run belongs to one."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer import Context
from typer.main import get_command

from calibrant.alignment import AlignSettings, align_check, load_preferences
from calibrant.cli import VERBS, app
from calibrant.errors import ConfigError
from calibrant.exporting import Source, export
from calibrant.files import alone
from calibrant.ladder import Ladder, read_table
from calibrant.ladder.cells import Place, places
from calibrant.ladder.fixes import by_name
from calibrant.restoring import restore
from calibrant.scores import Scores
from calibrant.scoring import score
from calibrant.scoring.sensitivity import sensitivity
from calibrant.tuning import TuneConfig, sweep, tune

CPU = {"device": "cpu"}
SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}}
PROCESS = """
import json, sys
from calibrant.ladder import Ladder
from calibrant import load_questions
from calibrant.tuning import TuneConfig

model, questions, out, fixes = sys.argv[1:5]
splits = {name: load_questions(f"{questions}/{name}.jsonl") for name in ("train", "calibration", "test")}
config = TuneConfig.make(json.loads(sys.argv[5]))
rest = {"budget": "quick", "seeds": 1, "config": config, "loading": {"device": "cpu"}, "progress": True}
Ladder(model, splits, out, fixes=fixes.split(","), **rest).run()
"""


HOLDER = (
    "import sys; from calibrant.files import alone\nwith alone(sys.argv[1], 'run'): print('held', flush=True); input()"
)


@contextmanager
def held(folder):
    """While active, another process, which is given, is at work in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.communicate("\n" if other.poll() is None else None, timeout=60)


@pytest.fixture
def splits(make_questions):
    return {name: make_questions(name, 30, ks=(4, 3)) for name in ("train", "calibration", "test")}


@pytest.fixture
def make_ladder(model_folder, splits, tmp_path):
    def make(**changed):
        fields = {
            "model": model_folder(),
            "splits": splits,
            "out": tmp_path / "ladder",
            "budget": "quick",
            "seeds": 1,
            "config": TuneConfig.make(SETTINGS),
            "loading": CPU,
        }
        return Ladder(**{**fields, **changed})

    return make


@pytest.mark.slow
def test_two_processes_that_need_one_model_train_it_once(model_folder, splits, tmp_path):
    for name, questions in splits.items():
        questions.save(tmp_path / f"{name}.jsonl")
    out = tmp_path / "ladder"
    parts = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(model_folder()), str(tmp_path), str(out), fixes, json.dumps(SETTINGS)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for fixes in ("cft", "cft+temperature")
    ]
    said = [part.communicate(timeout=300)[1] for part in parts]
    assert [part.returncode for part in parts] == [0, 0], said
    assert sum("waiting for another process to finish it" in one for one in said) >= 1
    assert sum("cft/default/seed-0: fitting" in " ".join(one.split()) for one in said) == 1
    table = read_table(out, n_boot=100)
    assert {standing.fix.name: standing.state for standing in table.fixes} == dict.fromkeys(
        ("aligned", "cft", "cft+temperature"), "complete"
    )
    cell = out / "cells/cft/default/seed-0"
    again = score(str(model_folder()), splits["test"], adapter=cell / "tuning/adapter", **CPU)
    kept = Scores.load(cell / "scores/test.safetensors")
    assert kept.provenance["adapter_weights"] == again.provenance["adapter_weights"]
    assert kept.logp_NK == pytest.approx(again.logp_NK, abs=1e-5)


def test_a_tuning_run_that_another_process_holds_is_refused(model_folder, splits, tmp_path):
    out, config = tmp_path / "run", TuneConfig.make({**SETTINGS, "epochs": 1})
    asked = (str(model_folder()), splits["train"], splits["calibration"])
    first = tune(*asked, out=out, config=config, **CPU)
    (out / "result.json").unlink()
    with held(out), pytest.raises(ConfigError, match="another process is at work there"):
        tune(*asked, out=out, config=config, **CPU)
    again = tune(*asked, out=out, config=config, **CPU)
    assert [point["nll"] for point in again.history] == pytest.approx([point["nll"] for point in first.history])


def test_a_restore_run_that_another_process_holds_is_refused_before_anything_is_scored(model_folder, splits, tmp_path):
    out, config = tmp_path / "run", TuneConfig.make({**SETTINGS, "epochs": 1})
    asked = {"out": out, "config": config, "objective": "cft", **CPU}
    first = restore(model_folder(), splits, **asked)
    for made in ("scores", "questions", "tuning", "report"):
        shutil.rmtree(out / made)
    left = {path.name for path in out.iterdir()}
    with (
        held(out),
        pytest.raises(ConfigError, match=r"asked: a restore run in .+\nfound: another process is at work there"),
    ):
        restore(model_folder(), splits, **asked)
    assert {path.name for path in out.iterdir()} == left
    again = restore(model_folder(), splits, **asked)
    assert again.before["test"].logp_NK == pytest.approx(first.before["test"].logp_NK, abs=1e-6)


def test_a_sweep_that_another_process_holds_is_refused_before_anything_is_tuned(model_folder, splits, tmp_path):
    out, config = tmp_path / "run", TuneConfig.make({**SETTINGS, "epochs": 1})
    asked = (str(model_folder()), splits["train"], splits["calibration"])
    sweep(*asked, out=out, config=config, budget="standard", **CPU)
    for made in ("adapter", "sweep"):
        shutil.rmtree(out / made)
    (out / "result.json").unlink()
    with held(out), pytest.raises(ConfigError, match=r"asked: a sweep in .+\nfound: another process is at work there"):
        sweep(*asked, out=out, config=config, budget="standard", **CPU)
    assert not (out / "sweep").exists()


def test_checks_of_alignment_and_sensitivity_belong_to_one_process(model_folder, splits, tmp_path):
    rows = [{"prompt": f"Name a {what}.", "chosen": "yes", "rejected": "no"} for what in ("colour", "city")]
    pairs = load_preferences(rows)
    settings = AlignSettings(instructions=False, max_new_tokens=4)
    for name, run in (
        (
            "check of alignment",
            lambda out: align_check(
                str(model_folder()), tuned=str(model_folder()), preferences=pairs, out=out, settings=settings, **CPU
            ),
        ),
        (
            "sensitivity run",
            lambda out: sensitivity(str(model_folder()), splits["test"], out=out, shifts=2, formats=("raw",), **CPU),
        ),
    ):
        out = tmp_path / name
        run(out)
        (out / "alignment.json").unlink(missing_ok=True)
        (out / "sensitivity.json").unlink(missing_ok=True)
        left = {path.name for path in out.iterdir()}
        with (
            held(out),
            pytest.raises(ConfigError, match=rf"asked: a {name} in .+\nfound: another process is at work"),
        ):
            run(out)
        assert {path.name for path in out.iterdir()} == left


def test_of_the_processes_of_one_run_the_first_holds_the_folder_for_all(tmp_path, monkeypatch):
    with alone(tmp_path, "run"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with alone(tmp_path, "run"):
            monkeypatch.setenv("RANK", "0")
            with pytest.raises(ConfigError), alone(tmp_path, "run"):
                pass


@pytest.fixture
def second_of_two(monkeypatch):
    """As torchrun starts the second process of a run of two."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


def test_what_is_not_shared_is_refused_in_a_further_process_before_anything_is_read(
    second_of_two, splits, make_ladder, tmp_path
):
    pairs = load_preferences([{"prompt": "Name a city.", "chosen": "yes", "rejected": "no"}])
    calls = (
        lambda out: align_check("no-model-is-read", tuned="t", preferences=pairs, out=out),
        lambda out: sensitivity("no-model-is-read", splits["test"], out=out),
        lambda out: make_ladder(model="no-model-is-read", out=out),
        lambda out: export(Source("no-model-is-read"), out=out),
        lambda out: restore("no-model-is-read", splits, preferences=pairs, out=out),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="in each of 2 processes\nfound: each would do the whole of it"):
            call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_command_but_tune_and_restore_is_refused_in_a_further_process(second_of_two):
    commands = get_command(app).commands
    assert len(commands) == len(VERBS)
    for name in commands.keys() - {"tune", "restore"}:
        with pytest.raises(ConfigError, match=f"asked: calibrant {name} in each of 2 processes"):
            commands[name].invoke(Context(commands[name], info_name=name))


def test_the_first_of_several_processes_may_check_alignment(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    pairs = load_preferences([{"prompt": f"Name a {what}.", "chosen": "yes", "rejected": "no"} for what in "ab"])
    model, settings = str(model_folder()), AlignSettings(instructions=False)
    align_check(model, tuned=model, preferences=pairs, out=tmp_path, settings=settings, **CPU)
    assert (tmp_path / "alignment.json").exists()


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    with held(tmp_path) as other:
        with pytest.raises(ConfigError), alone(tmp_path, "run"):
            pass
        other.kill()
        other.wait(timeout=60)
    with alone(tmp_path, "run"):
        assert Path(tmp_path / ".lock").exists()


def test_a_choice_that_another_process_has_written_stands(tmp_path):
    place = Place(tmp_path / "ladder", by_name("cft"))
    place.claim(None)
    first = {"setting": "lr-x3", "criterion": "", "nll": 1.0, "candidates": []}
    place.choose(first)
    place.choose({**first, "setting": "default", "nll": 0.5})
    assert place.choice == first
    assert place.chosen.name == "lr-x3"


def test_a_later_call_with_fewer_seeds_keeps_those_that_are_there(make_ladder, tmp_path):
    Place(tmp_path / "ladder", by_name("cft"), (0, 1, 2)).claim(None)
    for place in make_ladder(fixes=["cft+temperature"]).plan().places:
        place.claim(None)
    found = {place.fix.name: place.seeds for place in places(tmp_path / "ladder")}
    assert found == {"aligned": (0,), "cft": (0, 1, 2), "cft+temperature": (0,)}


def test_a_fix_that_needs_a_further_model_is_added_and_another_model_in_its_place_refused(
    make_ladder, model_folder, tmp_path
):
    make_ladder(fixes=["temperature"]).run()
    base = model_folder("llama")
    make_ladder(fixes=["daca"], reference=base).run()
    assert {standing.fix.name for standing in read_table(tmp_path / "ladder", n_boot=100).fixes} == {
        "aligned", "pre-alignment", "temperature", "daca",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="a different reference, weights"):
        make_ladder(fixes=["daca"], reference=model_folder("qwen3")).run()
