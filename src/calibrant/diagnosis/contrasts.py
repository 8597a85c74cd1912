"""Several scores of the same questions against one another: paired, corrected for looking at all, and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.metrics.comparison import Difference, compare
from calibrant.metrics.measurement import Measurement, finite
from calibrant.metrics.planning import enough_draws, holm
from calibrant.metrics.text import with_interval
from calibrant.scores import Scores

CONTRASTED = {"accuracy": "accuracy", "mean_confidence": "mean confidence", "conf_ece": "conf-ECE"}


@dataclass(frozen=True)
class Contrast:
    """Two of several sets of scores on the same questions, ``b - a``, by metric: :data:`CONTRASTED`.

    ``p_corrected`` is Holm's correction, for each metric, for looking at all the pairs.
    """

    a: str
    b: str
    differences: Mapping[str, Difference]
    p_corrected: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, one object a metric."""
        metrics = {
            name: d.to_json() | {"p_corrected": finite(self.p_corrected[name])} for name, d in self.differences.items()
        }
        return {"a": self.a, "b": self.b} | metrics


def contrasts(scores: Mapping[str, Scores], pairs: Sequence[tuple[str, str]], **settings: Any) -> tuple[Contrast, ...]:
    """Paired differences of some pairs of named scores, corrected by Holm's method within each metric."""
    settings["n_boot"] = enough_draws(settings.get("n_boot", 1000), len(pairs), settings.get("level", 0.95))
    found = [compare(scores[a], scores[b], **settings) for a, b in pairs]
    corrected = {
        name: holm([1.0 if np.isnan(c[name].p_value) else c[name].p_value for c in found]) for name in CONTRASTED
    }
    return tuple(
        Contrast(a, b, {name: c[name] for name in CONTRASTED}, {name: corrected[name][i] for name in CONTRASTED})
        for i, ((a, b), c) in enumerate(zip(pairs, found, strict=True))
    )


def numbers_lines(named: Mapping[str, Measurement]) -> Iterator[str]:
    """A table of some measurements, one line each, for a terminal."""
    width = max(len(name) for name in named)
    heads = "  ".join(f"{label:<20}" for label in CONTRASTED.values())
    yield f"  {'':<{width}}  {heads}  floor p95  option mass"
    for name, m in named.items():
        cells = "  ".join(f"{with_interval(m[metric]):<20}" for metric in CONTRASTED)
        mass = f"{m['option_mass'].value:.3f}" if "option_mass" in m.estimates else "unknown"
        yield f"  {name:<{width}}  {cells}  {m['conf_ece'].floor_p95:<9.3f}  {mass}"
