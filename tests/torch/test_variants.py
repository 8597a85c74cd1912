"""What tuning teaches over the options is what scoring reads, in every variant of a continuation's score."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from calibrant.metrics import nll
from calibrant.prompts import PromptStyle
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.head import Head
from calibrant.scoring.options import Encoded, encode
from calibrant.tuning import LoraSettings, TuneConfig, tune
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss, forward, joint_logp, read_logp
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.start import smoothed

VARIANTS = ("sum", "per_token", "per_char", "pmi")
OVER_OPTIONS = {
    f"{name}-options": {"objective": name, "over": "options"} for name in ("cft", "label_smoothing", "cogcalib")
}
COMPARING = {
    **OVER_OPTIONS,
    **{name: {"objective": name} for name in ("rcft", "focal", "brier", "mmce", "soft_ece", "distill")},
}
LABELS_ALONE = {name: {"objective": name} for name in ("cft", "sft", "label_smoothing", "cogcalib")}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def questions(make_questions):
    return list(make_questions("x", 6, ks=(4, 2, 3)))


@pytest.fixture
def double(tokenizer, make_model):
    return LoadedModel(make_model("llama", tokenizer).double().requires_grad_(True), tokenizer, {"model": "tiny"})


def styled(variant):
    return PromptStyle(reading="continuation", variant=variant)


def loss_of(scores):
    return nll(scores.logp_NK, scores.answer_N)


def cross_entropy(taught_NK, logp_NK):
    present_NK = np.isfinite(taught_NK)
    return -float((np.exp(taught_NK[present_NK]) * logp_NK[present_NK]).sum()) / len(taught_NK)


def examples_of(loaded, questions, variant):
    encoded = encode(loaded.tokenizer, questions, styled(variant))
    return [
        Example(e, q.answer, target=smoothed(q.answer, len(q.choices), 0.3))
        for e, q in zip(encoded, questions, strict=True)
    ]


def test_lengths_by_hand():
    """Options of 3, 1 and 2 tokens and 9, 1 and 4 characters; two questions, so the shorter one is padded with ones."""
    encoded = Encoded("q", (5, 6, 7), (((1, 2, 3),), ((4,),), ((8, 9),)), (5,), (9, 1, 4))
    assert [encoded.lengths(v) for v in VARIANTS] == [(1, 1, 1), (3, 1, 2), (9, 1, 4), (1, 1, 1)]
    shorter = replace(encoded, options=encoded.options[:2], n_chars=(9, 1))
    collate = Collator(letters=False, all_options=True, prompt_tokens=False, variant="per_char")
    assert collate([Example(encoded, 0), Example(shorter, 0)])["length_BK"].tolist() == [[9, 1, 4], [9, 1, 1]]


def test_length_divides_before_the_options_are_compared():
    """log-probabilities −6, −1 and −4 over 3, 1 and 2 tokens are −2, −1, −2: p = (1, e, 1) / (2 + e)."""
    batch = {"length_BK": torch.tensor([[3, 1, 2]])}
    p_K = read_logp(torch.tensor([[-6.0, -1.0, -4.0]], dtype=torch.float64), None, None, batch).exp()[0]
    total = 2 + np.e
    np.testing.assert_allclose(p_K.numpy(), [1 / total, np.e / total, 1 / total], rtol=1e-12)


@each_variant
def test_options_are_read_as_scoring_reads_them(double, questions, variant):
    """In plain and in packed rows."""
    examples = examples_of(double, questions, variant)
    head = Head.of(double.model)
    plain = Collator(letters=False, all_options=True, prompt_tokens=True, variant=variant)
    packed, facts = choose_rows(double.model, head, plain, examples)
    assert facts["route"] == "packed"
    assert packed.variant == variant
    wanted_NK = score(double, questions, style=styled(variant)).logp_NK
    for collate in (plain, packed):
        batch = collate(examples)
        joint_BK = joint_logp(forward(double.model, head, batch), head, batch)
        found_BK = read_logp(joint_BK, double.model, head, batch).detach().numpy()
        np.testing.assert_allclose(np.exp(found_BK), np.exp(wanted_NK), atol=1e-5)


@pytest.mark.parametrize("name", COMPARING)
def test_every_comparing_objective_depends_on_the_variant(double, questions, name):
    config = TuneConfig(**COMPARING[name])
    head, losses = Head.of(double.model), {}
    for variant in VARIANTS:
        collate = Collator(
            letters=False, all_options=True, prompt_tokens=config.predicts_prompt, packed=True, variant=variant
        )
        batch = collate(examples_of(double, questions, variant))
        losses[variant] = batch_loss(double.model, head, batch, config)[0].value.item()
    assert len({round(loss, 4) for loss in losses.values()}) == len(VARIANTS), losses


@pytest.mark.parametrize("name", LABELS_ALONE)
def test_loss_of_labels_over_the_vocabulary_does_not(double, questions, name):
    """Even where the batch tells lengths and bare options."""
    config, head, losses = TuneConfig(**LABELS_ALONE[name]), Head.of(double.model), []
    assert not config.compares_options
    for variant in VARIANTS:
        collate = Collator(
            letters=False, all_options=config.sees_all_options, prompt_tokens=config.predicts_prompt, variant=variant
        )
        batch = collate(examples_of(double, questions, variant))
        losses.append(batch_loss(double.model, head, batch, config)[0].value.item())
    assert losses == pytest.approx([losses[0]] * len(VARIANTS), rel=1e-9)


def test_only_the_term_of_brier_depends_on_the_variant_over_the_vocabulary(double, questions):
    head, found = Head.of(double.model), {}
    for lam in (0.0, 1.0):
        config = TuneConfig(objective="brier", lam=lam)
        for variant in ("sum", "per_char"):
            batch = Collator(letters=False, all_options=True, prompt_tokens=False, variant=variant)(
                examples_of(double, questions, variant)
            )
            found[lam, variant] = batch_loss(double.model, head, batch, config)[0].value.item()
    assert found[0.0, "sum"] == pytest.approx(found[0.0, "per_char"], rel=1e-9)
    assert abs(found[1.0, "sum"] - found[1.0, "per_char"]) > 1e-3


class FirstLoss(TrainerCallback):
    """Keeps the loss of the first logged step."""

    def __init__(self):
        self.loss = None

    def on_log(self, args, state, control, logs=None, **_):
        if self.loss is None and logs and "loss" in logs:
            self.loss = logs["loss"]


@pytest.mark.parametrize("objective", ["cft", "label_smoothing"])
@each_variant
def test_a_runs_first_step_is_the_loss_of_its_reading(tmp_path, model_folder, make_questions, variant, objective):
    """One step on all questions: over the options by the variant, over the vocabulary by none."""
    train, calibration = make_questions("train", 8, ks=(4, 3)), make_questions("calibration", 6, ks=(4,))
    first = FirstLoss()
    over = "options" if objective == "cft" else "vocabulary"
    config = TuneConfig(
        objective=objective, over=over, epochs=1, batch_size=8, lora=LoraSettings(rank=4, dropout=0.0), train_sample=0
    )
    tune(
        model_folder(),
        train,
        calibration,
        out=tmp_path / "run",
        style=styled(variant),
        config=config,
        callbacks=[first],
        device="cpu",
    )
    style = styled(variant if over == "options" else "sum")
    before = score(load_model(model_folder(), device="cpu"), train, style=style)
    if over == "options":
        wanted = loss_of(before)
    else:
        joint_NK = before.logp_NK + before.logmass_N[:, None]
        target_NK = [smoothed(q.answer, len(q.choices), config.epsilon) for q in train]
        wanted = -np.mean([np.dot(t, joint_K[: len(t)]) for t, joint_K in zip(target_NK, joint_NK, strict=True)])
    assert first.loss == pytest.approx(wanted, abs=2e-3)


def test_pmi_gradient_flows_through_both_passes(double, questions):
    """Finite differences of the log loss in one weight of the embedding of a token of the bare prompt and of an option."""
    config, head = TuneConfig(objective="cft", over="options"), Head.of(double.model)
    examples = examples_of(double, questions, "pmi")
    collate = Collator(letters=False, all_options=True, prompt_tokens=False, packed=True, variant="pmi")
    weight = double.model.get_input_embeddings().weight
    places = [(examples[0].encoded.unconditional[-1], 0), (examples[0].encoded.options[0][0][0], 1)]

    def loss():
        return batch_loss(double.model, head, collate(examples), config)[0].value

    loss().backward()
    for place in places:
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                weight[place] += step
                values.append(loss().item())
                weight[place] -= step
        slope = (values[0] - values[1]) / 2e-4
        assert abs(slope) > 1e-4
        assert weight.grad[place].item() == pytest.approx(slope, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize("objective", ["cft", "distill"])
def test_run_lowers_the_loss_of_the_reading_that_it_was_given(
    tmp_path, model_folder, make_questions, variant, objective
):
    """The path starts at what scoring says in that variant; training on the calibration questions' twins lowers it."""
    calibration = make_questions("calibration", 12, ks=(4, 3))
    train = make_questions("train", 24, ks=(4, 3))
    style = styled(variant)
    own = {"over": "options"} if objective == "cft" else {"teacher_temperature": 2.0}
    result = tune(
        model_folder(),
        train,
        calibration,
        out=tmp_path / "run",
        style=style,
        config=TuneConfig(
            objective=objective,
            epochs=3,
            batch_size=8,
            learning_rate=5e-3,
            lora=LoraSettings(rank=4, dropout=0.0),
            train_sample=24,
            **own,
        ),
        device="cpu",
    )
    before = score(load_model(model_folder(), device="cpu"), calibration, style=style)
    assert result.history[0]["nll"] == pytest.approx(loss_of(before), abs=1e-4)
    after = score(load_model(model_folder(), adapter=result.adapter, device="cpu"), train, style=style)
    untuned = score(load_model(model_folder(), device="cpu"), train, style=style)
    if objective == "cft":
        assert loss_of(after) < loss_of(untuned) - 0.02
    else:  # the teacher is the untuned model in this variant, at its own temperature
        taught_NK = untuned.logp_NK / result.start["teacher_temperature"]
        taught_NK -= np.logaddexp.reduce(taught_NK, axis=1, keepdims=True)
        assert cross_entropy(taught_NK, after.logp_NK) < cross_entropy(taught_NK, untuned.logp_NK)
