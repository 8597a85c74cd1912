"""Every fix on one small aligned model: six contests, each with questions from out of its domain.

    python recipes/ladder.py --contest arc --data FOLDER [--train 1000 --calibration 500 --test 1000 --ood 500]
        [--model FOLDER_OR_HUB_ID] [--reference PRE_ALIGNMENT_MODEL] [--alignment-adapter FOLDER]
        [--reading letters|continuation] [--variant per_char]
        [--micro-batch QUESTIONS] [--gradient-checkpointing] [--fixes a,b,c] [--budget quick|standard|thorough]
        [--settings a=lr-x3,b=default] [--seeds 3] [--cluster COLUMN] [--dry] [--no-table] [--out runs/ladder]
        [--preferences FILE --limit-pairs 150 --prompts FILE --limit-prompts 20 --max-new-tokens 64]

==================  ==================================  ===================  =========================
contest             train, calibration                  test                 out of domain
==================  ==================================  ===================  =========================
``demo``            world knowledge (no --data)         its own split        us counties, chemistry
``arc``             arc_easy-train                      arc_easy-test        arc_challenge-test,
                                                                             openbookqa-test,
                                                                             commonsenseqa-validation,
                                                                             mmlu-test
``openbookqa``      openbookqa-train                    openbookqa-test      arc_challenge-test
``commonsenseqa``   commonsenseqa-train                 commonsenseqa-       openbookqa-test
                                                        validation
``mmlu``            mmlu-val, mmlu-dev                  mmlu-test            arc_challenge-test
``mixture``         a third each: mmlu-val and mmlu-    a third each: mmlu-  arc_challenge-test,
                    dev, medmcqa-train_sample1000,      test, medmcqa-       commonsenseqa-validation
                    openbookqa-train                    validation,
                                                        openbookqa-test
==================  ==================================  ===================  =========================

FOLDER holds these as JSONL (or .jsonl.gz). Each size takes questions by SHA-256, so a smaller one is part of a larger one.
Questions that are in two sets are taken out of training by name. ``mixture`` is the paper's domain as far as these files
have it. Without --model it is SmolLM2-135M-Instruct, which comes with the extra [demo]. With preference pairs or prompts,
each chosen model is compared with the aligned one. Writes the table to OUT/CONTEST/table and its numbers to
``recipes/ladder-<contest>.json``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from calibrant import PromptStyle, QuestionSet, TuneConfig, load_questions, split_questions
from calibrant.alignment import AlignSettings, load_preferences, load_prompts
from calibrant.demo import demo_model_path
from calibrant.demo.run import STYLE
from calibrant.demo.worldknowledge import OUT_OF_DOMAIN, demo_questions
from calibrant.files import write_json
from calibrant.ladder import Ladder, Table, read_table, settings_named, write_table
from calibrant.questions import check_cluster, drop_leaked

CONTESTS: dict[str, tuple[tuple[tuple[tuple[str, ...], str], ...], tuple[str, ...]]] = {
    "arc": (
        ((("arc_easy-train",), "arc_easy-test"),),
        ("arc_challenge-test", "openbookqa-test", "commonsenseqa-validation", "mmlu-test"),
    ),
    "openbookqa": (((("openbookqa-train",), "openbookqa-test"),), ("arc_challenge-test",)),
    "commonsenseqa": (((("commonsenseqa-train",), "commonsenseqa-validation"),), ("openbookqa-test",)),
    "mmlu": (((("mmlu-val", "mmlu-dev"), "mmlu-test"),), ("arc_challenge-test",)),
    "mixture": (
        (
            (("mmlu-val", "mmlu-dev"), "mmlu-test"),
            (("medmcqa-train_sample1000",), "medmcqa-validation"),
            (("openbookqa-train",), "openbookqa-test"),
        ),
        ("arc_challenge-test", "commonsenseqa-validation"),
    ),
}
"""Sources, each its files to train on and its file to test on; and the files out of domain."""
RESULTS = ("--out", "--numbers")
CONTRASTED = ("accuracy", "conf_ece", "nll")
KEPT = ("value", "low", "high", "floor_mean", "floor_p95", "runs", "sd")
Sets = tuple[dict[str, QuestionSet], dict[str, QuestionSet]]


def main() -> None:
    """Run, or go on with a run; write the table and its numbers."""
    options = parsed()
    splits, far = demo(options) if options.contest == "demo" else contest(options)
    out = options.out / options.contest
    climb = Ladder(
        options.model or demo_model_path(),
        splits,
        out,
        ood=far,
        reference=options.reference,
        alignment_adapter=options.alignment_adapter,
        fixes=options.fixes.split(",") if options.fixes else None,
        budget=options.budget,
        seeds=options.seeds,
        settings=settings_named(options.settings),
        config=TuneConfig(
            epochs=options.epochs,
            learning_rate=options.lr,
            seed=options.seed,
            micro_batch_size=options.micro_batch,
            gradient_checkpointing=options.gradient_checkpointing,
        ),
        style=style(options),
        **alignment(options),
        progress=True,
        command=shlex.join(["python", "recipes/ladder.py", *without_places(sys.argv[1:])]),
        loading={"device": options.device, "dtype": options.dtype},
    )
    if options.dry:
        print(climb.dry_run().to_text())
        return
    check_cluster(options.cluster, climb.exam)
    climb.run()
    if options.no_table:
        return
    table = read_table(out, n_boot=options.draws, cluster=options.cluster)
    write_table(table, out)
    write_json(options.numbers or Path(__file__).with_name(f"ladder-{options.contest}.json"), summarise(table))


def parsed() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contest", choices=("demo", *CONTESTS), required=True)
    parser.add_argument("--data", type=Path, help="folder of JSONL files")
    parser.add_argument("--model", default=None)
    parser.add_argument("--reference", default=None, help="the model before its alignment")
    parser.add_argument("--alignment-adapter", default=None, help="the LoRA adapter that lies between the two")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--ood", type=int, default=500, help="questions of each set out of domain")
    parser.add_argument("--fixes", default=None)
    parser.add_argument(
        "--preferences", default=None, help="preference pairs to compare each model with the aligned on"
    )
    parser.add_argument("--prompts", default=None, help="prompts to do so; the checkable instructions are left out")
    parser.add_argument("--limit-pairs", type=int, default=None, help="the first so many pairs")
    parser.add_argument("--limit-prompts", type=int, default=None, help="the first so many prompts")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="where answers to prompts are cut")
    parser.add_argument("--budget", default="standard")
    parser.add_argument("--settings", default=None, help="instead of a sweep, as an earlier contest chose")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--micro-batch", type=int, default=None, help="questions a forward pass, where memory is short")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory for a third more time")
    parser.add_argument("--reading", default="continuation", choices=("continuation", "letters"))
    parser.add_argument("--variant", default="sum", help="of a continuation: sum, per_token, per_char or pmi")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--cluster", default=None, help="column whose groups are resampled whole (demo: entity)")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--numbers", type=Path, default=None, help="file for the numbers")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--no-table", action="store_true", help="fill the folder alone; another call writes the table")
    options = parser.parse_args()
    if options.contest != "demo" and options.data is None:
        parser.error(f"--contest {options.contest} needs --data FOLDER")
    return options


def style(options: argparse.Namespace) -> PromptStyle:
    """How questions are put: texts as in the demo, or letters."""
    return replace(STYLE if options.reading == "continuation" else PromptStyle(), variant=options.variant)


def alignment(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a ladder that checks alignment; none where no pairs and no prompts are named."""
    pairs = options.preferences and load_preferences(options.preferences, limit=options.limit_pairs)
    prompts = options.prompts and load_prompts(options.prompts, limit=options.limit_prompts)
    if pairs is None and prompts is None:
        return {}
    settings = AlignSettings(max_new_tokens=options.max_new_tokens, instructions=False, seed=options.seed)
    return {"preferences": pairs, "prompts": prompts, "align": settings}


def demo(options: argparse.Namespace) -> Sets:
    """World knowledge, split by entity."""
    sets = demo_questions(train=options.train, calibration=options.calibration, test=options.test, ood=options.ood)
    return {n: sets[n] for n in ("train", "calibration", "test")}, {n: sets[n] for n in OUT_OF_DOMAIN}


def contest(options: argparse.Namespace) -> Sets:
    """Files to splits: test and out-of-domain questions first, then what is left of the training files."""
    sources, far = CONTESTS[options.contest]
    tests = [
        some(load(options.data, test), part(options.test, i, len(sources)), options.seed)
        for i, (_, test) in enumerate(sources)
    ]
    exam = {"test": joined(tests)}
    for name in far:
        found = some(load(options.data, name), options.ood, options.seed)
        exam[name] = drop_leaked(exam["test"], found)
    seen, pools = list(exam.values()), []
    for files, _ in sources:
        pool = merged(files[0], [load(options.data, name) for name in files])
        for kept in seen:
            pool = drop_leaked(kept, pool)
        seen.append(pool)
        pools.append(pool)
    wanted = [
        {n: part(getattr(options, n), i, len(pools)) for n in ("train", "calibration")} for i in range(len(pools))
    ]
    share = min(1.0, *(len(pool) / sum(sizes.values()) for pool, sizes in zip(pools, wanted, strict=True)))
    if share < 1:
        print(f"too few questions to train on: {share:.0%} of --train and --calibration are taken", file=sys.stderr)
    parts: dict[str, list[QuestionSet]] = {"train": [], "calibration": []}
    for pool, sizes in zip(pools, wanted, strict=True):
        found_here = split_questions(
            pool, **{n: int(share * size) for n, size in sizes.items()}, test=0, seed=options.seed
        )
        for name, into in parts.items():
            into.append(found_here[name])
    return {**{name: joined(found) for name, found in parts.items()}, "test": exam.pop("test")}, exam


def part(n: int, i: int, of: int) -> int:
    """The i-th of so many whole parts of n."""
    return (n + i) // of


def joined(parts: list[QuestionSet]) -> QuestionSet:
    """The parts of several sources as one set, named after all of them."""
    return merged("+".join(one.name for one in parts), parts) if len(parts) > 1 else parts[0]


def load(folder: Path, name: str) -> QuestionSet:
    """One file, repeated and bad rows left out by name."""
    path = next((p for p in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if p.exists()), None)
    return load_questions(path or folder / f"{name}.jsonl", skip_bad=True)


def some(questions: QuestionSet, n: int, seed: int) -> QuestionSet:
    """At most n of them, by SHA-256, under the name of the whole."""
    if n >= len(questions):
        return questions
    found = split_questions(questions, train=0, calibration=0, test=n, seed=seed)["test"]
    return QuestionSet(questions.name, found.questions)


def merged(name: str, parts: list[QuestionSet]) -> QuestionSet:
    """Several files as one set; what stands in an earlier one is left out of a later one."""
    whole = QuestionSet(name, parts[0].questions)
    for other in parts[1:]:
        whole = QuestionSet(name, whole.questions + drop_leaked(whole, other).questions)
    return whole


def summarise(table: Table) -> dict[str, Any]:
    """The numbers of a table without its contrasts' details."""
    found = table.to_json()
    rows = {
        one["name"]: {
            "n": one["n"],
            "n_clusters": one["n_clusters"],
            "best": one["best"],
            "rows": {
                name: {
                    "seeds": row["seeds"],
                    "cut": row["cut"],
                    **{metric: short(row[metric], contrasts=metric in CONTRASTED) for metric in one["best"]},
                }
                for name, row in one["rows"].items()
            },
        }
        for one in found["sets"]
    }
    run = {name: found["run"][name] for name in ("budget", "prompt", "config", "questions")}
    run["questions"] = {name: {"name": q["name"], "n": q["n"]} for name, q in run["questions"].items()}
    choices = {
        fix["name"]: {
            "state": fix["state"],
            "reason": fix["reason"],
            "setting": (fix["choice"] or {}).get("setting"),
            "tried": {one["setting"]: rounded(one["nll"]) for one in (fix["choice"] or {}).get("candidates", ())},
            **{key: fix[key] for key in ("seconds", "seconds_all", "parameters", "steps")},
            "alignment": kept(fix["alignment"]),
        }
        for fix in found["fixes"]
    }
    facts = {key: found["facts"][key] for key in ("dtype", "device", "command", "versions")}
    return {
        "model": Path(found["run"]["model"]).name,
        **facts,
        **run,
        "settings": found["settings"],
        "alignment": found["alignment"]
        and {key: found["alignment"][key] for key in ("preferences", "prompts", "settings")},
        "fixes": choices,
        "sets": rows,
    }


def short(metric: dict[str, Any], *, contrasts: bool) -> dict[str, Any]:
    """Value, interval, floor, runs; and each verdict with its corrected p-value. Five decimals."""
    out = {name: rounded(metric[name]) for name in KEPT if metric.get(name) is not None}
    for name in ("against_aligned", "against_best") if contrasts else ():
        contrast = metric[name]
        if contrast is not None:
            keys = ("other", "value", "low", "high", "p_corrected", "verdict")
            out[name] = {key: rounded(contrast[key]) for key in keys}
    return out


def rounded(value: Any) -> Any:
    """Numbers to five decimals."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def kept(alignment: dict[str, Any]) -> dict[str, Any]:
    """Verdict, whose model, and each number of both models, with the change, its interval and verdict."""
    numbers = {
        name: {key: check[key] for key in ("aligned", "tuned", "value", "low", "high", "n", "verdict")}
        for name, check in alignment["checks"].items()
    }
    return {**{key: alignment[key] for key in ("verdict", "of")}, **numbers}


def without_places(arguments: list[str]) -> list[str]:
    """The command line without folders of one machine: of a path that is there the last part is kept, results go anywhere."""
    kept: list[str] = []
    for option, value in pairwise(["", *arguments]):
        name, equals, given = value.partition("=")
        if name in RESULTS or (option in RESULTS and not value.startswith("--")):
            continue
        if name.startswith("--") and equals:
            kept.append(f"{name}={Path(given).name if Path(given).exists() else given}")
        else:
            kept.append(Path(value).name if option.startswith("--") and Path(value).exists() else value)
    return kept


if __name__ == "__main__":
    main()
