"""What the untuned model says of the questions, and the answer distributions that some objectives make of it.

Scored once, before the first step, and kept in the run's folder, so that a resumed run has the same targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigError
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.tuning.collate import Example
from calibrant.tuning.config import TuneConfig

FOLDER = "start"


def with_targets(
    examples: Sequence[Example], config: TuneConfig, score: Callable[[str], Scores], folder: Path
) -> tuple[list[Example], dict[str, Any]]:
    """The examples with the answer distribution ``t`` that the objective teaches, and what it rests on.

    ========================  =============================================================================================
    ``label_smoothing``       ``t = (1 − ε)·1[k = y] + ε / K``
    ``cogcalib``              the same where the untuned model's top option is the answer (known), ``1[k = y]`` elsewhere
    ``distill``               ``t_k ∝ p0_k^(1/T)``, p0 the untuned model's option probabilities; no answer is looked at,
                              but those of the calibration questions, on which T is fitted where it is not given
    others                    none
    ========================  =============================================================================================

    Parameters
    ----------
    score : makes the untuned model's scores of ``"train"`` or ``"calibration"``, as the style reads them.
    folder : of the run.

    Returns
    -------
    examples, facts : ``known_share``, or ``teacher_temperature``.
    """
    if config.objective == "label_smoothing":
        return [replace(e, target=smoothed(e.answer, e.k, config.epsilon)) for e in examples], {}
    if config.objective == "cogcalib":
        known_N = _kept("train", score, folder).correct_N
        shares = [config.epsilon if known else 0.0 for known in known_N]
        taught = [replace(e, target=smoothed(e.answer, e.k, share)) for e, share in zip(examples, shares, strict=True)]
        return taught, {"known_share": float(known_N.mean())}
    if config.objective == "distill":
        teacher, temperature = _kept("train", score, folder), config.teacher_temperature
        if temperature is None:
            fitted = Temperature().fit(_kept("calibration", score, folder))
            if fitted.at_bound_:
                raise ConfigError(
                    asked="a teacher's temperature fitted on the calibration questions",
                    found=f"none is best, the log loss falls up to the end of the range, T = {fitted.temperature_:g}: the "
                    "model is no better than chance there, or always right",
                    todo="give teacher_temperature, other calibration questions, or another objective",
                )
            temperature = fitted.temperature_
        assert temperature is not None
        taught = [
            replace(e, target=tuple(softened(logp_K[: e.k], temperature)))
            for e, logp_K in zip(examples, teacher.logp_NK, strict=True)
        ]
        return taught, {"teacher_temperature": temperature}
    return list(examples), {}


def smoothed(answer: int, k: int, epsilon: float) -> tuple[float, ...]:
    """``(1 − ε)·1[k = y] + ε / K``.

    >>> smoothed(1, 4, 0.2)
    (0.05, 0.8500000000000001, 0.05, 0.05)
    """
    return tuple((1 - epsilon) * (option == answer) + epsilon / k for option in range(k))


def softened(logp_K: Sequence[float], temperature: float) -> list[float]:
    """``p_k^(1/T)``, normalised.

    >>> import math
    >>> [round(t, 6) for t in softened([math.log(0.9), math.log(0.1)], 2.0)]  # odds 9 to 1 become 3 to 1
    [0.75, 0.25]
    """
    top = max(logp_K)
    raised = [math.exp((logp - top) / temperature) for logp in logp_K]
    return [value / sum(raised) for value in raised]


def _kept(name: str, score: Callable[[str], Scores], folder: Path) -> Scores:
    path = folder / FOLDER / f"{name}.safetensors"
    if not path.exists():
        score(name).save(path)
    return Scores.load(path)
