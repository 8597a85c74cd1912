"""One forward pass of a batch to its loss: where the pure losses meet a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from calibrant.scoring.head import Head
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.losses import (
    Loss,
    brier,
    ece_term,
    focal,
    mmce,
    option_logp,
    regularised,
    sft1,
    sft2,
    soft_ece,
    soft_target,
)


def batch_loss(model: Any, head: Head, batch: Mapping[str, Any], config: TuneConfig) -> tuple[Loss, Tensor]:
    """The objective's loss, summed over the batch's questions, and the options' joint log-probabilities (B, K).

    One forward pass (a second one without the questions for ``pmi``), through ``model`` as it is wrapped, so that data
    parallelism sees it; logits only for the rows that are read. Losses over the options use the batch's
    variant (sum, per token …). ``target_BK`` of the batch is what soft-target objectives teach and rcft's calibration term
    draws to.
    """
    h_RTD = forward(model, head, batch)
    joint_BK = joint_logp(h_RTD, head, batch)
    read_BK = read_logp(joint_BK, model, head, batch) if config.compares_options else joint_BK
    if config.objective == "focal":
        return focal(read_BK, batch["answer_B"], config.gamma), joint_BK
    if config.objective in ("label_smoothing", "cogcalib", "distill"):
        over_options = config.over == "options" or config.objective == "distill"
        logp_BK = read_BK if over_options else joint_BK
        return soft_target(logp_BK, batch["target_BK"].to(joint_BK.dtype)), joint_BK
    language = _log_loss(h_RTD, read_BK if config.over == "options" else joint_BK, head, batch, config)
    if config.objective in ("cft", "sft"):
        return language, joint_BK
    return regularised(language, _term(read_BK, batch, config), config.lam), joint_BK


def _log_loss(h_RTD: Tensor, logp_BK: Tensor, head: Head, batch: Mapping[str, Any], config: TuneConfig) -> Loss:
    """L_SFT2 or L_SFT1, the latter over the vocabulary or over the options, as ``logp_BK`` is."""
    answer_logp_B = logp_BK.gather(1, batch["answer_B"][:, None])[:, 0]
    if not config.predicts_prompt:
        return sft1(answer_logp_B)
    prompt_logp_L = head.token_logp(
        h_RTD[batch["prompt_row_L"], batch["prompt_step_L"]], batch["prompt_token_L"], exact=False
    )
    return sft2(answer_logp_B, prompt_logp_L, batch["prompt_question_L"], batch["tokens_B"], mean=config.sft2_mean)


def _term(logp_BK: Tensor, batch: Mapping[str, Any], config: TuneConfig) -> Loss:
    """The calibration term that λ weighs."""
    if config.objective == "brier":
        return brier(logp_BK, batch["answer_B"])
    if config.objective == "mmce":
        return mmce(logp_BK, batch["answer_B"])
    if config.objective == "soft_ece":
        return soft_ece(logp_BK, batch["answer_B"], n_bins=config.n_bins, temperature=config.soft_bin_temperature)
    return ece_term(logp_BK, batch["target_BK"].to(logp_BK.dtype))


def read_logp(joint_BK: Tensor, model: Any, head: Head, batch: Mapping[str, Any]) -> Tensor:
    """Log-probabilities (B, K) over the options, read as scoring reads them: with an option's length divided out
    (``per_token``, ``per_char``), or with its log-probability without the question subtracted (``pmi``: a second pass).
    """
    if "length_BK" in batch:
        joint_BK = joint_BK / batch["length_BK"].to(joint_BK.dtype)
    if "bare" in batch:
        bare_BK = joint_logp(forward(model, head, batch["bare"]), head, batch["bare"])
        joint_BK = joint_BK - torch.where(torch.isfinite(bare_BK), bare_BK, torch.zeros_like(bare_BK))
    return option_logp(joint_BK)


def forward(model: Any, head: Head, batch: Mapping[str, Any]) -> Tensor:
    """The hidden states (R, T, D) that one forward pass of the batch's rows brings to the head."""
    with head.capture() as kept:
        model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        )
    return kept.take()


def joint_logp(h_RTD: Tensor, head: Head, batch: Mapping[str, Any]) -> Tensor:
    """Log-probability (B, K) of each option that the batch holds, over the whole vocabulary; ``-inf`` elsewhere.

    A sequence's tokens add up; the aliases of one letter are summed as probabilities.
    """
    n, k = len(batch["answer_B"]), int(batch["k_B"].max())
    logp_A = head.token_logp(h_RTD[batch["read_row_S"], batch["read_step_S"]], batch["token_A"], batch["at_A"])
    groups = len(batch["option_G"])
    logp_G = logp_A.new_zeros(groups).index_add(0, batch["group_A"], logp_A)
    option_G = batch["option_G"]
    # logsumexp by option: subtract each option's largest first
    peak = logp_G.new_full((n * k,), -torch.inf).scatter_reduce(0, option_G, logp_G.detach(), "amax")
    total = logp_G.new_zeros(n * k).index_add(0, option_G, torch.exp(logp_G - peak[option_G]))
    present = torch.isfinite(peak)
    joint = torch.where(present, torch.log(torch.where(present, total, torch.ones_like(total))) + peak, peak)
    return joint.view(n, k)
