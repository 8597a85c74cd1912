"""How often a model that is calibrated on average over clusters is called distinguishable from calibrated.

    python benchmarks/clustered_floor.py [--reps 400] [--out FILE]

Clusters (subjects, countries) of equal size, four options. In cluster g the top option is right with probability
``c + o_g min(c, 1 - c)``, o_g uniform on ±spread: over all clusters the model is calibrated, in each one it is not, as when a
model knows some countries better than it says and others worse. Two floors for conf-ECE: labels redrawn question by question,
which knows of no clusters; and the law of the error under the noise of whole clusters, which ``measure(cluster=...)`` uses.
Counted: samples above the 95th percentile of either (nominal 5 %), and intervals that leave 0 out (at most 2.5 %). Then
the same for a model that is off by 0.1 everywhere, where more is better.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import Scores, measure
from calibrant.files import write_json
from calibrant.metrics import noise_floor

SHAPES = ((30, 20), (33, 10), (57, 35), (111, 7))
SPREADS = (0.0, 0.3, 0.6)
K = 4


def sample(rng: np.random.Generator, clusters: int, size: int, spread: float, off: float) -> tuple[Scores, np.ndarray]:
    """One world: its scores, and the cluster of each question."""
    cluster_N = np.repeat(np.arange(clusters), size)
    p_NK = rng.dirichlet(np.ones(K), len(cluster_N))
    c_N = p_NK.max(1)
    offset_N = rng.uniform(-spread, spread, clusters)[cluster_N]
    right_N = np.clip(c_N + offset_N * np.minimum(c_N, 1 - c_N) - off, 0, 1)
    truth_NK = p_NK * ((1 - right_N) / np.maximum(1 - c_N, 1e-12))[:, None]
    truth_NK[np.arange(len(c_N)), p_NK.argmax(1)] = right_N
    answer_N = (rng.random((len(c_N), 1)) > np.cumsum(truth_NK, 1)[:, :-1]).sum(1)
    return Scores.from_probs(p_NK, answer_N), cluster_N


def simulate(reps: int) -> list[dict[str, Any]]:
    """One row for each shape, spread and offset."""
    rows = []
    for clusters, size in SHAPES:
        for off, spread in [(0.0, spread) for spread in SPREADS] + [(0.1, SPREADS[1])]:
            found = []
            for rep in range(reps):
                scores, cluster_N = sample(np.random.default_rng([clusters, rep]), clusters, size, spread, off)
                e = measure(scores, cluster=list(cluster_N), n_boot=400, seed=rep)["conf_ece"]
                by_label = float(np.quantile(noise_floor(scores, n_draws=400, seed=rep)[0], 0.95))
                found.append((e.value > by_label, e.value > e.floor_p95, e.low > 0, by_label, e.floor_p95))
            by_label, clustered, beyond, label_p95, cluster_p95 = (round(float(x), 4) for x in np.mean(found, axis=0))
            rows.append(
                {
                    "clusters": clusters, "questions_each": size, "spread": spread, "off": off, "reps": reps,
                    "above_label_floor": by_label, "above_clustered_floor": clustered, "interval_leaves_0_out": beyond,
                    "label_p95": label_p95, "clustered_p95": cluster_p95,
                }
            )  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(result: dict[str, Any]) -> str:
    """Markdown: shares in per cent, and what the floors were on average."""
    head = (
        "clusters × questions", "± in a cluster", "off everywhere", "above the floor of questions", "of clusters",
        "interval above 0", "floors (p95)",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in result["rows"]:
        shares = (row[name] for name in ("above_label_floor", "above_clustered_floor", "interval_leaves_0_out"))
        lines.append(
            f"| {row['clusters']} × {row['questions_each']} | {row['spread']:g} | {row['off']:g} | "
            + " | ".join(f"{100 * share:.0f}" for share in shares)
            + f" | {row['label_p95']:.3f}, {row['clustered_p95']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    write_json(options.out, {"level": 0.95, "n_bins": 10, "draws": 400, "options": K, "rows": simulate(options.reps)})


if __name__ == "__main__":
    main()
