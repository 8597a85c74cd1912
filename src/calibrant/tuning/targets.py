"""The E-step of RCFT: what each bin's accuracy says the option probabilities should be.

Method.md section 4. The only mutable thing in tuning is which :class:`BinAccuracy` is in force, and it is saved with every
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

    def targets(self, p_BK: Tensor, k_B: Tensor, *, target_map: Literal["tanh", "proportional"] = "tanh") -> Tensor:
        """Target distributions (B, K) for current option probabilities; detached, rows sum to 1."""
        p_BK = p_BK.detach()
        confidence_B = p_BK.max(1).values
        index_B = bin_index(confidence_B.double().cpu().numpy(), len(self.accuracy_M))
        a_B = torch.as_tensor(self.accuracy_M[index_B], dtype=p_BK.dtype, device=p_BK.device)
        return target_distribution(p_BK, k_B, a_B, target_map=target_map)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for the checkpoint."""
        return {"accuracy_M": self.accuracy_M.tolist(), "count_M": self.count_M.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BinAccuracy:
        """The inverse of :meth:`to_json`."""
        return cls(np.array(values["accuracy_M"], dtype=np.float64), np.array(values["count_M"], dtype=np.int64))


@dataclass(frozen=True)
class CrossFitted:
    """Bin accuracies for each fold of the training questions, from the other folds: no question's own answer is in its target.

    The weights have seen all folds, so this takes a question's influence on its own target away, not the rise of training
    accuracy that all folds share (ours; see docs/decisions/004-objectives.md).
    """

    folds: tuple[BinAccuracy, ...]

    @classmethod
    def of(cls, scores: Scores, fold_N: np.ndarray, *, n_bins: int, prior: float, min_bin: int) -> CrossFitted:
        """E-step of each fold on the questions of the others."""
        return cls(
            tuple(
                BinAccuracy.of(
                    scores.select(np.flatnonzero(fold_N != fold)), n_bins=n_bins, prior=prior, min_bin=min_bin
                )
                for fold in range(int(fold_N.max()) + 1)
            )
        )

    def targets(
        self, p_BK: Tensor, k_B: Tensor, fold_B: Tensor, *, target_map: Literal["tanh", "proportional"] = "tanh"
    ) -> Tensor:
        """As :meth:`BinAccuracy.targets`, each question by its own fold's bins."""
        target_BK = torch.zeros_like(p_BK)
        for fold in sorted(set(fold_B.tolist())):
            here = fold_B == fold
            target_BK[here] = self.folds[fold].targets(p_BK[here], k_B[here], target_map=target_map)
        return target_BK

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for the checkpoint."""
        return {"folds": [bins.to_json() for bins in self.folds]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CrossFitted:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(BinAccuracy.from_json(bins) for bins in values["folds"]))


def folds_of(n: int, seed: int) -> np.ndarray:
    """A fold number for each of ``n`` questions: as equal in size as can be, drawn by ``seed``."""
    return np.random.default_rng(seed).permutation(n) % min(N_FOLDS, n)


@torch.no_grad()
def target_distribution(
    p_BK: Tensor, k_B: Tensor, a_B: Tensor, *, target_map: Literal["tanh", "proportional"] = "tanh"
) -> Tensor:
    """The top option gets its bin's accuracy ``a``, the others share ``1 − a`` and keep their order.

    With the non-top probabilities ``q_2 >= … >= q_K`` (method.md section 4, the release's map generalised to any K)::

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
