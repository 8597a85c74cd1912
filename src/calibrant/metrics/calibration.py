"""Binned calibration errors, as definitions. Shape suffixes: N questions, K options, M bins.

All plug-in errors here are biased upward: a perfectly calibrated predictor does not score 0. ``calibrant.measure``
gives them with an interval and a noise floor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from calibrant.errors import ScoresError
from calibrant.metrics.bins import bin_index, check_pairs


def conf_ece(confidence_N: ArrayLike, correct_N: ArrayLike, n_bins: int = 10) -> float:
    """Expected calibration error of the top option over M equal-width bins: ``sum_m (n_m / N) |acc_m - conf_m|``.

    Empty bins count 0. Bias: upward, about ``sum_m sqrt(2 n_m a_m (1 - a_m) / pi) / N`` for a calibrated predictor.
    Source: Naeini, Cooper & Hauskrecht (AAAI 2015); Guo et al. (ICML 2017), eq. 3.

    >>> round(conf_ece([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 0]), 4)  # (2/4)|.5 - .95| + (2/4)|.5 - .55|
    0.25
    """
    c_N, y_N = check_pairs(confidence_N, correct_N)
    return float(np.abs(gap_sums(c_N, y_N, n_bins)).sum() / len(c_N))


def signed_gap(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """Mean confidence minus accuracy: positive is overconfident, negative underconfident; unbiased.

    ``|signed_gap| <= conf_ece`` for any binning (triangle inequality).

    >>> round(signed_gap([0.9, 0.8], [1, 0]), 4)
    0.35
    """
    c_N, y_N = check_pairs(confidence_N, correct_N)
    return float(np.mean(c_N - y_N))


def cw_ece(p_NK: ArrayLike, answer_N: ArrayLike, k_N: ArrayLike | None = None, n_bins: int = 10) -> float:
    """Class-wise calibration error: ``(1/K) sum_k sum_m (n_km / N_k) |freq(y = k | bin) - mean p_k|``.

    With mixed numbers of options (``k_N``), ``n_km`` and ``N_k`` count only the questions that have option k, so that
    each class has an ordinary calibration error of its own; K is the number of classes that at least one question has.
    Where all questions have K options ``N_k = N``. Bias: upward, as for :func:`conf_ece`, in each of K M bins.
    Source: Nixon et al. (CVPR workshops 2019); Kull et al. (NeurIPS 2019). The rule for mixed K is ours.

    >>> p = [[0.95, 0.05], [0.95, 0.05], [0.05, 0.95]]
    >>> round(cw_ece(p, [0, 1, 1]), 4)  # class 0: 2/3 |.5 - .95| + 1/3 |0 - .05|; class 1 the same by symmetry
    0.3167
    """
    p_NK, y_N, k_N = check_matrix(p_NK, answer_N, k_N)
    errors_K = []
    for k in range(p_NK.shape[1]):
        has_N = k_N > k
        if has_N.any():
            sums_M = gap_sums(p_NK[has_N, k], (y_N[has_N] == k).astype(np.float64), n_bins)
            errors_K.append(float(np.abs(sums_M).sum() / has_N.sum()))
    return float(np.mean(errors_K))


def gap_sums(p_N: np.ndarray, y_N: np.ndarray, n_bins: int) -> np.ndarray:
    """``sum over the questions of bin m of (y - p)``, shape (M,)."""
    return np.bincount(bin_index(p_N, n_bins), weights=y_N - p_N, minlength=n_bins)


def check_matrix(
    p_NK: ArrayLike, answer_N: ArrayLike, k_N: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (N, K) that sum to 1 within 1e-3, answers in range, numbers of options; else
    :class:`ScoresError`.
    """
    p, y = np.asarray(p_NK, dtype=np.float64), np.asarray(answer_N)
    if p.ndim != 2 or p.shape[0] < 1 or p.shape[1] < 2 or y.shape != (len(p),):
        raise ScoresError(
            asked="probabilities (N >= 1, K >= 2) and one answer a question",
            found=f"shapes {p.shape} and {y.shape}",
            todo="give one row a question and one column an option",
        )
    k = np.full(len(p), p.shape[1]) if k_N is None else np.asarray(k_N)
    if k.shape != y.shape or (k < 2).any() or (k > p.shape[1]).any():
        raise ScoresError(
            asked="numbers of options between 2 and K", found=f"k_N of shape {k.shape}", todo="give one a question"
        )
    if not (np.abs(p.sum(1) - 1) <= 1e-3).all() or (p < 0).any():
        raise ScoresError(
            asked="rows of probabilities that sum to 1 (within 0.001)",
            found="NaN, negative values or other sums",
            todo="use Scores.from_logp or Scores.from_probs, which name the first bad row",
        )
    if (p[np.arange(p.shape[1]) >= k[:, None]] > 0).any():
        raise ScoresError(asked="probability 0 for absent options", found="more than 0", todo="correct p or k_N")
    if y.dtype.kind not in "iu" or (y < 0).any() or (y >= k).any():
        raise ScoresError(
            asked="integer answers from 0 to the question's number of options - 1",
            found=f"answers of type {y.dtype}" if y.dtype.kind not in "iu" else f"values {y.min()}..{y.max()}",
            todo="give 0-based option indices",
        )
    return p, y.astype(np.int64), k.astype(np.int64)
