"""Intervals where nearly all answers are right: how often they hold the truth, and how often ``compare`` names the wrong model.

    python benchmarks/rare_errors.py

Calibrated models with four options and confidence ``1 - .7 Beta(1, 1/s - 1)``; each is measured, and compared with itself
at a temperature of .7, which is truly worse. Beside the package's intervals of nll and Brier those of the plain percentile
bootstrap; for AUROC and AURC the percentile bootstrap by the number of wrong answers. Writes ``rare_errors.json`` beside it.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import Scores, compare, measure
from calibrant.files import write_json
from calibrant.metrics.profile import exact_profile, resample
from calibrant.metrics.ranking import aurc_of, auroc_of
from calibrant.metrics.sums import QuestionSums, bootstrap_sums
from calibrant.metrics.uncertainty import percentile_interval
from calibrant.scalers import at_temperature

SEED, DRAWS, SHARPER, MANY = 0, 300, 0.7, 400_000
SPREADS, SIZES = (0.01, 0.03, 0.06, 0.1, 0.3), (100, 200, 500)
LOSSES = ("nll", "brier")
WRONG = ((0, 2), (3, 5), (6, 9), (10, 14), (15, 29), (30, 10_000))


def probabilities(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    """Option probabilities of a model, (N, 4)."""
    c_N = np.clip(1 - 0.7 * rng.beta(1, 1 / spread - 1, n), None, 1 - 1e-9)
    return np.column_stack([c_N, *((1 - c_N) / 3,) * 3])


def answers(rng: np.random.Generator, p_NK: np.ndarray) -> np.ndarray:
    """Answers for which it is calibrated, (N,)."""
    return (rng.random((len(p_NK), 1)) > np.cumsum(p_NK, axis=1)[:, :-1]).sum(1)


def expected(p_NK: np.ndarray, q_NK: np.ndarray) -> dict[str, float]:
    """Expected losses of q where p is the truth."""
    return {
        "nll": float((-p_NK * np.log(q_NK)).sum(1).mean()),
        "brier": float(((q_NK**2).sum(1) - 2 * (p_NK * q_NK).sum(1) + 1).mean()),
    }


def plain_ends(a: Scores, b: Scores, seed: int) -> dict[str, tuple[float, float]]:
    """Percentiles of the change of each loss, and of each loss of a."""
    sums_a, sums_b = QuestionSums(a, 10), QuestionSums(b, 10)
    drawn_a = sums_a.means(bootstrap_sums(sums_a.columns, a.n, DRAWS, seed))
    drawn_b = sums_b.means(bootstrap_sums(sums_b.columns, b.n, DRAWS, seed))
    ends = {name: percentile_interval(drawn_a[name]) for name in LOSSES}
    return ends | {f"change of {name}": percentile_interval(drawn_b[name] - drawn_a[name]) for name in LOSSES}


def losses(spread: float, n: int, repeats: int) -> dict[str, object]:
    """Shares of samples of n questions, by number and kind of interval."""
    rng = np.random.default_rng([SEED, n, round(1000 * spread)])
    p_NK = probabilities(np.random.default_rng(SEED), MANY, spread)
    q_NK = p_NK ** (1 / SHARPER)
    q_NK /= q_NK.sum(1, keepdims=True)
    truth, sharp = expected(p_NK, p_NK), expected(p_NK, q_NK)
    truth |= {f"change of {name}": sharp[name] - truth[name] for name in LOSSES}
    covered: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(truth, 0))
    wrong_model: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(LOSSES, 0))
    for i in range(repeats):
        some_NK = probabilities(rng, n, spread)
        a = Scores.from_probs(some_NK, answers(rng, some_NK))
        b = at_temperature(a, SHARPER)
        measured, compared = measure(a, n_boot=DRAWS, seed=i), compare(a, b, n_boot=DRAWS, seed=i)
        ends = {name: (measured[name].low, measured[name].high) for name in LOSSES}
        ends |= {f"change of {name}": (compared[name].low, compared[name].high) for name in LOSSES}
        for kind, found in (("calibrant", ends), ("percentiles", plain_ends(a, b, i))):
            for name, (low, high) in found.items():
                covered[kind][name] += low <= truth[name] <= high
            for name in LOSSES:
                wrong_model[kind][name] += found[f"change of {name}"][1] < 0
    return {
        "accuracy": round(float(p_NK.max(1).mean()), 3),
        "n": n,
        "coverage": {kind: {name: x / repeats for name, x in counts.items()} for kind, counts in covered.items()},
        "wrong_model": {
            kind: {name: x / repeats for name, x in counts.items()} for kind, counts in wrong_model.items()
        },
    }


def ranking(repeats: int) -> dict[str, dict[str, float]]:
    """Coverage of percentile intervals of AUROC and AURC by the number of wrong answers in the sample."""
    held: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for spread in SPREADS:
        rng = np.random.default_rng([SEED, round(1000 * spread)])
        p_NK = probabilities(rng, MANY, spread)
        whole = exact_profile(p_NK.max(1), rng.random(MANY) < p_NK.max(1))
        truth = float(auroc_of(whole)), float(aurc_of(whole))
        for n in SIZES:
            for i in range(repeats):
                c_N = probabilities(rng, n, spread).max(1)
                right_N = rng.random(n) < c_N
                drawn = resample(exact_profile(c_N, right_N), DRAWS, i)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    draws = [x_B[np.isfinite(x_B)] for x_B in (auroc_of(drawn), aurc_of(drawn))]
                if right_N.all() or min(map(len, draws)) == 0:
                    continue
                ends = [percentile_interval(x_B) for x_B in draws]
                wrong = int((~right_N).sum())
                where = next(f"{low} to {high}" for low, high in WRONG if low <= wrong <= high)
                held[where].append((ends[0][0] <= truth[0] <= ends[0][1], ends[1][0] <= truth[1] <= ends[1][1]))
    ordered = (f"{low} to {high}" for low, high in WRONG)
    return {
        where: {"samples": len(held[where])}
        | {name: round(float(np.mean([x[j] for x in held[where]])), 3) for j, name in enumerate(("auroc", "aurc"))}
        for where in ordered
        if held[where]
    }


def table(out: dict[str, Any]) -> str:
    """Of each number the package's coverage and that of percentiles, in percent."""
    kinds = ("calibrant", "percentiles")
    names = ("nll", "brier", "change of nll", "change of brier")
    shown = (*names, "wrong model by nll", "by brier")
    lines = [f"| accuracy | n | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for row in out["losses"]:
        cells = [[row["coverage"][kind][name] for kind in kinds] for name in names]
        cells += [[row["wrong_model"][kind][name] for kind in kinds] for name in LOSSES]
        text = " | ".join(" / ".join(f"{100 * x:.0f}" for x in pair) for pair in cells)
        lines.append(f"| {row['accuracy']:.3f} | {row['n']} | {text} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    rows = [losses(spread, n, repeats) for spread in SPREADS for n in SIZES]
    out = {
        "command": f"python benchmarks/rare_errors.py --repeats {repeats}",
        "repeats": repeats,
        "draws": DRAWS,
        "seed": SEED,
        "losses": rows,
        "ranking_by_wrong_answers": ranking(repeats),
    }
    write_json(Path(__file__).with_suffix(".json"), out)
    print(table(out), out["ranking_by_wrong_answers"], sep="\n")


if __name__ == "__main__":
    main()
