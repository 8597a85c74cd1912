"""What the package says of models whose truth is known, in corners where a review found it wrong.

    python benchmarks/known_models.py [--out FILE] [--only own_target known_target]

Models are drawn as option probabilities p, answers from p (calibrated), or from p where the model says something sharper.
Each row is a share of samples in percent, or a mean, with the number of samples. Writes ``known_models.json`` beside it;
``known_models-before.json`` is the same with the package as it was at commit d83f73f, before it was mended. Shape suffixes:
N questions, K options.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import Scores, compare, diagnose, measure
from calibrant.diagnosis.options import letter_prior
from calibrant.files import write_json
from calibrant.metrics import battery, drift, nll
from calibrant.metrics.bins import bin_index
from calibrant.metrics.proportions import effective_n
from calibrant.metrics.uncertainty import wilson_interval
from calibrant.reporting.words import GOOD, verdict
from calibrant.scalers import Dirichlet, Vector

SEED, DRAWS, MANY = 0, 300, 1_000_000
Row = dict[str, Any]


def answers(rng: np.random.Generator, p_NK: np.ndarray) -> np.ndarray:
    """Answers drawn from p, (N,)."""
    return (rng.random((len(p_NK), 1)) > np.cumsum(p_NK, axis=1)[:, :-1]).sum(1)


def percent(held: list[bool]) -> float:
    """A share in percent."""
    return round(100 * float(np.mean(held)), 1)


def power(p_NK: np.ndarray, s: float) -> np.ndarray:
    """p^s, normalised."""
    return np.asarray(p_NK**s / (p_NK**s).sum(1, keepdims=True))


def sharp(rng: np.random.Generator, n: int, concentration: float) -> np.ndarray:
    """Dirichlet on four options, no option at 0, (N, 4)."""
    p_NK = np.clip(rng.dirichlet(np.full(4, concentration), n), 1e-9, None)
    return np.asarray(p_NK / p_NK.sum(1, keepdims=True))


def clustered_shares(rng: np.random.Generator) -> Iterator[Row]:
    """Accuracies that differ by cluster, N(.6, .15): is .6 in Wilson's interval at the effective number of questions?"""
    for groups, size in ((5, 200), (10, 100), (20, 50)):
        cluster_N, held = np.repeat(np.arange(groups), size), []
        for _ in range(1000):
            right_N = rng.random(groups * size) < np.clip(rng.normal(0.6, 0.15, groups), 0, 1)[cluster_N]
            share = float(right_N.mean())
            low, high = wilson_interval(share, effective_n(right_N.astype(float), cluster_N))
            held.append(low <= 0.6 <= high)
        yield {"clusters": groups, "covered": percent(held), "samples": len(held)}


def collapsed(rng: np.random.Generator, n: int) -> Scores:
    """Calibrated; 45 % of the questions at a confidence of .99, the others at .3 to .5."""
    c_N = np.where(rng.random(n) < 0.45, 0.99, rng.uniform(0.3, 0.5, n))
    p_NK = np.column_stack([c_N, *((1 - c_N) / 3,) * 3])
    return Scores.from_probs(p_NK, answers(rng, p_NK))


def selective_accuracy(rng: np.random.Generator) -> Iterator[Row]:
    """Of the more confident half: 9 in 10 of it at .99, the rest the surest of those at .3 to .5."""
    truth = 0.9 * 0.99 + 0.1 * (0.5 - 0.2 * (0.05 / 0.55) / 2)
    for n in (200, 1000):
        held = []
        for seed in range(300):
            found = battery(collapsed(rng, n), n_boot=DRAWS, seed=seed, coverage=0.5)["selective_accuracy"]
            held.append(found.low <= truth <= found.high)
        yield {"n": n, "covered": percent(held), "samples": len(held)}


def positions(rng: np.random.Generator) -> Iterator[Row]:
    """Calibrated, the top option anywhere at .5 to .99, the rest even: is it said to prefer positions, at p < .001?"""
    for k in (4, 10, 26):
        for n in (50, 100, 200, 500, 2000):
            found = []
            for _ in range(300):
                c_N, top_N = rng.uniform(0.5, 0.99, n), rng.integers(0, k, n)
                p_NK = np.repeat(((1 - c_N) / (k - 1))[:, None], k, axis=1)
                p_NK[np.arange(n), top_N] = c_N
                found.append(letter_prior(Scores.from_probs(p_NK, answers(rng, p_NK))).p_value)
            untested = percent([p is None for p in found])
            accused = percent([p is not None and p < 0.001 for p in found])
            yield {"options": k, "n": n, "accused": accused, "untested": untested, "samples": len(found)}


def rare_position(rng: np.random.Generator) -> Iterator[Row]:
    """Fitted on 500 calibrated questions of four options and one or more of five; log loss on 1,000 others of five."""
    other_NK = rng.dirichlet(np.ones(5), 1000)
    other = Scores.from_probs(other_NK, answers(rng, other_NK), ids=[f"other-{i}" for i in range(1000)])
    for kind in (Vector, Dirichlet):
        for five in (1, 3, 20):
            losses = []
            for _ in range(10):
                parts = [rng.dirichlet(np.ones(k), n) for k, n in ((4, 500 - five), (5, five))]
                given = np.concatenate([answers(rng, p_NK) for p_NK in parts])
                table = np.vstack([np.pad(parts[0], ((0, 0), (0, 1)), constant_values=np.nan), parts[1]])
                scaled = kind().fit(Scores.from_probs(table, given)).apply(other)
                losses.append(nll(scaled.logp_NK, scaled.answer_N))
            mean, before = round(float(np.mean(losses)), 3), round(float(nll(other.logp_NK, other.answer_N)), 3)
            yield {"scaler": kind.name, "of five": five, "nll": mean, "unscaled": before, "samples": len(losses)}


def own_target(rng: np.random.Generator) -> Iterator[Row]:
    """Calibrated, Dirichlet(1, 1, 1, 1): A* = A = 25/48 and TCE = 0 by a target that is fitted to the model itself."""
    for n in (300, 1000):
        star, tce, excess = [], [], []
        for _ in range(200):
            p_NK = rng.dirichlet(np.ones(4), n)
            found = diagnose(Scores.from_probs(p_NK, answers(rng, p_NK)), n_boot=DRAWS).numbers
            star.append(found["critical_accuracy"].low <= 25 / 48 <= found["critical_accuracy"].high)
            tce.append(found["tce"].low <= 0)
            excess.append(found["excess_accuracy"].low <= 0 <= found["excess_accuracy"].high)
        shares = {"A*": percent(star), "TCE holds 0": percent(tce), "A - A*": percent(excess)}
        yield {"n": n, **shares, "samples": len(star)}


def known_target(rng: np.random.Generator) -> Iterator[Row]:
    """Models whose TCE is known by a target that is p, for its calibrator can find p: are TCE and both ends of bound 2 held?

    Δ = 0, so all three are TCE. A model that says p^s, p ~ Dirichlet(1, 1, 1, 1), which a temperature undoes; one that says c
    and is right with c - .2, which a map of the confidence undoes; each by a target of its own, or by a reference, p^1.7.
    """

    def draw(n: int, s: float | None) -> tuple[np.ndarray, np.ndarray]:
        if s is not None:
            p_NK = rng.dirichlet(np.ones(4), n)
            return p_NK, power(p_NK, s)
        c_N = rng.uniform(0.6, 1, n)
        p_NK, q_NK = (np.column_stack([x_N, *((1 - x_N) / 3,) * 3]) for x_N in (c_N - 0.2, c_N))
        return p_NK, q_NK

    for kind, s in (("own", 1.0), ("own", 2.0), ("own", None), ("reference", 1.0), ("reference", 2.0)):
        p_NK, q_NK = draw(MANY, s)
        c_N = q_NK.max(1)
        gap_N = p_NK[np.arange(MANY), q_NK.argmax(1)] - c_N
        truth = round(float(np.abs(np.bincount(bin_index(c_N), gap_N)).sum() / MANY), 3)
        for n in (300, 1000):
            held, bounds = [], []
            for seed in range(200):
                p_NK, q_NK = draw(n, s)
                answer_N = answers(rng, p_NK)
                reference = Scores.from_probs(power(p_NK, 1.7), answer_N) if kind == "reference" else None
                scores = Scores.from_probs(q_NK, answer_N)
                found = diagnose(scores, reference=reference, n_boot=DRAWS, seed=seed).numbers
                ends = [found[name].low <= truth <= found[name].high for name in ("tce", "bound_2_low", "bound_2_high")]
                held.append(ends[0])
                bounds.append(ends[1] and ends[2])
            said = "c, right with c - .2" if s is None else f"p^{s:g}"
            row = {"target": kind, "says": said, "TCE": truth, "n": n, "covered": percent(held)}
            yield row | {"bound 2 covered": percent(bounds), "samples": len(held)}


def sharp_and_right(rng: np.random.Generator) -> Iterator[Row]:
    """With p ~ Dirichlet(.03) on four options the model says p² normalised: is its expected log loss in the interval, and how
    wide is that? Beside it a calibrated model of Dirichlet(1).
    """

    def draw(n: int, concentration: float, s: int) -> tuple[np.ndarray, np.ndarray]:
        p_NK = sharp(rng, n, concentration)
        return p_NK, power(p_NK, s)

    for world in ((0.03, 2), (1.0, 1)):
        p_NK, q_NK = draw(MANY, *world)
        truth = float(-(p_NK * np.log(q_NK)).sum(1).mean())
        for n in (50, 100, 200, 500):
            held, above, widths = [], [], []
            for seed in range(400):
                p_NK, q_NK = draw(n, *world)
                found = measure(Scores.from_probs(q_NK, answers(rng, p_NK)), n_boot=DRAWS, seed=seed)["nll"]
                held.append(found.low <= truth <= found.high)
                above.append(truth > found.high)
                widths.append(found.high - found.low)
            row = {"Dirichlet": world[0], "power": world[1], "n": n, "covered": percent(held)}
            yield row | {"truth above": percent(above), "width": round(float(np.mean(widths)), 3), "samples": len(held)}


def recalibrated(rng: np.random.Generator) -> Iterator[Row]:
    """The change of log loss from p² normalised to p, and back, p ~ Dirichlet on four options: is it in its interval?"""
    for concentration, (before, after) in ((0.03, (2, 1)), (0.03, (1, 2)), (0.1, (2, 1)), (1.0, (2, 1))):
        p_NK = sharp(rng, MANY, concentration)
        truth = float(-(p_NK * (np.log(power(p_NK, after)) - np.log(power(p_NK, before)))).sum(1).mean())
        for n in (50, 100, 200, 500):
            held, above, wrong, widths = [], [], [], []
            for seed in range(400):
                p_NK = sharp(rng, n, concentration)
                answer_N = answers(rng, p_NK)
                a, b = (Scores.from_probs(power(p_NK, s), answer_N) for s in (before, after))
                found = compare(a, b, n_boot=DRAWS, seed=seed)["nll"]
                held.append(found.low <= truth <= found.high)
                above.append(truth > found.high)
                wrong.append(found.low > 0 if truth < 0 else found.high < 0)
                widths.append(found.high - found.low)
            row = {"Dirichlet": concentration, "powers": [before, after], "n": n, "change": round(truth, 3)}
            row |= {"covered": percent(held), "truth above": percent(above), "wrong model": percent(wrong)}
            yield row | {"width": round(float(np.mean(widths)), 3), "samples": len(held)}


def headline(rng: np.random.Generator) -> Iterator[Row]:
    """Says .7, is right 58 % of the time: how often is the report's headline good news?"""
    for n in (20, 50, 100, 200):
        good = []
        for seed in range(200):
            answer_N = np.where(rng.random(n) < 0.58, 0, 1)
            found = measure(Scores.from_probs([[0.7, 0.3]] * n, answer_N), n_boot=DRAWS, seed=seed)
            good.append(verdict(found).tone == GOOD)
        yield {"n": n, "good": percent(good), "samples": len(good)}


def faithful(rng: np.random.Generator) -> Iterator[Row]:
    """A copy that destroys one question in twenty: how often does ``drift`` call it faithful?"""
    for n in (20, 50, 100, 200):
        said = []
        for seed in range(200):
            p_NK = rng.dirichlet(np.ones(4), n)
            one = Scores.from_probs(p_NK, answers(rng, p_NK))
            gone_N = rng.random(n) < 0.05
            other = replace(one, logp_NK=np.where(gone_N[:, None], one.logp_NK[:, ::-1], one.logp_NK))
            said.append(drift(one, other, n_boot=DRAWS, seed=seed).is_faithful)
        yield {"n": n, "faithful": percent(said), "samples": len(said)}


def main() -> None:
    """Simulate every world, print a row each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument(
        "--only", nargs="+", default=None, help="worlds to simulate; the others stay as the file has them"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="the scaler")  # of numbers of options that were never fitted
    worlds = (
        *(clustered_shares, selective_accuracy, positions, rare_position, own_target),
        *(sharp_and_right, headline, faithful, known_target, recalibrated),
    )
    found: dict[str, list[Row]] = json.loads(options.out.read_text())["worlds"] if options.only else {}
    for at, world in enumerate(worlds):
        if options.only and world.__name__ not in options.only:
            continue
        found[world.__name__] = []
        for row in world(np.random.default_rng([SEED, at])):
            print(world.__name__, row, flush=True)
            found[world.__name__].append(row)
    write_json(options.out, {"seed": SEED, "draws": DRAWS, "worlds": found})


if __name__ == "__main__":
    main()
