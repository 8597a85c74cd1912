"""ARC-Easy, trained on its train split and tested on its test split, with ARC-Challenge out of domain.

    python recipes/arc.py --data FOLDER [--model FOLDER_OR_HUB_ID] [--limit 1000] [--reading continuation] [--out runs/arc]

FOLDER holds arc_easy-train.jsonl.gz, arc_easy-test.jsonl.gz and arc_challenge-test.jsonl.gz. Without --model it is the
demo's SmolLM2-135M-Instruct. Writes the numbers to ``recipes/arc-<reading>.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from summary import summarise

from calibrant import PromptStyle, QuestionSet, load_questions, restore
from calibrant.demo import demo_model_path
from calibrant.files import write_json
from calibrant.sets import assemble
from calibrant.tuning import TuneConfig


def main() -> None:
    """Run, or go on with a run; write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=None)
    parser.add_argument("--limit", type=int, default=1000, help="first so many questions of each file")
    parser.add_argument("--reading", default="continuation")
    parser.add_argument("--objective", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/arc"))
    options = parser.parse_args()

    def load(name: str) -> QuestionSet:
        return load_questions(options.data / f"{name}.jsonl.gz", skip_bad=True, limit=options.limit)

    splits, ood = assemble(
        load("arc_easy-train"),
        test=load("arc_easy-test"),
        ood={"arc_challenge": load("arc_challenge-test")},
        seed=options.seed,
        drop=True,
    )
    restore(
        options.model or demo_model_path(),
        splits,
        ood=ood,
        out=options.out,
        objective=options.objective,
        style=PromptStyle(reading=options.reading),
        config=TuneConfig(seed=options.seed),
        progress=True,
        command=f"python recipes/arc.py --limit {options.limit} --reading {options.reading} --seed {options.seed}",
    )
    write_json(Path(__file__).with_name(f"arc-{options.reading}.json"), summarise(options.out))


if __name__ == "__main__":
    main()
