"""Two contests on the same questions against each other, such as two readings; and both on questions that neither has seen.

    python recipes/across.py A B [--pairs temperature:cft cft+temperature:cft aligned:aligned] [--cluster COLUMN]
        [--data FOLDER --fresh 300 [--sets arc_challenge-test openbookqa-test commonsenseqa-validation mmlu-test]]
        [--numbers FILE]

A and B are folders of finished ladders; the same folder twice compares fixes of one contest. A pair names a fix of A and one
of B; the change from the first to the second is paired, seed by seed and over all seeds, on the sets that both were scored
on. With --data,
questions of the sets that no split of A or B holds are scored too, by the chosen models' first seed (a temperature is the
fitted one), and compared in the same way: for a reading that was chosen after the contest's own questions had been seen.
Writes ``recipes/across.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from few_labels import seeds
from ladder import load, some

from calibrant import PromptStyle, QuestionSet, Scores, load_questions, score
from calibrant.files import write_json
from calibrant.ladder.cells import Place
from calibrant.ladder.fixes import ALIGNED, by_name
from calibrant.metrics import Contest
from calibrant.questions import drop_leaked
from calibrant.scalers import load_scaler

METRICS = ("accuracy", "conf_ece", "nll")
PAIRS = ["temperature:cft", "cft+temperature:cft", "cft+temperature:cft+temperature", "aligned:aligned"]
SETS = ["arc_challenge-test", "openbookqa-test", "commonsenseqa-validation", "mmlu-test"]


def main() -> None:
    """Compare stored scores, then fresh ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--cluster", default=None, help="column whose groups are resampled whole (demo: entity)")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--fresh", type=int, default=300)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--numbers", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    a, b = options.folders
    pairs = [tuple(pair.split(":")) for pair in options.pairs]
    runs = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (a, b)]
    shared = [
        name
        for name, q in runs[0]["questions"].items()
        if name not in ("train", "calibration") and runs[1]["questions"].get(name, {}).get("digest") == q["digest"]
    ]
    found: dict[str, Any] = {
        "a": runs[0]["prompt"],
        "b": runs[1]["prompt"],
        "clustered_by": options.cluster,
        "contest": {name: by_seed(a, b, pairs, name, options.cluster) for name in shared},
    }
    if options.data is not None:
        found["fresh"] = {}
        for name in options.sets:
            questions = unseen(load(options.data, name), (a, b), options.fresh)
            made: dict[tuple[Path, str], Scores] = {}
            for pair in pairs:
                for folder, run, fix in zip((a, b), runs, pair, strict=True):
                    scored(folder, fix, run, questions, made)
            found["fresh"][name] = changes({p: ([made[a, p[0]]], [made[b, p[1]]]) for p in pairs}, options.cluster)
            print(name, len(questions), flush=True)
            write_json(options.numbers, found)
    write_json(options.numbers, found)


def by_seed(a: Path, b: Path, pairs: list[tuple[str, ...]], name: str, cluster: str | None) -> dict[str, Any]:
    """Changes on a set by seed, for the seeds that both fixes of a pair have, and of several seeds together."""
    found: dict[str, Any] = {}
    for pair in pairs:
        first, second = (dict(seeds(folder, fix, name)) for folder, fix in zip((a, b), pair, strict=True))
        both = sorted(set(first) & set(second))
        parts = {f"seed {seed}": [seed] for seed in both} | ({"all seeds": both} if len(both) > 1 else {})
        for part, of in parts.items():
            changed = changes({pair: ([first[s] for s in of], [second[s] for s in of])}, cluster)
            found[part] = found.get(part, {}) | changed
    return found


def cell(folder: Path, fix: str) -> Any:
    """The first seed of a fix at its chosen setting."""
    place = Place(folder, by_name(fix))
    assert place.chosen is not None, f"{fix} of {folder} has no chosen setting"
    return place.cell(place.chosen, 0)


def unseen(questions: QuestionSet, folders: tuple[Path, ...], n: int) -> QuestionSet:
    """At most n questions that stand in no split of the ladders."""
    for folder in folders:
        for file in sorted((folder / "questions").glob("*.jsonl")):
            questions = drop_leaked(load_questions(file), questions)
    return some(questions, n, 1)


def scored(
    folder: Path, fix: str, run: dict[str, Any], questions: QuestionSet, made: dict[tuple[Path, str], Scores]
) -> Scores:
    """Fresh scores of a fix, made once: the model, with its adapter, then its scaler."""
    own, chosen = by_name(fix), cell(folder, fix)
    if (folder, fix) not in made:
        if own.family == "post-hoc":
            source = scored(folder, own.of, run, questions, made)
            made[folder, fix] = load_scaler(chosen.folder / "scaler.json").apply(source)
        else:
            adapter = None if fix == ALIGNED else chosen.folder / "tuning" / "adapter"
            style = PromptStyle(**run["prompt"])
            made[folder, fix] = score(run["model"], questions, adapter=adapter, style=style, device="cpu")
    return made[folder, fix]


def changes(pairs: dict[tuple[str, ...], tuple[list[Scores], list[Scores]]], cluster: str | None) -> dict[str, Any]:
    """Both sides, each one or more seeds, and their paired difference, by pair."""
    out = {}
    for (first, second), (a, b) in pairs.items():
        both = Contest({"a": a, "b": b}, cluster=cluster)
        difference = both.differences("a", "b")
        out[f"{first} -> {second}"] = {
            **{side: {m: both.estimates(side)[m].to_json() for m in METRICS} for side in ("a", "b")},
            "change": {m: difference[m].to_json() for m in METRICS},
        }
    return out


if __name__ == "__main__":
    main()
