"""ARC-Easy, trained on its train split and tested on its test split, with ARC-Challenge out of domain.

    python recipes/arc.py --data FOLDER [--model FOLDER_OR_HUB_ID] [--limit 1000] [--reading continuation] [--out runs/arc]

FOLDER holds arc_easy-train.jsonl.gz, arc_easy-test.jsonl.gz and arc_challenge-test.jsonl.gz. Without --model it is the
demo's SmolLM2-135M-Instruct. Writes the numbers to ``recipes/arc-<reading>.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from calibrant import PromptStyle, compare, load_questions, measure, restore
from calibrant.demo import demo_model_path
from calibrant.restoring import assemble
from calibrant.tuning import TuneConfig

METRICS = ("accuracy", "mean_confidence", "conf_ece", "cw_ece", "nll", "brier")


def main() -> None:
    """Run, or go on with a run; print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=None)
    parser.add_argument("--limit", type=int, default=1000, help="first so many questions of each file")
    parser.add_argument("--reading", default="continuation")
    parser.add_argument("--objective", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/arc"))
    options = parser.parse_args()

    def load(name: str):
        return load_questions(options.data / f"{name}.jsonl.gz", skip_bad=True, limit=options.limit)

    test, far = load("arc_easy-test"), load("arc_challenge-test")
    splits, ood = assemble(load("arc_easy-train"), test=test, ood={"arc_challenge": far}, seed=options.seed, drop=True)
    run = restore(
        options.model or demo_model_path(),
        splits,
        ood=ood,
        out=options.out,
        objective=options.objective,
        style=PromptStyle(reading=options.reading),
        config=TuneConfig(seed=options.seed),
        progress=True,
        command="python recipes/arc.py",
    )
    result = {
        "command": f"python recipes/arc.py --data … --limit {options.limit} --reading {options.reading}",
        "model": Path(str(options.model or "SmolLM2-135M-Instruct")).name,
        "trained_on": len(splits["train"]),
        "calibration": len(splits["calibration"]),
        "left_out": [row.reason for row in splits["train"].skipped],
        "diagnosis": {"verdict": run.diagnosis.verdict, "action": run.diagnosis.action},
        "seed": options.seed,
        "tuning": run.tuning
        and {"objective": run.tuning.objective, "seconds": run.tuning.seconds, **run.tuning.config},
        "before": {name: _numbers(run.before[name]) for name in ("test", "arc_challenge")},
        "after": {name: _numbers(scores) for name, scores in run.after.items()},
        "change": {
            name: {m: compare(run.before[name], run.after[name])[m].to_json() for m in ("accuracy", "conf_ece", "nll")}
            for name in run.after
        },
    }
    path = Path(__file__).with_name(f"arc-{options.reading}.json")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: result[k] for k in ("before", "after", "change")}, indent=2))


def _numbers(scores) -> dict:
    m = measure(scores)
    return {name: m[name].to_json() for name in METRICS}


if __name__ == "__main__":
    main()
