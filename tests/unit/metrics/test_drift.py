"""Drift: hand-worked, invariant to order, and what its bound promises."""

import dataclasses

import numpy as np
import pytest

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import compare, drift, measure
from calibrant.scores import Scores


def scores(p, answer=None, **more):
    return Scores.from_probs(p, [0] * len(p) if answer is None else answer, **more)


def test_by_hand():
    """Three questions: unchanged, .8 -> .7, and a flip from .6 to .4 (confidence .6 before and after)."""
    a = scores([[0.5, 0.5], [0.8, 0.2], [0.6, 0.4]])
    b = scores([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]])
    d = drift(a, b, n_boot=50)
    sizes = [0, 0, np.log(8 / 7), np.log(1.5), np.log(1.5), np.log(1.5)]
    assert d.max_dlogp == pytest.approx(np.log(1.5))
    assert d.mean_dlogp == pytest.approx(np.mean(sizes))
    assert (d.max_dp, d.worst) == (pytest.approx(0.2), "2")
    assert (d.mean_dconf, d.mean_abs_dconf, d.max_abs_dconf) == pytest.approx((-0.1 / 3, 0.1 / 3, 0.1))
    assert d.flips == 1
    assert d.movement == pytest.approx((0.1 + 0.2) / 3)
    assert d.accuracy.value == pytest.approx(-1 / 3)
    assert not d.is_faithful


def test_absent_options_and_impossible_ones():
    nan = float("nan")
    a = scores([[0.5, 0.5, nan], [1.0, 0.0, 0.0]])
    assert drift(a, a, n_boot=50).max_dlogp == 0
    b = scores([[0.5, 0.5, nan], [0.9, 0.1, 0.0]])
    d = drift(a, b, n_boot=50)
    assert d.max_dlogp == np.inf
    assert d.to_json()["max_dlogp"] is None
    assert d.max_dp == pytest.approx(0.1)


def test_order_and_padding_do_not_matter():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 40)
    q = 0.9 * p + 0.1 * rng.dirichlet([1, 1, 1], 40)
    a, b = scores(p), scores(q)
    other = b.select(rng.permutation(40))
    wide = np.concatenate([other.logp_NK, np.full((40, 1), -np.inf)], 1)
    padded = dataclasses.replace(other, logp_NK=wide)
    assert drift(a, padded, n_boot=50) == drift(a, b, n_boot=50)


@pytest.mark.parametrize("strength", [1e-6, 0.01, 0.1, 0.5])
def test_what_movement_and_interval_promise(strength):
    """The mean confidence moves no further than the movement; conf-ECE lies in its interval, which is as fine as they."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.5] * 4, 300)
    q = (1 - strength) * p + strength * rng.dirichlet([0.5] * 4, 300)
    answer = rng.integers(4, size=300)
    a, b = scores(p, answer), scores(q, answer)
    one, two = (measure(s, n_boot=50) for s in (a, b))
    d = drift(a, b, n_boot=200)
    assert abs(two["mean_confidence"].value - one["mean_confidence"].value) <= d.movement + 1e-12
    assert d.mean_abs_dconf <= d.movement + 1e-12
    assert d.conf_ece.value == pytest.approx(two["conf_ece"].value - one["conf_ece"].value)
    assert d.conf_ece.low <= d.conf_ece.value <= d.conf_ece.high
    assert d.conf_ece == compare(a, b, n_boot=200)["conf_ece"]
    if strength == 1e-6:
        assert -1e-5 < d.conf_ece.low <= d.conf_ece.high < 1e-5


def test_flips_between_near_ties_are_counted_and_do_not_decide():
    p = [[0.501, 0.499]] * 100
    a, b = scores(p, [0, 1] * 50), scores([row[::-1] for row in p], [0, 1] * 50)
    d = drift(a, b, n_boot=200)
    assert d.flips == 100
    assert d.movement == pytest.approx(0.002)
    assert d.is_faithful


def test_an_accuracy_that_fell_decides_even_if_probabilities_hardly_moved():
    p = [[0.501, 0.499]] * 400
    a, b = scores(p), scores([row[::-1] for row in p])
    assert drift(a, b, n_boot=200).verdict == "drifted"


def test_an_error_that_grew_beyond_the_tolerance_is_drift_even_if_confidences_hardly_moved():
    """The tolerance is a hair above the movement: only the rise of conf-ECE is judged, and it is judged by interval."""
    a = scores([[0.7, 0.3]] * 400, [0] * 280 + [1] * 120)
    b = scores([[0.72, 0.28]] * 400, [0] * 280 + [1] * 120)
    assert drift(a, b, tolerance=0.021, n_boot=200).is_faithful
    assert not drift(a, b, tolerance=0.019, n_boot=200).is_faithful


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, float("nan")])
def test_a_tolerance_that_is_none(tolerance):
    a = scores([[0.7, 0.3]] * 3)
    with pytest.raises(ConfigError, match="tolerance"):
        drift(a, a, tolerance=tolerance)


def test_other_questions_are_refused():
    with pytest.raises(ScoresError):
        drift(scores([[0.7, 0.3]] * 3), scores([[0.7, 0.3]] * 4))


def test_what_few_questions_can_miss():
    """A fault in 1 of 20 questions lies in none of 59 with a chance of .95^59 = .0485, and in none of 58 with one of .051."""
    few, many = (scores([[0.6, 0.4]] * n) for n in (58, 59))
    assert drift(many, many, n_boot=50).unseen < 0.05 < drift(few, few, n_boot=50).unseen
    assert drift(few, few, n_boot=50).to_json()["unseen"] == pytest.approx(3 / 58, rel=0.03)
