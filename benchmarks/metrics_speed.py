"""What calibration statistics cost, beside other libraries on the same arrays and against the number of questions.

    python benchmarks/metrics_speed.py --out benchmarks/metrics_speed.json   # about three minutes on one core

One run, one process, one thread, processor time. ``memory`` is the most that a call allocated beyond the scores themselves.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import tracemalloc
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.metrics import battery, conf_ece, measure, smooth_ece
from calibrant.scores import Scores

K = 4


def arrays(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) of an overconfident model and answers (N,)."""
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.ones(K), n)
    truth = 0.8 * p + 0.2 / K
    return p, (rng.random((n, 1)) > np.cumsum(truth, 1)[:, :-1]).sum(1)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Least processor time of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def side_by_side(n: int) -> dict[str, Any]:
    """One error each from the peers and from us, on the same confidences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import relplot
        import torch
        from netcal.metrics import ECE
        from torchmetrics.functional.classification import binary_calibration_error
    torch.set_num_threads(1)
    p, answer = arrays(n)
    c, y = p.max(1), (p.argmax(1) == answer).astype(int)
    c_t, y_t = torch.tensor(c), torch.tensor(y)
    calls: dict[str, Callable[[], Any]] = {
        "calibrant conf_ece": lambda: conf_ece(c, y),
        "netcal ECE": lambda: ECE(10).measure(c, y),
        "torchmetrics calibration_error": lambda: binary_calibration_error(c_t, y_t, n_bins=10),
        "calibrant smooth_ece": lambda: smooth_ece(c, y),
        "relplot smECE": lambda: relplot.smECE(c, y),
    }
    took = {name: seconds(call, 3) for name, call in calls.items()}
    ours = {"smooth": took["calibrant smooth_ece"], "binned": took["calibrant conf_ece"]}
    ratio = {
        name: value / ours["smooth" if "sm" in name.split()[-1] else "binned"]
        for name, value in took.items()
        if not name.startswith("calibrant")
    }
    return {"n": n, "seconds": rounded(took), "times_ours": rounded(ratio)}


def cost(n: int, draws: int) -> dict[str, Any]:
    """``measure`` and ``battery`` with all their intervals and floors; time for each draw beside one plain pass."""
    scores = Scores.from_probs(*arrays(n))
    c, y = scores.confidence_N, scores.correct_N
    one_pass = seconds(lambda: conf_ece(c, y), 2)
    row: dict[str, Any] = {"n": n, "draws": draws, "one_pass_seconds": one_pass}
    for name, call in (
        ("measure", lambda: measure(scores, n_boot=draws)),
        ("battery", lambda: battery(scores, n_boot=draws)),
    ):
        row[f"{name}_seconds"] = seconds(call, 1)
    row["measure_passes_per_draw"] = row["measure_seconds"] / draws / one_pass
    tracemalloc.start()
    measure(scores, n_boot=50)
    row["measure_memory_mb"] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return rounded(row)


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Four significant digits."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}


def main() -> None:
    """Run all and print or write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--largest", type=int, default=10_000_000)
    arguments = parser.parse_args()
    sizes = [n for n in (10_000, 100_000, 1_000_000, 10_000_000) if n <= arguments.largest]
    result = {
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("numpy", "scipy", "netcal", "torchmetrics", "relplot")},
        "side_by_side": [side_by_side(n) for n in sizes[1:3]],
        "thousand_draws": [cost(n, 1000) for n in sizes[:3]],
        "curve_fifty_draws": [cost(n, 50) for n in sizes],
    }
    text = json.dumps(result, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
