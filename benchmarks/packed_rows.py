"""One RCFT step on packed rows (one a question) beside plain rows (one an option): same model, questions, LoRA, batch.

    python benchmarks/packed_rows.py [--data FOLDER] [--model FOLDER] [--batches 10] [--batch 8]

Needs the extra [demo]; with --data (a folder that holds arc_easy-train.jsonl.gz) also ARC-Easy, whose options are longer.
Questions of four options. Batches alternate between the two kinds of rows, in an order that changes; a step is collating,
forward, loss and backward; the first batch is not counted. Writes ``benchmarks/packed_rows.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from calibrant import Question, load_questions
from calibrant.demo import demo_model_path, demo_questions
from calibrant.prompts import PromptStyle
from calibrant.scoring import load_model
from calibrant.scoring.head import Head
from calibrant.scoring.options import encode
from calibrant.tuning import TuneConfig
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.start import smoothed

CONFIG = TuneConfig(objective="rcft")


def step(model: Any, head: Head, collate: Collator, examples: list[Example]) -> tuple[float, int]:
    """Seconds and padded tokens of one step."""
    start = time.perf_counter()
    batch = collate(examples)
    loss, _ = batch_loss(model, head, batch, CONFIG)
    loss.value.backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds, batch["input_ids"].numel()


def side_by_side(model: Any, tokenizer: Any, questions: Iterable[Question], n: int, size: int) -> dict[str, Any]:
    """Ratios over ``n`` batches of ``size`` questions."""
    four = [q for q in questions if len(q.choices) == 4][: size * (n + 1)]
    encoded = encode(tokenizer, four, PromptStyle(reading="continuation"))
    # an E-step is not part of a step: any targets do
    examples = [Example(e, q.answer, smoothed(q.answer, 4, 0.3)) for e, q in zip(encoded, four, strict=True)]
    head, plain = Head.of(model), Collator(letters=False, all_options=True, prompt_tokens=True)
    packed, facts = choose_rows(model, head, plain, examples)
    batches = []
    for i in range(n + 1):
        some = examples[i * size : (i + 1) * size]
        order = [("plain", plain), ("packed", packed)]
        seen = {name: step(model, head, rows, some) for name, rows in (order if i % 2 else order[::-1])}
        if i:
            batches.append(
                {
                    **{f"{name}_s": round(seconds, 3) for name, (seconds, _) in seen.items()},
                    **{f"{name}_tokens": tokens for name, (_, tokens) in seen.items()},
                    "ratio": round(seen["plain"][0] / seen["packed"][0], 3),
                }
            )
            print(batches[-1], flush=True)
    ratios = [b["ratio"] for b in batches]
    return {
        "questions": len(four),
        "mean_prompt_tokens": round(statistics.mean(len(e.prompt) for e in encoded), 1),
        "mean_option_tokens": round(statistics.mean(len(o[0]) for e in encoded for o in e.options), 1),
        "rows": facts,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [min(ratios), max(ratios)],
        "tokens_ratio": round(sum(b["plain_tokens"] for b in batches) / sum(b["packed_tokens"] for b in batches), 3),
        "batches": batches,
    }


def main() -> None:
    """Run the batches, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    loaded = load_model(options.model or demo_model_path(), dtype="float32", device="cpu")
    torch.manual_seed(0)
    settings = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(loaded.model, settings).train()
    wanted = options.batch * (options.batches + 1)
    sets: dict[str, Iterable[Question]] = {"demo": demo_questions(train=wanted, calibration=16)["train"]}
    if options.data is not None:
        sets["arc_easy"] = load_questions(options.data / "arc_easy-train.jsonl.gz", skip_bad=True, limit=2 * wanted)
    result = {
        "what": f"seconds of an RCFT step of {options.batch} questions; ratio = plain / packed, above 1: packed is faster",
        "sets": {
            name: side_by_side(model, loaded.tokenizer, questions, options.batches, options.batch)
            for name, questions in sets.items()
        },
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
