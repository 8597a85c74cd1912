"""What the positions of options get, whatever is there. Shape suffixes: N questions, K options, S orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.metrics.estimates import Sampling
from calibrant.metrics.measurement import finite


@dataclass(frozen=True)
class PositionEffect:
    """What option *positions* get, against what they would get if only the options' content counted.

    Parameters
    ----------
    share_K : mean share of each position over questions that have it, and their orders; nan (``None`` in JSON) where no
        question has it.
    expected_K : the same, had each option the share that it has on average over the orders; 1/K_i in a complete design.
    n_K : questions that have such a position.
    distance : ``(1/2) sum_k |mean over all N of (share_ik - expected_ik)|``: what positions move, from 0 to 1.
    p_value : of a randomisation test with that distance as its statistic: were no position preferred, turning the
        positions of each question by a random number of places would change nothing (source: ours). Never below
        ``1 / (draws + 1)``.
    """

    share_K: tuple[float, ...]
    expected_K: tuple[float, ...]
    n_K: tuple[int, ...]
    distance: float
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "share_K": [finite(x) for x in self.share_K],
            "expected_K": [finite(x) for x in self.expected_K],
            "n_K": list(self.n_K),
            "distance": self.distance,
            "p_value": self.p_value,
        }


def position_effect(x_SNK: np.ndarray, counts_SN: np.ndarray, k_N: np.ndarray, how: Sampling) -> PositionEffect:
    """From what each *option* got in each order (S, N, K), what each *position* got."""
    weight_SN = counts_SN / counts_SN.sum(0)
    even_NK = (x_SNK * weight_SN[:, :, None]).sum(0)
    share_NK, expected_NK = np.zeros_like(even_NK), np.zeros_like(even_NK)
    for shift, weight_N in enumerate(weight_SN):
        share_NK += weight_N[:, None] * turned(x_SNK[shift], k_N, -shift)
        expected_NK += weight_N[:, None] * turned(even_NK, k_N, -shift)
    excess_NK = share_NK - expected_NK
    distance = float(np.abs(excess_NK.mean(0)).sum() / 2)
    rng = np.random.default_rng([how.seed, 11])
    redrawn = (np.abs(turned(excess_NK, k_N, rng.integers(0, k_N)).mean(0)).sum() / 2 for _ in range(how.n_boot))
    reached = sum(bool(d >= distance - 1e-12) for d in redrawn)
    n_K = (k_N[:, None] > np.arange(share_NK.shape[1])).sum(0)
    with np.errstate(invalid="ignore"):
        share_K, expected_K = share_NK.sum(0) / n_K, expected_NK.sum(0) / n_K
    return PositionEffect(
        tuple(float(x) for x in share_K),
        tuple(float(x) for x in expected_K),
        tuple(int(n) for n in n_K),
        distance,
        (1 + reached) / (1 + how.n_boot),
    )


def turned(x_NK: np.ndarray, k_N: np.ndarray, shift: int | np.ndarray) -> np.ndarray:
    """``x[i, (j + shift) mod K_i]`` in column j of row i; what lies beyond a question's options stays."""
    j_NK, k_N1 = np.broadcast_to(np.arange(x_NK.shape[1]), x_NK.shape), k_N[:, None]
    from_NK = np.where(j_NK < k_N1, (j_NK + np.reshape(shift, (-1, 1))) % k_N1, j_NK)
    return np.take_along_axis(x_NK, from_NK, axis=1)
