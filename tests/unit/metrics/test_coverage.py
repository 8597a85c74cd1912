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


def test_few_clusters_widen_by_students_quantile():
    """G = 10: sqrt(10/9) 2.262/1.960 = 1.2166."""
    assert cluster_factor(10) == pytest.approx(1.2166, abs=1e-3)
    assert cluster_factor(None) == 1.0
