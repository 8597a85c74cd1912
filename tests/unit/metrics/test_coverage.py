"""Intervals of calibration errors cover what they should, in the small; the full table is benchmarks/coverage.py."""

import numpy as np
import pytest

from calibrant.metrics import cluster_factor, error_difference_interval, error_interval

REPS = 200
SHAPES = {
    "nothing": np.zeros(10),
    "all a little": np.full(10, 0.004),
    "all": np.full(10, 0.02),
    "one bin": np.eye(10)[3] * 0.05,
    "both signs": np.tile([0.01, -0.01], 5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_of_an_error_covers(shape):
    """Cells with sd .008; 200 samples: fewer than 180 hits of a true 95 % has probability .2 %."""
    truth, rng = SHAPES[shape], np.random.default_rng(0)
    noise = rng.normal(0, 0.008, (300, 10))
    hits = 0
    for _ in range(REPS):
        low, high = error_interval(truth + rng.normal(0, 0.008, 10), noise)
        hits += low <= np.abs(truth).sum() <= high
    assert hits >= 180


def test_the_naive_percentile_interval_would_not():
    truth, rng = SHAPES["all a little"], np.random.default_rng(0)
    noise = rng.normal(0, 0.008, (300, 10))
    hits = 0
    for _ in range(REPS):
        cell = truth + rng.normal(0, 0.008, 10)
        low, high = np.quantile(np.abs(cell + noise).sum(1), [0.025, 0.975])
        hits += low <= np.abs(truth).sum() <= high
    assert hits < 20


def test_noise_common_to_all_cells_is_covered_too():
    """One shock moves every cell, as with few clusters: the sample's gap can vanish though the truth is .1."""
    truth, rng = np.full(10, 0.01), np.random.default_rng(0)
    noise = np.outer(rng.normal(0, 0.008, 400), np.ones(10))
    hits = 0
    for _ in range(REPS):
        low, high = error_interval(truth + rng.normal(0, 0.008), noise)
        hits += low <= 0.1 <= high
    assert hits >= 180


@pytest.mark.parametrize(("a", "b"), [("all", "nothing"), ("all", "all a little"), ("one bin", "both signs")])
def test_the_interval_of_a_difference_covers(a, b):
    rng = np.random.default_rng(1)
    shared, own_a, own_b = (rng.normal(0, 0.006, (300, 10)) for _ in range(3))
    goal = np.abs(SHAPES[b]).sum() - np.abs(SHAPES[a]).sum()
    hits = 0
    for _ in range(100):
        shock = rng.normal(0, 0.006, 10)
        cell_a = SHAPES[a] + shock + rng.normal(0, 0.006, 10)
        cell_b = SHAPES[b] + shock + rng.normal(0, 0.006, 10)
        low, high = error_difference_interval(cell_a, shared + own_a, cell_b, shared + own_b)
        hits += low <= goal <= high
    assert hits >= 88


@pytest.mark.parametrize("size", [0.003, 0.006, 0.02])
def test_over_against_underconfident_is_covered(size):
    """All that shakes the one shakes the other, so noise pulls equal errors apart: 200 samples, .2 % quantile of hits 180."""
    shared, rng, hits = np.random.default_rng(2).normal(0, 0.006, (300, 10)), np.random.default_rng(3), 0
    over, under = np.full(10, -size), np.full(10, size)
    for _ in range(REPS):
        shock = rng.normal(0, 0.006, 10)
        low, high = error_difference_interval(over + shock, shared, under + shock, shared)
        hits += low <= 0 <= high
    assert hits >= 180


def test_percentiles_of_the_draws_alone_would_miss_a_cure():
    rng = np.random.default_rng(4)
    own_a, own_b = (rng.normal(0, 0.006, (300, 10)) for _ in range(2))
    hits = naive = 0
    for _ in range(100):
        cell_a, cell_b = SHAPES["all"] + rng.normal(0, 0.006, 10), rng.normal(0, 0.006, 10)
        low, high = error_difference_interval(cell_a, own_a, cell_b, own_b)
        hits += low <= -0.2 <= high
        drawn = np.quantile(np.abs(cell_b + own_b).sum(1) - np.abs(cell_a + own_a).sum(1), [0.025, 0.975])
        naive += drawn[0] <= -0.2 <= drawn[1]
    assert hits >= 88
    assert naive < 40


def test_a_difference_by_hand_where_luck_may_have_turned_a_sign():
    """One cell, both models shaken alike by sd .1: a lies .04 and b .23 below. At the 97.5 % draw, +.196, they lie at .156
    and -.034, so b errs by .122 less. Upwards no draw parts them by more than the .19 that they are apart."""
    z = np.random.default_rng(0).normal(0, 1, 20_001)
    noise = 0.1 * ((z - z.mean()) / z.std())[:, None]
    low, high = error_difference_interval(np.array([-0.04]), noise, np.array([-0.23]), noise)
    assert -0.19 - 1e-6 <= low < -0.122 + 0.004
    assert high == pytest.approx(0.19)


def test_two_models_are_no_further_apart_than_their_cells():
    """Cells .001 apart in each of two bins and shaken alike: |D| <= .002, though each error alone is known to .03 only."""
    noise = np.random.default_rng(0).normal(0, 0.01, (500, 2))
    near, far = (np.array([x, -x]) for x in (0.0005, 0.3))
    low, high = error_difference_interval(near, noise, near + 0.001, noise)
    assert (low, high) == pytest.approx((-0.002, 0.002), abs=1e-9)
    assert error_difference_interval(far, noise, far, noise) == (0.0, 0.0)
    unlike = error_difference_interval(near, noise, np.append(near, 0.0), np.column_stack([noise, 0 * noise[:, 0]]))
    assert unlike[1] - unlike[0] > 0.02  # cells that do not answer each other: no such limit


@pytest.mark.parametrize("seed", range(12))
def test_what_every_interval_of_a_difference_keeps(seed):
    """It holds the value seen, mirrors under exchange, scales with its cells, and lies between minus a's and b's limits."""
    rng = np.random.default_rng(seed)
    shared, own_a, own_b = (rng.normal(0, rng.choice([0, 0.003, 0.01]), (200, 6)) for _ in range(3))
    full_a, full_b = (rng.random(6) < 0.7 for _ in range(2))  # other cells are empty: no noise either
    cell_a, cell_b = full_a * rng.normal(0, 0.02, 6), full_b * rng.normal(0, 0.02, 6)
    a, b = (cell_a, full_a * (shared + own_a)), (cell_b, full_b * (shared + own_b))
    low, high = error_difference_interval(*a, *b)
    value = np.abs(cell_b).sum() - np.abs(cell_a).sum()
    assert low <= value <= high
    assert error_difference_interval(*b, *a) == pytest.approx((-high, -low), abs=1e-12)
    tenfold = error_difference_interval(*(10 * x for x in a), *(10 * x for x in b))
    assert tenfold == pytest.approx((10 * low, 10 * high), abs=1e-5)
    assert -error_interval(*a, 0.975)[1] <= low
    assert high <= error_interval(*b, 0.975)[1] + 1e-12
    assert error_difference_interval(*a, *a) == (0.0, 0.0)


def test_few_clusters_widen_by_students_quantile():
    """G = 10: sqrt(10/9) 2.262/1.960 = 1.2166."""
    assert cluster_factor(10) == pytest.approx(1.2166, abs=1e-3)
    assert cluster_factor(None) == 1.0
