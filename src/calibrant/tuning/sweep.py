"""``sweep``: a few settings of one objective, and the adapter of the best by held-out log loss.

The candidates are those of ``calibrant ladder``, so a sweep here and a rival's there try equally many.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

from calibrant.errors import ConfigError, ModelError
from calibrant.files import alone, claim_folder, write_json
from calibrant.objectives import Objective
from calibrant.prompts import PromptStyle, given_style
from calibrant.questions import QuestionSet
from calibrant.scoring.fingerprints import fingerprints
from calibrant.scoring.models import LoadedModel, chat_template_facts
from calibrant.tuning.config import TuneConfig, given_config
from calibrant.tuning.tune import RESULT, TuneResult, tune

Budget = Literal["quick", "standard", "thorough"]
SETTINGS: dict[str, int] = {"quick": 1, "standard": 3, "thorough": 5}
"""Settings that are tried, by budget: the same number for every objective."""
RATES = {"lr-x3": 3.0, "lr-x0.33": 1 / 3, "lr-x10": 10.0, "lr-x0.1": 0.1}
"""Factors of the learning rate; the last two where the objective has no setting of its own."""
OWN: dict[str, tuple[str, float, float]] = {
    "rcft": ("lam", 0.3, 5.0),
    "brier": ("lam", 0.3, 5.0),
    "mmce": ("lam", 0.3, 5.0),
    "soft_ece": ("lam", 0.3, 5.0),
    "label_smoothing": ("epsilon", 0.2, 0.05),
    "cogcalib": ("epsilon", 0.2, 0.05),
    "focal": ("gamma", 1.0, 5.0),
}
"""The setting of an objective that a sweep varies, with its two further values."""
FOLDER, FILE = "sweep", "sweep.json"
WATCHING = ("progress", "batch_tokens", "callbacks")
"""Settings of ``tune`` that change nothing about its result."""


@dataclass(frozen=True)
class Setting:
    """One candidate of a sweep.

    Parameters
    ----------
    name : of its folder, e.g. ``"lr-x3"``.
    values : what it sets; ``learning_rate_factor`` multiplies the learning rate of the settings it starts from.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def of(self, config: TuneConfig) -> TuneConfig:
        """These settings with the candidate's on top."""
        values = dict(self.values)
        rate = config.learning_rate * values.pop("learning_rate_factor", 1.0)
        return TuneConfig.make({**config.model_dump(), **values, "learning_rate": rate})


def candidates(objective: Objective) -> tuple[Setting, ...]:
    """Five settings: as asked, learning rate ×3 and ×1/3, then two values of the objective's own setting or, without one,
    ×10 and ×1/10.

    >>> [setting.name for setting in candidates("rcft")]
    ['default', 'lr-x3', 'lr-x0.33', 'lam-0.3', 'lam-5.0']
    """
    rates = [Setting(name, {"learning_rate_factor": factor}) for name, factor in RATES.items()]
    own = rates[2:]
    if objective in OWN:
        key, *values = OWN[objective]
        own = [Setting(f"{key}-{value}", {key: value}) for value in values]
    return (Setting("default"), *rates[:2], *own)


def settings_for(objective: Objective, budget: Budget) -> tuple[Setting, ...]:
    """The candidates that a budget allows.

    Raises
    ------
    ConfigError : no such budget.
    """
    if budget not in SETTINGS:
        raise ConfigError(
            asked=f"the budget {budget!r}", found=f"budgets: {', '.join(SETTINGS)}", todo="choose one of these"
        )
    return candidates(objective)[: SETTINGS[budget]]


def sweep(
    model: str | Path,
    train: QuestionSet,
    calibration: QuestionSet,
    *,
    out: str | Path,
    budget: Budget = "standard",
    config: TuneConfig | None = None,
    style: PromptStyle | None = None,
    **settings: Any,
) -> TuneResult:
    """Tune with each setting that ``budget`` allows and keep the one with the least held-out log loss.

    ``quick`` is one :func:`tune`. Else each candidate is tuned in ``out/sweep/<name>``, and the best is moved to ``out`` and
    looks there as ``tune`` leaves it; ``out/sweep.json`` tells what was tried. Held-out log loss is that of the calibration
    questions, the least of a candidate's evaluations (the last one's with ``keep: last``). A candidate whose loss diverges
    is out, with its reason. Called again with the same arguments it goes on where it stopped.

    Parameters
    ----------
    model : hub id, local folder or GGUF file; each candidate starts from its weights.
    train, calibration, out, config, style, settings : as for :func:`tune`; ``config`` is the first candidate.
    budget : ``"quick"``, ``"standard"`` or ``"thorough"``: 1, 3 or 5 settings (:func:`candidates`).

    Raises
    ------
    ModelError : every candidate failed. ConfigError : ``out`` holds another sweep, or another process is at work there; a
    loaded model, which the first candidate would change for the others. Else as :func:`tune`.
    """
    config, style, out = given_config(config), given_style(style, settings), Path(out)
    tried = settings_for(config.objective, budget)
    if len(tried) == 1:
        return tune(model, train, calibration, out=out, config=config, style=style, **settings)
    if isinstance(model, LoadedModel):
        raise ConfigError(
            asked=f"a sweep of {len(tried)} settings",
            found="a loaded model, which the first of them would change for the others",
            todo="name the model's hub id, folder or file, or use budget quick",
        )
    config.check()
    loading = {name: settings[name] for name in sorted(settings) if name not in WATCHING}
    claim_folder(out, _identity(model, style, config, budget, (train, calibration), loading), "sweep")
    with alone(out, "sweep"):
        if (out / RESULT).exists():
            return TuneResult.load(out)
        found: dict[str, TuneResult] = {}
        failed: dict[str, ModelError] = {}
        for setting in tried:
            try:
                found[setting.name] = tune(
                    model,
                    train,
                    calibration,
                    out=out / FOLDER / setting.name,
                    config=setting.of(config),
                    style=style,
                    **settings,
                )
            except ModelError as error:
                failed[setting.name] = ModelError(
                    asked=error.asked, found=error.found, todo=error.todo
                )  # without its model
        if not found:
            raise next(iter(failed.values()))
        losses = {name: loss_of(result) for name, result in found.items()}
        best = min(losses, key=losses.__getitem__)
        report = {
            "criterion": "least log loss of the calibration questions",
            "chosen": best,
            "tried": [
                {
                    "setting": setting.name,
                    "values": dict(setting.values),
                    "nll": losses.get(setting.name),
                    "error": failed[setting.name].found if setting.name in failed else None,
                }
                for setting in tried
            ],
        }
        state = PartialState()
        if state.is_main_process:
            write_json(out / FILE, report)
            _move(found[best], out, report)
        state.wait_for_everyone()
        return TuneResult.load(out)


def _identity(
    model: str | Path,
    style: PromptStyle,
    config: TuneConfig,
    budget: Budget,
    sets: tuple[QuestionSet, QuestionSet],
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **chat_template_facts(model, [style.format], **loading),
        "model": str(model),
        "weights": fingerprints(model=model),
        "budget": budget,
        "prompt_digest": style.digest,
        "config": config.identity(),
        "questions": {name: q.digest for name, q in zip(("train", "calibration"), sets, strict=True)},
        "loading": {name: str(value) for name, value in loading.items()},
    }


def loss_of(result: TuneResult) -> float:
    """Held-out log loss of the weights that were kept, nats a question."""
    trained = [point["nll"] for point in result.history if point["step"] > 0 and "nll" in point]
    if not trained:
        return float("inf")
    return float(min(trained) if result.config["keep"] == "best" else trained[-1])


def _move(result: TuneResult, out: Path, report: Mapping[str, Any]) -> None:
    """The winner's weights in ``out``; its result is written last, so that what is there is whole. The others go."""
    kind = "adapter" if result.adapter is not None else "model"
    source = result.adapter or result.weights
    assert source is not None
    temporary = out / f".{kind}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(out / kind, ignore_errors=True)
    temporary.rename(out / kind)
    relative = {name: kind if getattr(result, name) else None for name in ("adapter", "weights")}
    write_json(out / RESULT, {**replace(result, sweep=dict(report)).to_json(), **relative})
    for folder in (out / FOLDER).iterdir():
        shutil.rmtree(folder / kind, ignore_errors=True)
