"""A ladder's trained fix against its aligned model on the test questions, scored with its adapter merged into the weights:
for a model so large that scoring with the adapter beside them takes too long on a CPU.

    python recipes/merged.py runs/qwen/mixture rcft --numbers recipes/ladder-mixture-rcft.json [--setting default] [--seed 0]

The ladder must have scored the test questions with the aligned model and trained the fix. Scores that lie in the fix's cell
are taken as they are; merging rounds once to the dtype of the aligned model's scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from calibrant import PromptStyle, Scores, compare, load_questions, measure, score
from calibrant.files import read_json, write_json
from calibrant.scoring import load_model
from calibrant.tuning import TuneResult

METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "cw_ece", "nll", "brier")


def merged_scores(root: Path, cell: Path, made: TuneResult, aligned: Scores) -> Scores:
    """The fix's scores of the test questions, kept in its cell."""
    file = cell / "scores" / "test.safetensors"
    if not file.exists():
        run = read_json(root / "run.json")
        loaded = load_model(run["model"], adapter=made.adapter, device="cpu", dtype=str(aligned.provenance["dtype"]))
        loaded.model = loaded.model.merge_and_unload().eval()
        file.parent.mkdir(exist_ok=True)
        questions = load_questions(root / "questions" / "test.jsonl")
        score(loaded, questions, style=PromptStyle(**run["prompt"]), split="test", progress=True).save(file)
    return Scores.load(file)


def main() -> None:
    """Score what lacks, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the ladder")
    parser.add_argument("fix")
    parser.add_argument("--setting", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained-by", default=None, help="the command that trained it, for the record")
    parser.add_argument("--numbers", type=Path, required=True)
    options = parser.parse_args()
    cells = options.folder / "cells"
    cell = cells / options.fix / options.setting / f"seed-{options.seed}"
    aligned = Scores.load(cells / "aligned" / "default" / "seed-0" / "scores" / "test.safetensors")
    made = TuneResult.load(cell / "tuning")
    tuned = merged_scores(options.folder, cell, made, aligned)
    change = compare(aligned, tuned)
    numbers = {
        name: {metric: measure(scores)[metric].to_json() for metric in METRICS}
        for name, scores in (("aligned", aligned), (options.fix, tuned))
    }
    write_json(
        options.numbers,
        {
            "trained_by": options.trained_by,
            "command": f"python recipes/merged.py FOLDER {options.fix} --setting {options.setting} --seed {options.seed}",
            "model": Path(str(aligned.provenance["model"])).name,
            **{key: aligned.provenance.get(key) for key in ("dtype", "device", "versions")},
            "training": {
                "questions": made.questions,
                "steps": made.steps,
                "seconds": made.seconds,
                "config": made.config,
                "history": list(made.history),
            },
            "n": aligned.n,
            "test": numbers,
            "change": {metric: change[metric].to_json() for metric in METRICS if metric in change.differences},
        },
    )


if __name__ == "__main__":
    main()
