"""What ``CalibrationCallback`` costs at its default: its share of the time of a training run by TRL's ``SFTTrainer``.

    python benchmarks/callback_cost.py [--model FOLDER] [--steps 100] [--questions 32] [--every N] [--out FILE]

Needs the extras [demo] and [align]. The model of the demo, LoRA, 16 world-knowledge questions a step; beside it held-out
ones, read as letters. The share is told twice: as the callback measures it, and by a clock of its own round every event of
the callback and every step of the trainer. Writes ``benchmarks/callback_cost.json``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from calibrant.demo import demo_model_path, demo_questions
from calibrant.files import write_json
from calibrant.prompts import PromptStyle
from calibrant.tuning import CalibrationCallback

BATCH, LR = 16, 3e-4
STYLE = PromptStyle(reading="continuation")


class Timed(CalibrationCallback):
    """The callback, with the seconds of all its events."""

    inside = 0.0

    def _timed(self, event: str, *args: Any, **more: Any) -> None:
        started = time.perf_counter()
        getattr(super(), event)(*args, **more)
        self.inside += time.perf_counter() - started

    def on_train_begin(self, *args: Any, **more: Any) -> None:
        """Timed."""
        self._timed("on_train_begin", *args, **more)

    def on_step_end(self, *args: Any, **more: Any) -> None:
        """Timed."""
        self._timed("on_step_end", *args, **more)

    def on_epoch_end(self, *args: Any, **more: Any) -> None:
        """Timed."""
        self._timed("on_epoch_end", *args, **more)

    def on_train_end(self, *args: Any, **more: Any) -> None:
        """Timed."""
        self._timed("on_train_end", *args, **more)


def trainer(model: Path, train: Any, steps: int, folder: str, watch: CalibrationCallback) -> trl.SFTTrainer:
    """TRL's trainer on the answers of world-knowledge questions."""
    rendered = [(STYLE.render(q), q.answer) for q in train]
    rows = [{"prompt": r.prompt, "completion": r.options[answer][0]} for r, answer in rendered]
    arguments = trl.SFTConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        completion_only_loss=True,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=20,
        disable_tqdm=True,
    )
    return trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[watch],
    )


def main() -> None:
    """Train, print and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--every", type=int, default=None, help="default: the callback's own schedule")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    sets = demo_questions(calibration=options.questions)
    watch = Timed(sets["calibration"], every=options.every)
    with tempfile.TemporaryDirectory() as folder:
        training = trainer(options.model or demo_model_path(), sets["train"], options.steps, folder, watch)
        started = time.perf_counter()
        training.train()
        whole = time.perf_counter() - started
    kept = ("step", "accuracy", "conf_ece", "floor_p95", "mean_confidence", "seconds", "share")
    result = {
        "what": "share of the wall time of trainer.train() that CalibrationCallback took",
        "share": round(watch.inside / whole, 4),
        "share_by_the_callback": round(watch.history[-1]["share"], 4),
        "budget": watch.budget if options.every is None else None,
        "every": options.every,
        "seconds": {"all": round(whole, 1), "callback": round(watch.inside, 1)},
        "steps": options.steps,
        "questions": len(sets["calibration"]),
        "evaluations": len(watch.history),
        "history": [
            {name: round(point[name], 4) if isinstance(point[name], float) else point[name] for name in kept}
            for point in watch.history
        ],
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    write_json(options.out, result)
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
