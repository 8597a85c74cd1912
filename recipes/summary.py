"""The numbers of a finished ``restore`` run as one small JSON object.

python recipes/summary.py RUN_FOLDER OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from calibrant import Scores, compare, measure
from calibrant.files import write_json
from calibrant.tuning import TuneResult

METRICS = ("accuracy", "mean_confidence", "conf_ece", "cw_ece", "nll", "brier")
CHANGES = ("accuracy", "conf_ece", "cw_ece", "nll")


def summarise(folder: Path) -> dict[str, Any]:
    """What was run, and before, after and paired change of each test set."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    diagnosis = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))
    tuning = TuneResult.load(folder / "tuning")
    sets = sorted(path.stem for path in (folder / "scores" / "after").glob("*.safetensors"))
    pairs = {
        name: [Scores.load(folder / "scores" / when / f"{name}.safetensors") for when in ("before", "after")]
        for name in sets
    }
    facts = next(iter(pairs.values()))[0].provenance
    return {
        "model": Path(run["model"]).name,
        "command": facts.get("command"),
        "versions": facts.get("versions"),
        "prompt": run["prompt"],
        "questions": {name: q["n"] for name, q in run["questions"].items()},
        "diagnosis": {name: diagnosis[name] for name in ("verdict", "action")},
        "tuning": {
            "objective": tuning.objective,
            "seconds": tuning.seconds,
            "steps": tuning.steps,
            "best_epoch": tuning.best_epoch,
            "config": tuning.config,
        },
        "before": {name: _numbers(a) for name, (a, _) in pairs.items()},
        "after": {name: _numbers(b) for name, (_, b) in pairs.items()},
        "change": {name: _changes(a, b) for name, (a, b) in pairs.items()},
    }


def _numbers(scores: Scores) -> dict[str, Any]:
    measured = measure(scores)
    return {name: measured[name].to_json() for name in METRICS}


def _changes(a: Scores, b: Scores) -> dict[str, Any]:
    compared = compare(a, b)
    return {name: compared[name].to_json() for name in CHANGES}


if __name__ == "__main__":
    write_json(sys.argv[2], summarise(Path(sys.argv[1])))
