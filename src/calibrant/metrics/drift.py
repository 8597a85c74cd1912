"""``drift``: what merging, casting or quantising did to the probabilities. Shape suffixes: N questions, K options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.comparison import Difference, align, compare
from calibrant.metrics.measurement import finite
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
    conf_ece, accuracy : their paired differences, as ``compare`` gives them.
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

    @property
    def unseen(self) -> float:
        """Share of all questions in which a fault may lie and yet, with a chance of 5 %, in none of these: ``1 - .05^(1/n)``,
        about 3 / n (the rule of three: Hanley & Lippman-Hand, JAMA 1983).
        """
        return float(1 - 0.05 ** (1 / self.n))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``."""
        numbers = ("max_dlogp", "mean_dlogp", "max_dp", "mean_dconf", "mean_abs_dconf", "max_abs_dconf", "movement")
        return {
            "verdict": self.verdict,
            "n": self.n,
            "tolerance": self.tolerance,
            **{name: finite(getattr(self, name)) for name in numbers},
            "flips": self.flips,
            "unseen": self.unseen,
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
    "Faithful" is said of these questions: what few of them can miss is in :attr:`Drift.unseen`.

    The interval of conf-ECE is narrow where the two models are nearly one, since they differ by no more than their cells do
    (:func:`~calibrant.metrics.uncertainty.error_difference_interval`). All of this is ours.

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
    only_numbers(tolerance=tolerance)
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
    ece, accuracy = change["conf_ece"], change["accuracy"]
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
