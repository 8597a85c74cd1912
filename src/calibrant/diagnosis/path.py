"""The path of a tuning run: checkpoints on the plane of accuracy and ECE, and the signs that it leaves the regime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

from calibrant.diagnosis.collapse import entropies
from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import conf_ece, nll, noise_floor
from calibrant.metrics.bins import check_level
from calibrant.metrics.comparison import align
from calibrant.metrics.estimates import Sampling
from calibrant.metrics.measurement import beyond_floor, measure
from calibrant.metrics.sums import QuestionSums
from calibrant.metrics.uncertainty import wilson_interval
from calibrant.scores import Scores

FLOOR_DRAWS = 200
"""Draws behind the floor of a point that is measured while a model trains."""
GROWTH = 0.05
"""Growth of (training - held-out accuracy) along a path that counts as a sign."""
WIDEST_FLOOR = 0.10
"""A checkpoint with a floor above this has too few questions for "within its floor" to say anything."""
NLL_RISE = 0.01
"""Rise of held-out NLL above its minimum, in nats a question, that counts as a sign."""


@dataclass(frozen=True)
class Checkpoint:
    """One point of a tuning run, measured on held-out questions.

    Parameters
    ----------
    accuracy, conf_ece, n : held-out, and the questions behind them.
    floor_p95 : 95th percentile of the conf-ECE of a calibrated twin; ``None`` where unknown.
    nll : held-out, nats a question.
    train_accuracy, train_n : on training questions, and how many of them.
    gap : ends of the interval of mean confidence - accuracy, ``None`` where unknown.
    step, epoch : where in the run.
    scores : what it was measured from, ``None`` where only numbers are at hand.
    """

    accuracy: float
    conf_ece: float
    n: int
    floor_p95: float | None = None
    nll: float | None = None
    train_accuracy: float | None = None
    train_n: int | None = None
    gap: tuple[float, float] | None = None
    step: float | None = None
    epoch: float | None = None
    scores: Scores | None = field(default=None, compare=False, repr=False)

    @property
    def calibrated(self) -> bool:
        """Whether conf-ECE is known to be within its floor, and the floor low enough (:data:`WIDEST_FLOOR`) to tell."""
        known = self.floor_p95 is not None and self.floor_p95 <= WIDEST_FLOOR
        return known and not self.above_floor

    @property
    def above_floor(self) -> bool:
        """Whether conf-ECE is known to be above what chance alone gives."""
        return self.floor_p95 is not None and beyond_floor(self.conf_ece, self.floor_p95)

    def scores_of(self, others: Scores) -> Scores | None:
        """Its scores in the order of ``others``; ``None`` where they are of other questions or unknown."""
        if self.scores is None:
            return None
        try:
            return align(others, self.scores)[0]
        except ScoresError:
            return None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        names = ("step", "epoch", "n", "accuracy", "conf_ece", "floor_p95", "nll", "train_accuracy", "train_n")
        return {name: getattr(self, name) for name in names} | {"gap": None if self.gap is None else list(self.gap)}


def checkpoint_point(
    scores: Scores, *, n_bins: int = 10, level: float = 0.95, n_draws: int = FLOOR_DRAWS
) -> dict[str, float | int]:
    """One point of a path from held-out scores, as flat numbers: quick enough to be made while a model trains.

    ``n``, ``accuracy``, ``mean_confidence``, ``conf_ece`` with its floor (``floor_mean``, ``floor_p95``), ``nll`` and
    ``entropy`` (nats a question), ``signed_gap`` = mean confidence - accuracy with the ends of its interval, mean +- z
    standard errors over questions, with the variance that bins of like labels hide
    (:func:`~calibrant.metrics.bins.thin_variance`; ``signed_gap_low``, ``signed_gap_high``), and ``option_mass``. What is
    unknown or infinite (the log loss of an answer of probability 0) is left out.

    >>> point = checkpoint_point(Scores.from_probs([[0.9, 0.1]] * 400, [0] * 240 + [1] * 160))
    >>> point["accuracy"], round(point["conf_ece"], 3), round(point["signed_gap_low"], 3)
    (0.6, 0.3, 0.252)
    """
    check_level(level)
    thin_M, _ = QuestionSums(scores, n_bins).thin_variances
    floor, _ = noise_floor(scores, n_bins=n_bins, n_draws=n_draws)
    confidence_N, correct_N = scores.confidence_N, scores.correct_N.astype(np.float64)
    gap_N = confidence_N - correct_N
    error = math.sqrt(gap_N.var(ddof=1) / scores.n + thin_M.sum()) if scores.n > 1 else math.nan
    half = ndtri((1 + level) / 2) * error
    found = {
        "accuracy": correct_N.mean(),
        "mean_confidence": confidence_N.mean(),
        "conf_ece": conf_ece(confidence_N, scores.correct_N, n_bins),
        "floor_mean": floor.mean(),
        "floor_p95": np.quantile(floor, 0.95),
        "nll": nll(scores.logp_NK, scores.answer_N),
        "entropy": entropies(scores).mean(),
        "signed_gap": gap_N.mean(),
        "signed_gap_low": gap_N.mean() - half,
        "signed_gap_high": gap_N.mean() + half,
        "option_mass": np.exp(scores.logmass_N).mean(),
    }
    return {"n": scores.n} | {name: float(value) for name, value in found.items() if np.isfinite(value)}


def checkpoints(path: Sequence[Scores | Mapping[str, Any]], how: Sampling) -> tuple[Checkpoint, ...]:
    """Checkpoints from ``Scores`` (measured here) or mappings; a mapping needs accuracy, conf_ece and n.

    A mapping may also hold floor_p95, nll, train_accuracy, train_n, step, epoch, and mean_confidence, or the ends of
    the signed gap (``signed_gap_low``, ``signed_gap_high``, or ``signed_gap`` as ``{"low", "high"}``); what else it
    holds (a learning rate, a loss) is not read. The ``history`` of a tuning run or of a ``CalibrationCallback`` will do
    as it is.

    Raises
    ------
    ConfigError : a point without the three, or a value that is not a number.
    """
    return tuple(_checkpoint(point, i, how) for i, point in enumerate(path))


def critical_checkpoint(points: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint of highest held-out accuracy whose ECE is within its floor, a floor of at most
    :data:`WIDEST_FLOOR`; the first of equals; ``None`` if none is.
    """
    return max((p for p in points if p.calibrated), key=lambda p: p.accuracy, default=None)


def signs_of_leaving(points: Sequence[Checkpoint], level: float = 0.95) -> tuple[str, ...]:
    """Sentences, one a sign that the run has left the calibratable regime; the rules are ours.

    1. training - held-out accuracy grew by more than .05 from the first to the last checkpoint that tell it, and, where
       the number of training questions is known, beyond the interval of that growth (normal, the four accuracies taken
       as independent: conservative, as the questions are the same at both);
    2. held-out NLL of the last is more than .01 nats above its minimum, while accuracy stayed within its interval;
    3. the last one's |mean confidence - accuracy| is above 0 over its whole interval, and an earlier one's was not;
    4. the last one's ECE is above its floor, and an earlier one's was not.
    """
    if len(points) < 2:
        return ()
    last, signs = points[-1], []
    told = [p for p in points if p.train_accuracy is not None]
    if len(told) > 1:
        (first, error0), (later, error1) = (_lead(p) for p in (told[0], told[-1]))
        needed = max(GROWTH, ndtri((1 + level) / 2) * math.hypot(error0, error1))
        if later - first > needed:
            signs.append(f"training minus held-out accuracy grew from {first:+.3f} to {later:+.3f}")
    known = [p for p in points if p.nll is not None]
    if len(known) > 1 and known[-1] is last and last.nll is not None:
        best = min(known, key=lambda p: math.inf if p.nll is None else p.nll)
        assert best.nll is not None
        low, high = wilson_interval(best.accuracy, best.n, level)
        if last.nll > best.nll + NLL_RISE and low <= last.accuracy <= high:
            signs.append(
                f"held-out NLL turned up from {best.nll:.3f} to {last.nll:.3f} while accuracy stayed at "
                f"{last.accuracy:.3f} (n = {last.n})"
            )
    if _off_balance(last) and any(p.gap is not None and not _off_balance(p) for p in points[:-1]):
        signs.append("mean confidence and accuracy of the last checkpoint differ, with an interval that excludes 0")
    if last.above_floor and any(p.calibrated for p in points[:-1]):
        signs.append(
            f"conf-ECE was within its floor earlier and is {last.conf_ece:.3f} at the last checkpoint "
            f"(floor {last.floor_p95:.3f}, n = {last.n})"
        )
    return tuple(signs)


def _lead(p: Checkpoint) -> tuple[float, float]:
    """Training - held-out accuracy and its standard error, 0 where the number of training questions is unknown."""
    assert p.train_accuracy is not None
    lead = p.train_accuracy - p.accuracy
    if p.train_n is None:
        return lead, 0.0
    shares = ((p.train_accuracy, p.train_n), (p.accuracy, p.n))
    return lead, math.sqrt(sum(a * (1 - a) / n for a, n in shares))


def _off_balance(point: Checkpoint) -> bool:
    return point.gap is not None and (point.gap[0] > 0 or point.gap[1] < 0)


def _checkpoint(point: Scores | Mapping[str, Any], place: int, how: Sampling) -> Checkpoint:
    if isinstance(point, Scores):
        m = measure(point, n_bins=how.n_bins, n_boot=how.n_boot, level=how.level, seed=how.seed)
        ece, gap, nll = m["conf_ece"], m["signed_gap"], m["nll"].value
        ends = (gap.low, gap.high) if math.isfinite(gap.low) else None
        return Checkpoint(
            m["accuracy"].value,
            ece.value,
            m.n,
            ece.floor_p95,
            nll if math.isfinite(nll) else None,
            gap=ends,
            step=_number(point.provenance, "step", place),
            epoch=_number(point.provenance, "epoch", place),
            scores=point,
        )
    accuracy, conf_ece, n = (_number(point, name, place) for name in ("accuracy", "conf_ece", "n"))
    if accuracy is None or conf_ece is None or n is None or not (0 <= accuracy <= 1 and conf_ece >= 0 and n >= 1):
        raise ConfigError(
            asked=f"checkpoint {place} of the path",
            found=f"accuracy {accuracy}, conf_ece {conf_ece}, n {n}",
            todo="give Scores, or a mapping with accuracy in [0, 1], conf_ece and n (and, where known, floor_p95)",
        )
    train_n = _number(point, "train_n", place)
    return Checkpoint(
        accuracy,
        conf_ece,
        int(n),
        floor_p95=_number(point, "floor_p95", place),
        nll=_number(point, "nll", place),
        train_accuracy=_number(point, "train_accuracy", place),
        train_n=None if not train_n else int(train_n),
        gap=_gap(point, accuracy, int(n), place, how),
        step=_number(point, "step", place),
        epoch=_number(point, "epoch", place),
    )


def _gap(point: Mapping[str, Any], accuracy: float, n: int, place: int, how: Sampling) -> tuple[float, float] | None:
    """Ends of the signed gap where given; else mean confidence less the ends of Wilson's interval of accuracy, which
    leaves out that confidence varies too and that both vary together; else ``None``.
    """
    nested = point.get("signed_gap")
    given = nested if isinstance(nested, Mapping) else {end: point.get(f"signed_gap_{end}") for end in ("low", "high")}
    low, high = (_number(given, end, place) for end in ("low", "high"))
    if low is not None and high is not None:
        return low, high
    confidence = _number(point, "mean_confidence", place)
    if confidence is None:
        return None
    low_a, high_a = wilson_interval(accuracy, n, how.level)
    return confidence - high_a, confidence - low_a


def _number(values: Mapping[str, Any], name: str, place: int) -> float | None:
    """The number under a name; ``{"value": x}`` counts as x; ``None`` where it is missing or NaN."""
    value = values.get(name)
    if isinstance(value, Mapping):
        value = value.get("value")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            asked=f"{name} of checkpoint {place} of the path", found=f"{value!r}", todo="give a number or leave it out"
        )
    return float(value) if math.isfinite(value) else None
