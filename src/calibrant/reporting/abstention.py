"""Answer or abstain: the risk-coverage curve of a set of questions, and the confidence above which accuracy is promised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from calibrant.metrics import Decision, Estimate, battery, threshold_for
from calibrant.reporting.canvas import AFTER, BEFORE, INK, style
from calibrant.reporting.curves import risk_coverage_plot
from calibrant.reporting.results import Domain
from calibrant.scores import Scores


@dataclass(frozen=True, eq=False)
class Selective:
    """What abstaining brings one set of scores: the threshold and its promise, and the area under the curve."""

    decision: Decision
    aurc: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"decision": self.decision.to_json(), "aurc": self.aurc.to_json()}


@dataclass(frozen=True, eq=False)
class Abstention:
    """The same before a fix and, where there was one, after it."""

    domain: Domain
    before: Selective
    after: Selective | None
    cluster: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"before": self.before.to_json(), "after": None if self.after is None else self.after.to_json()}

    @property
    def _named(self) -> dict[str, Selective]:
        return {"": self.before} if self.after is None else {"before": self.before, "after": self.after}

    @property
    def sentences(self) -> list[str]:
        """What to do with it, one sentence a set of scores, and the areas."""
        out = [promise(one.decision, name) for name, one in self._named.items()]
        areas = [f"{_area(one.aurc)}{name and f' {name}'}" for name, one in self._named.items()]
        out.append(f"Area under the curve (AURC), lower is better: {', '.join(areas)}.")
        if self.cluster is not None:
            out.append(
                f"Promise and intervals here take the questions as independent, not as clusters of {self.cluster!r}: they "
                "claim more than is known."
            )
        return out

    def plot(self) -> Axes:
        """The curves of :func:`~calibrant.reporting.risk_coverage_plot` with the promised points on them."""
        scores: dict[str, Scores] = {"": self.domain.before}
        if self.domain.after is not None:
            scores = {"before": self.domain.before, "after": self.domain.after}
        with style():
            ax = risk_coverage_plot(scores, level=self.before.decision.level)
            error = 1 - self.before.decision.target
            if error < ax.get_ylim()[1]:
                ax.axhline(error, color=INK, linewidth=0.8)
                ax.text(0.99, error, f"{100 * error:g}% wrong", ha="right", va="bottom", fontsize=8, color=INK)
            colours = (AFTER,) if self.after is None else (BEFORE, AFTER)
            for colour, one in zip(colours, self._named.values(), strict=True):
                d = one.decision
                if d.threshold is not None:
                    ax.plot([d.coverage], [1 - d.accuracy], "o", color=colour, markersize=7, zorder=4, clip_on=False)
        return ax


def abstention(
    domain: Domain, target_accuracy: float, *, n_boot: int, level: float, seed: int, cluster: str | None = None
) -> Abstention:
    """Thresholds of :func:`~calibrant.metrics.threshold_for` and areas of ``battery``, before and after.

    Both take questions as independent; where the report names clusters, that is said.

    Raises
    ------
    ConfigError : a target outside (0, 1).
    """

    def found(scores: Scores) -> Selective:
        decision = threshold_for(scores.confidence_N, scores.correct_N, target_accuracy, level)
        return Selective(decision, battery(scores, n_boot=n_boot, level=level, seed=seed)["aurc"])

    return Abstention(domain, found(domain.before), None if domain.after is None else found(domain.after), cluster)


def promise(d: Decision, when: str = "") -> str:
    """The threshold in a sentence; ``when`` is before, after or nothing.

    >>> promise(threshold_for([0.9] * 100 + [0.4] * 100, [1] * 99 + [0] + [1, 0] * 50, target_accuracy=0.9))
    'Answering where confidence is at least 0.9 keeps 50.0% of the questions, 99.0% of them right.'
    """
    start = f"{when.capitalize()}, answering" if when else "Answering"
    if d.threshold is None:
        said = f"{when.capitalize()}, no" if when else "No"
        return f"{said} confidence is high enough to promise {100 * d.target:g}% right: {d.note}."
    return (
        f"{start} where confidence is at least {float(d.threshold)!r} keeps {d.coverage:.1%} of the questions, "
        f"{d.accuracy:.1%} of them right."
    )


def caption(a: Abstention) -> str:
    """How to read the picture and the sentences."""
    d = a.before.decision
    return (
        f"From left to right more questions are answered, the most confident first; the dotted level is answering all. A "
        f"disc is the largest share at which {100 * d.target:g}% right is promised for new questions of this kind, with "
        f"{100 * d.level:g}% confidence; no disc, no promise."
    )


def _area(e: Estimate) -> str:
    return f"{e.value:.3f}" + ("" if math.isnan(e.low) else f" ({e.low:.3f} to {e.high:.3f})")
