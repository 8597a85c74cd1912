"""An adapter merged into the weights, proved on the logits. Shape suffixes: B batch, T tokens, V vocabulary."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from calibrant.errors import REFUSALS, ModelError, memory_full, one_line

PROBE_SHAPE = (2, 16)
RELATIVE = 1e-4
"""Largest difference of float32 logits, as a share of the largest logit, that counts as equal."""


@torch.no_grad()
def probe_logits(model: Any) -> Tensor:
    """Float32 logits (B, T, V) of a model on 2 × 16 random tokens, the same ones each time."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids_BT = torch.randint(vocabulary, PROBE_SHAPE, generator=torch.Generator().manual_seed(0))
    logits_BTV: Tensor = model.eval()(input_ids=ids_BT.to(next(model.parameters()).device), use_cache=False).logits
    return logits_BTV.float().cpu()


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest wanted value; infinite where something is not finite."""
    worst = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9))
    return worst if worst == worst else float("inf")


def merge_adapter(model: Any, name: str) -> Any:
    """The model without peft's layers, the adapter's change added to the weights: ``W + ΔW`` for a LoRA.

    The logits of random tokens before and after must agree to ``1e-4`` of the largest; give a float32 model. Whether
    input and output embeddings share their weights is written down as it is found after the merge.

    Raises
    ------
    ModelError : an adapter that cannot be merged, or whose merge changes the logits.
    """
    asked = f"the adapter {name!r} merged into its model's weights"
    todo = "export the adapter alone (--no-merge)"
    wanted = probe_logits(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # what it fears is measured below
            merged = model.merge_and_unload(safe_merge=True)
    except REFUSALS as error:
        if (full := memory_full(error, asked)) is not None:
            raise full from error
        raise ModelError(asked=asked, found=one_line(error), todo=todo) from error
    worst = deviation(probe_logits(merged), wanted)
    if not worst <= RELATIVE:
        raise ModelError(
            asked=asked,
            found=f"logits moved by {worst:.2g} of the largest; an adapter on tied embeddings cannot be merged, for one",
            todo=todo,
        )
    tied = is_tied(merged)
    for config in (merged.config, merged.config.get_text_config()):
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = tied
    return merged


def is_tied(model: Any) -> bool:
    """Whether the output head and the input embedding are one tensor."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return bool(head.weight.data_ptr() == embedding.weight.data_ptr())
