"""What an export is asked for: its settings, those that contradict each other, and one that is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from calibrant.errors import ConfigError, only, only_numbers
from calibrant.exporting.folding import refuse_folding
from calibrant.exporting.manifest import MANIFEST, Export
from calibrant.exporting.source import Source
from calibrant.metrics.drift import TOLERANCE
from calibrant.metrics.measurement import only_scores
from calibrant.prompts import given_style
from calibrant.questions import QuestionSet
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.scoring.fingerprints import fingerprints
from calibrant.scoring.models import chat_template_facts
from calibrant.scoring.precision import DTYPES

FitOn = Scores | Literal["calibration"]


@dataclass(frozen=True)
class ServeConfig:
    """What to write. Defaults: merged, in the precision that was measured, no temperature, no threshold.

    Parameters
    ----------
    merge : add the adapter to the weights; else the adapter alone is written, with its model's name and revision.
    dtype : ``"auto"`` (as the tuned model was measured), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    scaler : a fitted temperature to ship; without it, and without ``temperature_from``, the one of the source's run.
    temperature_from : fit one on these scores; ``"calibration"`` scores the source's calibration questions for it.
    fold : fold the temperature into the weights instead of leaving it to the reader (letters only).
    target_accuracy, level : ask for an abstention threshold that promises this accuracy with this probability.
    calibration : scores to find the threshold on. Where a temperature is fitted on the same ones, each gets a half.
    tolerance : movement that the drift check allows (:func:`calibrant.metrics.drift`).
    allow_drift : write an export that drifted all the same; it says so.
    """

    merge: bool = True
    dtype: str = "auto"
    scaler: Temperature | None = None
    temperature_from: FitOn | None = None
    fold: bool = False
    target_accuracy: float | None = None
    level: float = 0.95
    calibration: FitOn = "calibration"
    tolerance: float = TOLERANCE
    allow_drift: bool = False


def refuse_other_kinds(source: Source, config: ServeConfig) -> None:
    """Raise :class:`ConfigError` for arguments of an export that are of another kind, such as a path or a dict."""
    todo = "give Source.of_run(folder), or Source(model, adapter=folder)"
    only(Source, source, "a model to export", todo)
    only(ServeConfig, config, "settings of an export", "give ServeConfig(...), such as ServeConfig(merge=False)")
    only_numbers(target_accuracy=config.target_accuracy, level=config.level, tolerance=config.tolerance)
    given_style(source.style, {})
    if config.scaler is not None:
        todo = "read it with calibrant.scalers.load_scaler(file), or give a fitted Temperature"
        only(Temperature, config.scaler, "a temperature to ship", todo)
    for given in (config.temperature_from, config.calibration):
        if given not in (None, "calibration"):
            only_scores("a temperature or threshold", given)


def refuse_settings(source: Source, config: ServeConfig, check: QuestionSet | None) -> None:
    """Raise :class:`ConfigError` for settings that contradict each other or lack what they need."""
    given = (config.scaler, config.temperature_from, source.temperature)
    has_temperature = any(one is not None for one in given)
    needs = [name for name in ("temperature_from", "calibration") if isinstance(getattr(config, name), str)]
    if config.target_accuracy is None and "calibration" in needs:
        needs.remove("calibration")
    wrong = None
    if config.dtype not in ("auto", *DTYPES):
        wrong = (f"dtype {config.dtype!r}", f"known are auto, {', '.join(DTYPES)}", "choose one of these")
    elif not 0 < config.tolerance < 1:
        wrong = (f"a tolerance of {config.tolerance}", "it is not in (0, 1)", "give a share, e.g. .01")
    elif config.target_accuracy is not None and not 0 < config.target_accuracy < 1:
        wrong = (f"a target accuracy of {config.target_accuracy}", "it is not in (0, 1)", "give a share, e.g. .9")
    elif not 0 < config.level < 1:
        wrong = (f"a level of {config.level}", "it is not in (0, 1)", "give a share, e.g. .95")
    elif check is not None and len(check) < 2:
        few = "one question" if len(check) else "no question"
        wrong = ("a drift check", few, "give two questions or more, or leave check out")
    elif config.scaler is not None and config.scaler.temperature_ is None:
        wrong = ("a temperature to ship", "none fitted", "call fit(scores) first")
    elif config.scaler is not None and config.temperature_from is not None:
        wrong = ("a temperature", "one is given and one is to be fitted", "give --scaler or --temperature-from")
    elif needs and source.calibration is None:
        wrong = (
            "a temperature or threshold from the calibration questions",
            "a model without a run has none",
            "give scores: --temperature-from SCORES, --calibration SCORES",
        )
    elif config.fold and not has_temperature:
        wrong = ("a temperature folded into the weights", "no temperature", "give --scaler or --temperature-from")
    elif config.fold and not config.merge:
        wrong = ("a temperature folded into the weights", "the adapter is written alone", "leave --no-merge out")
    elif config.fold and check is None:
        wrong = (
            "a temperature folded into the weights",
            "no questions to check it on: letters with two tokens each (' A' and 'A') are only nearly exact",
            "give --check QUESTIONS",
        )
    if wrong is not None:
        raise ConfigError(asked=wrong[0], found=wrong[1], todo=wrong[2])
    if config.fold:
        refuse_folding(source.style)


def asked_for(source: Source, config: ServeConfig, check: QuestionSet | None) -> dict[str, Any]:
    """What tells this export from another one in the same folder."""

    def named(value: Any) -> Any:
        if isinstance(value, Scores):
            value = [value.n, value.logp_NK.tolist(), value.answer_N.tolist()]
        elif isinstance(value, Temperature):
            value = {name: part for name, part in value.to_json().items() if name != "fitted_on"}
        else:
            return value
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    settings = {name: named(getattr(config, name)) for name in ServeConfig.__dataclass_fields__}
    return {
        "model": source.model,
        "adapter": source.adapter,
        "weights": fingerprints(model=source.model, adapter=source.adapter),
        "run_temperature": named(source.temperature),
        "loading": {name: str(value) for name, value in source.loading.items()},
        "prompt": asdict(source.style),
        **chat_template_facts(source.model, [source.style.format], **source.loading),
        "check": None if check is None else check.digest,
        "test": named(source.test),
        **settings,
    }


def already_there(out: Path, asked: Mapping[str, Any]) -> Export | None:
    """The export in ``out`` if it is this very one; nothing if the place is free."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    found, todo = "it holds something that is not an export", "choose a new or empty folder"
    if (out / MANIFEST).is_file():
        known = Export.open(out)
        differs = [name for name in asked if known.facts["asked"].get(name) != asked[name]]
        if not differs:
            return known
        found, todo = (
            f"it holds another one, with a different {', '.join(differs)}",
            "choose another folder, or delete it",
        )
    raise ConfigError(asked=f"an export in {out}", found=found, todo=todo)
