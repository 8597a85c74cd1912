"""The two regimes on real tuning runs: L_SFT1 (cft), L_SFT2 (sft) and RCFT on the same questions, as paths over accuracy
and calibration error; and RCFT with its calibration term on L_SFT1 (rcft-answer), as docs/objectives.md advises.

    python recipes/regimes.py [--objectives cft sft rcft rcft-answer] [--seeds 0 1 2] [--out runs/regimes]
        [--contest mixture --data FOLDER --ood 500 --model FOLDER_OR_HUB_ID --reading letters] [--no-table]

Each cell (objective, seed) is a ``tune`` run with all its epochs kept as points of a path, measured on the calibration
questions after every epoch, and on the test questions at the end. Finished cells are not run again, so cells can be added
one at a time; whatever is finished is written to ``recipes/regimes.json`` and ``.svg``. Questions and model are the demo's
(extra [demo]), or those of a contest of ``ladder.py``, which has questions out of domain too.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import transformers
from ladder import CONTESTS, without_places
from ladder import contest as contest_sets

from calibrant import (
    PromptStyle,
    QuestionSet,
    Scores,
    TuneConfig,
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

STYLES = {reading: PromptStyle(reading=reading) for reading in ("continuation", "letters")}
EPOCHS = {"cft": 3, "sft": 6, "rcft": 6, "rcft-answer": 6}
TITLES = {"cft": "L_SFT1 (cft)", "sft": "L_SFT2 (sft)", "rcft": "RCFT", "rcft-answer": "RCFT on L_SFT1, λ = 5"}
ANSWER = {"objective": "rcft", "language": "sft1", "lam": 5.0}
METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll", "brier")
CONTRASTED = ("accuracy", "conf_ece", "nll")
TEST = 300
Exam = dict[str, QuestionSet]


def config_of(objective: str, seed: int, options: argparse.Namespace) -> TuneConfig:
    """One setting for all objectives; a constant rate, so that an epoch means the same in a short run and a long one."""
    loss = ANSWER if objective == "rcft-answer" else {"objective": objective}
    return TuneConfig(
        **loss,
        epochs=options.epochs or EPOCHS[objective],
        batch_size=options.batch,
        micro_batch_size=options.micro_batch,
        learning_rate=options.learning_rate,
        schedule="constant_with_warmup",
        warmup=0.02,
        keep="last",
        patience=0,
        train_sample=50,
        seed=seed,
    )


def run_cell(objective: str, seed: int, sets: Exam, exam: Exam, options: argparse.Namespace) -> None:
    """Tune, then score the end of the path on the questions of the exam."""
    folder = options.out / f"{objective}-{seed}"
    say(f"{objective}, seed {seed}")
    result = tune(
        options.model,
        sets["train"],
        sets["calibration"],
        out=folder,
        config=config_of(objective, seed, options),
        style=STYLES[options.reading],
        device=options.device,
        dtype=options.dtype,
    )
    for point in result.history:
        say(
            "  "
            + ", ".join(
                f"{name} {point[name]:.3f}" for name in ("epoch", "accuracy", "conf_ece", "nll", "mean_confidence")
            )
        )
    say(f"  {result.seconds:.0f} s")
    scored(folder, result.adapter, exam, options)


def scored(folder: Path, adapter: Path | None, exam: Exam, options: argparse.Namespace) -> dict[str, Scores]:
    """Scores of each set of the exam, kept in the folder."""
    for name, questions in exam.items():
        if not (file := folder / f"{name}.safetensors").exists():
            loading = {"device": options.device, "dtype": options.dtype}
            style = STYLES[options.reading]
            score(options.model, questions, adapter=adapter, style=style, split="test", **loading).save(file)
    return kept(folder, exam)


def kept(folder: Path, exam: Iterable[str]) -> dict[str, Scores]:
    """What :func:`scored` has kept."""
    return {name: Scores.load(folder / f"{name}.safetensors") for name in exam}


def measured(scores: Scores, options: argparse.Namespace) -> dict[str, Any]:
    """The metrics of one set."""
    found = measure(scores, cluster=options.cluster)
    return {name: found[name].to_json() for name in METRICS}


def numbers(objective: str, seed: int, before: dict[str, Scores], options: argparse.Namespace) -> dict[str, Any] | None:
    """Everything about a finished cell; ``None`` where it is not finished."""
    folder = options.out / f"{objective}-{seed}"
    if not all((folder / f"{name}.safetensors").exists() for name in before):
        return None
    result, after = TuneResult.load(folder), kept(folder, before)
    found = diagnose(after["test"], path=result.history)
    changes = {name: compare(before[name], scores, cluster=options.cluster) for name, scores in after.items()}
    on = {
        name: {
            "test": measured(scores, options),
            "change": {metric: changes[name][metric].to_json() for metric in CONTRASTED},
        }
        for name, scores in after.items()
    }
    return {
        "objective": objective,
        "seed": seed,
        "seconds": result.seconds,
        "config": result.config,
        "path": list(result.history),
        "critical": None if found.critical_checkpoint is None else found.critical_checkpoint.to_json(),
        **on.pop("test"),
        **({"out_of_domain": on} if on else {}),
        "diagnosis": {
            "verdict": found.verdict,
            "action": found.action,
            "excess_accuracy": found.numbers["excess_accuracy"].to_json(),
            "reasons": list(found.reasons),
            "warnings": list(found.warnings),
        },
    }


def contrasts(cells: list[dict[str, Any]], name: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Paired differences between objectives at the ends of their paths, over seeds and questions; where each has one."""
    runs: dict[str, list[Scores]] = {}
    for cell in cells:
        scores = Scores.load(options.out / f"{cell['objective']}-{cell['seed']}" / f"{name}.safetensors")
        runs.setdefault(cell["objective"], []).append(scores)
    if len(runs) < 2:
        return {}
    contest = Contest(runs, cluster=options.cluster)
    return {
        f"{a} to {b}": {metric: contest.differences(a, b)[metric].to_json() for metric in CONTRASTED}
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


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contest", choices=("demo", *CONTESTS), default="demo")
    parser.add_argument("--data", type=Path, help="folder of JSONL files, for a contest other than demo")
    parser.add_argument("--model", default=None, help="hub id, folder or GGUF file; default: the demo's")
    parser.add_argument("--reading", default="continuation", choices=tuple(STYLES))
    parser.add_argument("--name", default="", help="suffix of the files that are written")
    parser.add_argument("--objectives", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=192)
    parser.add_argument("--calibration", type=int, default=150)
    parser.add_argument("--test", type=int, default=TEST)
    parser.add_argument(
        "--ood", type=int, default=500, help="questions of each set out of domain; the demo has none here"
    )
    parser.add_argument("--epochs", type=int, default=None, help=f"for every objective; default {EPOCHS}")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/regimes"))
    parser.add_argument(
        "--no-table", action="store_true", help="fill the folder alone; another call writes the numbers"
    )
    options = parser.parse_args()
    if options.contest != "demo" and options.data is None:
        parser.error(f"--contest {options.contest} needs --data FOLDER")
    options.model = str(options.model or demo_model_path())
    options.cluster = "entity" if options.contest == "demo" else None
    options.seed = 0  # of the contest's questions
    return options


def questions(options: argparse.Namespace) -> tuple[Exam, Exam]:
    """What is tuned on, and the exam: ``test`` and the sets out of domain."""
    if options.contest != "demo":
        sets, far = contest_sets(options)
        return sets, {"test": sets["test"], **far}
    sets = demo_questions(train=options.train, calibration=options.calibration, test=options.test)
    return sets, {"test": sets["test"]}


def main() -> None:
    """Run the cells asked for; then write and draw all that are finished."""
    options = parsed()
    transformers.utils.logging.disable_progress_bar()
    sets, exam = questions(options)
    before = scored(options.out / "before", None, exam, options)
    for seed in options.seeds:
        for objective in options.objectives:
            run_cell(objective, seed, sets, exam, options)
    if not options.no_table:
        write(before, sets, options)


def write(before: dict[str, Scores], sets: Exam, options: argparse.Namespace) -> None:
    """All finished cells, as JSON and as a picture."""
    found = [numbers(objective, seed, before, options) for objective in EPOCHS for seed in range(10)]
    cells = [cell for cell in found if cell is not None]
    place = Path(__file__).with_name(f"regimes{options.name and '-' + options.name}.json")
    facts = before["test"].provenance
    untuned = {name: measured(scores, options) for name, scores in before.items()}
    between = {name: contrasts(cells, name, options) for name in before}
    write_json(
        place,
        {
            "command": shlex.join(["python", "recipes/regimes.py", *without_places(sys.argv[1:])]),
            "model": Path(options.model).name,
            "settings": {
                name: getattr(options, name) for name in ("train", "calibration", "test", "learning_rate", "batch")
            },
            "questions": {name: len(sets[name]) for name in ("train", "calibration", "test")},
            **{name: facts[name] for name in ("device", "dtype", "versions")},
            "prompt": asdict(STYLES[options.reading]),
            "clustered_by": options.cluster,
            "before": untuned.pop("test"),
            "contrasts": between.pop("test"),
            **({"out_of_domain": {"before": untuned, "contrasts": between}} if untuned else {}),
            "cells": cells,
        },
    )
    draw(cells, place.with_suffix(".svg"))
    print(table(cells))


if __name__ == "__main__":
    main()
