"""What each question does to the target through the calibrator that was fitted to it.

Shape suffixes: N questions, K options, M bins, J parameters of the calibrator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibrant.diagnosis.calibrator import Tempered
from calibrant.scalers import Isotonic, at_temperature
from calibrant.scalers.confidence import with_confidence
from calibrant.scalers.temperature import possible_answers
from calibrant.scores import Scores

STEP = 1e-6
"""By which a level is moved, to see what moves with it."""


@dataclass(frozen=True, eq=False)
class Influence:
    """A calibrator to first order around its fit to all questions.

    Parameters
    ----------
    parameter_N : which of its J parameters a question goes by: the one temperature, or the level of a flat part of the map.
    pull_N : by how much that parameter moves when the question counts once more (the influence function, Hampel, JASA
        1974, over n).
    slope_NK : by how much the calibrated probability of an option moves with that parameter.
    """

    parameter_N: np.ndarray
    pull_N: np.ndarray
    slope_NK: np.ndarray

    def on_bins(self, scores: Scores, bin_N: np.ndarray, n_bins: int, origin: Scores | None) -> np.ndarray:
        """N times what each question, counted once more, moves ``sum_{i in m} π*(ŷ_i | x_i) / N`` by, (N, M).

        With an ``origin``, of that and of ``- (n_m / N) mean_i π*(ŷ_ref,i | x_i)``, the part of the correction of A* in it.
        """
        at_N, n_parameters = np.arange(scores.n), int(self.parameter_N.max()) + 1
        cell_N, slope_N = bin_N * n_parameters + self.parameter_N, self.slope_NK[at_N, scores.prediction_N]
        slope_MJ = np.bincount(cell_N, slope_N, n_bins * n_parameters).reshape(n_bins, n_parameters)
        if origin is not None:
            share_M = np.bincount(bin_N, minlength=n_bins) / scores.n
            slope_J = np.bincount(self.parameter_N, self.slope_NK[at_N, origin.prediction_N], n_parameters)
            slope_MJ = slope_MJ - np.outer(share_M, slope_J)
        return np.asarray(slope_MJ.T[self.parameter_N] * self.pull_N[:, None])


def influence(scores: Scores, own: Tempered | None) -> Influence:
    """Of the calibrator that :func:`~calibrant.diagnosis.calibrator.calibrated` makes of these scores; ``own`` is
    ``tempered(scores)``.

    A temperature, in ``β = 1/T`` with ``q ∝ p^β`` and ``z = log p``: ``sum_i (E_q z_i - z_{i,y}) = 0``, so a question pulls by
    ``(z_{i,y} - E_q z_i) / sum_j Var_q z_j`` and an option moves by ``q_k (z_k - E_q z)``. A monotone map, its flat parts and
    the temperature before it taken as given: the level of a part is the accuracy of its n questions, so a question pulls by
    ``(1[ŷ = y] - level) / n``, and options move as the map moves them, where none of its limits holds them. Source: ours.
    """
    if own is not None and own.suffices:
        return _of_temperature(scores, own)
    warm = scores if own is None else at_temperature(scores, _temperature(own))
    flat = Isotonic().fit(warm)
    level_N = np.interp(np.minimum(warm.confidence_N, 1.0), flat.knots_, flat.values_)
    _, parameter_N, n_J = np.unique(level_N, return_inverse=True, return_counts=True)

    def mapped(g_N: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(with_confidence(warm, np.minimum(g_N, flat.most))))

    slope_NK = (mapped(level_N + STEP) - mapped(level_N - STEP)) / (2 * STEP)
    return Influence(parameter_N, (scores.correct_N - level_N) / n_J[parameter_N], slope_NK)


def _temperature(own: Tempered) -> float:
    assert own.fitted.temperature_ is not None
    return own.fitted.temperature_


def _of_temperature(scores: Scores, own: Tempered) -> Influence:
    at_N, none_N = np.arange(scores.n), np.zeros(scores.n, dtype=np.int64)
    q_NK = at_temperature(scores, _temperature(own)).p_NK
    z_NK = scores.logp_NK - scores.logp_NK.max(1, keepdims=True)
    z_NK = np.where(np.isfinite(z_NK), z_NK, 0.0)
    mean_N = (q_NK * z_NK).sum(1)
    fitted_N = possible_answers(scores, own.fitted.name)
    steep = float((q_NK * (z_NK - mean_N[:, None]) ** 2).sum(1)[fitted_N].sum())
    pull_N = np.where(fitted_N, z_NK[at_N, scores.answer_N] - mean_N, 0.0) / max(steep, 1e-300)
    if own.fitted.at_bound_:  # a temperature that stopped at an end of its range is moved by no single question
        pull_N = np.zeros(scores.n)
    return Influence(none_N, pull_N, q_NK * (z_NK - mean_N[:, None]))
