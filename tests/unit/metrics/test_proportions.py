"""Shares: Newcombe's paired interval, its p-values beside McNemar's, and what clustered answers are worth."""

import numpy as np
import pytest
from scipy.special import ndtri, stdtrit
from scipy.stats import binom, norm

from calibrant.metrics import Contest, compare
from calibrant.metrics.proportions import drawn_n, effective_n, paired_share_interval
from calibrant.scores import Scores


def test_paired_share_interval_of_the_published_example_and_its_mirror():
    """36 yes-yes, 12 yes-no, 2 no-yes, 0 no-no: Newcombe's method 10 gives .0569 to .3404."""
    low, high = paired_share_interval(36, 12, 2, 0)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    assert paired_share_interval(36, 2, 12, 0) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("p_only_b", "p_only_a"), [(0.02, 0.02), (0.15, 0.05), (0.0, 0.03)])
def test_paired_share_interval_covers(p_only_b, p_only_a):
    rng = np.random.default_rng(1)
    p_both = 0.6
    counts = rng.multinomial(50, [p_both, p_only_b, p_only_a, 1 - p_both - p_only_b - p_only_a], size=2000)
    ends = np.array([paired_share_interval(*row) for row in counts.astype(float)])
    truth = p_only_b - p_only_a
    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) > 0.935


def changed(better, worse=0, n=200, right=100):
    """Two models on n questions: ``better`` answers become right and ``worse`` become wrong, ``right`` are so in both."""
    kinds = np.repeat([0, 1, 2, 3], [right, better, worse, n - right - better - worse])
    p_of = {True: [0.8, 0.2], False: [0.2, 0.8]}
    a, b = ([p_of[bool(x)] for x in np.isin(kinds, (0, kind))] for kind in (2, 1))
    return Scores.from_probs(a, [0] * n), Scores.from_probs(b, [0] * n)


@pytest.mark.parametrize(("better", "worse"), [(4, 0), (5, 0), (6, 0), (7, 0), (10, 0), (10, 3), (15, 5), (20, 10)])
def test_p_values_of_accuracy_are_those_of_mcnemars_mid_p_test(better, worse):
    """mid-p: twice the tail of Binomial(discordant, 1/2), half of the value seen left out."""
    d = better + worse
    exact = 2 * binom.cdf(worse, d, 0.5) - binom.pmf(worse, d, 0.5)
    assert compare(*changed(better, worse))["accuracy"].p_value == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("expected", [4, 8, 16])
def test_p_values_hold_in_the_tail_where_a_correction_needs_them(expected):
    """Over all ways in which Binomial(200, expected / 200) answers change, each for better or worse alike."""
    n, small = 200, {0.05: 0.0, 0.01: 0.0}
    for d in range(expected + 30):
        for better in range(d + 1):
            chance = binom.pmf(d, n, expected / n) * binom.pmf(better, d, 0.5)
            if chance < 1e-7 or 2 * better == d:
                continue
            low, high = paired_share_interval(100, better, d - better, 100 - d)
            value = (2 * better - d) / n
            margin = value - low if value > 0 else high - value
            p = 2 * norm.sf(1.959964 * abs(value) / margin)
            for limit in small:
                small[limit] += chance * (p < limit)
    assert small[0.05] < 0.05
    assert small[0.01] < 0.01


def test_no_changed_answer_leaves_a_width():
    """Truth -.01, n = 100: in more than a third of the samples nothing changes, and the interval must hold -.01 there."""
    a, b = changed(0, n=100, right=60)
    d = compare(a, b)["accuracy"]
    assert d.value == 0
    assert d.low < -0.01 < 0.01 < d.high


def test_a_contest_of_single_runs_is_compare_and_equal_runs_are_one():
    a, b = changed(9, 2)
    d = compare(a, b)["accuracy"]
    one = Contest({"a": [a], "b": [b]}).differences("a", "b")["accuracy"]
    assert (one.low, one.high, one.p_value) == (d.low, d.high, d.p_value)
    several = Contest({"a": [a], "b": [b, b]}).differences("a", "b")["accuracy"]
    assert (several.low, several.high) == pytest.approx((d.low, d.high), abs=0.005)  # n from draws, not from questions


def test_copies_of_questions_in_clusters_tell_no_more_than_the_questions():
    a, b = changed(9, 2)
    four = [s.select(np.repeat(np.arange(200), 4)) for s in (a, b)]
    four = [Scores.from_logp(s.logp_NK, s.answer_N) for s in four]
    label = [str(i // 4) for i in range(800)]
    once, copies = compare(a, b)["accuracy"], compare(*four, cluster=label)["accuracy"]
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high), abs=0.006)
    assert compare(*four)["accuracy"].low > copies.low + 0.01


def test_what_clustered_answers_are_worth():
    cluster_N = np.repeat(np.arange(50), 4)
    assert effective_n(np.arange(200.0), None) == effective_n(np.arange(200.0), np.arange(200)) == 200
    assert effective_n(np.repeat(np.arange(50.0), 4), cluster_N) == pytest.approx(
        49 * (ndtri(0.975) / stdtrit(49, 0.975)) ** 2
    )
    assert effective_n(np.repeat([1.0, 0.0, 1.0, 0.0, 1.0], 4), np.repeat(np.arange(5), 4)) == pytest.approx(
        1.99, abs=0.01
    )
    assert effective_n(np.ones(200), cluster_N) == 50
    assert drawn_n(0.25, np.array([0.4, 0.6]), 20, 5) == 20
    assert drawn_n(0.25, np.array([0.5, 0.5]), 20, 5) == 5
