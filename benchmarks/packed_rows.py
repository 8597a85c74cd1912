"""One RCFT step on packed rows (one a question) beside plain rows (one an option): same model, questions, LoRA, batch.

    python benchmarks/packed_rows.py [--model FOLDER] [--batches 10] [--batch 8]

Needs the extra [demo]. Batches alternate between the two, in an order that changes; a step is forward, loss and backward, the
first batch is not counted. Writes ``benchmarks/packed_rows.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from calibrant.demo import demo_model_path, demo_questions
from calibrant.prompts import PromptStyle
from calibrant.scoring import load_model
from calibrant.scoring.head import Head
from calibrant.scoring.options import encode
from calibrant.tuning import TuneConfig
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.targets import BinAccuracy


def step(
    model: Any, head: Head, collate: Collator, examples: list[Example], bins: BinAccuracy
) -> tuple[float, float, int]:
    """Seconds, loss and padded tokens of one step."""
    start = time.perf_counter()
    batch = collate(examples)
    loss, _ = batch_loss(model, head, batch, TuneConfig(objective="rcft"), bins)
    loss.value.backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds, float(loss.value), batch["input_ids"].numel()


def main() -> None:
    """Run the batches, print and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    loaded = load_model(options.model or demo_model_path(), dtype="float32", device="cpu")
    questions = demo_questions(train=options.batch * (options.batches + 1), calibration=16)["train"]
    encoded = encode(loaded.tokenizer, list(questions), PromptStyle(reading="continuation"))
    examples = [Example(e, q.answer) for e, q in zip(encoded, questions, strict=True)]
    torch.manual_seed(0)
    settings = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(loaded.model, settings).train()
    head, bins = Head.of(model), BinAccuracy(np.linspace(0.1, 0.9, 10), np.full(10, 20))
    plain = Collator(letters=False, all_options=True, prompt_tokens=True)
    packed, facts = choose_rows(model, head, plain, examples)
    print(facts, flush=True)
    batches = []
    for i in range(options.batches + 1):
        some = examples[i * options.batch : (i + 1) * options.batch]
        order = [("plain", plain), ("packed", packed)]
        seen = {name: step(model, head, rows, some, bins) for name, rows in (order if i % 2 else order[::-1])}
        if i:
            batches.append(
                {
                    **{f"{name}_s": round(seconds, 3) for name, (seconds, _, _) in seen.items()},
                    **{f"{name}_tokens": tokens for name, (_, _, tokens) in seen.items()},
                    "ratio": round(seen["plain"][0] / seen["packed"][0], 3),
                    "loss_difference": abs(seen["plain"][1] - seen["packed"][1]),
                }
            )
            print(batches[-1], flush=True)
    ratios = [b["ratio"] for b in batches]
    result = {
        "what": f"seconds of an RCFT step of {options.batch} questions; ratio = plain / packed, above 1: packed is faster",
        "questions": len(questions),
        "options": sorted({len(q.choices) for q in questions}),
        "rows": facts,
        "batches": batches,
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "tokens_ratio": round(sum(b["plain_tokens"] for b in batches) / sum(b["packed_tokens"] for b in batches), 3),
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "batches"}, indent=2))


if __name__ == "__main__":
    main()
