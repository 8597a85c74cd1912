"""The losses against hand-worked numbers, torch's own cross entropy, and gradients in float64."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from calibrant.prompts import PromptStyle
from calibrant.scoring import LoadedModel, score
from calibrant.scoring.head import Head
from calibrant.scoring.options import encode
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.losses import Loss, ece_term, option_logp, regularised, sft1, sft2
from calibrant.tuning.objective import batch_loss, joint_logp

TEXTS = PromptStyle(reading="continuation")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sft1_is_the_sum_of_negative_answer_log_probabilities():
    """−ln ½ − ln ¼ = ln 8."""
    assert float(sft1(torch.tensor([0.5, 0.25]).log()).value) == pytest.approx(math.log(8))


def test_sft2_by_token_and_by_question():
    """Two questions: answers ln ½, ln ¼; prompt tokens ln ½, ln ½ of the first, ln ⅛ of the second; 3 and 2 tokens.

    By question: 3 ln 2 + 5 ln 2 = 8 ln 2. By token: 3 ln 2 / 3 + 5 ln 2 / 2 = 3.5 ln 2.
    """
    parts = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.5, 0.125, 0.5]).log(), torch.tensor([0, 1, 0])
    tokens_B = torch.tensor([3, 2])
    assert float(sft2(*parts, tokens_B, mean="question").value) == pytest.approx(8 * math.log(2))
    assert float(sft2(*parts, tokens_B, mean="token").value) == pytest.approx(3.5 * math.log(2))


def test_ece_term_is_the_squared_distance_to_the_target():
    """p = (.9, .1, absent), t = (.6, .4, 0): .09 + .09."""
    logp_BK = torch.tensor([[math.log(0.9), math.log(0.1), -math.inf]])
    assert float(ece_term(logp_BK, torch.tensor([[0.6, 0.4, 0.0]])).value) == pytest.approx(0.18)


def test_a_calibration_term_is_added_at_the_weight_it_is_told():
    language, term = Loss(torch.tensor(2.0), {}), Loss(torch.tensor(0.5), {})
    assert float(regularised(language, term, 1.0).value) == 2.5
    assert float(regularised(language, term, 4.0).value) == 4.0
    assert float(regularised(language, term, 0.0).value) == 2.0


def test_option_logp_normalises_present_options_only():
    joint_BK = torch.tensor([[-1.0, -2.0, -math.inf]], dtype=torch.float64)
    logp_BK = option_logp(joint_BK)
    assert logp_BK[0, :2].tolist() == pytest.approx([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))])
    assert logp_BK[0, 2] == -math.inf


def test_gradients_in_float64():
    present_BK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    target_BK = torch.softmax(random(3, 4, seed=5), 1) * present_BK
    question_L, tokens_B = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([3, 3, 2])

    def masked(x_BK):
        return torch.where(present_BK, x_BK, torch.full_like(x_BK, -torch.inf))

    def finite_part(logp_BK):
        return torch.where(present_BK, logp_BK, torch.zeros_like(logp_BK))

    def calibration(x_BK):
        return ece_term(option_logp(masked(x_BK)), target_BK).value

    def both(answer_B, prompt_L, x_BK):
        language = sft2(answer_B, prompt_L, question_L, tokens_B, mean="token")
        return regularised(language, ece_term(option_logp(masked(x_BK)), target_BK), 0.7).value

    x_BK, answer_B, prompt_L = (t.requires_grad_() for t in (random(3, 4), random(3, seed=1), random(5, seed=2)))
    assert gradcheck(lambda a: sft1(a).value, (answer_B,))
    for mean in ("token", "question"):
        assert gradcheck(lambda a, p, m=mean: sft2(a, p, question_L, tokens_B, mean=m).value, (answer_B, prompt_L))
    assert gradcheck(lambda x: finite_part(option_logp(masked(x))), (x_BK,))
    assert gradcheck(calibration, (x_BK,))
    assert gradcheck(both, (answer_B, prompt_L, x_BK))


def test_absent_options_get_no_gradient():
    joint_BK = torch.tensor([[-1.0, -2.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    ece_term(option_logp(joint_BK), torch.tensor([[0.2, 0.8, 0.0]], dtype=torch.float64)).value.backward()
    assert torch.isfinite(joint_BK.grad).all()
    assert joint_BK.grad[0, 2] == 0
    assert joint_BK.grad[0, 0] > 0 > joint_BK.grad[0, 1]  # p_1 = .73 is above its target: down with it


def test_target_gets_no_gradient():
    logits_BK = random(2, 3).requires_grad_()
    target_BK = torch.softmax(logits_BK, 1)
    ece_term(torch.log_softmax(random(2, 3, seed=3), 1).requires_grad_(), target_BK).value.backward()
    assert logits_BK.grad is None


# ---- through a model ------------------------------------------------------------------------------------------------


def config(objective, **more):
    return TuneConfig(objective=objective, **more)


def target_of(question):
    """What rcft draws its options to here: shares 1, 2, … K of the whole."""
    k = len(question.choices)
    return tuple((i + 1) / (k * (k + 1) / 2) for i in range(k))


def collated(loaded, questions, style, objective):
    encoded = encode(loaded.tokenizer, list(questions), style)
    examples = [Example(e, q.answer, target_of(q)) for e, q in zip(encoded, questions, strict=True)]
    settings = TuneConfig(objective=objective)
    collate = Collator(
        letters=style.reading == "letters",
        all_options=settings.sees_all_options,
        prompt_tokens=settings.predicts_prompt,
    )
    return encoded, collate(examples), examples


def loss_of(loaded, questions, style, settings):
    _, batch, _ = collated(loaded, questions, style, settings.objective)
    return batch_loss(loaded.model, Head.of(loaded.model), batch, settings)


def test_cft_is_torchs_cross_entropy_over_the_full_vocabulary(loaded, make_questions):
    """Continuations have one token sequence an option, so −log π(y|x) is plain cross entropy of its tokens."""
    questions = make_questions("x", 6, ks=(2, 4, 3))
    model = loaded("llama")
    encoded, _, _ = collated(model, questions, TEXTS, "cft")
    wanted = 0.0
    for e, q in zip(encoded, questions, strict=True):
        answer = e.options[q.answer][0]
        with torch.no_grad():
            logits_TV = model.model(input_ids=torch.tensor([[*e.prompt, *answer]])).logits[0]
        wanted += float(cross_entropy(logits_TV[len(e.prompt) - 1 : -1], torch.tensor(answer), reduction="sum"))
    loss, _ = loss_of(model, questions, TEXTS, config("cft"))
    assert loss.value.item() == pytest.approx(wanted, rel=1e-5)


def test_cft_of_a_letter_sums_its_aliases_over_the_full_vocabulary(loaded, make_questions):
    questions = make_questions("x", 5, ks=(2, 4))
    model = loaded("gemma2")
    encoded, _, _ = collated(model, questions, PromptStyle(), "cft")
    wanted = 0.0
    for e, q in zip(encoded, questions, strict=True):
        with torch.no_grad():
            p_V = torch.softmax(model.model(input_ids=torch.tensor([e.prompt])).logits[0, -1].double(), 0)
        wanted -= math.log(sum(float(p_V[alias[0]]) for alias in e.options[q.answer]))
    loss, _ = loss_of(model, questions, PromptStyle(), config("cft"))
    assert loss.value.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mean", ["token", "question"])
def test_sft2_is_the_librarys_own_labels_loss(loaded, make_questions, mean):
    """One sequence: the library's loss is the mean over its T − 1 predicted tokens; times that, the sum."""
    model = loaded("qwen3")
    for q in make_questions("x", 3, ks=(2, 4)):
        (e,), _, _ = collated(model, [q], TEXTS, "sft")
        ids_1T = torch.tensor([[*e.prompt, *e.options[q.answer][0]]])
        own = model.model(input_ids=ids_1T, labels=ids_1T).loss.item()
        factor = 1 if mean == "token" else ids_1T.shape[1] - 1
        loss, _ = loss_of(model, [q], TEXTS, config("sft", sft2_mean=mean))
        assert loss.value.item() == pytest.approx(own * factor, rel=1e-5)


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
def test_rcft_is_sft2_plus_lambda_times_the_distance_to_the_targets(loaded, make_questions, style):
    questions = make_questions("x", 6, ks=(2, 4, 3))
    model = loaded("llama")
    plain, joint_BK = loss_of(model, questions, style, config("sft", sft2_mean="question"))
    mixed, joint_BK = loss_of(model, questions, style, config("rcft", lam=3.0, sft2_mean="question"))
    p_BK = torch.softmax(joint_BK, 1)
    t_BK = torch.tensor([[*target_of(q), 0.0, 0.0][:4] for q in questions])
    distance = ((p_BK - t_BK) ** 2).sum().item()
    assert distance > 0.01
    assert mixed.value.item() == pytest.approx(plain.value.item() + 3.0 * distance, rel=1e-5)


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
@pytest.mark.parametrize("objective", ["cft", "sft", "rcft"])
def test_batch_gives_each_question_the_loss_it_has_alone_in_any_order(loaded, make_questions, style, objective):
    questions = list(make_questions("x", 5, ks=(2, 4, 3)))
    alone = [loss_of(loaded(), [q], style, config(objective))[0].value.item() for q in questions]
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        some = [questions[i] for i in order]
        loss, joint_BK = loss_of(loaded(), some, style, config(objective))
        assert loss.value.item() == pytest.approx(sum(alone), rel=1e-5)
        answers = joint_BK.gather(1, torch.tensor([[q.answer] for q in some]))[:, 0]
        if objective == "cft":
            assert (-answers).tolist() == pytest.approx([alone[i] for i in order], rel=1e-4)


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
def test_training_reads_the_same_option_probabilities_as_scoring(loaded, make_questions, style):
    questions = make_questions("x", 7, ks=(2, 5, 3))
    _, batch, _ = collated(loaded(), questions, style, "rcft")
    head = Head.of(loaded().model)
    with torch.no_grad(), head.capture() as kept:
        loaded().model(**{name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")})
    logp_BK = option_logp(joint_logp(kept.take(), head, batch))
    scored_NK = torch.tensor(score(loaded(), questions, style=style).logp_NK)
    torch.testing.assert_close(logp_BK.double(), scored_NK, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
@pytest.mark.parametrize("objective", ["cft", "sft", "rcft"])
def test_step_makes_no_tensor_of_batch_by_time_by_vocabulary(tokenizer, make_model, make_questions, style, objective):
    """Every tensor that autograd keeps is watched: none holds logits for more rows than are read in one chunk."""
    own = LoadedModel(make_model("llama", tokenizer), tokenizer, {"model": "tiny"})
    questions = make_questions("x", 4)
    _, batch, _ = collated(own, questions, style, objective)
    vocabulary, rows = len(tokenizer), batch["input_ids"].numel()
    head, passed, kept = Head.of(own.model), [], []
    head_token_logp = head.token_logp
    head.token_logp = lambda *args, **more: head_token_logp(*args, **{**more, "chunk": 16})
    handle = own.model.lm_head.register_forward_hook(lambda _m, _a, out: passed.append(out.shape[:-1].numel()))

    def keep(tensor):
        if vocabulary in tensor.shape[-1:] and tensor.data_ptr() != own.model.lm_head.weight.data_ptr():
            kept.append(tensor.numel() // vocabulary)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = batch_loss(own.model, head, batch, config(objective))
        loss.value.backward()
    handle.remove()
    assert rows > 50
    assert max(passed) <= 16
    assert max(kept, default=0) <= 16
