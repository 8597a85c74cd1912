"""When to put a temperature on a tuned model: three rules, in simulated worlds where the true temperature is known.

    python benchmarks/last_temperature.py [--worlds 300]

A world: option scores over 4 options with log-odds of standard deviation 3, answers drawn at the true temperature T (T = 1 is
calibrated); n calibration questions, 4,000 test questions. Rules: never; kept if the cross-validated log loss is lower; kept
only if it is lower beyond the paired 95 % interval. Per rule: mean test log loss above that of the true temperature (nats),
mean test conf-ECE, and how often a temperature was kept. Writes ``last_temperature.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from calibrant import Scores, Temperature, compare
from calibrant.files import write_json
from calibrant.metrics import conf_ece, nll
from calibrant.scalers import cross_validated

TRUE = (1.0, 1.1, 1.25, 1.5, 2.0)
SIZES = (100, 250, 1000)
RULES = ("never", "lower", "lower for sure")
TEST = 4000


def main() -> None:
    """Simulate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=300)
    options = parser.parse_args()
    rows = [row(t, n, options.worlds) for t in TRUE for n in SIZES]
    command = f"python benchmarks/last_temperature.py --worlds {options.worlds}"
    write_json(Path(__file__).with_suffix(".json"), {"command": command, "seed": 0, "test": TEST, "rows": rows})


def row(true: float, n: int, worlds: int) -> dict[str, Any]:
    """One truth and size: what each rule costs."""
    found = {rule: np.zeros((worlds, 3)) for rule in RULES}
    for world in range(worlds):
        draw = np.random.default_rng([int(true * 100), n, world])
        calibration, test = drawn(draw, true, n), drawn(draw, true, TEST)
        best = nll(test.logp_NK / true - np.logaddexp.reduce(test.logp_NK / true, axis=1, keepdims=True), test.answer_N)
        rescaled = cross_validated(Temperature(), calibration)
        change = compare(calibration, rescaled, n_boot=200)["nll"]
        kept = {"never": False, "lower": change.value < 0, "lower for sure": change.verdict == "b is better"}
        mapped = Temperature().fit(calibration).apply(test)
        for rule, yes in kept.items():
            final = mapped if yes else test
            error = conf_ece(final.confidence_N, final.correct_N)
            found[rule][world] = nll(final.logp_NK, final.answer_N) - best, error, yes
    return {"true_temperature": true, "n": n} | {
        rule: dict(zip(("excess_nll", "conf_ece", "kept"), values.mean(0).round(5).tolist(), strict=True))
        for rule, values in found.items()
    }


def drawn(draw: np.random.Generator, true: float, n: int) -> Scores:
    """Scores whose answers come from them at the true temperature."""
    logits_NK = draw.normal(0, 3, (n, 4))
    p_NK = np.exp(logits_NK / true)
    p_NK /= p_NK.sum(1, keepdims=True)
    answers = (p_NK.cumsum(1) < draw.random((n, 1))).sum(1)
    ids = [f"{draw.integers(1 << 60)}-{i}" for i in range(n)]
    return Scores.from_logp(
        logits_NK - np.logaddexp.reduce(logits_NK, axis=1, keepdims=True), answers.tolist(), ids=ids
    )


if __name__ == "__main__":
    main()
