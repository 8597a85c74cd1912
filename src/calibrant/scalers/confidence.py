"""Maps of the confidence that keep the prediction: isotonic regression and histogram binning.

Shape suffixes: N questions, K options, U distinct confidences, M bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import numpy as np
from scipy.optimize import isotonic_regression

from calibrant.errors import ConfigError
from calibrant.metrics.binned import equal_mass_bins
from calibrant.metrics.bins import bin_edges, bin_index
from calibrant.metrics.profile import exact_profile
from calibrant.scalers.base import Scaler, array, number
from calibrant.scores import Scores

Bins = Literal["equal-mass", "equal-width"]


class Isotonic(Scaler):
    """A monotone map of the confidence: top option ``c -> g(c)``, the other options keep their proportions.

    g is the isotonic regression of correctness on confidence (pool adjacent violators), linear between its knots and
    constant beyond them: the bin-wise map of the confidence that calibrates at unchanged predictions. So that predictions
    stay, g is at least what keeps the top option on top (``r / (1 + r)``, r the largest share among the other
    options); so that the others together are not ruled out, at most ``1 - 1 / (n + 2)``. Where they all have probability 0
    they share equally; else one of probability 0 keeps it. Source: Zadrozny & Elkan (KDD 2002) for the regression; the two
    limits are ours.

    Attributes
    ----------
    knots_, values_ : confidences and g at them, ascending.
    n_fit_ : questions fitted on.

    >>> scores = Scores.from_probs([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, [0] * 7 + [1] * 3 + [0] * 5 + [1] * 5)
    >>> other = Scores.from_probs([[0.05, 0.95], [0.75, 0.25]], [0, 0], ids=["x", "y"])
    >>> Isotonic().fit(scores).apply(other).confidence_N.round(3).tolist()  # .7 from .9 on; half-way from .5 to .7
    [0.7, 0.6]
    """

    name = "isotonic"

    def __init__(self) -> None:
        super().__init__()
        self.knots_: np.ndarray = np.zeros(0)
        self.values_: np.ndarray = np.zeros(0)

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        c_U, place_N = np.unique(np.minimum(scores.confidence_N, 1.0), return_inverse=True)
        count_U = np.bincount(place_N)
        accuracy_U = np.bincount(place_N, weights=scores.correct_N.astype(np.float64)) / count_U
        g_U = isotonic_regression(accuracy_U, weights=count_U).x
        bend_U = np.ones(len(g_U), dtype=bool)
        bend_U[1:-1] = (np.diff(g_U)[:-1] != 0) | (np.diff(g_U)[1:] != 0)
        self.knots_, self.values_ = c_U[bend_U], g_U[bend_U]

    def _rescaled(self, scores: Scores) -> np.ndarray:
        g_N = np.interp(np.minimum(scores.confidence_N, 1.0), self.knots_, self.values_)
        return with_confidence(scores, np.minimum(g_N, self.most))

    @property
    def most(self) -> float:
        """The upper limit of g."""
        return 1 - 1 / (self.n_fit_ + 2)

    def _learned(self) -> dict[str, Any]:
        return {"knots": self.knots_.tolist(), "values": self.values_.tolist()}

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls()
        scaler.knots_ = _ascending(array(values["knots"], -1))
        scaler.values_ = _ascending(array(values["values"], len(scaler.knots_)))
        return scaler


class Histogram(Scaler):
    """Histogram binning of the confidence: every top probability of a bin becomes that bin's accuracy on the fit questions.

    ``c -> acc_m``, ``acc_m = hits_m / n_m`` of bin m; the other options keep their proportions. The same two limits as
    :class:`Isotonic`: at least what keeps the prediction, at most ``1 - 1 / (n_m + 2)``, n_m the bin's questions. A bin
    without fit questions leaves the confidence as it is. Within a bin all confidences become equal, so ranking (AUROC)
    is lost there. Source: Zadrozny & Elkan (ICML 2001), on the confidence as in Guo et al. (2017); the limits are ours.

    Parameters
    ----------
    n_bins : M.
    bins : ``"equal-mass"`` (equal numbers of fit questions, ties together; fewer bins where ties are long) or
        ``"equal-width"`` (``[m/M, (m+1)/M)``, the last closed: the rule of conf-ECE). An edge of equal masses lies midway
        between the confidences that it parts.

    Attributes
    ----------
    edges_ : inner edges, ascending, (M - 1,); a confidence on an edge is in the upper bin of equal widths, in the lower
        one of equal masses.
    count_, values_ : questions and accuracy of each bin, (M,); ``nan`` where a bin is empty.

    Raises
    ------
    ConfigError : fewer than one bin, or another kind of bins.

    >>> scores = Scores.from_probs([[0.95, 0.05]] * 10 + [[0.6, 0.4]] * 10, [0] * 7 + [1] * 3 + [0] * 5 + [1] * 5)
    >>> other = Scores.from_probs([[0.02, 0.98], [0.65, 0.35], [0.75, 0.25]], [0, 0, 0], ids=["x", "y", "z"])
    >>> Histogram(bins="equal-width").fit(scores).apply(other).confidence_N.round(3).tolist()  # [.7, .8) is empty
    [0.7, 0.5, 0.75]
    """

    name = "histogram"

    def __init__(self, n_bins: int = 10, bins: Bins = "equal-mass") -> None:
        super().__init__()
        bin_edges(n_bins)
        if bins not in get_args(Bins):
            raise ConfigError(
                asked=f"histogram binning with {bins!r} bins",
                found="no such bins",
                todo=f"give {' or '.join(get_args(Bins))}",
            )
        self.n_bins, self.bins = n_bins, bins
        self.edges_: np.ndarray = np.zeros(0)
        self.count_: np.ndarray = np.zeros(0, dtype=np.int64)
        self.values_: np.ndarray = np.zeros(0)

    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        if self.bins == "equal-width":
            self.edges_ = bin_edges(self.n_bins)[1:-1]
        else:
            profile = exact_profile(scores.confidence_N, scores.correct_N)
            last_G = np.flatnonzero(np.diff(equal_mass_bins(profile, self.n_bins)))
            self.edges_ = (profile.c_G[last_G] + profile.c_G[last_G + 1]) / 2
        at_N, n_bins = self._bin_of(scores.confidence_N), len(self.edges_) + 1
        self.count_ = np.bincount(at_N, minlength=n_bins)
        with np.errstate(invalid="ignore"):
            self.values_ = np.bincount(at_N, weights=scores.correct_N, minlength=n_bins) / self.count_

    def _bin_of(self, c_N: np.ndarray) -> np.ndarray:
        if self.bins == "equal-width":
            return bin_index(c_N, self.n_bins)
        return np.asarray(np.searchsorted(self.edges_, c_N, side="left"))

    def _rescaled(self, scores: Scores) -> np.ndarray:
        c_N = np.minimum(scores.confidence_N, 1.0)
        at_N = self._bin_of(c_N)
        g_N = np.minimum(self.values_[at_N], 1 - 1 / (self.count_[at_N] + 2))
        empty_N = self.count_[at_N] == 0
        return np.where(empty_N[:, None], scores.logp_NK, with_confidence(scores, np.where(empty_N, c_N, g_N)))

    def _learned(self) -> dict[str, Any]:
        values = [None if np.isnan(value) else float(value) for value in self.values_]
        count = [int(n) for n in self.count_]
        return {
            "n_bins": self.n_bins,
            "bins": self.bins,
            "edges": self.edges_.tolist(),
            "count": count,
            "values": values,
        }

    @classmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        scaler = cls(int(number(values["n_bins"], 1, np.inf)), values["bins"])
        scaler.edges_ = _ascending(array(values["edges"], -1))
        counted = array(values["count"], len(scaler.edges_) + 1)
        known = [0.0 if value is None else value for value in values["values"]]
        scaler.count_ = counted.astype(np.int64)
        scaler.values_ = np.where(counted > 0, array(known, len(counted)), np.nan)
        if (counted < 0).any() or ((scaler.values_ < 0) | (scaler.values_ > 1)).any():
            raise ValueError(f"counts {values['count']!r} and accuracies {values['values']!r}")
        if scaler.bins == "equal-width" and len(counted) != scaler.n_bins:
            raise ValueError(f"{len(counted)} bins where {scaler.n_bins} of equal width are named")
        return scaler


def with_confidence(scores: Scores, g_N: np.ndarray) -> np.ndarray:
    """Log-probabilities with ``g_N`` on the predicted option and the others in their old proportions, (N, K).

    Where g would topple the prediction it is lifted to ``r / (1 + r) + 1e-9``, r the largest share among the others;
    others that all have probability 0 share equally.
    """
    at_N, top_N = np.arange(scores.n), scores.prediction_N
    others_NK = np.arange(scores.k) < scores.k_N[:, None]
    others_NK[at_N, top_N] = False
    rest_NK = np.where(others_NK, scores.logp_NK, -np.inf)
    nothing_N = np.isneginf(rest_NK.max(1))
    rest_NK[nothing_N] = np.where(others_NK[nothing_N], 0.0, -np.inf)
    share_NK = rest_NK - np.logaddexp.reduce(rest_NK, axis=1, keepdims=True)  # in logs: none of them underflows
    largest_N = np.exp(share_NK.max(1))
    g_N = np.maximum(g_N, largest_N / (1 + largest_N) + 1e-9)
    with np.errstate(divide="ignore"):
        mapped_NK = np.log1p(-g_N)[:, None] + share_NK
        mapped_NK[at_N, top_N] = np.log(g_N)
    return np.asarray(mapped_NK)


def _ascending(values: np.ndarray) -> np.ndarray:
    if (np.diff(values) < 0).any() or (values < 0).any() or (values > 1).any():
        raise ValueError(f"numbers that ascend within [0, 1] are wanted, found {values.tolist()}"[:200])
    return values
