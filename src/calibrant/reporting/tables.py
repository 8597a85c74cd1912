"""Numbers as text, and the table of a domain: shared by page, Markdown and model card, so they cannot disagree."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from calibrant.metrics import Difference, Estimate
from calibrant.metrics.measurement import DISTINGUISHABLE
from calibrant.metrics.text import rounded
from calibrant.reporting.results import Assessed


@dataclass(frozen=True)
class Metric:
    """How one number is named, written and defined; ``percent`` numbers are shown times 100, signed ones in points."""

    key: str
    name: str
    formula: str
    meaning: str
    percent: bool = False
    signed: bool = False


METRICS = (
    Metric("accuracy", "Accuracy", "(1/N) Σᵢ 1[ŷᵢ = yᵢ]", "share of questions answered right", True),
    Metric("mean_confidence", "Mean confidence", "(1/N) Σᵢ cᵢ", "how sure the model said it was, on average", True),
    Metric(
        "signed_gap",
        "Confidence − accuracy",
        "(1/N) Σᵢ (cᵢ − 1[ŷᵢ = yᵢ])",
        "above 0 overconfident, below 0 underconfident",
        True,
        True,
    ),
    Metric(
        "conf_ece",
        "Calibration error (conf-ECE)",
        "Σₘ (nₘ/N)·|accₘ − confₘ|, bins [m/M, (m+1)/M), the last closed",
        "average distance between how sure and how right, over ranges of confidence; lower is better",
    ),
    Metric(
        "cw_ece",
        "Class-wise error (cw-ECE)",
        "(1/K) Σₖ Σₘ (nₖₘ/Nₖ)·|freq(y = k | bin) − mean pₖ|",
        "the same for the probability of every option, not only the chosen one; lower is better",
    ),
    Metric("nll", "Log loss (NLL)", "−(1/N) Σᵢ ln pᵢ(yᵢ)", "punishes confident mistakes hardest; lower is better"),
    Metric(
        "brier",
        "Brier score",
        "(1/N) Σᵢ Σₖ (pᵢₖ − 1[yᵢ = k])²",
        "calibration and sharpness in one number; lower is better",
    ),
    Metric(
        "option_mass",
        "Option mass",
        "(1/N) Σᵢ (probability of all options together)",
        "how much of its probability the model spent on the options at all",
        True,
    ),
)
CHANGE_WORDS = {
    "b is better": "better",
    "a is better": "worse",
    "b is higher": "higher",
    "b is lower": "lower",
    "undecided": "no detectable change",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table: its text, its interval, floor and verdict in words, and its place in the JSON."""

    value: str
    interval: str = ""
    floor: str = ""
    verdict: str = ""
    path: str = ""


@dataclass(frozen=True)
class Row:
    """One metric of a domain; ``after`` and ``change`` are ``None`` where there are none."""

    metric: Metric
    before: Cell
    after: Cell | None
    change: Cell | None


def rows(assessed: Assessed, index: int) -> list[Row]:
    """The table of one domain, the ``index``-th of the report: every metric that was measured."""
    out = []
    for metric in METRICS:
        if metric.key not in assessed.before.estimates:
            continue
        before = estimate_cell(assessed.before[metric.key], metric, f"domains.{index}.before.{metric.key}.value")
        after = change = None
        if assessed.after is not None and metric.key in assessed.after.estimates:
            after = estimate_cell(assessed.after[metric.key], metric, f"domains.{index}.after.{metric.key}.value")
        if assessed.change is not None and metric.key in assessed.change.differences:
            difference = assessed.change[metric.key]
            change = difference_cell(difference, metric, f"domains.{index}.change.{metric.key}.value")
        out.append(Row(metric, before, after, change))
    return out


def estimate_cell(e: Estimate, metric: Metric, path: str = "") -> Cell:
    """An estimate in words: value, ``low to high``; where it has a floor, what chance gives and whether it is above."""
    floor = verdict = ""
    if e.floor_mean is not None and e.floor_p95 is not None:
        floor = f"chance {number(e.floor_mean, metric)}, up to {number(e.floor_p95, metric)}"
        verdict = "above chance" if e.verdict == DISTINGUISHABLE else "within chance"
    return Cell(number(e.value, metric), span(e.low, e.high, metric), floor, verdict, path)


def difference_cell(d: Difference, metric: Metric, path: str = "") -> Cell:
    """A change in words, always with its sign; where it is undecided, how many questions would settle it."""
    if not math.isfinite(d.value):
        before, after = (math.isfinite(side) for side in (d.a, d.b))
        return Cell(
            "", "", "", "became infinite" if before else "no longer infinite" if after else "not comparable", path
        )
    interval = span(d.low, d.high, metric, sign=True)
    needed = "" if d.n_needed is None else f"about {rounded(d.n_needed)} questions would settle it"
    return Cell(number(d.value, metric, sign=True), interval, needed, CHANGE_WORDS[d.verdict], path)


def number(value: float | None, metric: Metric, *, sign: bool = False) -> str:
    """``57.0%`` or ``0.154``, signed ``−2.1 pts`` or ``−0.021``; ``unknown`` where there is no finite number.

    >>> number(-0.021, METRICS[0], sign=True), number(0.1539, METRICS[3])
    ('−2.1 pts', '0.154')
    """
    if value is None or not math.isfinite(value):
        return "infinite" if value is not None and math.isinf(value) else "unknown"
    sign = sign or metric.signed
    plus = "+" if sign else ""
    text = f"{value * 100:{plus}.1f}{' pts' if sign else '%'}" if metric.percent else f"{value:{plus}.3f}"
    return text.replace("-", "−")


def span(low: float, high: float, metric: Metric, *, sign: bool = False) -> str:
    """``low to high``, or nothing where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, metric, sign=sign).removesuffix(' pts')} to {number(high, metric, sign=sign)}"


def markdown(text: str) -> str:
    r"""Text that cannot break a Markdown table or become markup.

    >>> print(markdown("a|b <i> [c] *d*"))
    a\|b &lt;i> \[c\] \*d\*
    """
    return re.sub(r"([\\|\[\]*])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def markdown_number(cell: Cell | None) -> str:
    """A cell of a Markdown table."""
    if cell is None:
        return ""
    interval = f" ({cell.interval})" if cell.interval else ""
    value = f"**{cell.value}**{interval}" if cell.value else ""
    return "; ".join(part for part in (value, cell.floor, cell.verdict) if part)
