"""Paired numbers of two models on the same items, with intervals. No torch. Shape suffixes: N items, G clusters, B draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.metrics.measurement import Estimate
from calibrant.metrics.proportions import effective_n, paired_change_interval
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


def paired_mean(aligned_N: np.ndarray, tuned_N: np.ndarray, how: How) -> Paired:
    """Means of both and of the difference, each by :func:`mean`."""
    columns = (aligned_N, tuned_N, tuned_N - aligned_N)
    return Paired(*(mean(np.asarray(x_N, dtype=np.float64), how) for x_N in columns))


def share(hit_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Estimate:
    """A proportion with Wilson's interval, at the effective number of items where they share clusters."""
    hit_N = np.asarray(hit_N, dtype=np.float64)
    value = float(hit_N.mean())
    return Estimate(value, *wilson_interval(value, effective_n(hit_N, cluster_N, how.level), how.level), len(hit_N))


def paired_share(aligned_N: np.ndarray, tuned_N: np.ndarray, how: How, cluster_N: np.ndarray | None = None) -> Paired:
    """Two proportions on the same items, and their paired difference by Newcombe's interval."""
    a_N, b_N = np.asarray(aligned_N, dtype=bool), np.asarray(tuned_N, dtype=bool)
    d_N = b_N.astype(np.float64) - a_N
    ends = paired_change_interval(a_N[None], b_N[None], effective_n(d_N, cluster_N, how.level), how.level)
    change = Estimate(float(d_N.mean()), *ends, len(d_N))
    return Paired(share(a_N, how, cluster_N), share(b_N, how, cluster_N), change)


def _codes(cluster_N: np.ndarray | None) -> np.ndarray | None:
    """Cluster codes, or ``None`` where each item is its own cluster."""
    if cluster_N is None or len(np.unique(cluster_N)) == len(cluster_N):
        return None
    return np.unique(cluster_N, return_inverse=True)[1]
