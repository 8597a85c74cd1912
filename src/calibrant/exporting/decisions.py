"""What is shipped beside the weights: a temperature, a threshold below which to abstain, and what to expect."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.errors import ConfigError
from calibrant.importing.systemone import SOURCE
from calibrant.metrics import Decision, clopper_pearson, measure, threshold_for
from calibrant.metrics.measurement import finite
from calibrant.prompts import PromptStyle
from calibrant.scalers import Temperature, question_keys
from calibrant.scores import Scores

SERVED = "served_temperature"
"""In the provenance of an export's check: the temperature that these scores hold."""
STEERED = (
    "The calibration questions also chose the epoch (and, for RCFT, the targets) of the tuning, so the model is not "
    "independent of them and the promise is not strict; the test questions, where known, show what it is worth."
)


@dataclass(frozen=True)
class Abstention:
    """A threshold on the served confidence, the questions that it was found on, and how it does on the test questions."""

    decision: Decision
    fit_keys: tuple[str, ...]
    on_test: dict[str, Any] | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the decision, ``on_test``, and digests of the questions that it was found on."""
        found = self.decision.to_json()
        return found | {"note": self.note, "on_test": self.on_test, "fit_keys": sorted(self.fit_keys)}


def halves(scores: Scores) -> tuple[Scores, Scores]:
    """Two halves of different questions, drawn by SHA-256 of each question's key: the same ones each time.

    A temperature from one and a threshold from the other: a threshold's promise needs confidences that do not depend on
    the questions that it is tested on.

    >>> a, b = halves(Scores.from_probs([[0.9, 0.1]] * 101, [0] * 101))
    >>> a.n, b.n, set(a.ids) & set(b.ids)
    (51, 50, set())
    """
    keys = question_keys(scores)
    order = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    first = set(order[::2])
    in_first = np.array([key in first for key in keys])
    if in_first.all():
        raise ConfigError(
            asked="a temperature and a threshold from two halves of the calibration questions",
            found=f"{len(order)} question",
            todo="give more calibration questions",
        )
    return scores.select(in_first), scores.select(~in_first)


def abstention(
    scores: Scores,
    scaler: Temperature | None,
    target_accuracy: float,
    level: float,
    *,
    test: Scores | None = None,
    steered: bool = False,
) -> Abstention:
    """The lowest threshold that promises ``target_accuracy`` among the answered questions (:func:`threshold_for`).

    Raises
    ------
    LeakageError : the temperature was fitted on some of these questions. ConfigError : no threshold can be promised.
    """
    served = scores if scaler is None else scaler.apply(scores)
    decision = threshold_for(served.confidence_N, served.correct_N, target_accuracy, level)
    if decision.threshold is None:
        raise ConfigError(
            asked=f"a threshold with accuracy {target_accuracy:g} among the answered, promised at {100 * level:g}%",
            found=decision.note,
            todo="lower --target-accuracy or --level, give more calibration questions, or leave it out",
        )
    on_test = None
    if test is not None:
        on_test = _on_test(test if scaler is None else scaler.apply(test), decision.threshold, level)
    return Abstention(decision, tuple(question_keys(scores)), on_test, STEERED if steered else "")


def expected(test: Scores, scaler: Temperature | None) -> dict[str, Any]:
    """Accuracy and conf-ECE of the served probabilities on test questions, with intervals and floor."""
    served = test if scaler is None else scaler.apply(test)
    m = measure(served)
    numbers = {name: m[name].to_json() for name in ("accuracy", "conf_ece", "mean_confidence")}
    return {"n": m.n, "split": m.split, "n_bins": m.n_bins, "level": m.level, **numbers}


def refuse_foreign(known: Mapping[str, Any], facts: Mapping[str, Any], style: PromptStyle, name: str) -> None:
    """Raise :class:`ConfigError` for scores that another model, adapter, quantisation, prompt or chat template made, or that
    were rescaled, as far as their provenance ``known`` tells.
    """
    wanted = {**{key: facts.get(key) for key in ("weights", "adapter_weights")}, "prompt_digest": style.digest}
    if facts.get("weights") is None:  # on the hub, a commit stands for the weights
        wanted |= {key: facts.get(key) for key in ("model", "revision")}
    wanted |= {"quantized": facts.get("quantized")}
    wanted |= {key: facts[key] for key in ("chat_template",) if facts.get(key) is not None}
    if "adapter_weights" in known:  # facts of load_model, which says nothing of weights that are not quantised
        known = {"quantized": None, **known}
    if known.get("source") == SOURCE:
        raise ConfigError(
            asked=f"{name} from scores of the exported model",
            found=f"answers of an endpoint ({known.get('url')}), whatever temperature it applied",
            todo="score the questions with the model itself (`calibrant score MODEL --adapter …`)",
        )
    if "scaler" in known:
        raise ConfigError(
            asked=f"{name} from scores of the exported model",
            found=f"scores that were rescaled already ({known['scaler'].get('name', 'by a scaler')})",
            todo="give the model's scores as they are; a run of restore keeps them in scores/tuned",
        )
    if known.get(SERVED, 1) != 1:
        raise ConfigError(
            asked=f"{name} from scores of the exported model",
            found=f"scores of an export's check, which hold its temperature of {known[SERVED]:g}",
            todo="score the questions with the model itself (`calibrant score MODEL --adapter …`)",
        )
    differs = [key for key, value in wanted.items() if key in known and known[key] != value]
    if differs:
        raise ConfigError(
            asked=f"{name} from scores of the exported model",
            found="; ".join(
                f"{key.replace('_', ' ')} {known[key]!r} in the scores, {wanted[key]!r} here" for key in differs
            ),
            todo="score the questions with this model, adapter and prompt, quantised or not as it is here "
            "(`calibrant score MODEL --adapter …`)",
        )


def _on_test(served: Scores, threshold: float, level: float) -> dict[str, Any]:
    answered_N = served.confidence_N >= threshold
    n, hits = int(answered_N.sum()), int(served.correct_N[answered_N].sum())
    out: dict[str, Any] = {"n": served.n, "answered": n, "coverage": n / served.n, "accuracy": None}
    if n:
        low, high = clopper_pearson(hits, n, level)
        out |= {"accuracy": hits / n, "accuracy_low": finite(float(low)), "accuracy_high": finite(float(high))}
    return out
