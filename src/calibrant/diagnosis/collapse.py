"""Preference collapse: how sharp a model is, what alignment did to it, and what one temperature can undo.

Shape suffixes: N questions, K options, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.diagnosis.calibrator import Tempered
from calibrant.metrics.estimates import Sampling, mean_draws, mean_estimates, share
from calibrant.metrics.measurement import INDISTINGUISHABLE, Estimate, Measurement, finite
from calibrant.metrics.uncertainty import percentile_interval
from calibrant.scores import Scores

NEAR_ONE = 0.99
"""A confidence of at least this counts as collapsed onto one option."""
NEEDS_REFERENCE = ("entropy and confidence shift", "agreement", "slope and scatter")
"""What cannot be told without scores of a reference model."""


@dataclass(frozen=True)
class Shift:
    """What alignment did, from the reference to the aligned model on the same questions.

    Parameters
    ----------
    entropy, confidence : mean change of the entropy over the options (nats) and of the top probability.
    agreement : share of questions with the same prediction.
    slope, intercept : of the line through the log-odds ``ln p(t) / p(j)`` of the aligned model (vertical) against the
        reference (horizontal), t the reference's top option, j every other option. Slope s > 1 is sharpening by the
        power s, which one temperature can undo; an intercept is a further push to the reference's own choice.
    scatter : root mean squared distance from the line, nats: what neither slope nor intercept explains.
    spread : standard deviation of the aligned log-odds, nats.
    r2 : share of their variance that the line explains; ``nan`` where they do not vary.
    n_pairs, n_pairs_left_out : option pairs used, and left out because a probability is 0.
    """

    entropy: Estimate
    confidence: Estimate
    agreement: Estimate
    slope: Estimate
    intercept: Estimate
    scatter: float
    spread: float
    r2: float
    n_pairs: int
    n_pairs_left_out: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; unknown numbers are ``None``."""
        names = ("entropy", "confidence", "agreement", "slope", "intercept")
        return {name: getattr(self, name).to_json() for name in names} | {
            "scatter": finite(self.scatter),
            "spread": finite(self.spread),
            "r2": finite(self.r2),
            "n_pairs": self.n_pairs,
            "n_pairs_left_out": self.n_pairs_left_out,
        }


@dataclass(frozen=True)
class TemperatureEffect:
    """What one temperature undoes, each question rescaled by a temperature fitted on other questions.

    Parameters
    ----------
    temperature : T fitted on all the questions; above 1 softens.
    at_bound : whether no finite T was best.
    conf_ece, nll : before and after (cross-validated, 5 folds).
    undone : share of the conf-ECE above its floor's mean that is gone, at most 1, negative where it grew; ``None`` where
        the scores cannot be told from calibrated to begin with.
    suffices : whether conf-ECE after it is within its floor.
    n_left_out : questions whose answer has probability 0, which no temperature can mend.
    """

    temperature: float
    at_bound: bool
    conf_ece: tuple[Estimate, Estimate]
    nll: tuple[Estimate, Estimate]
    undone: float | None
    suffices: bool
    n_left_out: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "temperature": self.temperature,
            "at_bound": self.at_bound,
            "conf_ece": {"before": self.conf_ece[0].to_json(), "after": self.conf_ece[1].to_json()},
            "nll": {"before": self.nll[0].to_json(), "after": self.nll[1].to_json()},
            "undone": self.undone,
            "suffices": self.suffices,
            "n_left_out": self.n_left_out,
        }


@dataclass(frozen=True)
class Collapse:
    """How sharp the model is.

    Parameters
    ----------
    entropy : mean entropy over the options, nats; ``entropy_share`` is the mean of entropy / ln K, from 0 to 1.
    confidence : mean top probability.
    share_near_one : share of questions with a confidence of at least .99.
    accuracy_near_one : accuracy among those; ``None`` where there are none.
    temperature : what one temperature undoes; ``None`` where none could be fitted.
    shift : what alignment changed; ``None`` without a reference.
    """

    entropy: Estimate
    entropy_share: Estimate
    confidence: Estimate
    share_near_one: Estimate
    accuracy_near_one: Estimate | None
    temperature: TemperatureEffect | None
    shift: Shift | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; with the names of the parts that need a reference where none was given."""
        near = self.accuracy_near_one
        return {
            "entropy": self.entropy.to_json(),
            "entropy_share": self.entropy_share.to_json(),
            "confidence": self.confidence.to_json(),
            "share_near_one": self.share_near_one.to_json(),
            "accuracy_near_one": None if near is None else near.to_json(),
            "temperature": None if self.temperature is None else self.temperature.to_json(),
            "shift": None if self.shift is None else self.shift.to_json(),
            "needs_reference": [] if self.shift else list(NEEDS_REFERENCE),
        }


def collapse(
    scores: Scores, measured: Measurement, own: Tempered | None, reference: Scores | None, how: Sampling
) -> Collapse:
    """Describe the sharpness of ``scores`` and, against ``reference`` (same questions, same order), what changed."""
    entropy_N = entropies(scores)
    near_N = scores.confidence_N >= NEAR_ONE
    means = mean_estimates(
        {"entropy": entropy_N, "share": entropy_N / np.log(scores.k_N), "confidence": scores.confidence_N}, how
    )
    return Collapse(
        entropy=means["entropy"],
        entropy_share=means["share"],
        confidence=means["confidence"],
        share_near_one=share(near_N, how),
        accuracy_near_one=share(scores.correct_N, how, near_N) if near_N.any() else None,
        temperature=temperature_effect(measured, own),
        shift=None if reference is None else shift(scores, reference, how),
    )


def entropies(scores: Scores) -> np.ndarray:
    """Entropy over the options of each question, ``-sum_k p_k ln p_k`` in nats, (N,); from 0 to ln K_i."""
    logp_NK = np.where(np.isfinite(scores.logp_NK), scores.logp_NK, 0.0)
    return np.asarray(-(scores.p_NK * logp_NK).sum(1))


def shift(scores: Scores, reference: Scores, how: Sampling) -> Shift:
    """What changed from ``reference`` to ``scores``, question by question in the same order (see :class:`Shift`).

    The log-odds against *every* other option are used, so a reversed pair shows; ``x >= 0`` by the choice of t.
    Least squares; intervals resample questions, not pairs. A pair with a probability of 0 has no log-odds and is
    counted. Ours: under KL-regularised alignment the aligned log-odds are the reference's plus the rewards'
    difference over β.
    """
    means = mean_estimates(
        {
            "entropy": entropies(scores) - entropies(reference),
            "confidence": scores.confidence_N - reference.confidence_N,
        },
        how,
    )
    x_NK, y_NK, known_NK, n_left_out = _log_odds(scores, reference)
    slope, intercept, scatter, spread = _line(x_NK, y_NK, known_NK, how)
    return Shift(
        entropy=means["entropy"],
        confidence=means["confidence"],
        agreement=share(scores.prediction_N == reference.prediction_N, how),
        slope=slope,
        intercept=intercept,
        scatter=scatter,
        spread=spread,
        r2=1 - (scatter / spread) ** 2 if spread > 1e-6 else np.nan,
        n_pairs=int(known_NK.sum()),
        n_pairs_left_out=n_left_out,
    )


def temperature_effect(measured: Measurement, own: Tempered | None) -> TemperatureEffect | None:
    """What ``own``, the scores after a cross-validated temperature, changed of ``measured``."""
    if own is None:
        return None
    before, left = measured["conf_ece"], own.measured["conf_ece"]
    assert own.fitted.temperature_ is not None
    assert before.floor_mean is not None
    assert left.floor_mean is not None
    undone = None
    if before.verdict != INDISTINGUISHABLE:
        undone = 1 - max(left.value - left.floor_mean, 0.0) / (before.value - before.floor_mean)
    return TemperatureEffect(
        temperature=own.fitted.temperature_,
        at_bound=own.fitted.at_bound_,
        conf_ece=(before, left),
        nll=(measured["nll"], own.measured["nll"]),
        undone=undone,
        suffices=own.suffices,
        n_left_out=own.fitted.n_left_out_,
    )


def _log_odds(scores: Scores, reference: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Log-odds of the reference's top option against each other option, under both; which are known; how many not."""
    k = min(scores.k, reference.k)
    logp_NK, ref_NK = scores.logp_NK[:, :k], reference.logp_NK[:, :k]
    top_N1 = np.argmax(ref_NK, axis=1)[:, None]
    wanted_NK = (np.arange(k) < scores.k_N[:, None]) & (np.arange(k) != top_N1)
    top_logp_N1 = np.take_along_axis(logp_NK, top_N1, 1)
    known_NK = wanted_NK & np.isfinite(logp_NK) & np.isfinite(ref_NK) & np.isfinite(top_logp_N1)
    x_NK = np.where(known_NK, np.take_along_axis(ref_NK, top_N1, 1) - np.where(known_NK, ref_NK, 0), 0)
    y_NK = np.where(known_NK, np.where(known_NK, top_logp_N1, 0) - np.where(known_NK, logp_NK, 0), 0)
    return x_NK, y_NK, known_NK, int((wanted_NK & ~known_NK).sum())


def _line(
    x_NK: np.ndarray, y_NK: np.ndarray, known_NK: np.ndarray, how: Sampling
) -> tuple[Estimate, Estimate, float, float]:
    """Slope and intercept with intervals, residual root mean square, standard deviation of y."""
    n, pairs = len(x_NK), int(known_NK.sum())
    nothing = Estimate(np.nan, np.nan, np.nan, n)
    if pairs < 2:
        return nothing, nothing, np.nan, np.nan
    x_mean, y_mean = x_NK.sum() / pairs, y_NK.sum() / pairs
    u_NK, v_NK = np.where(known_NK, x_NK - x_mean, 0), np.where(known_NK, y_NK - y_mean, 0)
    if (u_NK**2).sum() <= 1e-12 * pairs:
        return nothing, nothing, np.nan, np.nan
    columns_N5 = np.column_stack([m.sum(1) for m in (known_NK, u_NK, v_NK, u_NK * u_NK, u_NK * v_NK)])
    draws_B5 = mean_draws(columns_N5, how)

    def fit(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, u, v, uu, uv = (means[..., j] for j in range(5))
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (w * uv - u * v) / (w * uu - u * u)
            return slope, (v - slope * u) / w + y_mean - slope * x_mean

    estimates = []
    for value, draws_B in zip(fit(columns_N5.mean(0)), fit(draws_B5), strict=True):
        estimates.append(Estimate(float(value), *percentile_interval(draws_B[np.isfinite(draws_B)], how.level), n))
    slope, intercept = estimates
    residual = float((np.where(known_NK, v_NK - slope.value * u_NK, 0) ** 2).sum())
    total = float((v_NK**2).sum())
    return slope, intercept, float(np.sqrt(residual / pairs)), float(np.sqrt(total / pairs))
