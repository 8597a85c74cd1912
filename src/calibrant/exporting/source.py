"""What is exported: a finished ``restore`` run, or a model with an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigError
from calibrant.files import RUN_FILE, read_json
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.tuning.tune import RESULT, TuneResult

WORDS = {"None": None, "True": True, "False": False}


@dataclass(frozen=True)
class Source:
    """A model to export and what is known of it.

    Parameters
    ----------
    model : hub id, local folder or GGUF file.
    adapter : a peft adapter to put on it.
    style : how questions are put and read.
    loading : further arguments of :func:`calibrant.load_model`.
    calibration : held-out questions of the run, for the drift check, a temperature and a threshold.
    test : scores of the tuned model on test questions, for the expected accuracy and error.
    temperature : what the run put on top of its tuned model; ``test`` is without it.
    steered : whether the calibration questions also steered the tuning (choice of the epoch, E-step).
    """

    model: str
    adapter: str | None = None
    style: PromptStyle = field(default_factory=PromptStyle)
    loading: Mapping[str, Any] = field(default_factory=dict)
    calibration: QuestionSet | None = None
    test: Scores | None = None
    temperature: Temperature | None = None
    steered: bool = False

    @property
    def not_adapted(self) -> str:
        """What the tuning that made the adapter left out, in words; empty where nothing, or where the adapter lies in none."""
        adapter = Path(self.adapter or "")
        made = _json_in(adapter.parent / RESULT)
        ours = "left_out" in made and made.get("adapter") == adapter.name
        return TuneResult.load(adapter.parent).not_adapted if ours else ""

    @classmethod
    def of_run(cls, folder: str | Path) -> Source:
        """The tuned model of a finished ``restore`` run; the aligned one where the diagnosis asked for no tuning.

        A run that tunes on weights in 4 bits scores all its models so (its tuning's setting, not one of the loading), and
        the source asks for 4 bits too: what is measured here must be what was measured there.

        Raises
        ------
        ConfigError : no such run, or one that is not finished.
        """
        folder = Path(folder)
        asked, identity = f"an export of the run in {folder}", _json_in(folder / RUN_FILE)
        if not {"model", "loading", "prompt", "questions"} <= identity.keys():
            raise ConfigError(
                asked=asked,
                found="it holds no restore run",
                todo="give the folder that `calibrant restore --out` named, or --model and --adapter",
            )
        if not (folder / "report" / "report.json").exists():
            todo = "run the same `calibrant restore` again; it goes on where it stopped"
            raise ConfigError(asked=asked, found="the run is not finished", todo=todo)
        tuning = TuneResult.load(folder / "tuning") if (folder / "tuning" / RESULT).exists() else None
        adapter = None if tuning is None or tuning.adapter is None else str(tuning.adapter)
        weights = None if tuning is None else tuning.weights
        when = "before" if tuning is None else "tuned"
        kept = folder / "temperature.json"
        test = Scores.load(folder / "scores" / when / "test.safetensors")
        measured = {"dtype": test.provenance["dtype"]} if "dtype" in test.provenance else {}  # as there, not as here
        return cls(
            model=str(weights or identity["model"]),
            adapter=adapter,
            style=PromptStyle(**identity["prompt"]),
            loading={**_loading(identity), **measured},
            calibration=QuestionSet.load(folder / "questions" / "calibration.jsonl"),
            test=test,
            temperature=Temperature.from_json(read_json(kept)) if kept.exists() else None,
            steered=tuning is not None,
        )


def _loading(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``load_model`` with which the run scored its models."""
    loading = {name: WORDS.get(value, value) for name, value in identity["loading"].items()}
    if identity.get("config", {}).get("quantize_4bit"):
        loading["quantize_4bit"] = True
    return loading


def _json_in(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
