"""Drift of preference pairs and the sharpening that β leads one to expect."""

import json
import math

import numpy as np
import pytest

from calibrant.diagnosis import expected_sharpening, preference_drift
from calibrant.errors import ConfigError, ScoresError


@pytest.mark.parametrize(("beta", "expected"), [(1, 0.60), (0.5, 0.6923), (0.1, 0.98296), (0.05, 0.9997)])
def test_sharpening_of_a_six_to_four_preference(beta, expected):
    """.6^(1/β) / (.6^(1/β) + .4^(1/β)); for β = .5: .36 / .52."""
    assert expected_sharpening(0.6, beta) == pytest.approx(expected, abs=5e-5)
    assert expected_sharpening(0.4, beta) == pytest.approx(1 - expected, abs=5e-5)


def test_sharpening_broadcasts_and_has_defined_ends():
    assert expected_sharpening([[0.5], [0.9]], [1, 0.1]).shape == (2, 2)
    assert expected_sharpening([0.0, 0.5, 1.0], 0.01).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("p", "beta"), [(1.2, 1), (-0.1, 1), (0.6, 0), (0.6, -1), (math.nan, 1), (0.6, math.inf)])
def test_sharpening_of_what_is_no_share_or_no_strength_is_refused(p, beta):
    with pytest.raises(ConfigError, match="β"):
        expected_sharpening(p, beta)


def test_drift_by_hand():
    """Chosen -2, +1, -3; rejected -4, -1, +1. Means -4/3, -4/3; margins 2, 2, -4: mean 0; both fell once of three."""
    zero = np.zeros(3)
    drift = preference_drift([-2, 1, -3], zero, [-4, -1, 1], zero)
    assert drift.chosen.value == pytest.approx(-4 / 3)
    assert drift.rejected.value == pytest.approx(-4 / 3)
    assert drift.margin.value == pytest.approx(0)
    assert drift.share_both_fell.value == pytest.approx(1 / 3)
    assert drift.share_margin_grew.value == pytest.approx(2 / 3)
    assert drift.n == 3
    assert json.loads(json.dumps(drift.to_json()))["margin"]["n"] == 3


def test_intervals_of_the_drift_hold_the_truth():
    rng = np.random.default_rng(0)
    n = 2000
    drift = preference_drift(rng.normal(-1, 1, n), np.zeros(n), rng.normal(-3, 1, n), np.zeros(n))
    assert drift.margin.low < 2 < drift.margin.high
    assert drift.margin.high - drift.margin.low == pytest.approx(2 * 1.96 * math.sqrt(2 / n), rel=0.1)


@pytest.mark.parametrize(
    "lists",
    [([1, 2], [1, 2], [1, 2], [1]), ([1], [1], [1], [1]), ([1, math.nan], [1, 2], [1, 2], [1, 2]), ([[1, 2]],) * 4],
)
def test_broken_pairs_are_refused(lists):
    with pytest.raises(ScoresError, match="log-probabilities"):
        preference_drift(*lists)


def test_pairs_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(0)
    moved = np.repeat(rng.normal(0, 3, 20), 10) + rng.normal(0, 0.1, 200)  # 20 prompts of 10 pairs that move alike
    zero = np.zeros(200)
    alone = preference_drift(moved, zero, zero, zero).margin
    together = preference_drift(moved, zero, zero, zero, prompts=np.repeat(np.arange(20), 10).tolist()).margin
    assert together.value == alone.value
    assert (
        2.5 < (together.high - together.low) / (alone.high - alone.low) < 4.5
    )  # about sqrt(10), by few clusters wider
    each = preference_drift(moved, zero, zero, zero, prompts=range(200)).margin
    assert each == alone
    one = preference_drift(moved, zero, zero, zero, prompts=["the same"] * 200).margin
    assert np.isnan([one.low, one.high]).all()
    with pytest.raises(ScoresError, match="one prompt a pair"):
        preference_drift(moved, zero, zero, zero, prompts=["a"])
