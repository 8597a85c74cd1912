"""Numbers as aligned text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from calibrant.metrics import Decision, Difference, Drift, Estimate, Slice
from calibrant.metrics.comparison import UNDECIDED
from calibrant.metrics.panel import COVERAGE
from calibrant.metrics.text import LABELS, aligned, change_cells, estimate_lines, questions_needed


def battery_text(found: Mapping[str, Estimate]) -> str:
    """The further metrics, in the same form."""
    of_share = dict.fromkeys(("selective_accuracy", "ece_at_coverage"), f" of the surest {COVERAGE:.0%}")
    shown = {
        name.removesuffix("_at_coverage").replace("_", " ") + of_share.get(name, ""): e for name, e in found.items()
    }
    return "\n".join(estimate_lines(shown, "interval"))


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
    return "\n".join(aligned(rows))


def decision_text(d: Decision) -> str:
    """The threshold and its promise in a sentence."""
    if d.threshold is None:
        return f"accuracy {d.target:g} cannot be guaranteed at {100 * d.level:g}% by any threshold: {d.note}"
    return (
        f"answer where confidence >= {float(d.threshold)!r}: accuracy is at least {d.target:g} with {100 * d.level:g}% "
        f"confidence (seen {d.accuracy:.4f}); answered {d.coverage:.1%}, abstained {d.abstention:.1%} of {d.n}"
    )


def drift_text(a: str, b: str, d: Drift) -> str:
    """One line a quantity, the verdict first."""
    rows = [
        ("movement", f"{d.movement:.4g}", f"share of probability that went elsewhere, mean; {d.tolerance:g} allowed"),
        ("|Δ log p|", f"{d.max_dlogp:.4g}", f"largest; mean {d.mean_dlogp:.4g}"),
        ("|Δ p|", f"{d.max_dp:.4g}", f"largest, in question {d.worst!r}"),
        ("Δ confidence", f"{d.mean_dconf:+.4g}", f"mean; largest {d.max_abs_dconf:.4g}"),
        ("flips", str(d.flips), "predictions that changed"),
        ("Δ conf-ECE", *change_cells(d.conf_ece)),
        ("Δ accuracy", *change_cells(d.accuracy)),
    ]
    said = f"{d.verdict}, on {d.n} questions"
    if d.is_faithful:
        said += f"; one such check in 20 would meet no fault that sits in {100 * d.unseen:.2g}% of all questions"
    return "\n".join([f"a = {a}", f"b = {b}", said, *aligned(rows)])


def contest_text(metric: str, many: Mapping[str, tuple[Difference, float]], level: float) -> str:
    """One line a rival on one metric, with the p-value corrected for looking at all of them."""
    rows = [(f"b: {LABELS.get(metric, metric)}", "a", "b", "b - a", f"{100 * level:g}% interval", "p (Holm)", "")]
    for name, (d, p) in many.items():
        verdict = corrected_verdict(d, p, level) + questions_needed(d)
        rows.append((name, f"{d.a:.4f}", f"{d.b:.4f}", *change_cells(d), f"{p:.3f}", verdict))
    return "\n".join(aligned(rows))


def corrected_verdict(d: Difference, p_corrected: float, level: float) -> str:
    """The verdict on one of several rivals: undecided where its p-value, corrected for their number, is not small enough."""
    return d.verdict if p_corrected <= 1 - level else UNDECIDED
