"""What the settings of CFT and RCFT are worth: one changed at a time, judged on questions that tuning never saw.

    python recipes/settings.py [--only cft rcft] [--seed 0] [--out runs/settings] [--numbers FILE]

World-knowledge questions of the demo, three groups of entities: trained on; held out for the E-step and the choice of the
epoch; for the judgement here (the demo's calibration split). The demo's test questions are not touched. Each cell is a
``tune`` run with the base settings and one of :data:`CHANGES`; the difference from the base is paired and resamples whole
entities. Finished cells are not run again; whatever is finished is written to ``recipes/settings.json``.
Needs the extra [demo].
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from pathlib import Path
from typing import Any

from ladder import without_places

from calibrant import PromptStyle, QuestionSet, Scores, TuneConfig, compare, measure, score, tune
from calibrant.demo import demo_model_path, demo_questions
from calibrant.files import claim_folder, write_json
from calibrant.tuning import TuneResult

STYLE = PromptStyle(reading="continuation")
HELD_OUT = 150
METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll")
BASE: dict[str, Any] = {"epochs": 2, "batch_size": 16, "learning_rate": 2e-4, "train_sample": 0}
RATES = {"learning rate 1e-4": {"learning_rate": 1e-4}, "learning rate 5e-4": {"learning_rate": 5e-4}}
RANKS = {f"rank {rank}": {"lora": {"rank": rank, "alpha": 2 * rank}} for rank in (4, 64)}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "cft": {
        "base": {},
        **RATES,
        **RANKS,
        "1 epoch": {"epochs": 1},
        "4 epochs": {"epochs": 4},
        "8 questions a step": {"batch_size": 8},
        "over the options": {"over": "options"},
    },
    "rcft": {
        "base": {},
        **RATES,
        "lambda 0": {"lam": 0.0},
        "lambda 5": {"lam": 5.0},
        "mean over tokens": {"sft2_mean": "token"},
        "lambda 20": {"lam": 20.0},
        "on L_SFT1": {"language": "sft1"},
        "on L_SFT1, lambda 5": {"language": "sft1", "lam": 5.0},
        "5 bins": {"n_bins": 5},
        "20 bins": {"n_bins": 20},
        "E-step once": {"e_step": "once"},
        "E-step cross-fitted": {"e_step": "cross_fitted"},
    },
}


def main() -> None:
    """Run what is not there yet; write after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(CHANGES), default=list(CHANGES))
    parser.add_argument("--model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/settings"))
    parser.add_argument("--numbers", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--entities", type=int, default=None, help="of each group, for a trial")
    options = parser.parse_args()
    options.model = str(options.model or demo_model_path())
    claim_folder(options.out, {"model": options.model, "seed": options.seed, "entities": options.entities}, "trial")
    sets = question_sets(options.entities)
    for objective in options.only:
        for name, values in CHANGES[objective].items():
            run_cell(objective, name, values, sets, options)
            report(sets, options)


def question_sets(at_most: int | None = None) -> dict[str, QuestionSet]:
    """Entities of the training split to train on, others of it to hold out; the calibration split to judge by."""
    found = demo_questions()
    whole = found["train"]
    rows: dict[str, list[int]] = {}
    for i, question in enumerate(whole):
        rows.setdefault(str(question.columns["entity"]), []).append(i)
    order = sorted(rows, key=lambda entity: hashlib.sha256(entity.encode()).hexdigest())
    held: list[int] = []
    while len(held) < HELD_OUT:
        held += rows[order.pop()]
    kept = set(range(len(whole))) - set(held)
    sets = {"train": whole.subset(sorted(kept)), "held out": whole.subset(sorted(held)), "judged": found["calibration"]}
    return sets if at_most is None else {name: fewer(one, at_most) for name, one in sets.items()}


def fewer(questions: QuestionSet, n: int) -> QuestionSet:
    """Those about the first n entities."""
    first = set(list(dict.fromkeys(question.columns["entity"] for question in questions))[:n])
    return questions.subset([i for i, question in enumerate(questions) if question.columns["entity"] in first])


def run_cell(
    objective: str, name: str, values: dict[str, Any], sets: dict[str, QuestionSet], options: argparse.Namespace
) -> None:
    """Tune and score one cell, unless that lies there."""
    folder = cell(objective, name, options)
    print(folder.name, flush=True)
    result = tune(
        options.model,
        sets["train"],
        sets["held out"],
        out=folder,
        config=TuneConfig.make({**BASE, "objective": objective, "seed": options.seed, **values}),
        style=STYLE,
        device=options.device,
    )
    file = folder / "judged.safetensors"
    if not file.exists():
        adapter = result.adapter
        score(options.model, sets["judged"], adapter=adapter, style=STYLE, device=options.device).save(file)


def report(sets: dict[str, QuestionSet], options: argparse.Namespace) -> None:
    """Every finished cell, beside its base."""
    start = options.out / "untuned.safetensors"
    if not start.exists():
        score(options.model, sets["judged"], style=STYLE, device=options.device).save(start)
    untuned = Scores.load(start)
    cells: dict[str, dict[str, Any]] = {}
    for objective, changes in CHANGES.items():
        for name in changes:
            folder = cell(objective, name, options)
            if not (folder / "judged.safetensors").exists():
                continue
            scores, result = Scores.load(folder / "judged.safetensors"), TuneResult.load(folder)
            base = Scores.load(cell(objective, "base", options) / "judged.safetensors")
            cells.setdefault(objective, {})[name] = {
                **numbers(scores),
                "steps": result.steps,
                "seconds": result.seconds,
                "best_epoch": result.best_epoch,
                "change": None if name == "base" else changes_of(base, scores),
            }
    write_json(
        options.numbers,
        {
            "command": shlex.join(["python", "recipes/settings.py", *without_places(sys.argv[1:])]),
            "model": Path(options.model).name,
            "versions": untuned.provenance["versions"],
            "base": BASE,
            "questions": {name: {"n": len(q), "entities": entities(q)} for name, q in sets.items()},
            "untuned": numbers(untuned),
            "cells": cells,
        },
    )


def cell(objective: str, name: str, options: argparse.Namespace) -> Path:
    """Folder of a cell."""
    folder: Path = options.out / f"{objective} {name}".replace(" ", "-")
    return folder


def entities(questions: QuestionSet) -> int:
    """How many they are about."""
    return len({question.columns["entity"] for question in questions})


def numbers(scores: Scores) -> dict[str, Any]:
    """Values with intervals."""
    measured = measure(scores, cluster="entity")
    return {name: measured[name].to_json() for name in METRICS}


def changes_of(base: Scores, scores: Scores) -> dict[str, Any]:
    """Paired differences from the base."""
    compared = compare(base, scores, cluster="entity")
    return {name: compared[name].to_json() for name in ("accuracy", "conf_ece", "nll")}


if __name__ == "__main__":
    main()
