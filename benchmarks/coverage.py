"""Do nominal 95 % intervals cover the truth 95 % of the time? Simulated for each metric, size and shape of miscalibration.
Differences of two models have a simulation of their own, ``difference_coverage.py``.

    python benchmarks/coverage.py --reps 300 --out benchmarks/coverage.json   # about ten minutes on one core
    python benchmarks/coverage.py --table benchmarks/coverage.json            # the table of docs/statistics.md

Four options; true probabilities q ~ Dirichlet; each shape says what the model believes. The target is the
population value of the same statistic with the same bins, from 1,000,000 questions with q in place of labels. Shape
suffixes: N questions, K options.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.metrics.binned import l2_ece
from calibrant.metrics.bins import bin_index
from calibrant.metrics.measurement import error_estimates, mean_estimates
from calibrant.metrics.proper import nll_terms
from calibrant.metrics.sums import QuestionSums, bootstrap_sums
from calibrant.metrics.uncertainty import bca_interval, percentile_interval
from calibrant.scores import Scores

K, BINS, LEVEL, DRAWS = 4, 10, 0.95, 400
NO_FLOOR = (np.zeros(1), np.zeros(1))
CLUSTERS = (10, 30, 100)
SIZES = (200, 500, 2000, 10_000)


def power(q_NK: np.ndarray, exponent: float) -> np.ndarray:
    """``q^exponent``, normalised: sharper above 1, flatter below."""
    log = exponent * np.log(np.maximum(q_NK, 1e-300))
    p = np.exp(log - log.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def moved(p_NK: np.ndarray, shift_N: np.ndarray) -> np.ndarray:
    """True probabilities when the top option of p deserves ``shift`` more, the others in proportion less."""
    at, top = np.arange(len(p_NK)), p_NK.argmax(1)
    c = p_NK[at, top]
    q = p_NK * ((1 - np.clip(c + shift_N, 0, 1)) / np.maximum(1 - c, 1e-12))[:, None]
    q[at, top] = np.clip(c + shift_N, 0, 1)
    return np.asarray(q)


Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def _belief(alpha: float, believe: Callable[[np.ndarray], np.ndarray]) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        q = rng.dirichlet(np.full(K, alpha), n)
        return believe(q), q

    return draw


def _shifted(shift: Callable[[np.ndarray], np.ndarray]) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.dirichlet(np.ones(K), n)
        return p, moved(p, shift(p.max(1)))

    return draw


SHAPES: dict[str, Draw] = {
    "calibrated": _belief(1.0, lambda q: q),
    "calibrated, confident": _belief(0.15, lambda q: q),
    "overconfident by .03": _shifted(lambda c: np.full(len(c), -0.03)),
    "overconfident by .10": _shifted(lambda c: np.full(len(c), -0.10)),
    "sharpened (power 2)": _belief(1.0, lambda q: power(q, 2.0)),
    "flattened (power 1/2)": _belief(1.0, lambda q: power(q, 0.5)),
    "collapsed (power 12)": _belief(1.0, lambda q: power(q, 12.0)),
    "one bad bin": _shifted(lambda c: np.where((c >= 0.6) & (c < 0.7), -0.15, 0.0)),
    "wave": _shifted(lambda c: 0.06 * np.sign(np.sin(40 * c))),
}


def targets(draw: Draw) -> dict[str, float]:
    """Population values."""
    p, q = draw(np.random.default_rng(99), 1_000_000)
    p = np.maximum(p, 1e-300)
    at, top = np.arange(len(p)), p.argmax(1)
    c, a = p[at, top], q[at, top]
    bins = bin_index(np.minimum(c, 1.0), BINS)
    gap, n = np.bincount(bins, a - c, BINS), np.bincount(bins, minlength=BINS)
    cw = [
        np.abs(np.bincount(bin_index(np.minimum(p[:, k], 1.0), BINS), q[:, k] - p[:, k], BINS)).sum() for k in range(K)
    ]
    return {
        "accuracy": float(a.mean()),
        "mean_confidence": float(c.mean()),
        "signed_gap": float((c - a).mean()),
        "conf_ece": float(np.abs(gap).sum() / len(p)),
        "cw_ece": float(np.mean(cw) / len(p)),
        "l2_ece": float(np.sqrt((gap**2 / np.maximum(n, 1)).sum() / len(p))),
        "brier": float(((p * p).sum(1) - 2 * (p * q).sum(1) + 1).mean()),
        "nll": float(-(q * np.log(p)).sum(1).mean()),
    }


def intervals(scores: Scores, seed: int) -> dict[str, tuple[float, float]]:
    """Every interval of one sample."""
    sums = QuestionSums(scores, BINS)
    draws = bootstrap_sums(sums.columns, scores.n, DRAWS, seed)
    found = mean_estimates(sums, draws, LEVEL, None) | error_estimates(sums, draws, NO_FLOOR, LEVEL, seed)
    out = {name: (e.low, e.high) for name, e in found.items()}
    out["conf_ece, naive percentile"] = percentile_interval(np.abs(sums.conf_cells(draws)).sum(1), LEVEL)
    out["nll, BCa"] = bca_interval(sums.means(draws)["nll"], nll_terms(scores.logp_NK, scores.answer_N), LEVEL)
    l2 = l2_ece(scores.confidence_N, scores.correct_N, BINS, LEVEL)
    return out | {"l2_ece": (l2.low, l2.high)}


def simulate(reps: int) -> list[dict[str, Any]]:
    """One row for each shape and size."""
    rows = []
    for shape, draw in SHAPES.items():
        truth = targets(draw)
        truth |= {"conf_ece, naive percentile": truth["conf_ece"], "nll, BCa": truth["nll"]}
        for n in SIZES:
            missed: dict[str, list[int]] = {}
            width: dict[str, list[float]] = {}
            for rep in range(reps):
                rng = np.random.default_rng([n, rep])
                p, q = draw(rng, n)
                answer = (rng.random((n, 1)) > np.cumsum(q, 1)[:, :-1]).sum(1)
                logp = np.log(np.maximum(p, 1e-300))
                for name, (low, high) in intervals(Scores.from_logp(logp, answer), rep).items():
                    goal = truth[name]
                    missed.setdefault(name, []).append(1 if goal < low else 2 if goal > high else 0)
                    width.setdefault(name, []).append(high - low)
            row: dict[str, Any] = {"shape": shape, "n": n, "reps": reps, "conf_ece": round(truth["conf_ece"], 4)}
            row["coverage"] = {
                name: {
                    "covered": round(float(np.mean(np.array(m) == 0)), 4),
                    "truth_below": round(float(np.mean(np.array(m) == 1)), 4),
                    "truth_above": round(float(np.mean(np.array(m) == 2)), 4),
                    "mean_width": round(float(np.mean(width[name])), 5),
                }
                for name, m in missed.items()
            }
            rows.append(row)
            print(shape, n, {name: c["covered"] for name, c in row["coverage"].items()}, file=sys.stderr, flush=True)
    return rows


def simulate_clusters(reps: int, n: int = 2000) -> list[dict[str, Any]]:
    """Subjects of equal size, each off by its own Uniform(-.2, .1): intervals that know the subjects, and others."""

    def draw(rng: np.random.Generator, size: int, subject_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = rng.dirichlet(np.ones(K), size)
        return p, moved(p, rng.uniform(-0.2, 0.1, int(subject_N.max()) + 1)[subject_N])

    truth = targets(lambda rng, size: draw(rng, size, np.arange(size)))
    rows = []
    for clusters in CLUSTERS:
        subject_N = np.arange(n) % clusters
        covered: dict[str, list[bool]] = {}
        for rep in range(reps):
            rng = np.random.default_rng([clusters, rep])
            p, q = draw(rng, n, subject_N)
            sums = QuestionSums(Scores.from_probs(p, (rng.random((n, 1)) > np.cumsum(q, 1)[:, :-1]).sum(1)), BINS)
            for kind, code_N in (("clustered", subject_N), ("not clustered", None)):
                draws = bootstrap_sums(sums.columns, n, DRAWS, rep, code_N)
                known = None if code_N is None else clusters
                found = mean_estimates(sums, draws, LEVEL, known)
                found |= error_estimates(sums, draws, NO_FLOOR, LEVEL, rep, known)
                for name in ("accuracy", "signed_gap", "conf_ece"):
                    hit = found[name].low <= truth[name] <= found[name].high
                    covered.setdefault(f"{name}, {kind}", []).append(hit)
        shares = {name: round(float(np.mean(hits)), 4) for name, hits in covered.items()}
        rows.append({"clusters": clusters, "n": n, "reps": reps, "covered": shares})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


COLUMNS = (
    "conf_ece", "cw_ece", "l2_ece", "signed_gap", "accuracy", "nll", "nll, BCa", "brier",
    "conf_ece, naive percentile",
)  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown: share of intervals, in per cent, that cover."""
    lines = [
        "| shape | true conf-ECE | N | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for row in result["rows"]:
        cells = [f"{100 * row['coverage'][name]['covered']:.0f}" for name in COLUMNS]
        lines.append(f"| {row['shape']} | {row['conf_ece']:.3f} | {row['n']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cluster_table(result: dict[str, Any]) -> str:
    """The same for clustered questions."""
    names = list(result["clusters"][0]["covered"])
    lines = ["| subjects | N | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for row in result["clusters"]:
        cells = [f"{100 * row['covered'][name]:.0f}" for name in names]
        lines.append(f"| {row['clusters']} | {row['n']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Simulate and write, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        result = json.loads(arguments.table.read_text())
        print(table(result), cluster_table(result), sep="\n\n")
        return
    result = {"level": LEVEL, "n_bins": BINS, "draws": DRAWS, "options": K}
    result |= {"clusters": simulate_clusters(arguments.reps), "rows": simulate(arguments.reps)}
    text = json.dumps(result, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
