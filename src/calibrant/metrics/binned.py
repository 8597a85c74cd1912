"""Further binned errors of the confidence. Shape suffixes: N questions, M bins.

Each takes confidences and correctness; see ``battery`` for all of them with intervals and floors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from calibrant.metrics.bins import bin_edges, bin_index, check_level
from calibrant.metrics.profile import Profile, exact_profile


def equal_width_bins(profile: Profile, n_bins: int) -> np.ndarray:
    """Bin of each group by the one binning rule, (G,)."""
    return bin_index(profile.c_G, n_bins)


def equal_mass_bins(profile: Profile, n_bins: int) -> np.ndarray:
    """Bin of each group when the sorted questions are cut into M parts of sizes that differ by at most one, (G,).

    An edge lies midway between the neighbours that it parts; equal confidences stay together, in the lower bin, so
    fewer than M bins remain where ties are long.
    """
    total = round(float(profile.n))
    parts = min(n_bins, total)
    sizes = np.full(parts, total // parts)
    sizes[: total % parts] += 1
    last = np.cumsum(sizes)[:-1] - 1  # index of the last question of each part but the last
    upto_G = np.cumsum(profile.n_G)
    at, after = np.searchsorted(upto_G, last, side="right"), np.searchsorted(upto_G, last + 1, side="right")
    edges = (profile.c_G[at] + profile.c_G[after]) / 2
    return np.searchsorted(np.unique(edges), profile.c_G, side="left")


def bin_gaps(profile: Profile, bin_G: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of the questions and ``accuracy - mean confidence`` (0 where empty) of each bin, (..., M) each."""
    n_M, hits_M, conf_M = profile.binned(bin_G, n_bins)
    return n_M / profile.n[..., None], np.where(n_M > 0, (hits_M - conf_M) / np.maximum(n_M, 1e-300), 0.0)


def equal_mass_ece(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> float:
    """Calibration error over M bins of equal mass: ``sum_m (n_m / N) |acc_m - conf_m|``.

    Bias: upward, as conf-ECE, but evenly over the range. Source: Nguyen & O'Connor (EMNLP 2015); Nixon et al. (2019).

    >>> equal_mass_ece([0.5, 0.6, 0.9, 1.0], [1, 0, 1, 1], n_bins=2)  # .5 |.5 - .55| + .5 |1 - .95|
    0.05
    """
    bin_edges(n_bins)
    profile = exact_profile(confidence_N, correct_N)
    share_M, gap_M = bin_gaps(profile, equal_mass_bins(profile, n_bins), n_bins)
    return float(round((share_M * np.abs(gap_M)).sum(), 15))


def mce(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> float:
    """Maximum calibration error: ``max_m |acc_m - conf_m|`` over the bins that are not empty.

    Bias: strongly upward; one question in a bin decides it. No interval of it is honest, so it comes with a floor only.
    Source: Naeini et al. (AAAI 2015).

    >>> round(mce([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 0]), 4)
    0.45
    """
    profile = exact_profile(confidence_N, correct_N)
    return float(np.abs(bin_gaps(profile, equal_width_bins(profile, n_bins), n_bins)[1]).max())


class Parts(NamedTuple):
    """Over- and underconfident part of conf-ECE: ``over + under = conf-ECE``, ``over - under = signed gap``."""

    over: float
    under: float


def over_under(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> Parts:
    """``sum_m (n_m / N) max(conf_m - acc_m, 0)`` and the same of ``acc_m - conf_m``. Bias: both upward.

    >>> [round(x, 4) for x in over_under([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 1])]
    [0.225, 0.225]
    """
    profile = exact_profile(confidence_N, correct_N)
    share_M, gap_M = bin_gaps(profile, equal_width_bins(profile, n_bins), n_bins)
    return Parts(float((share_M * np.maximum(-gap_M, 0)).sum()), float((share_M * np.maximum(gap_M, 0)).sum()))


def debiased_ece(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> float:
    """conf-ECE minus its estimated bias: ``2 ECE - sum_m (n_m / N) E|Normal(gap_m, acc_m (1 - acc_m) / n_m)|``.

    The expectation is the folded normal's closed form, the limit of the resampling in Kumar, Liang & Ma (NeurIPS 2019,
    app. D; Bröcker 2012). Bias: small where gaps are large; near 0 it still leans upward in expectation, and it can be
    negative.

    >>> round(debiased_ece([0.7] * 10, [1] * 7 + [0] * 3), 4)  # gap 0: minus the mean |noise|, sqrt(2/pi) .1449
    -0.1156
    """
    profile = exact_profile(confidence_N, correct_N)
    n_M, hits_M, conf_M = profile.binned(equal_width_bins(profile, n_bins), n_bins)
    some = n_M > 0
    n, a = n_M[some], hits_M[some] / n_M[some]
    gap, sd = a - conf_M[some] / n, np.sqrt(a * (1 - a) / n)
    safe = np.where(sd > 0, sd, 1.0)
    folded = safe * np.sqrt(2 / np.pi) * np.exp(-((gap / safe) ** 2) / 2) + gap * (1 - 2 * ndtr(-gap / safe))
    expected = np.where(sd > 0, folded, np.abs(gap))
    return float((n * (2 * np.abs(gap) - expected)).sum() / n.sum())


def debiased_l2_ece(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> float:
    """Root of ``sum_m (n_m / N) (gap_m^2 - acc_m (1 - acc_m) / (n_m - 1))``, 0 where that is negative.

    Bins with one question count 0. Unbiased for the square, given the confidences. Source: Kumar et al. (NeurIPS 2019),
    sec. 4.

    >>> round(debiased_l2_ece([0.9] * 10, [1] * 5 + [0] * 5), 4)  # sqrt(.16 - .25/9)
    0.3636
    """
    profile = exact_profile(confidence_N, correct_N)
    n_M, hits_M, conf_M = profile.binned(equal_width_bins(profile, n_bins), n_bins)
    some = n_M > 1
    n, a = n_M[some], hits_M[some] / n_M[some]
    square = float((n * ((a - conf_M[some] / n) ** 2 - a * (1 - a) / (n - 1))).sum() / n_M.sum())
    return float(np.sqrt(max(square, 0.0)))


class L2Interval(NamedTuple):
    """Value and interval of the l2 calibration error."""

    value: float
    low: float
    high: float


def l2_ece(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10, level: float = 0.95) -> L2Interval:
    """l2 calibration error ``sqrt(E[E[y - c | bin]^2])`` with a closed-form interval.

    The square's unbiased U-statistic is ``T = (1/N) sum_m sum_{i != j in m} u_i u_j / (n_m - 1)``, ``u = y - c``. Its
    variance has a term of order 1/N that vanishes for a calibrated model and one of order 1/N^2 that remains:
    ``v1 = [sum_m w_m (4 g^2 s - 3 g^4) - (sum_m w_m g^2)^2] / N``, ``v0 = (2 / N^2) sum_m n_m/(n_m - 1) s^2`` with ``w
    = n_m/N``, ``g`` and ``s`` the bin's mean of u and of u^2. Interval: ``T +- z sqrt(v0 + v1)``, cut at 0, and its
    root. Source: Sun et al. (arXiv 2408.08998) for T and v1; keeping both terms at once, instead of a test that
    chooses, is ours.

    >>> e = l2_ece([0.9] * 200, [1] * 100 + [0] * 100)
    >>> round(e.value, 3), round(e.low, 3), round(e.high, 3)
    (0.398, 0.321, 0.463)
    """
    check_level(level)
    profile = exact_profile(confidence_N, correct_N)
    bin_G = equal_width_bins(profile, n_bins)
    n_M, hits_M, conf_M = profile.binned(bin_G, n_bins)
    square_G = profile.hits_G * (1 - profile.c_G) ** 2 + (profile.n_G - profile.hits_G) * profile.c_G**2
    square_M = np.bincount(bin_G, weights=square_G, minlength=n_bins)
    total, some = float(n_M.sum()), n_M > 1
    n, u, s = n_M[some], (hits_M - conf_M)[some], square_M[some] / n_M[some]
    g, w = u / n, n / total
    t = float(((u * u - n * s) / (n - 1)).sum() / total)
    v1 = max(float((w * (4 * g**2 * s - 3 * g**4)).sum() - (w * g**2).sum() ** 2), 0.0) / total
    v0 = 2 * float((n / (n - 1) * s**2).sum()) / total**2
    half = float(ndtri((1 + level) / 2)) * np.sqrt(v0 + v1)
    low, high = (float(np.sqrt(max(x, 0.0))) for x in (t - half, t + half))
    return L2Interval(float(np.sqrt(max(t, 0.0))), low, high)


class BrierParts(NamedTuple):
    """Split of the confidence's Brier score ``mean (c - y)^2``; see :func:`brier_decomposition`."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float
    total: float

    @property
    def refinement(self) -> float:
        """``uncertainty - resolution + within``: what perfect recalibration of the bins would leave."""
        return self.uncertainty - self.resolution + self.within


def brier_decomposition(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> BrierParts:
    """``mean (c - y)^2 = reliability - resolution + uncertainty + within``, exactly.

    reliability ``sum w (conf_m - acc_m)^2``, resolution ``sum w (acc_m - acc)^2``, uncertainty ``acc (1 - acc)``, and
    ``within`` what binning hides: ``sum w [var_m(c) - 2 cov_m(c, y)]``. Bias: reliability and resolution both upward by
    about ``sum_m acc_m (1 - acc_m) / N``. Source: Murphy (1973); within-bin terms, Stephenson, Coelho & Jolliffe
    (2008).

    >>> d = brier_decomposition([0.9] * 4, [1, 1, 0, 0])
    >>> [round(x, 4) for x in d]
    [0.16, 0.0, 0.25, 0.0, 0.41]
    """
    profile = exact_profile(confidence_N, correct_N)
    bin_G = equal_width_bins(profile, n_bins)
    n_M, hits_M, conf_M = profile.binned(bin_G, n_bins)
    n, some = float(profile.n), n_M > 0
    w, a, c = n_M[some] / n, hits_M[some] / n_M[some], conf_M[some] / n_M[some]
    accuracy = float(hits_M.sum() / n)
    misses_G = profile.n_G - profile.hits_G
    total = float((profile.hits_G * (1 - profile.c_G) ** 2 + misses_G * profile.c_G**2).sum() / n)
    reliability, resolution = float((w * (c - a) ** 2).sum()), float((w * (a - accuracy) ** 2).sum())
    uncertainty = accuracy * (1 - accuracy)
    return BrierParts(reliability, resolution, uncertainty, total - reliability + resolution - uncertainty, total)
