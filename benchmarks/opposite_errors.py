"""How often two models are called unlike that err equally, one over- and the other underconfident: the hard case of pairing.

    python benchmarks/opposite_errors.py [--worlds 200] [--draws 400] [--out FILE]

Answers follow softmax(z), z normal, K = 4; one model says softmax(1.5 z), the other softmax(.606 z): both have a conf-ECE of
.0986 (10 bins, 10⁶ questions). Each world is n questions. Counted: p-values of the difference in conf-ECE at most .05 and
.01, by ``compare`` and by ``Contest.z_values``. What a level promises is the level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import norm

from calibrant import Scores, compare
from calibrant.files import write_json
from calibrant.metrics import Contest

SIZES = (60, 200, 1000)
LEVELS = (0.05, 0.01)
OVER, UNDER, K = 1.5, 0.6064663, 4


def world(n: int, seed: int) -> tuple[Scores, Scores]:
    """The two models on the same n questions."""
    rng = np.random.default_rng([2, n, seed])
    z_NK = rng.normal(0, 1, (n, K))
    p_NK = np.exp(z_NK) / np.exp(z_NK).sum(1, keepdims=True)
    answer_N = (rng.random((n, 1)) > p_NK.cumsum(1)).sum(1).clip(max=K - 1)
    return Scores.from_logp(OVER * z_NK, answer_N), Scores.from_logp(UNDER * z_NK, answer_N)


def main() -> None:
    """Simulate each size, print a row, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = []
    for n in SIZES:
        margin, both = [], []
        for seed in range(options.worlds):
            over, under = world(n, seed)
            margin.append(compare(over, under, n_boot=options.draws, seed=seed)["conf_ece"].p_value)
            contest = Contest({"over": [over], "under": [under]}, n_boot=options.draws, seed=seed)
            both.append(2 * float(norm.sf(contest.z_values("over", "under", ["conf_ece"])["conf_ece"])))
        for name, p_values in (("compare", margin), ("contest", both)):
            shares = {str(level): round(100 * float(np.mean(np.array(p_values) <= level)), 1) for level in LEVELS}
            rows.append({"n": n, "by": name, "percent": shares})
            print(rows[-1], flush=True)
    write_json(options.out, {"worlds": options.worlds, "draws": options.draws, "rows": rows})


if __name__ == "__main__":
    main()
