"""Pictures of several fixes side by side: accuracy against calibration error, and each metric with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from calibrant.errors import ConfigError
from calibrant.metrics import Estimate
from calibrant.metrics.measurement import INDISTINGUISHABLE
from calibrant.reporting.canvas import AFTER, BAND, BEFORE, FAINT, INK, MUTED, figure_of, new_axes, style

LOOKS = {
    "none": (BEFORE, "s", "no fix"),
    "post-hoc": ("#009E73", "^", "post-hoc map"),
    "weights": ("#CC79A7", "D", "mixed weights"),
    "tuning": (AFTER, "o", "tuned"),
}
"""Colour, marker and name of each family of fixes."""


@dataclass(frozen=True)
class Contender:
    """A fix on one set of questions, as a picture shows it: its family, estimates by metric, and values run by run."""

    name: str
    family: str
    estimates: Mapping[str, Estimate]
    runs: Mapping[str, Sequence[float]]


def accuracy_error_plot(contenders: Sequence[Contender], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Accuracy against conf-ECE, a point a fix with both intervals; the grey band is what chance gives a calibrated model.

    A hollow point cannot be told from calibrated. The band reaches to the mean of the fixes' floors (95th percentile);
    each one's own floor decides. Lower and further right is better.

    Raises
    ------
    ConfigError : no contender.

    >>> e = {"accuracy": Estimate(0.6, 0.5, 0.7, 99), "conf_ece": Estimate(0.2, 0.1, 0.3, 99, 0.03, 0.05, "")}
    >>> accuracy_error_plot([Contender("aligned", "none", e, {})]).get_xlabel()
    'Accuracy'
    """
    if not contenders:
        raise ConfigError(asked="a picture of fixes", found="no fix with scores", todo="run at least one")
    with style():
        ax = new_axes(7.2, max(3.9, 0.9 + 0.2 * len(contenders))) if ax is None else ax
        floors = [p95 for c in contenders if (p95 := c.estimates["conf_ece"].floor_p95) is not None]
        if floors:
            ax.axhspan(0, float(np.mean(floors)), color=BAND, alpha=0.6, linewidth=0, label="reach of chance (95%)")
        for family, (colour, marker, label) in LOOKS.items():
            some = [c for c in contenders if c.family == family]
            for i, contender in enumerate(some):
                _point(ax, contender, colour, marker, label if i == 0 else None)
        ax.margins(x=0.08)
        top = max(e.high if np.isfinite(e.high) else e.value for c in contenders if (e := c.estimates["conf_ece"]))
        ax.set_ylim(0, max(top, *floors, 0.01) * 1.05 if floors else top * 1.05 + 0.01)
        _names_beside(ax, contenders)
        ax.set(xlabel="Accuracy", ylabel="Calibration error (conf-ECE)")
        if title:
            ax.set_title(title, pad=24)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5, handlelength=1.2, columnspacing=1.2)
    return ax


def metric_plot(
    sets: Mapping[str, Sequence[Contender]], metric: str, *, label: str, lower_is_better: bool, percent: bool = False
) -> Figure:
    """One metric: a panel a set of questions, a row a fix, best of the first set on top; small ticks are single seeds.

    Grey bars, where the metric has a floor: what chance alone gives a calibrated model (95th percentile).

    Raises
    ------
    ConfigError : no set.
    """
    if not sets:
        raise ConfigError(asked="a picture of a metric", found="no set of questions", todo="give one or more")
    order = _order(next(iter(sets.values())), metric, lower_is_better)
    order += [c.name for some in sets.values() for c in some if c.name not in order]
    names = list(dict.fromkeys(order))
    with style():
        width, height = 1.7 + 2.3 * len(sets), 1.0 + 0.26 * len(names)
        axes = Figure(figsize=(width, height), layout="constrained").subplots(1, len(sets), sharey=True, squeeze=False)[
            0
        ]
        for ax, (title, contenders) in zip(axes, sets.items(), strict=True):
            for contender in contenders:
                _bar(ax, names.index(contender.name), contender, metric)
            ax.set_title(title, fontsize=9)
            ax.grid(axis="x", color=FAINT, linewidth=0.5)
            ax.set_axisbelow(True)
            ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
            if percent:
                ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        figure = figure_of(axes[0])
        figure.supxlabel(f"{label} ({'lower' if lower_is_better else 'higher'} is better)", fontsize=9)
    return figure


def _order(contenders: Sequence[Contender], metric: str, lower_is_better: bool) -> list[str]:
    sign = 1.0 if lower_is_better else -1.0
    known = [c for c in contenders if not np.isnan(c.estimates[metric].value)]
    return [c.name for c in sorted(known, key=lambda c: sign * c.estimates[metric].value)]


def _point(ax: Axes, contender: Contender, colour: str, marker: str, label: str | None) -> None:
    a, e = contender.estimates["accuracy"], contender.estimates["conf_ece"]
    ax.errorbar(
        a.value,
        e.value,
        xerr=_arms(a),
        yerr=_arms(e),
        fmt=marker,
        markersize=6,
        color=colour,
        markerfacecolor="white" if e.verdict == INDISTINGUISHABLE else colour,
        markeredgewidth=1.4,
        ecolor=to_rgba(colour, 0.22),
        elinewidth=0.9,
        label=label,
        zorder=3,
    )


def _names_beside(ax: Axes, contenders: Sequence[Contender]) -> None:
    """Names in a column at the right, in the order of height, each with a thin line to its point: they cannot collide."""
    low, high = ax.get_ylim()
    ordered = sorted(contenders, key=lambda c: c.estimates["conf_ece"].value)
    for i, contender in enumerate(ordered):
        a, e = contender.estimates["accuracy"].value, contender.estimates["conf_ece"].value
        height = (i + 0.5) / len(ordered)
        ax.annotate(
            contender.name,
            xy=(a, e),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
            annotation_clip=False,
        )
    ax.set_ylim(low, high)


def _bar(ax: Axes, row: int, contender: Contender, metric: str) -> None:
    e = contender.estimates[metric]
    if not np.isfinite(e.value):
        return
    colour, marker, _ = LOOKS[contender.family]
    if e.floor_p95 is not None:
        ax.barh(row, e.floor_p95, 0.62, color=BAND, alpha=0.8, linewidth=0)
    runs = np.array(contender.runs.get(metric, ()), dtype=np.float64)
    if len(runs) > 1:
        ax.plot(runs, np.full(len(runs), row), "|", color=colour, markersize=7, markeredgewidth=1, alpha=0.6)
    ax.errorbar(
        e.value,
        row,
        xerr=_arms(e),
        fmt=marker,
        markersize=4.5,
        color=colour,
        markerfacecolor="white" if e.verdict == INDISTINGUISHABLE else colour,
        elinewidth=1.2,
        zorder=3,
    )


def _arms(e: Estimate) -> np.ndarray:
    return np.asarray(np.nan_to_num(np.maximum(np.array([[e.value - e.low], [e.high - e.value]]), 0.0)))
