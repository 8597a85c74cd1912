"""Loading a causal language model: hub id, local folder or GGUF file, with or without an adapter."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.hub import resolve_revision

from calibrant.errors import ConfigError, ModelError, one_line, only
from calibrant.prompts import PromptStyle
from calibrant.provenance import is_gguf
from calibrant.scoring.fingerprints import fingerprint, fingerprints
from calibrant.scoring.precision import keep_layout, nf4, pick_device, pick_dtype, precision
from calibrant.scoring.refusals import (
    refuse_further_layers,
    refuse_hidden_adapter,
    refuse_missing_weights,
    refuse_no_adapter,
    refuse_other_kinds,
    refuse_pickled_adapter,
    refuse_virtual_tokens,
    whole_adapter,
)
from calibrant.scoring.templates import template_digest

LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, HFValidationError)

NAMED = "give its hub id, folder or GGUF file; score and tune also take the LoadedModel that load_model returns"


@dataclass
class LoadedModel:
    """A model in evaluation mode with its tokenizer and the facts that name it (for provenance)."""

    model: Any
    tokenizer: Any
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def context_length(self) -> int | None:
        """Longest input in tokens, where the model's configuration says."""
        config = self.model.config.get_text_config()
        length = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(length) if length else None


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    adapter_revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    quantize_4bit: bool = False,
    chat_template: str | Path | None = None,
) -> LoadedModel:
    """Load a causal language model for scoring or tuning.

    Parameters
    ----------
    name : hub id (``owner/name``), local folder, or GGUF file (local, or ``owner/name/file.gguf`` on the hub; its weights
        are dequantised to plain ones, so they can be trained and saved).
    revision : branch, tag or commit on the hub.
    adapter : a peft adapter (folder or hub id) to put on the model.
    adapter_revision : its branch, tag or commit on the hub.
    dtype : ``"auto"`` (bfloat16 on a GPU that has it, float32 otherwise), ``"float32"``, ``"bfloat16"``, ``"float16"``.
        A CPU without instructions for bfloat16 (AVX-512 BF16, AMX) takes longer with it than with float32.
    device : ``"auto"`` (CUDA, then Apple's MPS, then CPU) or a torch device.
    trust_remote_code : run code that comes with the model. Off unless asked.
    allow_pickle : accept weights that are not safetensors, which can run code when loaded. Off unless asked.
    quantize_4bit : load in NF4 through bitsandbytes (needs the extra ``[quant]``; on CUDA or a CPU).
    chat_template : of another model, for one that is to be asked exactly as that is: a reference as the aligned model. Its hub
        id (``owner/name``, ``owner/name@revision``), folder or GGUF file, or a ``.jinja`` file. Default: the model's own.

    Raises
    ------
    ModelError : no such model, not a causal language model, unsafe weights, damaged files; an adapter in the model's own
        folder, or one that puts virtual tokens in front of the text. ConfigError : no name of a model.
    """
    only((str, os.PathLike), name, "a causal language model", NAMED)
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    source, gguf = _split_gguf(str(name))
    extra: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    commit = getattr(resolve_revision(source, revision), "resolved", None)  # one commit for all files of a hub's model
    common: dict[str, Any] = {"revision": commit or revision, "trust_remote_code": trust_remote_code, **extra}
    asked, given = f"the causal language model {str(name)!r}", str(name)
    weights: dict[str, Any] = {"dtype": kind}
    if gguf and quantize_4bit:
        raise ModelError(
            asked=f"{asked} quantised to 4 bits",
            found="a GGUF file, which is dequantised when it is read",
            todo="save it as a folder first (load_model, then model.save_pretrained and tokenizer.save_pretrained)",
        )
    if gguf:
        weights["quantization_config"] = GgufConfig(dequantize=True)
    else:
        weights["use_safetensors"] = None if allow_pickle else True
        if quantize_4bit:
            weights.update(nf4(kind, where))
    try:
        refuse_hidden_adapter(source, common["revision"], asked)
        if not gguf:
            refuse_other_kinds(source, common, asked)
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        if chat_template is not None:
            tokenizer.chat_template = _template_of(chat_template, trust_remote_code)
        model, told = AutoModelForCausalLM.from_pretrained(source, **common, **weights, output_loading_info=True)
        refuse_missing_weights(told["missing_keys"], asked)
        facts = {
            "model": str(name),
            "revision": commit or revision,
            "weights": fingerprint(Path(name)) if Path(name).exists() else None,
            "adapter": None if adapter is None else str(adapter),
            "adapter_revision": None,
            "adapter_weights": None,
            "dtype": str(kind).removeprefix("torch."),
            "device": where.type,
            **({"quantized": "nf4"} if quantize_4bit else {}),
        }
        if adapter is not None:
            asked, given = f"the adapter {str(adapter)!r} on {str(name)!r}", str(adapter)
            folder, facts["adapter_revision"] = _adapter_folder(str(adapter), adapter_revision)
            model = _adapted(model, folder, asked, allow_pickle)
            facts["adapter_weights"] = fingerprint(folder)
    except LOADING_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(asked=asked, found=one_line(error), todo=_advice(error, given)) from error
    if quantize_4bit:
        keep_layout(model)
    else:
        model = model.to(where)
    return LoadedModel(model.eval(), tokenizer, facts)


def chat_template_facts(
    model: str | Path | LoadedModel,
    formats: Iterable[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template: str | Path | None = None,
    **loading: Any,
) -> dict[str, str | None]:
    """``{"chat_template": digest}`` for the identity of a run, where it asks in a chat format; else nothing.

    The digest is that of :func:`calibrant.scoring.templates.template_digest`; of a model that is not loaded the tokenizer
    alone is.

    Parameters
    ----------
    model : as for :func:`load_model`, or loaded already.
    formats : of :class:`calibrant.PromptStyle`: all that the run asks in.
    loading : arguments of :func:`load_model`; those that the tokenizer does not depend on make no difference.

    Raises
    ------
    ModelError : no such model, or no tokenizer in it.
    """
    if not any(name.startswith("chat") for name in formats):
        return {}
    if isinstance(model, LoadedModel):
        return {"chat_template": template_digest(model.tokenizer)}
    tokenizer = _tokenizer_of(model, revision, trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = _template_of(chat_template, trust_remote_code)
    return {"chat_template": template_digest(tokenizer)}


def run_identity(
    model: str | Path,
    style: PromptStyle,
    loading: Mapping[str, Any],
    *,
    formats: Iterable[str] = (),
    scored: Mapping[str, Any] | None = None,
    **further: str | Path | None,
) -> dict[str, Any]:
    """What tells a run of a model from another, whatever it is for: the beginning of its ``run.json``.

    Parameters
    ----------
    model, style : what is asked, and how; ``formats`` are further ones that it is asked in.
    loading : arguments of :func:`load_model` as they were given; ``scored`` those of scoring where they are others.
    further : other models of the run, by name.
    """
    return {
        **chat_template_facts(model, [style.format, *formats], **loading),
        **{name: None if at is None else str(at) for name, at in further.items()},
        "model": str(model),
        "weights": fingerprints(model=model, adapter=loading.get("adapter"), **further),
        "loading": {name: str(value) for name, value in loading.items()},
        **precision(loading if scored is None else scored),
        "prompt": asdict(style),
        "prompt_digest": style.digest,
    }


def _tokenizer_of(model: str | Path, revision: str | None, trust_remote_code: bool) -> Any:
    source, gguf = _split_gguf(str(model))
    extra: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code, **extra)
    except LOADING_ERRORS as error:
        asked = f"the tokenizer of {str(model)!r}"
        raise ModelError(asked=asked, found=one_line(error), todo=_advice(error, str(model))) from error


def _template_of(source: str | Path, trust_remote_code: bool) -> Any:
    """A chat template from a ``.jinja`` file, or of a model."""
    if Path(source).suffix == ".jinja":
        try:
            return Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                asked=f"the chat template {str(source)!r}", found=str(error), todo="give a text file, or a model"
            ) from error
    name, _, revision = str(source).partition("@") if not Path(source).exists() else (str(source), "", "")
    template = getattr(_tokenizer_of(name, revision or None, trust_remote_code), "chat_template", None)
    if not template:
        raise ModelError(
            asked=f"the chat template of {str(source)!r}",
            found="its tokenizer has none",
            todo="name a model with one, or a .jinja file; or ask in --format raw",
        )
    return template


def beside(aligned: str | Path, style: PromptStyle, loading: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`load_model` for a model that is to be asked as the aligned one is: under its chat template, where the
    prompt has one, and not at its revision.
    """
    own = {name: value for name, value in loading.items() if name != "revision"}
    if not style.format.startswith("chat") or own.get("chat_template") is not None:
        return own
    revision = loading.get("revision")
    return own | {"chat_template": f"{aligned}@{revision}" if revision else str(aligned)}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """While active, peft may ask transformers by a name that it is going to retire, and find out that layers are transposed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings(
            "ignore", message="fan_in_fan_out is set to False", category=UserWarning
        )  # GPT-2's; it sets it
        yield


def refuse_loading(model: LoadedModel, arguments: dict[str, Any]) -> None:
    """Raise :class:`ConfigError` when a model that is already loaded is handed arguments of :func:`load_model`, and
    :class:`ModelError` where a tuning of all its weights broke off: they are neither the old ones nor the tuned ones.
    """
    if "unfinished" in model.facts:
        raise ModelError(
            asked=f"{model.facts['model']!r}, loaded and being tuned in {model.facts['unfinished']}",
            found="that broke off, and the weights in memory are neither the untuned nor the tuned ones",
            todo="load the model again; the tuning goes on from its last whole checkpoint",
        )
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ConfigError(
            asked=f"{', '.join(given)} for {model.facts['model']!r}",
            found="the model is loaded already",
            todo="give them to load_model, or give the model's name instead of the loaded model",
        )


def only_by_name(model: object, asked: str) -> None:
    """Raise :class:`ConfigError` where a model that is loaded more than once is given as anything but its name."""
    todo = "give its hub id, folder or GGUF file: the model is loaded more than once"
    only((str, os.PathLike), model, asked, todo)


def _split_gguf(name: str) -> tuple[str, str | None]:
    if not is_gguf(name):
        return name, None
    path = Path(name)
    if path.is_file():
        return str(path.parent), path.name
    parts = name.split("/")
    if len(parts) < 3 or Path(parts[0]).is_absolute() or name.startswith((".", "/", "~")):
        raise ModelError(
            asked=f"the GGUF file {name!r}",
            found="no such file",
            todo="give a local file, or owner/name/file.gguf for one on the hub",
        )
    return "/".join(parts[:2]), "/".join(parts[2:])


def _adapter_folder(adapter: str, revision: str | None) -> tuple[Path, str | None]:
    """A local folder with the adapter's files, and the commit they are of where they come from the hub."""
    if Path(adapter).exists():
        return Path(adapter), None
    folder = Path(
        snapshot_download(adapter, revision=revision, allow_patterns=["adapter_config.json", "adapter_model*"])
    )
    return folder, folder.name


def _adapted(model: Any, folder: Path, asked: str, allow_pickle: bool) -> Any:
    from peft import PeftModel

    refuse_no_adapter(folder, asked)
    refuse_pickled_adapter(folder, asked, allow_pickle)
    with quiet_peft(), whole_adapter(asked):
        adapted = PeftModel.from_pretrained(model, str(folder))
    refuse_further_layers(adapted, folder, asked)
    refuse_virtual_tokens(adapted, asked)
    return adapted


def _has_pickles(path: Path) -> bool:
    """Whether a local folder holds weights as pickles; of a model on the hub it may be so."""
    return not path.is_dir() or any(path.glob("*.bin"))


def _advice(error: BaseException, name: str) -> str:
    text = str(error)
    signs = ("use_safetensors", "does not appear to have a file named", "no file named model.safetensors")
    if "safetensors" in text and any(sign in text for sign in signs) and _has_pickles(Path(name)):
        return "ask for its safetensors weights, or, if you trust the source, pass allow_pickle / --allow-pickle"
    if "trust_remote_code" in text:
        return "if you trust the model's own code, pass trust_remote_code / --trust-remote-code"
    if any(sign in text for sign in ("gated repo", "Access to model", "401 Client Error", "403 Client Error")):
        return "accept its conditions on the hub, log in with `hf auth login` or set HF_TOKEN, then run again"
    if Path(name).exists():
        return "check that the folder holds config.json, a tokenizer and safetensors weights, all whole"
    if name.startswith(("/", "./", "../", "~")):
        return "name a folder that is there, a GGUF file, or a hub id such as owner/name"
    offline = " (HF_HUB_OFFLINE is set: only what was downloaded before is found)" if constants.HF_HUB_OFFLINE else ""
    return f"check the name and the connection to the hub{offline}, or give a local folder or a GGUF file"
