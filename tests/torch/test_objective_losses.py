"""The losses beside the paper's: hand-worked numbers, gradients in float64, limits, invariances, an independent oracle."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from calibrant.metrics.bins import bin_index
from calibrant.objectives import OBJECTIVES, SETTINGS, Objective
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.losses import brier, ece_term, focal, mmce, option_logp, sft1, soft_ece, soft_target
from calibrant.tuning.start import smoothed, softened

GONE = -math.inf
# Confidences .9 and .6; the first is right, the second wrong: gaps c − r = .1 and −.6.
PAIR = torch.tensor([[0.9, 0.06, 0.04], [0.6, 0.4, 0.0]], dtype=torch.float64).log()
ANSWERS = torch.tensor([0, 1])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- hand-worked ----------------------------------------------------------------------------------------------------


def test_soft_target_written_out():
    """p = (½, ¼, ¼), t = (.8, .1, .1): .8 ln 2 + .2 ln 4 = 1.2 ln 2. Entropy of t: −.8 ln .8 − .2 ln .1 = .63903."""
    logp_BK = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    loss = soft_target(logp_BK, torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64))
    assert loss.value.item() == pytest.approx(1.2 * math.log(2))
    assert loss.metrics["kl_target"].item() == pytest.approx(1.2 * math.log(2) - 0.63903, abs=1e-5)


def test_smoothed_labels_written_out():
    assert smoothed(2, 4, 0.2) == pytest.approx((0.05, 0.05, 0.85, 0.05))
    assert smoothed(0, 2, 0.1) == pytest.approx((0.95, 0.05))
    assert smoothed(1, 3, 0.0) == (0.0, 1.0, 0.0)


def test_focal_written_out():
    """γ = 2: p_y = .9 gives .01 · .10536, p_y = .4 gives .36 · .91629."""
    assert focal(PAIR, ANSWERS, 2.0).value.item() == pytest.approx(0.0010536 + 0.3298644, abs=1e-6)


def test_brier_written_out():
    """.1² + .06² + .04² = .0152 and .6² + .6² = .72."""
    assert brier(PAIR, ANSWERS).value.item() == pytest.approx(0.0152 + 0.72)


def test_mmce_written_out():
    """k(.9, .6) = exp(−.3 / .4) = .47237. Sum: .01 + .36 − 2 · .06 · .47237 = .313316; n·MMCE = its root, .559747."""
    loss = mmce(PAIR, ANSWERS).value.item()
    assert loss == pytest.approx(0.559747, abs=1e-6)
    assert loss / 2 == pytest.approx(0.279873, abs=1e-6)  # MMCE itself


def test_soft_ece_written_out():
    """Two bins (ξ = .25, .75), T = .1: −(r − ξ)²/T = (−4.225, −.225) and (−1.225, −.225).

    Memberships of the upper bin: 1/(1 + e⁻⁴) = .982014 and 1/(1 + e⁻¹) = .731059. Sizes: upper 1.713073, lower .286927.
    Upper: (.0982014 − .4386351)² / 1.713073 = .0676529; lower: (.0017986 − .1613649)² / .286927 = .0887376.
    SB-ECE = √(.1563905 / 2) = .279634.
    """
    loss = soft_ece(PAIR, ANSWERS, n_bins=2, temperature=0.1).value.item()
    assert loss / 2 == pytest.approx(0.279634, abs=1e-5)


def test_softened_teacher_written_out():
    """(.64, .32, .04) to the power ½: (.8, .565685, .2), their sum 1.565685."""
    t_K = softened(np.log([0.64, 0.32, 0.04]), 2.0)
    assert t_K == pytest.approx([0.510959, 0.361302, 0.127740], abs=1e-6)
    assert softened([0.0, GONE], 3.0) == [1.0, 0.0]


# ---- limits ---------------------------------------------------------------------------------------------------------


def ragged(seed=0, n=6):
    """Random joint log-probabilities of questions with 4, 3 and 2 options, well under a mass of 1, and their answers."""
    k_B = torch.tensor([4, 3, 2])[torch.arange(n) % 3]
    joint_BK = 2 * random(n, 4, seed=seed) - 12
    return torch.where(torch.arange(4) < k_B[:, None], joint_BK, GONE), torch.arange(n) % 2, k_B


def test_focal_without_focus_is_log_loss_over_the_options():
    joint_BK, answer_B, _ = ragged()
    wanted = cross_entropy(joint_BK, answer_B, reduction="sum")
    assert focal(option_logp(joint_BK), answer_B, 0.0).value.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("over", ["vocabulary", "options"])
def test_no_smoothing_is_the_log_loss_of_the_answer(over):
    joint_BK, answer_B, k_B = ragged()
    logp_BK = option_logp(joint_BK) if over == "options" else joint_BK
    t_BK = torch.tensor(
        [[*smoothed(int(a), int(k), 0.0), *[0.0] * (4 - k)] for a, k in zip(answer_B, k_B, strict=True)]
    )
    wanted = sft1(logp_BK.gather(1, answer_B[:, None])[:, 0]).value
    assert soft_target(logp_BK, t_BK.double()).value.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_smoothing_is_torchs_own_where_all_questions_have_the_same_options(smoothing):
    joint_BK, answer_B = random(5, 4), torch.arange(5) % 4
    t_BK = torch.tensor([smoothed(int(a), 4, smoothing) for a in answer_B], dtype=torch.float64)
    wanted = cross_entropy(joint_BK, answer_B, reduction="sum", label_smoothing=smoothing)
    assert soft_target(option_logp(joint_BK), t_BK).value.item() == pytest.approx(wanted.item())


def test_log_loss_over_the_vocabulary_is_that_over_the_options_minus_log_option_mass():
    """Why CFT's gradient on a continuation does not fade: that of −log p_y is p − y, that of −log m is −p; their sum is −y."""
    joint_BK, answer_B, _ = ragged()
    answer_B1 = answer_B[:, None]
    logmass_B = torch.logsumexp(joint_BK, 1)
    assert logmass_B.max() < -5
    torch.testing.assert_close(
        joint_BK.gather(1, answer_B1), option_logp(joint_BK).gather(1, answer_B1) + logmass_B[:, None]
    )
    whole, options = (joint_BK.clone().requires_grad_() for _ in range(2))
    sft1(whole.gather(1, answer_B1)[:, 0]).value.backward()
    sft1(option_logp(options).gather(1, answer_B1)[:, 0]).value.backward()
    right_BK = torch.zeros_like(joint_BK).scatter(1, answer_B1, 1.0)
    torch.testing.assert_close(whole.grad, -right_BK)
    torch.testing.assert_close(options.grad, option_logp(joint_BK).exp() - right_BK)


def test_soft_ece_of_cold_bins_is_the_l2_error_of_hard_ones():
    rng = np.random.default_rng(1)
    p_N = rng.uniform(0.5, 1, 200)
    p_N = p_N[np.abs(p_N * 10 - np.round(p_N * 10)) > 0.02]  # off the edges
    right_N = rng.uniform(size=len(p_N)) < 0.7
    bin_N = bin_index(p_N, 10)
    sums = [(right_N[bin_N == m] - p_N[bin_N == m]).sum() ** 2 / (bin_N == m).sum() for m in set(bin_N)]
    wanted = math.sqrt(sum(sums) / len(p_N))
    logp_BK = torch.tensor(np.stack([p_N, 1 - p_N], 1)).log()
    answer_B = torch.tensor(np.where(right_N, 0, 1))
    found = soft_ece(logp_BK, answer_B, n_bins=10, temperature=1e-6).value.item() / len(p_N)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_batch_statistics_vanish_for_a_batch_that_is_right_as_often_as_it_says():
    """Ten questions at .7, seven right: all gaps weigh alike, and they add up to 0."""
    logp_BK = torch.tensor([[0.7, 0.3]] * 10, dtype=torch.float64).log().requires_grad_()
    answer_B = torch.tensor([0] * 7 + [1] * 3)
    for loss in (mmce(logp_BK, answer_B), soft_ece(logp_BK, answer_B, n_bins=10, temperature=0.01)):
        assert loss.value.item() / 10 < 1e-5
        (gradient,) = torch.autograd.grad(loss.value, logp_BK)
        assert torch.isfinite(gradient).all()
    over = torch.tensor([0] * 4 + [1] * 6)
    for statistic in (mmce, lambda p, a: soft_ece(p, a, n_bins=10, temperature=0.01)):
        assert statistic(logp_BK, over).value.item() / 10 == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("n", "kernel", "soft"), [(16, 0.092, 0.148), (64, 0.045, 0.075), (256, 0.023, 0.038)])
def test_batch_statistics_of_a_calibrated_model_are_the_noise_that_the_docs_state(n, kernel, soft):
    """docs/decisions/004-objectives.md."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(1000):
        r_B, chance_B = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
        r_B = 0.5 + 0.5 * r_B
        logp_BK = torch.stack([r_B, 1 - r_B], 1).log()
        answer_B = (chance_B >= r_B).long()
        parts = mmce(logp_BK, answer_B), soft_ece(logp_BK, answer_B, n_bins=10, temperature=0.01)
        found.append([loss.value.item() / n for loss in parts])
    assert np.mean(found, 0).tolist() == pytest.approx([kernel, soft], abs=0.003)


def test_mmce_agrees_with_an_independent_one():
    """Written as the double sum of its definition, in numpy."""
    joint_BK, answer_B, _ = ragged(3, 9)
    p_BK = torch.softmax(joint_BK, 1).numpy()
    r_B = p_BK.max(1)
    c_B = (p_BK.argmax(1) == answer_B.numpy()).astype(float)
    total = 0.0
    for i in range(9):
        for j in range(9):
            total += (c_B[i] - r_B[i]) * (c_B[j] - r_B[j]) * math.exp(-abs(r_B[i] - r_B[j]) / 0.4)
    assert mmce(option_logp(joint_BK), answer_B).value.item() == pytest.approx(math.sqrt(total))


# ---- gradients, invariances -----------------------------------------------------------------------------------------

LOSSES = {
    "soft_target": lambda p, a: soft_target(p, _teacher(p)),
    "focal-3": lambda p, a: focal(p, a, 3.0),
    "focal-half": lambda p, a: focal(p, a, 0.5),
    "brier": brier,
    "mmce": mmce,
    "soft_ece": lambda p, a: soft_ece(p, a, n_bins=5, temperature=0.02),
    "ece_term": lambda p, a: ece_term(p, _teacher(p)),
}
SUMS = sorted(set(LOSSES) - {"mmce", "soft_ece"})


def _teacher(logp_BK):
    present_BK = torch.isfinite(logp_BK)
    share_BK = torch.where(present_BK, torch.arange(1.0, 5.0, dtype=torch.float64), 0.0)
    return share_BK / share_BK.sum(1, keepdim=True)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_in_float64(name):
    joint_BK, answer_B, _ = ragged()
    present_BK = torch.isfinite(joint_BK)

    def value(x_BK):
        return LOSSES[name](option_logp(torch.where(present_BK, x_BK, GONE)), answer_B).value

    x_BK = torch.where(present_BK, joint_BK, 0.0).requires_grad_()
    assert gradcheck(value, (x_BK,))
    value(x_BK).backward()
    assert (x_BK.grad[~present_BK] == 0).all()
    assert x_BK.grad.abs().max() > 1e-3
    torch.testing.assert_close(x_BK.grad.sum(1), torch.zeros(len(x_BK), dtype=torch.float64))  # normalised over options


@pytest.mark.parametrize("name", LOSSES)
def test_certain_questions_give_finite_gradients(name):
    """In float32 an option's log-probability reaches 0 exactly; right and wrong."""
    joint_BK = torch.tensor([[0.0, -200.0, -300.0, -250.0]] * 2, requires_grad=True)
    LOSSES[name](option_logp(joint_BK).double(), torch.tensor([0, 1])).value.backward()
    assert torch.isfinite(joint_BK.grad).all()


@pytest.mark.parametrize("name", SUMS)
@given(cut=st.integers(1, 5), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_sums_over_questions_do_not_know_how_the_batch_is_cut(name, cut, seed):
    joint_BK, answer_B, _ = ragged(seed)
    logp_BK = option_logp(joint_BK)
    parts = [LOSSES[name](logp_BK[s], answer_B[s]).value.item() for s in (slice(cut), slice(cut, None))]
    assert sum(parts) == pytest.approx(LOSSES[name](logp_BK, answer_B).value.item())


@pytest.mark.parametrize("name", ["mmce", "soft_ece"])
def test_batch_statistics_are_no_sums_over_questions(name):
    """What the configuration guards against: cut in two, the statistic is another one."""
    joint_BK, answer_B, _ = ragged(2)
    logp_BK = option_logp(joint_BK)
    parts = [LOSSES[name](logp_BK[s], answer_B[s]).value.item() for s in (slice(3), slice(3, None))]
    assert abs(sum(parts) - LOSSES[name](logp_BK, answer_B).value.item()) > 0.01


@pytest.mark.parametrize("name", ["focal-3", "brier", "mmce", "soft_ece"])
def test_order_of_options_and_of_questions_changes_nothing(name):
    joint_BK, answer_B = random(7, 4), torch.arange(7) % 4
    whole = LOSSES[name](option_logp(joint_BK), answer_B).value.item()
    order_K = torch.tensor([2, 0, 3, 1])
    moved_B = torch.argsort(order_K)[answer_B]
    assert LOSSES[name](option_logp(joint_BK[:, order_K]), moved_B).value.item() == pytest.approx(whole)
    order_B = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert LOSSES[name](option_logp(joint_BK[order_B]), answer_B[order_B]).value.item() == pytest.approx(whole)


@pytest.mark.parametrize("over", ["vocabulary", "options"])
def test_smoothing_over_the_options_stops_at_its_target_and_over_the_vocabulary_it_does_not(over):
    """Four texts with free log-likelihoods of little mass, by gradient descent: p reaches t, or goes on to 1."""
    t_BK = torch.tensor([smoothed(1, 4, 0.2)], dtype=torch.float64)
    joint_BK = torch.full((1, 4), -200.0, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        logp_BK = option_logp(joint_BK) if over == "options" else joint_BK
        (gradient,) = torch.autograd.grad(soft_target(logp_BK, t_BK).value, joint_BK)
        joint_BK = (joint_BK - 0.5 * gradient).detach().requires_grad_()
    p_y = torch.softmax(joint_BK, 1)[0, 1].item()
    assert p_y == pytest.approx(0.85, abs=1e-3) if over == "options" else p_y > 0.999


def test_every_objective_and_every_setting_has_its_place():
    assert set(get_args(Objective)) == set(OBJECTIVES)
    assert SETTINGS.keys() <= TuneConfig.model_fields.keys()
    assert {name for owners in SETTINGS.values() for name in owners} <= set(OBJECTIVES)


@pytest.mark.parametrize("temperature", [0.001, 0.01])
def test_soft_ece_has_a_gradient_where_bins_are_all_but_empty(temperature):
    """All sure and right: ten bins, nine of which hold next to nothing; in float32 x²/S once made inf·0 of that."""
    logits_BK = torch.tensor([[8.0, 0.0, 0.0, 0.0]] * 16, requires_grad=True)
    answer_B = torch.zeros(16, dtype=torch.long)
    loss = soft_ece(logits_BK.log_softmax(1), answer_B, n_bins=10, temperature=temperature)
    loss.value.backward()
    wide_BK = logits_BK.detach().double().requires_grad_()
    soft_ece(wide_BK.log_softmax(1), answer_B, n_bins=10, temperature=temperature).value.backward()
    torch.testing.assert_close(logits_BK.grad.double(), wide_BK.grad, atol=1e-6, rtol=1e-3)
    assert wide_BK.grad.abs().max() > 1e-5
