"""p-values of a change in accuracy where few answers change: the percentile bootstrap, Newcombe's interval, McNemar's tests.

    python benchmarks/accuracy_change.py

Of 200 questions some change, each for better or worse alike (no change in truth); how often is p below .05 and .01, over
all ways in which that can go? And p where some few all change for the better. Writes ``accuracy_change.json`` beside it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

from calibrant.files import write_json
from calibrant.metrics.proportions import paired_share_interval

N, RIGHT, DRAWS, SEED = 200, 100, 20_000, 0
Z = float(norm.ppf(0.975))


def from_margin(value: float, low: float, high: float) -> float:
    """``2 Phi(-z |value| / margin)``, the margin that faces 0: as ``compare`` has it, without its least value."""
    return 2 * float(norm.sf(Z * abs(value) / (value - low if value > 0 else high - value)))


@cache
def p_values(better: int, worse: int) -> dict[str, float]:
    """By each way, of ``better`` and ``worse`` changed answers; not for as many of both."""
    d, value = better + worse, (better - worse) / N
    rng = np.random.default_rng([SEED, better, worse])
    up, down, rest = (rng.poisson(x, DRAWS) for x in (better, worse, N - d))
    low, high = np.quantile((up - down) / (up + down + rest), [0.025, 0.975])
    tail = float(binom.cdf(min(better, worse), d, 0.5))
    same = N - d - RIGHT
    return {
        "bootstrap": from_margin(value, float(low), float(high)),
        "newcombe": from_margin(value, *paired_share_interval(RIGHT, better, worse, same)),
        "mcnemar_exact": min(1.0, 2 * tail),
        "mcnemar_mid_p": 2 * tail - float(binom.pmf(min(better, worse), d, 0.5)),
    }


def sizes(expected: int) -> dict[str, dict[str, float]]:
    """Chance of p < .05 and p < .01 where nothing changed in truth and so many answers change on average."""
    found: dict[str, dict[str, float]] = {}
    for d in range(1, expected + 30):
        for better in range(d + 1):
            chance = float(binom.pmf(d, N, expected / N) * binom.pmf(better, d, 0.5))
            if chance < 1e-7 or 2 * better == d:
                continue
            for name, p in p_values(better, d - better).items():
                counts = found.setdefault(name, {"p < .05": 0.0, "p < .01": 0.0})
                counts["p < .05"] += chance * (p < 0.05)
                counts["p < .01"] += chance * (p < 0.01)
    return {name: {limit: round(share, 4) for limit, share in counts.items()} for name, counts in found.items()}


def main() -> None:
    """Compute, write, print."""
    out = {
        "command": "python benchmarks/accuracy_change.py",
        "n": N,
        "right_in_both": RIGHT,
        "bootstrap_draws": DRAWS,
        "seed": SEED,
        "all_better": {str(d): {k: round(p, 4) for k, p in p_values(d, 0).items()} for d in (4, 5, 6, 7, 10)},
        "no_change_in_truth": {str(expected): sizes(expected) for expected in (4, 8, 16)},
    }
    write_json(Path(__file__).with_suffix(".json"), out)
    print(out["all_better"], out["no_change_in_truth"], sep="\n")


if __name__ == "__main__":
    main()
