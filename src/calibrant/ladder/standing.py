"""How far each fix of a ladder's folder has come, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.files import RUN_FILE
from calibrant.ladder.alignment import Alignment, alignment_of
from calibrant.ladder.cells import Place, json_if_any
from calibrant.ladder.fixes import ALIGNED, Fix

COMPLETE, WAITING = "complete", "waiting"


@dataclass(frozen=True)
class Standing:
    """A fix and how far it has come: state, choice, cost, notes (layers left out, too); and whether it kept alignment.

    ``seconds`` of one fit, ``seconds_all`` of all its cells, each with those of the fix that it builds on, and
    ``seconds_own`` of all its cells alone; trained ``parameters``, with those that it builds on.
    """

    fix: Fix
    state: str
    reason: str
    choice: Mapping[str, Any] | None
    seconds: float | None
    seconds_all: float
    seconds_own: float
    parameters: int | None
    steps: int | None
    alignment: Alignment
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **{name: getattr(self.fix, name) for name in ("name", "family", "about", "ships", "note")},
            "state": self.state,
            "reason": self.reason or None,
            "choice": None if self.choice is None else dict(self.choice),
            "seconds": self.seconds,
            "seconds_all": self.seconds_all,
            "seconds_own": self.seconds_own,
            "parameters": self.parameters,
            "steps": self.steps,
            "notes": list(self.notes),
            "alignment": self.alignment.to_json(),
        }


def standing_of(place: Place, found: Sequence[Place], asked: Mapping[str, Any] | None) -> Standing:
    """How far a fix of a ladder's folder has come."""
    chosen, cells = place.chosen, list(place.cells())
    results = [result for cell in cells if (result := cell.result) is not None]
    final = [] if chosen is None else [place.cell(chosen, seed).result for seed in place.seeds]
    kept = [result for result in final if result is not None]
    seconds = float(np.mean([result["seconds"] for result in kept])) if kept else None
    parameters = int(kept[0]["parameters"]) if kept else None
    own = sum(result["seconds"] for result in results)
    whole = own
    parent = next(
        (p for p in found if p.fix.name == place.fix.of and p.fix.name not in (ALIGNED, place.fix.name)), None
    )
    if parent is not None and seconds is not None and parameters is not None:
        below = standing_of(parent, found, asked)
        whole += below.seconds_all
        seconds, parameters = seconds + (below.seconds or 0.0), parameters + (below.parameters or 0)
    state, reason = _state(place)
    return Standing(
        fix=place.fix,
        state=state,
        reason=reason,
        choice=place.choice,
        seconds=seconds,
        seconds_all=round(whole, 1),
        seconds_own=round(own, 1),
        parameters=parameters,
        steps=kept[0].get("steps") if kept else None,
        notes=tuple(
            dict.fromkeys(
                [f"on {name!r}, {text}" for cell in cells for name, text in cell.notes.items()]
                + [text for result in kept if (text := result.get("not_adapted"))]
            )
        ),
        alignment=alignment_of(place, found, asked),
    )


def _state(place: Place) -> tuple[str, str]:
    """How far a fix has come, and what is in the way."""
    if place.not_run is not None:
        return "not run", place.not_run
    chosen = place.chosen  # what failed in a sweep that chose another setting stands beside the choice
    cells = [cell for cell in place.cells() if chosen is None or cell.setting == chosen]
    errors = [f"{cell.name}, {what}: {error['found']}" for cell in cells for what, error in cell.errors.items()]
    reason = "; ".join(errors)
    run = json_if_any(place.root / RUN_FILE) or {"questions": {}}
    wanted = [name for name in run["questions"] if name not in ("train", "calibration")]
    if chosen is None:
        return ("failed" if errors else WAITING), reason
    done = [seed for seed in place.seeds if all(place.cell(chosen, seed).path(name).exists() for name in wanted)]
    if len(done) == len(place.seeds):
        return COMPLETE, reason
    return f"{len(done)} of {len(place.seeds)} seeds", reason
