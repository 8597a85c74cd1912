"""A temperature folded into the weights: every logit divided by T. Shape suffixes: D hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calibrant.errors import ConfigError, ModelError
from calibrant.exporting.merging import RELATIVE, deviation, is_tied, probe_logits
from calibrant.prompts import PromptStyle
from calibrant.scoring.head import Head

CHANGES = (
    "Folding divides every logit of the model by T, on every prompt, not only on questions. Greedy decoding picks the "
    "same tokens. Sampling at temperature t now draws what the tuned model drew at t × T, so text is more varied where "
    "T > 1. Log-probabilities of whole texts are other than before."
)


@dataclass(frozen=True)
class Folded:
    """Where the temperature went, and the largest deviation from ``logits / T`` seen on random tokens (relative)."""

    where: str
    deviation: float


def refuse_folding(style: PromptStyle) -> None:
    """Raise :class:`ConfigError` for a reading in which one temperature on the logits is not one on the options."""
    if style.reading != "letters":
        raise ConfigError(
            asked="a temperature folded into the weights",
            found=f"the options are read as {style.reading}: an option's log-probability is a sum over its tokens, each "
            "normalised over the whole vocabulary, and dividing logits by T does not divide that sum by T",
            todo="leave folding off; the temperature is shipped in scaler.json, and reader.py applies it to the options",
        )


@torch.no_grad()
def fold_temperature(model: Any, temperature: float) -> Folded:
    """Change the weights in place so that ``logits' = logits / T``; what the architecture allows is found by measuring.

    First the last normalisation before the head is scaled (weight and bias, ``w / T``; or ``(1 + w) / T - 1`` where the
    layer adds 1 to its weight), which leaves tied embeddings tied; failing that, an untied head. Each attempt must give
    ``logits / T`` on random tokens to ``1e-4`` of the largest, or is undone. Give a float32 model. The rule is ours.

    Raises
    ------
    ModelError : a model that caps its logits (``c · tanh(x / c)`` does not commute with a division), or none of these.
    """
    asked = f"the temperature {temperature:.4g} folded into the weights of {type(model).__name__}"
    todo = "leave folding off; the temperature is shipped in scaler.json"
    cap = Head.of(model).cap
    if cap is not None:
        found = f"it caps its logits at {cap:g} after the head, so scaled weights do not give scaled logits"
        raise ModelError(asked=asked, found=found, todo=todo)
    wanted = probe_logits(model) / temperature
    seen = []
    for where, module, change in _attempts(model, temperature):
        kept = {name: tensor.clone() for name, tensor in module.named_parameters(recurse=False)}
        change()
        worst = deviation(probe_logits(model), wanted)
        if worst <= RELATIVE:
            return Folded(where, worst)
        seen.append(f"{where}: off by {worst:.2g}")
        for name, tensor in module.named_parameters(recurse=False):
            tensor.copy_(kept[name])
    found = (
        "; ".join(seen) or "no normalisation stands right before the head, and the head shares the embeddings' weights"
    )
    raise ModelError(asked=asked, found=found, todo=todo)


def _attempts(model: Any, temperature: float) -> Iterator[tuple[str, nn.Module, Callable[[], None]]]:
    def scale(tensors: list[Tensor], offset: float) -> Callable[[], None]:
        def change() -> None:
            for i, tensor in enumerate(tensors):
                plus = offset if i == 0 else 0.0
                tensor.copy_((tensor + plus) / temperature - plus)

        return change

    found = _last_norm(model)
    if found is not None:
        name, norm = found
        tensors = [norm.weight, *([norm.bias] if getattr(norm, "bias", None) is not None else [])]
        yield f"last normalisation {name!r}", norm, scale(tensors, 0.0)
        yield f"last normalisation {name!r}, 1 + weight", norm, scale(tensors, 1.0)
    head = model.get_output_embeddings()
    if not is_tied(model):
        tensors = [head.weight, *([head.bias] if getattr(head, "bias", None) is not None else [])]
        yield "output head", head, scale(tensors, 0.0)


def _last_norm(model: Any) -> tuple[str, Any] | None:
    """The module with a weight of one dimension whose output is what enters the head."""
    head = model.get_output_embeddings()
    outputs: list[tuple[str, Any, Tensor]] = []  # kept alive, so that no two share an address
    entered: list[Tensor] = []

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def after(module: Any, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, module, output))

        return after

    def before(_module: Any, args: tuple[Any, ...]) -> None:
        entered.append(args[0])

    handles = [head.register_forward_pre_hook(before)]
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1:
            handles.append(module.register_forward_hook(keep(name)))
    try:
        probe_logits(model)
    finally:
        for handle in handles:
            handle.remove()
    address = entered[-1].untyped_storage().data_ptr()
    for name, module, output in reversed(outputs):
        if output.untyped_storage().data_ptr() == address:
            return name, module
    return None
