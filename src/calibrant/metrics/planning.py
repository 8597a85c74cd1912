"""How many questions are enough. Shape suffixes: R redraws, M bins, G groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.binned import bin_gaps, equal_width_bins
from calibrant.metrics.bins import check_level
from calibrant.metrics.measurement import Estimate, only_scores
from calibrant.metrics.profile import Profile, compress, exact_profile
from calibrant.scores import Scores

BISECTIONS = 12
ROUNDING = 1e-6
"""A change within this is rounding: scores in float32 depend beyond it on the processor and on what is in one batch."""
MOST_QUESTIONS = 10**9
"""More questions than this settle nothing that anyone could ask."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for looking at all of them (Holm 1979): valid whatever their dependence.

    ``adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))`` over the sorted values; reject where at most alpha.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.minimum((len(p) - np.arange(len(p))) * p[order], 1.0))
    out = np.empty(len(p))
    out[order] = stepped
    return [float(x) for x in out]


def enough_draws(n_boot: int, comparisons: int, level: float) -> int:
    """Draws with which one of several comparisons can be decided: ``n_boot``, or ``2 m / (1 - level)`` where that is more.

    No p-value is below ``1 / (draws + 1)``, and a correction for m comparisons multiplies it by up to m; with fewer draws no
    effect, however large, could come below ``1 - level``.

    >>> enough_draws(1000, 7, 0.95), enough_draws(100, 7, 0.95)
    (1000, 280)
    """
    check_level(level)
    only_numbers(whole=True, n_boot=n_boot)
    return max(n_boot, math.ceil(2 * comparisons / (1 - level) - 1e-9))


def tukey(z_values: Sequence[float], groups: int) -> list[float]:
    """p-values of some of the pairs of ``groups`` equals, corrected for all their pairs, whichever were picked after looking.

    ``P(range of m standard normals > sqrt(2) |z|)``, the studentised range at infinite degrees of freedom: exact for
    independent numbers of equal variance, too large otherwise (Tukey 1953; Hayter, Annals of Statistics 1984).

    Parameters
    ----------
    z_values : difference of each pair over its standard error.
    groups : m, all that could have been picked.

    >>> [round(p, 3) for p in tukey([1.96, 3.5], 2)]  # two groups: nothing to correct
    [0.05, 0.0]
    >>> [round(p, 3) for p in tukey([1.96, 3.5], 10)]
    [0.627, 0.017]
    """
    only_numbers(whole=True, groups=groups)
    from scipy.stats import studentized_range  # slow to import, and seldom needed

    scaled = np.sqrt(2) * np.abs(np.asarray(z_values, dtype=np.float64))
    return [float(np.clip(studentized_range.sf(x, max(groups, 2), np.inf), 0.0, 1.0)) for x in scaled]


def n_for_width(estimate: Estimate, width: float) -> int:
    """Questions needed for an interval of this full width, if the data stay alike: ``n (current width / width)^2``,
    rounded up.

    Raises
    ------
    ConfigError : a width that is not positive, or an estimate without an interval.

    >>> n_for_width(Estimate(value=0.5, low=0.4, high=0.6, n=100), width=0.1)
    400
    """
    only_numbers(width=width)
    current = estimate.high - estimate.low
    if not width > 0 or not math.isfinite(current):
        raise ConfigError(
            asked="questions for an interval of a wanted width",
            found=f"width {width}, current interval {estimate.low} to {estimate.high}",
            todo="give a positive width and an estimate that has an interval",
        )
    return math.ceil(estimate.n * (current / width) ** 2 - 1e-9)


def n_to_decide(value: float, low: float, high: float, n: int, level: float = 0.95, power: float = 0.8) -> int | None:
    """Questions at which an interval would exclude 0 with probability ``power``, were ``value`` the truth; ``None`` if
    value is 0 or within rounding of it (:data:`ROUNDING`), or if they are more than :data:`MOST_QUESTIONS`.

    ``n (margin / |value|)^2 ((z_level + z_power) / z_level)^2`` with margin the distance from the value to the end of
    the interval that faces 0. At least ``n`` where the interval holds 0.

    >>> n_to_decide(value=-0.02, low=-0.06, high=0.02, n=500)  # margin .04: 500 * 4 * (2.80/1.96)^2
    4087
    """
    only_numbers(value=value, low=low, high=high, n=n, power=power)
    check_level(level)
    check_level(power)
    if abs(value) <= ROUNDING or not all(math.isfinite(x) for x in (value, low, high)):
        return None
    margin = value - low if value > 0 else high - value
    z = float(ndtri((1 + level) / 2))
    needed = math.ceil(n * (margin / abs(value)) ** 2 * ((z + float(ndtri(power))) / z) ** 2)
    if needed > MOST_QUESTIONS:
        return None
    return max(needed, n) if low <= 0 <= high else needed


def n_to_stay_above(value: float, low: float, n: int, level: float = 0.95, power: float = 0.8) -> float:
    """Questions at which an estimate, not its interval, is above 0 with probability ``power``, were ``value`` the truth:
    ``n (z_power (value - low) / (z_level value))^2``; infinite where value is not above 0. ours

    >>> round(n_to_stay_above(value=0.01, low=-0.03, n=500))  # 500 * (.8416 * 4 / 1.96)^2
    1475
    """
    if value <= 0:
        return math.inf
    return n * (float(ndtri(power)) * (value - low) / (float(ndtri((1 + level) / 2)) * value)) ** 2


def minimum_detectable(
    scores: Scores,
    *,
    n: int | None = None,
    power: float = 0.8,
    n_bins: int = 10,
    n_draws: int = 1000,
    seed: int = 0,
) -> float:
    """The least uniform overconfidence that ``measure`` would call distinguishable, with probability ``power``.

    A model with these confidences is right ``delta`` less often than it says (accuracies cut at 0), on ``n`` questions
    (default: as many as given). Returned is the least delta at which its conf-ECE exceeds the 95th percentile of the
    calibrated twin's in a share ``power`` of the draws; ``inf`` if none below 1 does. Scales as ``1 / sqrt(n)``. Finer
    shapes of miscalibration are harder: for any Lipschitz shape the error of *every* estimator is at best of order
    :func:`verification_rate`.

    >>> s = Scores.from_probs([[0.7, 0.3]] * 400, [0] * 400)
    >>> round(minimum_detectable(s), 2)  # about (1.96 + .84) sqrt(.21/400) = .064
    0.07
    """
    only_scores("a detectable error", scores)
    only_numbers(power=power)
    only_numbers(whole=True, n=n, n_bins=n_bins, n_draws=n_draws, seed=seed)
    check_level(power)
    if n_draws < 50 or (n is not None and n < 1):
        raise ConfigError(
            asked="a detectable error", found=f"n = {n}, n_draws = {n_draws}", todo="give n >= 1, draws >= 50"
        )
    small = compress(exact_profile(scores.confidence_N, scores.correct_N), n_bins, groups=256)
    share_G = small.n_G / float(small.n)
    rng = np.random.default_rng([seed, 6])
    count_RG = rng.multinomial(scores.n if n is None else n, share_G, size=n_draws)
    bin_G = equal_width_bins(small, n_bins)

    def errors(delta: float) -> np.ndarray:
        fresh = np.random.default_rng([seed, 7])
        hits_RG = fresh.binomial(count_RG, np.clip(small.c_G - delta, 0.0, 1.0))
        drawn = Profile(small.c_G, count_RG.astype(np.float64), hits_RG.astype(np.float64))
        share_RM, gap_RM = bin_gaps(drawn, bin_G, n_bins)
        return np.asarray((share_RM * np.abs(gap_RM)).sum(-1))

    threshold = float(np.quantile(errors(0.0), 0.95))
    low, high = 0.0, 1.0
    if np.mean(errors(high) > threshold) < power:
        return math.inf
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = np.mean(errors(middle) > threshold) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def verification_rate(error_rate: float, n: int, lipschitz: float = 1.0) -> float:
    """``(L e / n)^(1/3)``: the order, without its constant, of the least error of any estimator of the unbinned ECE.

    e is the model's error rate, L the Lipschitz constant of its calibration function. Below ``n e`` of about 1, no
    miscalibration can be seen at all. Source: arXiv 2604.12951 (as stated in its abstract; the constant is not).

    >>> round(verification_rate(error_rate=0.3, n=2400), 3)
    0.05
    """
    only_numbers(error_rate=error_rate, n=n, lipschitz=lipschitz)
    if not (0 < error_rate <= 1 and n >= 1 and lipschitz > 0):
        raise ConfigError(
            asked="the rate of estimation",
            found=f"error rate {error_rate}, n = {n}, L = {lipschitz}",
            todo="give an error rate in (0, 1], n >= 1 and L > 0",
        )
    return float((lipschitz * error_rate / n) ** (1 / 3))
