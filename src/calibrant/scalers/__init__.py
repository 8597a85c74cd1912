"""Post-hoc scalers: maps ``Scores -> Scores`` that are fitted on some questions and applied to others. numpy and scipy only.

A scaler remembers the questions that it was fitted on and refuses to rescale them, as results on them would be optimistic.
Which one when: ``docs/rescaling.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from calibrant.errors import ConfigError
from calibrant.questions import did_you_mean
from calibrant.scalers.adaptive import AdaptiveTemperature
from calibrant.scalers.base import Scaler, question_keys
from calibrant.scalers.confidence import Histogram, Isotonic
from calibrant.scalers.crossval import chosen_by_cv, cross_validated
from calibrant.scalers.daca import DACA
from calibrant.scalers.positions import Dirichlet, Vector
from calibrant.scalers.temperature import TEMPERATURE_RANGE, Temperature, at_temperature, temperature_is_possible

SCALERS: dict[str, type[Scaler]] = {
    scaler.name: scaler for scaler in (Temperature, Vector, Dirichlet, Isotonic, Histogram, AdaptiveTemperature, DACA)
}
"""Every scaler by name, each made without arguments; ``needs_reference`` tells which ones need a base model's scores."""


def scaler_named(name: str) -> type[Scaler]:
    """The class of that name.

    Raises
    ------
    ConfigError : no such scaler.
    """
    if name not in SCALERS:
        raise ConfigError(
            asked=f"the scaler {name!r}",
            found=f"no such one{did_you_mean(name, SCALERS)}",
            todo=f"name {', '.join(SCALERS)}",
        )
    return SCALERS[name]


def load_scaler(path: str | Path) -> Scaler:
    """The scaler whose ``to_json()`` is in a file, as ``calibrant rescale`` writes it.

    Raises
    ------
    ConfigError : no such file, no JSON, or no scaler.
    """
    asked = f"a scaler from {path}"
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            asked=asked, found=str(error), todo="give the JSON file that `calibrant rescale` wrote"
        ) from error
    name = values.get("name") if isinstance(values, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(asked=asked, found="JSON without a scaler's name", todo="give what to_json() wrote")
    return scaler_named(name).from_json(values)


__all__ = [
    "DACA",
    "SCALERS",
    "TEMPERATURE_RANGE",
    "AdaptiveTemperature",
    "Dirichlet",
    "Histogram",
    "Isotonic",
    "Scaler",
    "Temperature",
    "Vector",
    "at_temperature",
    "chosen_by_cv",
    "cross_validated",
    "load_scaler",
    "question_keys",
    "scaler_named",
    "temperature_is_possible",
]
