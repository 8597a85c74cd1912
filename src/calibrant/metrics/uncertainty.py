"""Intervals and noise floors. Shape suffixes: N questions, K options, M bins, C cells, B draws, R redraws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.bins import bin_index, check_level
from calibrant.metrics.sums import blocks
from calibrant.scores import Scores

BISECTIONS = 24


def percentile_interval(draws_B: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13) of a smooth statistic such as a mean; nan without draws.

    >>> import numpy as np
    >>> percentile_interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    check_level(level)
    if not len(draws_B):
        return np.nan, np.nan
    low, high = np.quantile(draws_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 1927); honest at 0 and 1, where a bootstrap has width 0.

    >>> [round(x, 4) for x in wilson_interval(0.9, 10)]
    [0.5958, 0.9821]
    """
    check_level(level)
    only_numbers(share=share, n=n)
    z = float(ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if share <= 0 else centre - half
    high = 1.0 if share >= 1 else centre + half
    return float(low), float(high)


def error_interval(cell_C: np.ndarray, noise_BC: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval for a population calibration error ``sum_c |delta_c|``, given noisy cells and draws of their noise.

    The plug-in error ``T = sum |cell|`` is biased upward, and its percentile bootstrap twice so: it covers a small true
    error almost never. Here the sampling law of T is inverted instead. Along a path of candidate truths ``t g`` with
    ``sum |g| = 1`` the law of T is that of ``sum |t g + noise|``; ``low`` is the least t at which a value as large as T
    is not rare, ``high`` the largest at which one as small is not, each at ``(1 - level) / 2``. The profile g is chosen
    on the safe side of each end: for ``low`` only the cells beyond two standard deviations (as if the rest were pure
    noise), for ``high`` no cell below one standard deviation. ``high`` is at least T, so an interval contains its own
    value, and at least the far end of the interval of ``sum cell`` (the signed gap), which no error can be below: noise
    common to all cells, as clusters make it, can cancel a gap in one sample. ``low = 0`` exactly when T is an ordinary
    value under no miscalibration. The largest possible error, 1 for a calibration error, is not known here: see
    :func:`possible`. Source: ours; coverage is simulated in ``benchmarks/coverage.py`` and tabled in
    ``docs/statistics.md``.

    Parameters
    ----------
    cell_C
        Signed cells, such as ``(n_m / N)(acc_m - conf_m)``.
    noise_BC
        Draws of ``cell - delta``, centred at 0, e.g. bootstrap cells minus ``cell_C``.
    level
        Of the interval.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 0.01, (2000, 2))
    >>> [round(x, 2) for x in error_interval(np.array([0.10, 0.10]), noise)]
    [0.17, 0.23]
    """
    check_level(level)
    total, tail = float(np.abs(cell_C).sum()), (1 - level) / 2
    low = 0.0
    if _share(cell_C * 0, noise_BC, total, above=True) < tail:
        unit_C = _few(cell_C, noise_BC)
        low = _crossing(lambda t: _share(t * unit_C, noise_BC, total, above=True) >= tail, total)
    unit_C = _all(cell_C, noise_BC)
    if not unit_C.any():
        return 0.0, 0.0  # no cell differs from 0, in the sample or in any draw
    high = _crossing(lambda t: _share(t * unit_C, noise_BC, total, above=False) < tail, total)
    reach = float(np.abs(percentile_interval(cell_C.sum() + noise_BC.sum(1), level)).max())
    return min(low, total), max(high, total, reach)


def possible(ends: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """An interval cut at what the quantity can be: ``most = 1`` for a calibration error; nan stays.

    >>> possible((0.7, 1.3), 0.0, 1.0)
    (0.7, 1.0)
    """
    low, high = np.clip(ends, least, most)
    return float(low), float(high)


def error_difference_interval(
    cell_a: np.ndarray, noise_a: np.ndarray, cell_b: np.ndarray, noise_b: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Interval for ``D = sum |delta_b| - sum |delta_a|``, given cells and *paired* draws of their noise.

    Two things can go wrong, and the interval is the wider of what guards against each:

    * **Bias.** The error of a cured model is mostly noise that adds up, so percentile intervals cover a cure almost
      never. As in :func:`error_interval` the sampling law of the plug-in difference is inverted, both noises drawn
      together. For the low end, b takes the profile of few cells and a that of all, each first at the size whose median
      error is the one seen, b at 0 if noise alone explains it; from there b shrinks and a grows by equal steps until a
      difference as large as the one seen is rare; alike for the high end, with a and b exchanged.
    * **Signs.** Where one model is over- and the other underconfident, noise that they share moves their errors apart,
      and a cell that is near 0 by luck hides its sign from the law above. The percentile interval of
      ``sum |cell_b + noise_b| - sum |cell_a + noise_a|`` turns the signs over as the noise may.

    It is then cut to what cannot be: an error is at least 0 and the triangle inequality holds, so
    ``max(-sum |delta_a|, -S) <= D <= min(sum |delta_b|, S)`` with ``S = sum |delta_b - delta_a|``. Upper limits of these
    three sums are the high ends of :func:`error_interval`, S from ``noise_b - noise_a``, at half the tail. Two models
    that are nearly the same so differ by nearly 0, and by 0 if they agree in every cell of every draw. S is left out
    where a and b have other numbers of cells. A cut never takes 0 or the value seen away, so no verdict rests on it.
    Source: ours; simulated in ``benchmarks/difference_coverage.py``.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 0.01, (2000, 2))
    >>> cured = error_difference_interval(np.array([0.2, 0.1]), noise, np.array([0.01, -0.01]), noise)
    >>> [round(x, 2) for x in cured]  # all noise is shared: they are .19 + .11 apart
    [-0.3, -0.24]
    >>> nearly = error_difference_interval(np.array([0.2, 0.1]), noise, np.array([0.2, 0.101]), 1.001 * noise)
    >>> [round(x, 3) for x in nearly]
    [0.001, 0.001]
    """
    check_level(level)
    tail = (1 - level) / 2
    value = float(np.abs(cell_b).sum() - np.abs(cell_a).sum())
    drawn = percentile_interval(np.abs(cell_b + noise_b).sum(1) - np.abs(cell_a + noise_a).sum(1), level)
    low = min(drawn[0], _low_difference(cell_a, noise_a, cell_b, noise_b, tail))
    high = max(drawn[1], -_low_difference(cell_b, noise_b, cell_a, noise_a, tail))
    surer = (1 + level) / 2
    most_a, most_b = error_interval(cell_a, noise_a, surer)[1], error_interval(cell_b, noise_b, surer)[1]
    if cell_a.shape == cell_b.shape:
        apart = error_interval(cell_b - cell_a, noise_b - noise_a, surer)[1]
        most_a, most_b = min(most_a, apart), min(most_b, apart)
    return min(max(low, -most_a), value) + 0.0, max(min(high, most_b), value) + 0.0  # never -0.0


def _low_difference(
    cell_a: np.ndarray, noise_a: np.ndarray, cell_b: np.ndarray, noise_b: np.ndarray, tail: float
) -> float:
    total_a, total_b = float(np.abs(cell_a).sum()), float(np.abs(cell_b).sum())
    unit_a, unit_b = _all(cell_a, noise_a), _few(cell_b, noise_b)
    ordinary = _share(cell_b * 0, noise_b, total_b, above=True) >= tail
    size_a, size_b = _median_size(unit_a, noise_a, total_a), 0.0 if ordinary else _median_size(unit_b, noise_b, total_b)

    def rare(step: float) -> bool:
        b = max(size_b - step / 2, 0.0)
        a = size_a + step - (size_b - b)
        drawn_B = np.abs(b * unit_b + noise_b).sum(1) - np.abs(a * unit_a + noise_a).sum(1)
        return float(np.mean(drawn_B >= total_b - total_a)) < tail

    step = _crossing(rare, total_a + total_b)
    return min(size_b - size_a - step, total_b - total_a)


def _few(cell_C: np.ndarray, noise_BC: np.ndarray) -> np.ndarray:
    """Profile of the cells beyond two standard deviations, or of all if none is; absolute sum 1 (0 if there is
    none).
    """
    far_C = cell_C * (np.abs(cell_C) > 2 * noise_BC.std(0))
    return _unit(far_C if far_C.any() else cell_C)


def _all(cell_C: np.ndarray, noise_BC: np.ndarray) -> np.ndarray:
    """Profile with no cell below one standard deviation; absolute sum 1 (0 if there is none)."""
    return _unit(np.where(cell_C < 0, -1.0, 1.0) * np.maximum(np.abs(cell_C), noise_BC.std(0)))


def _unit(profile_C: np.ndarray) -> np.ndarray:
    total = float(np.abs(profile_C).sum())
    return profile_C / total if total > 0 else profile_C


def _median_size(unit_C: np.ndarray, noise_BC: np.ndarray, total: float) -> float:
    """The t at which the median of ``sum |t g + noise|`` is ``total``; 0 where noise alone is larger."""
    if _share(unit_C * 0, noise_BC, total, above=True) >= 0.5:
        return 0.0
    return _crossing(lambda t: _share(t * unit_C, noise_BC, total, above=True) >= 0.5, total)


def _share(centre_C: np.ndarray, noise_BC: np.ndarray, total: float, *, above: bool) -> float:
    draws_B = np.abs(centre_C + noise_BC).sum(1)
    return float(np.mean(draws_B >= total if above else draws_B <= total))


def _crossing(reached: Callable[[float], bool], start: float) -> float:
    """The least t >= 0 at which a monotone condition holds, by bisection.

    A share of few draws is not quite monotone, so the steps go by ``start`` alone: ten times the errors give ten times t.
    """
    low, high = 0.0, 2 * start or 1e-3
    while not reached(high) and high < 64:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def cell_noise(cells_BC: np.ndarray, cell_C: np.ndarray, thin_C: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap cells minus the sample's, plus normal noise of the variance that resampling cannot see in thin
    cells.

    The normals depend on the seed and the shape only. So two models share them cell by cell, and what they add cancels in
    a difference where the same questions fill the cell; where others do, it cancels too much, which nothing shows
    (``benchmarks/difference_coverage.py``, two confident models, unlike).
    """
    rng = np.random.default_rng([seed, 2])
    return np.asarray(cells_BC - cell_C + rng.standard_normal(cells_BC.shape) * np.sqrt(thin_C))


def noise_floor(scores: Scores, n_bins: int = 10, n_draws: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws of conf-ECE and cw-ECE of a *perfectly calibrated* twin: labels redrawn as ``y_i ~ Categorical(p_i)``;
    (R,), (R,).

    The twin has the same probabilities and the same N; what it scores is what noise alone scores (consistency
    resampling, Bröcker & Smith 2007; Vaicenavicius et al. 2019).

    >>> s = Scores.from_probs([[0.5, 0.5]] * 100, [0, 1] * 50)
    >>> conf, _ = noise_floor(s, n_draws=2000)  # |hits - 50| / 100 with hits ~ Binomial(100, 1/2): mean .0398
    >>> round(float(conf.mean()), 2)
    0.04
    """
    only_numbers(whole=True, n_bins=n_bins, n_draws=n_draws, seed=seed)
    if n_draws < 1:
        raise ConfigError(asked="a noise floor", found=f"{n_draws} draws", todo="give 1 draw or more, usually 1000")
    n, k = scores.n, scores.k
    rng = np.random.default_rng([seed, 3])
    hits_RC, conf_RM = np.zeros((n_draws, k * n_bins)), np.zeros((n_draws, n_bins))
    expected_C, expected_M = np.zeros(k * n_bins), np.zeros(n_bins)
    draw_R1 = np.arange(n_draws)[:, None]
    for rows in blocks(n, max(64, 1_000_000 // n_draws)):
        p_NK = np.exp(scores.logp_NK[rows])
        k_N, n_rows = scores.k_N[rows], len(p_NK)
        cell_NK = bin_index(np.minimum(p_NK, 1.0), n_bins) + n_bins * np.arange(k)
        cumulative_NK = np.where(np.arange(k) >= k_N[:, None] - 1, 1.0, np.cumsum(p_NK, axis=1)).astype(np.float32)
        uniform_RN = rng.random((n_draws, n_rows), dtype=np.float32)
        y_RN = np.zeros((n_draws, n_rows), dtype=np.int64)
        for j in range(k - 1):
            y_RN += uniform_RN >= cumulative_NK[:, j]
        index_RN = cell_NK.ravel()[np.arange(n_rows) * k + y_RN] + draw_R1 * (k * n_bins)
        hits_RC += np.bincount(index_RN.ravel(), minlength=hits_RC.size).reshape(hits_RC.shape)
        predicted_N = np.argmax(scores.logp_NK[rows], axis=1)
        bin_N = cell_NK[np.arange(n_rows), predicted_N] % n_bins
        index_RN = (bin_N + draw_R1 * n_bins)[y_RN == predicted_N]
        conf_RM += np.bincount(index_RN, minlength=conf_RM.size).reshape(conf_RM.shape)
        expected_C += np.bincount(cell_NK.ravel(), weights=p_NK.ravel(), minlength=k * n_bins)
        expected_M += np.bincount(bin_N, weights=p_NK.max(1), minlength=n_bins)
    has_K = (scores.k_N[:, None] > np.arange(k)).sum(0)
    scale_C = np.repeat(1 / np.maximum(has_K, 1), n_bins) / (has_K > 0).sum()
    cw_R = (np.abs(hits_RC - expected_C) * scale_C).sum(1)
    return np.abs(conf_RM - expected_M).sum(1) / n, cw_R


def cluster_factor(n_clusters: int | None, level: float = 0.95) -> float:
    """How much a clustered bootstrap's deviations are widened: ``sqrt(G/(G-1)) t_{G-1} / z``; 1 without clusters.

    Resampling G clusters gives the variance of a sum of G terms with divisor G, and normal tails where G terms give
    Student's: the usual small-sample correction of clustered errors (Cameron & Miller, Journal of Human Resources
    2015).

    >>> cluster_factor(None), round(cluster_factor(10), 3), round(cluster_factor(1000), 3)
    (1.0, 1.217, 1.002)
    """
    check_level(level)
    if n_clusters is None:
        return 1.0
    upper = (1 + level) / 2
    return float(np.sqrt(n_clusters / (n_clusters - 1)) * stdtrit(n_clusters - 1, upper) / ndtri(upper))


def bca_interval(draws_B: np.ndarray, terms_N: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of a mean (Efron, JASA 1987), second-order correct for skewed
    terms.

    Percentiles ``Phi(z0 + (z0 + z)/(1 - a (z0 + z)))`` with ``z0 = Phi^-1(share of draws below the mean)`` and, for a
    mean, acceleration ``a = sum d^3 / (6 (sum d^2)^1.5)``, ``d = terms - mean``. Not for calibration errors: see
    :func:`error_interval`.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> terms = rng.exponential(size=50)
    >>> draws = rng.choice(terms, (2000, 50)).mean(1)
    >>> bca_interval(draws, terms)[1] > percentile_interval(draws)[1]  # skewed to the right: reaches further right
    True
    """
    check_level(level)
    mean = terms_N.mean()
    d_N = terms_N - mean
    spread = float((d_N**2).sum())
    if spread == 0 or np.ptp(draws_B) == 0:
        return percentile_interval(draws_B, level)
    a = float((d_N**3).sum()) / (6 * spread**1.5)
    below = np.clip(np.mean(draws_B < mean), 0.5 / len(draws_B), 1 - 0.5 / len(draws_B))
    z0 = float(ndtri(below))
    z = np.array([-1.0, 1.0]) * float(ndtri((1 + level) / 2))
    shares = ndtr(z0 + (z0 + z) / (1 - a * (z0 + z)))
    low, high = np.quantile(draws_B, shares)
    return float(low), float(high)
