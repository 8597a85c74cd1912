"""Numbers as aligned text, for a terminal or ``print``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from calibrant.metrics.comparison import Difference
    from calibrant.metrics.measurement import Estimate

T = TypeVar("T")
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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, its cells in columns.

    >>> aligned([("", "value"), ("Brier", "0.5")])
    ['       value', 'Brier  0.5']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def labelled(found: Mapping[str, T]) -> dict[str, T]:
    """What is known of the usual metrics, in their order, by the names that are shown."""
    return {label: found[name] for name, label in LABELS.items() if name in found}


def estimate_lines(shown: Mapping[str, Estimate], interval: str) -> list[str]:
    """One line an estimate: value, interval, floor, verdict."""
    rows = [("", "value", interval, "floor (mean, p95)", "")]
    for label, e in shown.items():
        between = "" if math.isnan(e.low) else f"[{e.low:.4f}, {e.high:.4f}]"
        floor = "" if e.floor_mean is None else f"{e.floor_mean:.4f}, {e.floor_p95:.4f}"
        rows.append((label, f"{e.value:.4f}", between, floor, e.verdict or ""))
    return aligned(rows)


def with_interval(e: Estimate | Difference, form: str = ".3f") -> str:
    """A number with its interval, where it has one."""
    between = "" if math.isnan(e.low) else f" [{e.low:{form}}, {e.high:{form}}]"
    return f"{e.value:{form}}{between}"


def in_unit(value: float | None, unit: str, *, sign: bool = False) -> str:
    """A number in its unit: ``share``, ``relative``, ``tokens``, or one with four decimals such as nats.

    >>> in_unit(-0.021, "share", sign=True), in_unit(0.25, "share"), in_unit(0.0123, "nats"), in_unit(0.1, "relative")
    ('-2.1 pts', '25.0%', '0.0123', '10.0%')
    """
    if value is None or not math.isfinite(value):
        return "unknown"
    plus = "+" if sign else ""
    if unit in ("share", "relative"):
        return f"{value * 100:{plus}.1f}{' pts' if sign and unit == 'share' else '%'}"
    if unit == "tokens":
        return f"{value:{plus}.1f} tokens"
    return f"{value:{plus}.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:{plus}.1e}"


def rounded(n: int) -> str:
    """A number of items that would be needed, to two digits.

    >>> rounded(30), rounded(12345)
    ('30', '12,000')
    """
    return f"{int(float(f'{n:.2g}')):,}"


def in_clusters(n_clusters: int | None) -> str:
    """What was resampled, where it was not questions."""
    return "" if n_clusters is None else f" in {n_clusters} clusters"


def change_cells(d: Difference) -> tuple[str, str]:
    """A change and its interval."""
    if math.isnan(d.value):
        return "none", "an answer has probability 0"
    return f"{d.value:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]"


def questions_needed(d: Difference) -> str:
    """How many questions would settle an undecided difference, where that is known."""
    return "" if d.n_needed is None else f"; about {rounded(d.n_needed)} questions would settle it"
