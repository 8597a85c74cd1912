"""The demo with several training seeds, and what a temperature alone would have done; entities resampled whole.

    python recipes/demo.py [--seeds 0 1 2] [--out runs/demo]

Writes the numbers to ``recipes/demo.json``: for each set of questions the untuned model, one temperature on it (fitted on the
calibration questions), and for each seed the tuned model without and with its own temperature. Goes on where it was broken off.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrant import Scores, Temperature, compare, measure
from calibrant.demo.run import CLUSTER, demo
from calibrant.files import write_json
from calibrant.tuning import TuneResult

METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "cw_ece", "nll", "brier")
CHANGES = ("accuracy", "conf_ece", "nll")


def main() -> None:
    """Run, or go on with, each seed; write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    for seed in options.seeds:
        demo(out=options.out / f"seed-{seed}", seed=seed, progress=True, command=f"calibrant demo --seed {seed}")
    folders = {f"seed {seed}": options.out / f"seed-{seed}" for seed in options.seeds}
    before = scores_in(folders[f"seed {options.seeds[0]}"], "before")
    alone = Temperature().fit(before.pop("calibration"))
    seeds = " ".join(map(str, options.seeds))
    numbers: dict[str, Any] = {
        "command": f"python recipes/demo.py --seeds {seeds}",
        "cluster": CLUSTER,
        "versions": before["test"].provenance["versions"],
        "temperature_alone": alone.temperature_,
        "runs": {name: run_facts(folder) for name, folder in folders.items()},
        "sets": {},
    }
    for name, untuned in before.items():
        fixed = {"temperature alone": alone.apply(untuned)}
        for label, folder in folders.items():
            fixed |= {f"{label}, tuned": scores_in(folder, "tuned")[name]}
            fixed |= {f"{label}, restored": scores_in(folder, "after")[name]}
        numbers["sets"][name] = {"untuned": measured(untuned)} | {
            label: measured(scores) | {"change": change(untuned, scores)} for label, scores in fixed.items()
        }
    write_json(Path(__file__).with_suffix(".json"), numbers)


def scores_in(folder: Path, when: str) -> dict[str, Scores]:
    """The scores of one stage of a run, by set."""
    return {path.stem: Scores.load(path) for path in sorted((folder / "scores" / when).glob("*.safetensors"))}


def run_facts(folder: Path) -> Mapping[str, Any]:
    """What was trained, and the temperature on top."""
    tuning = TuneResult.load(folder / "tuning")
    scaler = next(iter(scores_in(folder, "after").values())).provenance.get("scaler")
    return {
        "objective": tuning.objective,
        "seconds": tuning.seconds,
        "steps": tuning.steps,
        "questions": tuning.questions,
        "temperature": None if scaler is None else scaler["temperature"],
        "config": tuning.config,
    }


def measured(scores: Scores) -> dict[str, Any]:
    """The numbers of one model on one set."""
    m = measure(scores, cluster=CLUSTER)
    return {"n": m.n, "n_clusters": m.n_clusters} | {name: m[name].to_json() for name in METRICS}


def change(a: Scores, b: Scores) -> dict[str, Any]:
    """Paired differences."""
    compared = compare(a, b, cluster=CLUSTER)
    return {name: compared[name].to_json() for name in CHANGES}


if __name__ == "__main__":
    main()
