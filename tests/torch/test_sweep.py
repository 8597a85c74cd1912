"""``sweep`` on a tiny model: what is tried, what is kept, and that it goes on where it stopped."""

import importlib
import json
import shutil

import pytest
import torch

from calibrant.errors import ConfigError, ModelError
from calibrant.objectives import OBJECTIVES
from calibrant.prompts import PromptStyle
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult, sweep, tune
from calibrant.tuning.sweep import SETTINGS, candidates, loss_of, settings_for

CONFIG = TuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, lora=LoraSettings(rank=4, alpha=8, dropout=0.0))


@pytest.fixture(scope="module")
def sets(make_questions):
    return make_questions("train", 24, ks=(4, 2, 3)), make_questions("calibration", 20, ks=(4, 3))


def swept(sets, model_folder, out, budget="standard", **settings):
    config = TuneConfig(**{**CONFIG.model_dump(), **settings})
    return sweep(model_folder(), *sets, out=out, budget=budget, config=config, device="cpu")


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_has_five_settings_and_the_first_is_what_was_asked(objective):
    config = CONFIG.for_objective(objective)
    made = [setting.of(config) for setting in candidates(objective)]
    assert len({one.model_dump_json() for one in made}) == len(made) == SETTINGS["thorough"]
    assert made[0] == config
    assert [one.learning_rate for one in made[:3]] == pytest.approx([1e-3, 3e-3, 1e-3 / 3])
    for one in made:
        one.check()


def test_the_adapter_kept_is_that_of_the_least_held_out_loss(sets, model_folder, tmp_path):
    result = swept(sets, model_folder, tmp_path / "run")
    losses = {one["setting"]: one["nll"] for one in result.sweep["tried"]}
    assert list(losses) == ["default", "lr-x3", "lr-x0.33"]
    assert len(set(losses.values())) == 3
    best = result.sweep["chosen"]
    assert losses[best] == min(losses.values()) == loss_of(result)
    factor = {"default": 1, "lr-x3": 3, "lr-x0.33": 1 / 3}[best]
    alone = tune(
        model_folder(),
        *sets,
        out=tmp_path / "alone",
        config=CONFIG.model_copy(update={"learning_rate": factor * 1e-3}),
        device="cpu",
    )
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (result.adapter / name).read_bytes() == (alone.adapter / name).read_bytes()
    assert result.config["learning_rate"] == pytest.approx(factor * 1e-3)
    assert json.loads((tmp_path / "run" / "sweep.json").read_text()) == result.sweep
    assert TuneResult.load(tmp_path / "run") == result
    assert not list((tmp_path / "run" / "sweep").glob("*/adapter"))


def test_quick_is_one_plain_run(sets, model_folder, tmp_path):
    result = swept(sets, model_folder, tmp_path / "run", budget="quick")
    assert result.sweep == {}
    assert not (tmp_path / "run" / "sweep").exists()


def test_a_sweep_goes_on_where_it_stopped_and_a_finished_one_is_read(sets, model_folder, tmp_path):
    folder = tmp_path / "run"
    first = swept(sets, model_folder, folder)
    written = (folder / "result.json").stat().st_mtime_ns
    assert swept(sets, model_folder, folder) == first
    assert (folder / "result.json").stat().st_mtime_ns == written
    chosen = folder / "sweep" / first.sweep["chosen"] / "adapter"
    shutil.copytree(folder / "adapter", chosen)  # as if it had been stopped while the best was moved
    shutil.rmtree(folder / "adapter")
    (folder / "result.json").unlink()
    again = swept(sets, model_folder, folder)
    assert again == first
    assert (again.adapter / "adapter_model.safetensors").exists()


def test_a_stop_after_the_first_candidate_does_not_train_it_again(sets, model_folder, tmp_path, monkeypatch):
    made = []

    def counted(*args, out, **settings):
        made.append(out.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return tune(*args, out=out, **settings)

    monkeypatch.setattr(importlib.import_module("calibrant.tuning.sweep"), "tune", counted)
    with pytest.raises(KeyboardInterrupt):
        swept(sets, model_folder, tmp_path / "run")
    monkeypatch.undo()
    kept = (tmp_path / "run" / "sweep" / "default" / "result.json").stat().st_mtime_ns
    swept(sets, model_folder, tmp_path / "run")
    assert made == ["default", "lr-x3"]
    assert (tmp_path / "run" / "sweep" / "default" / "result.json").stat().st_mtime_ns == kept


def test_where_every_setting_diverges_the_first_reason_is_told(sets, model_folder, tmp_path):
    """A rate of 1e36, thrice and a third of it: weights that overflow float32 in the next product."""
    with pytest.raises(ModelError, match=r"NaN or infinite|not finite"):
        swept(sets, model_folder, tmp_path / "all", learning_rate=1e36, schedule="constant_with_warmup", warmup=0)


def test_one_failed_setting_leaves_the_others(sets, model_folder, tmp_path, monkeypatch):
    def choosy(*args, out, **settings):
        if out.name == "lr-x3":
            raise ModelError(asked="a", found="the loss became NaN", todo="b")
        return tune(*args, out=out, **settings)

    monkeypatch.setattr(importlib.import_module("calibrant.tuning.sweep"), "tune", choosy)
    result = swept(sets, model_folder, tmp_path / "run")
    failed = result.sweep["tried"][1]
    assert (failed["setting"], failed["nll"], failed["error"]) == ("lr-x3", None, "the loss became NaN")
    assert result.sweep["chosen"] != "lr-x3"


def test_full_tuning_is_swept_too(sets, model_folder, tmp_path):
    result = swept(sets, model_folder, tmp_path / "run", lora=None)
    assert result.adapter is None
    assert (result.weights / "model.safetensors").exists()
    assert not list((tmp_path / "run" / "sweep").glob("*/model"))


def test_a_finished_sweep_is_not_that_of_other_weights_under_the_same_name(
    sets, make_model, tokenizer, model_folder, tmp_path
):
    model = shutil.copytree(model_folder(), tmp_path / "model")
    asked = {"out": tmp_path / "run", "config": CONFIG, "budget": "standard", "device": "cpu"}
    sweep(model, *sets, **asked)
    other = make_model("llama", tokenizer)
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    other.save_pretrained(model)
    with pytest.raises(ConfigError, match="a different weights"):
        sweep(model, *sets, **asked)


def test_another_sweep_in_the_same_folder_or_an_unknown_budget_is_refused(sets, model_folder, tmp_path):
    swept(sets, model_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="budget"):
        swept(sets, model_folder, tmp_path / "run", budget="thorough")
    train, calibration = sets
    for other in ((train.subset(range(12)), calibration), (train, calibration.subset(range(10)))):
        with pytest.raises(ConfigError, match="questions"):
            swept(other, model_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="prompt"):
        sweep(
            model_folder(), *sets, out=tmp_path / "run", config=CONFIG, style=PromptStyle(format="chat"), device="cpu"
        )
    with pytest.raises(ConfigError, match="quick, standard, thorough"):
        settings_for("cft", "endless")


def test_a_loaded_model_is_not_swept(sets, loaded, tmp_path):
    with pytest.raises(ConfigError, match="first of them would change"):
        sweep(loaded(), *sets, out=tmp_path / "out", budget="standard")
    assert not (tmp_path / "out").exists()
