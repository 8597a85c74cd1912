"""Which rows a run trains on: packed where a comparison at its start shows that they give what plain rows give.

A packed row holds a prompt once and all option texts after it. That needs a model that takes a four-dimensional attention mask
as it is and positions that repeat; which models do is measured, not looked up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from calibrant.errors import REFUSALS, memory_full, one_line
from calibrant.scoring.head import Head
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.losses import option_logp
from calibrant.tuning.objective import forward, joint_logp

# In float64 too: many models normalise in float32 whatever their precision.
LOGP_TOLERANCE = {torch.float64: 1e-4, torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
GRADIENT_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def choose_rows(
    model: Any, head: Head, collate: Collator, examples: Sequence[Example]
) -> tuple[Collator, dict[str, Any]]:
    """The collator with packed rows, if they give what ``collate``'s plain rows give; else ``collate`` itself.

    Up to three questions are compared: the one of the longest plain row, so that an attention window or chunk shorter than
    that shows itself, one of the shorter ones, and the one with the most option tokens, since options of one token each are
    read at the prompt's end whatever the row. Compared are the log-probabilities of all options (largest difference,
    nats) and the gradient of ``Σ −log p_y`` over the options for every trained parameter (norm of the difference over
    norm), both without dropout, within the tolerance of the model's precision.

    Returns
    -------
    collate : packed or plain.
    facts : ``route`` (``"packed"`` or ``"plain"``), and either both differences or the ``reason`` for plain rows.
    """
    if collate.letters:
        return collate, {"route": "plain", "reason": "all letters are read at the end of one row"}
    if not collate.all_options:
        return collate, {"route": "plain", "reason": "the objective reads one option a question"}
    probe = _probe(examples)
    dtype = head.module.weight.dtype
    assert isinstance(dtype, torch.dtype)
    plain = replace(collate, variant="sum")  # lengths divide the same numbers; pmi subtracts rows of the same kind
    truth = _measured(model, head, plain, [[example] for example in probe])  # one at a time: memory
    reason = ""
    for mask_dtype in (torch.bool, dtype):  # one implementation of attention takes the one, another the other
        packed = replace(plain, packed=True, mask_dtype=mask_dtype)
        try:
            logp_deviation, gradient_deviation = _deviations(truth, _measured(model, head, packed, [probe]))
        except REFUSALS as error:
            if memory_full(error, "tuning") is not None:
                raise
            reason = f"the model refuses packed rows ({one_line(error)})"
            continue
        if logp_deviation <= LOGP_TOLERANCE.get(dtype, 0.5) and gradient_deviation <= GRADIENT_TOLERANCE.get(
            dtype, 0.1
        ):
            return replace(packed, variant=collate.variant), {
                "route": "packed",
                "logp_deviation": logp_deviation,
                "gradient_deviation": gradient_deviation,
            }
        reason = (
            f"log-probabilities of packed rows differ by {logp_deviation:.2g} nats, "
            f"gradients by {gradient_deviation:.2g} of their norm"
        )
    return collate, {"route": "plain", "reason": reason}


def _probe(examples: Sequence[Example]) -> list[Example]:
    order = sorted(range(len(examples)), key=lambda i: examples[i].encoded.n_tokens)
    branched = max(order, key=lambda i: examples[i].encoded.n_tails)
    return [examples[i] for i in dict.fromkeys((order[len(order) // 4], order[-1], branched))]


def _measured(
    model: Any, head: Head, collate: Collator, passes: Sequence[Sequence[Example]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Joint log-probabilities (B, K) and the gradients of the options' log loss, by parameter; the mode is put back."""
    device = next(model.parameters()).device
    k = max(example.k for examples in passes for example in examples)
    training = model.training
    model.eval()
    parts = []
    try:
        for examples in passes:
            batch: Mapping[str, Tensor] = {name: value.to(device) for name, value in collate(examples).items()}
            joint_BK = joint_logp(forward(model, head, batch), head, batch)
            loss = -option_logp(joint_BK).gather(1, batch["answer_B"][:, None]).sum()
            torch.autograd.backward(loss)
            parts.append(functional.pad(joint_BK.detach(), (0, k - joint_BK.shape[1]), value=-math.inf))
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    return torch.cat(parts), gradients


def _deviations(
    truth: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]
) -> tuple[float, float]:
    (joint_BK, gradients), (other_BK, others) = truth, other
    present_BK = torch.isfinite(joint_BK)
    logp_deviation = float((joint_BK - other_BK)[present_BK].abs().max())
    differences = [g - others[name] if name in others else g for name, g in gradients.items()]
    norm, difference = _norm(gradients.values()), _norm(differences)
    return logp_deviation, difference / norm if norm else difference


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(
        sum(float(torch.linalg.vector_norm(t.float() if t.dtype.itemsize < 4 else t)) ** 2 for t in tensors)
    )
