"""Each objective through the real trainer: what it teaches, what a step costs, what it refuses, and that it resumes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from calibrant.errors import ConfigError, QuestionError
from calibrant.objectives import OBJECTIVES
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.restoring import restore
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.head import Head
from calibrant.scoring.options import encode
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult, tune
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss
from calibrant.tuning.start import smoothed, with_targets
from calibrant.tuning.targets import folds_of

TEXTS = PromptStyle(reading="continuation")
STYLES = pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
STILL = LoraSettings(rank=4, alpha=8, dropout=0.0)
VARIANTS = {
    **{name: {"objective": name} for name in OBJECTIVES if name not in ("sft",)},
    "distill": {"objective": "distill", "teacher_temperature": 2.0},  # at chance none can be fitted
    "cft-options": {"objective": "cft", "over": "options"},
    "rcft-sft1": {"objective": "rcft", "language": "sft1", "over": "options"},
    "rcft-cross": {"objective": "rcft", "e_step": "cross_fitted"},
}
BATCHED = ("mmce", "soft_ece")


@pytest.fixture(scope="module")
def sets(make_questions):
    return make_questions("train", 19, ks=(4, 2, 3)), make_questions("calibration", 20, ks=(4, 3))


@pytest.fixture
def run(tmp_path, model_folder, sets):
    def go(name="run", *, style=None, questions=None, calibration=None, callbacks=(), model=None, **settings):
        config = TuneConfig(**{"epochs": 1, "batch_size": 8, "lora": STILL, "learning_rate": 1e-3, **settings})
        loading = {"device": "cpu"} if model is None else {}
        return tune(
            model or model_folder(),
            questions or sets[0],
            calibration or sets[1],
            out=tmp_path / name,
            config=config,
            style=style,
            callbacks=callbacks,
            **loading,
        )

    return go


def weights(result):
    return load_file(result.adapter / "adapter_model.safetensors")


def assert_same(a, b, atol):
    first, second = weights(a), weights(b)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=atol, rtol=0)


# ---- the loss of a batch --------------------------------------------------------------------------------------------


def loss_of(loaded, questions, style, config, start=None):
    pairs = zip(encode(loaded.tokenizer, list(questions), style), questions, strict=True)
    examples = [Example(e, q.answer, smoothed(q.answer, len(q.choices), 0.3)) for e, q in pairs]
    if start is not None:
        examples, _ = with_targets(examples, config, lambda name: start[name], start["folder"])
    collate = Collator(
        letters=style.reading == "letters", all_options=config.sees_all_options, prompt_tokens=config.predicts_prompt
    )
    return batch_loss(loaded.model, Head.of(loaded.model), collate(examples), config)


def double(tokenizer, make_model):
    return LoadedModel(make_model("llama", tokenizer).double(), tokenizer, {"model": "tiny"})


@STYLES
def test_limits_through_a_model(tokenizer, make_model, make_questions, tmp_path, style):
    """ε = 0 is CFT, γ = 0 is CFT over the options, λ = 0 is the loss without the term; over both normalisations."""
    loaded, questions = double(tokenizer, make_model), list(make_questions("x", 5, ks=(2, 4, 3)))
    start = {"folder": tmp_path, "train": score(loaded, questions, style=style)}

    def value(**settings):
        return loss_of(loaded, questions, style, TuneConfig(**settings), start)[0].value.item()

    for over in ("vocabulary", "options"):
        cft = value(objective="cft", over=over)
        assert cft > 0
        for same in (
            {"objective": "label_smoothing", "epsilon": 0.0},
            {"objective": "cogcalib", "epsilon": 0.0},
            {"objective": "brier", "lam": 0.0},
            {"objective": "mmce", "lam": 0.0},
            {"objective": "soft_ece", "lam": 0.0},
            {"objective": "rcft", "language": "sft1", "lam": 0.0},
        ):
            assert value(over=over, **same) == pytest.approx(cft, rel=1e-6), same
            changed = {**same, "over": over, **({"lam": 2.0} if "lam" in same else {"epsilon": 0.3})}
            assert value(**changed) != pytest.approx(cft, rel=1e-4), changed
    assert value(objective="focal", gamma=0.0) == pytest.approx(value(objective="cft", over="options"), rel=1e-6)
    assert value(objective="cft") > value(objective="cft", over="options")
    assert value(objective="rcft", lam=0.0) == pytest.approx(value(objective="sft"), rel=1e-6)


@STYLES
def test_self_distillation_at_temperature_one_has_nothing_to_teach(
    tokenizer, make_model, make_questions, tmp_path, style
):
    loaded, questions = double(tokenizer, make_model), list(make_questions("x", 5, ks=(2, 4, 3)))
    loaded.model.requires_grad_(True)
    start = {"folder": tmp_path, "train": score(loaded, questions, style=style)}
    norms = []
    for temperature in (1.0, 3.0):
        config = TuneConfig(objective="distill", teacher_temperature=temperature)
        loss, _ = loss_of(loaded, questions, style, config, start)
        loss.value.backward()
        norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in loaded.model.parameters() if p.grad is not None)))
        loaded.model.zero_grad()
        kl = float(loss.metrics["kl_target"])
        assert kl == pytest.approx(0.0, abs=1e-5) if temperature == 1.0 else kl > 0.01
    assert norms[0] < 1e-4 * norms[1]


# ---- what the start says --------------------------------------------------------------------------------------------


def scores_of(p_NK, answer_N):
    return Scores.from_probs(p_NK, answer_N)


def examples_for(answers, k=2):
    from calibrant.scoring.options import Encoded

    return [Example(Encoded(str(i), (1,), ((((2,),)) * k), (1,), (1,) * k), a) for i, a in enumerate(answers)]


def test_cogcalib_smooths_known_questions_only(tmp_path):
    """The untuned model says option 0 each time; it is right on the first and third."""
    start = {"train": scores_of([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [0, 1, 0])}
    config = TuneConfig(objective="cogcalib", epsilon=0.2)
    taught, facts = with_targets(examples_for([0, 1, 0]), config, lambda name: start[name], tmp_path)
    assert [e.target for e in taught] == [pytest.approx(t) for t in ((0.9, 0.1), (0.0, 1.0), (0.9, 0.1))]
    assert facts == {"known_share": pytest.approx(2 / 3)}


def test_distill_softens_the_untuned_model_by_a_temperature_from_the_calibration_questions(tmp_path):
    """Calibration: says .9, right 70 %: T = logit .9 / logit .7; so .9 is taught as .7, whatever the answer is."""
    start = {
        "train": scores_of([[0.9, 0.1], [0.5, 0.5]], [1, 0]),
        "calibration": scores_of([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3),
    }
    taught, facts = with_targets(
        examples_for([1, 0]), TuneConfig(objective="distill"), lambda name: start[name], tmp_path
    )
    assert facts["teacher_temperature"] == pytest.approx(2.593, abs=1e-3)
    assert taught[0].target == pytest.approx((0.7, 0.3), abs=1e-6)
    assert taught[1].target == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("answers", [[1] * 10, [0] * 10], ids=["worse than chance", "always right"])
def test_distill_has_no_teacher_where_no_temperature_is_best(tmp_path, answers):
    """The log loss falls without end, to a uniform or a certain teacher: neither is anything to teach."""
    start = {name: scores_of([[0.9, 0.1]] * 10, answers) for name in ("train", "calibration")}
    with pytest.raises(ConfigError, match="none is best"):
        with_targets(examples_for([0] * 10), TuneConfig(objective="distill"), start.get, tmp_path)


def test_start_is_scored_once_and_kept(tmp_path):
    calls = []

    def scoring(name):
        calls.append(name)
        return scores_of([[0.9, 0.1]] * 3, [0, 0, 1])

    config = TuneConfig(objective="distill")
    first, _ = with_targets(examples_for([0, 0, 0]), config, scoring, tmp_path)
    again, _ = with_targets(examples_for([0, 0, 0]), config, scoring, tmp_path)
    assert calls == ["train", "calibration"]
    assert first == again


def test_run_records_what_the_untuned_model_set(run, model_folder, sets):
    own = load_model(model_folder(), device="cpu")
    before = score(own, sets[1])
    answers = np.where(np.arange(before.n) < 14, before.prediction_N, (before.prediction_N + 1) % before.k_N)
    marked = [replace(q, answer=int(y)) for q, y in zip(sets[1], answers, strict=True)]  # 14 of 20 right: T is finite
    known = score(own, sets[0]).correct_N.mean()
    temperature = Temperature().fit(score(own, marked)).temperature_
    assert run("a", objective="cogcalib").start == {"known_share": pytest.approx(known)}
    result = run("b", objective="distill", epochs=2, calibration=QuestionSet("calibration", tuple(marked)))
    assert result.start == {"teacher_temperature": pytest.approx(temperature, rel=1e-3)}
    assert TuneResult.load(result.adapter.parent) == result


# ---- cross-fitting --------------------------------------------------------------------------------------------------


def test_folds_are_of_equal_size_and_repeat_for_a_seed():
    fold_N = folds_of(23, 0)
    assert sorted(np.bincount(fold_N)) == [4, 4, 5, 5, 5]
    assert (fold_N == folds_of(23, 0)).all()
    assert (fold_N != folds_of(23, 1)).any()
    assert sorted(folds_of(3, 0)) == [0, 1, 2]


def test_one_question_cannot_be_cross_fitted(run, sets):
    with pytest.raises(QuestionError, match="one training question"):
        run(objective="rcft", e_step="cross_fitted", questions=sets[0].subset([0], "train"))


# ---- a step ---------------------------------------------------------------------------------------------------------


@STYLES
@pytest.mark.parametrize("name", VARIANTS)
def test_step_is_one_forward_pass_of_one_row_a_question_and_changes_the_weights(run, model_folder, style, name):
    own = load_model(model_folder(), device="cpu")
    passes = []
    own.model.model.register_forward_pre_hook(
        lambda module, _args, more: passes.append(len(more["input_ids"])) if module.training else None,
        with_kwargs=True,
    )
    result = run(model=own, style=style, **VARIANTS[name])
    assert passes == [8, 8, 3]
    assert max(float(w.abs().max()) for key, w in weights(result).items() if "lora_B" in key) > 1e-4
    assert math.isfinite(result.history[-1]["nll"])


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in ("cft", "rcft", *BATCHED)])
def test_one_times_eight_equals_eight_times_one(run, model_folder, name):
    """The last step has 3 of 19 questions; every question must weigh the same however they are cut. In float64: AdamW divides
    by the size of a gradient, so that in float32 the rounding of one near 0 moves a weight by more than the tolerance.
    """
    results = []
    for micro in (1, 8):
        own = load_model(model_folder(), device="cpu")
        own.model.double()
        results.append(run(f"{micro}", model=own, style=TEXTS, micro_batch_size=micro, **VARIANTS[name]))
    assert_same(*results, 1e-9)


class Broken(Exception):
    pass


class BreakAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            raise Broken


@pytest.mark.parametrize("name", ["distill", "cogcalib", "rcft-cross"])
def test_broken_run_goes_on_to_the_same_bytes(run, name):
    """Teacher, known questions and fold accuracies are those of the first start."""
    more = {"epochs": 2, "patience": 0, "style": TEXTS, **VARIANTS[name]}
    with pytest.raises(Broken):
        run("a", callbacks=[BreakAt()], **more)
    resumed, whole = run("a", **more), run("b", **more)
    first, second = ((r.adapter / "adapter_model.safetensors").read_bytes() for r in (resumed, whole))
    assert first == second
    assert (resumed.history, resumed.start) == (whole.history, whole.start)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", BATCHED)
def test_statistic_of_the_batch_is_not_cut(objective):
    with pytest.raises(ConfigError, match="statistic of the whole batch"):
        TuneConfig.make({"objective": objective, "batch_size": 8, "micro_batch_size": 4})
    assert TuneConfig.make({"objective": objective, "batch_size": 8, "micro_batch_size": 8}).accumulation_unit == 8


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"objective": "cft", "lam": 2.0}, "lam 2.0"),
        ({"objective": "cft", "gamma": 1.0}, "gamma 1.0"),
        ({"objective": "focal", "over": "options"}, "over 'options'"),
        ({"objective": "distill", "epsilon": 0.2}, "epsilon 0.2"),
        ({"objective": "label_smoothing", "teacher_temperature": 2.0}, "teacher_temperature"),
        ({"objective": "brier", "e_step": "once"}, "e_step"),
        ({"objective": "mmce", "soft_bin_temperature": 0.1}, "soft_bin_temperature"),
        ({"objective": "rcft", "over": "options"}, "over 'options'"),
        ({"objective": "rcft", "language": "sft1", "sft2_mean": "token"}, "sft2_mean"),
    ],
    ids=lambda value: value["objective"] if isinstance(value, dict) else "",
)
def test_setting_of_another_objective_is_refused_before_anything_is_loaded(tmp_path, sets, settings, named):
    with pytest.raises(ConfigError, match=named) as raised:
        tune("no-such-model", *sets, out=tmp_path, config=TuneConfig(**settings))
    assert "belongs to" in raised.value.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_own_settings_are_accepted_and_survive_a_round_trip(name):
    config = TuneConfig(**VARIANTS[name])
    config.check()
    assert TuneConfig.make(config.model_dump(mode="json")) == config


def test_settings_for_another_objective_keep_what_it_uses():
    config = TuneConfig(objective="rcft", lam=3.0, language="sft1", epochs=5)
    assert config.for_objective("brier") == TuneConfig(objective="brier", lam=3.0, epochs=5)
    assert config.for_objective("cft") == TuneConfig(objective="cft", epochs=5)


def test_restore_refuses_settings_that_the_named_objective_has_no_use_for(tmp_path, make_questions):
    splits = {name: make_questions(name, 4) for name in ("train", "calibration", "test")}
    with pytest.raises(ConfigError, match="lam 2"):
        restore("no-such-model", splits, out=tmp_path / "r", objective="cft", config=TuneConfig(lam=2.0))
