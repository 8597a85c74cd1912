"""Every metric that is a function of sums over questions, and its bootstrap, in one pass and bounded memory.

Shape suffixes: N questions, K options, M bins, C columns, B draws, G clusters. A question contributes one row of C
numbers; a draw gives every question (or cluster) a Poisson(1) weight; weighted column sums are all that the metrics
need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from scipy.special import pdtr

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.bins import bin_index, thin_variance
from calibrant.metrics.proper import brier_terms
from calibrant.scores import Scores

BLOCK_WEIGHTS = 4_000_000
"""Weights (draws x questions) held at once: 16 MB."""

MEANS = ("accuracy", "mean_confidence", "nll", "brier", "option_mass")
_N_MEANS = 1 + len(MEANS) + 1  # weight, the means, and the number of questions whose option mass is known


@dataclass(frozen=True, eq=False)
class QuestionSums:
    """Contributions of each question of ``scores`` to the sums behind the metrics, with M = ``n_bins`` bins.

    Columns: weight, the five means, known option mass, K presences, M confidence cells ``1[bin m] (correct - c)``,
    and K M class cells ``1[bin m of p_k] (1[y = k] - p_k)``.
    """

    scores: Scores
    n_bins: int

    @property
    def n_columns(self) -> int:
        """C."""
        return _N_MEANS + self.scores.k + self.n_bins * (1 + self.scores.k)

    def columns(self, rows: slice) -> np.ndarray:
        """Contributions of some questions, (rows, C)."""
        s, m = self.scores, self.n_bins
        logp_NK, answer_N, k_N = s.logp_NK[rows], s.answer_N[rows], s.k_N[rows]
        n, k = logp_NK.shape
        at_N = np.arange(n)
        p_NK = np.minimum(np.exp(logp_NK), 1.0)
        predicted_N = np.argmax(logp_NK, axis=1)
        c_N, correct_N = p_NK[at_N, predicted_N], (predicted_N == answer_N).astype(np.float64)
        nll_N, mass_N = -logp_NK[at_N, answer_N], np.exp(s.logmass_N[rows])
        known_N = ~np.isnan(mass_N)
        out = np.zeros((n, self.n_columns))
        out[:, 0] = 1
        out[:, 1] = correct_N
        out[:, 2] = c_N
        out[:, 3] = np.where(np.isinf(nll_N), 0.0, nll_N)
        out[:, 4] = brier_terms(p_NK, answer_N)
        out[:, 5] = np.where(known_N, mass_N, 0.0)
        out[:, 6] = known_N
        out[:, _N_MEANS : _N_MEANS + k] = np.arange(k) < k_N[:, None]
        conf = _N_MEANS + k
        out[at_N, conf + bin_index(c_N, m)] = correct_N - c_N
        for j in range(k):
            has_N = k_N > j
            cell_N = conf + m * (1 + j) + bin_index(p_NK[:, j], m)
            out[at_N[has_N], cell_N[has_N]] = (answer_N == j)[has_N] - p_NK[has_N, j]
        return out

    @cached_property
    def totals(self) -> np.ndarray:
        """Unweighted sums over all questions, (C,)."""
        return sum(
            (self.columns(rows).sum(0) for rows in blocks(self.scores.n, 65_536)), start=np.zeros(self.n_columns)
        )

    def means(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The means in :data:`MEANS` from sums (..., C)."""
        values = {name: sums[..., 1 + j] / sums[..., 0] for j, name in enumerate(MEANS[:-1])}
        with np.errstate(invalid="ignore", divide="ignore"):
            values["option_mass"] = sums[..., 5] / sums[..., 6]
        return values

    def conf_cells(self, sums: np.ndarray) -> np.ndarray:
        """``sum_bin (correct - c) / N``, (..., M): its 1-norm is conf-ECE, minus its sum the signed gap."""
        first = _N_MEANS + self.scores.k
        return np.asarray(sums[..., first : first + self.n_bins] / sums[..., :1])

    def class_cells(self, sums: np.ndarray) -> np.ndarray:
        """``sum_bin (1[y = k] - p_k) / (K N_k)``, (..., K M): its 1-norm is cw-ECE."""
        k, first = self.scores.k, _N_MEANS + self.scores.k + self.n_bins
        has = sums[..., _N_MEANS : _N_MEANS + k]
        cells = sums[..., first:].reshape(*sums.shape[:-1], k, self.n_bins) / np.maximum(has, 1e-300)[..., None]
        present = (self.totals[_N_MEANS : _N_MEANS + k] > 0).sum()
        return np.asarray(cells.reshape(*sums.shape[:-1], k * self.n_bins) / present)

    @cached_property
    def thin_variances(self) -> tuple[np.ndarray, np.ndarray]:
        """:func:`~calibrant.metrics.bins.thin_variance` of the confidence cells (M,) and the class cells (K M,)."""
        s, m = self.scores, self.n_bins
        conf = _thin(bin_index(s.confidence_N, m), s.correct_N, m) / s.n**2
        present = (self.totals[_N_MEANS : _N_MEANS + s.k] > 0).sum()
        per_class = []
        for j in range(s.k):
            has_N = s.k_N > j
            thin_M = _thin(bin_index(np.exp(s.logp_NK[has_N, j]), m), s.answer_N[has_N] == j, m)
            per_class.append(thin_M / (present * max(int(has_N.sum()), 1)) ** 2)
        return conf, np.concatenate(per_class)


def _thin(cell_N: np.ndarray, hit_N: np.ndarray, n_bins: int) -> np.ndarray:
    n_M = np.bincount(cell_N, minlength=n_bins).astype(np.float64)
    return thin_variance(n_M, np.bincount(cell_N, weights=hit_N.astype(np.float64), minlength=n_bins))


def blocks(n: int, size: int) -> list[slice]:
    """Slices that cover 0..n in order, each of at most ``size``."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def bootstrap_sums(
    columns: Callable[[slice], np.ndarray],
    n: int,
    n_boot: int,
    seed: int,
    cluster_N: np.ndarray | None = None,
    parts: Sequence[int] = (),
) -> np.ndarray:
    """Weighted column sums of B bootstrap draws, (B, C), in O(block) memory. The blocks of columns that begin at
    ``parts`` are summed apart, so that equal blocks have equal sums to the last bit.

    Poisson bootstrap (Chamandy et al. 2012; Hanley & MacGibbon 2006): independent Poisson(1) weights, drawn by
    inversion of a 16-bit uniform; divided by the drawn total weight it has the law of the multinomial bootstrap up to
    O(1/N). With clusters (codes 0..G-1), a cluster's questions share one weight (Field & Welsh 2007). A draw in which
    every weight is 0 is the sample.
    """
    if cluster_N is not None:
        rows_GC = _cluster_rows(columns, n, cluster_N)
        columns, n = rows_GC.__getitem__, len(rows_GC)
    total_BC: np.ndarray | float = 0.0
    plain_C: np.ndarray | float = 0.0
    drawn_B = np.zeros(n_boot)
    for rows, weight_BN in _weight_blocks(n, n_boot, seed):
        block_NC = columns(rows)
        summed = [
            weight_BN @ np.ascontiguousarray(part) for part in np.split(block_NC.astype(np.float32), parts, axis=1)
        ]
        total_BC = total_BC + np.concatenate(summed, axis=1).astype(np.float64)
        plain_C = plain_C + block_NC.sum(0)
        drawn_B += weight_BN.sum(1)
    return np.where(drawn_B[:, None] > 0, total_BC, plain_C)


def bootstrap_weights(n: int, n_boot: int, seed: int, cluster_N: np.ndarray | None = None) -> np.ndarray:
    """The weights of :func:`bootstrap_sums`, question by question, (B, N) of small integers: for what is not a function of
    sums. A draw in which every weight is 0 is the sample: weights 1.
    """
    units = n if cluster_N is None else int(cluster_N.max()) + 1
    blocks_of = [weight_BN.astype(np.uint8) for _, weight_BN in _weight_blocks(units, n_boot, seed)]
    weight_BN = np.concatenate(blocks_of, axis=1)
    weight_BN[weight_BN.sum(1) == 0] = 1
    return weight_BN if cluster_N is None else weight_BN[:, cluster_N]


def _weight_blocks(n: int, n_boot: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    rng, table = np.random.default_rng([seed, 1]), _poisson_table()
    for rows in blocks(n, max(64, BLOCK_WEIGHTS // n_boot)):
        size = rows.stop - rows.start
        yield rows, table[rng.integers(0, 65_536, (n_boot, size), dtype=np.uint16)]


@cache
def _poisson_table() -> np.ndarray:
    """Poisson(1) weight for each 16-bit uniform."""
    return np.searchsorted(pdtr(np.arange(32), 1.0), (np.arange(65_536) + 0.5) / 65_536).astype(np.float32)


def _cluster_rows(columns: Callable[[slice], np.ndarray], n: int, cluster_N: np.ndarray) -> np.ndarray:
    total: np.ndarray | None = None
    for rows in blocks(n, 65_536):
        block_NC = columns(rows)
        if total is None:
            total = np.zeros((int(cluster_N.max()) + 1, block_NC.shape[1]))
        np.add.at(total, cluster_N[rows], block_NC)
    assert total is not None
    return total


def cluster_codes(scores: Scores, cluster: str | Sequence[Any] | None) -> np.ndarray | None:
    """Cluster codes 0..G-1 of the questions: ``"subject"``, the name of a column, or one label a question.

    Raises
    ------
    ConfigError : no such column. ScoresError : a missing label, a wrong length, or fewer than two clusters.
    """
    if cluster is None:
        return None
    if isinstance(cluster, str):
        if cluster != "subject" and cluster not in scores.columns:
            raise ConfigError(
                asked=f"clusters by column {cluster!r}",
                found=f"columns: {', '.join(sorted(scores.columns)) or 'none'}",
                todo="give 'subject', one of those columns, or one label a question",
            )
        labels: Sequence[Any] = scores.subjects if cluster == "subject" else scores.columns[cluster]
    else:
        labels = cluster
    missing = sum(label is None or label != label for label in labels)
    if len(labels) != scores.n or missing:
        raise ScoresError(
            asked=f"one cluster label for each of {scores.n} questions",
            found=f"{len(labels)} labels, {missing} of them missing",
            todo="name every question's cluster, or measure without clusters",
        )
    _, codes = np.unique(np.array([str(label) for label in labels]), return_inverse=True)
    if codes.max() < 1:
        raise ScoresError(
            asked="an interval that resamples clusters", found="one cluster only", todo="give two clusters or more"
        )
    return np.asarray(codes, dtype=np.int64)
