"""Shares of yes-no answers: how many independent items clustered ones are worth, and paired differences.

Shape suffixes: N items, S runs, B draws.
"""

from __future__ import annotations

import math

import numpy as np

from calibrant.metrics.uncertainty import cluster_factor, wilson_interval

ROUNDING = 1e-15
"""Draws of a share that vary by no more than this do not vary."""


def effective_n(x_N: np.ndarray, cluster_N: np.ndarray | None, level: float = 0.95) -> float:
    """Number of independent items that would know the mean of x as well as these clustered ones.

    ``n`` times the variance of the mean as if independent over that with clusters (Miller 2024, arXiv 2411.00640,
    on clustered errors), at most n; the number of clusters where x does not vary. The latter holds the square of
    :func:`~calibrant.metrics.uncertainty.cluster_factor`, so that an interval of that level is Student's of few clusters.
    """
    n = len(x_N)
    if cluster_N is None or len(np.unique(cluster_N)) == n:
        return float(n)
    cluster_N = np.unique(cluster_N, return_inverse=True)[1]
    groups = int(cluster_N.max()) + 1
    d_N = x_N - x_N.mean()
    if groups < 2:
        return 1.0
    sums_G = np.bincount(cluster_N, weights=d_N, minlength=groups)
    clustered = float((sums_G**2).sum()) * cluster_factor(groups, level) ** 2
    single = float((d_N**2).sum())
    if single == 0 or clustered == 0:
        return float(groups)
    return float(min(n, max(n * single / clustered, 1.0)))


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


def paired_change_interval(
    a_SN: np.ndarray, b_SN: np.ndarray, effective: float, level: float = 0.95
) -> tuple[float, float]:
    """:func:`paired_share_interval` from the answers themselves, run s of a beside run s of b, as if of ``effective`` items.

    >>> a_SN, b_SN = np.array([[True] * 30 + [False] * 10]), np.array([[True] * 30 + [False] * 10])
    >>> [round(x, 3) for x in paired_change_interval(a_SN, b_SN, 40)]
    [-0.064, 0.064]
    """
    cells = (a_SN & b_SN, ~a_SN & b_SN, a_SN & ~b_SN, ~a_SN & ~b_SN)
    both, only_b, only_a, neither = (float(x_SN.mean()) * effective for x_SN in cells)
    return paired_share_interval(both, only_b, only_a, neither, level)


def drawn_n(single: float, drawn_B: np.ndarray, most: float, constant: float) -> float:
    """Number of independent items whose mean varies as bootstrap draws of a mean do: ``single`` variance of one item
    over that of the draws, at most ``most``; ``constant`` where the draws do not vary.

    >>> round(drawn_n(0.25, np.array([0.4, 0.6]), 100, 5), 6)  # .25 / .1²
    25.0
    """
    spread = float(drawn_B.var())
    return max(min(single / spread, most), 1.0) if spread > ROUNDING else constant
