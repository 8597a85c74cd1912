"""One test for each fault of the authors' release: ours does not have it."""

import json

import numpy as np
import pytest
import torch

from calibrant.errors import LeakageError, QuestionError
from calibrant.intake import load_questions
from calibrant.metrics import cw_ece
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.options import encode
from calibrant.tuning import LoraSettings, TuneConfig, tune
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.losses import Loss, ece_term, option_logp, regularised
from calibrant.tuning.targets import BinAccuracy, target_distribution

TEXTS = PromptStyle(reading="continuation")
LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)


def batch_of(tokenizer, questions, style, *, all_options=True):
    encoded = encode(tokenizer, list(questions), style)
    examples = [Example(e, q.answer) for e, q in zip(encoded, questions, strict=True)]
    return encoded, Collator(style.reading == "letters", all_options, prompt_tokens=True)(examples)


def term_and_gradient(p, a):
    joint_BK = torch.tensor([p]).log().requires_grad_()
    logp_BK = option_logp(joint_BK)
    target_BK = target_distribution(logp_BK.detach().exp(), torch.tensor([len(p)]), torch.tensor([a]))
    term = ece_term(logp_BK, target_BK)
    term.value.backward()
    return term.value.item(), joint_BK.grad[0]


@pytest.mark.parametrize("confidence", [0.901, 0.95, 0.999])
def test_top_bin_is_regularised(confidence):
    held_out = Scores.from_probs([[confidence, 1 - confidence]] * 20, [0] * 12 + [1] * 8)
    (a,) = BinAccuracy.of(held_out).of_confidence(np.array([confidence]))
    assert a == pytest.approx(0.6)
    value, gradient_K = term_and_gradient([confidence, 1 - confidence], a)
    assert value == pytest.approx(2 * (confidence - 0.6) ** 2, rel=1e-4)
    assert gradient_K[0] > 0  # down with the confidence


def test_calibration_term_has_the_weight_it_is_given_whatever_the_bins_hold():
    """p = (.8, .2), a = .5: .09 + .09 = .18; λ = 2 adds .36, with 20 questions in the bin or 20,000."""
    for count in (20, 20_000):
        bins = BinAccuracy.of(Scores.from_probs([[0.8, 0.2]] * count, [0, 1] * (count // 2)))
        value, _ = term_and_gradient([0.8, 0.2], bins.of_confidence(np.array([0.8]))[0])
        assert value == pytest.approx(0.18, rel=1e-5)
        mixed = regularised(Loss(torch.tensor(1.0), {}), Loss(torch.tensor(value), {}), 2.0)
        assert mixed.value.item() == pytest.approx(1.36, rel=1e-5)


def test_target_is_detached():
    logits_BK = torch.tensor([[2.0, 0.5, -1.0]], requires_grad=True)
    logp_BK = torch.log_softmax(logits_BK, 1)
    target_BK = target_distribution(logp_BK.exp(), torch.tensor([3]), torch.tensor([0.5]))
    (through,) = torch.autograd.grad(ece_term(logp_BK, target_BK).value, logits_BK, retain_graph=True)
    (constant,) = torch.autograd.grad(((logp_BK.exp() - target_BK.clone()) ** 2).sum(), logits_BK)
    assert not target_BK.requires_grad
    torch.testing.assert_close(through, constant)


def test_training_question_in_a_bin_without_held_out_ones_has_a_finite_loss():
    scores = Scores.from_probs([[0.55, 0.45]] * 30, [0] * 20 + [1] * 10)
    for prior, min_bin in ((4.0, 10), (0.0, 0)):
        bins = BinAccuracy.of(scores, prior=prior, min_bin=min_bin)
        value, gradient_K = term_and_gradient([0.97, 0.03], bins.of_confidence(np.array([0.97]))[0])
        assert np.isfinite(value)
        assert value > 0
        assert torch.isfinite(gradient_K).all()


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
def test_answer_is_read_where_the_prompt_ends_not_at_a_fixed_position(tokenizer, make_questions, style):
    questions = make_questions("x", 4, ks=(2, 5))
    encoded, batch = batch_of(tokenizer, questions, style)
    rows = iter(range(len(batch["input_ids"])))
    places = set(zip(batch["read_row_S"].tolist(), batch["read_step_S"].tolist(), strict=True))
    expected = set()
    for e in encoded:
        if style.reading == "letters":
            expected.add((next(rows), len(e.prompt) - 1))
        else:
            for (alias,) in e.options:
                row = next(rows)
                expected |= {(row, len(e.prompt) - 1 + t) for t in range(len(alias))}
    assert places == expected
    assert len({batch["input_ids"].shape[1] - step for _, step in places}) > 1  # no offset from the end would do


def test_answer_colon_a_keeps_its_colon_in_the_prompt_and_the_letter_apart(make_merging_tokenizer):
    merging = make_merging_tokenizer([(":", "A"), (":", "B")])
    questions = [Question("q", "Up?", ("yes", "no"), 0)]
    (encoded,), batch = batch_of(merging, questions, PromptStyle())
    read = batch["input_ids"][batch["read_row_S"], batch["read_step_S"]]
    assert merging.convert_ids_to_tokens(read.tolist()) == [":"]
    assert merging.convert_ids_to_tokens([alias[0] for aliases in encoded.options for alias in aliases]) == ["A", "B"]


def test_epochs_do_not_nest_and_each_step_is_one_forward_pass(tmp_path, model_folder, make_questions):
    """5 epochs of 16 questions in steps of 8: 10 passes that see each question 5 times, not 25."""
    own, rows = load_model(model_folder(), device="cpu"), []

    def count(module, _args, inputs):
        if module.training:
            rows.append(len(inputs["input_ids"]))

    own.model.register_forward_pre_hook(count, with_kwargs=True)
    config = TuneConfig(objective="rcft", epochs=5, batch_size=8, patience=0, lora=LORA)
    result = tune(own, make_questions("train", 16), make_questions("cal", 8), out=tmp_path / "run", config=config)
    assert result.steps == 10
    assert rows == [8] * 10


def test_number_of_options_is_the_questions_own_everywhere(loaded, make_questions):
    """K = 2: one question, p = (.9, .1), y = 0. Classes: |1 − .9| = .1 and |0 − .1| = .1; a mean over 2, not 4: .1."""
    assert cw_ece(np.array([[0.9, 0.1]]), np.array([0]), np.array([2])) == pytest.approx(0.1)
    p_BK = torch.tensor([[0.4, *[0.1] * 6]])
    t_BK = target_distribution(p_BK, torch.tensor([7]), torch.tensor([0.4]))
    assert t_BK[0].tolist() == pytest.approx([0.4, *[0.1] * 6])
    scores = score(loaded(), make_questions("x", 3, ks=(2, 7, 12)))
    assert scores.k_N.tolist() == [2, 7, 12]


def test_batch_that_raises_stops_the_scoring_instead_of_leaving_questions_out(tokenizer, make_model, make_questions):
    model = make_model("llama", tokenizer)
    own, calls = LoadedModel(model, tokenizer, {"model": "tiny"}), []

    def fail_late(_module, _args):
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("out of memory")

    model.model.register_forward_pre_hook(fail_late)
    with pytest.raises(RuntimeError, match="out of memory"):
        score(own, make_questions("x", 20), batch_tokens=1)


def test_batch_that_raises_stops_the_training_and_leaves_no_adapter(tmp_path, model_folder, make_questions):
    own, calls = load_model(model_folder(), device="cpu"), []

    def fail_once(module, _args):
        calls.append(module.training)
        if sum(calls) == 2:
            raise RuntimeError("out of memory")

    own.model.register_forward_pre_hook(fail_once)
    config = TuneConfig(epochs=1, batch_size=8, lora=LORA)
    with pytest.raises(RuntimeError, match="out of memory"):
        tune(own, make_questions("train", 16), make_questions("cal", 8), out=tmp_path / "run", config=config)
    assert not (tmp_path / "run" / "adapter").exists()


def test_temperature_is_fitted_to_its_optimum_and_never_on_the_questions_it_rescales():
    """Confidence .9 at accuracy .7 in two options: T = logit(.9)/logit(.7) = 2.593, not the 1.5 it might start from."""
    fit = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3)
    scaler = Temperature().fit(fit)
    assert scaler.temperature_ == pytest.approx(np.log(9) / np.log(7 / 3), rel=1e-6)
    with pytest.raises(LeakageError):
        scaler.apply(fit)


@pytest.mark.parametrize("answer", [4, -1, "E", "7"])
def test_label_out_of_range_is_an_error_not_a_modulo(answer):
    row = {"question": "Up?", "choices": ["a", "b", "c", "d"], "answer": answer}
    with pytest.raises(QuestionError, match="4 options"):
        load_questions([row], name="bad")
    if isinstance(answer, int):
        with pytest.raises(QuestionError, match="4 options"):
            Question("q", "Up?", ("a", "b", "c", "d"), answer)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_apostrophes_and_quotes_in_options_are_read_as_they_stand(tmp_path, kind):
    choices = ["the dog's", 'say "no"', "it's, isn't it", "['a', 'b']"]
    path = tmp_path / f"q.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps({"question": "Whose?", "choices": choices, "answer": 2}) + "\n")
    elif kind == "csv":
        import csv

        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["question", "A", "B", "C", "D", "answer"], ["Whose?", *choices, "C"]])
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"question": ["Whose?"], "choices": [choices], "answer": [2]}), path)
    (question,) = load_questions(path)
    assert question.choices == tuple(choices)
    assert question.answer == 2
