"""From hidden states to float32 logits, for any causal language model (float64 for a model in float64).

No B×T×V tensor is ever made: the model runs with its output head shown one position only, the hidden states that entered
the head are kept, and logits are computed for the rows that are needed. What a model does to its logits after the head
(scaling, soft-capping) is *measured* on probe values, not looked up by the model's name.

Shape suffixes: B batch, T tokens, S selected rows, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from calibrant.errors import ModelError

PROBES = (-300.0, -30.0, -3.0, -0.3, 0.0, 0.3, 3.0, 30.0, 300.0)


@dataclass
class HiddenStates:
    """What entered the output head in the last forward pass: ``h_BTD``."""

    h_BTD: Tensor | None = None

    def take(self) -> Tensor:
        assert self.h_BTD is not None, "the forward pass did not reach the output head"
        h_BTD, self.h_BTD = self.h_BTD, None
        return h_BTD


@dataclass
class Head:
    """The output head of a model as a function of hidden rows: ``logits_SV = f(h_SD Wᵀ + b)``.

    ``f(x) = s·x``, or ``c·tanh(s·x / c)`` for a model that caps its logits; ``s`` and ``c`` are measured by :meth:`of`, and so
    are the ``rows`` that count, where the model leaves the last ones of a padded vocabulary out.
    """

    module: nn.Module
    scale: float = 1.0
    cap: float | None = None
    rows: int | None = None
    _float32: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """Find the head of ``model`` and measure what follows it.

        Raises
        ------
        ModelError : no output head, or a map after it that is neither a scale nor a soft cap.
        """
        find: Callable[[], nn.Module | None] = getattr(model, "get_output_embeddings", lambda: None)
        module = find()
        if module is None:
            raise ModelError(
                asked=f"the output head of {type(model).__name__}",
                found="the model has none",
                todo="give a causal language model, one that predicts the next token",
            )
        return cls(module, *_measure_map(model, module))

    @contextmanager
    def capture(self) -> Iterator[HiddenStates]:
        """While active, a forward pass keeps the hidden states and computes logits for its last position only.

        The position is copied: of rows that do not lie side by side torch makes a batched product where the head is frozen, as
        under an adapter, with a copy of the head for each row in bfloat16 on a CPU.
        """
        kept = HiddenStates()

        def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            kept.h_BTD = args[0]
            return (args[0][:, -1:].contiguous(), *args[1:])

        handle = self.module.register_forward_pre_hook(before)
        try:
            yield kept
        finally:
            handle.remove()

    def logits(self, h_SD: Tensor, *, exact: bool = True) -> Tensor:
        """Float32 logits (S, V). ``exact``: the product too is in float32; else in the model's own precision.

        A head that is not a plain linear layer (an adapter is on it, or a saved copy) runs with float32 copies of its weights;
        one whose weights are quantised runs as it is.
        """
        if not exact:
            raw_SV = _wide(self.module(self._as_head(h_SD)))
        elif type(self.module) is nn.Linear:
            bias = self.module.bias
            weight = self._float("weight", self.module.weight)
            raw_SV = functional.linear(_wide(h_SD), weight, None if bias is None else _wide(bias))
        else:
            raw_SV = self._float_module(h_SD)
        raw_SV = raw_SV[:, : self.rows]
        raw_SV = raw_SV if self.scale == 1.0 else raw_SV * self.scale
        return raw_SV if self.cap is None else self.cap * torch.tanh(raw_SV / self.cap)

    def token_logp(
        self, h_SD: Tensor, token_A: Tensor, row_A: Tensor | None = None, *, chunk: int = 1024, exact: bool = True
    ) -> Tensor:
        """Float32 log-probability (A,) of tokens over the whole vocabulary; ``row_A`` says at which hidden row each is read.

        Without ``row_A``, one token a row. Rows go through the head ``chunk`` at a time; with gradients on, the logits of
        all chunks are recomputed in the backward pass, so memory holds one (chunk, V) block however many rows there are.
        """
        if row_A is None:
            row_A = torch.arange(len(token_A), device=token_A.device)
        logp_A = _wide(h_SD).new_zeros(len(token_A))
        for start in range(0, len(h_SD), chunk):
            here = ((row_A >= start) & (row_A < start + chunk)).nonzero()[:, 0]
            block = (h_SD[start : start + chunk], token_A[here], row_A[here] - start, exact)
            if torch.is_grad_enabled() and len(h_SD) > chunk:
                part = checkpoint(self._block_logp, *block, use_reentrant=False)
            else:
                part = self._block_logp(*block)
            logp_A = logp_A.index_add(0, here, part)
        return logp_A

    def _block_logp(self, h_SD: Tensor, token_A: Tensor, row_A: Tensor, exact: bool) -> Tensor:
        logits_SV = self.logits(h_SD, exact=exact)
        return logits_SV[row_A, token_A] - torch.logsumexp(logits_SV, 1)[row_A]

    def _as_head(self, h_SD: Tensor) -> Tensor:
        """Hidden states in the precision of the head's weights: under autocast a last LayerNorm leaves them in float32."""
        weight = getattr(self.module, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return h_SD.to(weight.dtype)
        return h_SD

    def _float_module(self, h_SD: Tensor) -> Tensor:
        weights = dict(self.module.named_parameters())
        if not all(weight.is_floating_point() for weight in weights.values()):
            return _wide(self.module(h_SD))
        buffers = {name: buffer for name, buffer in self.module.named_buffers() if buffer.is_floating_point()}
        wide = {name: self._float(name, tensor) for name, tensor in (weights | buffers).items()}
        return _wide(functional_call(self.module, wide, (_wide(h_SD),)))

    def _float(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the head in float32; the copy of one that is not trained is kept."""
        if weight.dtype in (torch.float32, torch.float64):
            return weight
        if weight.requires_grad:
            return weight.float()
        kept = self._float32.get(name)
        if kept is None or kept.device != weight.device:
            with torch.inference_mode(False):  # made while scoring, it must still serve a later training step
                kept = self._float32[name] = weight.detach().float()
        return kept


def _wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


@torch.no_grad()
def _measure_map(model: nn.Module, module: nn.Module) -> tuple[float, float | None, int | None]:
    """Feed known values in place of the head's output and read what the model makes of them: scale, cap, rows."""
    probes, made = torch.tensor(PROBES), 0

    def after(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        nonlocal made
        made = output.shape[-1]
        values = torch.zeros_like(output, dtype=torch.float32)
        values[..., : len(PROBES)] = probes.to(values.device)
        return values

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    handle = module.register_forward_hook(after)
    try:
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        whole_V = model(input_ids=token, use_cache=False).logits[0, -1]
    finally:
        handle.remove()
        model.train(was_training)
    seen, rows = whole_V[: len(PROBES)].float().cpu(), len(whole_V) if len(whole_V) < made else None
    scale = float((seen[5] - seen[3]) / (probes[5] - probes[3]))
    if torch.allclose(seen, scale * probes, rtol=1e-4, atol=1e-4):
        return (1.0 if abs(scale - 1) < 1e-6 else scale), None, rows
    cap = _solve_cap(scale, probes, seen)
    if cap is None:
        raise ModelError(
            asked=f"float32 logits of {type(model).__name__}",
            found=f"it maps its head's output {probes.tolist()} to {seen.tolist()}, neither a scale nor a soft cap",
            todo="please report this architecture; its option probabilities would be wrong here",
        )
    return (*cap, rows)


def _solve_cap(scale: float, probes: Tensor, seen: Tensor) -> tuple[float, float] | None:
    """The (s, c) with ``c·tanh(s·x/c) = seen``: c from the largest probe (where tanh is near 1), refined with s."""
    cap = float(seen[-1])
    for _ in range(200):
        if not cap > 0:
            return None
        small = min(max(float(seen[5]) / cap, -0.999999), 0.999999)
        scale = cap * float(torch.atanh(torch.tensor(small, dtype=torch.float64))) / PROBES[5]
        saturation = float(torch.tanh(torch.tensor(scale * PROBES[-1] / cap, dtype=torch.float64)))
        cap = float(seen[-1]) / saturation
    fitted = cap * torch.tanh(scale * probes / cap)
    if not torch.allclose(seen, fitted, rtol=1e-3, atol=1e-3):
        return None
    scale = 1.0 if abs(scale - 1) < 1e-4 else scale
    return scale, round(cap, 3) if abs(cap - round(cap, 3)) < 1e-4 * cap else cap
