"""Reliability diagrams. Shape suffix: M bins. Each function draws on ``ax`` and returns it; global style is left alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import binom

from calibrant.metrics import BinTable, bin_table
from calibrant.metrics.bins import check_level
from calibrant.metrics.measurement import only_scores
from calibrant.metrics.smooth import reliability_curve
from calibrant.reporting.canvas import AFTER, BAND, BEFORE, FAINT, INK, MUTED, new_axes, style
from calibrant.scores import Scores

MARKERS = {BEFORE: "s", AFTER: "o"}
THIN = 10


def consistency_band(table: BinTable, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Where the accuracy of each bin would fall if its mean confidence were true: (M,), (M,); ``nan`` where empty.

    Quantiles of ``Binomial(n_m, conf_m) / n_m``. Confidences differ inside a bin, which makes the exact band narrower
    by at most 3% of its width (ten bins): the one drawn is on the safe side. Idea: Bröcker & Smith (2007); the
    closed form is ours.

    >>> low, high = consistency_band(bin_table([0.75] * 100, [1] * 100))
    >>> low[7], high[7]
    (np.float64(0.66), np.float64(0.83))
    """
    check_level(level)
    some_M = table.count_M > 0
    low_M, high_M = np.full(len(some_M), np.nan), np.full(len(some_M), np.nan)
    n, c = table.count_M[some_M], np.clip(table.mean_confidence_M[some_M], 0.0, 1.0)
    low_M[some_M] = binom.ppf((1 - level) / 2, n, c) / n
    high_M[some_M] = binom.ppf((1 + level) / 2, n, c) / n
    return low_M, high_M


def reliability_diagram(
    scores: Scores | BinTable,
    *,
    ax: Axes | None = None,
    n_bins: int = 10,
    title: str = "",
    colour: str = AFTER,
    legend: bool = True,
) -> Axes:
    """Accuracy against confidence, bin by bin: points on the diagonal are calibrated, points below it overconfident.

    Bars are Clopper-Pearson 95% intervals of each bin's accuracy, grey boxes the :func:`consistency_band`. The strip
    below counts the questions in each bin and marks mean confidence (dashed) and accuracy (solid). Bins of fewer than
    ten questions are drawn faintly: they say little.

    Parameters
    ----------
    scores
        Scores, or the table that :func:`calibrant.metrics.bin_table` made (then ``n_bins`` is the table's).
    ax
        Axes to draw on; their figure gets a second axes below them. ``None``: a figure of its own.
    n_bins
        M equal-width bins.
    title, colour, legend
        How it looks.

    >>> ax = reliability_diagram(Scores.from_probs([[0.9, 0.1]] * 50, [0] * 30 + [1] * 20))
    >>> ax.get_ylabel()
    'Accuracy in the bin'
    """
    if not isinstance(scores, BinTable):
        only_scores("a diagram", scores)
    table = scores if isinstance(scores, BinTable) else bin_table(scores.confidence_N, scores.correct_N, n_bins)
    with style():
        ax = new_axes() if ax is None else ax
        strip = ax.inset_axes((0, -0.25, 1, 0.2))
        _draw_band(ax, table)
        _draw_points(ax, table, colour)
        _draw_counts(strip, table, colour)
        _frame(ax, title)
        ax.tick_params(labelbottom=False)
        if legend:
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, handlelength=1.4, columnspacing=1.4)
            ax.set_title(title, pad=22)
    return ax


def before_after(before: Scores, after: Scores, *, axes: tuple[Axes, Axes] | None = None, n_bins: int = 10) -> Axes:
    """Two reliability diagrams side by side on the same scales; returns the left one (``.figure`` holds both).

    >>> s = Scores.from_probs([[0.9, 0.1]] * 50, [0] * 30 + [1] * 20)
    >>> len(before_after(s, s).figure.axes)
    2
    """
    left: Axes
    with style():
        if axes is None:
            left, right = Figure(figsize=(8.4, 5.4), layout="constrained").subplots(1, 2, sharex=True, sharey=True)
        else:
            left, right = axes
    reliability_diagram(before, ax=left, n_bins=n_bins, title="Before", colour=BEFORE)
    reliability_diagram(after, ax=right, n_bins=n_bins, title="After", colour=AFTER)
    right.set_ylabel("")
    return left


def smooth_reliability(scores: Scores, *, ax: Axes | None = None, title: str = "", colour: str = AFTER) -> Axes:
    """The reliability curve without bins: accuracy smoothed along confidence, with the density of confidences below.

    The bandwidth is that of the smooth calibration error (Blasiok & Nakkiran, ICLR 2024): the grey distance between
    curve and diagonal, weighed by density, is that error. The curve is drawn where 99% of the smoothed density lies.

    >>> ax = smooth_reliability(Scores.from_probs([[0.9, 0.1]] * 50, [0] * 30 + [1] * 20))
    >>> ax.get_ylabel()
    'Accuracy, smoothed'
    """
    only_scores("a diagram", scores)
    t, accuracy, density = (curve_G[::5] for curve_G in reliability_curve(scores.confidence_N, scores.correct_N))
    total = np.cumsum(density) / density.sum()
    shown = (total > 0.005) & (total < 0.995)
    with style():
        ax = new_axes() if ax is None else ax
        strip = ax.inset_axes((0, -0.25, 1, 0.2))
        ax.fill_between(t[shown], t[shown], accuracy[shown], color=BAND, linewidth=0)
        ax.plot(t[shown], accuracy[shown], color=colour, linewidth=1.8)
        strip.fill_between(t, density, color=colour, alpha=0.35, linewidth=0)
        _frame(ax, title)
        ax.set_ylabel("Accuracy, smoothed")
        ax.tick_params(labelbottom=False)
        _strip_frame(strip, "Density")
        strip.set_ylim(0, None)
    return ax


def _draw_band(ax: Axes, table: BinTable) -> None:
    low_M, high_M = consistency_band(table)
    left_M, width_M = table.edges[:-1], np.diff(table.edges)
    some_M = table.count_M > 0
    ax.bar(
        left_M[some_M],
        (high_M - low_M)[some_M],
        width_M[some_M],
        bottom=low_M[some_M],
        align="edge",
        color=BAND,
        alpha=0.7,
        linewidth=0,
        label="a calibrated model, 95%",
    )


def _draw_points(ax: Axes, table: BinTable, colour: str) -> None:
    """Solid where a bin has ``THIN`` questions or more, faint where it has fewer and says little."""
    for rows_M, faint in ((table.count_M >= THIN, False), ((table.count_M > 0) & (table.count_M < THIN), True)):
        if not rows_M.any():
            continue  # nothing drawn has no extent, and the layout would collapse
        accuracy_M = table.accuracy_M[rows_M]
        arms_2M = np.stack([accuracy_M - table.low_M[rows_M], table.high_M[rows_M] - accuracy_M])
        ax.errorbar(
            table.mean_confidence_M[rows_M],
            accuracy_M,
            yerr=np.maximum(arms_2M, 0.0),
            fmt=MARKERS.get(colour, "o"),
            markersize=5,
            color=colour,
            markerfacecolor="white" if colour == BEFORE else colour,
            markeredgewidth=1.4,
            elinewidth=1.1,
            capsize=2.5,
            alpha=0.4 if faint else 1.0,
            zorder=3,
            clip_on=False,
            label=None if faint else "this model, 95% interval",
        )


def _draw_counts(strip: Axes, table: BinTable, colour: str) -> None:
    count_M, some_M = table.count_M, table.count_M > 0
    n = int(count_M.sum())
    strip.bar(table.edges[:-1], count_M, np.diff(table.edges), align="edge", color=FAINT, edgecolor="white")
    confidence = float((count_M * np.where(some_M, table.mean_confidence_M, 0.0)).sum() / n)
    accuracy = float((count_M * np.where(some_M, table.accuracy_M, 0.0)).sum() / n)
    strip.axvline(confidence, color=colour, linestyle=(0, (3, 2)), linewidth=1.4)
    strip.axvline(accuracy, color=INK, linewidth=1.4)
    _strip_frame(strip, "Questions")
    strip.set_ylim(0, max(1, int(count_M.max())) * 1.08)
    strip.set_xlabel(f"Confidence\nmean {confidence:.1%} (dashed), right {accuracy:.1%} (solid), n = {n:,}")


def _frame(ax: Axes, title: str) -> None:
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="Accuracy in the bin")
    ax.set_title(title)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(color=FAINT, linewidth=0.5)
    ax.set_axisbelow(True)


def _strip_frame(strip: Axes, label: str) -> None:
    strip.set_xlim(0, 1)
    strip.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    strip.set_ylabel(label)
    strip.yaxis.set_major_locator(MaxNLocator(nbins=2))
    strip.set_xlabel("Confidence")
