"""The drawing of ``alignment.py``: what became of calibration, of confidence and of a pair, against β."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibrant.files import write_atomically
from calibrant.reporting.canvas import AFTER, BAND, BEFORE, INK, MUTED, style, svg_text

TITLES = {"sft": "SFT", "control": "SFT\nlonger", "cft": "CFT"}


def draw(seeds: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the first seed with its intervals, and further seeds as crosses."""
    names = list(seeds[0]["models"])
    betas = sorted((name for name in names if name.startswith("dpo-")), key=_beta, reverse=True)
    order = ["sft", "control", *betas, "cft"]
    labels = [TITLES.get(name) or f"{_beta(name):g}" for name in order]
    with style():
        errors, certainty, pairs = Figure(figsize=(11.5, 3.6), layout="constrained").subplots(
            1, 3, width_ratios=[1.15, 1.15, 1]
        )
        _errors(errors, seeds, order)
        _certainty(certainty, seeds, order)
        for ax in (errors, certainty):
            ax.set_xticks(range(len(order)), labels)
            ax.set_xlabel("DPO at β …")
        _pairs(pairs, seeds, betas)
        for ax in (errors, certainty, pairs):
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.6, columnspacing=1.2)
        write_atomically(path, svg_text(errors.get_figure()))


def _errors(ax: Axes, seeds: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
    models = seeds[0]["models"]
    ece = [models[name]["conf_ece"] for name in order]
    x = range(len(order))
    floor = [e["floor_p95"] for e in ece]
    ax.bar(x, floor, 0.7, color=BAND, alpha=0.8, linewidth=0, label="reach of chance (95%)")
    arms = [[max(0.0, e["value"] - e["low"]) for e in ece], [max(0.0, e["high"] - e["value"]) for e in ece]]
    ax.errorbar(
        x,
        [e["value"] for e in ece],
        yerr=arms,
        fmt="o",
        color=AFTER,
        capsize=2.5,
        markersize=5.5,
        label="conf-ECE, 95% interval",
    )
    _others(ax, seeds, order, lambda model: model["conf_ece"]["value"])
    ax.set(ylim=(0, None), ylabel="Calibration error (conf-ECE)")


def _certainty(ax: Axes, seeds: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
    models = seeds[0]["models"]
    x = range(len(order))
    for name, label, colour, mark in (
        ("mean_confidence", "mean confidence", BEFORE, "s"),
        ("accuracy", "accuracy", AFTER, "o"),
    ):
        ax.plot(x, [models[m][name]["value"] for m in order], mark, color=colour, markersize=5.5, label=label)
        _others(ax, seeds, order, lambda model, name=name: model[name]["value"])
    ax.set(ylim=(None, 1.0), ylabel="Share of questions / probability")


def _pairs(ax: Axes, seeds: Sequence[dict[str, Any]], betas: Sequence[str]) -> None:
    models = seeds[0]["models"]
    x = range(len(betas))
    trained, held_out = ([models[name][which] for name in betas] for which in ("pairs_trained_on", "pairs_held_out"))
    ax.plot(x, [p["expected_push"] for p in trained], "-", color=INK, label="optimum, logit(p) / β")
    ax.plot(x, [p["push_to_right"] for p in trained], "s", color=BEFORE, label="pairs trained on")
    ax.plot(x, [p["push_to_right"] for p in held_out], "o", color=AFTER, label="new pairs")
    ax.set_xticks(x, [f"{_beta(name):g}" for name in betas])
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="β", ylabel="Push of right over wrong, nats")


def _others(ax: Axes, seeds: Sequence[dict[str, Any]], order: Sequence[str], value: Any) -> None:
    for seed in seeds[1:]:
        at = [(i, value(seed["models"][name])) for i, name in enumerate(order) if name in seed["models"]]
        ax.plot([i + 0.18 for i, _ in at], [v for _, v in at], "x", color=MUTED, markersize=5)


def _beta(name: str) -> float:
    return float(name.removeprefix("dpo-"))
