"""Where a model is computed and in which precision: devices, dtypes, four bits."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import torch

from calibrant.errors import MissingExtraError, ModelError, one_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str) -> torch.device:
    """``"auto"``: CUDA (of several processes, each its own GPU), then Apple's MPS, then the CPU."""
    if device != "auto":
        try:
            where = torch.device(device)
            torch.empty(0, device=where)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ModelError(
                asked=f"device {device!r}", found=one_line(error), todo="use auto, cpu, cuda or mps"
            ) from error
        return where
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``"auto"``: bfloat16 on a CUDA device that has it, float32 otherwise."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if dtype not in DTYPES:
        raise ModelError(
            asked=f"dtype {dtype!r}", found=f"known are auto, {', '.join(DTYPES)}", todo="choose one of these"
        )
    return DTYPES[dtype]


def precision(loading: Mapping[str, Any]) -> dict[str, str | None]:
    """What a model is computed in where it is loaded with these arguments on this machine."""
    kind = pick_dtype(loading.get("dtype") or "auto", pick_device(loading.get("device") or "auto"))
    return {
        "dtype": str(kind).removeprefix("torch."),
        "quantized": "nf4" if loading.get("quantize_4bit") else None,
    }


def stored_dtypes(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The precision of each parameter and buffer of floating point in a copy in ``dtype``, by name: transformers keeps some in
    float32 whatever is asked for, such as the biases that choose a mixture's experts.
    """
    return {
        name: torch.float32 if any(part in name for part in model._get_dtype_plan(dtype)) else dtype
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point()
    }


def nf4(kind: torch.dtype, where: torch.device) -> dict[str, Any]:
    """Arguments of transformers' loading for weights in 4 bits; an error where they cannot be had."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            asked="a model quantised to 4 bits",
            found="bitsandbytes is not installed",
            todo="pip install 'bitsandbytes>=0.49'",
        )
    if where.type not in ("cuda", "cpu"):
        raise ModelError(
            asked="a model quantised to 4 bits",
            found=f"the device is {where.type}",
            todo="use a CUDA GPU or the CPU, or leave it off",
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind
    )
    return {"quantization_config": config, "device_map": {"": where}}


def keep_layout(model: Any) -> None:
    """Keep a model's 4-bit weights in the layout in which they were quantised.

    At the first forward without a gradient on a CPU with AVX-512 BF16, bitsandbytes packs them for a kernel that rounds the
    scales of blocks to bfloat16 (.02 off in a probability of SmolLM2), takes no layer but in multiples of 32 × 64, and gives
    no gradient. The other way computes with the very weights that dequantising gives, on any device.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
