"""What tuning teaches over the options is what scoring reads, in every variant of a continuation's score."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibrant.metrics import nll
from calibrant.prompts import PromptStyle
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.head import Head
from calibrant.scoring.options import Encoded, encode
from calibrant.tuning import LoraSettings, TuneConfig, tune
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss, forward, joint_logp, read_logp
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.targets import BinAccuracy

VARIANTS = ("sum", "per_token", "per_char", "pmi")
COMPARING = {
    "cft-options": {"objective": "cft", "over": "options"},
    **{name: {"objective": name} for name in ("rcft", "focal", "brier", "mmce", "soft_ece")},
}
BINS = BinAccuracy(np.linspace(0.1, 0.9, 10), np.full(10, 20))
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
    return [Example(e, q.answer) for e, q in zip(encoded, questions, strict=True)]


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
        losses[variant] = batch_loss(double.model, head, batch, config, BINS)[0].value.item()
    assert len({round(loss, 4) for loss in losses.values()}) == len(VARIANTS), losses


def test_loss_over_the_vocabulary_does_not(double, questions):
    config, head, losses = TuneConfig(objective="cft"), Head.of(double.model), set()
    for variant in VARIANTS:
        collate = Collator(letters=False, all_options=False, prompt_tokens=False, variant=variant)
        batch = collate(examples_of(double, questions, variant))
        assert "bare" not in batch
        losses.add(batch_loss(double.model, head, batch, config, None)[0].value.item())
    assert len(losses) == 1


def test_pmi_gradient_flows_through_both_passes(double, questions):
    """Finite differences of the log loss in one weight of the embedding of a token of the bare prompt and of an option."""
    config, head = TuneConfig(objective="cft", over="options"), Head.of(double.model)
    examples = examples_of(double, questions, "pmi")
    collate = Collator(letters=False, all_options=True, prompt_tokens=False, packed=True, variant="pmi")
    weight = double.model.get_input_embeddings().weight
    places = [(examples[0].encoded.unconditional[-1], 0), (examples[0].encoded.options[0][0][0], 1)]

    def loss():
        return batch_loss(double.model, head, collate(examples), config, None)[0].value

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
    over = {"over": "options"} if objective == "cft" else {}
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
            **over,
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
