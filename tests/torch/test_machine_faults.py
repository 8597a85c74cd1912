"""Faults of the machine under a run: a kernel that gives NaN, memory that is full."""

import json
import math

import pytest
import torch
from transformers import TrainerCallback

from calibrant.errors import ModelError
from calibrant.ladder import Ladder
from calibrant.ladder.families import Tuned
from calibrant.scoring.scorer import OptionScorer
from calibrant.tuning import TuneConfig, tune

CONFIG = TuneConfig.make({"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}})
FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.fixture
def run(tmp_path, model_folder, make_questions):
    """A function that tunes the tiny model into ``tmp_path/name``."""

    def go(name="run", *, callbacks=(), **changed):
        config = TuneConfig.make({**CONFIG.model_dump(), **changed})
        sets = [make_questions(split, 24, ks=(4, 3)) for split in ("train", "calibration")]
        return tune(model_folder(), *sets, out=tmp_path / name, config=config, callbacks=callbacks, device="cpu")

    return go


def test_gradient_that_is_not_finite_stops_the_run_before_its_step(run, tmp_path):
    steps = []

    class Poison(TrainerCallback):
        """A kernel that fails in the backward pass of the second step: the loss is fine, a gradient is not."""

        def on_step_begin(self, args, state, control, model=None, **_):
            if state.global_step == 1:
                one = next(w for name, w in model.named_parameters() if "lora_B" in name)
                one.register_hook(lambda gradient: gradient * math.nan)

        def on_optimizer_step(self, args, state, control, **_):
            steps.append(state.global_step)

    with pytest.raises(ModelError, match="step 2") as raised:
        run(callbacks=[Poison()])
    assert raised.value.found == "the gradient is NaN or infinite"
    assert steps == [0]
    assert not (tmp_path / "run" / "adapter").exists()


def test_attention_trains_without_cudnn_and_has_it_back_afterwards(run):
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())

    assert torch.backends.cuda.cudnn_sdp_enabled()
    run(callbacks=[Look()])
    assert seen == [False, False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(ModelError):
        run("diverged", learning_rate=1e30, max_grad_norm=1e30, warmup=0)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_memory_that_is_full_is_no_reason_for_a_slower_route(run, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(OptionScorer, "_shared", full)
    with pytest.raises(torch.OutOfMemoryError):
        run()


def test_memory_that_was_too_small_for_a_setting_does_not_decide_a_sweep(
    model_folder, make_questions, tmp_path, monkeypatch
):
    """Another setting must not win for that; a later call tries it again, and nothing that was done."""
    own = Tuned.fit
    splits = {name: make_questions(name, 24, ks=(4, 3)) for name in ("train", "calibration", "test")}
    given = {"fixes": ["temperature", "cft"], "seeds": 1, "config": CONFIG, "loading": {"device": "cpu"}}
    made = Ladder(model_folder(), splits, tmp_path / "ladder", budget="standard", **given)

    def fit(doer, cell):
        if cell.setting.name == "lr-x3":
            raise RuntimeError(FULL)
        return own(doer, cell)

    monkeypatch.setattr(Tuned, "fit", fit)
    made.run()
    cells = made.out / "cells"
    error = json.loads((cells / "cft/lr-x3/seed-0/error.json").read_text())["fit"]
    assert error["found"] == f"memory is full ({FULL})"
    assert "micro_batch_size" in error["todo"]
    assert not (cells / "cft/choice.json").exists()
    assert (cells / "temperature/choice.json").exists()
    done = (cells / "cft/default/seed-0/result.json").stat().st_mtime_ns
    monkeypatch.undo()
    made.run()
    choice = json.loads((cells / "cft/choice.json").read_text())
    assert {one["setting"]: one["error"] for one in choice["candidates"]} == dict.fromkeys(
        ("default", "lr-x3", "lr-x0.33")
    )
    assert (cells / "cft/default/seed-0/result.json").stat().st_mtime_ns == done


def test_a_fault_of_ours_is_not_recorded_as_the_machines(model_folder, make_questions, tmp_path, monkeypatch):
    def broken(doer, cell):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Tuned, "fit", broken)
    splits = {name: make_questions(name, 24) for name in ("train", "calibration", "test")}
    given = {"fixes": ["cft"], "seeds": 1, "config": CONFIG, "loading": {"device": "cpu"}, "budget": "quick"}
    with pytest.raises(RuntimeError, match="shapes"):
        Ladder(model_folder(), splits, tmp_path / "ladder", **given).run()
