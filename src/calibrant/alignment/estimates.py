"""Paired numbers of two models on the same items, with intervals. No torch. Shape suffixes: N items, G clusters, B draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.metrics.measurement import Estimate
from calibrant.metrics.sums import bootstrap_sums
from calibrant.metrics.uncertainty import cluster_factor, percentile_interval, wilson_interval


@dataclass(frozen=True)
class How:
    """How intervals are made: bootstrap draws, level, seed."""

    n_boot: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Paired:
    """One number of the aligned and of the tuned model on the same items; ``change`` is tuned minus aligned."""

    aligned: Estimate
    tuned: Estimate
    change: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"aligned": self.aligned.to_json(), "tuned": self.tuned.to_json(), "change": self.change.to_json()}


def mean(x_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Estimate:
    """Mean with its percentile bootstrap interval; whole clusters are resampled where items share one."""
    return ratio(x_N, np.ones(len(x_N)), how, cluster_N)


def ratio(above_N: np.ndarray, below_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Estimate:
    """``Σ above / Σ below`` with its percentile bootstrap interval over items, or over clusters of them.

    For sums over the tokens of each prompt this is the mean over tokens, clustered by prompt. ``n`` counts items. Draws in
    which ``Σ below`` is 0 have no ratio and are left out.
    """
    n, cluster_N = len(above_N), _codes(cluster_N)
    columns_NC = np.column_stack([below_N, above_N]).astype(np.float64)
    value = float(columns_NC[:, 1].sum() / columns_NC[:, 0].sum())
    groups = n if cluster_N is None else int(cluster_N.max()) + 1
    if groups < 2:
        return Estimate(value, math.nan, math.nan, n)
    draws_BC = bootstrap_sums(columns_NC.__getitem__, n, how.n_boot, how.seed, cluster_N)
    known_BC = draws_BC[draws_BC[:, 0] != 0]
    if not len(known_BC):
        return Estimate(value, math.nan, math.nan, n)
    draws_B = known_BC[:, 1] / known_BC[:, 0]
    wider = cluster_factor(None if cluster_N is None else groups, how.level)
    low, high = percentile_interval(value + wider * (draws_B - value), how.level)
    return Estimate(value, low, high, n)


def paired_mean(aligned_N: np.ndarray, tuned_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Paired:
    """Means of both and of the difference, each by :func:`mean`."""
    columns = (aligned_N, tuned_N, tuned_N - aligned_N)
    return Paired(*(mean(np.asarray(x_N, dtype=np.float64), how, cluster_N) for x_N in columns))


def share(hit_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Estimate:
    """A proportion with Wilson's interval, at the effective number of items where they share clusters."""
    hit_N = np.asarray(hit_N, dtype=np.float64)
    value = float(hit_N.mean())
    return Estimate(value, *wilson_interval(value, effective_n(hit_N, cluster_N), how.level), len(hit_N))


def paired_share(aligned_N: np.ndarray, tuned_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Paired:
    """Two proportions on the same items, and their paired difference by :func:`paired_share_interval`."""
    a_N, b_N = np.asarray(aligned_N, dtype=bool), np.asarray(tuned_N, dtype=bool)
    d_N = b_N.astype(np.float64) - a_N
    scale = effective_n(d_N, cluster_N) / len(d_N)
    both, only_b, only_a, neither = (float(x.sum()) * scale for x in (a_N & b_N, ~a_N & b_N, a_N & ~b_N, ~a_N & ~b_N))
    change = Estimate(float(d_N.mean()), *paired_share_interval(both, only_b, only_a, neither, how.level), len(d_N))
    return Paired(share(a_N, how, cluster_N), share(b_N, how, cluster_N), change)


def paired_share_interval(
    both: float, only_b: float, only_a: float, neither: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval of ``P(b) - P(a)`` for two yes-no answers on the same items: Newcombe's score interval for paired data.

    With Wilson limits ``l, u`` of each proportion p and the correlation φ of the answers (its numerator lowered by n/2,
    not below 0): ``low = d - sqrt((p_b - l_b)^2 - 2 φ (p_b - l_b)(u_a - p_a) + (u_a - p_a)^2)``, and ``high`` with the
    ends exchanged (Newcombe, Statistics in Medicine 1998, 17:2635, method 10). Unlike a bootstrap it has a width where
    no item changed.

    >>> [round(x, 3) for x in paired_share_interval(both=36, only_b=12, only_a=2, neither=0)]
    [0.057, 0.34]
    >>> [round(x, 3) for x in paired_share_interval(both=30, only_b=0, only_a=0, neither=10)]
    [-0.064, 0.064]
    """
    n = both + only_b + only_a + neither
    p_b, p_a = (both + only_b) / n, (both + only_a) / n
    (low_b, high_b), (low_a, high_a) = wilson_interval(p_b, n, level), wilson_interval(p_a, n, level)
    rows = (both + only_b) * (only_a + neither) * (both + only_a) * (only_b + neither)
    product = both * neither - only_b * only_a
    product = max(product - n / 2, 0.0) if product > 0 else product
    phi = product / math.sqrt(rows) if rows > 0 else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    d = p_b - p_a
    return d - reach(p_b - low_b, high_a - p_a), d + reach(high_b - p_b, p_a - low_a)


def effective_n(x_N: np.ndarray, cluster_N: np.ndarray | None) -> float:
    """Number of independent items that would know the mean of x as well as these clustered ones.

    ``n`` times the variance of the mean as if independent over that with clusters (Miller 2024, arXiv 2411.00640,
    on clustered errors), at most n; the number of clusters where x does not vary.
    """
    n, cluster_N = len(x_N), _codes(cluster_N)
    if cluster_N is None:
        return float(n)
    groups = int(cluster_N.max()) + 1
    d_N = x_N - x_N.mean()
    if groups < 2:
        return 1.0
    sums_G = np.bincount(cluster_N, weights=d_N, minlength=groups)
    clustered = float((sums_G**2).sum()) * groups / (groups - 1)
    single = float((d_N**2).sum())
    if single == 0 or clustered == 0:
        return float(groups)
    return float(min(n, max(n * single / clustered, 1.0)))


def _codes(cluster_N: np.ndarray | None) -> np.ndarray | None:
    """Cluster codes, or ``None`` where each item is its own cluster."""
    if cluster_N is None or len(np.unique(cluster_N)) == len(cluster_N):
        return None
    return np.unique(cluster_N, return_inverse=True)[1]
