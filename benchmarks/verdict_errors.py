"""How often ``diagnose`` says what, in worlds whose target is known.

    python benchmarks/verdict_errors.py [--worlds 400] [--draws 1000] [--out FILE]

A world: true option probabilities π* ~ Dirichlet(1, 1, 1, 1), answers drawn from π*, and a model that has learnt a share m of
the answers by heart and is π* elsewhere. In closed form A − A* = (3/5) m, as E max π* = 25/48 and E Σ π*² = 2/5. Writes
``verdict_errors.json``, whose table stands in docs/regimes.md. Shape suffixes: N questions, K options.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from calibrant import Scores, diagnose
from calibrant.files import write_json

SIZES = (200, 500, 1000, 2000)
EXCESSES = (0.0, 0.025, 0.05, 0.075, 0.1)
VERDICTS = ("calibratable", "undecided", "non-calibratable")


def world(n: int, known: float, seed: int) -> tuple[Scores, Scores]:
    """A model and its target on the same n questions."""
    rng = np.random.default_rng([seed, 17])
    star_NK = rng.dirichlet(np.ones(4), n)
    answer_N = (rng.random((n, 1)) > np.cumsum(star_NK, 1)).sum(1).clip(max=3)
    at_N, top_N = np.arange(n), star_NK.argmax(1)
    chosen_N = np.where(rng.random(n) < known, answer_N, top_N)
    p_NK = star_NK.copy()
    p_NK[at_N, chosen_N], p_NK[at_N, top_N] = star_NK[at_N, top_N], star_NK[at_N, chosen_N]
    return Scores.from_probs(p_NK, answer_N), Scores.from_probs(star_NK, answer_N)


def main() -> None:
    """Simulate every cell, print a row each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = []
    for excess in EXCESSES:
        for n in SIZES:
            said: Counter[str] = Counter()
            for seed in range(options.worlds):
                scores, target = world(n, excess / 0.6, seed)
                said[diagnose(scores, target=target, n_boot=options.draws).verdict] += 1
            rows.append({"excess": excess, "n": n, **{v: round(100 * said[v] / options.worlds, 1) for v in VERDICTS}})
            print(rows[-1], flush=True)
    write_json(options.out, {"worlds": options.worlds, "draws": options.draws, "percent": rows})


if __name__ == "__main__":
    main()
