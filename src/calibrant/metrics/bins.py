"""The one binning rule, and the table behind a reliability diagram. Shape suffixes: N questions, M bins.

Bin m of M is ``[m/M, (m+1)/M)``; the last one is closed. The rule is part of the definition of every binned error:
confidences that sit on edges move the calibration error by several thousandths between libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from calibrant.errors import ConfigError, ScoresError, only_numbers

EDGE_TOLERANCE = 1e-12
"""A value this little below an edge counts as the edge: ``exp(log(0.3))`` may lose the last bit of 0.3."""


def bin_edges(n_bins: int = 10) -> np.ndarray:
    """Edges of M equal-width bins on [0, 1]: ``m / M`` for m = 0..M, shape (M + 1,).

    Raises
    ------
    ConfigError : fewer than one bin.

    >>> bin_edges(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    only_numbers(whole=True, n_bins=n_bins)
    if n_bins < 1:
        raise ConfigError(asked="bins on [0, 1]", found=f"n_bins = {n_bins}", todo="give n_bins >= 1, usually 10")
    return np.arange(n_bins + 1) / n_bins


def bin_index(confidence: ArrayLike, n_bins: int = 10) -> np.ndarray:
    """Bin of each probability: ``m`` where ``m/M <= c < (m+1)/M``, the last bin closed; int64, shape of ``confidence``.

    Compared with the edges themselves (never ``floor(c * M)``), in float64; a value within 1e-12 below an edge is on
    it.

    Raises
    ------
    ScoresError : NaN, or a value outside [0, 1] by more than 1e-6.

    >>> bin_index([0.0, 0.3, 0.29999, 0.7, 1.0]).tolist()
    [0, 3, 2, 7, 9]
    """
    edges = bin_edges(n_bins)
    c = np.asarray(confidence, dtype=np.float64)
    bad = ~((c >= -1e-6) & (c <= 1 + 1e-6))
    if bad.any():
        raise ScoresError(
            asked="probabilities between 0 and 1",
            found=f"{int(bad.sum())} of {c.size} are not; the first is {c[bad].flat[0]}",
            todo="give probabilities, not log-probabilities or percentages",
        )
    at = np.searchsorted(edges[1:-1], c + EDGE_TOLERANCE, side="right")
    return at.astype(np.int64)


@dataclass(frozen=True, eq=False)
class BinTable:
    """What a reliability diagram shows, one row a bin; ``nan`` where a bin is empty.

    Parameters
    ----------
    edges : (M + 1,) bin edges.
    count_M : int64 (M,), questions in the bin.
    mean_confidence_M, accuracy_M : (M,).
    low_M, high_M : (M,) Clopper-Pearson interval of the bin's accuracy.
    """

    edges: np.ndarray
    count_M: np.ndarray
    mean_confidence_M: np.ndarray
    accuracy_M: np.ndarray
    low_M: np.ndarray
    high_M: np.ndarray


def bin_table(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10, level: float = 0.95) -> BinTable:
    """Count, mean confidence, accuracy and its exact binomial interval for each bin.

    Interval: Clopper & Pearson (Biometrika 1934), which covers at least ``level`` for independent questions.

    >>> t = bin_table([0.95, 0.95, 0.55], [1, 0, 1])
    >>> t.count_M[[5, 9]].tolist(), t.accuracy_M[[5, 9]].tolist(), t.low_M[9].round(4), t.high_M[9].round(4)
    ([1, 2], [1.0, 0.5], np.float64(0.0126), np.float64(0.9874))
    """
    c_N, correct_N = check_pairs(confidence_N, correct_N)
    at_N = bin_index(c_N, n_bins)
    count_M = np.bincount(at_N, minlength=n_bins)
    hits_M = np.bincount(at_N, weights=correct_N, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_M = np.bincount(at_N, weights=c_N, minlength=n_bins) / count_M
        accuracy_M = hits_M / count_M
    low_M, high_M = clopper_pearson(hits_M, count_M, level)
    return BinTable(bin_edges(n_bins), count_M, mean_M, accuracy_M, low_M, high_M)


def clopper_pearson(hits: ArrayLike, count: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Exact two-sided binomial interval of ``hits / count``, elementwise; ``nan`` where the count is 0.

    ``low = Beta^-1(a/2; h, n-h+1)``, ``high = Beta^-1(1-a/2; h+1, n-h)`` with ``a = 1 - level`` (Clopper & Pearson
    1934).

    >>> low, high = clopper_pearson([0, 5, 10], [10, 10, 10])
    >>> low.round(4).tolist(), high.round(4).tolist()
    ([0.0, 0.1871, 0.6915], [0.3085, 0.8129, 1.0])
    """
    check_level(level)
    h, n = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(count, dtype=np.float64))
    low, high = np.zeros(h.shape), np.ones(h.shape)
    some, rest = (n > 0) & (h > 0), (n > 0) & (h < n)
    low[some] = betaincinv(h[some], n[some] - h[some] + 1, (1 - level) / 2)
    high[rest] = betaincinv(h[rest] + 1, n[rest] - h[rest], (1 + level) / 2)
    low[n == 0] = high[n == 0] = np.nan
    return low, high


def thin_variance(count_M: np.ndarray, hits_M: np.ndarray) -> np.ndarray:
    """Variance of a bin's number of hits that resampling cannot see when its few labels (almost) agree, (M,).

    Resampling moves n labels of which h are hits by ``n f (1 - f)``, ``f = h/n``: nothing at all when all agree.
    Laplace's ``g = (h + 1)/(n + 2)`` does not believe that; returned is ``n max(g (1 - g) - f (1 - f), 0)``. Source:
    ours.

    >>> thin_variance(np.array([2.0]), np.array([2.0])).tolist()  # g = 3/4: 2 (3/16)
    [0.375]
    """
    f_M, g_M = hits_M / np.maximum(count_M, 1), (hits_M + 1) / (count_M + 2)
    return np.asarray(count_M * np.maximum(g_M * (1 - g_M) - f_M * (1 - f_M), 0.0))


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1) with a :class:`ConfigError`."""
    only_numbers(level=level)
    if not 0 < level < 1:
        raise ConfigError(asked="a confidence level", found=f"{level}", todo="give a fraction in (0, 1), e.g. 0.95")


def check_settings(n_bins: int, n_boot: int, level: float, seed: int = 0) -> None:
    """Refuse fewer than one bin, fewer than 50 draws, a level outside (0, 1) or a seed below 0 with a :class:`ConfigError`."""
    bin_edges(n_bins)
    check_level(level)
    only_numbers(whole=True, n_boot=n_boot, seed=seed)
    if n_boot < 50:
        raise ConfigError(asked="bootstrap intervals", found=f"n_boot = {n_boot}", todo="give 50 draws or more")
    if seed < 0:
        raise ConfigError(asked="bootstrap draws", found=f"seed = {seed}", todo="give a seed of 0 or more")


def check_pairs(confidence_N: ArrayLike, correct_N: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (N,), N >= 1, confidences in [0, 1], correctness 0 or 1; else a :class:`ScoresError`."""
    c_N, y_N = np.asarray(confidence_N, dtype=np.float64), np.asarray(correct_N, dtype=np.float64)
    if c_N.ndim != 1 or c_N.shape != y_N.shape or len(c_N) == 0:
        raise ScoresError(
            asked="one confidence and one correctness a question, at least one question",
            found=f"shapes {c_N.shape} and {y_N.shape}",
            todo="give two vectors of the same length",
        )
    if not np.isin(y_N, (0.0, 1.0)).all():
        raise ScoresError(
            asked="correctness 0 or 1", found="other values", todo="give booleans, e.g. prediction == answer"
        )
    if not ((c_N >= -1e-6) & (c_N <= 1 + 1e-6)).all():
        raise ScoresError(
            asked="confidences between 0 and 1",
            found="NaN or values outside",
            todo="give probabilities of the top option",
        )
    return np.clip(c_N, 0.0, 1.0), y_N
