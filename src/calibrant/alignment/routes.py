"""How answers are generated: many prompts at a time, where that changes nothing. Shape suffixes: S tokens, V vocabulary.

Prompts of one batch are padded on the left. A model with a recurrent state may read the padding as text, or mix up the
states of a batch (in transformers 5.23 RWKV does, and MiniMax from the second token on).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from calibrant.errors import REFUSALS, memory_full
from calibrant.scoring.head import Head
from calibrant.scoring.options import Tokens

Route = Literal["together", "single", "uncached"]
"""Many prompts at a time; one at a time; one at a time, the whole text being read again for each token."""
SAID: dict[str, str] = {
    "single": "generated one prompt at a time: together, this model answers otherwise than its own reading of each prompt "
    "has it",
    "uncached": "generated one prompt at a time and without a cache: with one, this model answers otherwise than its own "
    "reading of each prompt has it",
}
"""What to say of answers that were not generated together."""
EXACT, ROUNDED = 2e-3, 0.05
"""Nats that rounding may move a token's log-probabilities by, on average: in float32, and in half precision or less."""
Trial = Callable[[Sequence[Tokens], Route], list[tuple[Tokens, Tensor]]]
"""Tokens after each prompt on a route, and the log-probabilities (S, V) that they were taken by."""


def choose_route(model: Any, prompts: Sequence[Tokens], trial: Trial) -> Route:
    """The fastest route whose log-probabilities are those of plain reading: each text whole, alone, without a cache.

    Compared are log-probabilities along the very tokens that a route generates, so that two tokens of nearly the same
    probability are no difference: ``Σ_v p(v) |log p(v) − log q(v)|`` with p plain and q the route's, in nats, the largest of
    all tokens. Prompts together are given up where that is beyond what the model's precision explains and another route has
    less than a quarter of it: half precision rounds alone, too. Ours.
    """
    if not prompts:
        return "together"
    head = Head.of(model)
    together = _apart(model, head, prompts, trial, "together")
    if together > (EXACT if next(model.parameters()).dtype in (torch.float32, torch.float64) else ROUNDED):
        for route in ("single", "uncached"):
            if _apart(model, head, prompts, trial, route) < together / 4:
                return route
    return "together"


def _apart(model: Any, head: Head, prompts: Sequence[Tokens], trial: Trial, route: Route) -> float:
    """How far a route is from plain reading; infinitely where the model breaks off on it."""
    try:
        parts = [prompts] if route == "together" else [[prompt] for prompt in prompts]
        said = [one for part in parts for one in trial(part, route)]
    except REFUSALS as error:
        if memory_full(error, "answers") is not None:
            raise
        return float("inf")
    return max(_distance(_plain(model, head, p, t), logp_SV) for p, (t, logp_SV) in zip(prompts, said, strict=True))


def _plain(model: Any, head: Head, prompt: Tokens, tokens: Tokens) -> Tensor:
    """Log-probabilities (S, V) before each of these tokens, from one pass over prompt and tokens."""
    ids_1T = torch.tensor([[*prompt, *tokens][:-1]], device=next(model.parameters()).device)
    with head.capture() as kept:
        model(input_ids=ids_1T, use_cache=False)
    return head.logits(kept.take()[0, len(prompt) - 1 :]).log_softmax(-1)


def _distance(plain_SV: Tensor, logp_SV: Tensor) -> float:
    p_SV, apart_SV = plain_SV.exp(), (plain_SV - logp_SV).abs()
    apart = float(torch.where(p_SV > 0, p_SV * apart_SV, 0.0).sum(-1).max())
    return float("inf") if math.isnan(apart) and not bool(plain_SV.isnan().any()) else apart
