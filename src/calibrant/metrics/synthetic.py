"""Questions whose calibration error is known exactly, to test an estimator or to show what a number means.

Shape suffixes: N questions, K options, M bins.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, digamma

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.bins import bin_edges
from calibrant.scores import Scores


def overconfident(n: int, k: int = 4, epsilon: float = 0.2, seed: int = 0) -> Scores:
    """Scores of a model that is right less often than it believes, by a known law.

    Probabilities ``p ~ Dirichlet(1, ..., 1)`` over K options; labels ``y ~ (1 - epsilon) p + epsilon / K``. ``epsilon =
    0`` is calibrated. :func:`overconfident_targets` has the exact population values.

    Raises
    ------
    ConfigError : n < 1, k < 2, or epsilon outside [0, 1].

    >>> s = overconfident(1000, k=4, epsilon=0.5)
    >>> s.n, s.k, s.confidence_N.mean() > s.correct_N.mean()
    (1000, 4, np.True_)
    """
    _check(n, k, epsilon)
    rng = np.random.default_rng(seed)
    p_NK = rng.dirichlet(np.ones(k), n)
    truth_NK = (1 - epsilon) * p_NK + epsilon / k
    answer_N = (rng.random((n, 1)) > np.cumsum(truth_NK, axis=1)[:, :-1]).sum(1)
    return Scores.from_probs(p_NK, answer_N)


def overconfident_targets(k: int = 4, epsilon: float = 0.2, n_bins: int = 10) -> dict[str, float]:
    """Population values of the metrics for :func:`overconfident`, in closed form. Source: ours.

    With ``H`` the K-th harmonic number, ``E max p = H/K``. The gap at any p is ``epsilon (p - 1/K)``, never negative
    for the top option, so conf-ECE is ``epsilon (H - 1)/K`` for *every* binning; accuracy ``H/K`` less that; Brier
    ``1 - 2 [(1 - epsilon) 2/(K+1) + epsilon/K] + 2/(K+1)``; NLL ``(1 - epsilon)(H - 1) + epsilon (H - 1/K)``; cw-ECE
    ``epsilon sum_m |int_m (1/K - p) f(p) dp|`` with f the density of Beta(1, K-1).

    >>> t = overconfident_targets(k=2, epsilon=0.2)  # H = 1.5: .2 (.5)/2
    >>> round(t["conf_ece"], 4), round(t["accuracy"], 4)
    (0.05, 0.7)
    """
    _check(1, k, epsilon)
    h = float(digamma(k + 1) - digamma(1))
    gap = epsilon * (h - 1) / k
    edges = bin_edges(n_bins)
    # int_m p f(p) dp = (1/K) P(Beta(2, K-1) in m);  int_m f(p) dp = P(Beta(1, K-1) in m)
    cells_M = np.diff(betainc(1, k - 1, edges) - betainc(2, k - 1, edges)) / k
    return {
        "accuracy": h / k - gap,
        "mean_confidence": h / k,
        "conf_ece": gap,
        "signed_gap": gap,
        "cw_ece": epsilon * float(np.abs(cells_M).sum()),
        "brier": 1 - 2 * ((1 - epsilon) * 2 / (k + 1) + epsilon / k) + 2 / (k + 1),
        "nll": (1 - epsilon) * (h - 1) + epsilon * (h - 1 / k),
    }


def _check(n: int, k: int, epsilon: float) -> None:
    only_numbers(whole=True, n=n, k=k)
    only_numbers(epsilon=epsilon)
    if n < 1 or k < 2 or not 0 <= epsilon <= 1:
        raise ConfigError(
            asked="questions of known miscalibration",
            found=f"n = {n}, k = {k}, epsilon = {epsilon}",
            todo="give n >= 1, k >= 2 and epsilon in [0, 1]",
        )
