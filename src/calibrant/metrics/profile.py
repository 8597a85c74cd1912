"""The (confidence, correctness) sample in a form that every confidence metric and its bootstrap can use.

Shape suffixes: N questions, G groups of (nearly) equal confidence in ascending order, B draws; ``...`` any leading
shape. A bootstrap draw needs only the weight of the hits and of the misses of each group, and sums of Poisson(1)
weights are Poisson: a draw costs O(G) whatever N is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from calibrant.metrics.bins import bin_index, check_pairs, thin_variance

MAX_GROUPS = 2048


@dataclass(frozen=True, eq=False)
class Profile:
    """Weighted counts of questions and hits at each confidence, ascending.

    Parameters
    ----------
    c_G : confidence of the group (its mean).
    n_G, hits_G : (..., G) weight of its questions, and of those answered correctly.
    """

    c_G: np.ndarray
    n_G: np.ndarray
    hits_G: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """Total weight, (...)."""
        return np.asarray(self.n_G.sum(-1))

    def binned(self, bin_G: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, hits and sum of confidences in each bin, (..., M) each."""
        columns = (self.n_G, self.hits_G, self.n_G * self.c_G)
        n_M, hits_M, conf_M = (gather(column, bin_G, n_bins) for column in columns)
        return n_M, hits_M, conf_M


def gather(value_G: np.ndarray, to_G: np.ndarray, size: int) -> np.ndarray:
    """Sums of ``value_G`` (..., G) over the groups that go to each of ``size`` places, (..., size); ``to_G``
    ascends.
    """
    if value_G.ndim == 1:
        return np.bincount(to_G, weights=value_G, minlength=size)
    start = np.searchsorted(to_G, np.arange(size + 1))
    upto = np.concatenate([np.zeros((*value_G.shape[:-1], 1)), np.cumsum(value_G, axis=-1)], axis=-1)
    return np.asarray(upto[..., start[1:]] - upto[..., start[:-1]])


def exact_profile(confidence_N: ArrayLike, correct_N: ArrayLike) -> Profile:
    """One group for each distinct confidence: nothing is lost.

    >>> p = exact_profile([0.9, 0.5, 0.9], [1, 0, 0])
    >>> p.c_G.tolist(), p.n_G.tolist(), p.hits_G.tolist()
    ([0.5, 0.9], [1.0, 2.0], [0.0, 1.0])
    """
    c_N, y_N = check_pairs(confidence_N, correct_N)
    c_G, group_N = np.unique(c_N, return_inverse=True)
    return Profile(c_G, np.bincount(group_N).astype(np.float64), np.bincount(group_N, weights=y_N))


def compress(profile: Profile, n_bins: int, groups: int = MAX_GROUPS) -> Profile:
    """At most about ``groups`` groups: neighbours by rank are merged, never across one of M bin edges.

    Used for resampling only. What is lost is the spread of confidence inside a group, of order 1/groups.
    """
    if len(profile.c_G) <= groups:
        return profile
    rank_G = (np.cumsum(profile.n_G) - profile.n_G / 2) / profile.n * groups
    key_G = np.floor(rank_G) + (groups + 1.0) * bin_index(profile.c_G, n_bins)
    _, to = np.unique(key_G, return_inverse=True)
    n = np.bincount(to, weights=profile.n_G)
    return Profile(np.bincount(to, weights=profile.n_G * profile.c_G) / n, n, np.bincount(to, weights=profile.hits_G))


def resample(profile: Profile, n_boot: int, seed: int) -> Profile:
    """B Poisson bootstrap draws of a profile: weights of hits and misses are Poisson of their counts, (B, G)."""
    rng = np.random.default_rng([seed, 4])
    shape = (n_boot, len(profile.c_G))
    hits_BG = rng.poisson(profile.hits_G, shape).astype(np.float64)
    n_BG = hits_BG + rng.poisson(profile.n_G - profile.hits_G, shape)
    empty_B1 = n_BG.sum(1, keepdims=True) == 0
    return Profile(profile.c_G, np.where(empty_B1, profile.n_G, n_BG), np.where(empty_B1, profile.hits_G, hits_BG))


def redraw_labels(profile: Profile, n_draws: int, seed: int) -> Profile:
    """The calibrated twin: same confidences, hits ~ Binomial(n_G, c_G), (R, G)."""
    rng = np.random.default_rng([seed, 5])
    counts = np.round(profile.n_G).astype(np.int64)
    hits_RG = rng.binomial(counts, profile.c_G, (n_draws, len(counts))).astype(np.float64)
    return Profile(profile.c_G, np.broadcast_to(profile.n_G, hits_RG.shape), hits_RG)


def thin_hits(profile: Profile, n_boot: int, n_bins: int, seed: int) -> np.ndarray:
    """Normal noise on the hits of each group that resampling cannot see, (B, G): of variance
    :func:`~calibrant.metrics.bins.thin_variance` in each of M bins, shared by its groups as they share its questions. The
    normals are those of :func:`~calibrant.metrics.uncertainty.cell_noise`. Added to draws it makes hits that are not counts:
    for residuals only.
    """
    bin_G = bin_index(profile.c_G, n_bins)
    n_M, hits_M, _ = profile.binned(bin_G, n_bins)
    normal_BM = np.random.default_rng([seed, 2]).standard_normal((n_boot, n_bins))
    return np.asarray((normal_BM * np.sqrt(thin_variance(n_M, hits_M)))[:, bin_G] * (profile.n_G / n_M[bin_G]))
