"""Numbers as aligned text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from calibrant.metrics import Comparison, Decision, Difference, Drift, Estimate, Measurement, Slice

LABELS = {
    "accuracy": "accuracy",
    "mean_confidence": "mean confidence",
    "signed_gap": "signed gap",
    "conf_ece": "conf-ECE",
    "cw_ece": "cw-ECE",
    "nll": "NLL",
    "brier": "Brier",
    "option_mass": "option mass",
}


def measurement_text(path: Path, m: Measurement) -> str:
    """One line a metric: value, interval, floor, verdict."""
    shown = {label: m.estimates[name] for name, label in LABELS.items() if name in m.estimates}
    head = f"{path}: {m.n} questions of at most {m.k} options, {m.n_bins} bins, {m.n_boot} draws, seed {m.seed}"
    return "\n".join([head, *_estimates(shown, f"{100 * m.level:g}% interval"), *(f"note: {note}" for note in m.notes)])


def battery_text(found: Mapping[str, Estimate]) -> str:
    """The further metrics, in the same form."""
    return "\n".join(_estimates({name.replace("_", " "): e for name, e in found.items()}, "interval"))


def slices_text(by: str, parts: Sequence[Slice]) -> str:
    """One line a slice, worst first."""
    rows: list[tuple[str, ...]] = [(f"by {by}", "n", "accuracy", "confidence", "conf-ECE", "floor p95", "p (Holm)", "")]
    for s in parts:
        numbers = (
            s.accuracy.value,
            s.mean_confidence,
            s.conf_ece.value,
            math.nan if s.conf_ece.floor_p95 is None else s.conf_ece.floor_p95,
            s.p_holm,
        )
        rows.append((s.name, str(s.n), *(f"{x:.3f}" for x in numbers), s.verdict))
    return "\n".join(_aligned(rows))


def decision_text(d: Decision) -> str:
    """The threshold and its promise in a sentence."""
    if d.threshold is None:
        return f"accuracy {d.target:g} cannot be guaranteed at {100 * d.level:g}% by any threshold: {d.note}"
    return (
        f"answer where confidence >= {float(d.threshold)!r}: accuracy is at least {d.target:g} with {100 * d.level:g}% "
        f"confidence (seen {d.accuracy:.4f}); answered {d.coverage:.1%}, abstained {d.abstention:.1%} of {d.n}"
    )


def comparison_text(a: Path, b: Path, c: Comparison) -> str:
    """One line a metric: both values, the difference, its paired interval, verdict, and what would settle it."""
    rows = [("", "a", "b", "b - a", f"{100 * c.level:g}% interval", "")]
    for name, label in LABELS.items():
        if name in c.differences:
            d = c[name]
            rows.append((label, f"{d.a:.4f}", f"{d.b:.4f}", *_change(d), d.verdict + _needed(d)))
    head = f"a = {a}\nb = {b}\n{c.n} questions, matched by {c.matched_by}; paired bootstrap, {c.n_boot} draws, seed {c.seed}"
    return "\n".join([head, *_aligned(rows)])


def drift_text(a: str, b: str, d: Drift) -> str:
    """One line a quantity, the verdict first."""
    rows = [
        ("movement", f"{d.movement:.4g}", f"share of probability that went elsewhere, mean; {d.tolerance:g} allowed"),
        ("|Δ log p|", f"{d.max_dlogp:.4g}", f"largest; mean {d.mean_dlogp:.4g}"),
        ("|Δ p|", f"{d.max_dp:.4g}", f"largest, in question {d.worst!r}"),
        ("Δ confidence", f"{d.mean_dconf:+.4g}", f"mean; largest {d.max_abs_dconf:.4g}"),
        ("flips", str(d.flips), "predictions that changed"),
        ("Δ conf-ECE", *_change(d.conf_ece)),
        ("Δ accuracy", *_change(d.accuracy)),
    ]
    return "\n".join([f"a = {a}", f"b = {b}", f"{d.verdict}, on {d.n} questions", *_aligned(rows)])


def contest_text(a: Path, metric: str, many: Mapping[str, tuple[Difference, float]], level: float) -> str:
    """One line a rival of ``a`` on one metric, with the p-value corrected for looking at all of them."""
    rows = [(f"b: {LABELS.get(metric, metric)}", "a", "b", "b - a", f"{100 * level:g}% interval", "p (Holm)", "")]
    for name, (d, p) in many.items():
        verdict = d.verdict if p <= 1 - level else "undecided"
        rows.append((name, f"{d.a:.4f}", f"{d.b:.4f}", *_change(d), f"{p:.3f}", verdict + _needed(d)))
    return "\n".join([f"a = {a}", *_aligned(rows)])


def _change(d: Difference) -> tuple[str, str]:
    if math.isnan(d.value):
        return "none", "an answer has probability 0"
    return f"{d.value:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]"


def _needed(d: Difference) -> str:
    return "" if d.n_needed is None else f"; about {d.n_needed:,} questions would settle it"


def _estimates(shown: Mapping[str, Estimate], interval: str) -> list[str]:
    rows = [("", "value", interval, "floor (mean, p95)", "")]
    for label, e in shown.items():
        between = "" if math.isnan(e.low) else f"[{e.low:.4f}, {e.high:.4f}]"
        floor = "" if e.floor_mean is None else f"{e.floor_mean:.4f}, {e.floor_p95:.4f}"
        rows.append((label, f"{e.value:.4f}", between, floor, e.verdict or ""))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
