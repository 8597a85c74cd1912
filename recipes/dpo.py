"""An aligned model to mend: DPO on real preference pairs (TRL, a LoRA adapter, merged), whose β you choose.

    python recipes/dpo.py --model FOLDER_OR_HUB_ID --preferences FILE [FILE ...] --out FOLDER
        [--limit 3000] [--beta 0.1] [--learning-rate 1e-4] [--epochs 1] [--batch 16] [--micro-batch 4] [--max-length 512]

Preferences are what ``calibrant align-check`` reads; several files are shuffled together by the seed, pairs that do not fit
into --max-length tokens are left out and counted. FOLDER then holds whole weights, as a hub's model does, and ``dpo.json``
with what was done. Give it to ``recipes/ladder.py --model FOLDER --reference MODEL``. Needs the extra [align].
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from random import Random
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import Dataset

from calibrant import __version__, load_model
from calibrant.alignment import PreferencePair, load_preferences
from calibrant.files import write_json
from calibrant.tuning.trainer import sound_attention


def main() -> None:
    """Align, merge, write."""
    options = parsed()
    pairs = [pair for path in options.preferences for pair in load_preferences(path, skip_bad=True).items]
    Random(options.seed).shuffle(pairs)
    loaded = load_model(options.model, dtype=options.dtype, device=options.device)
    rows = [row(pair) for pair in pairs]
    kept = [one for one in rows if longest(loaded.tokenizer, one) <= options.max_length][: options.limit]
    trainer = trl.DPOTrainer(
        loaded.model,
        args=settings(options, loaded),
        train_dataset=Dataset.from_list(kept),
        processing_class=loaded.tokenizer,
        peft_config=peft.LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    with sound_attention():
        trainer.train()
    trainer.model.merge_and_unload().save_pretrained(options.out)
    loaded.tokenizer.save_pretrained(options.out)
    modules = (torch, transformers, peft, trl)
    write_json(
        options.out / "dpo.json",
        {
            "model": Path(options.model).name,
            "preferences": [path.name.partition(".")[0] for path in options.preferences],
            "pairs": len(kept),
            "too_long": sum(longest(loaded.tokenizer, one) > options.max_length for one in rows),
            **{
                name: getattr(options, name)
                for name in ("beta", "learning_rate", "epochs", "batch", "rank", "max_length", "seed")
            },
            "steps": trainer.state.global_step,
            "dtype": loaded.facts["dtype"],
            "device": loaded.facts["device"],
            "log": trainer.state.log_history,
            "versions": {
                "calibrant": __version__,
                "python": platform.python_version(),
                **{module.__name__: str(module.__version__) for module in modules},
            },
        },
    )


def parsed() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--preferences", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="pairs; default: all that fit")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=16, help="pairs an optimiser step")
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs a forward pass")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512, help="tokens of prompt and response")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def row(pair: PreferencePair) -> dict[str, Any]:
    """A pair as messages, which the trainer puts through the model's chat template."""
    return {
        "prompt": [turn._asdict() for turn in pair.prompt.turns],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


def longest(tokenizer: Any, one: dict[str, Any]) -> int:
    """Tokens of the longer of the two conversations."""
    ids = [
        tokenizer.apply_chat_template(one["prompt"] + one[side], return_dict=True)["input_ids"]
        for side in ("chosen", "rejected")
    ]
    return max(map(len, ids))


def settings(options: argparse.Namespace, loaded: Any) -> trl.DPOConfig:
    """The trainer's settings: nothing is saved but the end."""
    on_cpu = loaded.device.type == "cpu"
    return trl.DPOConfig(
        output_dir=str(options.out),
        beta=options.beta,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.batch // options.micro_batch,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_length=options.max_length,
        seed=options.seed,
        bf16=loaded.facts["dtype"] == "bfloat16" and not on_cpu,
        use_cpu=on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=not on_cpu,
    )


if __name__ == "__main__":
    main()
