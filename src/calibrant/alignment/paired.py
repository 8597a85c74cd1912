"""One number of two models on the same items, and its change, with intervals. No torch. Shape suffix: N items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.metrics.estimates import Sampling, mean, share
from calibrant.metrics.measurement import Estimate
from calibrant.metrics.proportions import paired_change_interval


@dataclass(frozen=True)
class Paired:
    """One number of the aligned and of the tuned model on the same items; ``change`` is tuned minus aligned."""

    aligned: Estimate
    tuned: Estimate
    change: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"aligned": self.aligned.to_json(), "tuned": self.tuned.to_json(), "change": self.change.to_json()}


def paired_mean(aligned_N: np.ndarray, tuned_N: np.ndarray, how: Sampling) -> Paired:
    """Means of both and of the difference, each by :func:`~calibrant.metrics.estimates.mean`."""
    return Paired(*(mean(x_N, how) for x_N in (aligned_N, tuned_N, tuned_N - aligned_N)))


def paired_share(aligned_N: np.ndarray, tuned_N: np.ndarray, how: Sampling) -> Paired:
    """Two proportions on the same items, and their paired difference by Newcombe's interval."""
    a_N, b_N = np.asarray(aligned_N, dtype=bool), np.asarray(tuned_N, dtype=bool)
    d_N = b_N.astype(np.float64) - a_N
    ends = paired_change_interval(a_N[None], b_N[None], how.worth(d_N), how.level)
    return Paired(share(a_N, how), share(b_N, how), Estimate(float(d_N.mean()), *ends, len(d_N)))
