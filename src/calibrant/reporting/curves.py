"""The regime map, the error plot of domains or slices, and risk against coverage. Each draws on ``ax`` and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics import Estimate, Slice, risk_coverage
from calibrant.metrics.measurement import only_scores
from calibrant.reporting.canvas import (
    AFTER,
    BAND,
    BEFORE,
    FAINT,
    FORBIDDEN,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    new_axes,
    style,
)
from calibrant.scores import Scores

Path = Sequence[Mapping[str, Any]]


def regime_map(
    points: Path | Mapping[str, Path | Sequence[Path]],
    *,
    target_accuracy: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The path of a model over the accuracy-ECE plane, or several by name, e.g. one an objective.

    One path goes from its first point (square) to its last (disc). Of several, each name has a colour and a marker,
    hollow at the start and filled at the end; a name with several paths (one a seed) draws them all alike. Grey band:
    errors that a calibrated model shows by chance, up to the mean of the points' floors. Dotted: ``ECE = 1 - accuracy``,
    all confidences at 1. With ``target_accuracy`` A*: the bound ``|A - A*|`` below which a model that matches the target
    cannot lie, shaded.

    Parameters
    ----------
    points
        In order of time, each with ``accuracy`` and ``conf_ece``, and where known ``floor_p95`` and ``epoch`` (the
        label of a single path's points, unless ``label`` is given). Or by name, up to six, such paths or lists of such
        paths.
    target_accuracy
        The critical accuracy A*, ``None`` where unknown.
    ax
        Axes to draw on; ``None``: a figure of its own.

    Raises
    ------
    ConfigError : no point, a point without its two numbers, or more than six names.

    >>> path = [{"accuracy": 0.62, "conf_ece": 0.20}, {"accuracy": 0.64, "conf_ece": 0.05, "floor_p95": 0.06}]
    >>> regime_map(path, target_accuracy=0.66).get_xlabel()
    'Accuracy'
    >>> several = regime_map({"CFT": [path, path], "RCFT": path})
    >>> [text.get_text() for text in several.get_legend().get_texts()]
    ['reach of chance (95%)', 'CFT', 'RCFT']
    """
    only_numbers(target_accuracy=target_accuracy)
    named = _named_paths(points)
    every = [point for paths in named.values() for path in paths for point in path]
    a = np.array([float(point["accuracy"]) for point in every])
    e = np.array([float(point["conf_ece"]) for point in every])
    floors = [float(point["floor_p95"]) for point in every if point.get("floor_p95") is not None]
    with style():
        ax = new_axes(4.8, 3.9) if ax is None else ax
        left, right, top = _map_limits(a, e, target_accuracy, max(floors, default=0.0))
        x = np.linspace(left, right, 200)
        if floors:
            ax.axhspan(
                0, float(np.mean(floors)), color=BAND, alpha=0.6, linewidth=0, zorder=0.4, label="reach of chance (95%)"
            )
        if 1 - right < top:
            ax.plot(x, 1 - x, color=MUTED, linestyle=":", linewidth=1.2, label="always certain: 1 − A")
        if target_accuracy is not None:
            bound = np.abs(x - target_accuracy)
            ax.fill_between(x, 0, bound, color=FORBIDDEN, alpha=0.75, linewidth=0, zorder=0.5)
            ax.plot(x, bound, color=INK, linewidth=1.2, label=f"|A − A*|, A* = {target_accuracy:.1%}")
        if isinstance(points, Mapping):
            for (name, paths), colour, marker in zip(named.items(), SERIES, MARKERS, strict=False):
                _draw_series(ax, name, paths, colour, marker)
        else:
            _draw_path(ax, a, e)
            _label_path(ax, points, a, e)
        ax.set(xlim=(left, right), ylim=(0, top), xlabel="Accuracy", ylabel="Calibration error (conf-ECE)")
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if ax.get_legend_handles_labels()[0]:
            columns = 2 if isinstance(points, Mapping) else 3
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, handlelength=1.6, columnspacing=1.4)
    return ax


def _named_paths(points: Path | Mapping[str, Path | Sequence[Path]]) -> dict[str, list[Path]]:
    """Each name with its paths; a single path under no name."""
    given: Mapping[str, Any] = points if isinstance(points, Mapping) else {"": points}
    named = {
        name: [paths] if all(isinstance(part, Mapping) for part in paths) else list(paths)
        for name, paths in given.items()
    }
    if len(named) > len(SERIES):
        raise ConfigError(
            asked=f"a regime map of {len(named)} names", found=f"colours for {len(SERIES)}", todo="draw two maps"
        )
    if not named or not all(path for paths in named.values() for path in paths):
        raise ConfigError(asked="a regime map", found="a path without points", todo="give one point or more")
    for name, paths in named.items():
        for i, point in enumerate(point for path in paths for point in path):
            if point.get("accuracy") is None or point.get("conf_ece") is None:
                place = f"point {i} of {name!r}" if name else f"point {i}"
                raise ConfigError(
                    asked="points with accuracy and conf_ece", found=f"{place}: {dict(point)}", todo="give both"
                )
    return named


def error_plot(
    rows: Mapping[str, Sequence[Estimate]] | Sequence[Slice],
    *,
    ax: Axes | None = None,
    labels: Sequence[str] = ("before", "after"),
    xlabel: str = "Calibration error (conf-ECE)",
) -> Axes:
    r"""One row a domain or slice: each calibration error with its interval, and the floor that chance alone reaches.

    Parameters
    ----------
    rows
        By name, one estimate a row or two (before and after); or the slices of :func:`calibrant.metrics.slices`.
    ax, labels, xlabel
        Axes to draw on, names of the series, and of the number.

    Raises
    ------
    ConfigError : no row, or rows with other than one or two estimates, or unequal.

    >>> row = [Estimate(0.18, 0.15, 0.21, 400, 0.03, 0.05, ""), Estimate(0.05, 0.02, 0.08, 400, 0.03, 0.06, "")]
    >>> [tick.get_text() for tick in error_plot({"history": row}).get_yticklabels()]
    ['history\nn = 400']
    """
    if not isinstance(rows, Mapping):
        rows = {part.name: [part.conf_ece] for part in rows}
    counts = {len(row) for row in rows.values()}
    if len(counts) != 1 or not counts <= {1, 2}:
        raise ConfigError(
            asked="rows of one estimate each, or of two", found=f"rows with {sorted(counts)}", todo="give equal rows"
        )
    per_row = counts.pop()
    colours = (AFTER,) if per_row == 1 else (BEFORE, AFTER)
    with style():
        ax = new_axes(4.8, 0.9 + 0.62 * len(rows)) if ax is None else ax
        top = 0.0
        for series, colour in enumerate(colours):
            y = np.arange(len(rows)) + (0.0 if per_row == 1 else 0.32 * series - 0.16)
            estimates = [row[series] for row in rows.values()]
            top = max(top, _draw_estimates(ax, y, estimates, colour, labels[series] if per_row == 2 else ""))
        names = [f"{_wrapped(name)}\nn = {row[0].n:,}" for name, row in rows.items()]
        ax.set_yticks(np.arange(len(rows)), names)
        ax.set(ylim=(len(rows) - 0.45, -0.55), xlim=(0, top * 1.06 + 1e-3), xlabel=xlabel)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handlelength=1.4, columnspacing=1.4)
    return ax


def risk_coverage_plot(scores: Scores | Mapping[str, Scores], *, ax: Axes | None = None, level: float = 0.95) -> Axes:
    """Error rate of the answered questions against the share answered, when the least confident ones are left unanswered.

    The line is :func:`calibrant.metrics.risk_coverage`, the band its pointwise interval; the dotted level is the error
    rate of answering everything. A line that falls to the left says that confidence tells right from wrong.

    Parameters
    ----------
    scores
        One set of scores, or up to two by name (drawn in the colours of before and after).
    ax, level
        Axes to draw on, and of the interval.

    Raises
    ------
    ConfigError : no scores, or more than two.

    >>> risk_coverage_plot(Scores.from_probs([[0.9, 0.1]] * 9 + [[0.6, 0.4]] * 9, [0] * 12 + [1] * 6)).get_ylabel()
    'Error rate among the answered'
    """
    named = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    only_scores("risk-coverage curves", *named.values())
    if not 1 <= len(named) <= 2:
        raise ConfigError(asked="one or two risk-coverage curves", found=f"{len(named)}", todo="draw two at a time")
    with style():
        ax, top = new_axes(4.8, 3.9) if ax is None else ax, 0.0
        for colour, (name, one) in zip((AFTER,) if len(named) == 1 else (BEFORE, AFTER), named.items(), strict=True):
            curve = risk_coverage(one.confidence_N, one.correct_N, level)
            ax.fill_between(
                curve.coverage_G, curve.low_G, curve.high_G, step="pre", color=colour, alpha=0.15, linewidth=0
            )
            dashed = (0, (4, 2)) if colour == BEFORE else "-"
            ax.step(curve.coverage_G, curve.risk_G, where="pre", color=colour, linestyle=dashed, label=name or None)
            ax.axhline(curve.risk_G[-1], color=colour, linestyle=":", linewidth=1)
            top = max(top, float(curve.high_G[curve.coverage_G > 0.05].max()))
        ax.set(xlim=(0, 1), ylim=(0, min(1.0, 1.1 * top)), xlabel="Share of questions answered, most confident first")
        ax.set_ylabel("Error rate among the answered")
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.grid(color=FAINT, linewidth=0.5)
        if len(named) > 1:
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)
    return ax


def _wrapped(name: str) -> str:
    """A label of at most three lines of 22 characters."""
    lines = [part for line in name.splitlines() for part in wrap(line, 22)]
    return "\n".join(lines if len(lines) <= 3 else [*lines[:2], lines[2][:21] + "…"])


def _draw_estimates(ax: Axes, y: np.ndarray, estimates: Sequence[Estimate], colour: str, label: str) -> float:
    value = np.array([e.value for e in estimates])
    low = np.array([e.low for e in estimates])
    high = np.array([e.high for e in estimates])
    floor = np.array([np.nan if e.floor_p95 is None else e.floor_p95 for e in estimates])
    name = "reach of chance (95%)" if not label or colour == AFTER else None
    ax.barh(y, floor, 0.26 if label else 0.5, color=BAND, alpha=0.8, linewidth=0, label=name)
    arms = np.nan_to_num(np.maximum(np.stack([value - low, high - value]), 0.0))
    ax.errorbar(
        value,
        y,
        xerr=arms,
        fmt="s" if colour == BEFORE else "o",
        markersize=5.5,
        color=colour,
        markerfacecolor="white" if colour == BEFORE else colour,
        markeredgewidth=1.4,
        elinewidth=1.4,
        capsize=2.5,
        zorder=3,
        clip_on=False,
        label=label or "value, interval",
    )
    return float(np.nanmax(np.concatenate([value, high, floor])))


def _draw_path(ax: Axes, a: np.ndarray, e: np.ndarray) -> None:
    for (a0, e0), (a1, e1) in pairwise(zip(a, e, strict=True)):
        arrow = {"arrowstyle": "->", "color": MUTED, "linewidth": 1.1, "shrinkA": 4, "shrinkB": 4}
        ax.annotate("", xy=(a1, e1), xytext=(a0, e0), arrowprops=arrow, zorder=2)
    ax.plot(a[1:-1], e[1:-1], "o", color=AFTER, markersize=4.5, markerfacecolor="white", zorder=3)
    if len(a) > 1:
        ax.plot(a[-1:], e[-1:], "o", color=AFTER, markersize=7, zorder=3, clip_on=False)
    ax.plot(a[:1], e[:1], "s", color=BEFORE, markersize=6.5, markerfacecolor="white", markeredgewidth=1.6, zorder=3)


def _draw_series(ax: Axes, name: str, paths: Sequence[Path], colour: str, marker: str) -> None:
    for i, path in enumerate(paths):
        a, e = (np.array([float(point[key]) for point in path]) for key in ("accuracy", "conf_ece"))
        ax.plot(a, e, "-", color=colour, linewidth=1.1, alpha=0.55, zorder=2)
        ax.plot(a[:1], e[:1], marker, color=colour, markersize=6, markerfacecolor="white", zorder=3, clip_on=False)
        ax.plot(a[1:-1], e[1:-1], marker, color=colour, markersize=2.5, alpha=0.7, zorder=3)
        label = name if i == 0 else None
        last = slice(-1, None) if len(a) > 1 else slice(0, 0)
        ax.plot(a[last], e[last], marker, color=colour, markersize=6, zorder=3, clip_on=False, label=label)


def _label_path(ax: Axes, points: Sequence[Mapping[str, Any]], a: np.ndarray, e: np.ndarray) -> None:
    every = -(-len(points) // 6)
    for i, point in enumerate(points):
        text = point.get("label")
        if text is None and point.get("epoch") is not None:
            text = f"epoch {float(point['epoch']):g}"
        if text is not None and (i % every == 0 or i == len(points) - 1 or "label" in point):
            place = (7, 4 if i % 2 == 0 else -11)
            ax.annotate(str(text), (a[i], e[i]), xytext=place, textcoords="offset points", fontsize=8, zorder=4)


def _map_limits(a: np.ndarray, e: np.ndarray, target: float | None, floor: float) -> tuple[float, float, float]:
    accuracies = np.append(a, a if target is None else target)
    spread = max(0.1, float(np.ptp(accuracies)))
    left = max(0.0, float(accuracies.min()) - 0.3 * spread)
    right = min(1.0, float(accuracies.max()) + 0.3 * spread)
    return left, right, max(float(e.max()), floor) * 1.25 + 0.02
