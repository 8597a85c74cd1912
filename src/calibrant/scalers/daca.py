"""A temperature without answers, from the base model. Shape suffixes: N questions, K options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from calibrant.errors import ScoresError
from calibrant.scalers.base import Scaler, normalised, number
from calibrant.scalers.temperature import TEMPERATURE_RANGE, best_temperature
from calibrant.scores import Scores


class DACA(Scaler):
    """Disagreement-aware confidence alignment: one temperature that brings the aligned model to its base model.

    ``T = argmin_T sum_i 1[argmax p_i = argmax b_i] KL(b_i ‖ q_i)``, ``q ∝ p^(1/T)``, p the aligned model, b the base
    (pre-alignment) model on the same questions. Convex in 1/T; the optimum solves ``mean sum_k q_k z_k = mean sum_k b_k z_k``
    with ``z = log p`` over the questions where both choose the same option, within [0.01, 100]. No answers are used.
    Questions on which they disagree are left out since the base's confidence there is about another option. It can be no
    better calibrated than the base model is on those questions. Source: Luo et al. (arXiv 2505.16690); they read option
    letters, as here.

    Attributes
    ----------
    temperature_, at_bound_ : T, and whether it stopped at an end of [0.01, 100].
    n_agree_ : questions on which both choose the same option, and which were used.
    n_left_out_ : of the others, those where both agree but the aligned model gives 0 to an option that the base gives
        something: no temperature mends that.

    >>> aligned = Scores.from_probs([[0.9, 0.1]] * 4 + [[0.1, 0.9]], [0] * 5)
    >>> base = Scores.from_probs([[0.7, 0.3]] * 5, [0] * 5)
    >>> scaler = DACA().fit(aligned, reference=base)
    >>> round(scaler.temperature_, 3), scaler.n_agree_  # logit(.9) / logit(.7), as by the answers
    (2.593, 4)
    """

    name = "daca"
    needs_reference = True
    uses_answers = False

    def __init__(self) -> None:
        super().__init__()
        self.temperature_: float | None = None
        self.at_bound_ = False
        self.n_agree_ = 0
        self.n_left_out_ = 0

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        assert reference is not None
        k = max(scores.k, reference.k)
        z_NK, base_NK = np.full((scores.n, k), -np.inf), np.zeros((scores.n, k))
        z_NK[:, : scores.k] = scores.logp_NK - scores.logp_NK.max(1, keepdims=True)
        base_NK[:, : reference.k] = reference.p_NK
        agree_N = scores.prediction_N == reference.prediction_N
        mendable_N = ~((base_NK > 0) & np.isneginf(z_NK)).any(1)
        use_N = agree_N & mendable_N
        if not use_N.any():
            raise ScoresError(
                asked=f"a temperature from {scores.n} questions on which aligned and base model agree",
                found=f"{int(agree_N.sum())} on which they do, none that a temperature can mend",
                todo="check that both were read in the same way, or use a temperature fitted on answers",
            )
        wanted_N = np.where(base_NK > 0, base_NK * np.where(base_NK > 0, z_NK, 0.0), 0.0).sum(1)
        self.temperature_, self.at_bound_ = best_temperature(z_NK[use_N], float(wanted_N[use_N].mean()))
        self.n_agree_, self.n_left_out_ = int(use_N.sum()), int((agree_N & ~mendable_N).sum())

    def _rescaled(self, scores: Scores) -> np.ndarray:
        assert self.temperature_ is not None
        return normalised(scores.logp_NK / self.temperature_)

    def _learned(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature_,
            "at_bound": self.at_bound_,
            "n_agree": self.n_agree_,
            "n_left_out": self.n_left_out_,
        }

    def cautions(self) -> tuple[str, ...]:
        """Questions that no temperature mends, and an end of the range, which here is the base model's doing."""
        out = []
        if self.n_left_out_:
            out.append(
                f"{self.n_left_out_} questions on which the models agree were left out: the aligned one gives 0 to an option "
                "that the base gives something"
            )
        if self.at_bound_ and self.temperature_ is not None:
            how = "certain" if self.temperature_ < 1 else "without any preference among the options"
            out.append(
                f"the temperature stopped at {self.temperature_:g}, an end of its range: the base model is all but {how} where "
                "the two agree"
            )
        return tuple(out)

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls()
        scaler.temperature_ = number(values["temperature"], *TEMPERATURE_RANGE)
        scaler.at_bound_ = bool(values["at_bound"])
        scaler.n_agree_, scaler.n_left_out_ = int(values["n_agree"]), int(values["n_left_out"])
        return scaler
