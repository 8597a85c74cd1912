"""Answers of a model to prompts. Shape suffixes: B batch, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from calibrant.alignment.forward import batches_of
from calibrant.alignment.routes import Route, choose_route
from calibrant.progress import track
from calibrant.scoring.options import Tokens
from calibrant.scoring.scorer import default_batch_tokens, padded

CACHE_FACTOR = 8
"""Decoding keeps a cache, not activations, so a batch may hold this many times the tokens of a scoring pass."""
TRIED = 8
"""Tokens that are generated to choose a route."""


@dataclass(frozen=True)
class Response:
    """What a model answered.

    Parameters
    ----------
    tokens : as generated, the end token included where it came.
    text : without special tokens.
    ended : whether the model ended by itself, within the tokens allowed.
    route : how it was generated (:func:`calibrant.alignment.routes.choose_route`).
    """

    tokens: Tokens
    text: str
    ended: bool
    route: Route = "together"

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
    model's generation settings say; its end tokens are kept. Prompts are answered many at a time where a trial on a few of
    them shows that the model says the same of them then.
    """
    device = next(model.parameters()).device
    budget = CACHE_FACTOR * (batch_tokens or default_batch_tokens(device))
    ends = end_tokens(model, tokenizer)
    responses: list[Response | None] = [None] * len(prompts)
    batches = list(batches_of([len(p) + max_new_tokens for p in prompts], budget))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        route = choose_route(model, _hardest(prompts, batches), lambda some, r: _tried(model, some, max_new_tokens, r))
        settings = _settings(ends, max_new_tokens, temperature, route)
        torch.manual_seed(seed)
        if route != "together":
            batches = [[i] for batch in batches for i in batch]
        for batch in track(batches, progress, total=len(prompts), size=len):
            ids_BT, mask_BT, _, _ = padded([prompts[i] for i in batch], device, "left")
            with _own_settings_aside(model, settings):
                out_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings)
            for i, row in zip(batch, out_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                responses[i] = _response(tokenizer, row, ends, route)
    return [r for r in responses if r is not None]


def _hardest(prompts: Sequence[Tokens], batches: Sequence[Sequence[int]]) -> list[Tokens]:
    """Of the batch with the most padding: its longest prompt, its shortest, and one between."""
    widest = max(batches, key=lambda batch: len(prompts[batch[0]]) - len(prompts[batch[-1]]), default=())
    return [prompts[i] for i in dict.fromkeys((*widest[:1], *widest[len(widest) // 2 :][:1], *widest[-1:]))]


def _tried(model: Any, prompts: Sequence[Tokens], max_new_tokens: int, route: Route) -> list[tuple[Tokens, Tensor]]:
    """The first greedy tokens after each prompt, past any end token, and the log-probabilities (S, V) they were taken by."""
    settings = _settings([], min(TRIED, max_new_tokens), 0.0, route)
    settings.output_logits = settings.return_dict_in_generate = True
    ids_BT, mask_BT, _, _ = padded(prompts, next(model.parameters()).device, "left")
    with _own_settings_aside(model, settings):
        out = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings)
    logp_BSV = torch.stack(out.logits, 1).float().log_softmax(-1)
    return [
        (tuple(r), logp_SV) for r, logp_SV in zip(out.sequences[:, ids_BT.shape[1] :].tolist(), logp_BSV, strict=True)
    ]


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


def _settings(ends: list[int], max_new_tokens: int, temperature: float, route: Route) -> GenerationConfig:
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
        **({"use_cache": False} if route == "uncached" else {}),
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )


def _response(tokenizer: Any, row: Sequence[int], ends: Sequence[int], route: Route) -> Response:
    at = next((t for t, token in enumerate(row) if token in ends), None)
    tokens = tuple(row if at is None else row[: at + 1])
    return Response(tokens, tokenizer.decode(tokens, skip_special_tokens=True).strip(), at is not None, route)
