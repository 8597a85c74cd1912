"""The two regimes on real tuning runs: L_SFT1 (cft), L_SFT2 (sft) and RCFT on the same questions, as paths over accuracy
and calibration error.

    python recipes/regimes.py [--objectives cft sft rcft] [--seeds 0 1 2] [--out runs/regimes]

Each cell (objective, seed) is a ``tune`` run with all its epochs kept as points of a path, measured on the calibration
questions after every epoch, and on the test questions at the end. Finished cells are not run again, so cells can be added
one at a time; whatever is finished is written to ``recipes/regimes.json`` and ``.svg``. Needs the extra [demo].
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import peft
import torch
import transformers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibrant import (
    PromptStyle,
    QuestionSet,
    Scores,
    TuneConfig,
    __version__,
    compare,
    diagnose,
    load_model,
    measure,
    score,
    tune,
)
from calibrant.demo import demo_model_path, demo_questions
from calibrant.files import write_atomically, write_json
from calibrant.reporting import regime_map
from calibrant.reporting.canvas import MUTED, style, svg_text
from calibrant.tuning import TuneResult

STYLE = PromptStyle(reading="continuation")
EPOCHS = {"cft": 3, "sft": 6, "rcft": 6}
TITLES = {"cft": "L_SFT1 (cft)", "sft": "L_SFT2 (sft)", "rcft": "RCFT"}
METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll", "brier")
CLUSTER = "entity"


def config_of(objective: str, seed: int, options: argparse.Namespace) -> TuneConfig:
    """One setting for all objectives; a constant rate, so that an epoch means the same in a short run and a long one."""
    return TuneConfig(
        objective=objective,
        epochs=options.epochs or EPOCHS[objective],
        batch_size=options.batch,
        learning_rate=options.learning_rate,
        schedule="constant_with_warmup",
        warmup=0.02,
        keep="last",
        patience=0,
        seed=seed,
    )


def run_cell(objective: str, seed: int, sets: dict[str, QuestionSet], options: argparse.Namespace) -> None:
    """Tune, then score the end of the path on the test questions and on a part of the training ones."""
    folder = options.out / f"{objective}-{seed}"
    say(f"{objective}, seed {seed}")
    result = tune(
        options.model,
        sets["train"],
        sets["calibration"],
        out=folder,
        config=config_of(objective, seed, options),
        style=STYLE,
        device=options.device,
    )
    for point in result.history:
        say(
            "  "
            + ", ".join(
                f"{name} {point[name]:.3f}" for name in ("epoch", "accuracy", "conf_ece", "nll", "mean_confidence")
            )
        )
    say(f"  {result.seconds:.0f} s")
    scored(folder, result.adapter, sets, options, seed)


def scored(
    folder: Path, adapter: Path | None, sets: dict[str, QuestionSet], options: argparse.Namespace, seed: int | None
) -> dict[str, Scores]:
    """Scores of the test questions and of the training questions' first part, kept in the folder."""
    files = {name: folder / f"{name}.safetensors" for name in ("test", "seen")}
    if not all(file.exists() for file in files.values()):
        loaded = load_model(options.model, adapter=adapter, device=options.device)
        for name, file in files.items():
            score(loaded, sets[name], style=STYLE, split=name, seed=seed).save(file)
    return {name: Scores.load(file) for name, file in files.items()}


def numbers(objective: str, seed: int, before: dict[str, Scores], options: argparse.Namespace) -> dict[str, Any] | None:
    """Everything about a finished cell; ``None`` where it is not finished."""
    folder = options.out / f"{objective}-{seed}"
    if not (folder / "seen.safetensors").exists():
        return None
    result = TuneResult.load(folder)
    test, seen = (Scores.load(folder / f"{name}.safetensors") for name in ("test", "seen"))
    found = diagnose(test, path=result.history)
    measured, changed = measure(test, cluster=CLUSTER), compare(before["test"], test, cluster=CLUSTER)
    return {
        "objective": objective,
        "seed": seed,
        "seconds": result.seconds,
        "config": result.config,
        "path": list(result.history),
        "critical": None if found.critical_checkpoint is None else found.critical_checkpoint.to_json(),
        "test": {name: measured[name].to_json() for name in METRICS},
        "change": {name: changed[name].to_json() for name in ("accuracy", "conf_ece", "nll")},
        "training_accuracy": measure(seen)["accuracy"].to_json(),
        "diagnosis": {
            "verdict": found.verdict,
            "action": found.action,
            "excess_accuracy": found.numbers["excess_accuracy"].to_json(),
            "reasons": list(found.reasons),
            "warnings": list(found.warnings),
        },
    }


# ---- drawing --------------------------------------------------------------------------------------------------------


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """One map an objective: the first seed's path with its epochs, the others' as thin lines; the same axes for all."""
    objectives = [name for name in EPOCHS if any(cell["objective"] == name for cell in cells)]
    points = [point for cell in cells for point in cell["path"]]
    x = [point["accuracy"] for point in points]
    top = max(point["conf_ece"] for point in points) * 1.15 + 0.02
    with style():
        axes = Figure(figsize=(3.9 * len(objectives), 3.9), layout="constrained").subplots(
            1, len(objectives), sharey=True, squeeze=False
        )[0]
        for ax, objective in zip(axes, objectives, strict=True):
            mine = [cell for cell in cells if cell["objective"] == objective]
            critical = [cell["critical"]["accuracy"] for cell in mine if cell["critical"]]
            regime_map(mine[0]["path"], target_accuracy=mean(critical) if critical else None, ax=ax)
            for cell in mine[1:]:
                _thin(ax, cell["path"])
            ax.set(xlim=(min(x) - 0.03, max(x) + 0.03), ylim=(0, top))
            ax.set_title(TITLES[objective], pad=24)
            if ax is not axes[0]:
                ax.set_ylabel("")
        write_atomically(path, svg_text(axes[0].get_figure()))


def _thin(ax: Axes, path: list[dict[str, Any]]) -> None:
    a, e = ([point[name] for point in path] for name in ("accuracy", "conf_ece"))
    ax.plot(a, e, "-", color=MUTED, linewidth=0.8, alpha=0.7, zorder=1.5)
    ax.plot(a[-1:], e[-1:], "o", color=MUTED, markersize=5, zorder=2.5)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the cells asked for; then write and draw all that are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="hub id, folder or GGUF file; default: the demo's")
    parser.add_argument("--name", default="", help="suffix of the files that are written")
    parser.add_argument("--objectives", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=192)
    parser.add_argument("--calibration", type=int, default=150)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=None, help=f"for every objective; default {EPOCHS}")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/regimes"))
    options = parser.parse_args()
    options.model = str(options.model or demo_model_path())
    transformers.utils.logging.disable_progress_bar()
    sets = demo_questions(train=options.train, calibration=options.calibration, test=options.test)
    sets["seen"] = QuestionSet("seen", tuple(sets["train"])[:100])
    before = scored(options.out / "before", None, sets, options, None)
    for seed in options.seeds:
        for objective in options.objectives:
            run_cell(objective, seed, sets, options)
    found = [numbers(objective, seed, before, options) for objective in EPOCHS for seed in range(10)]
    cells = [cell for cell in found if cell is not None]
    place = Path(__file__).with_name(f"regimes{options.name and '-' + options.name}.json")
    untuned = measure(before["test"], cluster=CLUSTER)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    write_json(
        place,
        {
            "command": "python recipes/regimes.py",
            "model": Path(options.model).name,
            "settings": {
                name: getattr(options, name) for name in ("train", "calibration", "test", "learning_rate", "batch")
            },
            "questions": {name: len(sets[name]) for name in ("train", "calibration", "test")},
            "versions": {"calibrant": __version__, "python": platform.python_version(), **versions},
            "prompt": asdict(STYLE),
            "clustered_by": CLUSTER,
            "before": {name: untuned[name].to_json() for name in METRICS},
            "cells": cells,
        },
    )
    draw(cells, place.with_suffix(".svg"))


if __name__ == "__main__":
    main()
