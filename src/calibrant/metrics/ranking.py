"""How well confidence ranks right above wrong, and what answering only when confident buys.

Shape suffixes: N questions, G groups of equal confidence (ascending), ``...`` any leading shape. Questions of equal
confidence are taken in random order, and the expectation over that order is what is returned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.bins import bin_index
from calibrant.metrics.profile import Profile, exact_profile


def auroc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """Probability that a correct answer has more confidence than a wrong one, ties counted half; ``nan`` if all or none
    are correct.

    ``(1 / (H W)) sum_{hits i, misses j} (1[c_i > c_j] + 1[c_i = c_j] / 2)``; unbiased (Hanley & McNeil 1982).

    >>> auroc([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0])  # pairs 1, 1, .5, 1
    0.875
    """
    return float(auroc_of(exact_profile(confidence_N, correct_N)))


def auroc_of(profile: Profile) -> np.ndarray:
    """:func:`auroc` of a profile, (...)."""
    hits_G, misses_G = profile.hits_G, profile.n_G - profile.hits_G
    below_G = np.cumsum(misses_G, -1) - misses_G / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((hits_G * below_G).sum(-1) / (hits_G.sum(-1) * misses_G.sum(-1)))


def aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean over i = 1..N of the error rate of the i most confident answers; lower
    is better.

    Source: Geifman & El-Yaniv (2017); Geifman, Uziel & El-Yaniv (ICLR 2019). Bias: O(log N / N).

    >>> round(aurc([0.9, 0.6, 0.3], [1, 0, 1]), 4)  # (0 + 1/2 + 1/3) / 3
    0.2778
    """
    return float(aurc_of(exact_profile(confidence_N, correct_N)))


def aurc_of(profile: Profile) -> np.ndarray:
    """:func:`aurc` of a profile, (...): inside a group of n with e errors, ``sum_j (E + e j/n) / (I + j)`` in closed
    form.
    """
    n_G, e_G = profile.n_G[..., ::-1], (profile.n_G - profile.hits_G)[..., ::-1]
    before_n, before_e = np.cumsum(n_G, -1) - n_G, np.cumsum(e_G, -1) - e_G
    rate_G = e_G / np.where(n_G > 0, n_G, 1.0)
    harmonic_G = digamma(before_n + n_G + 1) - digamma(before_n + 1)
    area_G = np.where(n_G > 0, e_G + (before_e - rate_G * before_n) * harmonic_G, 0.0)
    return np.asarray(area_G.sum(-1) / profile.n)


def excess_aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """AURC minus that of the best ranking with the same errors (all wrong answers last): 0 is a perfect ranking.

    >>> excess_aurc([0.9, 0.6, 0.3], [1, 1, 0])
    0.0
    """
    profile = exact_profile(confidence_N, correct_N)
    errors = float((profile.n_G - profile.hits_G).sum())
    best = Profile(
        np.array([0.0, 1.0]), np.array([errors, float(profile.n) - errors]), np.array([0.0, float(profile.n) - errors])
    )
    return float(aurc_of(profile) - aurc_of(best))


def selective_accuracy(confidence_N: ArrayLike, correct_N: ArrayLike, coverage: float = 0.5) -> float:
    """Accuracy of the share ``coverage`` of the questions with the most confidence; the last one may count in part.

    >>> selective_accuracy([0.9, 0.8, 0.4, 0.3], [1, 1, 0, 1], coverage=0.75)  # two hits of three
    0.6666666666666666
    """
    kept = most_confident(exact_profile(confidence_N, correct_N), coverage)
    return float(kept.hits_G.sum() / kept.n)


def ece_at_coverage(confidence_N: ArrayLike, correct_N: ArrayLike, coverage: float = 0.5, n_bins: int = 10) -> float:
    """conf-ECE of the share ``coverage`` of the questions with the most confidence: calibration where answers would be
    used.

    >>> round(ece_at_coverage([0.95, 0.95, 0.15, 0.25], [1, 1, 1, 1], coverage=0.5), 4)
    0.05
    """
    kept = most_confident(exact_profile(confidence_N, correct_N), coverage)
    n_M, hits_M, conf_M = kept.binned(bin_index(kept.c_G, n_bins), n_bins)
    return float(np.abs(hits_M - conf_M).sum() / n_M.sum())


def most_confident(profile: Profile, coverage: float) -> Profile:
    """The most confident share of a profile; the group on the border is kept in part, hits and misses alike.

    Raises
    ------
    ConfigError : a coverage outside (0, 1].
    """
    only_numbers(coverage=coverage)
    if not 0 < coverage <= 1:
        raise ConfigError(asked="a coverage", found=f"{coverage}", todo="give a share in (0, 1]")
    above_G = np.cumsum(profile.n_G[..., ::-1], -1)[..., ::-1] - profile.n_G
    room_G = np.clip(coverage * profile.n[..., None] - above_G, 0.0, profile.n_G)
    part_G = room_G / np.where(profile.n_G > 0, profile.n_G, 1.0)
    return Profile(profile.c_G, profile.n_G * part_G, profile.hits_G * part_G)
