"""The E-step of RCFT: what each bin's accuracy says the option probabilities should be.

Method.md section 4. The only mutable thing in tuning is which :class:`Targets` are in force, and they are saved with every
checkpoint. Shape suffixes: N questions, B batch, K options, M bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from calibrant.metrics.bins import bin_index
from calibrant.scores import Scores

N_FOLDS = 5


@dataclass(frozen=True)
class BinAccuracy:
    """``a_M``: the accuracy that each confidence bin had at the E-step, with the counts behind it.

    Every bin has a value: thin bins are merged with a neighbour, and a Beta prior pulls the rest towards the overall accuracy
    (ours). So a bin that was empty at the E-step and is visited later has a finite target.
    """

    accuracy_M: np.ndarray
    count_M: np.ndarray

    @classmethod
    def of(cls, scores: Scores, *, n_bins: int = 10, prior: float = 4.0, min_bin: int = 10) -> BinAccuracy:
        """E-step: ``a_m = (Σ_{i in m} 1[ŷ_i = y_i] + s·A) / (n_m + s)``, A the overall accuracy, s the prior's strength.

        A bin with fewer than ``min_bin`` questions is pooled with its neighbour of fewer questions, until none is left that
        is thin (or one group holds all).
        """
        index_N = bin_index(scores.confidence_N, n_bins)
        count_M = np.bincount(index_N, minlength=n_bins)
        right_M = np.bincount(index_N, weights=scores.correct_N.astype(np.float64), minlength=n_bins)
        overall = float(scores.correct_N.mean())
        accuracy_M = np.empty(n_bins)
        for group in _pool(count_M, min_bin):
            n, right = count_M[group].sum(), right_M[group].sum()
            accuracy_M[group] = (right + prior * overall) / (n + prior) if n + prior else overall
        return cls(accuracy_M, count_M)

    def of_confidence(self, confidence_N: np.ndarray) -> np.ndarray:
        """``a_N``: the accuracy of each confidence's bin."""
        found: np.ndarray = self.accuracy_M[bin_index(confidence_N, len(self.accuracy_M))]
        return found


@dataclass(frozen=True)
class Targets:
    """An E-step: the distribution t that each training question is drawn to until the next one.

    ``target_NK`` holds 0 where a question has no such option. With the weights of the E-step, question i stands in bin b(i) and
    has probabilities p_i: its top option gets ``a_b(i)``, the others share the rest in the order of p_i
    (:func:`target_distribution`). Both stay as they are while the weights move (docs/decisions/002-rcft.md).
    """

    target_NK: np.ndarray

    @classmethod
    def of(
        cls, scores: Scores, accuracy_N: np.ndarray, *, target_map: Literal["tanh", "proportional"] = "tanh"
    ) -> Targets:
        """From the training questions' scores and the accuracy that is expected of each."""
        p_NK = torch.as_tensor(scores.p_NK, dtype=torch.float64)
        k_N = torch.as_tensor(scores.k_N)
        a_N = torch.as_tensor(accuracy_N, dtype=torch.float64)
        return cls(target_distribution(p_NK, k_N, a_N, target_map=target_map).numpy())

    def of_batch(self, index_B: Tensor, k: int) -> Tensor:
        """(B, k) for the training questions of these indices, none of which has more than k options."""
        rows = self.target_NK[index_B.cpu().numpy()][:, :k]
        return torch.as_tensor(rows, dtype=torch.float32, device=index_B.device)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for the checkpoint."""
        return {"target_NK": self.target_NK.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Targets:
        """The inverse of :meth:`to_json`."""
        return cls(np.array(values["target_NK"], dtype=np.float64))


def cross_fitted(scores: Scores, fold_N: np.ndarray, *, n_bins: int, prior: float, min_bin: int) -> np.ndarray:
    """``a_N`` of the training questions, each by the bins of the other folds: no question's own answer is in its target.

    The weights have seen all folds, so this takes a question's influence on its own target away, not the rise of training
    accuracy that all folds share (ours; see docs/decisions/004-objectives.md).
    """
    a_N = np.empty(scores.n)
    for fold in range(int(fold_N.max()) + 1):
        here_N = fold_N == fold
        others = scores.select(np.flatnonzero(~here_N))
        bins = BinAccuracy.of(others, n_bins=n_bins, prior=prior, min_bin=min_bin)
        a_N[here_N] = bins.of_confidence(scores.confidence_N[here_N])
    return a_N


def folds_of(n: int, seed: int) -> np.ndarray:
    """A fold number for each of ``n`` questions: as equal in size as can be, drawn by ``seed``."""
    return np.random.default_rng(seed).permutation(n) % min(N_FOLDS, n)


@torch.no_grad()
def target_distribution(
    p_BK: Tensor, k_B: Tensor, a_B: Tensor, *, target_map: Literal["tanh", "proportional"] = "tanh"
) -> Tensor:
    """The top option gets its bin's accuracy ``a``, the others share ``1 − a`` and keep their order.

    With the non-top probabilities ``q_2 >= … >= q_K`` (docs/decisions/002-rcft.md; the release's map generalised to any K)::

        γ = ln(K−1) / (q_2·(1−a));   t_j = (1−a)·w_j,   w_j = (1 + tanh(γ q_j)) / (K−1 + Σ_j tanh(γ q_j))

    ``proportional``: ``w_j = q_j / Σ q``. Guard (ours): no other option may get more than the top one. Where
    ``(1−a)·max w > a``, ``a`` is raised to ``max w / (1 + max w)``, at which the two are equal.

    Parameters
    ----------
    p_BK : probabilities over the options, 0 where absent.
    k_B : number of options of each question.
    a_B : accuracy of each question's bin, in [0, 1].

    Examples
    --------
    >>> p = torch.tensor([[0.9, 0.05, 0.03, 0.02]])
    >>> [round(t, 4) for t in target_distribution(p, torch.tensor([4]), torch.tensor([0.9]))[0].tolist()]
    [0.9, 0.0333, 0.0333, 0.0333]
    """
    top_B = p_BK.argmax(1)
    rest_BK = torch.arange(p_BK.shape[1], device=p_BK.device) < k_B[:, None]
    rest_BK[torch.arange(len(p_BK), device=p_BK.device), top_B] = False
    q_BK = torch.where(rest_BK, p_BK, torch.zeros_like(p_BK))
    second_B = q_BK.max(1).values
    if target_map == "proportional":
        share_BK = torch.where(second_B[:, None] > 0, q_BK, rest_BK.to(p_BK.dtype))
    else:
        ratio_BK = torch.where(second_B[:, None] > 0, q_BK / second_B.clamp_min(1e-38)[:, None], torch.ones_like(q_BK))
        steepness_B = torch.log(k_B.to(p_BK.dtype) - 1) / (1 - a_B).clamp_min(1e-12)
        share_BK = (1 + torch.tanh(steepness_B[:, None] * ratio_BK)) * rest_BK
    share_BK = share_BK / share_BK.sum(1, keepdim=True)
    largest_B = share_BK.max(1).values
    a_B = torch.maximum(a_B, largest_B / (1 + largest_B))
    target_BK = (1 - a_B)[:, None] * share_BK
    return target_BK.scatter(1, top_B[:, None], a_B[:, None])


def _pool(count_M: np.ndarray, min_bin: int) -> list[list[int]]:
    groups = [[m] for m in range(len(count_M))]
    while len(groups) > 1:
        sizes = [int(count_M[g].sum()) for g in groups]
        thin = [i for i, size in enumerate(sizes) if size < min_bin]
        if not thin:
            break
        i = min(thin, key=lambda j: sizes[j])
        neighbours = [j for j in (i - 1, i + 1) if 0 <= j < len(groups)]
        j = min(neighbours, key=lambda j: sizes[j])
        low = min(i, j)
        groups[low : low + 2] = [groups[low] + groups[low + 1]]
    return groups
