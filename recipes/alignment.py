"""Break calibration by alignment and mend it: SFT, then DPO at one β after another, then CFT on the worst of them.

    python recipes/alignment.py [--model FOLDER_OR_HUB_ID] [--seeds 0] [--out runs/alignment]

The preference pairs are constructed so that the human ratio is known: two answers to a question, the right one and a wrong
one, and a simulated annotator who prefers the right one with probability p (Bradley-Terry, fixed seed). Calibration is
measured on questions about other countries and states than those of SFT, DPO and CFT. A control continues SFT on the chosen
answers of the same pairs, for as many steps. Without --model: the demo's SmolLM2-135M-Instruct. Needs the extras [align]
and [demo]. Goes on where it was broken off; writes ``recipes/alignment[-NAME].json`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from alignment_figure import draw
from alignment_pairs import pairs_of, preferences
from datasets import Dataset, disable_progress_bars

from calibrant import (
    PromptStyle,
    Question,
    QuestionSet,
    Scores,
    TuneConfig,
    __version__,
    compare,
    diagnose,
    load_model,
    measure,
    score,
    split_questions,
    tune,
)
from calibrant.demo import demo_model_path, demo_questions
from calibrant.files import write_json
from calibrant.tuning.trainer import sound_attention

STYLE = PromptStyle(reading="continuation")
METRICS = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll", "brier")
CLUSTER = "entity"


@dataclass(frozen=True)
class Plan:
    """One sweep. ``steps`` and ``batch`` are of DPO and of the control alike; ``votes`` is pairs, drawn before training."""

    model: str
    betas: tuple[float, ...]
    p: float = 0.7
    votes: int = 400
    steps: int = 50
    batch: int = 8
    learning_rate: float = 5e-4
    sft_questions: int = 200
    sft_epochs: float = 2
    sft_learning_rate: float = 1e-4
    cft_epochs: float = 2
    calibration: int = 100
    test: int = 400
    rank: int = 16
    dtype: str = "auto"
    device: str = "auto"

    @property
    def loading(self) -> dict[str, str]:
        """How models are loaded."""
        return {"dtype": self.dtype, "device": self.device}


class Run:
    """One seed of a plan, in a folder of its own; each stage leaves its files there and is not done twice."""

    def __init__(self, plan: Plan, seed: int, folder: Path) -> None:
        self.plan, self.seed, self.folder = plan, seed, folder
        key = hashlib.sha256(
            json.dumps([{**asdict(plan), "betas": None, "cft_epochs": None}, seed]).encode()
        ).hexdigest()
        marker = folder / "plan.txt"
        if marker.exists() and marker.read_text() != key:
            raise SystemExit(f"{folder} holds a run with other settings: choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(key)
        questions = demo_questions(calibration=plan.calibration, test=plan.test)
        halves = split_questions(
            questions["train"],
            train=plan.sft_questions,
            calibration=0,
            test=len(questions["train"]) - plan.sft_questions,
            group=CLUSTER,
        )
        self.sft, self.compared = halves["train"], halves["test"]
        self.calibration, self.test = questions["calibration"], questions["test"]
        self.pairs = pairs_of(self.compared, plan.votes, plan.p, seed)
        self.compared_with: Dataset | None = None
        # Votes that nobody trains on show what carries over; one vote each of questions trained on shows what was learnt.
        self.held_out_pairs = pairs_of(self.test, len(self.test), plan.p, seed)
        seen = QuestionSet("seen", tuple(self.compared)[: plan.calibration])
        first = {pair.question.id: pair for pair in reversed(self.pairs)}
        self.seen, self.seen_pairs = seen, [first[q.id] for q in seen if q.id in first]

    def stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of a stage, made under a temporary name and renamed when whole."""
        final, partial = self.folder / name, self.folder / f".{name}.partial"
        if not final.exists():
            say(f"seed {self.seed}: {name}")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(final)
        return final

    def scores(self, name: str, model: Path, adapter: Path | None, questions: QuestionSet) -> Scores:
        """Scores of one model on one set, kept on disk."""
        file = self.folder / "scores" / f"{name}-{questions.name}.safetensors"
        if not file.exists():
            loaded = load_model(model, adapter=adapter, **self.plan.loading)
            scored = score(loaded, questions, style=STYLE, split=questions.name, seed=self.seed)
            scored.save(file)
        return Scores.load(file)

    # ---- stages -----------------------------------------------------------------------------------------------------

    def supervised(self, out: Path) -> None:
        """SFT of the base model on right answers (TRL), merged: the reference of all that follows."""
        p = self.plan
        rows = [_row(q, q.answer) for q in self.sft]
        steps = max(1, round(p.sft_epochs * len(rows) / p.batch))
        model = self._sft(p.model, rows, steps, p.sft_learning_rate, out)
        _save_merged(model, out)

    def control(self, out: Path) -> None:
        """SFT goes on, on the chosen answers of the very same pairs, for as many steps as DPO."""
        rows = [_row(pair.question, pair.chosen) for pair in self.pairs]
        self._sft(str(self.folder / "sft"), rows, self.plan.steps, self.plan.learning_rate, out)[0].save_pretrained(out)

    def _sft(self, name: str, rows: list[dict[str, str]], steps: int, rate: float, out: Path) -> tuple[Any, Any]:
        loaded = load_model(name, **self.plan.loading)
        config = trl.SFTConfig(completion_only_loss=True, **self._common(out, steps, rate, loaded))
        trainer = trl.SFTTrainer(
            loaded.model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
            peft_config=self._lora(),
        )
        _train(trainer, out)
        return trainer.model, loaded.tokenizer

    def dpo(self, beta: float) -> Callable[[Path], None]:
        """DPO on the pairs from the SFT model, which is the reference too."""

        def make(out: Path) -> None:
            loaded = load_model(self.folder / "sft", **self.plan.loading)
            config = trl.DPOConfig(
                beta=beta,
                precompute_ref_log_probs=self.compared_with is None,
                **self._common(out, self.plan.steps, self.plan.learning_rate, loaded),
            )
            rows = [
                {
                    "prompt": STYLE.render(pair.question).prompt,
                    "chosen": _option(pair.question, pair.chosen),
                    "rejected": _option(pair.question, pair.rejected),
                }
                for pair in self.pairs
            ]
            trainer = trl.DPOTrainer(
                loaded.model,
                args=config,
                train_dataset=Dataset.from_list(rows),
                processing_class=loaded.tokenizer,
                peft_config=self._lora(),
            )
            if self.compared_with is None:
                self.compared_with = trainer.train_dataset
            else:  # the reference's log-probabilities are the same for every β
                trainer.train_dataset, trainer.precompute_ref_logps = self.compared_with, True
            _train(trainer, out)
            trainer.model.save_pretrained(out)

        return make

    def merged(self, adapter: Path) -> Callable[[Path], None]:
        """The SFT model with a DPO adapter in its weights, to be tuned in turn."""

        def make(out: Path) -> None:
            loaded = load_model(self.folder / "sft", adapter=adapter, **self.plan.loading)
            _save_merged((loaded.model, loaded.tokenizer), out)

        return make

    def _lora(self) -> peft.LoraConfig:
        return peft.LoraConfig(
            r=self.plan.rank, lora_alpha=2 * self.plan.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )

    def _common(self, out: Path, steps: int, rate: float, loaded: Any) -> dict[str, Any]:
        on_cpu = loaded.device.type == "cpu"
        return {
            "output_dir": str(out),
            "max_steps": steps,
            "per_device_train_batch_size": self.plan.batch,
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "seed": self.seed,
            "bf16": loaded.facts["dtype"] == "bfloat16" and not on_cpu,
            "use_cpu": on_cpu,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_steps": max(1, steps // 12),
            "disable_tqdm": True,
            "report_to": "none",
            "dataloader_pin_memory": not on_cpu,
        }

    # ---- the whole --------------------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        """All stages, then all numbers."""
        reference = self.stage("sft", self.supervised)
        models: dict[str, tuple[Path, Path | None]] = {"base": (Path(self.plan.model), None), "sft": (reference, None)}
        models["control"] = (reference, self.stage("control", self.control))
        for beta in self.plan.betas:
            models[f"dpo-{beta:g}"] = (reference, self.stage(f"dpo-{beta:g}", self.dpo(beta)))
        scored = {"base": self._scored("base", *models.pop("base"), (self.test,))}
        sets = (self.calibration, self.test, self.seen)
        scored |= {name: self._scored(name, *where, sets) for name, where in models.items()}
        aligned = [name for name in scored if name.startswith("dpo-")]
        # Chosen on the calibration questions; the test questions only measure.
        worst = max(aligned, key=lambda name: measure(scored[name]["calibration"])["conf_ece"].value)
        whole = self.stage(f"{worst}-merged", self.merged(models[worst][1]))
        # The questions of DPO, with their right answers now, at DPO's own batch and learning rate.
        plan, out = self.plan, self.folder / f"{worst}-cft"
        config = TuneConfig(
            objective="cft",
            epochs=plan.cft_epochs,
            batch_size=plan.batch,
            learning_rate=plan.learning_rate,
            train_sample=60,
            seed=self.seed,
        )
        say(f"seed {self.seed}: {out.name}")
        result = tune(whole, self.compared, self.calibration, out=out, config=config, style=STYLE, **plan.loading)
        scored["cft"] = self._scored(f"{out.name}-{result.steps}", whole, result.adapter, sets)
        compared = compare(scored[worst]["test"], scored["cft"]["test"], cluster=CLUSTER)
        return {
            "seed": self.seed,
            "questions": {
                "sft": len(self.sft),
                "dpo and cft": len(self.compared),
                "calibration": len(self.calibration),
                "test": len(self.test),
            },
            "pairs": {
                "n": len(self.pairs),
                "right preferred": round(sum(pair.prefers_right for pair in self.pairs) / len(self.pairs), 4),
            },
            "worst": worst,
            "restored": {
                "change": {name: compared[name].to_json() for name in ("accuracy", "conf_ece", "nll")},
                "questions": result.questions,
                "steps": result.steps,
                "best_epoch": result.best_epoch,
                "config": result.config,
                "history": list(result.history),
            },
            "models": {name: self._numbers(name, s, scored["sft"]) for name, s in scored.items()},
        }

    def _scored(self, name: str, model: Path, adapter: Path | None, sets: Sequence[QuestionSet]) -> dict[str, Scores]:
        say(f"seed {self.seed}: scores of {name}")
        found = {questions.name: self.scores(name, model, adapter, questions) for questions in sets}
        m = measure(found["test"])
        say("  " + ", ".join(f"{x} {m[x].value:.3f}" for x in ("accuracy", "mean_confidence", "conf_ece")))
        return found

    def _numbers(self, name: str, scored: dict[str, Scores], reference: dict[str, Scores]) -> dict[str, Any]:
        test = scored["test"]
        measured = measure(test, cluster=CLUSTER)
        found = diagnose(test, reference=None if name in {"base", "sft"} else reference["test"])
        out: dict[str, Any] = {metric: measured[metric].to_json() for metric in METRICS}
        out["entropy"] = found.collapse.entropy.to_json()
        out["share_near_one"] = found.collapse.share_near_one.to_json()
        out["diagnosis"] = {
            "verdict": found.verdict,
            "action": found.action,
            "collapsed": found.collapsed,
            "reasons": list(found.reasons),
            "warnings": list(found.warnings),
        }
        if name in {"base", "sft"}:
            return out
        out["change_of_conf_ece"] = compare(reference["test"], test, cluster=CLUSTER)["conf_ece"].to_json()
        assert found.collapse.shift is not None
        out["against_sft"] = found.collapse.shift.to_json()
        beta = float(name.removeprefix("dpo-")) if name.startswith("dpo-") else None
        for label, after, before, pairs in (
            ("held_out", test, reference["test"], self.held_out_pairs),
            ("trained_on", scored["seen"], reference["seen"], self.seen_pairs),
        ):
            out[f"pairs_{label}"] = preferences(after, before, pairs, self.plan.p, beta)
        return out


def _train(trainer: Any, out: Path) -> None:
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    with sound_attention():
        trainer.train()
    write_json(out / "log.json", trainer.state.log_history)


def _row(question: Question, option: int) -> dict[str, str]:
    return {"prompt": STYLE.render(question).prompt, "completion": _option(question, option)}


def _option(question: Question, k: int) -> str:
    return STYLE.render(question).options[k][0]


def _save_merged(parts: tuple[Any, Any], out: Path) -> None:
    model, tokenizer = parts
    model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)


def rounded(value: Any) -> Any:
    """The same, with numbers to five digits after the point."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run every seed; write numbers and drawing after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="hub id, folder or GGUF file; default: the demo's")
    parser.add_argument("--name", default="", help="suffix of the files that are written")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.5, 0.2, 0.1, 0.05, 0.01])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--more-seeds", type=int, nargs="*", default=[], help="further seeds, for --more-betas alone")
    parser.add_argument("--more-betas", type=float, nargs="+", default=[0.5, 0.05])
    for field in (
        "votes",
        "steps",
        "batch",
        "learning_rate",
        "sft_questions",
        "sft_epochs",
        "cft_epochs",
        "calibration",
        "test",
        "rank",
    ):
        kind = float if field in {"learning_rate", "sft_epochs", "cft_epochs"} else int
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, default=getattr(Plan, field))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    options = parser.parse_args()
    quiet()
    given = {name: value for name, value in vars(options).items() if name in Plan.__dataclass_fields__}
    model = str(options.model or demo_model_path())
    wanted = [(seed, tuple(options.betas)) for seed in options.seeds]
    wanted += [(seed, tuple(options.more_betas)) for seed in options.more_seeds]
    results = []
    place = Path(__file__).with_name(f"alignment{options.name and '-' + options.name}.json")
    for seed, betas in wanted:
        plan = Plan(**{**given, "model": model, "betas": betas})
        results.append(Run(plan, seed, options.out / f"seed-{seed}").go())
        settings = {**asdict(plan), "model": Path(model).name, "betas": options.betas}
        write_json(
            place,
            {
                "command": " ".join(["python recipes/alignment.py", *sys.argv[1:]]),
                "settings": settings,
                "versions": versions(),
                "prompt": asdict(STYLE),
                "clustered_by": CLUSTER,
                "seeds": rounded(results),
            },
        )
        draw(results, place.with_suffix(".svg"))


def quiet() -> None:
    """No bars and no notices of libraries; our own progress remains."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    found = {module.__name__: module.__version__ for module in (torch, transformers, peft, trl)}
    return {"calibrant": __version__, "python": platform.python_version(), **found}


if __name__ == "__main__":
    main()
