"""The two regimes on real tuning runs: L_SFT1 (cft), L_SFT2 (sft) and RCFT on the same questions, as paths over accuracy
and calibration error; and RCFT with its calibration term on L_SFT1 (rcft-answer), as docs/objectives.md advises.

    python recipes/regimes.py [--objectives cft sft rcft rcft-answer] [--seeds 0 1 2] [--out runs/regimes]

Each cell (objective, seed) is a ``tune`` run with all its epochs kept as points of a path, measured on the calibration
questions after every epoch, and on the test questions at the end. Finished cells are not run again, so cells can be added
one at a time; whatever is finished is written to ``recipes/regimes.json`` and ``.svg``. Needs the extra [demo].
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import peft
import torch
import transformers

from calibrant import (
    PromptStyle,
    QuestionSet,
    Scores,
    TuneConfig,
    __version__,
    compare,
    diagnose,
    measure,
    score,
    tune,
)
from calibrant.demo import demo_model_path, demo_questions
from calibrant.files import write_atomically, write_json
from calibrant.metrics import Contest
from calibrant.reporting import regime_map
from calibrant.reporting.canvas import figure_of, new_axes, style, svg_text
from calibrant.tuning import TuneResult

STYLE = PromptStyle(reading="continuation")
EPOCHS = {"cft": 3, "sft": 6, "rcft": 6, "rcft-answer": 6}
TITLES = {"cft": "L_SFT1 (cft)", "sft": "L_SFT2 (sft)", "rcft": "RCFT", "rcft-answer": "RCFT on L_SFT1, λ = 5"}
ANSWER = {"objective": "rcft", "language": "sft1", "lam": 5.0}
METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll", "brier")
CLUSTER = "entity"
TEST = 300


def config_of(objective: str, seed: int, options: argparse.Namespace) -> TuneConfig:
    """One setting for all objectives; a constant rate, so that an epoch means the same in a short run and a long one."""
    loss = ANSWER if objective == "rcft-answer" else {"objective": objective}
    return TuneConfig(
        **loss,
        epochs=options.epochs or EPOCHS[objective],
        batch_size=options.batch,
        learning_rate=options.learning_rate,
        schedule="constant_with_warmup",
        warmup=0.02,
        keep="last",
        patience=0,
        train_sample=50,
        seed=seed,
    )


def run_cell(objective: str, seed: int, sets: dict[str, QuestionSet], options: argparse.Namespace) -> None:
    """Tune, then score the end of the path on the test questions."""
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
    scored(folder, result.adapter, sets["test"], options)


def scored(folder: Path, adapter: Path | None, questions: QuestionSet, options: argparse.Namespace) -> Scores:
    """Scores of the test questions, kept in the folder."""
    file = folder / "test.safetensors"
    if not file.exists():
        score(options.model, questions, adapter=adapter, style=STYLE, split="test", device=options.device).save(file)
    return Scores.load(file)


def numbers(objective: str, seed: int, before: Scores, options: argparse.Namespace) -> dict[str, Any] | None:
    """Everything about a finished cell; ``None`` where it is not finished."""
    folder = options.out / f"{objective}-{seed}"
    if not (folder / "test.safetensors").exists():
        return None
    result, test = TuneResult.load(folder), Scores.load(folder / "test.safetensors")
    found = diagnose(test, path=result.history)
    measured, changed = measure(test, cluster=CLUSTER), compare(before, test, cluster=CLUSTER)
    return {
        "objective": objective,
        "seed": seed,
        "seconds": result.seconds,
        "config": result.config,
        "path": list(result.history),
        "critical": None if found.critical_checkpoint is None else found.critical_checkpoint.to_json(),
        "test": {name: measured[name].to_json() for name in METRICS},
        "change": {name: changed[name].to_json() for name in ("accuracy", "conf_ece", "nll")},
        "diagnosis": {
            "verdict": found.verdict,
            "action": found.action,
            "excess_accuracy": found.numbers["excess_accuracy"].to_json(),
            "reasons": list(found.reasons),
            "warnings": list(found.warnings),
        },
    }


def contrasts(cells: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Paired differences between objectives at the ends of their paths, over seeds and questions; where each has one."""
    runs: dict[str, list[Scores]] = {}
    for cell in cells:
        scores = Scores.load(options.out / f"{cell['objective']}-{cell['seed']}" / "test.safetensors")
        runs.setdefault(cell["objective"], []).append(scores)
    if len(runs) < 2:
        return {}
    contest = Contest(runs, cluster=CLUSTER)
    return {
        f"{a} to {b}": {name: contest.differences(a, b)[name].to_json() for name in ("accuracy", "conf_ece", "nll")}
        for a, b in combinations(runs, 2)
    }


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """All paths on one map, one colour an objective. A*: the most accurate checkpoint within its floor, mean of the seeds."""
    paths = {TITLES[name]: [cell["path"] for cell in cells if cell["objective"] == name] for name in EPOCHS}
    best: dict[int, float] = {}
    for cell in cells:
        if cell["critical"] is not None:
            best[cell["seed"]] = max(best.get(cell["seed"], 0.0), cell["critical"]["accuracy"])
    with style():
        ax = new_axes(6.4, 5.0)
        regime_map(
            {name: found for name, found in paths.items() if found},
            target_accuracy=mean(best.values()) if best else None,
            ax=ax,
        )
        write_atomically(path, svg_text(figure_of(ax)))


def table(cells: list[dict[str, Any]]) -> str:
    """The ends of the paths as Markdown, on the test questions; with the training accuracy of the run's own sample."""
    rows = [
        "| objective | seed | epochs | accuracy | confidence | conf-ECE | floor | C − A | NLL | accuracy in training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        test, last = cell["test"], cell["path"][-1]
        ece, gap = test["conf_ece"], test["signed_gap"]
        rows.append(
            f"| {cell['objective']} | {cell['seed']} | {last['epoch']:g} | {test['accuracy']['value']:.3f} "
            f"| {test['mean_confidence']['value']:.3f} | {ece['value']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}] "
            f"| {ece['floor_p95']:.3f} | {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] "
            f"| {test['nll']['value']:.3f} | {last['train_accuracy']:.2f} |"
        )
    return "\n".join(rows)


def command_of(options: argparse.Namespace) -> str:
    """The command line without folders of one machine."""
    seeds, objectives = " ".join(map(str, options.seeds)), " ".join(options.objectives)
    epochs = "" if options.epochs is None else f" --epochs {options.epochs}"
    test = "" if options.test == TEST else f" --test {options.test}"
    name = f" --name {options.name}" if options.name else ""
    return (
        f"python recipes/regimes.py --seeds {seeds} --objectives {objectives} --learning-rate {options.learning_rate:g}"
        f"{epochs}{test}{name}"
    )


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
    parser.add_argument("--test", type=int, default=TEST)
    parser.add_argument("--epochs", type=int, default=None, help=f"for every objective; default {EPOCHS}")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/regimes"))
    options = parser.parse_args()
    options.model = str(options.model or demo_model_path())
    transformers.utils.logging.disable_progress_bar()
    sets = demo_questions(train=options.train, calibration=options.calibration, test=options.test)
    before = scored(options.out / "before", None, sets["test"], options)
    for seed in options.seeds:
        for objective in options.objectives:
            run_cell(objective, seed, sets, options)
    found = [numbers(objective, seed, before, options) for objective in EPOCHS for seed in range(10)]
    cells = [cell for cell in found if cell is not None]
    place = Path(__file__).with_name(f"regimes{options.name and '-' + options.name}.json")
    untuned = measure(before, cluster=CLUSTER)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    write_json(
        place,
        {
            "command": command_of(options),
            "model": Path(options.model).name,
            "settings": {
                name: getattr(options, name) for name in ("train", "calibration", "test", "learning_rate", "batch")
            },
            "questions": {name: len(sets[name]) for name in ("train", "calibration", "test")},
            "versions": {"calibrant": __version__, "python": platform.python_version(), **versions},
            "prompt": asdict(STYLE),
            "clustered_by": CLUSTER,
            "before": {name: untuned[name].to_json() for name in METRICS},
            "contrasts": contrasts(cells, options),
            "cells": cells,
        },
    )
    draw(cells, place.with_suffix(".svg"))
    print(table(cells))


if __name__ == "__main__":
    main()
