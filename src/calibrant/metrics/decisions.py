"""What to do with a confidence: answer or abstain. Shape suffixes: N questions, G distinct confidences, J tested
thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtrc, betaincinv

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.bins import check_level, check_pairs, clopper_pearson
from calibrant.metrics.measurement import finite
from calibrant.metrics.profile import exact_profile

GRID = 40
MIN_KEPT = 30


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The risk-coverage curve, from the most confident question down; one point for each distinct confidence.

    Parameters
    ----------
    threshold_G : answer where ``confidence >= threshold``, descending.
    coverage_G : share of the questions answered.
    risk_G : error rate among them.
    low_G, high_G : pointwise Clopper-Pearson interval of the risk (not a band for the whole curve).
    """

    threshold_G: np.ndarray
    coverage_G: np.ndarray
    risk_G: np.ndarray
    low_G: np.ndarray
    high_G: np.ndarray


def risk_coverage(confidence_N: ArrayLike, correct_N: ArrayLike, level: float = 0.95) -> RiskCoverage:
    """Error rate of the answered questions against the share answered, as the threshold falls (El-Yaniv & Wiener 2010).

    Questions of equal confidence are answered together.

    >>> curve = risk_coverage([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0])
    >>> curve.coverage_G.tolist(), curve.risk_G.round(4).tolist()
    ([0.25, 0.75, 1.0], [0.0, 0.3333, 0.5])
    """
    profile = exact_profile(confidence_N, correct_N)
    kept_G = np.cumsum(profile.n_G[::-1])
    errors_G = np.cumsum((profile.n_G - profile.hits_G)[::-1])
    low_G, high_G = clopper_pearson(errors_G, kept_G, level)
    return RiskCoverage(profile.c_G[::-1], kept_G / kept_G[-1], errors_G / kept_G, low_G, high_G)


@dataclass(frozen=True)
class Decision:
    """A threshold on the confidence and what it promises.

    Parameters
    ----------
    target : accuracy wanted among the answered questions.
    level : probability of the promise, over the drawing of these questions.
    n : questions behind it.
    threshold : answer where ``confidence >= threshold``; ``None`` where no threshold can be promised.
    coverage : share answered at that threshold; ``1 - coverage`` is the abstention rate; 0 without a threshold.
    accuracy, accuracy_low : accuracy among the answered, and its one-sided Clopper-Pearson bound at ``level``.
    note : why there is no threshold, else empty.
    """

    target: float
    level: float
    n: int
    threshold: float | None
    coverage: float
    accuracy: float
    accuracy_low: float
    note: str = ""

    @property
    def abstention(self) -> float:
        """Share of the questions left unanswered."""
        return 1 - self.coverage

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``."""
        out: dict[str, Any] = {"target": self.target, "level": self.level, "n": self.n, "threshold": self.threshold}
        out |= {name: finite(getattr(self, name)) for name in ("coverage", "abstention", "accuracy", "accuracy_low")}
        return out | {"note": self.note}


def threshold_for(
    confidence_N: ArrayLike, correct_N: ArrayLike, target_accuracy: float, level: float = 0.95
) -> Decision:
    """The lowest tested threshold above which accuracy is at least ``target_accuracy``, with probability ``level``.

    Learn-then-test (Angelopoulos et al. 2021, arXiv 2110.01052) with a fixed sequence: at most 40 thresholds, spaced
    evenly in coverage and chosen from the confidences alone, are tested from the highest down; each tests ``accuracy <
    target`` by the exact binomial tail at ``1 - level``; the last one before the first failure is returned. As one
    fixed order is followed, no correction is needed, and the chance that the promise is broken is at most ``1 - level``
    for independent questions from the same population. The first threshold keeps at least 30 questions, and twice as
    many as an all-correct test needs.

    Raises
    ------
    ConfigError : a target outside (0, 1).

    >>> d = threshold_for([0.9] * 100 + [0.4] * 100, [1] * 99 + [0] + [1, 0] * 50, target_accuracy=0.9)
    >>> d.threshold, d.coverage, round(d.accuracy_low, 3)
    (0.9, 0.5, 0.953)
    """
    check_level(level)
    only_numbers(target_accuracy=target_accuracy)
    if not 0 < target_accuracy < 1:
        raise ConfigError(asked="a target accuracy", found=f"{target_accuracy}", todo="give a share in (0, 1)")
    c_N, y_N = check_pairs(confidence_N, correct_N)
    n = len(c_N)
    curve = exact_profile(c_N, y_N)
    kept_G, hits_G = np.cumsum(curve.n_G[::-1]), np.cumsum(curve.hits_G[::-1])
    least = max(MIN_KEPT, 2 * int(np.ceil(np.log(1 - level) / np.log(target_accuracy))))
    if least > n:
        note = f"{n} questions; this target and level need at least {least} above the threshold"
        return Decision(target_accuracy, level, n, None, 0.0, np.nan, np.nan, note)
    at_J = np.unique(np.searchsorted(kept_G, np.linspace(least, n, GRID)))
    p_J = bdtrc(hits_G[at_J] - 1, kept_G[at_J].astype(np.int64), target_accuracy)
    passed = int(np.argmax(np.append(p_J > 1 - level, True)))
    if passed == 0:
        kept, hits = float(kept_G[at_J[0]]), float(hits_G[at_J[0]])
        low = float(betaincinv(hits, kept - hits + 1, 1 - level)) if hits else 0.0
        note = f"accuracy of the {kept:.0f} most confident is {hits / kept:.3f}, its lower bound {low:.3f}: too low"
        return Decision(target_accuracy, level, n, None, 0.0, np.nan, np.nan, note)
    chosen = at_J[passed - 1]
    kept, hits = float(kept_G[chosen]), float(hits_G[chosen])
    low = float(betaincinv(hits, kept - hits + 1, 1 - level))
    threshold = float(curve.c_G[::-1][chosen])
    return Decision(target_accuracy, level, n, threshold, kept / n, hits / kept, low)
