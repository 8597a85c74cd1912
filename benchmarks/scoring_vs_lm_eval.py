"""How fast ``calibrant score`` is beside lm-eval: the same model object, questions, prompts and precision.

Each contender scores, from text to numbers, every option of every question as a continuation of the prompt of lm-eval's
arc_easy. After one warm-up of eight questions the contenders take turns, so that a change of the machine's mood meets all.
Loading the model counts for none. The log-probabilities of all contenders are compared, too.

Run: ``python benchmarks/scoring_vs_lm_eval.py --n 100`` (arc_easy of the folder that the environment variable CALIBRANT_DATA
names) or with ``--questions FILE``; needs the extra ``eval``. It writes ``benchmarks/scoring_vs_lm_eval.json``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from calibrant._version import __version__
from calibrant.demo import demo_model_path
from calibrant.files import write_json
from calibrant.intake import load_questions
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.scoring import LoadedModel, load_model, score

OUT = Path(__file__).with_suffix(".json")
STYLE = PromptStyle(reading="continuation", format="raw")
WARM_UP = 8
Contender = Callable[[list[Question]], np.ndarray]


def calibrant_contender(loaded: LoadedModel) -> Contender:
    """Log-probabilities (N, K) by ``calibrant.scoring.score`` with its default settings."""

    def run(questions: list[Question]) -> np.ndarray:
        scores = score(loaded, questions, style=STYLE)
        return scores.logp_NK + scores.logmass_N[:, None]

    return run


def lm_eval_contender(loaded: LoadedModel, batch_size: str) -> Contender:
    """The same by ``HFLM.loglikelihood``, one request an option, as lm-eval's multiple-choice tasks make them."""
    size = int(batch_size) if batch_size.isdigit() else batch_size
    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=size)

    def run(questions: list[Question]) -> np.ndarray:
        requests = []
        for q in questions:
            rendered = STYLE.render(q)
            for i, (text,) in enumerate(rendered.options):
                arguments = (rendered.prompt, text)
                requests.append(Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=i))
        found = iter(lm.loglikelihood(requests, disable_tqdm=True))
        logp_NK = np.full((len(questions), max(len(q.choices) for q in questions)), -np.inf)
        for row, q in zip(logp_NK, questions, strict=True):
            row[: len(q.choices)] = [next(found)[0] for _ in q.choices]
        return logp_NK

    return run


def main() -> None:
    """Measure, print one line a contender, write the JSON file."""
    given = arguments()
    questions = list(load_questions(given.questions, limit=given.n, skip_bad=True))
    loaded = load_model(given.model or demo_model_path(), dtype=given.dtype, device=given.device)
    contenders = {"calibrant": calibrant_contender(loaded)}
    contenders |= {f"lm-eval, batch {b}": lm_eval_contender(loaded, b) for b in given.batch_sizes}
    for run in contenders.values():
        run(questions[:WARM_UP])
    logp: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            logp[name] = run(questions)
            seconds[name].append(time.perf_counter() - start)
    present = np.isfinite(logp["calibrant"])
    rows = {}
    for name, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(taken, seconds["calibrant"], strict=True)]
        worst = float(np.abs(logp[name][present] - logp["calibrant"][present]).max())
        rows[name] = {
            "seconds": [round(s, 3) for s in taken],
            "times_calibrant": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
            "max_abs_difference_of_log_probabilities": worst,
        }
        print(
            f"{name:20} {statistics.median(taken):8.2f} s   {statistics.median(ratios):5.2f} x calibrant "
            f"({min(ratios):.2f} to {max(ratios):.2f})   log-probabilities differ by at most {worst:.1e}"
        )
    facts = {
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(loaded.device),
        },
        "versions": {
            "calibrant": __version__,
            "lm_eval": lm_eval.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "model": Path(given.model or "SmolLM2-135M-Instruct").name,
        "dtype": str(next(loaded.model.parameters()).dtype),
        "questions": {"file": Path(given.questions).name, "n": len(questions), "options": int(present.sum())},
        "rounds": given.rounds,
        "warm_up_questions": WARM_UP,
    }
    print(f"wrote {write_json(given.out, {**facts, 'contenders': rows})}")


def arguments() -> argparse.Namespace:
    """The command line."""
    data = Path(os.environ.get("CALIBRANT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", default=str(data / "arc_easy-test.jsonl.gz"), help="file of questions")
    parser.add_argument("--n", type=int, default=100, help="the first so many questions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", nargs="+", default=["1", "8", "32"], help="of lm-eval; 'auto' lets it choose")
    parser.add_argument("--model", help="hub id or folder, by default the demo's")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def cpu_model() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
