"""A contest's models in all four readings of option texts, on questions of no split of it: which reading for which fix?

    python recipes/fresh.py LADDER_FOLDER --data FOLDER [--fix cft] [--n 250] [--sets arc_easy-test qasc-validation ...]
        [--numbers FILE]

LADDER_FOLDER is a finished contest of ``recipes/ladder.py`` whose questions are read as texts; its own reading does not matter,
but it has chosen the fix's setting. Of each set, n questions that stand in no split of the contest. The aligned model and the
fix's are read by sum, per token, per character and pmi, as they are and with a temperature fitted on the contest's calibration
questions. Each is compared, paired, with the aligned model's sums with a temperature, the least that a user would do.
Scores are kept in LADDER_FOLDER/fresh: run again, it goes on. Writes ``recipes/fresh.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from across import cell, unseen
from ladder import load

from calibrant import PromptStyle, QuestionSet, Scores, compare, load_questions, measure
from calibrant.files import write_json
from calibrant.ladder.fixes import ALIGNED
from calibrant.prompts import Variant
from calibrant.scalers import Temperature
from calibrant.scoring import load_model
from calibrant.scoring.run import score_variants

SETS = [
    "arc_easy-test",
    "arc_challenge-test",
    "openbookqa-test",
    "commonsenseqa-validation",
    "mmlu-test",
    "qasc-validation",
    "piqa-validation",
]
READINGS: tuple[Variant, ...] = get_args(Variant)
METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll", "brier")
CHANGES = ("accuracy", "conf_ece", "nll", "brier")
BASE = f"{ALIGNED}, sum, temperature"


def main() -> None:
    """Score what is not there yet, fit the temperatures, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fix", default="cft")
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--numbers", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    run = json.loads((options.folder / "run.json").read_text(encoding="utf-8"))
    sets = {"calibration": load_questions(options.folder / "questions" / "calibration.jsonl")}
    sets |= {name: unseen(load(options.data, name), (options.folder,), options.n) for name in options.sets}
    made = {fix: scored(options.folder, fix, run, sets, options.device) for fix in (ALIGNED, options.fix)}
    sides = {
        name: {
            label: scores
            for fix, found in made.items()
            for reading in READINGS
            for label, scores in both(found[name, reading], found["calibration", reading], f"{fix}, {reading}").items()
        }
        for name in options.sets
    }
    write_json(
        options.numbers,
        {
            "command": f"python recipes/fresh.py --fix {options.fix} --n {options.n}",
            "contest": run["prompt"] | {"setting": cell(options.folder, options.fix).setting.name},
            "base": BASE,
            "sets": {name: numbers(found) for name, found in sides.items()},
        },
    )


def scored(
    folder: Path, fix: str, run: dict[str, Any], sets: dict[str, QuestionSet], device: str
) -> dict[tuple[str, Variant], Scores]:
    """Scores of one model by set and reading, from the folder where they are there."""
    place = folder / "fresh" / fix
    lacking = {name for name in sets if not all((place / f"{name}-{r}.safetensors").exists() for r in READINGS)}
    if lacking:
        adapter = None if fix == ALIGNED else cell(folder, fix).folder / "tuning" / "adapter"
        model = load_model(run["model"], adapter=adapter, device=device)
        style = PromptStyle(**run["prompt"])
        for name in sorted(lacking):
            for reading, scores in score_variants(model, sets[name], style=style, variants=READINGS).items():
                scores.save(place / f"{name}-{reading}.safetensors")
            print(f"{fix}: {name}: {len(sets[name])} questions", flush=True)
    return {(name, r): Scores.load(place / f"{name}-{r}.safetensors") for name in sets for r in READINGS}


def both(scores: Scores, calibration: Scores, label: str) -> dict[str, Scores]:
    """As they are, and with the temperature of the calibration questions."""
    return {label: scores, f"{label}, temperature": Temperature().fit(calibration).apply(scores)}


def numbers(sides: dict[str, Scores]) -> dict[str, Any]:
    """Each side, and its paired change against the base."""
    out = {}
    for label, scores in sides.items():
        measured, compared = measure(scores), compare(sides[BASE], scores)
        out[label] = {metric: measured[metric].to_json() for metric in METRICS}
        out[label]["change"] = {metric: compared[metric].to_json() for metric in CHANGES}
    return out


if __name__ == "__main__":
    main()
