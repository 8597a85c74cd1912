"""The LoRA adapter of a tuning run: on which modules of a model it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import set_seed
from transformers.pytorch_utils import Conv1D

from calibrant.errors import REFUSALS, ModelError, one_line
from calibrant.scoring.models import quiet_peft
from calibrant.tuning.config import LoraSettings

ALL = "all-linear"
PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PLACE = "`lora: targets:` in --config"


def with_lora(model: Any, lora: LoraSettings, seed: int) -> tuple[Any, dict[str, list[str]]]:
    """The model with a new adapter, and what ``all-linear`` left out of it: names of modules by their kind.

    Left out are layers that call themselves linear and give something else than W x + b, such as the routers of Llama 4 and
    PhiMoE, which choose experts too: an adapter's B A x can be added to nothing there.

    Raises
    ------
    ModelError : the model has no such modules, or they take no adapter.
    """
    odd = dict(_not_linear(model))
    every = isinstance(lora.targets, str) and lora.targets.lower() == ALL
    targets: str | list[str] = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    if every and odd:
        targets = _linear(model, set(odd))
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    set_seed(seed)  # the adapter's first weights are drawn here
    try:
        with quiet_peft():
            tuned = get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(
            asked=f"a LoRA adapter on {lora.targets!r}",
            found=one_line(error),
            todo=_advice(str(error)),
        ) from error
    _refuse_on(tuned, odd, lora)
    left_out: dict[str, list[str]] = {}
    for name, module in odd.items() if every else ():
        left_out.setdefault(type(module).__name__, []).append(name)
    return tuned, left_out


def _linear(model: Any, without: set[str]) -> list[str]:
    """Names of the modules that peft's ``all-linear`` stands for, without some."""
    head = model.get_output_embeddings()
    found = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head}
    return sorted(found - without)


def _not_linear(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Modules of a kind made from ``nn.Linear`` that give something else than W x + b; the output head is none's target."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head and not _is_linear(module):
            yield name, module


@torch.no_grad()
def _is_linear(module: nn.Linear) -> bool:
    weight = module.weight
    packed = weight.dtype not in PLAIN or weight.shape != (module.out_features, module.in_features)
    if type(module).forward is nn.Linear.forward or packed:  # peft has layers of its own for packed weights
        return True
    x_2D = torch.linspace(-1, 1, 2 * module.in_features, dtype=weight.dtype, device=weight.device).view(2, -1)
    wanted = nn.functional.linear(x_2D, weight, module.bias)
    try:
        found = module(x_2D)
    except REFUSALS:  # it takes no plain rows
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= 0.02 * wanted.abs().max())


def _refuse_on(tuned: Any, odd: dict[str, nn.Linear], lora: LoraSettings) -> None:
    """Raise :class:`ModelError`, the model being plain again, where a target that was named takes no adapter."""
    adapted = {id(m.get_base_layer()) for m in tuned.modules() if isinstance(m, BaseTunerLayer)}
    wrong = [name for name, module in odd.items() if id(module) in adapted]
    if wrong:
        kind = type(odd[wrong[0]]).__name__
        tuned.unload()
        raise ModelError(
            asked=f"a LoRA adapter on {lora.targets!r}",
            found=f"{len(wrong)} modules, {wrong[0]} ({kind}) for one, that give something else than W x + b",
            todo=f"name other modules under {PLACE}, or '{ALL}', which leaves these out",
        )


def _advice(error: str) -> str:
    if "lora_dropout" in error:
        return "set dropout of the lora settings to 0"
    if "Mamba" in error:
        return f"list the linear modules to tune under {PLACE}, without those that it names"
    return f"name modules that the model has under {PLACE}, or '{ALL}'"
