"""Do nominal 95 % intervals of a difference of two calibration errors cover it? Simulated over pairs of models.

    python benchmarks/difference_coverage.py --reps 200 --out benchmarks/difference_coverage.json   # about ten minutes
    python benchmarks/difference_coverage.py --table benchmarks/difference_coverage.json            # for docs/statistics.md

Four options; a pair is what models a and b say and what is true. The goal is the difference ``b - a`` of the population
errors with the same bins, from 400,000 questions with true probabilities in place of labels. Beside the interval stand
the two that it is made of, each alone: the percentiles of the draws, and the inverted law. Shape suffixes: N questions,
K options.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.metrics.bins import bin_index
from calibrant.metrics.sums import QuestionSums, bootstrap_sums
from calibrant.metrics.uncertainty import (
    _low_difference,
    cell_noise,
    cluster_factor,
    error_difference_interval,
    percentile_interval,
)
from calibrant.scores import Scores

K, BINS, LEVEL, DRAWS, POPULATION = 4, 10, 0.95, 400, 400_000
ERRORS = ("conf_ece", "cw_ece")
KINDS = ("interval", "percentiles alone", "inverted law alone")

Rng = np.random.Generator
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What a says, what b says, what is true: each (N, K)."""
Draw = Callable[[Rng, int], Pair]


def softmax(z_NK: np.ndarray) -> np.ndarray:
    """Rows that sum to 1."""
    p_NK = np.exp(z_NK - z_NK.max(1, keepdims=True))
    return np.asarray(p_NK / p_NK.sum(1, keepdims=True))


def moved(p_NK: np.ndarray, shift_N: np.ndarray) -> np.ndarray:
    """The top option gets ``shift`` more, cut at 0 and 1; the others less in proportion."""
    at_N, top_N = np.arange(len(p_NK)), p_NK.argmax(1)
    c_N = p_NK[at_N, top_N]
    wanted_N = np.clip(c_N + shift_N, 0, 1)
    out_NK = p_NK * ((1 - wanted_N) / np.maximum(1 - c_N, 1e-12))[:, None]
    out_NK[at_N, top_N] = wanted_N
    return np.asarray(out_NK)


def powers(a: float, b: float, alpha: float = 1.0) -> Draw:
    """Truth q ~ Dirichlet(alpha); the models say ``q^a`` and ``q^b``, normalised."""

    def draw(rng: Rng, n: int) -> Pair:
        q_NK = rng.dirichlet(np.full(K, alpha), n)
        log_NK = np.log(np.maximum(q_NK, 1e-300))
        return softmax(a * log_NK), softmax(b * log_NK), q_NK

    return draw


def shifted(a: Callable[[np.ndarray], np.ndarray], b: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """One option in front with c ~ Uniform(.35, .85) and the rest alike; the models say ``c + a(c)`` and ``c + b(c)``."""

    def draw(rng: Rng, n: int) -> Pair:
        c_N = 0.35 + 0.5 * rng.random(n)

        def say(c_N: np.ndarray) -> np.ndarray:
            return np.column_stack([c_N, *[(1 - c_N) / (K - 1)] * (K - 1)])

        return say(c_N + a(c_N)), say(c_N + b(c_N)), say(c_N)

    return draw


def cured(shift: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """What a says is p; true is ``p`` with its top option moved by ``shift``; b says what is true."""

    def draw(rng: Rng, n: int) -> Pair:
        p_NK = rng.dirichlet(np.ones(K), n)
        q_NK = moved(p_NK, shift(p_NK.max(1)))
        return p_NK, q_NK, q_NK

    return draw


def opposite(rng: Rng, n: int) -> Pair:
    """Over- and underconfident by the same conf-ECE, .0986."""
    z_NK = rng.normal(0, 1, (n, K))
    return softmax(1.5 * z_NK), softmax(0.6064663 * z_NK), softmax(z_NK)


def jittered(b: float, jitter: float = 0.3) -> Draw:
    """Two fixes, each with its own noise in the logits; b's are ``b`` times as large."""

    def draw(rng: Rng, n: int) -> Pair:
        z_NK = 1.3 * rng.normal(0, 1, (n, K))
        say_a, say_b = (softmax(t * (z_NK + jitter * rng.normal(0, 1, (n, K)))) for t in (1.0, b))
        return say_a, say_b, softmax(z_NK)

    return draw


def unlike(rng: Rng, n: int) -> Pair:
    """Two confident models, each with its own noise: few labels in most bins, and other questions in the bins of a and b."""
    true_NK = rng.dirichlet(np.full(K, 0.15), n)
    z_NK = np.log(np.maximum(true_NK, 1e-12))
    say_a, say_b = (softmax(z_NK + rng.normal(0, 1, (n, K))) for _ in range(2))
    return say_a, say_b, true_NK


def by(size: float) -> Callable[[np.ndarray], np.ndarray]:
    """The same shift everywhere."""
    return lambda c_N: np.full(len(c_N), size)


PAIRS: dict[str, tuple[Draw, tuple[int, ...]]] = {
    "the same, calibrated": (powers(1, 1), (200,)),
    "1e-6 apart, overconfident": (powers(1.5, 1.5 * (1 + 1e-6)), (200, 1000)),
    "calibrated; rescaled by 5 %": (powers(1, 1.05), (200, 1000)),
    "overconfident; rescaled by 5 %": (powers(1.5, 1.575), (200, 1000)),
    "overconfident; less so": (powers(1.5, 1.2), (200, 1000)),
    "over by .2; cured": (cured(by(-0.2)), (200, 500, 1000)),
    "over by .1; cured": (cured(by(-0.1)), (200, 500, 2000)),
    "sharpened (power 2); cured": (powers(2, 1), (200, 1000)),
    "flattened (power 1/2); cured": (powers(0.5, 1), (200, 1000)),
    "confident, sharpened; cured": (powers(1.5, 1, 0.15), (200, 1000)),
    "one bad bin; cured": (cured(lambda c_N: np.where((c_N >= 0.6) & (c_N < 0.7), -0.15, 0.0)), (200, 1000)),
    "wave; cured": (cured(lambda c_N: 0.06 * np.sign(np.sin(40 * c_N))), (200, 1000)),
    "over; under by as much": (opposite, (60, 200, 1000)),
    "over (power 1.2); under (power .85)": (powers(1.2, 0.85), (200, 1000)),
    "over by .05; under by .05": (shifted(by(0.05), by(-0.05)), (60, 200)),
    "tilted; tilted the other way": (
        shifted(lambda c_N: 0.03 * np.sign(c_N - 0.6), lambda c_N: -0.03 * np.sign(c_N - 0.6)),
        (200, 1000),
    ),
    "two fixes alike": (jittered(1.0), (200, 1000)),
    "two fixes, one worse": (jittered(1.15), (200, 1000)),
    "two confident models, unlike": (unlike, (60, 200)),
}


def population(said_NK: np.ndarray, true_NK: np.ndarray) -> tuple[float, float]:
    """conf-ECE and cw-ECE with true probabilities in place of labels."""
    n, at_N, top_N = len(said_NK), np.arange(len(said_NK)), said_NK.argmax(1)
    c_N = said_NK[at_N, top_N]
    conf = np.abs(np.bincount(bin_index(np.minimum(c_N, 1.0), BINS), true_NK[at_N, top_N] - c_N, BINS)).sum()
    cw = [
        np.abs(np.bincount(bin_index(np.minimum(p_N, 1.0), BINS), q_N - p_N, BINS)).sum()
        for p_N, q_N in zip(said_NK.T, true_NK.T, strict=True)
    ]
    return float(conf / n), float(np.mean(cw) / n)


def intervals(pair: Pair, seed: int, cluster_N: np.ndarray | None = None) -> dict[tuple[str, str], tuple[float, float]]:
    """Of one sample, by error and kind, as ``compare`` makes them."""
    say_a, say_b, true_NK = pair
    n = len(true_NK)
    rng = np.random.default_rng([n, seed, 5])
    answer_N = (rng.random((n, 1)) > np.cumsum(true_NK, 1)[:, :-1]).sum(1)
    a, b = (QuestionSums(Scores.from_logp(np.log(np.maximum(p, 1e-300)), answer_N), BINS) for p in (say_a, say_b))
    draws_BC = bootstrap_sums(lambda rows: np.hstack([a.columns(rows), b.columns(rows)]), n, DRAWS, seed, cluster_N)
    wider = cluster_factor(None if cluster_N is None else int(cluster_N.max()) + 1, LEVEL)
    out = {}
    for place, (error, cells) in enumerate(zip(ERRORS, ("conf_cells", "class_cells"), strict=True)):
        made = []
        for sums, drawn_BC in ((a, draws_BC[:, : a.n_columns]), (b, draws_BC[:, a.n_columns :])):
            cell_C = getattr(sums, cells)(sums.totals)
            noise_BC = cell_noise(getattr(sums, cells)(drawn_BC), cell_C, sums.thin_variances[place], seed)
            made.append((cell_C, wider * noise_BC))
        (cell_a, noise_a), (cell_b, noise_b) = made
        drawn_B = np.abs(cell_b + noise_b).sum(1) - np.abs(cell_a + noise_a).sum(1)
        tail = (1 - LEVEL) / 2
        out[error, KINDS[0]] = error_difference_interval(cell_a, noise_a, cell_b, noise_b, LEVEL)
        out[error, KINDS[1]] = percentile_interval(drawn_B, LEVEL)
        law = (
            _low_difference(cell_a, noise_a, cell_b, noise_b, tail),
            _low_difference(cell_b, noise_b, cell_a, noise_a, tail),
        )
        out[error, KINDS[2]] = law[0], -law[1]
    return out


def row(
    name: str, n: int, goals: dict[str, tuple[float, float]], found: list[dict[tuple[str, str], Any]]
) -> dict[str, Any]:
    """Coverage, misses on each side, mean width, and how often 0 is left out."""
    out: dict[str, Any] = {"pair": name, "n": n, "reps": len(found)}
    for error in ERRORS:
        a, b = goals[error]
        out[error] = {"a": round(a, 4), "b": round(b, 4)}
        for kind in KINDS:
            ends = np.array([one[error, kind] for one in found])
            below, above = ends[:, 0] - 1e-9 > b - a, ends[:, 1] + 1e-9 < b - a
            out[error][kind] = {
                "covered": round(float(np.mean(~below & ~above)), 4),
                "truth_below": round(float(below.mean()), 4),
                "truth_above": round(float(above.mean()), 4),
                "mean_width": round(float((ends[:, 1] - ends[:, 0]).mean()), 5),
                "decided": round(float(np.mean((ends[:, 0] > 0) | (ends[:, 1] < 0))), 4),
            }
    print(json.dumps(out), file=sys.stderr, flush=True)
    return out


def goals_of(pair: Pair) -> dict[str, tuple[float, float]]:
    """Population errors of a and b, by name."""
    a, b = population(pair[0], pair[2]), population(pair[1], pair[2])
    return dict(zip(ERRORS, zip(a, b, strict=True), strict=True))


def simulate(reps: int) -> list[dict[str, Any]]:
    """One row for each pair and size."""
    rows = []
    for name, (draw, sizes) in PAIRS.items():
        goals = goals_of(draw(np.random.default_rng(99), POPULATION))
        for n in sizes:
            found = [intervals(draw(np.random.default_rng([n, rep]), n), rep) for rep in range(reps)]
            rows.append(row(name, n, goals, found))
    return rows


def simulate_clusters(reps: int, n: int = 1000) -> list[dict[str, Any]]:
    """Subjects of equal size, each off by its own Uniform(-.3, 0); b takes the mean, .15, away from a's confidence."""

    def draw(rng: Rng, size: int, subject_N: np.ndarray) -> Pair:
        p_NK = rng.dirichlet(np.ones(K), size)
        true_NK = moved(p_NK, rng.uniform(-0.3, 0.0, int(subject_N.max()) + 1)[subject_N])
        return p_NK, moved(p_NK, np.full(size, -0.15)), true_NK

    goals = goals_of(draw(np.random.default_rng(99), POPULATION, np.arange(POPULATION)))
    rows = []
    for clusters in (10, 30):
        subject_N = np.arange(n) % clusters
        found = [
            intervals(draw(np.random.default_rng([clusters, rep]), n, subject_N), rep, subject_N) for rep in range(reps)
        ]
        rows.append(row(f"over by .15 on average; cured ({clusters} subjects)", n, goals, found))
    return rows


def table(result: dict[str, Any]) -> str:
    """Markdown: share covered in per cent, mean width and share decided of the interval, share covered of its parts."""
    lines = [
        "| a; b | N | conf-ECE of a, b | covered | width | decided | percentiles alone | inverted law alone "
        "| cw-ECE of a, b | covered | width |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result["rows"]:
        conf, cw = one["conf_ece"], one["cw_ece"]
        whole, classes = conf[KINDS[0]], cw[KINDS[0]]
        parts = " | ".join(f"{100 * conf[kind]['covered']:.0f}" for kind in KINDS[1:])
        lines.append(
            f"| {one['pair']} | {one['n']:,} | {conf['a']:.3f}, {conf['b']:.3f} | {100 * whole['covered']:.0f} "
            f"| {whole['mean_width']:.3f} | {100 * whole['decided']:.0f} | {parts} "
            f"| {cw['a']:.3f}, {cw['b']:.3f} | {100 * classes['covered']:.0f} | {classes['mean_width']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate and write, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    rows = simulate(options.reps) + simulate_clusters(options.reps)
    text = json.dumps({"level": LEVEL, "n_bins": BINS, "draws": DRAWS, "options": K, "rows": rows}, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
