"""``tune`` through its real trainer on a tiny model: what one step costs, what it changes, what it keeps."""

import importlib
import math
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from calibrant.errors import ConfigError, LeakageError, ModelError, QuestionError
from calibrant.metrics import nll
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scoring import load_model, score
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult, tune

TEXTS = PromptStyle(reading="continuation")
STILL = LoraSettings(rank=4, alpha=8, dropout=0.0)
BY_READING = pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])


@pytest.fixture(scope="module")
def train(make_questions):
    return make_questions("train", 24, ks=(4, 2, 3))


@pytest.fixture(scope="module")
def calibration(make_questions):
    return make_questions("calibration", 20, ks=(4, 3))


@pytest.fixture
def run(tmp_path, model_folder, train, calibration):
    """A function that tunes the tiny model into ``tmp_path/name`` and returns the result."""

    def go(name="run", *, style=None, questions=None, callbacks=(), model=None, loading=None, **settings):
        config = TuneConfig(**{"epochs": 1, "batch_size": 8, "lora": STILL, **settings})
        loading = ({"device": "cpu"} if model is None else {}) if loading is None else loading
        return tune(
            model or model_folder(),
            train if questions is None else questions,
            calibration,
            out=tmp_path / name,
            config=config,
            style=style,
            callbacks=callbacks,
            **loading,
        )

    return go


def weights(result):
    return load_file(result.adapter / "adapter_model.safetensors")


def assert_close(a, b, atol):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=atol, rtol=0)


def moved(result):
    """The largest entry of the adapter's B matrices, which start at zero."""
    return max(float(w.abs().max()) for name, w in weights(result).items() if "lora_B" in name)


# ---- one step -------------------------------------------------------------------------------------------------------


@BY_READING
@pytest.mark.parametrize("objective", ["cft", "sft", "rcft"])
def test_step_runs_one_forward_pass_a_micro_batch(run, model_folder, style, objective):
    own = load_model(model_folder(), device="cpu")
    passes = []
    own.model.model.register_forward_pre_hook(lambda module, _args: passes.append(1) if module.training else None)
    result = run(model=own, style=style, objective=objective, micro_batch_size=4)
    assert result.steps == 3
    assert len(passes) == 24 / 4


@BY_READING
@pytest.mark.parametrize("objective", ["cft", "sft", "rcft"])
def test_training_puts_no_more_than_the_rows_it_reads_through_the_head(run, model_folder, style, objective):
    own = load_model(model_folder(), device="cpu")
    seen = []
    own.model.lm_head.register_forward_hook(lambda _m, _a, out: seen.append(tuple(out.shape)))
    run(model=own, style=style, objective=objective)
    assert {shape[1] for shape in seen if len(shape) == 3} == {1}


@pytest.mark.parametrize(("objective", "n"), [("cft", 19), ("rcft", 24), ("rcft", 19)])
def test_one_times_eight_equals_eight_times_one(run, train, objective, n):
    """With 19 questions the last step has 3; every question must weigh the same however they are cut."""
    some = train.subset(range(n), "train")
    results = [
        run(f"{n}-{micro}", questions=some, objective=objective, micro_batch_size=micro, learning_rate=1e-3)
        for micro in (1, 8)
    ]
    assert [r.steps for r in results] == [3, 3]
    assert moved(results[0]) > 1e-4
    assert_close(*results, 1e-6)


class Logs(TrainerCallback):
    """Keeps what the trainer logs."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(dict(logs))


def test_logged_loss_is_the_mean_over_the_questions_of_the_step(run, train, model_folder):
    some, kept = train.subset(range(6), "train"), Logs()
    run(questions=some, micro_batch_size=4, callbacks=[kept])
    (logged,) = (entry for entry in kept.logs if "loss" in entry)
    before = score(model_folder(), some, device="cpu")
    answer_logp_N = before.logp_NK[np.arange(6), before.answer_N] + before.logmass_N
    assert logged["loss"] == pytest.approx(-answer_logp_N.mean(), rel=1e-4)
    assert logged["nll_answer"] == pytest.approx(logged["loss"], rel=1e-4)


@pytest.mark.parametrize("objective", ["cft", "rcft"])
def test_gradient_checkpointing_changes_nothing_but_memory(run, objective):
    plain = run("plain", objective=objective)
    frugal = run("frugal", objective=objective, gradient_checkpointing=True)
    assert_close(plain, frugal, 1e-6)


@BY_READING
def test_model_in_bfloat16_can_be_tuned(run, style):
    result = run(style=style, objective="rcft", loading={"device": "cpu", "dtype": "bfloat16"})
    assert moved(result) > 1e-5
    assert all(math.isfinite(point["nll"]) for point in result.history)


# ---- what it changes ------------------------------------------------------------------------------------------------


def test_same_seed_same_adapter_and_another_seed_another(run):
    lora = LoraSettings(rank=4, alpha=8, dropout=0.1)
    one, again, other = (run(f"s{i}", seed=seed, lora=lora) for i, seed in enumerate((1, 1, 2)))
    files = [(r.adapter / "adapter_model.safetensors").read_bytes() for r in (one, again, other)]
    assert files[0] == files[1] != files[2]
    assert [p["nll"] for p in one.history] == [p["nll"] for p in again.history]


def test_lambda_and_sft2_mean_reach_the_weights(run):
    results = [run(f"r{i}", objective="rcft", **s) for i, s in enumerate(({}, {"lam": 50.0}, {"sft2_mean": "token"}))]
    first = weights(results[0])
    for other in results[1:]:
        assert any((first[name] - w).abs().max() > 1e-5 for name, w in weights(other).items())


def test_base_weights_stay_as_they_were(run, model_folder):
    own = load_model(model_folder(), device="cpu")
    before = {name: w.clone() for name, w in own.model.state_dict().items()}
    result = run(model=own, learning_rate=1e-2)
    after = load_file(model_folder() / "model.safetensors")
    assert all(torch.equal(before[name], w) for name, w in after.items())
    in_memory = {
        name.replace(".base_layer", ""): w for name, w in own.model.state_dict().items() if "lora_" not in name
    }
    assert in_memory.keys() == before.keys()
    assert all(torch.equal(before[name], w) for name, w in in_memory.items())
    assert moved(result) > 1e-3


def test_adapter_covers_all_linear_layers_but_the_head(run):
    result = run()
    layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in weights(result)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert result.trained_parameters == sum(w.numel() for w in weights(result).values())


def test_full_fine_tuning_writes_a_model_of_its_own(run, model_folder, calibration):
    result = run(lora=None, learning_rate=1e-3)
    assert result.adapter is None
    assert result.trained_parameters == result.total_parameters
    after = score(result.weights, calibration, device="cpu")
    before = score(model_folder(), calibration, device="cpu")
    assert np.abs(after.p_NK - before.p_NK).max() > 1e-3
    assert nll(after.logp_NK, after.answer_N) == pytest.approx(result.history[-1]["nll"], abs=1e-5)


@pytest.mark.parametrize("style", [PromptStyle(format="chat"), TEXTS], ids=["chat", "continuation"])
def test_tuning_on_few_questions_lowers_their_own_nll_over_the_vocabulary(
    tmp_path, model_folder, train, calibration, style
):
    some = train.subset(range(8), "train")
    config = TuneConfig(epochs=20, batch_size=8, learning_rate=1e-2, lora=STILL, keep="last", warmup=0)
    result = tune(model_folder(), some, calibration, out=tmp_path / "run", config=config, style=style, device="cpu")
    before = score(model_folder(), some, style=style, device="cpu")
    after = score(model_folder(), some, style=style, adapter=result.adapter, device="cpu")
    nll_before, nll_after = (nll(s.logp_NK, s.answer_N) - s.logmass_N.mean() for s in (before, after))
    assert nll_after < 0.75 * nll_before
    assert after.logmass_N.mean() > before.logmass_N.mean() + 1  # over the full vocabulary, so the mass grows


# ---- what it keeps --------------------------------------------------------------------------------------------------


def rescored(result, model_folder, calibration):
    after = score(model_folder(), calibration, adapter=result.adapter, device="cpu")
    return nll(after.logp_NK, after.answer_N)


def test_best_keeps_the_weights_of_the_lowest_held_out_nll(run, model_folder, calibration):
    result = run(epochs=4, learning_rate=2e-2, patience=0)
    path = [point["nll"] for point in result.history[1:]]
    assert len(path) == 4
    assert path.index(min(path)) < 3  # the last evaluation is not the best one, so keeping matters
    assert rescored(result, model_folder, calibration) == pytest.approx(min(path), abs=1e-5)
    assert result.best_epoch == 1 + path.index(min(path))


def test_last_keeps_the_weights_of_the_last_step(run, model_folder, calibration):
    result = run(epochs=4, learning_rate=2e-2, patience=0, keep="last")
    assert rescored(result, model_folder, calibration) == pytest.approx(result.history[-1]["nll"], abs=1e-5)
    assert result.history[-1]["nll"] > min(point["nll"] for point in result.history[1:])
    assert result.best_epoch is None


def test_best_epoch_is_one_whose_weights_are_kept_even_when_tuning_only_harmed(run, model_folder, calibration):
    result = run(learning_rate=3.0, patience=0)
    assert result.history[0]["nll"] < result.history[1]["nll"]
    assert result.best_epoch == 1
    assert rescored(result, model_folder, calibration) == pytest.approx(result.history[1]["nll"], abs=1e-4)


def test_tuning_stops_after_patience_evaluations_without_a_better_nll(run):
    result = run(epochs=8, learning_rate=5e-2, schedule="constant_with_warmup", patience=2)
    path = [point["nll"] for point in result.history[1:]]
    assert result.stopped == "held-out NLL no longer fell"
    assert len(path) == path.index(min(path)) + 1 + 2
    assert result.steps == 3 * len(path)


def test_the_path_tells_the_accuracy_on_a_sample_of_the_training_questions(run, train, model_folder):
    """The sample does not change with the run's course, and costs nothing where it is not wanted."""
    result = run(epochs=2, train_sample=10, patience=0)
    picks = sorted(Random(0).sample(range(24), 10))
    before = score(model_folder(), train.subset(picks, "sample"), device="cpu")
    assert [p["train_n"] for p in result.history] == [10] * 3
    assert result.history[0]["train_accuracy"] == before.correct_N.mean()
    after = score(model_folder(), train.subset(picks, "sample"), adapter=result.adapter, device="cpu")
    kept = next(p for p in result.history if p["epoch"] == result.best_epoch)
    assert kept["train_accuracy"] == after.correct_N.mean()
    assert run("all", train_sample=500).history[0]["train_n"] == 24
    assert "train_accuracy" not in run("none", train_sample=0).history[0]


def test_history_holds_the_start_and_each_evaluation_with_its_floor(run):
    result = run(epochs=2, evaluations_per_epoch=3, patience=0)
    assert [(p["step"], p["epoch"]) for p in result.history] == [(step, pytest.approx(step / 3)) for step in range(7)]
    assert all(p["n"] == 20 and 0 < p["floor_mean"] < p["floor_p95"] < 1 for p in result.history)
    assert result.stopped == "all epochs done"


def test_part_of_an_epoch_is_evaluated_at_its_end(run, model_folder, calibration):
    result = run(epochs=0.5)
    assert [p["step"] for p in result.history] == [0, 2]
    assert rescored(result, model_folder, calibration) == pytest.approx(result.history[-1]["nll"], abs=1e-5)


@pytest.mark.parametrize(("e_step", "times"), [("once", 1), ("each_evaluation", 2), ("cross_fitted", 2)])
def test_e_step_is_made_when_it_is_told_and_its_targets_stay_until_the_next(run, monkeypatch, e_step, times):
    """Two epochs: before the first, after it, and never after the last. Each question meets the target of its own scores."""
    trainer = importlib.import_module("calibrant.tuning.trainer")
    own_step, own_loss, made, met = trainer.e_step, trainer.batch_loss, [], []

    def step(seen, held_out, config):
        assert (seen.ids[0], held_out.ids[0]) == ("train-0", "calibration-0")
        made.append(own_step(seen, held_out, config))
        return made[-1]

    def loss(model, head, batch, config):
        for index, target_K in zip(batch["index_B"].tolist(), batch["target_BK"].tolist(), strict=True):
            met.append((len(made) - 1, index, target_K))
        return own_loss(model, head, batch, config)

    monkeypatch.setattr(trainer, "e_step", step)
    monkeypatch.setattr(trainer, "batch_loss", loss)
    result = run(objective="rcft", e_step=e_step, epochs=2, patience=0)
    assert len(made) == times
    n = len(made[0].target_NK)
    assert sorted(index for _, index, _ in met) == sorted(2 * list(range(n)))
    assert [which for which, _, _ in met] == [0] * n + [times - 1] * n
    for which, index, target_K in met:
        np.testing.assert_allclose(target_K, made[which].target_NK[index][: len(target_K)], rtol=1e-6)
    assert result.history[-1]["nll"] != result.history[0]["nll"]


@pytest.mark.parametrize("objective", ["cft", "sft"])
def test_objectives_without_a_calibration_term_have_no_e_step(run, monkeypatch, objective):
    trainer = importlib.import_module("calibrant.tuning.trainer")
    monkeypatch.setattr(trainer, "e_step", lambda *_: pytest.fail("no E-step here"))
    run(objective=objective)


def test_finished_run_is_returned_at_once_and_as_it_was(run, model_folder):
    first = run()
    stamp = (first.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    own = load_model(model_folder(), device="cpu")
    own.model.register_forward_pre_hook(lambda *_: pytest.fail("a finished run needs no pass"))
    assert run(model=own) == first == TuneResult.load(first.adapter.parent)
    assert (first.adapter / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    assert not (first.adapter.parent / "checkpoints").exists()


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_other_settings_or_questions_in_the_same_folder_are_refused(run, train):
    run()
    with pytest.raises(ConfigError, match="a different config"):
        run(learning_rate=1e-5)
    with pytest.raises(ConfigError, match="a different train"):
        run(questions=train.subset(range(10), "train"))
    with pytest.raises(ConfigError, match="a different prompt, prompt_digest"):
        run(style=TEXTS)


def test_folder_with_something_else_in_it_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not a run"):
        run("mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_question_in_both_sets_is_refused(run, train, calibration):
    with pytest.raises(LeakageError, match="calibration"):
        run(questions=QuestionSet("both", (*train, calibration[3])))


def test_no_questions_are_refused(run):
    with pytest.raises(QuestionError, match="none"):
        run(questions=QuestionSet("empty", ()))


def test_loading_arguments_for_a_loaded_model_are_refused(run, model_folder):
    with pytest.raises(ConfigError, match="loaded already"):
        run(model=load_model(model_folder(), device="cpu"), loading={"dtype": "bfloat16"})


def test_adapter_on_an_adapter_is_refused(run, model_folder):
    first = run()
    stacked = load_model(model_folder(), adapter=first.adapter, device="cpu")
    with pytest.raises(ModelError, match="merge"):
        run("second", model=stacked)


def test_adapter_on_modules_that_are_not_there_names_them(run):
    with pytest.raises(ModelError, match="no_such_layer"):
        run(lora=LoraSettings(targets=("no_such_layer",)))


@pytest.mark.parametrize("objective", ["cft", "rcft"])
def test_diverging_run_is_an_error_that_names_the_learning_rate(run, tmp_path, objective):
    with pytest.raises(ModelError) as raised:
        run(objective=objective, learning_rate=1e30, max_grad_norm=1e30, warmup=0)
    assert "learning_rate" in raised.value.todo
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {"run.json", "checkpoints", ".lock"}


def test_loss_that_is_nan_in_one_step_is_not_averaged_away(run, tmp_path):
    class Poison(TrainerCallback):
        """Makes the first step's loss NaN, and takes its harm away before anyone scores."""

        def on_step_begin(self, args, state, control, model=None, **_):
            if state.global_step == 0:
                self.kept = {name: w.clone() for name, w in model.named_parameters() if w.requires_grad}
                next(w for w in model.parameters() if w.requires_grad).data.fill_(math.nan)

        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            for name, w in model.named_parameters():
                if name in self.kept:
                    w.grad = torch.zeros_like(w)

        def on_optimizer_step(self, args, state, control, model=None, **_):
            for name, w in model.named_parameters():
                if name in self.kept:
                    w.data.copy_(self.kept[name])

    with pytest.raises(ModelError, match="NaN or infinite"):
        run(callbacks=[Poison()])
    assert not (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "result.json").exists()
