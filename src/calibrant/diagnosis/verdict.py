"""From numbers to a verdict, an action, and the sentences that give the reasons. The rule is told in docs/regimes.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from calibrant.diagnosis.collapse import NEAR_ONE, Collapse, TemperatureEffect
from calibrant.diagnosis.options import LetterPrior, OptionMass
from calibrant.diagnosis.preference import PreferenceDrift
from calibrant.diagnosis.regime import Target
from calibrant.diagnosis.result import Action, Verdict
from calibrant.metrics.measurement import INDISTINGUISHABLE, LOW_MASS, Estimate
from calibrant.metrics.planning import n_to_decide, n_to_stay_above
from calibrant.metrics.text import with_interval

TOLERANCE = 0.05
"""An excess of accuracy over A* up to this bounds ECE by no more than the noise floor of some thousand questions."""
LEAST_N = 30
"""With fewer questions no verdict is given."""
PURE_RESCALING = 0.25
"""Intercept and scatter, in nats and standard deviations of the log-odds, up to which alignment only multiplied them."""
FEW_PAIRS = 0.01
"""Share of the pairs of options without log-odds, for a probability of 0, up to which the others speak for all."""
FAR_TOO_MANY = 100_000
"""From so many questions on it is said that no realistic number would settle a difference."""
PRIOR_DISTANCE, PRIOR_P = 0.05, 0.001
"""A prior over option positions is warned of beyond this distance and under this p-value."""


@dataclass(frozen=True)
class Facts:
    """All that the rule looks at."""

    n: int
    chance: float
    numbers: Mapping[str, Estimate]
    target: Target
    mass: OptionMass | None
    prior: LetterPrior
    collapse: Collapse
    reading: str | None
    split: str
    tuned_since: bool
    asked_apart: str | None
    path_is_paired: bool
    signs: tuple[str, ...]
    preferences: PreferenceDrift | None
    tolerance: float
    level: float

    @property
    def at_chance(self) -> bool:
        """Whether the interval of accuracy holds the chance level."""
        return self.numbers["accuracy"].low <= self.chance <= self.numbers["accuracy"].high

    @property
    def below_chance(self) -> bool:
        """Whether the interval of accuracy lies below the chance level."""
        return self.numbers["accuracy"].high < self.chance

    @property
    def within_floor(self) -> bool:
        """Whether conf-ECE cannot be told from that of a calibrated model."""
        return self.numbers["conf_ece"].verdict == INDISTINGUISHABLE

    @property
    def off_on_average(self) -> bool:
        """Whether the interval of the signed gap leaves out 0."""
        return self.numbers["signed_gap"].low > 0 or self.numbers["signed_gap"].high < 0

    @property
    def beats_the_bound(self) -> bool:
        """Whether conf-ECE is below ``|A - A*|``, what a model that matches the target has at least; beyond both
        intervals.
        """
        return self.numbers["conf_ece"].high < self.numbers["distance"].low

    @property
    def collapsed(self) -> bool | None:
        """Whether alignment raised confidence, lowered entropy, and the model is overconfident; each beyond its
        interval.
        """
        s = self.collapse.shift
        if s is None:
            return None
        return s.confidence.low > 0 and s.entropy.high < 0 and self.numbers["signed_gap"].low > 0

    @property
    def only_rescaled(self) -> bool:
        """Whether alignment did nothing but raise the reference to a power above 0, which one temperature undoes everywhere."""
        s = self.collapse.shift
        if s is None or not s.slope.value > 0 or s.n_pairs_left_out > FEW_PAIRS * (s.n_pairs + s.n_pairs_left_out):
            return False
        return max(abs(s.intercept.value), s.scatter) <= PURE_RESCALING * min(1.0, s.spread)


def verdict_of(f: Facts) -> Verdict:
    """The regime relative to the target; undecided on few questions, where accuracy is not above chance, and where only
    a target fitted to the same model says non-calibratable. Where the target says so of a model whose conf-ECE is within
    its floor: calibratable if the whole interval of conf-ECE lies below that of the target's bound, undecided else.
    """
    if f.n < LEAST_N or f.at_chance or f.below_chance:
        return "undecided"
    regime = regime_of(f.numbers["excess_accuracy"], f.tolerance)
    if regime == "non-calibratable" and f.target.kind == "self":
        return "undecided"
    if regime == "non-calibratable" and f.within_floor:
        return "calibratable" if f.beats_the_bound else "undecided"
    return regime


def regime_of(excess: Estimate, tolerance: float) -> Verdict:
    """Regime from A - A* alone: above 0 beyond its interval and above the tolerance; below the tolerance; or neither.

    >>> regime_of(Estimate(0.08, 0.02, 0.14, 900), 0.05), regime_of(Estimate(0.0, -0.04, 0.04, 400), 0.05)
    ('non-calibratable', 'calibratable')
    """
    if excess.low > 0 and excess.value > tolerance:
        return "non-calibratable"
    return "calibratable" if excess.high < tolerance else "undecided"


def action_of(f: Facts, verdict: Verdict) -> Action:
    """What to do; the first rule that holds."""
    t = f.collapse.temperature
    if f.n < LEAST_N:
        return "score-more"
    if f.at_chance or f.below_chance:
        return "other-reading"
    if f.within_floor:
        return "score-more" if f.off_on_average else "nothing"
    if verdict == "non-calibratable":
        return "rcft"
    if verdict == "calibratable" and t is not None and t.suffices and f.only_rescaled:
        return "temperature"
    return "cft"


def reasons_of(f: Facts, verdict: Verdict, action: Action) -> tuple[str, ...]:
    """Sentences: what is measured, what the target says, why this verdict, why this action."""
    return tuple(
        sentence
        for sentence in (
            _miscalibration(f),
            _collapse(f),
            _drift(f.preferences),
            _near_one(f),
            _target(f),
            _verdict(f, verdict),
            _temperature(f.collapse.temperature),
            _action(f, verdict, action),
        )
        if sentence
    )


def warnings_of(f: Facts) -> tuple[str, ...]:
    """Sentences about what a reader must not miss."""
    accuracy, ece, t = f.numbers["accuracy"], f.numbers["conf_ece"], f.collapse.temperature
    out = []
    if f.split.lower() in {"train", "training"}:
        out.append(f"These scores are of the split {f.split!r}: a diagnosis of training questions flatters the model.")
    target_ece = None if f.target.measured is None else f.target.measured["conf_ece"]
    if target_ece is not None and target_ece.verdict != INDISTINGUISHABLE:
        out.append(
            f"The target is itself not calibrated on these questions: conf-ECE {with_interval(target_ece)}, floor "
            f"{target_ece.floor_p95:.3f}; A* carries that error."
        )
    if f.target.kind == "path" and not f.path_is_paired and f.numbers["critical_accuracy"].n != f.n:
        out.append(
            f"A* was measured on {f.numbers['critical_accuracy'].n} other questions than these {f.n}: a difference in "
            "difficulty is a difference of A - A* too."
        )
    if f.tuned_since:
        out.append(
            "These scores are of a model with an adapter, the reference's are not. If it was tuned after the alignment, "
            "what is said of alignment is said of both, and knowledge that was tuned in counts as accuracy beyond A*: then "
            "give the path of that tuning instead."
        )
    if f.asked_apart:
        out.append(
            f"The reference was asked in another way ({f.asked_apart}): what is said of alignment is said of that too. Score "
            "it as the aligned model was; `calibrant score --chat-template` takes that of another model."
        )
    if f.n < LEAST_N:
        out.append(f"{f.n} questions are fewer than {LEAST_N}: nothing can be decided from them.")
    elif f.n < 100:
        out.append(f"{f.n} questions: the intervals are wide, and approximate under 100.")
    if f.at_chance:
        right = with_interval(accuracy)
        out.append(f"The model cannot be told from chance: accuracy {right} holds {f.chance:.3f}, n = {f.n}.")
    if f.below_chance:
        out.append(
            f"Accuracy {with_interval(accuracy)} is below chance, {f.chance:.3f}: check the answers and their order."
        )
    out += _mass_warning(f)
    p = f.prior.p_value
    if f.prior.distance >= PRIOR_DISTANCE and p is not None and p < PRIOR_P:
        out.append(
            f"{f.prior.distance:.1%} of the probability stands at the wrong option positions (p = {p:.1g}, n = {f.n}): "
            "the model prefers positions, or answers stand more often at some than at others and the model is over- or "
            "underconfident; `calibrant sensitivity` tells which."
        )
    if f.within_floor and ece.high > 2 * f.tolerance and f.n >= LEAST_N:
        out.append(
            f"That conf-ECE is within its floor shows little: with n = {f.n} it may still be as large as {ece.high:.3f}."
        )
    if t is not None and t.n_left_out:
        out.append(f"{t.n_left_out} of {f.n} answers have probability 0: no temperature mends those.")
    if t is None:
        out.append("At least half of the answers have probability 0: no temperature can be fitted.")
    out += [f"Sign of leaving the calibratable regime: {sign}." for sign in f.signs]
    return tuple(out)


def _miscalibration(f: Facts) -> str:
    gap, ece = f.numbers["signed_gap"], f.numbers["conf_ece"]
    word = "overconfident" if gap.low > 0 else "underconfident" if gap.high < 0 else "neither over- nor underconfident"
    return (
        f"Mean confidence {f.numbers['mean_confidence'].value:.3f} against accuracy {f.numbers['accuracy'].value:.3f} "
        f"(n = {f.n}): {word} on average, gap {with_interval(gap, '+.3f')}; conf-ECE {with_interval(ece)}, where noise "
        f"alone gives up to {ece.floor_p95:.3f}: {ece.verdict}."
    )


def _collapse(f: Facts) -> str:
    s = f.collapse.shift
    if s is None:
        return ""
    change = (
        f"confidence {with_interval(s.confidence, '+.3f')}, entropy {with_interval(s.entropy, '+.3f')} nats, the same "
        f"prediction on {s.agreement.value:.1%} of the questions"
    )
    if math.isfinite(s.slope.value):
        change += (
            f", log-odds raised to the power {with_interval(s.slope)} and pushed by "
            f"{with_interval(s.intercept, '+.3f')} nats to the reference's own choice, with a scatter of {s.scatter:.3f} nats"
        )
    if f.collapsed:
        return f"Preference collapse: against the reference, {change}, and the model is overconfident."
    return f"Against the reference: {change}."


def _drift(d: PreferenceDrift | None) -> str:
    if d is None:
        return ""
    text = (
        f"On {d.n} preference pairs alignment moved the log-probability of the chosen response by "
        f"{with_interval(d.chosen, '+.3f')} nats, of the rejected one by {with_interval(d.rejected, '+.3f')}, and "
        f"their margin by {with_interval(d.margin, '+.3f')}"
    )
    if d.chosen.high < 0 and d.rejected.high < 0:
        return (
            f"{text}: both fell, on {d.share_both_fell.value:.0%} of the pairs together, so probability left the pairs "
            "altogether."
        )
    return text + "."


def _near_one(f: Facts) -> str:
    share, right = f.collapse.share_near_one, f.collapse.accuracy_near_one
    if right is None or right.high >= NEAR_ONE:
        return ""
    return (
        f"{share.value:.1%} of the questions get a confidence of {NEAR_ONE} or more, and are right "
        f"{with_interval(right)} of the time (n = {right.n})."
    )


def _target(f: Facts) -> str:
    critical, excess = f.numbers["critical_accuracy"], f.numbers["excess_accuracy"]
    if f.target.kind == "path":
        paired = "on the same questions" if f.path_is_paired else "taken as of other questions"
        return (
            f"Critical accuracy by {f.target.name}: A* = {with_interval(critical)}, n = {critical.n}, {paired}; "
            f"A - A* = {with_interval(excess, '+.3f')}. The best of several checkpoints is a little flattered."
        )
    text = (
        f"Were answers drawn from {f.target.name}, these predictions would be right A* = {with_interval(critical)} of "
        f"the time; A - A* = {with_interval(excess, '+.3f')}."
    )
    if f.target.kind == "self":
        text += (
            " That target is fitted to the same model, so A* is near A by construction: it can show that a map of the "
            "confidence mends the model, never that its accuracy is too high. A reference, target scores or a path of "
            "checkpoints says more."
        )
    if excess.high < -f.tolerance:
        text += (
            f" The target promises more than these predictions keep: matching it would leave an ECE of about "
            f"{-excess.value:.3f} unless accuracy rises."
        )
    return text


def _verdict(f: Facts, verdict: Verdict) -> str:
    excess, tolerance = f.numbers["excess_accuracy"], f.tolerance
    if f.n < LEAST_N:
        return f"Undecided: {f.n} questions are fewer than {LEAST_N}."
    if f.at_chance or f.below_chance:
        return "Undecided: at or below chance, these scores do not show what the model knows."
    exceeds = regime_of(excess, tolerance) == "non-calibratable"
    if f.target.kind == "self" and exceeds:
        return "Undecided: that A exceeds A* shows that the calibrator does not fit, not that the accuracy is too high."
    if f.within_floor and exceeds:
        least = with_interval(f.numbers["distance"])
        bound = f"a model that matches this target has an ECE of at least {least} at this accuracy"
        if verdict == "calibratable":
            return f"Calibratable: {bound}, but this one is calibrated as it is: it knows more than the target."
        return (
            f"Undecided: {bound}, yet no miscalibration is seen. Either {f.n} questions are too few to see it, or the "
            "model knows more than the target."
        )
    if verdict == "non-calibratable":
        return (
            f"Non-calibratable: accuracy exceeds A* by more than {tolerance:g} and beyond its interval, so a model that "
            f"matched this target would have an ECE of at least {with_interval(f.numbers['distance'])}."
        )
    if verdict == "calibratable":
        return (
            f"Calibratable: the whole interval of A - A* is below {tolerance:g}, so this target does not stand in the "
            "way of calibration at this accuracy."
        )
    return f"Undecided: the interval of A - A* reaches {tolerance:g} without settling either side.{_needed(f, excess)}"


def _needed(f: Facts, excess: Estimate) -> str:
    """Questions that would settle it: below the tolerance if A - A* is, above 0 else."""
    shift = f.tolerance if excess.value < f.tolerance else 0.0
    n = n_to_decide(excess.value - shift, excess.low - shift, excess.high - shift, f.n, f.level)
    stay = 0.0 if shift else n_to_stay_above(excess.value - f.tolerance, excess.low - f.tolerance, f.n, f.level)
    if n is None or max(n, stay) > FAR_TOO_MANY:
        return " It lies too near to that for any realistic number of questions to settle it."
    return f" Were the difference the truth, about {max(n, math.ceil(stay)):,} questions would settle it."


def _temperature(t: TemperatureEffect | None) -> str:
    if t is None:
        return ""
    before, after = t.conf_ece
    bound = ", an end of the range tried" if t.at_bound else ""
    text = (
        f"One temperature (T = {t.temperature:.3f}{bound}, cross-validated) takes conf-ECE from {before.value:.3f} to "
        f"{with_interval(after)}"
    )
    if all(math.isfinite(nll.value) for nll in t.nll):
        text += f" and NLL from {t.nll[0].value:.3f} to {t.nll[1].value:.3f}"
    if t.undone is None:
        return text + "."
    if t.undone <= 0:
        return f"{text}, which does not lower the error."
    left = "within its floor" if t.suffices else "still above its floor"
    return f"{text}: {t.undone:.0%} of the excess over the floor is undone, what is left is {left}."


def _action(f: Facts, verdict: Verdict, action: Action) -> str:
    if action == "score-more":
        if f.n < LEAST_N:
            return f"Score at least {LEAST_N} questions, better 1,000, before deciding."
        return (
            "conf-ECE is within what noise alone gives, yet confidence differs from accuracy by "
            f"{with_interval(f.numbers['signed_gap'], '+.3f')} on average: a small error, or chance, which does this to a "
            "calibrated model now and then. Score other questions before mending anything."
        )
    if action == "other-reading":
        return "Try another reading of the options or another prompt format: at chance there is nothing to calibrate."
    if action == "nothing":
        return "Nothing to mend: conf-ECE is within what noise alone gives."
    if action == "rcft":
        return "RCFT trades the two: it raises accuracy and holds ECE down by its calibration term."
    if action == "temperature":
        assert f.collapse.shift is not None
        return (
            "A temperature is enough: alignment did nothing to the reference's log-odds but multiply them by "
            f"{with_interval(f.collapse.shift.slope)} (intercept and scatter within {PURE_RESCALING} nats and "
            f"{PURE_RESCALING} of "
            "their standard deviation), and dividing by one temperature mends what is left."
        )
    t = f.collapse.temperature
    text = "CFT is the default: it trains on answers only; no run of ours lowered accuracy beyond noise."
    if t is not None and t.suffices:
        text += (
            " A temperature is the cheap alternative and suffices on this split; it was fitted here and need not hold "
            "on other kinds of questions."
        )
    if verdict == "undecided":
        text += " Diagnose again afterwards: if accuracy has risen above A*, go on with RCFT."
    return text


def _mass_warning(f: Facts) -> list[str]:
    if f.mass is None or f.mass.mean >= LOW_MASS or f.reading == "continuation":
        return []
    told = f"mean option mass {f.mass.mean:.3f} (n = {f.mass.n}), under .5 on {f.mass.share_low:.0%} of the questions"
    if f.reading == "letters":
        return [f"The model hardly wanted to answer with a letter: {told}. Try another prompt format or reading."]
    return [f"The scores do not say how options were read. If as letters, the model hardly wanted them: {told}."]
