"""What merging, folding and casting cost in probabilities, on the demo's model: numbers of docs/serving.md.

Restores SmolLM2-135M-Instruct on every third training question of the demo (letters, chat format, CFT, one epoch,
seed 0), then exports it in several precisions and reads off the drift check on the calibration questions. Needs the
extra [demo]; about seven minutes on one CPU core. A run that is already in the folder is used again::

    python benchmarks/export_drift.py --run drift-run --out benchmarks/export_drift.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from calibrant import PromptStyle, TuneConfig, restore
from calibrant.demo.model import MODEL, demo_model_path
from calibrant.demo.worldknowledge import demo_questions
from calibrant.exporting import ServeConfig, Source, export
from calibrant.files import write_json

EXPORTS = {
    "merged, float32": ServeConfig(),
    "merged, float32, T folded": ServeConfig(temperature_from="calibration", fold=True),
    "merged, float16": ServeConfig(dtype="float16", allow_drift=True),
    "merged, bfloat16": ServeConfig(dtype="bfloat16", allow_drift=True),
}
LOADING = {"revision": None, "dtype": "auto", "device": "cpu", "trust_remote_code": False, "allow_pickle": False}
SETTINGS = TuneConfig(epochs=1, learning_rate=1e-4, batch_size=16)
STYLE = PromptStyle(format="chat")


def make_run(folder: Path) -> Source:
    """The restored model; a finished run in the folder is not done again."""
    questions = demo_questions(calibration=100)
    wanted = {"train": 150, "calibration": 100, "test": 100}
    splits = {
        name: questions[name].subset(range(0, len(questions[name]), max(1, len(questions[name]) // n)), name)
        for name, n in wanted.items()
    }
    restore(demo_model_path(), splits, out=folder, objective="cft", config=SETTINGS, style=STYLE, **LOADING)
    return Source.of_run(folder)


def main() -> None:
    """Make the run and its exports, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the restore run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    source = make_run(arguments.run)
    rows = {}
    for name, config in EXPORTS.items():
        with tempfile.TemporaryDirectory() as place:
            facts = export(source, out=Path(place) / "out", config=config).facts
        size = sum(file["bytes"] for path, file in facts["files"].items() if path.endswith(".safetensors"))
        rows[name] = {"temperature": facts["temperature"]["value"], "megabytes": round(size / 2**20), **facts["drift"]}
    setting = {
        "model": MODEL,
        "prompt": {"reading": STYLE.reading, "format": STYLE.format},
        "tuning": SETTINGS.model_dump(mode="json", exclude_defaults=True) | {"objective": "cft", "seed": SETTINGS.seed},
        "versions": facts["versions"],
    }
    write_json(arguments.out, {**setting, "exports": rows})


if __name__ == "__main__":
    main()
