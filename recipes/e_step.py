"""RCFT's targets, kept as the E-step made them or following the confidence and order of each step: a toy with shared weights.

    python recipes/e_step.py [--seeds 5]

A linear model with four options whose weights are three times too large and noisy is drawn to its targets, with a log loss of
weight w beside it: L = w · (−log p_y) + Σ_k (p_k − t_k)². Under L_SFT2 the answer is one token of many, so w stands for one
over the tokens of a question. Four E-steps, each on 600 held-out questions, with one pass over 1,200 training questions
between them, 4,000 test questions. Writes ``recipes/e_step.json``: accuracy, conf-ECE and log loss, mean and range over the
seeds, at the start and after each pass.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibrant import Scores, TuneConfig
from calibrant.files import write_json
from calibrant.metrics import conf_ece, nll
from calibrant.tuning.losses import ece_term, option_logp
from calibrant.tuning.targets import BinAccuracy, target_distribution
from calibrant.tuning.trainer import e_step

WEIGHTS, PASSES, RATE = (0.0, 0.01, 0.1, 1.0), 4, 0.08
TRAIN, HELD_OUT, TEST = slice(0, 1200), slice(1200, 1800), slice(1800, 5800)


def main() -> None:
    """Both kinds of targets under each weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for weight in WEIGHTS:
        for frozen in (False, True):
            name = "kept from the E-step" if frozen else "following each step"
            runs = np.array([path(seed, weight, frozen=frozen) for seed in range(options.seeds)])
            found.setdefault(f"w = {weight:g}", {})[name] = {
                metric: [summary(runs[:, i, m]) for i in range(PASSES + 1)]
                for m, metric in enumerate(("accuracy", "conf_ece", "nll"))
            }
            last = {metric: values[-1]["mean"] for metric, values in found[f"w = {weight:g}"][name].items()}
            print(f"w = {weight:g}, {name}: {last}", flush=True)
    write_json(
        Path(__file__).with_suffix(".json"), {"command": "python recipes/e_step.py", "seeds": options.seeds, **found}
    )


def path(seed: int, weight: float, *, frozen: bool) -> list[tuple[float, float, float]]:
    """Accuracy, conf-ECE and log loss of the test questions before the first pass and after each."""
    draw = torch.Generator().manual_seed(seed)
    true_DK = torch.randn(20, 4, generator=draw) * 0.35
    x_ND = torch.randn(TEST.stop, 20, generator=draw)
    answer_N = torch.multinomial(torch.softmax(x_ND @ true_DK, 1), 1, generator=draw)[:, 0]
    w_DK = ((true_DK + torch.randn(20, 4, generator=draw) * 0.175) * 3).requires_grad_()

    def scored(part: slice) -> Scores:
        p_NK = torch.softmax(x_ND[part] @ w_DK, 1).detach().double().numpy()
        return Scores.from_probs(p_NK, answer_N[part].tolist())

    optimiser, found = torch.optim.Adam([w_DK], lr=RATE), [measured(scored(TEST))]
    for _ in range(PASSES):
        held_out = scored(HELD_OUT)
        bins, targets = BinAccuracy.of(held_out), e_step(scored(TRAIN), held_out, TuneConfig(objective="rcft"))
        for index_B in torch.randperm(TRAIN.stop, generator=draw).split(16):
            logp_BK = option_logp(x_ND[index_B] @ w_DK)
            target_BK = targets.of_batch(index_B, 4) if frozen else following(logp_BK.detach().exp(), bins)
            log_loss = -logp_BK.gather(1, answer_N[index_B][:, None]).sum()
            optimiser.zero_grad()
            (weight * log_loss + ece_term(logp_BK, target_BK).value).backward()
            optimiser.step()
        found.append(measured(scored(TEST)))
    return found


def following(p_BK: Tensor, bins: BinAccuracy) -> Tensor:
    """Targets of the bins in which the probabilities of this step lie, in the order of this step."""
    a_B = torch.as_tensor(bins.of_confidence(p_BK.max(1).values.double().numpy()), dtype=p_BK.dtype)
    return target_distribution(p_BK, torch.full((len(p_BK),), p_BK.shape[1]), a_B)


def measured(scores: Scores) -> tuple[float, float, float]:
    """Accuracy, conf-ECE, log loss."""
    return (
        float(scores.correct_N.mean()),
        conf_ece(scores.confidence_N, scores.correct_N),
        nll(scores.logp_NK, scores.answer_N),
    )


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean and range over the seeds."""
    return {
        "mean": round(float(values.mean()), 4),
        "min": round(float(values.min()), 4),
        "max": round(float(values.max()), 4),
    }


if __name__ == "__main__":
    main()
