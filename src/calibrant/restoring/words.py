"""What a run is, for its folder and for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrant._version import __version__
from calibrant.metrics import measure
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.reporting import Domain
from calibrant.scalers import Temperature, temperature_is_possible
from calibrant.scalers.temperature import at_an_end
from calibrant.scores import Scores
from calibrant.scoring.models import run_identity
from calibrant.sets import shared_groups
from calibrant.tuning import TuneConfig, TuneResult
from calibrant.tuning.config import for_scoring
from calibrant.tuning.sweep import loss_of


def identity(
    model: str | Path,
    style: PromptStyle,
    config: TuneConfig,
    objective: str,
    sets: Mapping[str, QuestionSet],
    reference: str | Path | None,
    temperature: bool,
    budget: str,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """What tells this run from another; a folder holds one run."""
    return {
        **run_identity(model, style, loading, scored=for_scoring(config, loading), reference=reference),
        "objective": objective,
        "config": config.identity(),
        "temperature": temperature,
        "budget": budget,
        "questions": {name: {"n": len(q), "digest": q.digest} for name, q in sets.items()},
    }


def asked(
    model: str | Path,
    reference: str | Path | None,
    style: PromptStyle,
    config: TuneConfig,
    objective: str,
    chosen: str | None,
    action: str,
    sets: Mapping[str, QuestionSet],
    before: Scores,
    command: str | None,
) -> dict[str, Any]:
    """The facts of the report's last section."""
    variant = f", {style.variant}" if style.reading == "continuation" else ""
    facts = before.provenance
    return {
        "model": str(model),
        "revision": facts.get("revision"),
        "weights fingerprint": facts.get("weights"),
        "reference": None if reference is None else str(reference),
        "questions": {name: f"{q.name} ({len(q)})" for name, q in sets.items()},
        "reading": f"{style.reading} ({style.format}{variant})",
        "objective": f"{chosen or 'none'} ({_why(objective, action)})",
        "precision": facts.get("dtype"),
        "device": facts.get("device"),
        "seed": config.seed,
        "versions": {**facts.get("versions", {}), "calibrant": __version__},
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
    }


def _why(objective: str, action: str) -> str:
    if objective != "auto":
        return "asked for"
    reasons = {
        "temperature": "by default; for the diagnosis a temperature alone is enough, which leaves accuracy as it is",
        "score-more": "by default; the diagnosis needs more questions to choose",
    }
    return reasons.get(action, "chosen by the diagnosis")


def left_aside(given: TuneConfig, used: TuneConfig) -> list[str]:
    """What to say where settings were given that the objective which the diagnosis chose has no use for."""
    changed = sorted(given.model_fields_set - {"objective"})
    names = [name for name in changed if getattr(given, name) != getattr(used, name)]
    if not names:
        return []
    values = ", ".join(f"{name} {getattr(given, name)}" for name in names)
    return [
        f"Left aside, since {used.objective} has no use for it: {values}. Name an objective to have it used or refused."
    ]


def closing(domains: list[Domain], page: Path, cluster: str | None) -> str:
    """The last words on the screen: each set's numbers before and after, and where the report is."""
    lines = []
    for domain in domains:
        if domain.after is None:
            continue
        a, b = (measure(scores, cluster=cluster) for scores in (domain.before, domain.after))
        parts = [
            f"{label} {a[name].value:.3f} [{a[name].low:.3f}, {a[name].high:.3f}] -> "
            f"{b[name].value:.3f} [{b[name].low:.3f}, {b[name].high:.3f}]"
            for label, name in (("conf-ECE", "conf_ece"), ("accuracy", "accuracy"))
        ]
        lines.append(f"{domain.name} (n={a.n}): {'; '.join(parts)}; floor {b['conf_ece'].floor_p95:.3f}")
    return "\n".join([*lines, f"Report: {page}"])


def label(name: str, questions: QuestionSet) -> str:
    """A set's name in the report."""
    return name if questions.name == name else f"{questions.name}, {name}"


def notes(
    sets: Mapping[str, QuestionSet], tuning: TuneResult | None, without: Mapping[str, Scores], cluster: str | None
) -> list[str]:
    """What a reader of the report must not miss; ``without`` are the tuned scores that a temperature was put on."""
    found = [f"{len(q.skipped)} rows of {name!r} were left out by name." for name, q in sets.items() if q.skipped]
    if tuning is not None and not better_than_start(tuning):
        found.append(
            "The tuned weights have no lower held-out log loss than the untuned model: they are no improvement."
        )
    if tuning is not None and tuning.not_adapted:
        found.append(f"The tuning put {tuning.not_adapted}.")
    if tuning is not None:
        found += shared_groups(sets, cluster)
    return found + without_temperature(without, cluster)


def without_temperature(tuned: Mapping[str, Scores], cluster: str | None) -> list[str]:
    """What the tuning did by itself, so that the temperature's part can be told apart."""
    notes = []
    for name, scores in tuned.items():
        e = measure(scores, cluster=cluster)["conf_ece"]
        notes.append(
            f"Of {name!r}, the tuned model without the temperature has a conf-ECE of {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]."
        )
    return notes


def no_temperature(calibration: Scores) -> list[str]:
    """Why the tuned model was given no temperature, from its scores of the calibration questions."""
    why = "in cross-validation none lowers the log loss of the calibration questions"
    if not temperature_is_possible(calibration):
        why = "of the answers to the calibration questions too many have probability 0, which no temperature mends"
    elif (fitted := Temperature().fit(calibration)).at_bound_:
        why = "; ".join(at_an_end(fitted.temperature_))
    return [f"No temperature was put on the tuned model: {why}."]


def better_than_start(tuning: TuneResult) -> bool:
    """Whether the weights that were kept beat the untuned model's held-out log loss."""
    return bool(loss_of(tuning) < tuning.history[0]["nll"])
