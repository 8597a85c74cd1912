"""What the options themselves reveal: total mass, and a prior over their positions.

Shape suffixes: N questions, K options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import fdtrc

from calibrant.metrics.measurement import LOW_MASS, finite
from calibrant.scores import Scores


@dataclass(frozen=True)
class OptionMass:
    """Probability that the whole vocabulary put on the options together.

    Parameters
    ----------
    mean : over the ``n`` questions where it is known.
    share_low : share of those with a mass under .5.
    n : questions where it is known.
    """

    mean: float
    share_low: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"mean": self.mean, "share_low": self.share_low, "n": self.n}


def option_mass(scores: Scores) -> OptionMass | None:
    """Mean option mass and the share of questions under .5; ``None`` where no question's mass is known.

    >>> s = Scores.from_logp([[0.0, 0.0]] * 2, [0, 1], logmass=[-0.1, -3.0])
    >>> mass = option_mass(s)  # e^-.1 = .9048 and e^-3 = .0498
    >>> round(mass.mean, 4), mass.share_low, mass.n
    (0.4773, 0.5, 2)
    """
    mass_N = np.exp(scores.logmass_N[~np.isnan(scores.logmass_N)])
    if not len(mass_N):
        return None
    return OptionMass(float(mass_N.mean()), float((mass_N < LOW_MASS).mean()), len(mass_N))


@dataclass(frozen=True)
class LetterPrior:
    """Mean probability of each option position against how often the answer stands there.

    Parameters
    ----------
    mean_p_K, frequency_K, n_K : mean probability, share of answers, and number of questions with such an option.
    distance : ``(1/2) sum_k |mean over all N of (p_k - 1[y = k])|``: the share of probability that stands at wrong
        positions, from 0 to 1 (total variation).
    p_value : of Hotelling's T² test that all those means are 0; ``None`` where it has too few questions (or clusters) or no
        variation.
    n : questions.
    """

    mean_p_K: tuple[float, ...]
    frequency_K: tuple[float, ...]
    n_K: tuple[int, ...]
    distance: float
    p_value: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "mean_p_K": [finite(x) for x in self.mean_p_K],
            "frequency_K": [finite(x) for x in self.frequency_K],
            "n_K": list(self.n_K),
            "distance": self.distance,
            "p_value": self.p_value,
            "n": self.n,
        }


def letter_prior(scores: Scores, cluster_N: np.ndarray | None = None) -> LetterPrior:
    """Is probability given to option *positions* rather than to what is there?

    A calibrated model gives each position as much probability, on average, as it holds answers. The residuals
    ``r_ik = p_ik - 1[y_i = k]`` (0 where question i has no option k) are tested jointly for mean 0 by Hotelling's
    one-sample T² (Annals of Mathematical Statistics 1931) on the r dimensions in which they vary:
    ``(N - r) / (r (N - 1)) N d' S⁺ d ~ F(r, N - r)``, where N is 2 r² or more: with fewer the residuals, far from normal, make
    it condemn calibrated models (``benchmarks/known_models.py``). Questions that share a cluster (one label each) count as
    one, their sum. Its use for positions is ours. A model without a preference differs too where it is over- or
    underconfident and the answers are not spread evenly over the positions: ``calibrant sensitivity`` tells the two apart.

    >>> fair = letter_prior(Scores.from_probs([[0.6, 0.4], [0.4, 0.6]] * 50, [0, 1] * 50))
    >>> fair.distance
    0.0
    >>> biased = letter_prior(Scores.from_probs([[0.9, 0.1]] * 100, [0, 1] * 50))  # mean p .9, answers .5
    >>> round(biased.distance, 4), biased.p_value < 1e-10
    (0.4, True)
    """
    has_NK = np.arange(scores.k) < scores.k_N[:, None]
    answer_NK = np.arange(scores.k) == scores.answer_N[:, None]
    n_K = has_NK.sum(0)
    residual_NK = np.where(has_NK, scores.p_NK - answer_NK, 0.0)
    with np.errstate(invalid="ignore"):
        mean_p_K, frequency_K = scores.p_NK.sum(0) / n_K, answer_NK.sum(0) / n_K
    return LetterPrior(
        tuple(float(x) for x in mean_p_K),
        tuple(float(x) for x in frequency_K),
        tuple(int(x) for x in n_K),
        float(np.abs(residual_NK.mean(0)).sum() / 2),
        _hotelling(residual_NK if cluster_N is None else _cluster_sums(residual_NK, cluster_N)),
        scores.n,
    )


def _cluster_sums(x_NK: np.ndarray, cluster_N: np.ndarray) -> np.ndarray:
    labels, code_N = np.unique(cluster_N, return_inverse=True)
    return np.column_stack([np.bincount(code_N, weights=x_N, minlength=len(labels)) for x_N in x_NK.T])


def _hotelling(x_NK: np.ndarray) -> float | None:
    """p-value of the hypothesis that the rows of x have mean 0."""
    n, mean_K = len(x_NK), x_NK.mean(0)
    if n < 2:
        return None
    value_K, vector_KK = np.linalg.eigh(np.cov(x_NK.T))
    varies_K = value_K > 1e-10 * max(1.0, float(value_K.max()))
    r = int(varies_K.sum())
    if r == 0 or n <= r or n < 2 * r**2:
        return None
    along_r = vector_KK[:, varies_K].T @ mean_K
    t2 = n * float((along_r**2 / value_K[varies_K]).sum())
    return float(fdtrc(r, n - r, (n - r) / (r * (n - 1)) * t2))
