"""How often a fix is called worse than the best, where all fixes are equal: what picking the best on the same data costs.

    python benchmarks/best_other_errors.py [--contests 20000] [--out FILE]

m fixes of equal merit: their numbers on one set of questions are independent normal deviations of equal variance about a
common value (what they share cancels in pairs). Each is compared with the best other one, as ``calibrant.ladder.read_table``
does. Counted: contests in which any fix is called worse than the best other, with p-values corrected by Holm over the fixes,
and by Tukey over all pairs of fixes, as the ladder does; and, by Holm, those in which any is told from a fixed fix, such as
the aligned model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import norm

from calibrant.files import write_json
from calibrant.metrics import holm, tukey

SIZES = (3, 5, 10, 20, 28)
ALPHA = 0.05


def contest(value_M: np.ndarray, fixed: float) -> tuple[bool, bool, bool]:
    """Whether one of m equal fixes is called worse than the best, by Holm and by Tukey, or unlike the fixed one by Holm."""
    z_M = (value_M - value_M.min()) / np.sqrt(2)
    second = np.sort(z_M)[1]
    z_M[z_M == 0] = second  # the best is compared with the runner-up
    by_holm = min(holm(list(2 * norm.sf(z_M)))) <= ALPHA
    by_tukey = min(tukey([z_M.max()], len(value_M))) <= ALPHA
    aligned = min(holm(list(2 * norm.sf(np.abs(value_M - fixed) / np.sqrt(2))))) <= ALPHA
    return by_holm, by_tukey, aligned


def main() -> None:
    """Simulate each size, print a row, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contests", type=int, default=20000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = []
    for m in SIZES:
        rng = np.random.default_rng([m, 31])
        said = np.array([contest(rng.normal(size=m), rng.normal()) for _ in range(options.contests)])
        by_holm, by_tukey, aligned = (round(100 * float(share), 1) for share in said.mean(0))
        rows.append({"fixes": m, "worse_by_holm": by_holm, "worse_by_tukey": by_tukey, "against_aligned": aligned})
        print(rows[-1], flush=True)
    write_json(options.out, {"contests": options.contests, "alpha": ALPHA, "percent": rows})


if __name__ == "__main__":
    main()
