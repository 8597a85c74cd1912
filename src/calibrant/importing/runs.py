"""Which runs of lm-eval made the sample files: one model, loaded and asked in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrant.errors import ScoresError
from calibrant.importing.samples import NAMES_SHOWN, SampleFile

FACTS = ("lm_eval_version", "transformers_version", "git_hash", "chat_template_sha", "system_instruction_sha")
MODEL_KEYS = ("pretrained", "model", "path", "engine")
SHA_SHOWN = 12


def run_facts(files: Sequence[SampleFile], path: str | Path) -> dict[str, Any]:
    """What the results files say of the model and the newest of the runs.

    Raises
    ------
    ScoresError : files of several models, or of one model in several revisions or precisions, or asked in several ways.
    """
    _refuse_several({file.task: _identity(file.results) for file in files if file.results}, path)
    runs = {file.time: file.results for file in files if file.results}
    newest = runs[max(runs)] if runs else {}
    config = newest.get("config") or {}
    return {
        "model": next(filter(None, map(_model, runs.values())), None),
        "revision": config.get("model_sha") or config.get("model_revision"),
        "dtype": config.get("model_dtype"),
        "backend": config.get("model"),
        **{name: newest.get(name) for name in FACTS},
    }


def _refuse_several(runs: Mapping[str, Mapping[str, str | None]], path: str | Path) -> None:
    """Refuse ``runs`` (by task) that differ in what both of them tell."""
    for kind in next(iter(runs.values()), {}):
        if kind == "revision" and all(run["commit"] for run in runs.values()):
            continue  # a branch and a tag may be the same commit
        tasks: dict[str, list[str]] = {}
        for task, run in runs.items():
            if (value := run[kind]) is not None:
                tasks.setdefault(value, []).append(task)
        if len(tasks) > 1:
            raise ScoresError(
                asked=f"scores of one model, loaded and asked in one way, from {path}",
                found=f"samples of {len(tasks)} {kind}s: "
                + ", ".join(f"{value} ({_some(names)})" for value, names in tasks.items()),
                todo="name the files of one of them, or choose its tasks with tasks=",
            )


def _some(tasks: Sequence[str]) -> str:
    more = len(tasks) - NAMES_SHOWN
    return ", ".join(tasks[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _identity(results: Mapping[str, Any]) -> dict[str, str | None]:
    """What a run must share with another so that their scores are of one model; ``None`` where the results do not say."""
    config = results.get("config") or {}
    arguments = _arguments(config)
    dtype = config.get("model_dtype") or arguments.get("dtype")
    return {
        "model": _model(results),
        "commit": str(config.get("model_sha") or "")[:SHA_SHOWN] or None,
        "revision": config.get("model_revision") or arguments.get("revision"),
        "dtype": None if dtype in (None, "auto") else str(dtype).removeprefix("torch."),
        "chat template": _sha(results, "chat_template_sha"),
        "system instruction": _sha(results, "system_instruction_sha"),
    }


def _sha(results: Mapping[str, Any], name: str) -> str | None:
    """The start of a checksum, or ``none`` where the run had no such text; ``None`` before 0.4.3, which kept none."""
    return str(results[name] or "none")[:SHA_SHOWN] if name in results else None


def _model(results: Mapping[str, Any]) -> str | None:
    """The model's name; 0.4.0 - 0.4.2 only have it inside ``model_args``."""
    if name := results.get("model_name"):
        return str(name)
    known = _arguments(results.get("config") or {})
    return next((str(known[key]) for key in MODEL_KEYS if key in known), None)


def _arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``model_args``, which are a text or a mapping."""
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        return dict(part.partition("=")[::2] for part in arguments.split(","))
    return arguments if isinstance(arguments, Mapping) else {}
