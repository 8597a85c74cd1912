"""Far from its domain a restored model is too sure again: can the untouched model say by how much, without labels from there?

    python recipes/no_labels.py LADDER_FOLDER FIX [--cluster COLUMN] [--seed 0] [--numbers FILE]

LADDER_FOLDER is a contest of ``recipes/ladder.py`` with the fixes ``temperature-all``, FIX and FIX+temperature; nothing is
scored again. Each test set's clusters (questions, without --cluster) are halved by chance. On one half, without its answers,
DACA's temperature brings FIX's model to the untouched model with ``temperature-all``, on the questions where the two choose
the same option; it is applied to the other half, and the other way round. Compared, paired and over all seeds, with FIX's
model at the temperature of the contest's calibration questions, and with the untouched model at its own. Writes
``recipes/no_labels-<contest>.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from few_labels import seeds

from calibrant import Scores, measure
from calibrant.files import read_json, write_json
from calibrant.ladder.families import concatenated
from calibrant.metrics import Contest
from calibrant.scalers import DACA

UNTOUCHED, OWN, ANCHORED = "temperature-all", "own temperature", "temperature without labels"
METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll", "brier")
CHANGES = ("accuracy", "conf_ece", "nll", "brier")


def main() -> None:
    """Read the stored scores, fit, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the ladder")
    parser.add_argument("fix")
    parser.add_argument(
        "--cluster", default=None, help="column whose groups are halved and resampled whole (demo: entity)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--numbers", type=Path, default=None)
    options = parser.parse_args()
    run = read_json(options.folder / "run.json")
    command = f"python recipes/no_labels.py {options.folder.name} {options.fix} --seed {options.seed}"
    sets = [name for name in run["questions"] if name not in ("train", "calibration")]
    write_json(
        options.numbers or Path(__file__).with_name(f"no_labels-{options.folder.name}.json"),
        {
            "command": command + (f" --cluster {options.cluster}" if options.cluster else ""),
            "model": Path(run["model"]).name,
            "prompt": run["prompt"],
            "sets": {name: compared(options, name) for name in sets},
        },
    )


def compared(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Of one set: the numbers of the three, and the change from the first two to the model without labels."""
    untouched = dict(seeds(options.folder, UNTOUCHED, name))[0]
    plain, own = (dict(seeds(options.folder, fix, name)) for fix in (options.fix, f"{options.fix}+temperature"))
    made = {seed: halved(scores, untouched, options.cluster, options.seed) for seed, scores in plain.items()}
    runs = {
        UNTOUCHED: [untouched],
        OWN: [own[seed] for seed in plain],
        ANCHORED: [scores for scores, _ in made.values()],
    }
    contest = Contest(runs, cluster=options.cluster)
    estimates = {one: contest.estimates(one) for one in runs}
    return {
        "n": contest.n,
        "n_clusters": contest.n_clusters,
        "seeds": list(plain),
        "temperatures": {seed: found for seed, (_, found) in made.items()},
        "where_they_agree": {seed: agreeing(untouched, scores, options.cluster) for seed, scores in plain.items()},
        "rows": {one: {m: e[m].to_json() for m in METRICS if m in e} for one, e in estimates.items()},
        "changes": {
            one: {m: d.to_json() for m, d in contest.differences(one, ANCHORED, CHANGES).items()}
            for one in (UNTOUCHED, OWN)
        },
    }


def agreeing(untouched: Scores, tuned: Scores, cluster: str | None) -> dict[str, Any]:
    """How sure and how right the untouched model is where the tuned one chooses the same option."""
    found = measure(untouched.select(np.flatnonzero(untouched.prediction_N == tuned.prediction_N)), cluster=cluster)
    return {name: found[name].to_json() for name in ("accuracy", "mean_confidence", "signed_gap")}


def halved(scores: Scores, untouched: Scores, cluster: str | None, seed: int) -> tuple[Scores, list[dict[str, float]]]:
    """Each half at the temperature of the other; and these, with the number of questions where the two models agree."""
    groups = np.array(scores.ids if cluster is None else scores.columns[cluster])
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    first_N = np.isin(groups, names[: len(names) // 2])
    parts, found = [], []
    for fit_N in (first_N, ~first_N):
        at = np.flatnonzero(fit_N)
        anchor = DACA().fit(scores.select(at), reference=untouched.select(at))
        parts.append(anchor.apply(scores.select(np.flatnonzero(~fit_N))))
        assert anchor.temperature_ is not None
        found.append({"temperature": round(anchor.temperature_, 4), "n": len(at), "n_agree": anchor.n_agree_})
    return concatenated(parts), found


if __name__ == "__main__":
    main()
