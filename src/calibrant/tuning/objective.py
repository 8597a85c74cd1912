"""One forward pass of a batch to its loss: where the pure losses meet a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from calibrant.scoring.head import Head
from calibrant.tuning.config import TuneConfig
from calibrant.tuning.losses import Loss, ece_term, option_logp, rcft, sft1, sft2
from calibrant.tuning.targets import BinAccuracy


def batch_loss(
    model: Any, head: Head, batch: Mapping[str, Tensor], config: TuneConfig, bins: BinAccuracy | None
) -> tuple[Loss, Tensor]:
    """The objective's loss, summed over the batch's questions, and the options' joint log-probabilities (B, K).

    One forward pass, through ``model`` as it is wrapped (so data parallelism sees it); logits only for the rows that are
    read. ``bins`` is the E-step in force; needed by rcft alone.
    """
    h_RTD = forward(model, head, batch)
    joint_BK = joint_logp(h_RTD, head, batch)
    answer_logp_B = joint_BK.gather(1, batch["answer_B"][:, None])[:, 0]
    if config.objective == "cft":
        return sft1(answer_logp_B), joint_BK
    prompt_logp_L = head.token_logp(
        h_RTD[batch["prompt_row_L"], batch["prompt_step_L"]], batch["prompt_token_L"], exact=False
    )
    language = sft2(answer_logp_B, prompt_logp_L, batch["prompt_question_L"], batch["tokens_B"], mean=config.sft2_mean)
    if config.objective == "sft":
        return language, joint_BK
    assert bins is not None, "rcft needs an E-step before its first step"
    logp_BK = option_logp(joint_BK)
    target_BK = bins.targets(logp_BK.detach().exp(), batch["k_B"], target_map=config.target_map)
    return rcft(language, ece_term(logp_BK, target_BK), config.lam), joint_BK


def forward(model: Any, head: Head, batch: Mapping[str, Tensor]) -> Tensor:
    """The hidden states (R, T, D) that one forward pass of the batch's rows brings to the head."""
    with head.capture() as kept:
        model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        )
    return kept.take()


def joint_logp(h_RTD: Tensor, head: Head, batch: Mapping[str, Tensor]) -> Tensor:
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
