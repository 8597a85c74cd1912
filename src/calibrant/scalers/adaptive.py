"""A temperature for each question. Shape suffixes: N questions, K options, F features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from calibrant.errors import ConfigError, ScoresError, only_numbers
from calibrant.scalers.base import Scaler, array, normalised, number, strings
from calibrant.scalers.crossval import chosen_by_cv
from calibrant.scalers.temperature import TEMPERATURE_RANGE, at_an_end, best_temperature, possible_answers
from calibrant.scores import Scores

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FEATURES = ("entropy", "margin", "logmass", "options", "question_length")
MARGIN_CAP = 50.0
"""Log-odds of the top against the second option, in nats, above which all count as this."""
MOST_LOG_BETA = 30.0


class AdaptiveTemperature(Scaler):
    """A temperature that depends on the question: ``q_k ∝ p_k^(1/T_i)``, ``ln T_i = a + w · f_i``. Predictions stay.

    f are features of the scores, standardised on the fit questions and, when applied, cut to the range that occurred
    there. Minimised is ``mean NLL + λ |w|²``, from the best single temperature (w = 0) by L-BFGS with its gradient. λ is the
    candidate with the least held-out NLL in 5 folds of the fit questions; a large λ is a single temperature. As the order
    of confidences between questions can change, so can AUROC.

    ========================  =====================================================================
    ``entropy``               entropy of the options over ln K_i, in [0, 1]
    ``margin``                ln(1 + ln(p_1 / p_2)), top against second option, ln(p_1/p_2) at most 50
    ``logmass``               log-probability of all options together, where known
    ``options``               ln K_i
    ``question_length``       ln(1 + characters), where the scores hold that column
    ========================  =====================================================================

    Inspired by Xie et al. (arXiv 2409.19817), who predict a temperature for each token by a head on hidden states, trained
    with a loss that smooths wrong predictions. Here the features are a handful that scores hold, the loss is log loss,
    and there are at most 6 parameters: it can do less and needs no model.

    Parameters
    ----------
    features : names from the table; by default those that are known for every fit question and vary.
    strengths : candidates for λ, positive.

    Attributes
    ----------
    features_, weights_, offset_ : f, w (F,) and a, of standardised features.
    mean_, spread_, low_, high_ : of each feature on the fit questions, (F,).
    strength_, held_out_ : the chosen λ; mean held-out NLL of each candidate, in nats.
    n_left_out_ : questions whose answer has probability 0; they are left out of the fit.

    Raises
    ------
    ConfigError : an unknown feature, or strengths that are not positive.

    >>> p = [[0.9, 0.1]] * 200 + [[0.6, 0.4]] * 200  # right .6 of the time both times
    >>> scores = Scores.from_probs(p, ([0] * 3 + [1] * 2) * 80)
    >>> other = Scores.from_probs([[0.9, 0.1], [0.6, 0.4]], [0, 0], ids=["x", "y"])
    >>> AdaptiveTemperature(strengths=(1e-3,)).fit(scores).temperatures(other).round(1).tolist()
    [5.3, 1.0]
    """

    name = "adaptive"

    def __init__(self, features: Sequence[str] | None = None, strengths: Sequence[float] = STRENGTHS) -> None:
        super().__init__()
        for strength in strengths:
            only_numbers(strength=strength)
        unknown = sorted(set(features or ()) - set(FEATURES))
        if unknown or not strengths or not all(s > 0 for s in strengths):
            raise ConfigError(
                asked=f"an adaptive temperature of {list(features or FEATURES)} at {list(strengths)}",
                found=f"unknown: {', '.join(unknown)}" if unknown else "strengths that are not positive",
                todo=f"name some of {', '.join(FEATURES)}; give strengths above 0",
            )
        self.features, self.strengths = None if features is None else tuple(features), tuple(sorted(strengths))
        self.features_: tuple[str, ...] = ()
        self.offset_ = 0.0
        self.weights_, self.mean_, self.spread_, self.low_, self.high_ = (np.zeros(0) for _ in range(5))
        self.strength_ = 0.0
        self.held_out_: list[float] = []
        self.n_left_out_ = 0

    def temperatures(self, scores: Scores) -> np.ndarray:
        """T of each question, (N,)."""
        return np.asarray(np.exp(self.offset_ + self._standardised(scores) @ self.weights_))

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        usable_N = possible_answers(scores, self.name)
        self.n_left_out_ = int((~usable_N).sum())
        used = scores.select(usable_N)
        self.features_ = self._chosen(used)
        raw_NF = feature_matrix(used, self.features_)
        self.mean_, self.spread_ = raw_NF.mean(0), raw_NF.std(0)
        self.low_, self.high_ = raw_NF.min(0), raw_NF.max(0)
        f_NF, z_NK = self._standardised(used), used.logp_NK - used.logp_NK.max(1, keepdims=True)
        at = used.answer_N

        def held_out(fit_N: np.ndarray, strength: float) -> np.ndarray:
            theta = fit_temperatures(z_NK[fit_N], at[fit_N], f_NF[fit_N], strength)
            out_N = ~fit_N
            logq_NK = normalised(z_NK[out_N] / np.exp(theta[0] + f_NF[out_N] @ theta[1:])[:, None])
            return np.asarray(-logq_NK[np.arange(len(logq_NK)), at[out_N]])

        self.strength_, self.held_out_ = chosen_by_cv(self.strengths, used, held_out)
        theta = fit_temperatures(z_NK, at, f_NF, self.strength_)
        self.offset_, self.weights_ = float(theta[0]), theta[1:]

    def _chosen(self, scores: Scores) -> tuple[str, ...]:
        if self.features is not None:
            return self.features
        columns = {name: feature(scores, name) for name in FEATURES}
        return tuple(name for name, f_N in columns.items() if np.isfinite(f_N).all() and np.ptp(f_N) > 1e-9)

    def _standardised(self, scores: Scores) -> np.ndarray:
        raw_NF = np.clip(feature_matrix(scores, self.features_), self.low_, self.high_)
        varies_F = self.spread_ > 1e-9
        return np.where(varies_F, (raw_NF - self.mean_) / np.where(varies_F, self.spread_, 1.0), 0.0)

    def _rescaled(self, scores: Scores) -> np.ndarray:
        return normalised(scores.logp_NK / self.temperatures(scores)[:, None])

    def _learned(self) -> dict[str, Any]:
        numbers = {name: getattr(self, f"{name}_").tolist() for name in ("weights", "mean", "spread", "low", "high")}
        chosen = {"strength": self.strength_, "strengths": list(self.strengths), "held_out": self.held_out_}
        return {
            "features": list(self.features_),
            "offset": self.offset_,
            **numbers,
            **chosen,
            "n_left_out": self.n_left_out_,
        }

    def cautions(self) -> tuple[str, ...]:
        """Also where the temperature of a mean question stopped at an end of the range, and why."""
        ends = [t for t in TEMPERATURE_RANGE if abs(self.offset_ - np.log(t)) < 1e-6]
        return super().cautions() + at_an_end(ends[0] if ends else None)

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        features = strings(values["features"])
        scaler = cls(features, tuple(number(s, 0, np.inf) for s in values["strengths"]))
        scaler.features_, scaler.offset_ = features, number(values["offset"], -np.inf, np.inf)
        for name in ("weights", "mean", "spread", "low", "high"):
            setattr(scaler, f"{name}_", array(values[name], len(features)))
        scaler.strength_, scaler.n_left_out_ = number(values["strength"], 0, np.inf), int(values["n_left_out"])
        scaler.held_out_ = array(values["held_out"], -1).tolist()
        return scaler


def feature(scores: Scores, name: str) -> np.ndarray:
    """One feature of the table of :class:`AdaptiveTemperature`, (N,); ``nan`` where it is not known."""
    if name == "logmass":
        return scores.logmass_N
    if name == "options":
        return np.asarray(np.log(scores.k_N))
    if name == "question_length":
        lengths = scores.columns.get(name, (None,) * scores.n)
        known = [x if isinstance(x, int | float | np.number) and x >= 0 else np.nan for x in lengths]
        return np.asarray(np.log1p(np.array(known, dtype=np.float64)))
    if name == "entropy":
        p_NK = scores.p_NK
        inner_NK = np.where(p_NK > 0, p_NK * np.where(p_NK > 0, scores.logp_NK, 0.0), 0.0)
        return np.asarray(-inner_NK.sum(1) / np.log(scores.k_N))
    first_two_N2 = np.sort(scores.logp_NK, axis=1)[:, -2:]
    return np.asarray(np.log1p(np.minimum(first_two_N2[:, 1] - first_two_N2[:, 0], MARGIN_CAP)))


def feature_matrix(scores: Scores, names: Sequence[str]) -> np.ndarray:
    """Features (N, F); a :class:`ScoresError` where one is not known."""
    f_NF = np.stack([feature(scores, name) for name in names], axis=1) if names else np.zeros((scores.n, 0))
    lacking = [name for i, name in enumerate(names) if not np.isfinite(f_NF[:, i]).all()]
    if lacking:
        raise ScoresError(
            asked=f"a temperature from {', '.join(names)}",
            found=f"{', '.join(lacking)} not known for every question",
            todo=f"fit with features={[name for name in names if name not in lacking]}, or score again with calibrant",
        )
    return f_NF


def fit_temperatures(z_NK: np.ndarray, answer_N: np.ndarray, f_NF: np.ndarray, strength: float) -> np.ndarray:
    """``(a, w)`` that minimises :func:`temperatures_loss`, a within the logarithm of [0.01, 100], (1 + F,)."""
    single, _ = best_temperature(z_NK, float(z_NK[np.arange(len(z_NK)), answer_N].mean()))
    start = np.concatenate([[np.log(single)], np.zeros(f_NF.shape[1])])
    found = minimize(
        temperatures_loss,
        start,
        args=(z_NK, answer_N, f_NF, strength),
        jac=True,
        method="L-BFGS-B",
        bounds=[tuple(np.log(TEMPERATURE_RANGE))] + [(None, None)] * f_NF.shape[1],
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )
    return np.asarray(found.x)


def temperatures_loss(
    theta: np.ndarray, z_NK: np.ndarray, answer_N: np.ndarray, f_NF: np.ndarray, strength: float
) -> tuple[float, np.ndarray]:
    """``mean_i -log q_i(y_i) + λ |w|²`` in nats, ``q_i ∝ exp(β_i z_i)``, ``ln β_i = -(a + w·f_i)``, and its gradient.

    ``d NLL_i / dβ_i = sum_k q_ik z_ik - z_{i,y_i}`` and ``dβ_i / d(a, w) = -β_i (1, f_i)``.
    """
    log_beta_N = -(theta[0] + f_NF @ theta[1:])
    inside_N = np.abs(log_beta_N) < MOST_LOG_BETA  # a trial step of the search may go far beyond any temperature
    beta_N = np.exp(np.clip(log_beta_N, -MOST_LOG_BETA, MOST_LOG_BETA))
    finite_NK = np.isfinite(z_NK)
    z_NK = np.where(finite_NK, z_NK, 0.0)
    logq_NK = normalised(np.where(finite_NK, beta_N[:, None] * z_NK, -np.inf))
    at_N = np.arange(len(z_NK))
    pull_N = ((np.exp(logq_NK) * z_NK).sum(1) - z_NK[at_N, answer_N]) * -beta_N * inside_N
    slope = np.concatenate([[pull_N.mean()], pull_N @ f_NF / len(z_NK) + 2 * strength * theta[1:]])
    return -float(logq_NK[at_N, answer_N].mean()) + strength * float((theta[1:] ** 2).sum()), slope
