"""``drift``: what merging, casting or quantising did to the probabilities. Shape suffixes: N questions, K options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibrant.errors import ConfigError
from calibrant.metrics.bins import bin_index
from calibrant.metrics.comparison import Difference, align, compare
from calibrant.metrics.measurement import finite
from calibrant.metrics.uncertainty import percentile_interval
from calibrant.scores import Scores

TOLERANCE = 0.02
"""Movement that passes by default: what chance alone adds to conf-ECE with 2,000 questions, so hardly to be seen in it."""
FAITHFUL, DRIFTED = "faithful", "drifted"


@dataclass(frozen=True)
class Drift:
    """How far ``b`` is from ``a``, question by question.

    Parameters
    ----------
    n, tolerance : questions; movement allowed.
    max_dlogp, mean_dlogp : largest and mean ``|log p_b - log p_a|`` over all options of all questions (natural log);
        infinite where one side has probability 0 and the other has not.
    max_dp : largest change of an option's probability.
    mean_dconf, mean_abs_dconf, max_abs_dconf : change of the confidence, ``b - a``: mean, mean size, largest size.
    flips : questions whose prediction changed; ``worst`` is the id of the question with the largest ``max_dp``.
    movement : mean total variation, ``(1/N) Σ_i ½ Σ_k |Δ p_ik|``: the share of probability that went elsewhere. Neither
        a probability nor the confidence has moved further than this on average.
    conf_ece, accuracy : their paired differences. The interval of conf_ece is cut to what the two can differ by at
        most, question by question (:func:`drift`).
    verdict : ``"faithful"`` or ``"drifted"``.
    """

    n: int
    tolerance: float
    max_dlogp: float
    mean_dlogp: float
    max_dp: float
    mean_dconf: float
    mean_abs_dconf: float
    max_abs_dconf: float
    flips: int
    worst: str
    movement: float
    conf_ece: Difference
    accuracy: Difference
    verdict: str

    @property
    def is_faithful(self) -> bool:
        """Whether ``b`` may stand for ``a``."""
        return self.verdict == FAITHFUL

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``."""
        numbers = ("max_dlogp", "mean_dlogp", "max_dp", "mean_dconf", "mean_abs_dconf", "max_abs_dconf", "movement")
        return {
            "verdict": self.verdict,
            "n": self.n,
            "tolerance": self.tolerance,
            **{name: finite(getattr(self, name)) for name in numbers},
            "flips": self.flips,
            "worst": self.worst,
            "conf_ece": self.conf_ece.to_json(),
            "accuracy": self.accuracy.to_json(),
        }


def drift(
    a: Scores,
    b: Scores,
    *,
    tolerance: float = TOLERANCE,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Drift:
    """How far the probabilities of ``b``, a copy of the model behind ``a``, are from it on the same questions.

    Drifted if ``movement > tolerance``; or if conf-ECE rose, or accuracy fell, by more than ``tolerance`` with a paired
    interval that leaves 0 out. Predictions that flip between options that are nearly tied are counted, but do not decide.

    With ``r = correct - confidence``, a question changes conf-ECE by at most ``u_i / N``: ``u_i = |r_b - r_a|`` if it stayed
    in its bin, else ``|r_a| + |r_b|``. So ``|Δ conf-ECE| <= mean u``; the interval of ``compare``, which is wide for two models
    that are nearly one, is cut to the upper end of the bootstrap interval of that mean. All of this is ours.

    Parameters
    ----------
    a, b : scores of the same questions, in any order.
    tolerance : movement allowed, in (0, 1).
    n_bins, n_boot, level, seed : as for :func:`compare`.

    Raises
    ------
    ScoresError : other questions, or fewer than two. ConfigError : a tolerance outside (0, 1).

    >>> answer = [0] * 30 + [1] * 20
    >>> a = Scores.from_probs([[0.600, 0.400]] * 50, answer)
    >>> b = Scores.from_probs([[0.604, 0.396]] * 49 + [[0.49, 0.51]], answer)
    >>> d = drift(a, b)  # (49 · .004 + .11) / 50
    >>> round(d.movement, 5), d.flips, d.verdict
    (0.00612, 1, 'faithful')
    >>> drift(a, a).verdict
    'faithful'
    """
    if not 0 < tolerance < 1:
        raise ConfigError(
            asked=f"a tolerance of {tolerance}", found="it is not in (0, 1)", todo="give a share, e.g. .01"
        )
    change = compare(a, b, n_bins=n_bins, n_boot=n_boot, level=level, seed=seed)
    b, _ = align(a, b)
    k = int(a.k_N.max())
    present_NK = np.arange(k) < a.k_N[:, None]
    logp_a, logp_b = (s.logp_NK[:, :k][present_NK] for s in (a, b))
    both_zero = np.isneginf(logp_a) & np.isneginf(logp_b)
    dlogp = np.abs(np.where(both_zero, 0.0, logp_b) - np.where(both_zero, 0.0, logp_a))
    dp_N = np.abs(b.p_NK[:, :k] - a.p_NK[:, :k]).max(1)
    dconf_N = b.confidence_N - a.confidence_N
    flips = int((a.prediction_N != b.prediction_N).sum())
    movement = float(np.abs(b.p_NK[:, :k] - a.p_NK[:, :k]).sum(1).mean()) / 2
    ece, accuracy = _cut(change["conf_ece"], a, b, n_bins, n_boot, level, seed), change["accuracy"]
    worse = (ece.value > tolerance and ece.low > 0) or (accuracy.value < -tolerance and accuracy.high < 0)
    return Drift(
        n=a.n,
        tolerance=tolerance,
        max_dlogp=float(dlogp.max()),
        mean_dlogp=float(dlogp.mean()),
        max_dp=float(dp_N.max()),
        mean_dconf=float(dconf_N.mean()),
        mean_abs_dconf=float(np.abs(dconf_N).mean()),
        max_abs_dconf=float(np.abs(dconf_N).max()),
        flips=flips,
        worst=a.ids[int(np.argmax(dp_N))],
        movement=movement,
        conf_ece=ece,
        accuracy=accuracy,
        verdict=DRIFTED if movement > tolerance or worse else FAITHFUL,
    )


def _cut(ece: Difference, a: Scores, b: Scores, n_bins: int, n_boot: int, level: float, seed: int) -> Difference:
    r_a, r_b = (s.correct_N - s.confidence_N for s in (a, b))
    stays_N = bin_index(a.confidence_N, n_bins) == bin_index(b.confidence_N, n_bins)
    u_N = np.where(stays_N, np.abs(r_b - r_a), np.abs(r_a) + np.abs(r_b))
    rng = np.random.default_rng([seed, 7])
    most = percentile_interval(rng.multinomial(a.n, np.full(a.n, 1 / a.n), n_boot) @ u_N / a.n, level)[1]
    return replace(ece, low=min(max(ece.low, -most), ece.value), high=max(min(ece.high, most), ece.value))
