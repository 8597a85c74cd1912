"""Parameters for each option position: vector scaling and Dirichlet calibration.

Shape suffixes: N questions, K option positions, A inputs of a position.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from calibrant.errors import ConfigError, only_numbers
from calibrant.scalers.base import Scaler, array, normalised, number
from calibrant.scalers.crossval import chosen_by_cv
from calibrant.scalers.temperature import possible_answers
from calibrant.scores import Scores

RIDGE = 1e-3
"""Penalty on the squared distance to the identity map, in nats over all questions: it keeps fits finite and unique."""
LEAST = 30
"""Questions that a position needs for parameters of its own: those of a single one would be its answer."""
LOGP_FLOOR = float(np.log(np.finfo(np.float64).eps))
"""Dirichlet calibration reads log-probabilities below this, -36.04, as this."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
Regularisation = Literal["odir", "l2"]


class _Positions(Scaler):
    """What the two share: which numbers of options were fitted, and rows of inputs with absent options masked."""

    def __init__(self) -> None:
        super().__init__()
        self.option_counts_: tuple[int, ...] = ()
        self.weights_: np.ndarray = np.zeros(0)
        self.intercept_: np.ndarray = np.zeros(0)
        self.n_left_out_ = 0

    @property
    def k_(self) -> int:
        """Option positions that have parameters."""
        return max(self.option_counts_, default=0)

    @abstractmethod
    def _logits(self, logp_NK: np.ndarray, k_N: np.ndarray, weights: np.ndarray, intercept_K: np.ndarray) -> np.ndarray:
        """Logits under parameters for K positions, ``-inf`` where there is no option, (N, K)."""

    def _rescaled(self, scores: Scores) -> np.ndarray:
        new = sorted(set(scores.k_N.tolist()) - set(self.option_counts_))
        k = max([self.k_, *new])
        if new:
            rule = "what it knows of a position is taken to hold for them"
            if k > self.k_:
                rule += f"; positions from {self.k_ + 1} on take the mean of the others"
            warnings.warn(
                f"the scaler {self.name!r} was fitted on questions of {_listed(self.option_counts_)} and is applied to "
                f"questions of {_listed(new)}: {rule}",
                stacklevel=3,
            )
        parameters = widened(self.weights_, k), widened(self.intercept_, k)
        logit_NK = self._logits(fitted_columns(scores.logp_NK, k), scores.k_N, *parameters)
        return fitted_columns(normalised(logit_NK), scores.k)

    def _learned(self) -> dict[str, Any]:
        return {
            "option_counts": list(self.option_counts_),
            "weights": self.weights_.tolist(),
            "intercept": self.intercept_.tolist(),
            "n_left_out": self.n_left_out_,
        }

    def _take(self, values: Mapping[str, Any], *shape: str) -> None:
        self.option_counts_ = tuple(int(number(k, 2, np.inf)) for k in values["option_counts"])
        self.weights_ = array(values["weights"], *(self.k_ for _ in shape))
        self.intercept_ = array(values["intercept"], self.k_)
        self.n_left_out_ = int(values["n_left_out"])


class Vector(_Positions):
    """Vector scaling: ``q_k ∝ exp(w_k z_k + b_k)`` with ``z = log p``, one w and one b for each option *position* k.

    w and b minimise the mean NLL of the fit questions, which is convex in them, by Newton's method; a penalty of
    ``(1e-3 / N) (|w - 1|² + |b|²)`` keeps them finite where the answers are separable and fixes the constant that b is
    free in. With w all equal and b = 0 it is a temperature. Predictions can change.

    The classes of the paper have a meaning; the positions of multiple choice have none. So it can mend a preference
    for a position, and what a temperature can mend, and nothing else; and it is not indifferent to the order of the
    options. The paper scales logits, which are known here only up to a constant for each question; log-probabilities fix
    it (with a temperature it would not matter).

    Mixed numbers of options: a position has the same parameters in every question that has it; absent options stay
    absent. Questions with a position that fewer than 30 have (or a quarter of fewer than 120) are left out of the fit. A number
    of options that was never fitted brings a warning; a position that was never fitted has the mean w and b of those that
    were. An option of probability 0 keeps it, and questions whose answer has it are left out. Source: Guo et al. (ICML 2017),
    section 4.2; rules for mixed numbers and the penalty are ours.

    Attributes
    ----------
    weights_, intercept_ : w and b, (K,).
    option_counts_ : numbers of options that occurred.
    n_left_out_ : questions whose answer has probability 0.

    >>> scores = Scores.from_probs([[0.8, 0.2]] * 50 + [[0.2, 0.8]] * 50, [0] * 25 + [1] * 75)  # "A" is said too often
    >>> other = Scores.from_probs([[0.8, 0.2]], [0], ids=["x"])
    >>> Vector().fit(scores).apply(other).p_NK.round(2).tolist()
    [[0.5, 0.5]]
    """

    name = "vector"

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        usable_N = possible_answers(scores, self.name)
        used = scores.select(usable_N)
        used = used.select(np.flatnonzero(used.k_N <= well_known(used.k_N)))
        self.option_counts_, self.n_left_out_ = option_counts(used), int((~usable_N).sum())
        logp_NK = fitted_columns(used.logp_NK, self.k_)
        centre_KA = np.repeat([[1.0, 0.0]], self.k_, axis=0)
        theta_KA = fit_logits(
            vector_inputs(logp_NK),
            np.isfinite(logp_NK),
            used.answer_N,
            np.full((self.k_, 2), RIDGE / used.n),
            centre_KA,
        )
        self.weights_, self.intercept_ = theta_KA.T

    def _logits(self, logp_NK: np.ndarray, k_N: np.ndarray, weights: np.ndarray, intercept_K: np.ndarray) -> np.ndarray:
        possible_NK = np.isfinite(logp_NK)
        z_NK = np.where(possible_NK, logp_NK, 0.0)
        return np.where(possible_NK, weights * z_NK + intercept_K, -np.inf)

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls()
        scaler._take(values, "k")
        return scaler


class Dirichlet(_Positions):
    """Dirichlet calibration: ``q = softmax(W ln p + b)``, a full K × K matrix over option *positions*, regularised.

    Minimised over the fit questions is ``mean NLL + penalty``, convex, by Newton's method:

    * ``"odir"``: ``λ/(K(K-1)) sum_{j≠k} W_jk² + μ/K sum_k b_k²`` with ``μ = λ`` (off-diagonal and intercept);
    * ``"l2"``: ``λ/(K(K+1)) (|W - I|² + |b|²)``: towards the identity, since towards 0 would mean towards uniform.

    λ is the candidate with the least held-out NLL in 5 folds of the fit questions. Both add the penalty of :class:`Vector`,
    which weighs a thousandth of a nat over all questions. Log-probabilities below ln 2⁻⁵² ≈ -36 count as that, so an
    option of probability 0 can gain some. Positions, mixed numbers of options (an absent option is an input of 0, and
    absent as an output) and warning: as in :class:`Vector`, whose limits it shares, with K² + K parameters. A position that
    was never fitted has the mean of the diagonal, of the rest of W, and of b.
    Source: Kull et al. (NeurIPS 2019), sections 3 and 4.

    Parameters
    ----------
    regularisation : ``"odir"`` or ``"l2"``.
    strengths : candidates for λ, positive.

    Attributes
    ----------
    weights_, intercept_ : W (K, K), b (K,).
    strength_ : the chosen λ.
    held_out_ : mean held-out NLL of each candidate, in nats.

    Raises
    ------
    ConfigError : another regularisation, or strengths that are not positive.

    >>> scores = Scores.from_probs([[0.8, 0.2]] * 50 + [[0.2, 0.8]] * 50, [0] * 25 + [1] * 75)
    >>> other = Scores.from_probs([[0.8, 0.2]], [0], ids=["x"])
    >>> Dirichlet(strengths=(1e-4,)).fit(scores).apply(other).p_NK.round(2).tolist()
    [[0.5, 0.5]]
    """

    name = "dirichlet"

    def __init__(self, regularisation: Regularisation = "odir", strengths: Sequence[float] = STRENGTHS) -> None:
        super().__init__()
        for strength in strengths:
            only_numbers(strength=strength)
        if regularisation not in get_args(Regularisation) or not strengths or not all(s > 0 for s in strengths):
            raise ConfigError(
                asked=f"Dirichlet calibration with {regularisation!r} at {list(strengths)}",
                found="no such penalty",
                todo=f"name {' or '.join(get_args(Regularisation))}, and strengths above 0",
            )
        self.regularisation, self.strengths = regularisation, tuple(sorted(strengths))
        self.strength_ = 0.0
        self.held_out_: list[float] = []

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        scores = scores.select(np.flatnonzero(scores.k_N <= well_known(scores.k_N)))
        self.option_counts_ = option_counts(scores)
        logp_NK, k_N, answer_N = fitted_columns(scores.logp_NK, self.k_), scores.k_N, scores.answer_N
        x_NKA, present_NK = dirichlet_inputs(logp_NK, k_N), np.arange(self.k_) < k_N[:, None]
        centre_KA = np.eye(self.k_, self.k_ + 1)

        def fitted(use_N: np.ndarray, strength: float) -> np.ndarray:
            penalty_KA = strength * dirichlet_penalty(self.k_, self.regularisation) + RIDGE / int(use_N.sum())
            return fit_logits(x_NKA[use_N], present_NK[use_N], answer_N[use_N], penalty_KA, centre_KA)

        def held_out(fit_N: np.ndarray, strength: float) -> np.ndarray:
            out_N = ~fit_N
            logit_NK = np.where(present_NK[out_N], (x_NKA[out_N] * fitted(fit_N, strength)).sum(2), -np.inf)
            return np.asarray(-normalised(logit_NK)[np.arange(len(logit_NK)), answer_N[out_N]])

        self.strength_, self.held_out_ = chosen_by_cv(self.strengths, scores, held_out)
        theta_KA = fitted(np.ones(scores.n, dtype=bool), self.strength_)
        self.weights_, self.intercept_ = theta_KA[:, :-1], theta_KA[:, -1]

    def _logits(self, logp_NK: np.ndarray, k_N: np.ndarray, weights: np.ndarray, intercept_K: np.ndarray) -> np.ndarray:
        theta_KA = np.hstack([weights, intercept_K[:, None]])
        logit_NK = (dirichlet_inputs(logp_NK, k_N) * theta_KA).sum(2)
        return np.where(np.arange(logp_NK.shape[1]) < k_N[:, None], logit_NK, -np.inf)

    def _learned(self) -> dict[str, Any]:
        chosen = {"strength": self.strength_, "strengths": list(self.strengths), "held_out": self.held_out_}
        return {"regularisation": self.regularisation, **chosen, **super()._learned()}

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls(values["regularisation"], tuple(number(s, 0, np.inf) for s in values["strengths"]))
        scaler._take(values, "k", "k")
        scaler.strength_ = number(values["strength"], 0, np.inf)
        scaler.held_out_ = array(values["held_out"], -1).tolist()
        return scaler


def widened(parameters: np.ndarray, k: int) -> np.ndarray:
    """Parameters of K positions, (K,) or (K, K), for ``k`` of them: a new one has the mean of the others'.

    >>> widened(np.array([1.0, 3.0]), 3).tolist()
    [1.0, 3.0, 2.0]
    >>> widened(np.array([[1.0, 0.2], [0.4, 2.0]]), 3).round(1).tolist()
    [[1.0, 0.2, 0.3], [0.4, 2.0, 0.3], [0.3, 0.3, 1.5]]
    """
    fitted = len(parameters)
    if parameters.ndim == 1:
        return np.append(parameters, np.full(k - fitted, parameters.mean()))
    off = ~np.eye(fitted, dtype=bool)
    wide_KK = np.full((k, k), parameters[off].mean())
    np.fill_diagonal(wide_KK, np.diag(parameters).mean())
    wide_KK[:fitted, :fitted] = parameters
    return wide_KK


def vector_inputs(logp_NK: np.ndarray) -> np.ndarray:
    """``[z_k, 1]`` for each option, z = 0 where its probability is 0, (N, K, 2)."""
    z_NK = np.where(np.isfinite(logp_NK), logp_NK, 0.0)
    return np.stack([z_NK, np.ones_like(z_NK)], axis=2)


def dirichlet_inputs(logp_NK: np.ndarray, k_N: np.ndarray) -> np.ndarray:
    """``[ln p_1 .. ln p_K, 1]``, the same for each option, 0 where a question has no such option, (N, K, K + 1)."""
    n, k = logp_NK.shape
    z_NK = np.where(np.arange(k) < k_N[:, None], np.maximum(logp_NK, LOGP_FLOOR), 0.0)
    return np.broadcast_to(np.hstack([z_NK, np.ones((n, 1))])[:, None, :], (n, k, k + 1))


def dirichlet_penalty(k: int, regularisation: Regularisation) -> np.ndarray:
    """Weight of each squared parameter at λ = 1, (K, K + 1): W, then b."""
    if regularisation == "l2":
        return np.full((k, k + 1), 1 / (k * (k + 1)))
    off_diagonal_KK = (1 - np.eye(k)) / (k * (k - 1))
    return np.hstack([off_diagonal_KK, np.full((k, 1), 1 / k)])


def fit_logits(
    x_NKA: np.ndarray, present_NK: np.ndarray, answer_N: np.ndarray, penalty_KA: np.ndarray, centre_KA: np.ndarray
) -> np.ndarray:
    """θ (K, A) that minimises ``mean_i -log softmax_k(x_ik · θ_k)[y_i] + sum penalty (θ - centre)²``.

    Newton's method with step halving from the centre, until half the Newton decrement is below 1e-12. All penalties must
    be positive: the problem is then strictly convex and the answer unique.
    """
    theta_KA, n = centre_KA.copy(), len(answer_N)
    loss, p_NK = logits_loss(theta_KA, x_NKA, present_NK, answer_N, penalty_KA, centre_KA)
    for _ in range(200):
        slope_KA = logits_slope(theta_KA, p_NK, x_NKA, answer_N, penalty_KA, centre_KA)
        weighted_NC = (p_NK[:, :, None] * x_NKA).reshape(n, -1)
        curve_CC = -(weighted_NC.T @ weighted_NC) / n
        inputs = x_NKA.shape[2]
        for k in range(len(theta_KA)):
            block = slice(k * inputs, (k + 1) * inputs)
            curve_CC[block, block] += weighted_NC[:, block].T @ x_NKA[:, k] / n
        curve_CC[np.diag_indices_from(curve_CC)] += 2 * penalty_KA.ravel()
        step_KA = -cho_solve(cho_factor(curve_CC), slope_KA.ravel()).reshape(theta_KA.shape)
        decrement = -float((slope_KA * step_KA).sum())
        if decrement / 2 < 1e-12:
            break
        size = 1.0
        while size > 1e-10:
            tried, p_tried_NK = logits_loss(
                theta_KA + size * step_KA, x_NKA, present_NK, answer_N, penalty_KA, centre_KA
            )
            if tried <= loss - 1e-4 * size * decrement:
                break
            size /= 2
        else:
            break  # the loss is flat to the last bit
        theta_KA, loss, p_NK = theta_KA + size * step_KA, tried, p_tried_NK
    return theta_KA


def logits_loss(
    theta_KA: np.ndarray,
    x_NKA: np.ndarray,
    present_NK: np.ndarray,
    answer_N: np.ndarray,
    penalty_KA: np.ndarray,
    centre_KA: np.ndarray,
) -> tuple[float, np.ndarray]:
    """What :func:`fit_logits` minimises, in nats, and the probabilities (N, K)."""
    logit_NK = np.where(present_NK, np.einsum("nka,ka->nk", x_NKA, theta_KA), -np.inf)
    logq_NK = normalised(logit_NK)
    nll = -float(logq_NK[np.arange(len(answer_N)), answer_N].mean())
    return nll + float((penalty_KA * (theta_KA - centre_KA) ** 2).sum()), np.exp(logq_NK)


def logits_slope(
    theta_KA: np.ndarray,
    p_NK: np.ndarray,
    x_NKA: np.ndarray,
    answer_N: np.ndarray,
    penalty_KA: np.ndarray,
    centre_KA: np.ndarray,
) -> np.ndarray:
    """Gradient of :func:`logits_loss` in θ, (K, A)."""
    error_NK = p_NK.copy()
    error_NK[np.arange(len(answer_N)), answer_N] -= 1
    return np.asarray(
        np.einsum("nk,nka->ka", error_NK, x_NKA) / len(answer_N) + 2 * penalty_KA * (theta_KA - centre_KA)
    )


def well_known(k_N: np.ndarray) -> int:
    """Positions that enough questions have for parameters of their own: 30, or a quarter of fewer than 120 questions.

    >>> well_known(np.array([4] * 500 + [5])), well_known(np.array([2, 3]))
    (4, 3)
    """
    enough = min(LEAST, len(k_N) / 4)
    return max(k for k in range(1, int(k_N.max()) + 1) if (k_N >= k).sum() >= enough)


def option_counts(scores: Scores) -> tuple[int, ...]:
    """Numbers of options that occur, ascending."""
    return tuple(int(k) for k in np.unique(scores.k_N))


def fitted_columns(logp_NK: np.ndarray, k: int) -> np.ndarray:
    """The first k columns, filled up with ``-inf``; what is cut off must be absent options."""
    out_NK = np.full((len(logp_NK), k), -np.inf)
    shared = min(k, logp_NK.shape[1])
    out_NK[:, :shared] = logp_NK[:, :shared]
    return out_NK


def _listed(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} options"
