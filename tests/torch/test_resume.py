"""A run that was broken off goes on to the very bytes of one that was not."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from transformers import TrainerCallback

from calibrant.errors import ConfigError, ModelError, OutputError
from calibrant.scoring import load_model, score
from calibrant.tuning import LoraSettings, TuneConfig, tune

SETTINGS = {
    "cft": {"epochs": 3, "evaluations_per_epoch": 2},
    "rcft": {"objective": "rcft", "epochs": 3},
    "rcft-once": {"objective": "rcft", "epochs": 3, "e_step": "once"},
}
KILL_AT = 5
# One process a run, so that each dies by a real SIGKILL; the parent only pays for the imports once.
SCRIPT = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
from calibrant.intake import load_questions
from calibrant.errors import ModelError, OutputError
from calibrant.scoring import load_model, score
from calibrant.tuning import LoraSettings, TuneConfig, tune

torch.set_num_threads(1)
folder, model, at, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == at:
            os.kill(os.getpid(), signal.SIGKILL)

for name, settings in runs.items():
    child = os.fork()
    if child == 0:
        sets = [load_questions(f"{folder}/{part}.jsonl") for part in ("train", "calibration")]
        config = TuneConfig(batch_size=8, patience=0, lora=LoraSettings(rank=4, alpha=8), **settings)
        tune(model, *sets, out=f"{folder}/{name}", config=config, callbacks=[Kill()], device="cpu")
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Broken(Exception):
    """What a test throws into a run."""


class BreakAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Broken


@pytest.fixture(scope="module")
def sets(make_questions):
    return make_questions("train", 24, ks=(4, 2, 3)), make_questions("calibration", 20, ks=(4, 3))


def go(folder, model, sets, settings, callbacks=()):
    config = TuneConfig(**{"batch_size": 8, "patience": 0, "lora": LoraSettings(rank=4, alpha=8), **settings})
    return tune(model, *sets, out=folder, config=config, callbacks=callbacks, device="cpu")


def content(result):
    if result.adapter is None:
        return (result.weights / "model.safetensors").read_bytes()
    return (result.adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model_folder, sets):
    """The folder in which a process each was killed in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("killed")
    for questions in sets:
        questions.save(folder / f"{questions.name}.jsonl")
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(model_folder()), str(KILL_AT), json.dumps(SETTINGS)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    assert told.split() == [word for name in SETTINGS for word in (name, str(-signal.SIGKILL))]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_killed_run_goes_on_to_the_same_bytes(tmp_path, killed, model_folder, sets, name):
    assert not (killed / name / "result.json").exists()
    assert not (killed / name / "adapter").exists()
    (checkpoint,) = sorted((killed / name / "checkpoints").glob("checkpoint-*"))[-1:]
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert 0 < state["global_step"] < KILL_AT + 1
    assert (state["stateful_callbacks"]["EmState"]["attributes"]["targets"] is None) == (name == "cft")
    resumed = go(killed / name, model_folder(), sets, SETTINGS[name])
    whole = go(tmp_path / "whole", model_folder(), sets, SETTINGS[name])
    assert content(resumed) == content(whole)
    assert resumed.history == whole.history  # the e-step and every evaluation, before and after the break
    assert resumed.steps == whole.steps == 9


def test_run_broken_before_its_first_checkpoint_starts_again(tmp_path, model_folder, sets):
    with pytest.raises(Broken):
        go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"], [BreakAt(2)])
    again = go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"])
    whole = go(tmp_path / "b", model_folder(), sets, SETTINGS["rcft"])
    assert content(again) == content(whole)
    assert again.history == whole.history


@pytest.mark.parametrize("damage", ["no state", "half a state"])
def test_half_written_checkpoint_is_passed_over(tmp_path, model_folder, sets, damage):
    with pytest.raises(Broken):
        go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"], [BreakAt(5)])
    whole_one = tmp_path / "a" / "checkpoints" / "checkpoint-3"
    half = whole_one.with_name("checkpoint-5")
    shutil.copytree(whole_one, half)
    state = half / "trainer_state.json"
    if damage == "no state":
        state.unlink()
        (half / "optimizer.pt").unlink()
    else:
        state.write_text(state.read_text()[:200])
    result = go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"])
    assert content(result) == content(go(tmp_path / "b", model_folder(), sets, SETTINGS["rcft"]))


def test_patience_counts_over_a_break(tmp_path, model_folder, sets):
    """The run stops after two evaluations in a row without a better NLL, also when it was broken off between them."""
    harmful = {"epochs": 8, "learning_rate": 0.3, "schedule": "constant_with_warmup", "patience": 2}
    whole = go(tmp_path / "a", model_folder(), sets, harmful)
    assert whole.stopped == "held-out NLL no longer fell"
    with pytest.raises(Broken):  # after the first of the two
        go(tmp_path / "b", model_folder(), sets, harmful, [BreakAt(whole.steps - 1)])
    resumed = go(tmp_path / "b", model_folder(), sets, harmful)
    assert resumed.steps == whole.steps
    assert content(resumed) == content(whole)
    assert resumed.best_epoch == whole.best_epoch


ENDINGS = {
    "no better for long": {"epochs": 8, "learning_rate": 0.3, "schedule": "constant_with_warmup", "patience": 1},
    "within an epoch": {"epochs": 1.5, "evaluations_per_epoch": 3, "learning_rate": 1e-2},
    "the last weights": {"epochs": 1.5, "keep": "last", "learning_rate": 1e-2, "schedule": "constant_with_warmup"},
    "all weights": {"epochs": 1.5, "learning_rate": 1e-2, "lora": None},
}


class InTheWay(TrainerCallback):
    """When training has ended a file stands where the weights are to be put: they cannot be kept."""

    def __init__(self, folder):
        self.files = [folder / "adapter", folder / "model"]

    def on_train_end(self, args, state, control, **_):
        for file in self.files:
            file.touch()

    def go_away(self):
        for file in self.files:
            file.unlink()


def ended(folder, model, sets, settings):
    """A run that did all its steps and could not keep its weights."""
    way = InTheWay(folder)
    with pytest.raises(OutputError, match="Not a directory"):
        go(folder, model, sets, settings, [way])
    way.go_away()


@pytest.mark.parametrize("name", ENDINGS)
def test_a_run_that_ended_but_was_not_kept_trains_no_further(tmp_path, model_folder, sets, name):
    """And meanwhile its folder was moved."""
    whole = go(tmp_path / "whole", model_folder(), sets, ENDINGS[name])
    ended(tmp_path / "a", model_folder(), sets, ENDINGS[name])
    (tmp_path / "a").rename(tmp_path / "b")
    again = go(tmp_path / "b", model_folder(), sets, ENDINGS[name])
    assert content(again) == content(whole)
    assert again.history == whole.history
    assert (again.steps, again.stopped, again.best_epoch) == (whole.steps, whole.stopped, whole.best_epoch)


def test_the_best_weights_of_a_run_that_ended_are_not_replaced_by_others(tmp_path, model_folder, sets):
    ended(tmp_path / "a", model_folder(), sets, ENDINGS["no better for long"])
    best = min((tmp_path / "a" / "checkpoints").iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    shutil.rmtree(best)
    with pytest.raises(OutputError, match=f"no {best.name}, whose weights are the best"):
        go(tmp_path / "a", model_folder(), sets, ENDINGS["no better for long"])


def test_seconds_count_every_part_of_a_broken_run(tmp_path, model_folder, sets):
    import time

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            time.sleep(0.3)

    with pytest.raises(Broken):
        go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"], [Slow(), BreakAt(7)])
    result = go(tmp_path / "a", model_folder(), sets, SETTINGS["rcft"])
    assert result.seconds >= 6 * 0.3  # the six steps before the last checkpoint were slow, the rest was quick


def test_a_loaded_model_is_untuned_again_where_tuning_breaks_off(tmp_path, model_folder, sets):
    model = load_model(model_folder(), device="cpu")
    before = score(model, sets[1])
    config = TuneConfig(batch_size=8, learning_rate=1e-2, lora=LoraSettings(rank=4, alpha=8))
    with pytest.raises(Broken):
        tune(model, *sets, out=tmp_path / "a", config=config, callbacks=[BreakAt(5)])
    after = score(model, sets[1])
    assert (after.logp_NK == before.logp_NK).all()
    assert after.provenance["weights"] == before.provenance["weights"]
    again = tune(model, *sets, out=tmp_path / "a", config=config)
    whole = tune(model_folder(), *sets, out=tmp_path / "b", config=config, device="cpu")
    assert content(again) == content(whole)
    assert (score(model, sets[1]).logp_NK != before.logp_NK).any()


def test_a_loaded_model_whose_weights_are_all_half_tuned_is_not_used(tmp_path, model_folder, sets):
    model = load_model(model_folder(), device="cpu")
    config = TuneConfig(batch_size=8, lora=None)
    with pytest.raises(Broken):
        tune(model, *sets, out=tmp_path / "a", config=config, callbacks=[BreakAt(2)])
    for use in (lambda: score(model, sets[1]), lambda: tune(model, *sets, out=tmp_path / "a", config=config)):
        with pytest.raises(ModelError, match="neither the untuned nor the tuned"):
            use()
    model = load_model(model_folder(), device="cpu")
    assert tune(model, *sets, out=tmp_path / "a", config=config).steps == 6
    score(model, sets[1])


def test_a_run_that_broke_off_goes_on_with_less_memory(tmp_path, model_folder, sets):
    """Questions a pass and checkpointing change what it takes, not what is learnt."""
    settings = {"epochs": 2, "micro_batch_size": 8}
    whole = go(tmp_path / "whole", model_folder(), sets, settings)
    with pytest.raises(Broken):
        go(tmp_path / "run", model_folder(), sets, settings, [BreakAt(4)])
    again = {**settings, "micro_batch_size": 4, "gradient_checkpointing": True}
    result = go(tmp_path / "run", model_folder(), sets, again)
    assert result.steps == whole.steps == 6
    for one, other in zip(result.history, whole.history, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)
    with pytest.raises(ConfigError, match="a different config"):
        go(tmp_path / "run", model_folder(), sets, {**again, "epochs": 3})


def test_a_tracker_that_is_not_there_is_named_before_anything_is_done(tmp_path, model_folder, sets):
    with pytest.raises(ConfigError, match="trackers that are installed"):
        go(tmp_path / "run", model_folder(), sets, {"report_to": "wanb"})
    assert not (tmp_path / "run").exists()
