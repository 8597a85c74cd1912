"""What may climb the ladder: one line a fix. Adding a fix is adding a line to :data:`FIXES`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from calibrant.errors import ConfigError
from calibrant.questions import did_you_mean
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.sweep import SETTINGS, Budget, Setting, candidates

Family = Literal["none", "post-hoc", "weights", "tuning"]

ALIGNED, REFERENCE = "aligned", "pre-alignment"
REQUIRED = {"reference": "the pre-alignment model", "alignment_adapter": "the alignment's LoRA adapter"}


@dataclass(frozen=True)
class Fix:
    """One fix of the ladder.

    Parameters
    ----------
    name : of its folder and in ``--fixes``.
    family : ``post-hoc`` maps ``Scores`` to ``Scores``, ``tuning`` trains an adapter, ``weights`` mixes weights without
        training, ``none`` is a model as it is.
    about : what it does, in words, with its source.
    ships : what must be shipped to use it.
    values : what its sweep does not change: settings of ``TuneConfig``, or arguments of the scaler.
    candidates : what its sweep may choose from, the default first; a budget takes the first so many.
    of : name of the fix whose scores a post-hoc map takes.
    needs : what must be at hand: ``reference``, ``alignment_adapter``.
    fit_on : splits that a post-hoc map is fitted on.
    note : what a reader must know.
    """

    name: str
    family: Family
    about: str
    ships: str
    values: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Setting, ...] = (Setting("default"),)
    of: str = ALIGNED
    needs: tuple[str, ...] = ()
    fit_on: tuple[str, ...] = ("calibration",)
    note: str = ""

    def sweep(self, budget: Budget) -> tuple[Setting, ...]:
        """The candidates that a budget allows."""
        return self.candidates[: SETTINGS[budget]]

    def candidate(self, name: str) -> Setting:
        """The candidate of that name.

        Raises
        ------
        ConfigError : there is none.
        """
        for one in self.candidates:
            if one.name == name:
                return one
        names = [one.name for one in self.candidates]
        raise ConfigError(
            asked=f"{self.name} at the setting {name!r}",
            found=f"no such setting{did_you_mean(name, names)}",
            todo=f"choose among {', '.join(names)}",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fix:
        """The inverse of :meth:`to_json`."""
        lists = {name: tuple(values[name]) for name in ("needs", "fit_on")}
        return cls(**{**values, **lists, "candidates": tuple(Setting(**one) for one in values["candidates"])})

    def config(self, base: TuneConfig, setting: Setting, seed: int) -> TuneConfig:
        """Settings of a trained fix: those of ``base``, with its own and the candidate's on top.

        All of its epochs are done (no early stopping) and the weights of the evaluation with the least held-out NLL are
        kept, so that every trained fix takes equally many optimiser steps.
        """
        fixed = {"seed": seed, "patience": 0, "keep": "best"}
        own = TuneConfig.make({**base.model_dump(), **self.values, **fixed}).for_objective(self.values["objective"])
        config = setting.of(own)
        config.check()
        return config


def _tuned(name: str, about: str, *, note: str = "", **values: Any) -> Fix:
    """A trained fix; its sweep tries what :func:`calibrant.tuning.sweep.sweep` does."""
    return Fix(name, "tuning", about, "adapter", values, candidates(values["objective"]), note=note)


def _own(key: str, *values: Any) -> tuple[Setting, ...]:
    return tuple(Setting(f"{key.replace('_', '-')}-{value}", {key: value}) for value in values)


def _scaler(
    name: str, about: str, ships: str, *, scaler: str = "", candidates: tuple[Setting, ...] = (), **rest: Any
) -> Fix:
    values = {"scaler": scaler or name}
    return Fix(name, "post-hoc", about, ships, values, (Setting("default"), *candidates), **rest)


def _then_temperature(name: str) -> Fix:
    return _scaler(
        f"{name}+temperature",
        f"{name}, then one temperature on the tuned model's calibration scores",
        "adapter and one number",
        scaler="temperature",
        of=name,
        note="The tuning has used the calibration questions before (choice of the epoch and of the setting, and the E-step "
        "of rcft), so a temperature fitted on them is slightly optimistic there; the test questions are clean.",
    )


FIXES: tuple[Fix, ...] = (
    Fix(ALIGNED, "none", "the aligned model as it is", "nothing"),
    Fix(
        REFERENCE, "none", "the model before its alignment: no fix, a reference", "another model", needs=("reference",)
    ),
    _scaler("temperature", "one temperature, by likelihood (Guo et al. 2017)", "one number"),
    _scaler("isotonic", "a monotone map of the confidence (Zadrozny & Elkan 2002)", "a table of knots"),
    _scaler("vector", "a scale and a shift for each option index (Guo et al. 2017)", "2 K numbers"),
    _scaler(
        "dirichlet",
        "a linear map of the log-probabilities (Kull et al. 2019)",
        "K (K + 1) numbers",
        candidates=(Setting("l2", {"regularisation": "l2"}),),
        note="It chooses the strength of its penalty itself, by inner cross-validation.",
    ),
    _scaler(
        "histogram",
        "accuracy of the confidence's bin (Zadrozny & Elkan 2001)",
        "one number a bin",
        candidates=(
            *_own("n_bins", 5, 20, 15),
            Setting("equal-width", {"bins": "equal-width"}),
        ),
    ),
    _scaler(
        "adaptive",
        "a temperature that depends on the question (after arXiv 2409.19817)",
        "a few numbers",
        note="It chooses the strength of its penalty itself, by inner cross-validation.",
    ),
    _scaler(
        "daca",
        "a temperature without labels, where the two models agree (arXiv 2505.16690)",
        "one number",
        needs=("reference",),
        note="It sees the calibration questions but not their answers.",
    ),
    _scaler(
        "temperature-all",
        "one temperature, fitted on the training questions too: as much data as tuning sees",
        "one number",
        scaler="temperature",
        fit_on=("train", "calibration"),
    ),
    Fix(
        "interpolation",
        "weights",
        "weights between the pre-alignment and the aligned model (arXiv 2510.17426)",
        "the model's weights",
        candidates=tuple(Setting(f"alpha-{a}", {"alpha": a}) for a in (0.5, 0.75, 0.25, 0.9, 0.1)),
        needs=("reference",),
    ),
    Fix(
        "scaled-alignment",
        "weights",
        "the alignment's LoRA update, scaled down",
        "adapter",
        candidates=tuple(Setting(f"factor-{f}", {"factor": f}) for f in (0.5, 0.75, 0.25, 0.9, 0.1)),
        needs=("reference", "alignment_adapter"),
    ),
    _tuned("sft", "fine-tuning on question and answer (L_SFT2): the control", objective="sft"),
    _tuned("cft", "fine-tuning on the answer alone (L_SFT1; Xiao et al. 2025)", objective="cft", over="vocabulary"),
    _tuned(
        "cft-options", "CFT with the answer's log loss over the options alone (ours)", objective="cft", over="options"
    ),
    _tuned(
        "rcft",
        "L_SFT2 + λ L_ECE (Xiao et al. 2025), with the E-step on held-out questions at each evaluation (ours)",
        objective="rcft",
        language="sft2",
        e_step="each_evaluation",
    ),
    _tuned(
        "rcft-once",
        "RCFT with one E-step on the training questions, as released (Xiao et al. 2025)",
        objective="rcft",
        language="sft2",
        e_step="once",
    ),
    _tuned(
        "rcft-crossfit",
        "RCFT with a cross-fitted E-step on the training questions (ours)",
        objective="rcft",
        language="sft2",
        e_step="cross_fitted",
    ),
    _tuned(
        "rcft-answer",
        "L_SFT1 + λ L_ECE: the calibration term on CFT (ours)",
        objective="rcft",
        language="sft1",
    ),
    _tuned(
        "label-smoothing",
        "labels smoothed over the options (Szegedy et al. 2016)",
        objective="label_smoothing",
    ),
    _tuned("focal", "focal loss over the options (Mukhoti et al. 2020)", objective="focal"),
    _tuned("brier", "CFT + λ Brier score", objective="brier"),
    _tuned("mmce", "CFT + λ MMCE (Kumar et al. 2018)", objective="mmce"),
    _tuned("soft-ece", "CFT + λ soft-binned ECE (Karandikar et al. 2021)", objective="soft_ece"),
    _tuned(
        "cogcalib",
        "smoothed labels on questions that the model knows (arXiv 2505.20903)",
        objective="cogcalib",
    ),
    _tuned(
        "distill",
        "self-distillation on softened probabilities (after arXiv 2603.06604)",
        objective="distill",
        note="It learns no answer of a training question; the teacher's temperature is fitted on the calibration questions.",
    ),
    _then_temperature("sft"),
    _then_temperature("cft"),
    _then_temperature("cft-options"),
    _then_temperature("rcft"),
    _then_temperature("label-smoothing"),
    _then_temperature("focal"),
)


def by_name(name: str) -> Fix:
    """The fix of that name.

    Raises
    ------
    ConfigError : there is none.
    """
    for fix in FIXES:
        if fix.name == name:
            return fix
    names = [fix.name for fix in FIXES]
    raise ConfigError(
        asked=f"the fix {name!r}",
        found=f"no such fix{did_you_mean(name, names)}",
        todo=f"choose among {', '.join(names)}",
    )


def settings_named(text: str | None) -> dict[str, str]:
    """Settings by fix, from what a command line says; none from nothing.

    >>> settings_named("cft=lr-x3, rcft=default")
    {'cft': 'lr-x3', 'rcft': 'default'}

    Raises
    ------
    ConfigError : a part that is not a pair, or a fix named twice.
    """
    out: dict[str, str] = {}
    for part in text.split(",") if text else ():
        fix, equals, setting = (piece.strip() for piece in part.partition("="))
        if not (fix and equals and setting) or fix in out:
            raise ConfigError(
                asked=f"the settings {text!r}",
                found=f"{fix} twice" if fix in out else f"{part.strip()!r}, which is not FIX=SETTING",
                todo="write them as cft=lr-x3,rcft=default",
            )
        out[fix] = setting
    return out


def select(names: Sequence[str] | None = None) -> tuple[Fix, ...]:
    """The named fixes (all by default) with the aligned model and what they build on, in the order of :data:`FIXES`.

    >>> [fix.name for fix in select(["cft+temperature"])]
    ['aligned', 'cft', 'cft+temperature']
    """
    if names is None:
        return FIXES
    wanted = {ALIGNED}
    waiting = list(names)
    while waiting:
        fix = by_name(waiting.pop())
        wanted.add(fix.name)
        built_on = {fix.of, *([REFERENCE] if "reference" in fix.needs else [])}
        waiting += built_on - wanted
    return tuple(fix for fix in FIXES if fix.name in wanted)


def missing(fix: Fix, given: Mapping[str, Any], config: TuneConfig) -> str | None:
    """Why a fix cannot be run with what is ``given`` (by the names in :data:`REQUIRED`) and these settings, or ``None``."""
    absent = [f"{REQUIRED[name]} (--{name.replace('_', '-')})" for name in fix.needs if given.get(name) is None]
    if absent:
        return f"needs {' and '.join(absent)}"
    if fix.family == "tuning":
        try:
            fix.config(config, fix.candidates[0], 0)
        except ConfigError as error:
            return error.found
    return None if fix.of == ALIGNED else missing(by_name(fix.of), given, config)
