"""The two regimes: the target, the critical accuracy, and the bounds that tie accuracy to ECE.

Let π* be the target distribution over the options, ŷ the model's prediction, c its confidence, and per confidence bin

* ``acc(c)``, the share of correct predictions, with mean A (accuracy);
* ``acc*(c) = E[π*(ŷ | x) | c]``, the accuracy that the same predictions would have were answers drawn from the target,
  with mean A* (the *critical accuracy*);
* ``C = E c``,  ``TCE = E|acc*(c) - c|`` (target calibration error),  ``Δ = E|acc(c) - acc*(c)|``.

Then, in the sample as in the population, with one and the same binning:

1. ``ECE >= |A - C|``;
2. ``|TCE - Δ| <= ECE <= TCE + Δ``;
3. ``ECE >= |A - A*| - TCE``: a model that matches the target (TCE = 0) has ``ECE >= |A - A*|``.

1 is the triangle inequality over bins; 2 says that acc, acc* and c are three points of one L1 space; 3 follows from
``Δ >= |A - A*|``. The two regimes, the target and TCE are those of Xiao et al. (ICML 2025, arXiv 2505.01997); these
three inequalities, in this form, are ours. Shape suffixes: N questions, K options, M bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibrant.diagnosis.calibrator import Tempered, calibrated, remeasure, tempered
from calibrant.diagnosis.influence import Influence, influence
from calibrant.diagnosis.path import Checkpoint, critical_checkpoint
from calibrant.metrics.bins import bin_index
from calibrant.metrics.estimates import Sampling, absolute, binned_errors, combined, mean_estimates, share_difference
from calibrant.metrics.measurement import Estimate, Measurement
from calibrant.metrics.proportions import paired_change_interval
from calibrant.metrics.sums import QuestionSums
from calibrant.metrics.uncertainty import wilson_interval
from calibrant.scores import Scores

FEW_CHANGED = 10
"""Predictions that differ from the reference's, below which a bootstrap of A - A* says little of other samples."""
NAMES = (
    "critical_accuracy",
    "excess_accuracy",
    "distance",
    "tce",
    "delta",
    "bound_1",
    "bound_2_low",
    "bound_2_high",
    "bound_3",
)


@dataclass(frozen=True, eq=False)
class Target:
    """What stands for π*: ``scores`` of the same questions in the same order, or a ``checkpoint`` of a path.

    Parameters
    ----------
    kind : "given", "reference", "path" or "self".
    name : in words, to be shown beside every number that depends on it.
    measured : the target's own calibration, where it is scores.
    origin : the reference that the target's scores were made from; its predictions are where the target's own error shows.
    influence : of the questions on the calibrator that made the target's scores; ``None`` where none did.
    """

    kind: str
    name: str
    scores: Scores | None
    measured: Measurement | None = None
    checkpoint: Checkpoint | None = None
    origin: Scores | None = None
    influence: Influence | None = None

    def correction(self) -> np.ndarray:
        """By how much the target is wrong about the predictions of its own reference, (N,):
        ``1[ŷ_ref = y] - π*(ŷ_ref | x)``; zeros without a reference. Ours: added to ``π*(ŷ | x)`` it takes a calibrator's
        error on average out of A*, and the label noise of all questions on which the two models predict the same out of
        A - A*.
        """
        assert self.scores is not None
        if self.origin is None:
            return np.zeros(self.scores.n)
        predicted_N = self.origin.prediction_N
        return np.asarray(self.origin.correct_N - self.scores.p_NK[np.arange(self.scores.n), predicted_N])


def choose_target(
    scores: Scores,
    own: Tempered | None,
    target: Scores | None,
    reference: Scores | None,
    points: Sequence[Checkpoint],
    how: Sampling,
) -> Target:
    """The first that is at hand: target scores as they are; the reference, calibrated; the best calibrated checkpoint of
    a path; the scores themselves, calibrated. ``own`` is ``tempered(scores)``.
    """
    if target is not None:
        return Target("given", "the given target scores" + _model_of(target), target, remeasure(target, how))
    if reference is not None:
        cooled = tempered(reference, how)
        made, by = calibrated(reference, cooled, how)
        name = f"the reference{_model_of(reference)}, calibrated by {by}"
        pulls = influence(reference, cooled)
        return Target("reference", name, made, remeasure(made, how), origin=reference, influence=pulls)
    best = critical_checkpoint(points)
    if best is not None:
        name = "the most accurate checkpoint of the path whose ECE is within its floor"
        return Target("path", name, None, checkpoint=best)
    made, by = calibrated(scores, own, how)
    name = f"the model itself, calibrated by {by}"
    return Target("self", name, made, remeasure(made, how), influence=influence(scores, own))


def regime_numbers(scores: Scores, measured: Measurement, target: Target, how: Sampling) -> dict[str, Estimate]:
    """Critical accuracy, distance and bounds, by the names in :data:`NAMES`; with a path for target there is no π*
    to compare bins with, so tce, delta, bound_2 and bound_3 are left out.

    A reference's A* is corrected by what its calibrator gets wrong about the reference's own predictions
    (:meth:`Target.correction`), so ``A - A* = E[(1[ŷ=y] - 1[ŷ_ref=y]) - (π*(ŷ) - π*(ŷ_ref))]``: nothing where the two
    predict the same. TCE and Δ use acc* moved by the mean of the correction.

    Intervals: A - A* by a paired bootstrap over questions, wider where it has seen few predictions differ from the
    reference's; for a path by Newcombe's, paired where it holds scores of the same
    questions, at the effective number of questions where they share clusters (the questions of a path of numbers are taken
    to be clustered as much as these); TCE, Δ as for any binned error; bounds by combining the ends of the intervals
    of their parts, which is conservative. A question is resampled for TCE with what it does to the calibrator that was
    fitted to it (:class:`~calibrant.diagnosis.influence.Influence`) and to the mean of the correction: the calibrator's
    noise only ever adds to TCE, and where it explains all of it the interval starts at 0. Δ takes the calibrator as known,
    which makes it no shorter. A* of a target that is fitted to the model itself has the arms of the accuracy, which it
    follows.
    """
    bound_1 = absolute(measured["signed_gap"])
    if target.scores is None:
        assert target.checkpoint is not None
        a, b = measured["accuracy"], target.checkpoint
        same = b.scores_of(scores)
        worth = how.worth(scores.correct_N.astype(np.float64)) / scores.n
        if same is None:
            excess = replace(
                share_difference(a.value, worth * a.n, b.accuracy, worth * b.n, how.level), n=min(a.n, b.n)
            )
        else:
            paired_N = scores.correct_N.astype(np.float64) - same.correct_N
            ends = paired_change_interval(same.correct_N[None], scores.correct_N[None], how.worth(paired_N), how.level)
            excess = Estimate(float(paired_N.mean()), *ends, scores.n)
        critical = Estimate(b.accuracy, *wilson_interval(b.accuracy, worth * b.n, how.level), b.n)
        return {
            "critical_accuracy": critical,
            "excess_accuracy": excess,
            "distance": absolute(excess),
            "bound_1": bound_1,
        }
    c_N, correct_N = np.minimum(scores.confidence_N, 1.0), scores.correct_N.astype(np.float64)
    star_N = np.minimum(target.scores.p_NK[np.arange(scores.n), scores.prediction_N], 1.0)
    correction_N = target.correction()
    corrected_N = star_N + correction_N
    means = mean_estimates({"critical": corrected_N, "excess": correct_N - corrected_N}, how)
    means["excess"] = _with_unseen_changes(means["excess"], scores, target.origin, how)
    if target.kind == "self":  # its calibrator follows the accuracy of the same answers, and so does A*
        a, e = measured["accuracy"], means["critical"]
        means["critical"] = replace(e, low=e.value + a.low - a.value, high=e.value + a.high - a.value)
    star_N = star_N + correction_N.mean()
    label_noise_M, _ = QuestionSums(scores, how.n_bins).thin_variances
    bin_N = bin_index(c_N, how.n_bins)
    errors = binned_errors(
        {"tce": star_N - c_N, "delta": correct_N - star_N},
        bin_N,
        {"tce": np.zeros(how.n_bins), "delta": label_noise_M},
        how,
        {"tce": _pulls(scores, target, correction_N, bin_N, how.n_bins)},
    )
    tce, delta = errors["tce"], errors["delta"]
    distance = absolute(means["excess"])
    low = combined(tce, delta, lambda x, y: abs(x - y))
    if tce.low <= delta.high and delta.low <= tce.high:
        low = replace(low, low=0.0)
    return {
        "critical_accuracy": means["critical"],
        "excess_accuracy": means["excess"],
        "distance": distance,
        "tce": tce,
        "delta": delta,
        "bound_1": bound_1,
        "bound_2_low": low,
        "bound_2_high": combined(tce, delta, lambda x, y: x + y),
        "bound_3": combined(distance, tce, lambda x, y: x - y),
    }


def _pulls(scores: Scores, target: Target, correction_N: np.ndarray, bin_N: np.ndarray, n_bins: int) -> np.ndarray:
    """N times what each question, counted once more, does to the cells of TCE by way of the calibrator and of the mean of
    the correction, (N, M).
    """
    share_M = np.bincount(bin_N, minlength=n_bins) / scores.n
    pulls_NM = np.outer(correction_N - correction_N.mean(), share_M)
    if target.influence is None:
        return pulls_NM
    return np.asarray(pulls_NM + target.influence.on_bins(scores, bin_N, n_bins, target.origin))


def _with_unseen_changes(e: Estimate, scores: Scores, origin: Scores | None, how: Sampling) -> Estimate:
    """``A - A*`` with room for predictions that differ from the reference's in other samples, where few do in this one, which
    a bootstrap cannot know: up to as many more as Wilson's upper limit of their share, each counted as 1, an answer learnt
    by heart. Ours.
    """
    if origin is None or (changed_N := scores.prediction_N != origin.prediction_N).sum() >= FEW_CHANGED:
        return e
    n, share = how.worth(scores.correct_N.astype(np.float64)), float(changed_N.mean())
    unseen = wilson_interval(share, n, how.level)[1] - share
    return replace(e, low=min(e.low, e.value - unseen), high=max(e.high, e.value + unseen))


def _model_of(scores: Scores) -> str:
    model = scores.provenance.get("model")
    return f" ({model})" if isinstance(model, str) and model else ""
