"""One temperature for all questions. Shape suffixes: N questions, K options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from scipy.optimize import brentq

from calibrant.errors import ScoresError, only_numbers
from calibrant.scalers.base import Scaler, normalised, number
from calibrant.scores import Scores

TEMPERATURE_RANGE = (0.01, 100.0)
"""Temperatures searched: beyond them the options are all but certain, or all but equally likely."""


class Temperature(Scaler):
    """Temperature scaling: ``q_k ∝ p_k^(1/T)``, one T > 0 for all questions, chosen by likelihood on the fit questions.

    ``NLL(β) = mean_i [ -β z_{i,y_i} + log sum_k exp(β z_ik) ]`` with ``z = log p`` is convex in ``β = 1/T``; T solves
    ``dNLL/dβ = 0`` by bracketing within [0.01, 100]. T > 1 softens an overconfident model. Predictions never change. A
    question with K_i options is normalised over its own K_i. Source: Guo et al. (ICML 2017), section 4.2; the refusal of
    fit questions is ours.

    Attributes
    ----------
    temperature_ : the fitted T, dimensionless.
    at_bound_ : whether T stopped at an end of [0.01, 100]: no finite T is best on those questions.
    n_fit_ : questions fitted on.
    n_left_out_ : questions that no temperature can mend, since their answer has probability 0; they are left out of
        the fit.

    >>> sharp = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3)
    >>> scaler = Temperature().fit(sharp)
    >>> round(scaler.temperature_, 3)  # logit(.9) / logit(.7)
    2.593
    >>> other = Scores.from_probs([[0.9, 0.1]], [0], ids=["other"])
    >>> scaler.apply(other).p_NK.round(3).tolist()
    [[0.7, 0.3]]
    """

    name = "temperature"

    def __init__(self) -> None:
        super().__init__()
        self.temperature_: float | None = None
        self.at_bound_ = False
        self.n_left_out_ = 0

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        z_NK = scores.logp_NK - scores.logp_NK.max(1, keepdims=True)
        answer_z_N = z_NK[np.arange(scores.n), scores.answer_N]
        usable_N = possible_answers(scores, self.name)
        self.temperature_, self.at_bound_ = best_temperature(z_NK[usable_N], float(answer_z_N[usable_N].mean()))
        self.n_left_out_ = int((~usable_N).sum())

    def _rescaled(self, scores: Scores) -> np.ndarray:
        assert self.temperature_ is not None
        return normalised(scores.logp_NK / self.temperature_)

    def _learned(self) -> dict[str, Any]:
        return {"temperature": self.temperature_, "at_bound": self.at_bound_, "n_left_out": self.n_left_out_}

    def cautions(self) -> tuple[str, ...]:
        """Also where no finite temperature was best, and why."""
        return super().cautions() + at_an_end(self.temperature_ if self.at_bound_ else None)

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls()
        scaler.temperature_ = number(values["temperature"], *TEMPERATURE_RANGE)
        scaler.at_bound_, scaler.n_left_out_ = bool(values["at_bound"]), int(values["n_left_out"])
        return scaler


def at_temperature(scores: Scores, temperature: float) -> Scores:
    """Scores divided by a temperature that is known: ``logp / T``, normalised over the options; nothing is fitted.

    >>> at_temperature(Scores.from_probs([[0.9, 0.1]], [0]), 2.0).p_NK.round(3).tolist()
    [[0.75, 0.25]]
    """
    only_numbers(temperature=temperature)
    if temperature == 1:
        return scores
    return replace(scores, logp_NK=normalised(scores.logp_NK / number(float(temperature), *TEMPERATURE_RANGE)))


def at_an_end(temperature: float | None) -> tuple[str, ...]:
    """In words, why a fit by answers stopped at an end of :data:`TEMPERATURE_RANGE`; nothing for ``None``."""
    if temperature is None:
        return ()
    why = "all answers fitted on are right, or all but all, so that no confidence is too high for them"
    if temperature > 1:
        why = "on the questions fitted on a higher probability does not go with a right answer"
    return (f"the temperature stopped at {temperature:g}, an end of its range: {why}",)


def temperature_is_possible(scores: Scores) -> bool:
    """Whether more than half of the answers have a probability above 0: enough for a temperature, in each fold too."""
    answer_logp_N = scores.logp_NK[np.arange(scores.n), scores.answer_N]
    return bool(np.isfinite(answer_logp_N).sum() > scores.n / 2)


def possible_answers(scores: Scores, name: str) -> np.ndarray:
    """Which answers have a probability above 0, bool (N,); where none has, a :class:`ScoresError`."""
    possible_N = np.isfinite(scores.logp_NK[np.arange(scores.n), scores.answer_N])
    if not possible_N.any():
        raise ScoresError(
            asked=f"the scaler {name!r} from {scores.n} questions",
            found="every answer has probability 0",
            todo="check the answers, or score with a model that gives every option some probability",
        )
    return np.asarray(possible_N)


def best_temperature(z_NK: np.ndarray, wanted: float) -> tuple[float, bool]:
    """The T at which ``mean_i sum_k q_ik z_ik = wanted``, ``q ∝ exp(z/T)``, and whether it stopped at a bound.

    That is where the mean cross-entropy of q to targets t is least, with ``wanted = mean_i sum_k t_ik z_ik``: for
    answers, t is one-hot. Each row of z has its maximum 0; options of probability 0 are ``-inf``.
    """
    finite_NK = np.isfinite(z_NK)
    flat_NK = np.where(finite_NK, z_NK, 0.0)

    def slope(log_t: float) -> float:  # dNLL/dβ at β = exp(-log_t); falls as T rises
        weight_NK = np.where(finite_NK, np.exp(flat_NK * np.exp(-log_t)), 0.0)
        return float(((weight_NK * flat_NK).sum(1) / weight_NK.sum(1)).mean()) - wanted

    low, high = (float(np.log(t)) for t in TEMPERATURE_RANGE)
    if slope(0.0) == 0:
        return 1.0, False
    if slope(low) <= 0:
        return TEMPERATURE_RANGE[0], True
    if slope(high) >= 0:
        return TEMPERATURE_RANGE[1], True
    return float(np.exp(brentq(slope, low, high, xtol=1e-12))), False
