"""Proper scoring rules: minimised in expectation by the true probabilities. Shape suffixes: N questions, K options."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from calibrant.metrics.calibration import check_matrix


def nll_terms(logp_NK: ArrayLike, answer_N: ArrayLike) -> np.ndarray:
    """``-log p(answer)`` in nats, one a question, shape (N,); ``inf`` where the answer has probability 0."""
    logp, y = np.asarray(logp_NK, dtype=np.float64), np.asarray(answer_N)
    check_matrix(np.exp(np.where(np.isnan(logp), 9.0, logp)), y)
    return np.asarray(-logp[np.arange(len(logp)), y])


def nll(logp_NK: ArrayLike, answer_N: ArrayLike) -> float:
    """Mean negative log-likelihood of the answers, in nats: ``-(1/N) sum_i log p(y_i)``; unbiased.

    ``inf`` as soon as one answer has probability 0: that is its definition, and it is not hidden.

    >>> import numpy as np
    >>> round(nll(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 1]), 4)  # (ln 2 + ln 4/3) / 2
    0.4904
    """
    return float(nll_terms(logp_NK, answer_N).mean())


def brier_terms(p_NK: ArrayLike, answer_N: ArrayLike) -> np.ndarray:
    """``sum_k (p_k - 1[y = k])^2``, one a question, shape (N,), each in [0, 2]."""
    p, y, _ = check_matrix(p_NK, answer_N)
    at = p[np.arange(len(p)), y]
    return np.asarray((p * p).sum(1) - at * at + (1 - at) ** 2)


def brier(p_NK: ArrayLike, answer_N: ArrayLike) -> float:
    """Brier score over all options: ``(1/N) sum_i sum_k (p_ik - 1[y_i = k])^2``, in [0, 2]; unbiased.

    The sum over options is Brier's own (Monthly Weather Review 1950); for two options it is twice the binary score.

    >>> round(brier([[0.8, 0.2], [0.6, 0.4]], [0, 1]), 4)  # ((.04 + .04) + (.36 + .36)) / 2
    0.4
    """
    return float(brier_terms(p_NK, answer_N).mean())
