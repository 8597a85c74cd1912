"""When to look at a model that trains, so that looking costs a given share of the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_STEPS = 3
"""Steps after which a first plan is made; the first of them, often slow, is left out of the time of a step."""
MOST = 50
"""Evaluations of a run at most, however cheap they are: a path has no use for more."""


@dataclass
class Budget:
    """Spaces evaluations so that all of them together take at most ``share`` b of a run's time.

    With R steps to go at r seconds each, T seconds trained and E spent on evaluations so far, and e the seconds of the
    latest one, the whole run may spend b / (1 - b) · (T + R·r) on evaluations; E is gone and e is kept for the last one.
    What is left pays for ``m = floor((b / (1 - b)·(T + R·r) - E - e) / e)`` more, spread evenly over the R steps.

    Parameters
    ----------
    limit : b, in (0, 1).
    spent, trained : E and T of an earlier part of the run, seconds.
    cost : e, seconds; 0 before the first evaluation.
    made : evaluations so far.
    clock : seconds.
    """

    limit: float
    spent: float = 0.0
    trained: float = 0.0
    cost: float = 0.0
    made: int = 0
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None
    _warm: tuple[int, float] | None = None
    _planned: bool = False

    @classmethod
    def resumed(cls, limit: float, history: Sequence[Mapping[str, Any]]) -> Budget:
        """Go on from the points of an interrupted run; the last one's ``seconds``, ``seconds_spent`` and ``share``."""
        if not history:
            return cls(limit)
        last = history[-1]
        spent = last["seconds_spent"]
        return cls(limit, spent, spent / last["share"] - spent, last["seconds"], len(history))

    @property
    def share(self) -> float:
        """``E / (E + T)``; 1 before the first step, as nothing else has taken time yet."""
        return self.spent / (self.spent + self.seconds_trained) if self.spent else 0.0

    @property
    def seconds_trained(self) -> float:
        """T: time since training began, evaluations apart."""
        return self.trained + (0.0 if self._since is None else self.clock() - self._since)

    def start(self) -> None:
        """Training begins, or goes on."""
        self._since, self._warm = self.clock(), None

    def stepped(self, step: int) -> None:
        """A step is done; only the first one's end is kept."""
        if self._warm is None:
            self._warm = step, self.seconds_trained

    def spend(self, seconds: float) -> None:
        """An evaluation of ``seconds`` has just ended."""
        self.cost = seconds
        self.made += 1
        self.spent += seconds
        if self._since is not None:
            self._since += seconds

    def affords(self, step: int, max_steps: int) -> bool:
        """Whether an evaluation was planned for now, and still leaves enough for the last."""
        return self._planned and self._more(step, max_steps) >= 1

    def next_step(self, step: int, max_steps: int) -> int:
        """The step at which to look again: at the next evaluation or, where none is paid for, halfway to the end."""
        self._planned, left = True, max_steps - step
        more = math.floor(self._more(step, max_steps))
        return step + max(1, round(left / (more + 1)) if more >= 1 else left // 2)

    def _more(self, step: int, max_steps: int) -> float:
        """Evaluations between now and the last that are paid for, in part ones."""
        if self._warm is None or step <= self._warm[0]:
            return 0.0
        trained = self.seconds_trained
        rate = (trained - self._warm[1]) / (step - self._warm[0])
        allowed = self.limit / (1 - self.limit) * (trained + (max_steps - step) * rate)
        return min((allowed - self.spent - self.cost) / max(self.cost, 1e-9), MOST - 1 - self.made)
