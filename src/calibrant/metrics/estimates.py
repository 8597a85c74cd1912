"""Means, ratios, shares, binned errors and differences with intervals, for whatever is no number of ``measure``.

Shape suffixes: N items (questions, prompts, pairs), M bins, C columns, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibrant.metrics.bins import check_settings
from calibrant.metrics.measurement import Estimate
from calibrant.metrics.proportions import effective_n
from calibrant.metrics.sums import bootstrap_sums
from calibrant.metrics.uncertainty import (
    cell_noise,
    cluster_factor,
    error_interval,
    percentile_interval,
    possible,
    wilson_interval,
)


@dataclass(frozen=True)
class Sampling:
    """How intervals are made: B draws, level, seed, M bins for binned errors; and one label an item where whole clusters
    are resampled.
    """

    n_boot: int = 1000
    level: float = 0.95
    seed: int = 0
    n_bins: int = 10
    cluster: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        check_settings(self.n_bins, self.n_boot, self.level, self.seed)

    def by(self, labels: Sequence[Any] | np.ndarray) -> Sampling:
        """The same for items of which those that share a label are resampled together; one by one where none share any."""
        return replace(self, cluster=tuple(labels) if len(set(labels)) < len(labels) else None)

    @property
    def n_clusters(self) -> int | None:
        """G, or ``None`` where items are resampled."""
        return None if self.cluster is None else len(set(self.cluster))

    @property
    def cluster_N(self) -> np.ndarray | None:
        """Cluster codes 0..G-1, or ``None`` where items are resampled."""
        return None if self.cluster is None else np.unique(np.array(self.cluster), return_inverse=True)[1]

    def worth(self, x_N: np.ndarray) -> float:
        """:func:`~calibrant.metrics.proportions.effective_n` of the mean of x."""
        return effective_n(x_N, self.cluster_N, self.level)


def ratio_draws(above_NC: np.ndarray, below_N: np.ndarray, how: Sampling) -> np.ndarray:
    """Bootstrap draws of ``sum above / sum below`` of C columns, (B, C), of the same items in each for all columns; none
    where there is one cluster only. Draws in which ``sum below`` is 0 have no ratio and are left out.
    """
    if how.n_clusters == 1:
        return np.empty((0, above_NC.shape[1]))
    columns_NC = np.column_stack([below_N, above_NC]).astype(np.float64)
    draws_BC = bootstrap_sums(columns_NC.__getitem__, len(below_N), how.n_boot, how.seed, how.cluster_N)
    draws_BC = draws_BC[draws_BC[:, 0] != 0]
    value_C = columns_NC[:, 1:].sum(0) / columns_NC[:, 0].sum()
    return np.asarray(
        value_C + cluster_factor(how.n_clusters, how.level) * (draws_BC[:, 1:] / draws_BC[:, :1] - value_C)
    )


def mean_draws(columns_NC: np.ndarray, how: Sampling) -> np.ndarray:
    """Bootstrap means of C columns, (B, C), as :func:`ratio_draws`."""
    return ratio_draws(columns_NC, np.ones(len(columns_NC)), how)


def ratio(above_N: np.ndarray, below_N: np.ndarray, how: Sampling) -> Estimate:
    """``sum above / sum below`` with its percentile bootstrap interval; none for one item.

    For sums over the tokens of each prompt this is the mean over tokens, clustered by prompt. ``n`` counts items.
    """
    above_N, below_N = np.asarray(above_N, dtype=np.float64), np.asarray(below_N, dtype=np.float64)
    n, value = len(above_N), float(above_N.sum() / below_N.sum())
    draws_B = ratio_draws(above_N[:, None], below_N, how)[:, 0] if n > 1 else np.empty(0)
    return Estimate(value, *percentile_interval(draws_B, how.level), n)


def mean(x_N: np.ndarray, how: Sampling) -> Estimate:
    """Mean with its percentile bootstrap interval; none for one item."""
    return ratio(x_N, np.ones(len(x_N)), how)


def mean_estimates(columns: Mapping[str, np.ndarray], how: Sampling) -> dict[str, Estimate]:
    """The mean of each named column (N,), with its percentile bootstrap interval."""
    columns_NC = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])
    draws_BC = mean_draws(columns_NC, how)
    return {
        name: Estimate(float(columns_NC[:, j].mean()), *percentile_interval(draws_BC[:, j], how.level), len(columns_NC))
        for j, name in enumerate(columns)
    }


def binned_errors(
    gaps_N: Mapping[str, np.ndarray],
    bin_N: np.ndarray,
    thin_M: Mapping[str, np.ndarray],
    how: Sampling,
    pulls_NM: Mapping[str, np.ndarray],
) -> dict[str, Estimate]:
    """``sum_m |sum_{i in m} gap_i| / N`` of each named gap, with the interval of ``metrics.error_interval``.

    ``thin_M`` is the variance that resampling cannot see in thin bins (0 where a gap holds no label noise). ``pulls_NM``, where
    named, is N times what a question does to the bins through what was fitted to it; it is resampled with the question.
    """
    inside_NM = bin_N[:, None] == np.arange(how.n_bins)
    out = {}
    for name, gap_N in gaps_N.items():
        cells_NM = np.where(inside_NM, gap_N[:, None], 0.0)
        cell_M = cells_NM.mean(0)
        moved_NM = cells_NM + pulls_NM.get(name, 0.0)
        noise_BM = cell_noise(mean_draws(moved_NM, how), moved_NM.mean(0), thin_M[name], how.seed)
        ends = possible(error_interval(cell_M, noise_BM, how.level), 0, 1)
        out[name] = Estimate(float(np.abs(cell_M).sum()), *ends, len(cells_NM))
    return out


def absolute(signed: Estimate) -> Estimate:
    """``|x|`` from the estimate of x: the interval starts at 0 where that of x holds 0."""
    ends = abs(signed.low), abs(signed.high)
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends), signed.n)


def combined(a: Estimate, b: Estimate, rule: Callable[[float, float], float]) -> Estimate:
    """``max(0, rule(a, b))`` with the least and largest value that it takes at the ends of the two intervals.

    For a rule that is monotone in each argument; conservative, since the ends need not occur together.
    """
    ends = [rule(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    value, low, high = (max(0.0, x) for x in (rule(a.value, b.value), min(ends), max(ends)))
    return Estimate(value, low, high, min(a.n, b.n))


def share(hit_N: np.ndarray, how: Sampling, among_N: np.ndarray | None = None) -> Estimate:
    """A share with Wilson's interval, at the effective number of items where they share clusters; of some items only, where a
    mask is given.
    """
    among_N = np.ones(len(hit_N), dtype=bool) if among_N is None else among_N
    hit_N, cluster_N = np.asarray(hit_N, dtype=np.float64)[among_N], how.cluster_N
    worth = effective_n(hit_N, None if cluster_N is None else cluster_N[among_N], how.level)
    value = float(hit_N.mean())
    return Estimate(value, *wilson_interval(value, worth, how.level), len(hit_N))


def share_difference(a: float, n_a: float, b: float, n_b: float, level: float) -> Estimate:
    """``a - b`` of two independent proportions: Newcombe's hybrid score interval (Statistics in Medicine 1998, method
    10), from so many questions, or as many independent ones as they are worth.

    >>> d = share_difference(56 / 70, 70, 48 / 80, 80, 0.95)  # the example of Newcombe's table II
    >>> [round(x, 4) for x in (d.value, d.low, d.high)]
    [0.2, 0.0524, 0.3339]
    """
    (low_a, high_a), (low_b, high_b) = wilson_interval(a, n_a, level), wilson_interval(b, n_b, level)
    value = a - b
    low, high = value - math.hypot(a - low_a, high_b - b), value + math.hypot(high_a - a, b - low_b)
    return Estimate(value, low, high, round(min(n_a, n_b)))
