"""A model in 4 bits: what quantising alone does to its calibration, and a restore run on 4-bit weights with its export.

    python recipes/four_bits.py [--no-tuning] [--bits 4 16] [--seed 0] [--epochs 2] [--lr 3e-4] [--device auto]
        [--out runs/four-bits]

The demo's model and questions; 4 bits are NF4 by bitsandbytes (extra [quant]). First the untuned model as
it is stored and in 4 bits, on the same questions. Then, for each precision, CFT over the options without a temperature: the
tuned model as it was measured, and the export (adapter merged into the weights as they are stored) as it is written and, with
4 bits, quantised again. Goes on where it was broken off. Numbers to ``recipes/four_bits.json``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ladder import without_places

from calibrant import QuestionSet, Scores, TuneConfig, compare, measure, restore, score
from calibrant.demo import demo_model_path, demo_questions
from calibrant.demo.run import CLUSTER, STYLE
from calibrant.demo.worldknowledge import OUT_OF_DOMAIN
from calibrant.exporting import ServeConfig, Source, check_drift, export
from calibrant.files import write_json
from calibrant.tuning import TuneResult

METRICS = ("accuracy", "mean_confidence", "conf_ece", "nll")
SPLITS = ("train", "calibration", "test")
SETS = ("test", *OUT_OF_DOMAIN)
STORED, FOUR = "as stored", "in 4 bits"


def main() -> None:
    """The untuned model in both forms; then one run and export for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tuning", action="store_true", help="only what quantising does")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 16], choices=(4, 16))
    parser.add_argument("--train", type=int, default=530)
    parser.add_argument("--calibration", type=int, default=250)
    parser.add_argument("--test", type=int, default=778)
    parser.add_argument("--ood", type=int, default=354)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/four-bits"))
    options = parser.parse_args()
    sets = demo_questions(**{name: getattr(options, name) for name in (*SPLITS, "ood")})
    forms = {name: untuned(name, sets, options) for name in (STORED, FOUR)}
    found: dict[str, Any] = {
        "command": shlex.join(["python", "recipes/four_bits.py", *without_places(sys.argv[1:])]),
        "model": demo_model_path().name,
        "clustered_by": CLUSTER,
        "scored": {
            form: {key: scores["test"].provenance[key] for key in ("device", "dtype", "versions")}
            for form, scores in forms.items()
        },
        "untuned": {
            name: {
                STORED: numbers(forms[STORED][name]),
                FOUR: numbers(forms[FOUR][name], forms[STORED][name]),
            }
            for name in SETS
        },
    }
    write_json(Path(__file__).with_suffix(".json"), found)
    for bits in () if options.no_tuning else options.bits:
        found[f"restored on {bits} bits"] = run(bits == 4, sets, options)
        write_json(Path(__file__).with_suffix(".json"), found)


def untuned(form: str, sets: dict[str, QuestionSet], options: argparse.Namespace) -> dict[str, Scores]:
    """Scores of the model in one form, kept in the folder."""
    out = {}
    for name in SETS:
        file = options.out / "untuned" / form / f"{name}.safetensors"
        if not file.exists():
            loading = {"device": options.device, "quantize_4bit": form == FOUR}
            score(demo_model_path(), sets[name], style=STYLE, split="test", **loading).save(file)
        out[name] = Scores.load(file)
    return out


def run(four: bool, sets: dict[str, QuestionSet], options: argparse.Namespace) -> dict[str, Any]:
    """Restore, export, and measure each form of the model."""
    folder, model = options.out / ("4" if four else "16"), demo_model_path()
    config = TuneConfig(
        epochs=options.epochs, learning_rate=options.lr, seed=options.seed, over="options", quantize_4bit=four
    )
    done = restore(
        model,
        {name: sets[name] for name in SPLITS},
        out=folder / "run",
        ood={name: sets[name] for name in OUT_OF_DOMAIN},
        objective="cft",
        config=config,
        style=STYLE,
        cluster=CLUSTER,
        temperature=False,
        device=options.device,
    )
    source = Source.of_run(folder / "run")
    served = export(source, out=folder / "served", config=ServeConfig(allow_drift=True))
    drifts = {"the export against what was measured": served.facts["drift"]}
    read: dict[str, Any] = {"style": STYLE, "device": options.device}
    before = done.before["test"]
    forms = {"tuned": done.after["test"], "exported": score(str(served.folder), sets["test"], **read)}
    if four:
        again = check_drift(
            served.folder, served.folder, sets["calibration"], quantize_4bit=True, device=options.device
        )
        drifts["the export in 4 bits against the export"] = again.to_json()
        forms["exported, in 4 bits"] = score(str(served.folder), sets["test"], quantize_4bit=True, **read)
    tuning = TuneResult.load(folder / "run" / "tuning")
    return {
        "seconds": tuning.seconds,
        "config": tuning.config,
        "drift": drifts,
        "test": {"untuned": numbers(before)} | {name: numbers(scores, before) for name, scores in forms.items()},
        "out_of_domain": {
            name: {"untuned": numbers(done.before[name]), "tuned": numbers(done.after[name], done.before[name])}
            for name in OUT_OF_DOMAIN
        },
    }


def numbers(scores: Scores, before: Scores | None = None) -> dict[str, Any]:
    """The metrics of one form, and its change against another one."""
    m = measure(scores, cluster=CLUSTER)
    found: dict[str, Any] = {"n": m.n, **{name: m[name].to_json() for name in METRICS}}
    if before is not None:
        changed = compare(before, scores, cluster=CLUSTER)
        found["change"] = {name: changed[name].to_json() for name in ("accuracy", "conf_ece", "nll")}
    return found


if __name__ == "__main__":
    main()
