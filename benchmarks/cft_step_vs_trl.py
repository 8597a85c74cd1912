"""A CFT step of ``calibrant.tune`` beside a completion-only step of TRL's ``SFTTrainer``: same model, questions, LoRA, batch.

    python benchmarks/cft_step_vs_trl.py [--model FOLDER] [--steps 8] [--rounds 3]

Needs the extras [demo] and [align]. Rounds alternate; the first step of each round is not counted. Writes
``benchmarks/cft_step_vs_trl.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from calibrant.demo import demo_model_path, demo_questions
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.tuning import TuneConfig, tune

BATCH, LR = 16, 3e-4
STYLE = PromptStyle(reading="continuation")


class StepTimes(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.started)


def ours(model: Path, train: QuestionSet, calibration: QuestionSet) -> list[float]:
    """Step times of ``calibrant.tune``."""
    clock = StepTimes()
    config = TuneConfig(objective="cft", epochs=1, batch_size=BATCH, learning_rate=LR, keep="last")
    with tempfile.TemporaryDirectory() as folder:
        tune(model, train, calibration, out=folder, config=config, style=STYLE, callbacks=[clock])
    return clock.seconds[1:]


def theirs(model: Path, train: QuestionSet) -> list[float]:
    """Step times of TRL's SFTTrainer with completion-only loss."""
    clock = StepTimes()
    rendered = [(STYLE.render(q), q.answer) for q in train]
    rows = [{"prompt": r.prompt, "completion": r.options[answer][0]} for r, answer in rendered]
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=LR,
            completion_only_loss=True,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            disable_tqdm=True,
        )
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(model),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds[1:]


def main() -> None:
    """Run the rounds, print and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = options.model or demo_model_path()
    sets = demo_questions(train=BATCH * options.steps, calibration=16)
    rounds = []
    for _ in range(options.rounds):
        a = statistics.median(ours(model, sets["train"], sets["calibration"]))
        b = statistics.median(theirs(model, sets["train"]))
        rounds.append({"calibrant_s": round(a, 3), "trl_s": round(b, 3), "ratio": round(b / a, 3)})
        print(rounds[-1], flush=True)
    ratios = [r["ratio"] for r in rounds]
    result = {
        "what": "median seconds of one step of 16 questions; ratio = TRL / calibrant, above 1 where calibrant is faster",
        "questions": len(sets["train"]),
        "rounds": rounds,
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
