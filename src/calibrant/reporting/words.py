"""The verdict in plain words: pure functions of measurements, one branch for each direction a result can take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from calibrant.metrics import Comparison, Difference, Estimate, Measurement
from calibrant.metrics.measurement import DISTINGUISHABLE

GOOD, MIXED, BAD, NEUTRAL = "good", "mixed", "bad", "neutral"
SHOWS_LITTLE = 0.1
"""Where an error within its floor may still be larger than this, nothing was shown."""


@dataclass(frozen=True)
class Verdict:
    """What a result says.

    Parameters
    ----------
    headline : a few words.
    tone : ``"good"``, ``"mixed"``, ``"bad"`` or ``"neutral"``: how to set it, never information of its own.
    sentences : two sentences that a stranger understands.
    """

    headline: str
    tone: str
    sentences: tuple[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"headline": self.headline, "tone": self.tone, "sentences": list(self.sentences)}


def verdict(
    before: Measurement, after: Measurement | None = None, change: Comparison | None = None, fix: str = "tuning"
) -> Verdict:
    """The verdict on one set of questions: before and after a ``fix`` (with their paired ``change``), or before alone.

    Better and worse are said only where the paired interval leaves 0 out; calibrated is never said, only that no
    miscalibration could be told from chance.
    """
    if after is None or change is None:
        return _of_one(before)
    return _of_two(before, after, change, fix)


def direction(m: Measurement) -> str:
    """Which way confidence is wrong: ``overconfident``, ``underconfident``, ``miscalibrated`` (both ways) or ``""`` where
    chance explains it.

    The first two need an interval of the signed gap that leaves 0 out, the third a conf-ECE above its floor.
    """
    gap = m["signed_gap"]
    if gap.low > 0:
        return "overconfident"
    if gap.high < 0:
        return "underconfident"
    return "miscalibrated" if m["conf_ece"].verdict == DISTINGUISHABLE else ""


def _of_one(m: Measurement) -> Verdict:
    way, gap = direction(m), m["signed_gap"]
    first = f"The model {_said(m)} on average and {_right(m)}, over {_questions(m.n)}."
    error = f"Its calibration error is {_number(m['conf_ece'].value)}, {_against_chance(m['conf_ece'])}"
    if way in ("overconfident", "underconfident"):
        link = ":" if m["conf_ece"].verdict == DISTINGUISHABLE else ", yet on average"
        ends = sorted((abs(gap.low), abs(gap.high)))
        span = f"{100 * m.level:g}% interval {ends[0] * 100:.1f} to {ends[1] * 100:.1f}"
        second = f"{error}{link} it is {way} by {abs(gap.value) * 100:.1f} points ({span})."
        return Verdict(way.capitalize(), BAD, (first, second))
    if way:
        second = f"{error}: it is too sure in some ranges and too unsure in others, which cancels on average."
        return Verdict("Miscalibrated in both directions", BAD, (first, second))
    second = f"{error}, so no miscalibration can be told from chance with this many questions."
    if not m["conf_ece"].high <= SHOWS_LITTLE:
        high = m["conf_ece"].high
        most = f" It may still be as large as {_number(high)}." if math.isfinite(high) else ""
        return Verdict("Too few questions to tell", NEUTRAL, (first, second + most))
    return Verdict("No miscalibration detected", GOOD, (first, second))


def _of_two(before: Measurement, after: Measurement, change: Comparison, fix: str) -> Verdict:
    ece, accuracy = change["conf_ece"], change["accuracy"]
    first = (
        f"Before {fix}, the model {_said(before)} on average and {_right(before)}, over {_questions(before.n)}: "
        f"{direction(before) or 'no miscalibration beyond chance'}."
    )
    moved = {"b is better": "fell", "a is better": "rose"}.get(ece.verdict, "did not change detectably,")
    way, was = direction(after), direction(before)
    if way == "miscalibrated" and was not in ("", way):
        now = " and still miscalibrated, now in both directions"
    else:
        now = f" and {'still' if way == was else 'now'} {way}" if way else ""
    second = (
        f"After {fix}, it {_said(after)} and {_right(after)}: the calibration error {moved} from {_number(ece.a)} to "
        f"{_number(ece.b)} (change {_signed(ece.value)}, {100 * change.level:g}% interval {_span(ece)}), which is "
        f"{_against_chance(after['conf_ece'])}{now}, "
        f"and {_accuracy(change)}."
    )
    headline, tone = _headline(ece.verdict, accuracy.verdict, before, after)
    return Verdict(headline, tone, (first, second))


def _headline(ece: str, accuracy: str, before: Measurement, after: Measurement) -> tuple[str, str]:
    fell, left = accuracy == "a is better", direction(after)
    if ece == "b is better":
        whole = after["conf_ece"].verdict != DISTINGUISHABLE
        words = "Calibration restored" if whole and not left else "Calibration improved, not fully restored"
        return (f"{words}, but accuracy fell", MIXED) if fell else (words, GOOD if whole and not left else MIXED)
    if ece == "a is better":
        return ("Calibration got worse, and accuracy fell" if fell else "Calibration got worse", BAD)
    words = "No detectable change in calibration"
    if not direction(before) and not left:
        words = "Nothing to repair was detected, before or after"
    return (f"{words}, but accuracy fell", BAD) if fell else (words, NEUTRAL)


def _accuracy(change: Comparison) -> str:
    d = change["accuracy"]
    interval = f"{100 * change.level:g}% interval {_span(d, 100, 1)}"
    points = f"{abs(d.value) * 100:.1f} points"
    if d.verdict == "b is better":
        return f"accuracy rose by {points} ({interval})"
    if d.verdict == "a is better":
        return f"accuracy fell by {points} ({interval})"
    return f"accuracy did not change detectably ({_signed(d.value * 100, 1)} points, {interval})"


def _against_chance(e: Estimate) -> str:
    word = "more than" if e.verdict == DISTINGUISHABLE else "no more than"
    floor = f" (up to {_number(e.floor_p95)})" if e.floor_p95 is not None else ""
    return f"{word} chance alone gives a calibrated model{floor}"


def _said(m: Measurement) -> str:
    return f"said {m['mean_confidence'].value:.0%}"


def _right(m: Measurement) -> str:
    return f"was right {m['accuracy'].value:.0%} of the time"


def _questions(n: int) -> str:
    return f"{n:,} question{'' if n == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "unknown"


def _span(d: Difference, scale: float = 1.0, digits: int = 3) -> str:
    """An interval in words, e.g. ``+1.0 to +3.2``."""
    if not (math.isfinite(d.low) and math.isfinite(d.high)):
        return "unknown"
    return f"{_signed(d.low * scale, digits)} to {_signed(d.high * scale, digits)}"
