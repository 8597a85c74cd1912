"""How much of a small model's calibration error is the reading's: option texts read by five ways, untuned.

    python recipes/readings.py --data FOLDER [--n 200] [--sets openbookqa-test arc_challenge-test] [--model FOLDER_OR_HUB_ID]

FOLDER holds the sets as JSONL (or .jsonl.gz), as for ``recipes/ladder.py``; n questions of each are taken by SHA-256, so they
are those of a contest with the same ``--ood``. Writes ``recipes/readings.json``. Without --model it is SmolLM2-135M-Instruct,
which comes with the extra [demo].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ladder import load, some

from calibrant import PromptStyle, Scores, compare, measure, score
from calibrant.demo import demo_model_path
from calibrant.files import write_json

STYLES = {
    "sum": PromptStyle(reading="continuation"),
    "per token": PromptStyle(reading="continuation", variant="per_token"),
    "per character": PromptStyle(reading="continuation", variant="per_char"),
    "pmi": PromptStyle(reading="continuation", variant="pmi"),
    "sum, chat template": PromptStyle(reading="continuation", format="chat"),
}
METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll")


def main() -> None:
    """Score each set by each way, beside the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["openbookqa-test", "arc_challenge-test"])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--model", default=None)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    model = str(options.model or demo_model_path())
    found: dict[str, Any] = {}
    scores: Scores | None = None
    for name in options.sets:
        questions = some(load(options.data, name), options.n, 0)
        first: Scores | None = None
        found[name] = {}
        for label, style in STYLES.items():
            scores = score(model, questions, style=style, split=name, device=options.device)
            first = first or scores
            m, c = measure(scores), compare(first, scores)
            found[name][label] = {metric: m[metric].to_json() for metric in METRICS} | {
                "change": {metric: c[metric].to_json() for metric in ("accuracy", "conf_ece")}
            }
            e = m["conf_ece"]
            print(
                f"{name}, {label}: accuracy {m['accuracy'].value:.3f}, conf-ECE {e.value:.3f} "
                f"[{e.low:.3f}, {e.high:.3f}], floor {e.floor_p95:.3f}, n = {m.n}",
                flush=True,
            )
    assert scores is not None
    write_json(
        Path(__file__).with_suffix(".json"),
        {
            "command": f"python recipes/readings.py --sets {' '.join(options.sets)} --n {options.n}",
            "model": Path(model).name,
            "versions": scores.provenance["versions"],
            "sets": found,
        },
    )


if __name__ == "__main__":
    main()
