"""A tuned adapter at part of its strength: nearer to the aligned model, is it flatter far from its domain?

    python recipes/adapter_strength.py LADDER_FOLDER FIX [--setting default] [--seeds 0] [--strengths 0.5 0.7 0.85]
        [--cluster COLUMN] [--numbers FILE]

LADDER_FOLDER is a contest of ``recipes/ladder.py`` that has trained the fix and scored it and the aligned model. The adapter
is scaled (``calibrant.tuning.scale_adapter``; weights between two models: Wortsman et al. 2022, arXiv 2109.01903), the
calibration and test questions are scored at each strength, and each gets a temperature from the calibration questions. Two
strengths can be chosen on those alone, and are named for each seed: the one with the least log loss there, and the least
strength whose log loss is within one standard error (of the paired difference) of it. Every strength is compared with the
whole adapter on every test set, each with its temperature. Scores stay in LADDER_FOLDER/strengths, so it can be broken off.
Writes ``recipes/adapter_strength.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import PromptStyle, Scores, load_questions, measure, score
from calibrant.files import read_json, write_json
from calibrant.metrics import Contest
from calibrant.metrics.proper import nll_terms
from calibrant.scalers import Temperature
from calibrant.scoring import load_model
from calibrant.tuning import scale_adapter

METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll", "brier")
CHANGES = ("accuracy", "conf_ece", "nll")
CALIBRATION = "calibration"


def main() -> None:
    """Score what lacks, fit the temperatures, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the ladder")
    parser.add_argument("fix")
    parser.add_argument("--setting", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 0.7, 0.85])
    parser.add_argument("--cluster", default=None, help="column whose groups are resampled whole (demo: entity)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--numbers", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    run = read_json(options.folder / "run.json")
    strengths = sorted({*options.strengths, 1.0})
    measured = [name for name in run["questions"] if name not in ("train", CALIBRATION)]
    scaled: dict[str, dict[float, list[Scores]]] = {name: {} for name in measured}
    choices = {}
    for seed in options.seeds:
        found = {strength: scores_at(options, run, seed, strength) for strength in strengths}
        choices[str(seed)] = chosen({strength: sets[CALIBRATION] for strength, sets in found.items()})
        for strength, sets in found.items():
            fitted = Temperature().fit(sets[CALIBRATION])
            for name in measured:
                scaled[name].setdefault(strength, []).append(fitted.apply(sets[name]))
    write_json(
        options.numbers,
        {
            "command": f"python recipes/adapter_strength.py FOLDER {options.fix} --setting {options.setting} --seeds "
            f"{' '.join(map(str, options.seeds))} --strengths {' '.join(f'{s:g}' for s in options.strengths)}"
            + ("" if options.cluster is None else f" --cluster {options.cluster}"),
            "model": Path(run["model"]).name,
            "prompt": run["prompt"],
            "questions": {name: {key: q[key] for key in ("name", "n")} for name, q in run["questions"].items()},
            "chosen": choices,
            "sets": {name: numbers(by, options.cluster) for name, by in scaled.items()},
        },
    )


def scores_at(options: argparse.Namespace, run: dict[str, Any], seed: int, strength: float) -> dict[str, Scores]:
    """Scores of every set but the training questions with the adapter at this strength; the ladder's own where it is whole."""
    cell = options.folder / "cells" / options.fix / options.setting / f"seed-{seed}"
    sets = [name for name in run["questions"] if name != "train"]
    if strength == 1:
        return {name: Scores.load(cell / "scores" / f"{name}.safetensors") for name in sets}
    place = options.folder / "strengths" / options.fix / options.setting / f"seed-{seed}" / f"{strength:g}"
    place.mkdir(parents=True, exist_ok=True)
    adapter, model = scale_adapter(cell / "tuning" / "adapter", strength, place / "adapter"), None
    for name in sets:
        file = place / f"{name}.safetensors"
        if not file.exists():
            model = model or load_model(run["model"], adapter=adapter, device=options.device, dtype=options.dtype)
            questions = load_questions(options.folder / "questions" / f"{name}.jsonl")
            score(model, questions, style=PromptStyle(**run["prompt"]), split=name, progress=True).save(file)
    return {name: Scores.load(place / f"{name}.safetensors") for name in sets}


def chosen(by_strength: dict[float, Scores]) -> dict[str, Any]:
    """The strength of least log loss after its temperature, and the least one within a standard error of it. The temperature is
    one number, so it is fitted on the questions that it is judged by.
    """
    terms = {s: nll_terms(of.logp_NK, of.answer_N) for s, of in ((s, fit(scores)) for s, scores in by_strength.items())}
    best = min(terms, key=lambda strength: terms[strength].mean())
    near = [s for s in terms if (d := terms[s] - terms[best]).mean() <= d.std(ddof=1) / np.sqrt(len(d))]
    return {"nll": {f"{s:g}": round(float(t.mean()), 5) for s, t in terms.items()}, "best": best, "least": min(near)}


def fit(scores: Scores) -> Scores:
    """With the temperature that they themselves ask for."""
    return Temperature().fit(scores).apply(scores, allow_fit_rows=True)


def numbers(by_strength: dict[float, list[Scores]], cluster: str | None) -> dict[str, Any]:
    """Of one set: each seed's numbers, and the paired difference from the whole adapter, seeds pooled."""
    contest = Contest({f"{s:g}": runs for s, runs in by_strength.items()}, cluster=cluster)
    found: dict[str, Any] = {"n": by_strength[1.0][0].n, "strengths": {}}
    for strength, runs in by_strength.items():
        measured = [measure(scores, cluster=cluster) for scores in runs]
        row: dict[str, Any] = {"runs": [{name: one[name].to_json() for name in METRICS} for one in measured]}
        if strength != 1:
            change = contest.differences("1", f"{strength:g}")
            row["against_whole"] = {name: change[name].to_json() for name in CHANGES}
        found["strengths"][f"{strength:g}"] = row
    return found


if __name__ == "__main__":
    main()
