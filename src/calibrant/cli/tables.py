"""Numbers as aligned text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calibrant.metrics import Comparison, Measurement

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
    rows = [("", "value", f"{m.level:.0%} interval", "floor (mean, p95)", "")]
    for name, label in LABELS.items():
        if name not in m.estimates:
            continue
        e = m[name]
        floor = "" if e.floor_mean is None else f"{e.floor_mean:.4f}, {e.floor_p95:.4f}"
        rows.append((label, f"{e.value:.4f}", f"[{e.low:.4f}, {e.high:.4f}]", floor, e.verdict or ""))
    head = f"{path}: {m.n} questions, up to {m.k} options, {m.n_bins} bins, {m.n_boot} draws, seed {m.seed}"
    return "\n".join([head, *_aligned(rows), *(f"note: {note}" for note in m.notes)])


def comparison_text(a: Path, b: Path, c: Comparison) -> str:
    """One line a metric: both values, the difference, its paired interval, verdict."""
    rows = [("", "a", "b", "b - a", f"{c.level:.0%} interval", "")]
    for name, label in LABELS.items():
        if name not in c.differences:
            continue
        d = c[name]
        rows.append((label, f"{d.a:.4f}", f"{d.b:.4f}", f"{d.value:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]", d.verdict))
    head = f"a = {a}\nb = {b}\n{c.n} questions, matched by {c.matched_by}; paired bootstrap, {c.n_boot} draws, seed {c.seed}"
    return "\n".join([head, *_aligned(rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
