"""``Diagnosis``: what was found, as data, as JSON and as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calibrant.diagnosis.collapse import NEEDS_REFERENCE, Collapse
from calibrant.diagnosis.options import LetterPrior, OptionMass
from calibrant.diagnosis.path import Checkpoint
from calibrant.diagnosis.preference import PreferenceDrift
from calibrant.diagnosis.regime import NAMES
from calibrant.metrics.measurement import Estimate

Verdict = Literal["calibratable", "non-calibratable", "undecided"]
Action = Literal["nothing", "temperature", "cft", "rcft", "other-reading", "score-more"]

CAVEAT = (
    "'Non-calibratable' is relative to a target and a training objective: conf-ECE alone can always be driven to its "
    "floor at unchanged accuracy by a map of the confidence, bin by bin, as long as each bin's accuracy is at least 1/K."
)
LABELS = {
    "accuracy": "accuracy A",
    "mean_confidence": "mean confidence C",
    "signed_gap": "signed gap C - A",
    "conf_ece": "conf-ECE",
    "critical_accuracy": "critical accuracy A*",
    "excess_accuracy": "A - A*",
    "distance": "|A - A*|",
    "tce": "target calibration error TCE",
    "delta": "Δ = E|acc - acc*|",
    "bound_1": "bound 1: ECE >= |A - C|",
    "bound_2_low": "bound 2: ECE >= |TCE - Δ|",
    "bound_2_high": "bound 2: ECE <= TCE + Δ",
    "bound_3": "bound 3: ECE >= |A - A*| - TCE",
}
NEEDS_PAIRS = "drift of chosen and rejected log-probabilities"
ACTIONS = {
    "nothing": "nothing to mend",
    "temperature": "rescale with one temperature",
    "cft": "tune with CFT (answers only)",
    "rcft": "tune with RCFT (question and answer, with the calibration term)",
    "other-reading": "read the options in another way before anything else",
    "score-more": "score more questions before deciding",
}


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`calibrant.diagnosis.diagnose` found.

    Parameters
    ----------
    verdict : regime, relative to the target of ``target_name``. action : what to do, by the rule of docs/regimes.md.
    reasons, warnings : plain sentences.
    target_kind, target_name : what served as the target distribution: ``given``, ``reference``, ``path`` or ``self``.
    n, chance : questions, and the mean of 1/K over them.
    at_chance : whether the interval of accuracy holds ``chance``.
    collapsed : whether alignment raised confidence and left the model overconfident; ``None`` without a reference.
    numbers : estimates by name: accuracy, mean_confidence, signed_gap, conf_ece, nll and those of
        :data:`calibrant.diagnosis.regime.NAMES` that the target allows.
    option_mass, letter_prior, collapse, preferences : see their classes; preferences is ``None`` without pairs.
    path, critical_checkpoint : checkpoints of a tuning run, and the most accurate one within its floor.
    reading : ``"letters"``, ``"continuation"``, or ``None`` where the scores do not say.
    n_bins, n_boot, level, seed, tolerance, n_clusters : how it was found.
    """

    verdict: Verdict
    action: Action
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    target_kind: str
    target_name: str
    n: int
    chance: float
    at_chance: bool
    collapsed: bool | None
    numbers: Mapping[str, Estimate]
    option_mass: OptionMass | None
    letter_prior: LetterPrior
    collapse: Collapse
    preferences: PreferenceDrift | None
    path: tuple[Checkpoint, ...]
    critical_checkpoint: Checkpoint | None
    reading: str | None
    n_bins: int
    n_boot: int
    level: float
    seed: int
    tolerance: float
    n_clusters: int | None = None

    def __repr__(self) -> str:
        """In a line; ``print`` shows everything."""
        return (
            f"<Diagnosis: {self.verdict}, relative to {self.target_name}; action {self.action!r}, {self.n} questions>"
        )

    def __str__(self) -> str:
        return self.to_text()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is unknown, infinite or not a number is ``None``. ``target_accuracy`` is A* once more."""
        plain = ("verdict", "action", "target_kind", "target_name", "n", "chance", "at_chance", "collapsed", "reading")
        how = ("n_bins", "n_boot", "level", "seed", "tolerance", "n_clusters")
        critical = self.critical_checkpoint
        out: dict[str, Any] = {name: getattr(self, name) for name in (*plain, *how)}
        return out | {
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "caveat": CAVEAT,
            "target_accuracy": self.numbers["critical_accuracy"].to_json(),
            "numbers": dict.fromkeys(NAMES) | {name: e.to_json() for name, e in self.numbers.items()},
            "option_mass": None if self.option_mass is None else self.option_mass.to_json(),
            "letter_prior": self.letter_prior.to_json(),
            "collapse": self.collapse.to_json(),
            "preferences": None if self.preferences is None else self.preferences.to_json(),
            "path": [point.to_json() for point in self.path],
            "critical_checkpoint": None if critical is None else critical.to_json(),
        }

    def to_text(self) -> str:
        """What the command prints."""
        resampled = "" if self.n_clusters is None else f" in {self.n_clusters} clusters"
        lines = [
            f"Verdict: {self.verdict}, relative to {self.target_name}",
            f"Action:  {self.action}: {ACTIONS[self.action]}",
            "",
            "Why",
            *(f"- {sentence}" for sentence in self.reasons),
            *(("", "Warnings") if self.warnings else ()),
            *(f"- {sentence}" for sentence in self.warnings),
            "",
            f"Numbers (n = {self.n}{resampled}, {100 * self.level:g} % intervals, {self.n_bins} bins)",
            *self._number_lines(),
            "",
            "Options and sharpness",
            *self._sharpness_lines(),
            "",
            f"Note: {CAVEAT}",
        ]
        return "\n".join(lines) + "\n"

    def _number_lines(self) -> Iterator[str]:
        for name, label in LABELS.items():
            e = self.numbers.get(name)
            if e is not None:
                floor = "" if e.floor_p95 is None else f"  floor {e.floor_p95:.3f}: {e.verdict}"
                yield f"  {label:<31} {e.value:6.3f}  [{e.low:.3f}, {e.high:.3f}]{floor}"

    def _sharpness_lines(self) -> Iterator[str]:
        mass, prior, c = self.option_mass, self.letter_prior, self.collapse
        if mass is None:
            yield "  option mass: unknown"
        else:
            yield f"  option mass: mean {mass.mean:.3f}, under .5 for {mass.share_low:.0%} of {mass.n} questions"
        p = "untested" if prior.p_value is None else f"p = {prior.p_value:.2g}"
        yield f"  probability at wrong positions: {prior.distance:.3f} ({p})"
        for k, (p_k, f_k, n_k) in enumerate(zip(prior.mean_p_K, prior.frequency_K, prior.n_K, strict=True)):
            if n_k:
                yield f"    option {k + 1}: mean probability {p_k:.3f}, answers {f_k:.3f} (n = {n_k})"
        yield f"  entropy: {c.entropy.value:.3f} nats, {c.entropy_share.value:.0%} of the largest possible"
        near = "" if c.accuracy_near_one is None else f", right {c.accuracy_near_one.value:.0%} of the time"
        yield f"  confidence of .99 or more: {c.share_near_one.value:.0%} of questions{near}"
        if c.shift is None:
            yield f"  needs a reference: {', '.join(NEEDS_REFERENCE)}"
        else:
            s = c.shift
            yield f"  against the reference: confidence {s.confidence.value:+.3f}, entropy {s.entropy.value:+.3f} nats,"
            yield f"    same prediction {s.agreement.value:.0%}"
            line = f"slope {s.slope.value:.3f}, intercept {s.intercept.value:+.3f}, scatter {s.scatter:.3f} nats"
            yield "  log-odds: " + (line if math.isfinite(s.slope.value) else "no log-odds to compare")
            yield f"    ({s.n_pairs} pairs of options; {s.n_pairs_left_out} left out for a probability of 0)"
        if self.preferences is None:
            yield f"  needs preference pairs: {NEEDS_PAIRS}"
        else:
            yield from self._drift_lines(self.preferences)

    def _drift_lines(self, d: PreferenceDrift) -> Iterator[str]:
        yield f"  preference pairs (n = {d.n}), change from the reference, nats a response:"
        for name in ("chosen", "rejected", "margin"):
            e: Estimate = getattr(d, name)
            yield f"    {name:<9} {e.value:+.3f}  [{e.low:+.3f}, {e.high:+.3f}]"
        both, grew = d.share_both_fell, d.share_margin_grew
        yield f"    both fell on {both.value:.0%} of the pairs, the margin grew on {grew.value:.0%}"
