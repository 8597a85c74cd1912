"""The E-step and its targets. Hand-worked: K = 4, tanh map of method section "Losses"; a is the bin's accuracy."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.metrics import conf_ece
from calibrant.metrics.bins import bin_index
from calibrant.scores import Scores
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.losses import ece_term, option_logp
from calibrant.tuning.targets import BinAccuracy, Targets, cross_fitted, target_distribution
from calibrant.tuning.trainer import e_step

MAPS = pytest.mark.parametrize("target_map", ["tanh", "proportional"])


def targets(p, a, *, target_map="tanh", dtype=torch.float64):
    p_1K = torch.tensor([p], dtype=dtype)
    return target_distribution(p_1K, torch.tensor([len(p)]), torch.tensor([a], dtype=dtype), target_map=target_map)[0]


def test_confident_example_shares_the_rest_almost_equally():
    """γ q = ln 3 / .1 · (1, .6, .4) = (10.99, 6.59, 4.39), tanh = (1, .999996, .99969).

    So each gets about .1/3, in the order of q.
    """
    t = targets([0.9, 0.05, 0.03, 0.02], 0.9)
    assert [round(x, 4) for x in t.tolist()] == [0.9, 0.0333, 0.0333, 0.0333]
    assert t[1] > t[2] > t[3]


def test_guard_example_raises_a_until_no_option_gets_more_than_the_top_one():
    """a = .25, q = (.25, .25, .2), top .3: γ q = ln 3 / .75 · (1, 1, .8) = (1.46482, 1.46482, 1.17185).

    tanh = (.89858, .89858, .82485), 1 + tanh sums to 5.62201, the largest share w = .33770, and .75 · w = .25328 > .25.
    The guard sets a = w / (1 + w) = .25245, the largest other target too, and the last gets .74755 · .32459 = .24265.
    """
    t = targets([0.3, 0.25, 0.25, 0.2], 0.25)
    assert t.tolist() == pytest.approx([0.25245, 0.25245, 0.25245, 0.24265], abs=2e-5)


def test_two_options_get_a_and_the_rest():
    assert targets([0.8, 0.2], 0.7).tolist() == pytest.approx([0.7, 0.3])
    assert targets([0.2, 0.8], 0.7).tolist() == pytest.approx([0.3, 0.7])


def test_two_options_with_a_under_a_half_get_a_half_each():
    assert targets([0.8, 0.2], 0.1).tolist() == pytest.approx([0.5, 0.5])


def test_bin_that_is_always_right_asks_for_certainty():
    assert targets([0.6, 0.3, 0.1], 1.0).tolist() == [1.0, 0.0, 0.0]


def test_bin_that_is_never_right_asks_for_no_more_than_the_others_have():
    """a = 0, q = (.3, .1): γ q = ln 2 · (1, 1/3); 1 + tanh = (1.6, 1.22700); w = .56598; a = w/(1 + w) = .36142."""
    t = targets([0.6, 0.3, 0.1], 0.0)
    assert t.tolist() == pytest.approx([0.36142, 0.36142, 0.27717], abs=2e-5)


@MAPS
def test_options_without_any_probability_share_equally(target_map):
    t = targets([1.0, 0.0, 0.0, 0.0], 0.7, target_map=target_map)
    assert t.tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])


def test_proportional_map_keeps_the_ratios():
    """a = .6: the rest .4 in the ratio 3 : 1."""
    assert targets([0.6, 0.3, 0.1], 0.6, target_map="proportional").tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert targets([0.8, 0.15, 0.05], 0.6, target_map="proportional").tolist() == pytest.approx([0.6, 0.3, 0.1])


def test_absent_options_get_nothing():
    p_BK = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.6, 0.4, 0.0, 0.0]], dtype=torch.float64)
    a_B = torch.tensor([0.6, 0.8], dtype=torch.float64)
    t_BK = target_distribution(p_BK, torch.tensor([3, 2]), a_B)
    assert t_BK[0, 3] == 0
    assert t_BK[1].tolist() == pytest.approx([0.8, 0.2, 0.0, 0.0])
    assert t_BK[0].sum() == pytest.approx(1.0)


@MAPS
@given(
    raw=st.lists(st.floats(1e-12, 1.0), min_size=2, max_size=26),
    a=st.floats(0.0, 1.0),
    zeros=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=150, deadline=None)
def test_targets_are_a_distribution_in_the_order_of_the_probabilities(target_map, raw, a, zeros, dtype):
    p_K = np.array(raw)
    if zeros:
        p_K[np.arange(len(p_K)) != p_K.argmax()] *= p_K[np.arange(len(p_K)) != p_K.argmax()] > 0.3
    p_K = torch.tensor(p_K / p_K.sum(), dtype=dtype).numpy()
    t_K = targets(p_K.tolist(), a, target_map=target_map, dtype=dtype).double().numpy()
    tiny = 1e-6 if dtype == torch.float32 else 1e-12
    assert np.isfinite(t_K).all()
    assert t_K.sum() == pytest.approx(1.0, abs=10 * tiny)
    assert (t_K >= 0).all()
    order = np.argsort(-p_K, kind="stable")
    assert (np.diff(t_K[order]) <= tiny).all()


def test_targets_carry_no_gradient():
    logits_BK = torch.randn(3, 4, requires_grad=True)
    t_BK = target_distribution(torch.softmax(logits_BK, 1), torch.tensor([4, 4, 4]), torch.full((3,), 0.5))
    assert not t_BK.requires_grad
    assert t_BK.grad_fn is None


def scores_of(confidence_N, correct_N):
    rows = [(c, 1 - c) for c in confidence_N]
    return Scores.from_probs(rows, [0 if right else 1 for right in correct_N])


def test_accuracy_of_a_bin_is_pulled_towards_the_overall_one():
    """Bins 6 and 9 of 10 questions: 6 and 9 right, A = 15/20 = .75, prior 4: (6 + 3)/14 and (9 + 3)/14."""
    scores = scores_of([0.65] * 10 + [0.95] * 10, [True] * 6 + [False] * 4 + [True] * 9 + [False])
    bins = BinAccuracy.of(scores, prior=4.0, min_bin=10)
    assert bins.accuracy_M[6] == pytest.approx(9 / 14)
    assert bins.accuracy_M[9] == pytest.approx(12 / 14)
    assert bins.count_M.tolist() == [0, 0, 0, 0, 0, 0, 10, 0, 0, 10]


def test_empty_bins_have_the_value_of_the_neighbours_they_are_merged_with():
    scores = scores_of([0.65] * 10 + [0.95] * 10, [True] * 6 + [False] * 4 + [True] * 9 + [False])
    bins = BinAccuracy.of(scores, prior=0.0, min_bin=10)
    assert np.isfinite(bins.accuracy_M).all()
    assert set(bins.accuracy_M.round(6)) == {0.6, 0.9}
    assert (np.diff(bins.accuracy_M) >= 0).all()


def test_thin_bin_joins_its_neighbour_of_fewer_questions():
    """Bins 5 (12 questions, 3 right), 8 (3, all right) and 9 (10, 8 right): 8 joins 9, (3 + 8)/13; 5 stays 3/12."""
    scores = scores_of(
        [0.55] * 12 + [0.85] * 3 + [0.95] * 10, [True] * 3 + [False] * 9 + [True] * 3 + [True] * 8 + [False] * 2
    )
    bins = BinAccuracy.of(scores, prior=0.0, min_bin=10)
    assert bins.accuracy_M[5] == pytest.approx(3 / 12)
    assert bins.accuracy_M[9] == pytest.approx(11 / 13)
    assert bins.accuracy_M[8] == pytest.approx(11 / 13)


def test_fewer_questions_than_one_bin_needs_give_the_overall_accuracy_everywhere():
    bins = BinAccuracy.of(scores_of([0.55, 0.95], [True, False]), min_bin=10)
    np.testing.assert_allclose(bins.accuracy_M, 0.5)


def test_unpooled_unprior_empty_bin_is_finite():
    bins = BinAccuracy.of(scores_of([0.55, 0.95], [True, False]), prior=0.0, min_bin=0)
    assert np.isfinite(bins.accuracy_M).all()
    assert (bins.accuracy_M[5], bins.accuracy_M[9], bins.accuracy_M[0]) == (1.0, 0.0, 0.5)


def test_training_bins_probabilities_by_the_same_rule_as_the_metrics_at_edges():
    accuracy_M = np.arange(10) / 10 + 0.05
    bins = BinAccuracy(accuracy_M, np.full(10, 20))
    confidence_N = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 0.5999, 0.8999])
    np.testing.assert_array_equal(bins.of_confidence(confidence_N), accuracy_M[bin_index(confidence_N, 10)])


def asked(p_NK, answer_N):
    return Scores.from_probs(p_NK, answer_N)


def test_e_step_written_out():
    """Held out: .85 right half of the time. Trained on: .9, .05, .03, .02 and .6, .4: bin 9 and 6 have no held-out questions,
    so they are pooled with bin 8, a = .5; the second question's options would tie, at .5 each.

    Rest of the first, .5: γ q = ln 3 / .5 · (1, .6, .4) = (2.197, 1.318, .879), 1 + tanh = (1.976, 1.866, 1.706) of 5.548.
    """
    held_out = asked([[0.85, 0.15]] * 20, [0, 1] * 10)
    seen = asked([[0.9, 0.05, 0.03, 0.02], [0.6, 0.4, np.nan, np.nan]], [1, 1])
    found = e_step(seen, held_out, TuneConfig(objective="rcft"))
    assert found.target_NK[0].round(3).tolist() == [0.5, 0.178, 0.168, 0.154]
    assert found.target_NK[1].tolist() == [0.5, 0.5, 0.0, 0.0]
    batch_BK = found.of_batch(torch.tensor([1]), 2)
    assert (batch_BK.tolist(), batch_BK.dtype) == ([[0.5, 0.5]], torch.float32)


def test_e_step_once_asks_the_training_questions_themselves():
    """They are right .9 of the time where the held-out ones are right half of the time; prior 0."""
    held_out, seen = asked([[0.85, 0.15]] * 20, [0, 1] * 10), asked([[0.85, 0.15]] * 20, [0] * 18 + [1] * 2)
    for where, accuracy in (("once", 0.9), ("each_evaluation", 0.5)):
        config = TuneConfig(objective="rcft", e_step=where, bin_prior=0.0)
        np.testing.assert_allclose(e_step(seen, held_out, config).target_NK[:, 0], accuracy)


def test_own_answer_is_not_in_the_own_target():
    """Two folds of ten questions at .65: flipping an answer of fold 0 changes what fold 1 is taught, and that alone."""
    fold_N = np.arange(20) % 2
    right_N = np.array([True] * 6 + [False] * 4 + [True] * 8 + [False] * 2)

    def fitted(right_N):
        return cross_fitted(scores_of([0.65] * 20, right_N), fold_N, n_bins=10, prior=0.0, min_bin=1)

    before_N = fitted(right_N)
    np.testing.assert_allclose(before_N[:2], [right_N[1::2].mean(), right_N[0::2].mean()])
    right_N[0] = not right_N[0]
    after_N = fitted(right_N)
    np.testing.assert_array_equal(after_N[0::2], before_N[0::2])
    np.testing.assert_allclose(after_N[1::2], before_N[1::2] - 0.1)


def test_e_step_survives_its_own_checkpoint_exactly():
    raw = np.random.default_rng(0).dirichlet(np.ones(4), 37)
    targets = e_step(asked(raw, [0] * 37), asked(raw, [i % 4 for i in range(37)]), TuneConfig(objective="rcft"))
    again = Targets.from_json(json.loads(json.dumps(targets.to_json())))
    np.testing.assert_array_equal(again.target_NK, targets.target_NK)


def test_calibration_term_alone_calibrates_and_unlearns_nothing():
    """A linear model with four options, three times too sharp and noisy, drawn to its targets alone for four E-steps.

    Shared weights pull on every question at once. With targets that follow the confidence and the order of each step
    accuracy falls to chance (`recipes/e_step.py`): what a step lowers is looked up one bin lower in the next.
    """
    draw = torch.Generator().manual_seed(0)
    true_DK = torch.randn(20, 4, generator=draw) * 0.35
    x_ND = torch.randn(5800, 20, generator=draw)
    answer_N = torch.multinomial(torch.softmax(x_ND @ true_DK, 1), 1, generator=draw)[:, 0]
    w_DK = ((true_DK + torch.randn(20, 4, generator=draw) * 0.175) * 3).requires_grad_()
    train, held_out, test = slice(0, 1200), slice(1200, 1800), slice(1800, None)

    def scored(part):
        return Scores.from_probs(torch.softmax(x_ND[part] @ w_DK, 1).detach().double().numpy(), answer_N[part].tolist())

    optimiser, before = torch.optim.Adam([w_DK], lr=0.08), scored(test)
    for _ in range(4):
        targets = e_step(scored(train), scored(held_out), TuneConfig(objective="rcft"))
        for index_B in torch.randperm(1200, generator=draw).split(16):
            optimiser.zero_grad()
            ece_term(option_logp(x_ND[index_B] @ w_DK), targets.of_batch(index_B, 4)).value.backward()
            optimiser.step()
    after = scored(test)
    assert after.correct_N.mean() > before.correct_N.mean() - 0.07
    assert conf_ece(before.confidence_N, before.correct_N) > 0.25
    assert conf_ece(after.confidence_N, after.correct_N) < 0.08
