"""What a diagnosis can be given beside scores, from files: the path of a training run, and log-probabilities of pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrant.diagnosis.preference import PreferenceDrift, preference_drift
from calibrant.errors import ScoresError
from calibrant.scores import Scores

RESULT, STATE = "result.json", "trainer_state.json"
PREFIXES = ("calibration/", "eval_")
COLUMNS = ("chosen_logp_aligned", "chosen_logp_reference", "rejected_logp_aligned", "rejected_logp_reference")
Point = Scores | Mapping[str, Any]


def read_path(places: Sequence[str | Path]) -> list[Point]:
    """The points of a training run, in order, for ``diagnose(path=...)`` and ``regime_map``.

    Each place is one of: the folder of a tuning run or of a ``restore`` run, finished (``result.json``) or broken off
    (its newest checkpoint); the output folder or a checkpoint of any Hugging Face trainer with a
    ``CalibrationCallback``; a ``.json`` list or ``.jsonl`` of points, such as a saved ``history``; a file of scores, which
    is one point. Several places follow one another.

    Raises
    ------
    ScoresError : a place that holds none of these, or a trainer's log with points of several callbacks.
    """
    return [point for place in places for point in _points(Path(place))]


def read_preferences(file: str | Path, **settings: Any) -> PreferenceDrift:
    """:func:`preference_drift` from a JSONL file: one pair a line with the four log-probabilities, by the names of its
    arguments (``chosen_logp_aligned``, ``chosen_logp_reference``, ``rejected_logp_aligned``, ``rejected_logp_reference``;
    natural log, whole response), and ``prompt`` where each line names its pair's, as align-check writes it: pairs of a prompt
    are resampled together. Other columns are not read. ``settings`` as there.

    Raises
    ------
    ScoresError : a line that is no such object, with its number; no file.
    """
    asked = f"log-probabilities of preference pairs from {file}"
    rows, prompts = [], []
    for number, line in enumerate(_text(Path(file), asked).split("\n"), 1):
        if not line.strip():
            continue
        row = _json(line, f"{asked}, line {number}")
        values = [row.get(name) if isinstance(row, dict) else None for name in COLUMNS]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise ScoresError(
                asked=f"{asked}, line {number}",
                found=f"{', '.join(f'{n} {v!r}' for n, v in zip(COLUMNS, values, strict=True))}",
                todo="give these four numbers a line",
            )
        rows.append(values)
        prompts.append(row.get("prompt"))
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
    told = None if None in prompts else [json.dumps(prompt, sort_keys=True) for prompt in prompts]
    return preference_drift(*columns, **{"prompts": told, **settings})


def _points(place: Path) -> Sequence[Point]:
    asked = f"the path of a training run from {place}"
    if place.is_dir():
        for folder in (place, place / "tuning"):
            if (folder / RESULT).exists():
                return _of_json(_json(_text(folder / RESULT, asked), asked), asked)
            states = [
                folder / STATE,
                *folder.glob(f"checkpoint-*/{STATE}"),
                *folder.glob(f"checkpoints/checkpoint-*/{STATE}"),
            ]
            logs = [_json(_text(state, asked), asked) for state in states if state.exists()]
            if bad := [log for log in logs if not isinstance(log, Mapping)]:
                raise ScoresError(
                    asked=asked, found=f"a {STATE} that holds a {type(bad[0]).__name__}", todo="give a trainer's folder"
                )
            if logs:
                return _of_json(max(logs, key=lambda log: log.get("global_step", 0)), asked)
        raise ScoresError(
            asked=asked,
            found=f"neither {RESULT} nor a checkpoint in it",
            todo="give the folder of a tuning run or of a trainer that has saved a checkpoint",
        )
    if place.suffix == ".jsonl":
        lines = [line for line in _text(place, asked).split("\n") if line.strip()]
        return _of_json([_json(line, f"{asked}, line {i}") for i, line in enumerate(lines, 1)], asked)
    if place.suffix == ".json":
        return _of_json(_json(_text(place, asked), asked), asked)
    return [Scores.load(place)]


def _of_json(found: Any, asked: str) -> Sequence[Mapping[str, Any]]:
    """Points of a tuning run's result, of a trainer's state, or as they are."""
    if isinstance(found, Mapping):
        found = found["history"] if "history" in found else _logged(found.get("log_history") or [], asked)
    if not isinstance(found, list) or not found or not all(isinstance(point, Mapping) for point in found):
        raise ScoresError(
            asked=asked,
            found="no points in it",
            todo="give a tuning run, or a training run that a CalibrationCallback has watched",
        )
    return found


def _logged(log: Sequence[Mapping[str, Any]], asked: str) -> list[dict[str, Any]]:
    """The points of a trainer's log: the entries with accuracy, conf_ece and n under one prefix."""
    log = [entry for entry in log if isinstance(entry, Mapping)] if isinstance(log, list) else []
    prefixes = {name.removesuffix("conf_ece") for entry in log for name in entry if name.endswith("conf_ece")}
    known = [prefix for prefix in PREFIXES if prefix in prefixes] or sorted(prefixes)
    if len(known) > 1 and known[0] not in PREFIXES:
        raise ScoresError(
            asked=asked,
            found=f"points under several prefixes: {', '.join(known)}",
            todo="save the history of the callback that you mean as JSON, and give that file",
        )
    if not known:
        return []
    return [
        {"step": entry.get("step"), "epoch": entry.get("epoch")}
        | {name.removeprefix(known[0]): value for name, value in entry.items() if name.startswith(known[0])}
        for entry in log
        if f"{known[0]}conf_ece" in entry
    ]


def _text(file: Path, asked: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScoresError(asked=asked, found=str(error), todo="give a readable file") from error


def _json(text: str, asked: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ScoresError(asked=asked, found=f"no JSON: {error}", todo="give a whole file") from error
