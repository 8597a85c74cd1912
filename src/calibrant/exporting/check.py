"""The drift check on models: any two of scores, exports, models and GGUF files, on the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.errors import ConfigError
from calibrant.exporting.decisions import SERVED
from calibrant.exporting.manifest import Export, is_export
from calibrant.importing.systemone import SOURCE
from calibrant.metrics import Drift, drift
from calibrant.metrics.drift import TOLERANCE
from calibrant.prompts import PromptStyle
from calibrant.provenance import is_gguf
from calibrant.questions import QuestionSet
from calibrant.scalers import at_temperature
from calibrant.scores import Scores
from calibrant.scoring import load_model, score


@dataclass(frozen=True)
class _Side:
    """Scores, and the temperature that they hold; ``None`` where that is not known."""

    scores: Scores
    temperature: float | None


def check_drift(
    a: str | Path,
    b: str | Path,
    questions: QuestionSet | None = None,
    *,
    style: PromptStyle | None = None,
    quantize_4bit: bool = False,
    tolerance: float = TOLERANCE,
    progress: bool = False,
    batch_tokens: int | None = None,
    **loading: Any,
) -> Drift:
    """How far ``b`` is from ``a``: each a scores file, an export's folder, a model or a GGUF file.

    It is the weights that are compared. Temperatures that are shipped beside them are left out on both sides; where one side
    holds a temperature and the other does not, ``a`` is brought to that of ``b`` first: an export with a temperature folded
    into its weights, or the scores of an export's own check, beside the model that the export was made from (known by its
    weights, or on the hub by name and commit) or an export without a fold. Whatever else (a GGUF file of a folded export, its
    scores, an endpoint's) is compared as it is.

    Parameters
    ----------
    a, b : what is compared; models are scored on ``questions``.
    questions : needed unless both sides are scores files; of scores of these and more, these are compared.
    style : how questions are put; by default that of the export or the scores among the two, else letters.
    quantize_4bit : load ``b`` in 4 bits (NF4; needs the extra ``[quant]``; on CUDA or a CPU).
    tolerance : movement allowed (:func:`calibrant.metrics.drift`).
    progress, batch_tokens, loading : as for :func:`calibrant.score`.

    Raises
    ------
    ConfigError : models without questions; sides that put questions in different ways, by the style or by the tokenizer's
        chat template; scores that a scaler has changed against something that it has not.
    """
    exports = {side: Export.open(side) for side in (a, b) if is_export(side)}
    stored = {side: Scores.load(side) for side in (a, b) if _is_scores(side)}
    _refuse_one_rescaled(a, b, stored)
    _refuse_endpoint_beside_export(a, b, stored, exports)
    styles = {export.style for export in exports.values()} | ({style} if style else set())
    styles |= {PromptStyle(**s.provenance["prompt"]) for s in stored.values() if "prompt" in s.provenance}
    if len(styles) > 1:
        raise ConfigError(
            asked=f"the drift from {a} to {b}",
            found="they were made for questions put in different ways: " + "; ".join(map(str, sorted(styles, key=str))),
            todo="leave the prompt options out, or compare models that are read in the same way",
        )
    common: dict[str, Any] = {"style": next(iter(styles), None), "progress": progress, "batch_tokens": batch_tokens}
    sides = []
    for side, name in ((a, "a"), (b, "b")):
        if side in stored:
            sides.append(_Side(_of(questions, stored[side]), _held(stored[side].provenance, exports)))
            continue
        if questions is None:
            raise ConfigError(
                asked=f"the drift from {a} to {b}",
                found=f"{side} is not a scores file that is here, so a model; and no questions",
                todo="give --questions, or correct the name of the scores file",
            )
        options = {**loading, "quantize_4bit": quantize_4bit and name == "b"}
        export = exports.get(side)
        if export is None:
            scores = score(load_model(side, **options), questions, **common)
            sides.append(_Side(scores, _held(scores.provenance, exports)))
        else:
            temperature = float(export.facts["temperature"]["value"]) if export.folded else 1.0
            if options.get("dtype") == "auto":
                del options["dtype"]  # an export is measured as it is served
            sides.append(_Side(score(export.load(**options), questions, **common), temperature))
    one, two = sides
    _refuse_two_templates(a, b, one.scores, two.scores)
    from_t, to_t = one.temperature or two.temperature or 1.0, two.temperature or one.temperature or 1.0
    return drift(at_temperature(one.scores, to_t / from_t), two.scores, tolerance=tolerance)


def _of(questions: QuestionSet | None, scores: Scores) -> Scores:
    """The scores of these questions, where all are among them; else all, and whoever pairs them says what is amiss."""
    asked = {question.content_hash for question in questions or ()}
    is_asked_N = np.array([content in asked for content in scores.hashes])
    return scores.select(is_asked_N) if asked and int(is_asked_N.sum()) == len(asked) else scores


def _held(facts: Mapping[str, Any], exports: Mapping[str | Path, Export]) -> float | None:
    """The temperature that scores hold: of an export's check as they say, none for the model that an export was made from, and
    unknown otherwise.
    """
    if SERVED in facts:
        return float(facts[SERVED])
    return 1.0 if any(_is_source(facts, export.facts) for export in exports.values()) else None


def _is_source(facts: Mapping[str, Any], export: Mapping[str, Any]) -> bool:
    model, adapter = export["model"], export["adapter"] or {}
    same = ("weights",) if model["weights"] is not None else ("revision", "name")
    known = {"weights": facts.get("weights"), "revision": facts.get("revision"), "name": facts.get("model")}
    alike = all(known[key] is not None and known[key] == model[key] for key in same)
    return alike and facts.get("adapter_weights") == adapter.get("weights")


def _refuse_one_rescaled(a: str | Path, b: str | Path, stored: Mapping[str | Path, Scores]) -> None:
    """Raise :class:`ConfigError` where a scaler has changed one side alone: the drift would be the scaler's."""
    scaler = [stored[side].provenance.get("scaler") if side in stored else None for side in (a, b)]
    if scaler[0] != scaler[1]:
        rescaled = next(side for side, one in zip((a, b), scaler, strict=True) if one is not None)
        raise ConfigError(
            asked=f"the drift from {a} to {b}",
            found=f"{rescaled} was rescaled after scoring, and the other side was not in the same way",
            todo="give the scores as the model gave them; what a scaler changes is shown by `calibrant compare`",
        )


def _refuse_endpoint_beside_export(
    a: str | Path, b: str | Path, stored: Mapping[str | Path, Scores], exports: Mapping[str | Path, Export]
) -> None:
    """Raise :class:`ConfigError` for an endpoint's answers, temperature and all, against weights whose temperature is left
    out here.
    """
    asked = any(scores.provenance.get("source") == SOURCE for scores in stored.values())
    for side, export in exports.items():
        if asked and float(export.facts["temperature"]["apply"]) != 1:
            raise ConfigError(
                asked=f"the drift from {a} to {b}",
                found=f"the endpoint applies a temperature, and that of {side} is left out where weights are compared",
                todo=f"compare the endpoint's scores with {Path(side) / 'check' / 'before.safetensors'}, of the same questions",
            )


def _refuse_two_templates(a: str | Path, b: str | Path, one: Scores, two: Scores) -> None:
    """Raise :class:`ConfigError` where both sides know their chat template and it is not one: the drift would be its."""
    known = [scores.provenance.get("chat_template") for scores in (one, two)]
    if None not in known and known[0] != known[1]:
        raise ConfigError(
            asked=f"the drift from {a} to {b}",
            found=f"their tokenizers have different chat templates ({known[0]} and {known[1]})",
            todo="give both the same chat template, or compare them in a format that needs none (--format raw)",
        )


def _is_scores(side: str | Path) -> bool:
    return Path(side).is_file() and not is_gguf(side)
