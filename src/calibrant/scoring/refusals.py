"""Models and adapters that would load and then be read wrongly, or run code: each refused in three parts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import find_adapter_config_file

from calibrant.errors import ModelError, one_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")


def refuse_other_kinds(source: str, common: dict[str, Any], asked: str) -> None:
    """Raise :class:`ModelError` for a model that predicts no next token, before its weights are loaded."""
    config = AutoConfig.from_pretrained(source, **common)
    if common["trust_remote_code"] or type(config) in AutoModelForCausalLM._model_mapping:
        declared = getattr(config, "architectures", None) or []
        if config.is_encoder_decoder:
            found = f"its kind is {config.model_type!r}, with an encoder that the question would never reach"
        elif not declared or any("CausalLM" in a or "LMHead" in a or "ConditionalGeneration" in a for a in declared):
            return
        else:
            found = f"its configuration declares {', '.join(declared)}"
    else:
        found = f"its kind is {config.model_type!r}, which predicts no next token"
    raise ModelError(asked=asked, found=found, todo="give a causal (decoder-only) language model")


def refuse_missing_weights(missing: Iterable[str], asked: str) -> None:
    """Raise :class:`ModelError` where the files lack some of the model's weights: they would be random numbers, others at each
    loading, and nothing would say so.
    """
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ModelError(
            asked=asked,
            found=f"its files hold no {', '.join(names[:3])}{more}, which would be random numbers",
            todo="give all of its weights, under the names that its configuration asks for (tie_word_embeddings may be wrong)",
        )


@contextmanager
def whole_adapter(asked: str) -> Iterator[None]:
    """While active, an adapter without weights for some layers of the model is a :class:`ModelError`: peft only warns that it
    has found none, and an adapter of another model would change nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            yield
        except UserWarning as warning:
            raise ModelError(
                asked=asked,
                found=one_line(warning),
                todo="give the adapter that was trained on this model; peft's version may differ from the one that saved it",
            ) from warning


def refuse_hidden_adapter(source: str, revision: str | None, asked: str) -> None:
    """Raise :class:`ModelError` where an adapter lies in the model's own folder or repository.

    transformers would put it on the model unsaid, and what is scored, tuned or exported would not be the model that the
    facts name.
    """
    if find_adapter_config_file(source, revision=revision) is None:
        return
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        todo = "give the model that the adapter is for, and this folder as --adapter"
    elif Path(source).is_dir():
        todo = "move the adapter to a folder of its own and name it with --adapter beside its model, or delete it"
    else:
        todo = "give the model that the adapter is for, and this name as --adapter"
    raise ModelError(
        asked=asked,
        found=f"an adapter lies in the same place ({ADAPTER_CONFIG}) and would be put on the model unsaid",
        todo=todo,
    )


def refuse_no_adapter(folder: Path, asked: str) -> None:
    """Raise :class:`ModelError` for a folder without an adapter's settings, such as that of a whole run."""
    if not (folder / ADAPTER_CONFIG).exists():
        raise ModelError(
            asked=asked,
            found=f"no {ADAPTER_CONFIG} in it",
            todo="give the folder that holds one: RUN/adapter of a tuning, RUN/tuning/adapter of a restore run",
        )


def refuse_further_layers(model: Any, folder: Path, asked: str) -> None:
    """Raise :class:`ModelError` for a LoRA adapter with weights for further layers, which peft leaves out unsaid."""
    if not (folder / ADAPTER_WEIGHTS).exists():
        return
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        stored = _last_layer(file.keys())
    own = _last_layer(name for name, _ in model.named_parameters())
    if stored is not None and own is not None and stored > own:
        raise ModelError(
            asked=asked,
            found=f"weights for layer {stored}, and on this model its last layer is {own} (counted from 0)",
            todo="give the adapter that was trained on this model",
        )


def _last_layer(names: Iterable[str]) -> int | None:
    found = [LAYER.search(name) for name in names if "lora_" in name]
    return max((int(match[1]) for match in found if match), default=None)


def refuse_pickled_adapter(folder: Path, asked: str, allow_pickle: bool) -> None:
    """Raise :class:`ModelError` for an adapter whose weights can run code when loaded, unless that was allowed."""
    pickled = (folder / "adapter_model.bin").exists() and not (folder / "adapter_model.safetensors").exists()
    if pickled and not allow_pickle:
        raise ModelError(
            asked=asked,
            found="its weights are in adapter_model.bin, which can run code when loaded",
            todo="ask for safetensors weights, or, if you trust the source, pass allow_pickle / --allow-pickle",
        )


def refuse_virtual_tokens(model: Any, asked: str) -> None:
    """Raise :class:`ModelError` for an adapter that puts virtual tokens in front of a text (prompt tuning, P-tuning).

    The hidden states then have more rows than the text has tokens, and every answer would be read that many rows too early.
    Prefix tuning adds keys and values alone, and no rows.
    """
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or config.peft_type == "PREFIX_TUNING":
        return
    raise ModelError(
        asked=asked,
        found=f"an adapter of kind {config.peft_type.value}, which puts virtual tokens in front of the text",
        todo="give an adapter that changes weights (LoRA, for one) or one of prefix tuning",
    )
