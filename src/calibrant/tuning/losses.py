"""The losses of method.md section 4, as pure functions of tensors to ``(loss, metrics)``. They know no trainer.

All are *sums over the questions of the batch*; the caller divides by the number of questions in the optimiser step, so that
accumulation and data parallelism change nothing. Shape suffixes: B questions, K options, S answer tokens, L language-model
tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A differentiable scalar and detached sums for the log."""

    value: Tensor
    metrics: dict[str, Tensor]


def sft1(answer_logp_B: Tensor) -> Loss:
    """``Σ_i −log π(y_i | x_i)``: the answer only, over the full vocabulary. CFT (paper; ``L_SFT1``).

    Parameters
    ----------
    answer_logp_B : log-probability of the correct answer: all its tokens, or all aliases of its letter.
    """
    value = -answer_logp_B.sum()
    return Loss(value, {"nll_answer": value.detach()})


def sft2(answer_logp_B: Tensor, prompt_logp_L: Tensor, question_L: Tensor, tokens_B: Tensor, *, mean: str) -> Loss:
    """``Σ_i −[log π(y_i | x_i) + Σ_t log π(x_it | x_i,<t)] / Z_i``: question and answer tokens (paper; ``L_SFT2``).

    Parameters
    ----------
    answer_logp_B : as in :func:`sft1`.
    prompt_logp_L : log-probability of each prompt token but the first, all questions in one row.
    question_L : index of the question that each of them belongs to.
    tokens_B : tokens of each question that the sum runs over, answer included.
    mean : ``"token"``: Z_i = tokens_B; ``"question"``: Z_i = 1.
    """
    prompt_logp_B = torch.zeros_like(answer_logp_B).index_add(0, question_L, prompt_logp_L)
    total_B = answer_logp_B + prompt_logp_B
    if mean == "token":
        total_B = total_B / tokens_B
    return Loss(-total_B.sum(), {"nll_answer": -answer_logp_B.detach().sum()})


def ece_term(logp_BK: Tensor, target_BK: Tensor) -> Loss:
    """``Σ_i Σ_k (p_ik − t_ik)²`` with ``t`` detached (paper; ``L_ECE``). All bins count, K as the questions have it.

    Parameters
    ----------
    logp_BK : log-probabilities over the options; ``-inf`` where absent (there p = t = 0 and the gradient is 0).
    target_BK : target distributions.
    """
    present_BK = torch.isfinite(logp_BK)
    p_BK = torch.where(present_BK, logp_BK, torch.zeros_like(logp_BK)).exp() * present_BK
    value = ((p_BK - target_BK.detach()) ** 2).sum()
    return Loss(value, {"ece_term": value.detach()})


def rcft(language: Loss, calibration: Loss, lam: float) -> Loss:
    """``L_SFT2 + λ·L_ECE`` (paper; RCFT, λ = 1 there)."""
    return Loss(language.value + lam * calibration.value, {**language.metrics, **calibration.metrics})


def option_logp(joint_BK: Tensor) -> Tensor:
    """Normalise log-probabilities over the options; ``-inf`` where absent stays, with zero gradient."""
    present_BK = torch.isfinite(joint_BK)
    filled_BK = torch.where(present_BK, joint_BK, torch.full_like(joint_BK, -1e30))
    logp_BK = filled_BK - torch.logsumexp(filled_BK, 1, keepdim=True)
    return torch.where(present_BK, logp_BK, torch.full_like(logp_BK, -torch.inf))
