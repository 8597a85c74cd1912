"""Post-hoc scalers: maps ``Scores -> Scores`` that are fitted on some questions and applied to others.

Shape suffixes: N questions, K options. A scaler remembers the questions that it was fitted on and refuses to rescale
them: what it makes of them is no evidence.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np
from scipy.optimize import brentq, isotonic_regression

from calibrant.errors import ConfigError, LeakageError, ScoresError
from calibrant.scores import Scores

TEMPERATURE_RANGE = (0.01, 100.0)
"""Temperatures searched: beyond them the options are all but certain, or all but equally likely."""


class Scaler(Protocol):
    """What every scaler can do."""

    def fit(self, scores: Scores) -> Self:
        """Learn from scores whose answers are known; returns itself."""
        ...

    def apply(self, scores: Scores, *, allow_fit_rows: bool = False) -> Scores:
        """Rescaled copy of other scores."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What was learned."""
        ...


class Temperature:
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

    def __init__(self) -> None:
        self.temperature_: float | None = None
        self.at_bound_ = False
        self.n_fit_ = 0
        self.n_left_out_ = 0
        self._fit_keys: frozenset[str] = frozenset()

    def fit(self, scores: Scores) -> Self:
        """Find T on ``scores``.

        Raises
        ------
        ScoresError : no question's answer has a probability above 0.
        """
        z_NK = scores.logp_NK - scores.logp_NK.max(1, keepdims=True)
        answer_z_N = z_NK[np.arange(scores.n), scores.answer_N]
        usable_N = np.isfinite(answer_z_N)
        if not usable_N.any():
            raise ScoresError(
                asked=f"a temperature from {scores.n} questions",
                found="every answer has probability 0",
                todo="check the answers, or score with a model that gives every option some probability",
            )
        self.temperature_, self.at_bound_ = _best_temperature(z_NK[usable_N], answer_z_N[usable_N])
        self.n_fit_, self.n_left_out_ = scores.n, int((~usable_N).sum())
        self._fit_keys = frozenset(question_keys(scores))
        return self

    def apply(self, scores: Scores, *, allow_fit_rows: bool = False) -> Scores:
        """Scores with ``logp / T``, normalised again; the temperature is added to the provenance.

        Raises
        ------
        ConfigError : not fitted yet.
        LeakageError : some questions were fitted on, unless ``allow_fit_rows`` (for use, never for evaluation).
        """
        if self.temperature_ is None:
            raise ConfigError(asked="a temperature applied", found="none fitted", todo="call fit(scores) first")
        _refuse_fit_questions(scores, self._fit_keys, allow_fit_rows)
        logp_NK = scores.logp_NK / self.temperature_
        logp_NK = logp_NK - np.logaddexp.reduce(logp_NK, axis=1, keepdims=True)
        named = {"name": "temperature", "temperature": self.temperature_, "n_fit": self.n_fit_}
        return replace(scores, logp_NK=logp_NK, provenance={**scores.provenance, "scaler": named})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: T and digests of the fit questions, so that a loaded scaler still refuses them."""
        return {
            "name": "temperature",
            "temperature": self.temperature_,
            "at_bound": self.at_bound_,
            "n_fit": self.n_fit_,
            "n_left_out": self.n_left_out_,
            "fit_keys": sorted(self._fit_keys),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Temperature:
        """The scaler that :meth:`to_json` wrote.

        Raises
        ------
        ConfigError : another kind of scaler, a missing key, or a T outside [0.01, 100].
        """
        low, high = TEMPERATURE_RANGE
        missing = {"temperature", "at_bound", "n_fit", "n_left_out", "fit_keys"} - set(values)
        temperature = values.get("temperature")
        if values.get("name") != "temperature" or missing or not _is_number(temperature, low, high):
            raise ConfigError(
                asked="a temperature scaler from JSON",
                found=f"name {values.get('name')!r}, T = {temperature!r}, missing keys: {sorted(missing) or 'none'}",
                todo=f"give what Temperature.to_json() wrote, with T between {low:g} and {high:g}",
            )
        scaler = cls()
        scaler.temperature_ = float(values["temperature"])
        scaler.at_bound_ = bool(values["at_bound"])
        scaler.n_fit_, scaler.n_left_out_ = int(values["n_fit"]), int(values["n_left_out"])
        scaler._fit_keys = frozenset(str(key) for key in values["fit_keys"])
        return scaler


class Isotonic:
    """A monotone map of the confidence: top option ``c -> g(c)``, the other options keep their proportions.

    g is the isotonic regression of correctness on confidence (pool adjacent violators), linear between its knots and
    constant beyond them: the bin-wise map of the confidence that calibrates at unchanged predictions. So that predictions
    stay, g is at least what keeps the top option on top (``r / (1 + r)``, r the largest share among the other
    options); so that no option is ruled out, at most ``1 - 1 / (n + 2)``. Where the others all have probability 0 they
    share equally. Source: Zadrozny & Elkan (KDD 2002) for the regression; the two limits are ours.

    Attributes
    ----------
    knots_, values_ : confidences and g at them, ascending.
    n_fit_ : questions fitted on.

    >>> scores = Scores.from_probs([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, [0] * 7 + [1] * 3 + [0] * 5 + [1] * 5)
    >>> other = Scores.from_probs([[0.05, 0.95], [0.75, 0.25]], [0, 0], ids=["x", "y"])
    >>> Isotonic().fit(scores).apply(other).confidence_N.round(3).tolist()  # .7 from .9 on; half-way from .5 to .7
    [0.7, 0.6]
    """

    def __init__(self) -> None:
        self.knots_: np.ndarray = np.zeros(0)
        self.values_: np.ndarray = np.zeros(0)
        self.n_fit_ = 0
        self._fit_keys: frozenset[str] = frozenset()

    def fit(self, scores: Scores) -> Self:
        """Find g on ``scores``."""
        c_U, place_N = np.unique(np.minimum(scores.confidence_N, 1.0), return_inverse=True)
        count_U = np.bincount(place_N)
        accuracy_U = np.bincount(place_N, weights=scores.correct_N.astype(np.float64)) / count_U
        g_U = isotonic_regression(accuracy_U, weights=count_U).x
        bend_U = np.ones(len(g_U), dtype=bool)
        bend_U[1:-1] = (np.diff(g_U)[:-1] != 0) | (np.diff(g_U)[1:] != 0)
        self.knots_, self.values_, self.n_fit_ = c_U[bend_U], g_U[bend_U], scores.n
        self._fit_keys = frozenset(question_keys(scores))
        return self

    def apply(self, scores: Scores, *, allow_fit_rows: bool = False) -> Scores:
        """Scores with the mapped confidence.

        Raises
        ------
        ConfigError : not fitted yet.
        LeakageError : some questions were fitted on, unless ``allow_fit_rows`` (for use, never for evaluation).
        """
        if not len(self.knots_):
            raise ConfigError(asked="a confidence map applied", found="none fitted", todo="call fit(scores) first")
        _refuse_fit_questions(scores, self._fit_keys, allow_fit_rows)
        at_N, top_N, p_NK = np.arange(scores.n), scores.prediction_N, scores.p_NK
        rest_NK = np.where(np.arange(scores.k) < scores.k_N[:, None], p_NK, 0.0)
        rest_NK[at_N, top_N] = 0.0
        equal_NK = (np.arange(scores.k) < scores.k_N[:, None]) / (scores.k_N[:, None] - 1.0)
        equal_NK[at_N, top_N] = 0.0
        total_N1 = rest_NK.sum(1, keepdims=True)
        share_NK = np.where(total_N1 > 0, rest_NK / np.where(total_N1 > 0, total_N1, 1.0), equal_NK)
        largest_N = share_NK.max(1)
        g_N = np.interp(np.minimum(scores.confidence_N, 1.0), self.knots_, self.values_)
        g_N = np.minimum(g_N, 1 - 1 / (self.n_fit_ + 2))
        g_N = np.maximum(g_N, largest_N / (1 + largest_N) + 1e-9)
        mapped_NK = (1 - g_N)[:, None] * share_NK
        mapped_NK[at_N, top_N] = g_N
        with np.errstate(divide="ignore"):
            logp_NK = np.log(mapped_NK)
        return replace(scores, logp_NK=logp_NK, provenance={**scores.provenance, "scaler": self._named()})

    def _named(self) -> dict[str, Any]:
        return {
            "name": "isotonic",
            "knots": self.knots_.tolist(),
            "values": self.values_.tolist(),
            "n_fit": self.n_fit_,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the map and digests of the fit questions."""
        return self._named() | {"fit_keys": sorted(self._fit_keys)}


def cross_validated(scaler: Scaler, scores: Scores, *, folds: int = 5, seed: int = 0) -> Scores:
    """``scores`` in which each question was rescaled by a scaler fitted on the other folds only; same order.

    The scaler that is handed in stays unfitted. A question that occurs twice stays in one fold.

    Raises
    ------
    ConfigError : fewer than two folds. ScoresError : fewer than two different questions.

    >>> p = [[0.9, 0.1], [0.8, 0.2]] * 50
    >>> scores = Scores.from_probs(p, ([0] * 7 + [1] * 3) * 10)
    >>> after = cross_validated(Temperature(), scores)
    >>> after.ids == scores.ids, bool(after.confidence_N.mean() < scores.confidence_N.mean())
    (True, True)
    """
    if folds < 2:
        raise ConfigError(asked="cross-validation", found=f"{folds} fold(s)", todo="give 2 folds or more, usually 5")
    _, question_N = np.unique(np.array(question_keys(scores)), return_inverse=True)
    different = int(question_N.max()) + 1
    if different < 2:
        raise ScoresError(
            asked="cross-validation", found="one question only", todo="give two different questions or more"
        )
    folds = min(folds, different)
    fold_N = np.random.default_rng([seed, 5]).permutation(different)[question_N] % folds
    logp_NK = np.empty_like(scores.logp_NK)
    parts = []
    for fold in range(folds):
        fitted = copy.deepcopy(scaler).fit(scores.select(fold_N != fold))
        logp_NK[fold_N == fold] = fitted.apply(scores.select(fold_N == fold)).logp_NK
        parts.append({name: value for name, value in fitted.to_json().items() if name != "fit_keys"})
    named = {"cross_validated": True, "folds": parts, "seed": seed}
    return replace(scores, logp_NK=logp_NK, provenance={**scores.provenance, "scaler": named})


def _refuse_fit_questions(scores: Scores, fit_keys: frozenset[str], allow: bool) -> None:
    seen = [] if allow else [key in fit_keys for key in question_keys(scores)]
    if any(seen):
        raise LeakageError(
            asked=f"{scores.n} questions rescaled",
            found=f"{sum(seen)} of them were used to fit the scaler, first {scores.ids[seen.index(True)]!r}",
            todo="fit on a calibration split, or use cross_validated(); allow_fit_rows=True is not for evaluation",
        )


def temperature_is_possible(scores: Scores) -> bool:
    """Whether more than half of the answers have a probability above 0: enough for a temperature, in each fold too."""
    answer_logp_N = scores.logp_NK[np.arange(scores.n), scores.answer_N]
    return bool(np.isfinite(answer_logp_N).sum() > scores.n / 2)


def question_keys(scores: Scores) -> list[str]:
    """What tells one question from another: its content hash; where that is unknown, a digest of id, answer and
    scores.
    """
    return [
        known or hashlib.sha256(f"{name}\0{answer}\0".encode() + row_K.tobytes()).hexdigest()[:24]
        for known, name, answer, row_K in zip(scores.hashes, scores.ids, scores.answer_N, scores.logp_NK, strict=True)
    ]


def _best_temperature(z_NK: np.ndarray, answer_z_N: np.ndarray) -> tuple[float, bool]:
    finite_NK = np.isfinite(z_NK)
    flat_NK = np.where(finite_NK, z_NK, 0.0)
    wanted = float(answer_z_N.mean())

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


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
