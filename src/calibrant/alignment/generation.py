"""Answers of a model to prompts. Shape suffixes: B batch, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from calibrant.alignment.forward import batches_of
from calibrant.progress import track
from calibrant.scoring.options import Tokens
from calibrant.scoring.scorer import default_batch_tokens, padded

CACHE_FACTOR = 8
"""Decoding keeps a cache, not activations, so a batch may hold this many times the tokens of a scoring pass."""


@dataclass(frozen=True)
class Response:
    """What a model answered.

    Parameters
    ----------
    tokens : as generated, the end token included where it came.
    text : without special tokens.
    ended : whether the model ended by itself, within the tokens allowed.
    """

    tokens: Tokens
    text: str
    ended: bool

    @property
    def length(self) -> int:
        """Tokens, without the end token."""
        return len(self.tokens) - self.ended


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: str | None = None,
) -> list[Response]:
    """One response to each prompt: greedy at temperature 0, else sampled from the model's own distribution.

    Nothing else shapes the distribution: no top-k, no nucleus, no repetition penalty, no suppressed tokens, whatever the
    model's generation settings say; its end tokens are kept.
    """
    device = next(model.parameters()).device
    budget = CACHE_FACTOR * (batch_tokens or default_batch_tokens(device))
    ends = end_tokens(model, tokenizer)
    settings = _settings(ends, max_new_tokens, temperature)
    responses: list[Response | None] = [None] * len(prompts)
    batches = batches_of([len(p) + max_new_tokens for p in prompts], budget)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch in track(batches, progress, total=len(prompts), size=len):
            ids_BT, mask_BT, _, _ = padded([prompts[i] for i in batch], device, "left")
            with _own_settings_aside(model, settings):
                out_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings)
            for i, row in zip(batch, out_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                responses[i] = _response(tokenizer, row, ends)
    return [r for r in responses if r is not None]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Token ids at which a response ends: the model's own and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found = list(own) if isinstance(own, (list, tuple)) else [own]
    return sorted({int(i) for i in (*found, tokenizer.eos_token_id) if i is not None})


@contextmanager
def _own_settings_aside(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """While active, the model has no generation settings of its own, which would fill in what ``settings`` leaves open."""
    inner = getattr(model, "get_base_model", lambda: model)()
    own = inner.generation_config
    inner.generation_config = GenerationConfig(eos_token_id=settings.eos_token_id, pad_token_id=settings.pad_token_id)
    try:
        yield
    finally:
        inner.generation_config = own


def _settings(ends: list[int], max_new_tokens: int, temperature: float) -> GenerationConfig:
    sampled = temperature > 0
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampled,
        temperature=temperature if sampled else 1.0,
        top_k=0 if sampled else 50,  # 50 is the library's mark for "not set" where nothing is sampled
        top_p=1.0,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )


def _response(tokenizer: Any, row: Sequence[int], ends: Sequence[int]) -> Response:
    at = next((t for t, token in enumerate(row) if token in ends), None)
    tokens = tuple(row if at is None else row[: at + 1])
    return Response(tokens, tokenizer.decode(tokens, skip_special_tokens=True).strip(), at is not None)
