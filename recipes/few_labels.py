"""Out of its domain a restored model is too sure again: how many labelled questions from there mend it?

    python recipes/few_labels.py LADDER_FOLDER [--fixes aligned cft] [--sizes 10 25 50 100] [--draws 200] [--cluster COLUMN]
        [--numbers FILE]

LADDER_FOLDER is a finished contest of ``recipes/ladder.py``; nothing is scored again. Of each set out of domain, half of the
clusters (of the questions, without --cluster) are drawn to measure on, and n questions of the other half to fit on. A
temperature is fitted on the contest's calibration questions, on the n questions, or on both together; the same draws for all.
Values are means over draws and seeds, with the 2.5th and 97.5th percentiles of the draws: how it may turn out with one
sample, not a confidence interval. ``excess`` is conf-ECE less the mean of its noise floor.
Writes ``recipes/few_labels.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import Scores
from calibrant.files import write_json
from calibrant.ladder.cells import Place
from calibrant.ladder.families import concatenated
from calibrant.ladder.fixes import by_name
from calibrant.metrics import conf_ece, nll, noise_floor
from calibrant.scalers import Temperature

WAYS = ("calibration questions", "new questions", "both")
NUMBERS = ("conf_ece", "floor", "nll")
FLOOR_DRAWS = 50


def main() -> None:
    """Read the stored scores, draw, fit, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fixes", nargs="+", default=["aligned", "cft"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 25, 50, 100])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", default=None)
    parser.add_argument("--numbers", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    run = json.loads((options.folder / "run.json").read_text(encoding="utf-8"))
    far = [name for name in run["questions"] if name not in ("train", "calibration", "test")]
    write_json(
        options.numbers,
        {
            "command": f"python recipes/few_labels.py --draws {options.draws} --seed {options.seed}",
            "cluster": options.cluster,
            "prompt": run["prompt"],
            "sets": {
                name: {
                    fix: mended(
                        dict(seeds(options.folder, fix, name)),
                        dict(seeds(options.folder, fix, "calibration")),
                        sizes=options.sizes,
                        draws=options.draws,
                        seed=options.seed,
                        cluster=options.cluster,
                    )
                    for fix in options.fixes
                }
                for name in far
            },
        },
    )


def seeds(folder: Path, fix: str, name: str) -> Iterator[tuple[int, Scores]]:
    """Stored scores of the chosen setting, by seed."""
    place = Place(folder, by_name(fix))
    assert place.chosen is not None, f"{fix} has no choice yet"
    for path in sorted((place.folder / place.chosen.name).glob("seed-*")):
        seed = int(path.name.removeprefix("seed-"))
        scores = place.cell(place.chosen, seed).scores(name)
        if scores is not None:
            yield seed, scores


def mended(
    far: dict[int, Scores],
    calibration: dict[int, Scores],
    *,
    sizes: list[int],
    draws: int,
    seed: int,
    cluster: str | None,
) -> dict[str, Any]:
    """Numbers without a temperature and, by size and way, with one; over the same draws."""
    first = next(iter(far.values()))
    groups = np.array(first.ids if cluster is None else first.columns[cluster])
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(draws):
        names = rng.permutation(np.unique(groups))
        fit = rng.permutation(np.flatnonzero(np.isin(groups, names[: len(names) // 2])))
        rest = np.flatnonzero(np.isin(groups, names[len(names) // 2 :]))
        for number, scores in far.items():
            kept = scores.select(rest)
            before = Temperature().fit(calibration[number])
            found.setdefault(("0", "none"), []).append(measured(kept))
            found.setdefault(("0", WAYS[0]), []).append(measured(before.apply(kept)))
            for size in sizes:
                few = scores.select(fit[:size])
                parts = {WAYS[1]: few, WAYS[2]: concatenated([calibration[number], few])}
                for way, part in parts.items():
                    fitted = Temperature().fit(part).apply(kept)
                    found.setdefault((str(size), way), []).append(measured(fitted))
    out: dict[str, Any] = {"n": first.n, "clusters": len(np.unique(groups)), "seeds": sorted(far), "by_size": {}}
    for (size, way), rows in found.items():
        out["by_size"].setdefault(size, {})[way] = {
            number: spread([row[number] for row in rows]) for number in (*NUMBERS, "excess")
        }
    return out


def measured(scores: Scores) -> dict[str, float]:
    """conf-ECE, the mean of its floor, the excess of the one over the other, and log loss."""
    ece = conf_ece(scores.confidence_N, scores.correct_N)
    floor = float(noise_floor(scores, n_draws=FLOOR_DRAWS)[0].mean())
    return {"conf_ece": ece, "floor": floor, "excess": ece - floor, "nll": nll(scores.logp_NK, scores.answer_N)}


def spread(values: list[float]) -> list[float]:
    """Mean, 2.5th and 97.5th percentile."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [round(float(value), 4) for value in (np.mean(values), low, high)]


if __name__ == "__main__":
    main()
