"""What the randomness of training adds to a number's uncertainty. Shape suffix: S runs (training seeds) of one method."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

LARGEST_Z = 30.0


def run_arm(values_S: np.ndarray, level: float = 0.95) -> float:
    """``t_{S-1} s / sqrt(S)``: how far the mean of S runs may be from that of all runs; 0 for one run.

    >>> round(run_arm(np.array([0.04, 0.05, 0.06])), 4)  # 4.303 * .01 / sqrt(3)
    0.0248
    """
    s = len(values_S)
    if s < 2 or not np.isfinite(values_S).all():
        return 0.0
    return float(stdtrit(s - 1, (1 + level) / 2) * values_S.std(ddof=1) / np.sqrt(s))


def difference_error(a_S: np.ndarray, b_S: np.ndarray, *, paired: bool) -> tuple[float, float]:
    """Standard error of a difference that the runs bring, and its degrees of freedom; 0 for single runs."""
    if not (np.isfinite(a_S).all() and np.isfinite(b_S).all()):
        return 0.0, np.inf
    if len(a_S) == len(b_S) and (paired or len(a_S) == 1):
        return (float((b_S - a_S).std(ddof=1) / np.sqrt(len(a_S))), len(a_S) - 1) if len(a_S) > 1 else (0.0, np.inf)
    several = [x_S for x_S in (a_S, b_S) if len(x_S) > 1]
    variance = sum(float(x_S.var(ddof=1)) / len(x_S) for x_S in several)
    return float(np.sqrt(variance)), min(len(x_S) - 1 for x_S in several)


def runs_z(change: float, low: float, high: float, error: float, freedom: float, level: float) -> float:
    """How far a change is from 0, on the scale of a standard normal, from the interval that the questions give it and the
    standard error that the runs add (:meth:`calibrant.metrics.Contest.z_values`).
    """
    margin = change - low if change > 0 else high - change
    if change == 0 or np.isnan(margin):
        return 0.0
    total = float(np.hypot(margin / float(ndtri((1 + level) / 2)), error))
    if total == 0:
        return LARGEST_Z
    z = abs(change) / total
    if error > 0:
        z = -float(ndtri(stdtr(freedom * (total / error) ** 4, -z)))
    return min(z, LARGEST_Z)


def joined(value: float, low: float, high: float, arm: float, limits: tuple[float, float]) -> tuple[float, float]:
    """An interval for the questions and an arm for the runs, put together; cut at what is possible."""
    if arm == 0:
        return low, high
    low, high = value - float(np.hypot(value - low, arm)), value + float(np.hypot(high - value, arm))
    return max(low, limits[0]), min(high, limits[1])
