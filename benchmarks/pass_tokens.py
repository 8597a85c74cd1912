"""One CFT step cut into forward passes of several sizes in tokens: same model, questions, LoRA, batch.

    python benchmarks/pass_tokens.py --data FOLDER [--files arc_easy-train,mmlu-val] [--batches 3] [--batch 16]

FOLDER holds FILE.jsonl.gz. Needs the extra [demo]. CFT over the options, packed rows. Every batch is run with each number of
tokens a pass, in an order that changes; a step is cutting, collating, forward, loss and backward; the first batch is not
counted. On a GPU: ``--device cuda --dtype bfloat16``, larger ``--sizes``. Writes ``benchmarks/pass_tokens.json``.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from calibrant import Question, load_questions
from calibrant.demo import demo_model_path
from calibrant.files import write_json
from calibrant.prompts import PromptStyle
from calibrant.scoring import load_model
from calibrant.scoring.head import Head
from calibrant.scoring.options import encode
from calibrant.tuning import TuneConfig
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss

CONFIG = TuneConfig(objective="cft", over="options")


def step(model: Any, head: Head, collate: Collator, examples: list[Example], tokens: int) -> tuple[float, int, int]:
    """Seconds, passes and padded tokens of one step."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, padded = time.perf_counter(), 0
    passes = collate.passes(examples, tokens)
    for one in passes:
        batch = {name: value.to(device) for name, value in collate(one).items()}
        loss, _ = batch_loss(model, head, batch, CONFIG)
        loss.value.backward()
        padded += batch["input_ids"].numel()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds, len(passes), padded


def compared(model: Any, tokenizer: Any, questions: list[Question], sizes: list[int], options: Any) -> dict[str, Any]:
    """Seconds of a step by tokens a pass, over the same batches; and as a multiple of the least."""
    some = random.Random(0).sample(questions, options.batch * (options.batches + 1))
    encoded = encode(tokenizer, some, PromptStyle(reading="continuation"), context_length=2048)
    examples = [Example(e, q.answer) for e, q in zip(encoded, some, strict=True)]
    head, collate = Head.of(model), Collator(letters=False, all_options=True, prompt_tokens=False, packed=True)
    seen: dict[int, list[tuple[float, int, int]]] = {size: [] for size in sizes}
    for i in range(options.batches + 1):
        batch = examples[i * options.batch : (i + 1) * options.batch]
        for size in random.Random(i).sample(sizes, len(sizes)):
            found = step(model, head, collate, batch, size)
            if i:
                seen[size].append(found)
            print(i, size, [round(x, 2) for x in found], flush=True)
    median = {size: statistics.median(seconds for seconds, _, _ in found) for size, found in seen.items()}
    lengths = [e.n_tokens for e in encoded]
    return {
        "questions": len(some),
        "median_tokens": statistics.median(lengths),
        "max_tokens": max(lengths),
        "by_tokens_a_pass": {
            str(size): {
                "step_s": round(median[size], 3),
                "steps_s": [round(seconds, 3) for seconds, _, _ in found],
                "times_the_least": round(median[size] / min(median.values()), 2),
                "passes": round(statistics.mean(n for _, n, _ in found), 1),
                "padded_tokens": round(statistics.mean(padded for _, _, padded in found)),
            }
            for size, found in seen.items()
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", default="arc_easy-train,mmlu-val")
    parser.add_argument("--sizes", default="256,512,1024,2048")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    loaded = load_model(demo_model_path(), device=options.device, dtype=options.dtype)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, lora)
    model.train()
    sizes = [int(size) for size in options.sizes.split(",")]
    found = {}
    for name in options.files.split(","):
        questions = load_questions(options.data / f"{name}.jsonl.gz", skip_bad=True)
        found[name] = compared(model, loaded.tokenizer, list(questions), sizes, options)
        print(name, found[name], flush=True)
    facts = {
        "model": Path(loaded.facts["model"]).name,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU",
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_json(options.out, {**facts, "files": found})


if __name__ == "__main__":
    main()
