"""The losses of docs/objectives.md as pure functions of tensors to ``(loss, metrics)``. They know no trainer.

All are *sums over the questions of the batch*; the caller divides by the number of questions in the optimiser step, so that
accumulation and data parallelism change nothing. The two that are no such sums, :func:`mmce` and :func:`soft_ece`, say what
they are instead. Shape suffixes: B questions, K options, M bins, L language-model tokens.

``logp_BK`` holds log-probabilities over the options, normalised over them (:func:`option_logp`) unless said otherwise, and
``-inf`` where an option is absent; there p = 0 and the gradient is 0. With ``m`` the probability of all options together,
``log π(k|x) = log p_k + log m``: a log loss over the vocabulary is one over the options, minus ``log m``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MMCE_WIDTH = 0.4


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


def soft_target(logp_BK: Tensor, target_BK: Tensor) -> Loss:
    """``Σ_i Σ_k −t_ik log p_ik``: log loss of an answer drawn from ``t``, in expectation.

    With ``t`` one-hot at the answer it is ``−log p_y``; with smoothed labels, label smoothing (Szegedy et al., CVPR 2016) over
    options instead of classes, and on known questions alone, CogCalib (arXiv 2505.20903); with a teacher's distribution, its
    ``KL(t ‖ p)`` up to the teacher's entropy, which has no gradient.

    Parameters
    ----------
    logp_BK : over the options, or joint log-probabilities over the vocabulary.
    target_BK : distributions, 0 where an option is absent; detached here.
    """
    target_BK = target_BK.detach()
    present_BK = torch.isfinite(logp_BK)
    value = -(target_BK * torch.where(present_BK, logp_BK, torch.zeros_like(logp_BK))).sum()
    return Loss(
        value, {"nll_target": value.detach(), "kl_target": value.detach() + torch.xlogy(target_BK, target_BK).sum()}
    )


def focal(logp_BK: Tensor, answer_B: Tensor, gamma: float) -> Loss:
    """``Σ_i −(1 − p_y)^γ log p_y`` (Mukhoti et al., NeurIPS 2020, arXiv 2002.09437). γ = 0: ``−log p_y``."""
    answer_logp_B = logp_BK.gather(1, answer_B[:, None])[:, 0]
    miss_B = (-torch.expm1(answer_logp_B)).clamp_min(1e-12)  # below 1, a power has no gradient at 0
    value = -(miss_B**gamma * answer_logp_B).sum()
    return Loss(value, {"focal": value.detach()})


def brier(logp_BK: Tensor, answer_B: Tensor) -> Loss:
    """``Σ_i Σ_k (p_ik − 1[k = y_i])²`` (Brier 1950, the form that sums over classes; between 0 and 2 a question)."""
    right_BK = torch.zeros_like(logp_BK).scatter(1, answer_B[:, None], 1.0)
    value = _squared_distance(logp_BK, right_BK)
    return Loss(value, {"brier": value.detach()})


def mmce(logp_BK: Tensor, answer_B: Tensor) -> Loss:
    """``n·MMCE`` of a batch of n questions (Kumar, Sarawagi and Jain, ICML 2018; the unweighted MMCE_m)::

        MMCE = sqrt( Σ_ij (c_i − r_i)(c_j − r_j) exp(−|r_i − r_j| / 0.4) ) / n

    r = max_k p_k is the confidence and c whether the prediction is right, which has no gradient. It is a statistic of the
    batch, no sum over questions: cut into micro-batches it would be another one (the n-weighted mean of theirs), so
    :class:`~calibrant.tuning.config.TuneConfig` wants the whole batch in one pass. The factor n makes the optimiser step's
    mean over questions the statistic itself.
    """
    confidence_B, gap_B = _confidence_and_gap(logp_BK, answer_B)
    kernel_BB = torch.exp(-(confidence_B[:, None] - confidence_B).abs() / MMCE_WIDTH)
    square = gap_B @ kernel_BB @ gap_B
    value = square.clamp_min(1e-12).sqrt()  # a square root has no gradient at 0
    return Loss(value, {"mmce": value.detach()})


SMALLEST_BIN = 1e-8
"""Memberships of an all but empty soft bin are divided by no less: the gradient of x²/S would be inf·0 (ours)."""


def soft_ece(logp_BK: Tensor, answer_B: Tensor, *, n_bins: int, temperature: float) -> Loss:
    """``n·SB-ECE`` of a batch of n questions (Karandikar et al., NeurIPS 2021, arXiv 2108.00106, with the ℓ2 norm)::

        u_im = softmax_m( −(r_i − ξ_m)² / T ),  ξ_m = (m + ½) / M;   S_m = Σ_i u_im
        SB-ECE = sqrt( Σ_m (S_m / n)·( Σ_i u_im (c_i − r_i) / S_m )² )

    r and c as in :func:`mmce`, and the same remark on micro-batches holds. T → 0 gives the ℓ2 ECE of M equal-width bins.

    Parameters
    ----------
    n_bins : M.
    temperature : T, in squared units of probability.
    """
    confidence_B, gap_B = _confidence_and_gap(logp_BK, answer_B)
    centre_M = (torch.arange(n_bins, device=logp_BK.device, dtype=logp_BK.dtype) + 0.5) / n_bins
    member_BM = torch.softmax(-((confidence_B[:, None] - centre_M) ** 2) / temperature, 1)
    size_M = member_BM.sum(0).clamp_min(SMALLEST_BIN)
    square = ((gap_B @ member_BM) ** 2 / size_M).sum() / len(gap_B)
    value = len(gap_B) * square.clamp_min(1e-12).sqrt()
    return Loss(value, {"soft_ece": value.detach()})


def ece_term(logp_BK: Tensor, target_BK: Tensor) -> Loss:
    """``Σ_i Σ_k (p_ik − t_ik)²`` with ``t`` detached (paper; ``L_ECE``). All bins count, K as the questions have it.

    Parameters
    ----------
    logp_BK : log-probabilities over the options.
    target_BK : target distributions, 0 where absent.
    """
    value = _squared_distance(logp_BK, target_BK.detach())
    return Loss(value, {"ece_term": value.detach()})


def regularised(language: Loss, term: Loss, lam: float) -> Loss:
    """``L + λ·R``. With L_SFT2 and L_ECE it is the paper's RCFT (λ = 1 there)."""
    return Loss(language.value + lam * term.value, {**language.metrics, **term.metrics})


def option_logp(joint_BK: Tensor) -> Tensor:
    """Normalise log-probabilities over the options; ``-inf`` where absent stays, with zero gradient."""
    present_BK = torch.isfinite(joint_BK)
    filled_BK = torch.where(present_BK, joint_BK, torch.full_like(joint_BK, -1e30))
    logp_BK = filled_BK - torch.logsumexp(filled_BK, 1, keepdim=True)
    return torch.where(present_BK, logp_BK, torch.full_like(logp_BK, -torch.inf))


def _probabilities(logp_BK: Tensor) -> Tensor:
    present_BK = torch.isfinite(logp_BK)
    return torch.where(present_BK, logp_BK, torch.zeros_like(logp_BK)).exp() * present_BK


def _squared_distance(logp_BK: Tensor, target_BK: Tensor) -> Tensor:
    return ((_probabilities(logp_BK) - target_BK) ** 2).sum()


def _confidence_and_gap(logp_BK: Tensor, answer_B: Tensor) -> tuple[Tensor, Tensor]:
    """``r`` and ``c − r`` of each question."""
    confidence_B, top_B = _probabilities(logp_BK).max(1)
    return confidence_B, (top_B == answer_B).to(confidence_B.dtype) - confidence_B
