"""Statistics of an alignment check: worked by hand, against simulation, and what must not change them."""

import numpy as np
import pytest
from scipy.special import ndtri, stdtrit

from calibrant.alignment.paired import paired_share
from calibrant.alignment.preferences import PairLogps, preference_check
from calibrant.diagnosis.preference import preference_drift
from calibrant.errors import ScoresError
from calibrant.metrics.estimates import Sampling, ratio, share
from calibrant.metrics.proportions import effective_n, paired_share_interval

HOW = Sampling(n_boot=400)


def logps(aligned, tuned, reference=None, tokens=None, prompts=None):
    aligned, tuned = np.array(aligned, float), np.array(tuned, float)
    n = len(aligned)
    logp = {"aligned": aligned, "tuned": tuned} | (
        {} if reference is None else {"reference": np.array(reference, float)}
    )
    return PairLogps(
        tuple(f"p{i}" for i in range(n)),
        np.arange(n) if prompts is None else np.array(prompts),
        np.full((n, 2), 5) if tokens is None else np.array(tokens),
        logp,
    )


ALIGNED = [[-10, -12], [-8, -6], [-20, -30], [-5, -5.5]]
TUNED = [[-9, -13], [-8, -5], [-22, -21], [-5, -5.5]]
REFERENCE = [[-11, -12], [-9, -8], [-19, -28], [-6, -5.5]]


def test_worked_example():
    """Margins (chosen change minus rejected change): 2, -1, -2 - 9 = -11, 0; β = .1; their mean is -.25."""
    found = preference_check(logps(ALIGNED, TUNED, REFERENCE), how=HOW)
    assert found.margin.value == pytest.approx(-0.25)
    assert found.share_against.value == 0.5
    assert (found.ranking.aligned.value, found.ranking.tuned.value) == (0.75, 0.5)
    assert found.ranking.change.value == -0.25
    # against the reference: aligned 1 > 0, 1 < 2, -1 > -2, 1 > 0; tuned 2 > -1, 1 < 3, -3 < 7, 1 > 0
    assert (found.reward.aligned.value, found.reward.tuned.value) == (0.75, 0.5)
    assert (found.movement.chosen.value, found.movement.rejected.value) == (-0.25, 2.25)


def test_per_token_ranking_divides_by_each_responses_own_length():
    """-12 over 6 tokens is -2 a token, more probable than -10 over 4 tokens, -2.5 a token."""
    same = [[-12, -10], [-12, -10]]
    found = preference_check(logps(same, same, tokens=[[6, 4], [4, 4]]), how=HOW)
    assert found.ranking.tuned.value == 0.0
    assert found.ranking_per_token.tuned.value == 0.5


def test_swapping_chosen_and_rejected_flips_the_sign():
    rng = np.random.default_rng(0)
    a_P2, t_P2 = rng.normal(-50, 10, (2, 60, 2))
    there, back = (
        preference_check(logps(a[:, s], t[:, s]), how=HOW) for a, t, s in ((a_P2, t_P2, [0, 1]), (a_P2, t_P2, [1, 0]))
    )
    assert there.margin.value == pytest.approx(-back.margin.value)
    assert there.margin.low == pytest.approx(-back.margin.high, rel=0.05)
    assert there.ranking.tuned.value == pytest.approx(1 - back.ranking.tuned.value)


def test_the_margin_is_proportional_to_beta():
    one, two = (preference_check(logps(ALIGNED, TUNED), beta=beta, how=HOW).margin for beta in (0.1, 0.2))
    assert (two.value, two.low, two.high) == pytest.approx((2 * one.value, 2 * one.low, 2 * one.high))


def test_identical_models_have_margin_0_and_an_honest_interval_of_the_accuracy():
    same = [[-10, -12]] * 30 + [[-12, -10]] * 10
    found = preference_check(logps(same, same), how=HOW)
    assert (found.margin.value, found.margin.low, found.margin.high) == (0, 0, 0)
    assert found.share_against.value == 0
    assert found.ranking.change.value == 0
    assert found.ranking.change.high == pytest.approx(-found.ranking.change.low)
    assert found.ranking.change.high > 0.01


def test_saved_log_probabilities_come_back_and_feed_preference_drift(tmp_path):
    pairs = logps(ALIGNED, TUNED, REFERENCE, prompts=[0, 0, 1, 2])
    back = PairLogps.load(pairs.save(tmp_path / "pairs.jsonl"))
    assert back.ids == pairs.ids
    for name in ("aligned", "tuned", "reference"):
        np.testing.assert_array_equal(back.logp_P2[name], pairs.logp_P2[name])
    np.testing.assert_array_equal(back.prompt_P, pairs.prompt_P)
    aligned, reference = back.logp_P2["aligned"], back.logp_P2["reference"]
    drift = preference_drift(aligned[:, 0], reference[:, 0], aligned[:, 1], reference[:, 1])
    assert drift.margin.value == pytest.approx(np.mean([1, -1, 1, 1]))


def test_a_single_pair_or_a_broken_number_is_refused():
    with pytest.raises(ScoresError, match="1 pairs"):
        preference_check(logps(ALIGNED[:1], TUNED[:1]))
    with pytest.raises(ScoresError):
        preference_check(logps([[np.nan, -1], [-1, -2]], TUNED[:2]))


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_pairs_of_one_prompt_count_as_one():
    """Every pair four times, as four pairs of one prompt: the same numbers as without the copies, up to small-sample terms."""
    rng = np.random.default_rng(2)
    hit_N = rng.random(100) < 0.7
    copies_N, cluster_N = np.repeat(hit_N, 4), np.repeat(np.arange(100), 4)
    assert effective_n(copies_N.astype(float), cluster_N) == pytest.approx(
        99 * (ndtri(0.975) / stdtrit(99, 0.975)) ** 2
    )
    once, four = share(hit_N, HOW), share(copies_N, HOW.by(cluster_N))
    assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=2e-3)
    assert share(copies_N, HOW).high - share(copies_N, HOW).low < 0.6 * (four.high - four.low)
    assert effective_n(np.zeros(400), cluster_N) == 100


def test_ratio_is_the_mean_over_tokens_and_its_interval_is_over_prompts():
    """Two prompts, of 1 and 9 tokens with 1 and .1 nats each: (1 + .9) / 10, not the mean of the prompts' means."""
    assert ratio(np.array([1.0, 0.9]), np.array([1.0, 9.0]), HOW).value == pytest.approx(0.19)
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        level_P = rng.exponential(1.0, 60)  # each prompt has a level of its own, so tokens are far from independent
        tokens_P = rng.integers(5, 50, 60)
        e = ratio(level_P * tokens_P, tokens_P, Sampling(200, 0.95, seed))
        covered += e.low <= 1.0 <= e.high
    assert covered / 200 > 0.88


def test_draws_without_a_denominator_are_left_out_and_without_any_other_there_is_no_interval():
    """1/2 and 3/1 beside three zeros: whatever is drawn lies between .5 and 3, unless both are left out."""
    found = ratio(np.array([1.0, 3, 0, 0, 0]), np.array([2.0, 1, 0, 0, 0]), HOW)
    assert found.value == pytest.approx(4 / 3)
    assert 0.5 <= found.low < 4 / 3 < found.high <= 3
    codes = np.array([0, 0, 0, 0, 1])  # in a cluster of their own the zeros stand for nothing
    one = ratio(np.array([1.0, 3, 0, 0, 0]), np.array([2.0, 1, 0, 0, 0]), Sampling(n_boot=50).by(codes))
    assert (one.low, one.high) == pytest.approx((4 / 3, 4 / 3))


def test_paired_share_needs_no_bootstrap_and_keeps_the_counts():
    a, b = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    found = paired_share(a, b, HOW)
    assert (found.aligned.value, found.tuned.value, found.change.value) == (0.6, 0.6, 0.0)
    assert (found.change.low, found.change.high) == paired_share_interval(2, 1, 1, 1)
