"""The curve of preference collapse: how far alignment is expected to push a preference, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from calibrant.diagnosis import expected_sharpening
from calibrant.errors import ConfigError, only_numbers
from calibrant.reporting.canvas import AFTER, BEFORE, FAINT, INK, MUTED, new_axes, style

SHARES = (0.55, 0.6, 0.7, 0.8, 0.9)


def sharpening_plot(
    shares: Sequence[float] = SHARES,
    *,
    points: Sequence[Mapping[str, Any]] = (),
    betas: tuple[float, float] = (0.01, 1.0),
    ax: Axes | None = None,
) -> Axes:
    """Expected over-sharpening against β, with what was measured at each β.

    One line a share p of people who prefer a response: ``sigmoid(logit(p) / β)``, the probability that the optimum of
    KL-regularised alignment gives it where the reference gives both responses the same
    (:func:`calibrant.diagnosis.expected_sharpening`; Bradley-Terry, ours). β falls to the right: to the right lies stronger
    alignment. At β = 1 each line is at its p, where a calibrated model stays; the way up is overconfidence.

    Parameters
    ----------
    shares
        p of each line, in (0, 1).
    points
        What was measured: each with ``beta``, and ``confidence`` (squares) and ``accuracy`` (discs), each a number or
        ``{"value", "low", "high"}``, such as an ``Estimate.to_json()``. The gap between the two is overconfidence.
        On questions of K options the lines show the mechanism, not a prediction of the points.
    betas
        Least and largest β; widened to hold the points.
    ax
        Axes to draw on; ``None``: a figure of its own.

    Raises
    ------
    ConfigError : neither share nor point, a share or β without meaning, or a point without one of its three numbers.

    >>> ax = sharpening_plot([0.6], points=[{"beta": 0.1, "confidence": 0.93, "accuracy": 0.61}])
    >>> x, y = ax.lines[0].get_data()
    >>> round(float(y[abs(x - 0.1).argmin()]), 2)
    0.98
    """
    measured = [_measured(i, point) for i, point in enumerate(points)]
    if not (len(shares) or measured):
        raise ConfigError(asked="a sharpening plot", found="neither share nor point", todo="give one or more")
    for p in shares:
        only_numbers(share=p)
    for end in betas:
        only_numbers(beta=end)
    known = [*betas, *(beta for beta, _, _ in measured)]
    if not (min(known) > 0 and np.isfinite(max(known)) and all(0 < p < 1 for p in shares)):
        raise ConfigError(
            asked=f"a sharpening plot over shares {list(shares)}",
            found=f"β from {min(known):g} to {max(known):g}",
            todo="give shares in (0, 1) and β above 0",
        )
    with style():
        ax = new_axes(4.8, 3.9) if ax is None else ax
        beta = np.geomspace(max(known), min(known), 400)
        for p in shares:
            line = expected_sharpening(p, beta)
            ax.plot(beta, line, color=MUTED, linewidth=1.2, zorder=1)
            near = int(np.argmin(np.abs(line - (p + 0.45 * (np.round(p) - p)))))  # part of the way up, or down
            ax.annotate(
                f"p = {p:.0%}",
                (beta[near], line[near]),
                ha="center",
                va="center",
                fontsize=7.5,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                zorder=2,
            )
        _draw_measured(ax, measured, 1, "accuracy", AFTER, "o")
        _draw_measured(ax, measured, 0, "mean confidence", BEFORE, "s")
        ax.set_xscale("log")
        ax.set(
            xlim=(beta[0] * 1.1, beta[-1] / 1.1),
            xlabel="β of the alignment (to the right: weaker pull to the reference)",
        )
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("Probability of the preferred response" if not measured else "Probability, share")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_ylim(top=1.02)
        ax.grid(color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)
        if measured:
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.6)
    return ax


Ends = tuple[float, float, float]


def _measured(place: int, point: Mapping[str, Any]) -> tuple[float, Ends, Ends]:
    """β, confidence and accuracy of a point, each of the two with its ends."""
    found = []
    for name in ("beta", "confidence", "accuracy"):
        value = point.get(name)
        part = value if isinstance(value, Mapping) else {"value": value}
        middle = part.get("value")
        if not isinstance(middle, int | float) or not np.isfinite(middle):
            raise ConfigError(
                asked="measured points with beta, confidence and accuracy",
                found=f"point {place}: {name} {value!r}",
                todo="give three numbers, or estimates with value, low and high",
            )
        ends = [float(end) if isinstance(end, int | float) else middle for end in (part.get("low"), part.get("high"))]
        found.append((float(middle), ends[0], ends[1]))
    return found[0][0], found[1], found[2]


def _draw_measured(
    ax: Axes, measured: Sequence[tuple[float, Ends, Ends]], which: int, label: str, colour: str, marker: str
) -> None:
    if not measured:
        return
    ordered = sorted(measured, key=lambda point: -point[0])
    beta = np.array([point[0] for point in ordered])
    value, low, high = np.array([point[1 + which] for point in ordered]).T
    ax.errorbar(
        beta,
        value,
        yerr=np.maximum([value - low, high - value], 0),
        fmt=f"{marker}-",
        color=colour,
        markersize=5.5,
        markerfacecolor="white" if marker == "s" else colour,
        markeredgewidth=1.4,
        linewidth=1.2,
        capsize=2.5,
        zorder=3,
        clip_on=False,
        label=label,
    )
