"""Between the base model and the aligned one: interpolated weights, or an alignment adapter at part of its strength.

Training-free fixes that change the model, so it is scored again. Nothing is loaded into a model: weights go from file to file,
one tensor at a time.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from calibrant.errors import ConfigError, ModelError, OutputError, one_line, only_numbers
from calibrant.files import write_json
from calibrant.scoring.fingerprints import fingerprint

NOTE, TEMPLATES = "calibrant.json", "additional_chat_templates"
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py"]
OTHERS = ["consolidated*"]  # the same weights again, in a format of their maker
BOOKKEEPING = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "task_specific_params", "problem_type", "id2label", "label2id"),
    *("max_position_embeddings", "max_window_layers", "sliding_window"),
    *("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop", "initializer_range"),
    *("unsloth_version", "unsloth_fixed"),
}
"""Entries of a configuration in which base and aligned may differ: names, lengths, which are the aligned model's, and
what matters in training alone."""
TOO_MUCH = ("use_dora", "trainable_token_indices", "layer_replication")
"""Settings of an adapter that no factor on its matrices leads to the base model."""
LORA_PART = re.compile(r"\.lora_(embedding_)?[AB](\.|$)")


def interpolate(
    base: str | Path, aligned: str | Path, alpha: float, out: str | Path, *, revision: str | None = None
) -> Path:
    """Write the model with weights ``(1 - α) base + α aligned`` to a new folder; returns it.

    0 is the base model, 1 the aligned one; between them calibration and what alignment taught are traded, and often one α
    is better than both ends (Hu et al., arXiv 2510.17426). α is a setting to be chosen on calibration questions, like any
    other. Computed in float32 (float64 where weights are), stored in the aligned model's dtype and files; its
    configuration, tokenizer and chat template are copied. Tied weights stay tied. Called again with the same arguments it
    returns the finished folder.

    Parameters
    ----------
    base, aligned : local folder or hub id, with safetensors weights, of one architecture and vocabulary.
    alpha : α in [0, 1].
    out : folder to make. It is made whole or not at all.
    revision : branch, tag or commit of the aligned model on the hub.

    Raises
    ------
    ConfigError : α outside [0, 1], or ``out`` holds something else.
    ModelError : a model without safetensors weights, quantised, damaged, or unlike the other.
    OutputError : no space or permission.
    """
    only_numbers(alpha=alpha)
    if not 0 <= alpha <= 1:
        raise ConfigError(
            asked=f"weights at α = {alpha}", found="outside [0, 1]", todo="0 is the base, 1 the aligned model"
        )
    folders = {"base": _folder(base), "aligned": _folder(aligned, revision)}
    note = {"kind": "interpolation", "base": str(base), "aligned": str(aligned), "alpha": float(alpha)}
    note |= {} if revision is None else {"revision": revision}
    note |= {f"{name}_weights": fingerprint(folder) for name, folder in folders.items()}

    def write(place: Path) -> None:
        _refuse_other_configuration(folders["base"], folders["aligned"])
        with ExitStack() as stack:
            files = {name: _Weights(folder, stack) for name, folder in folders.items()}
            pairs = _pairs(files["base"], files["aligned"])
            for path in files["aligned"].paths:
                with (place / path.name).open("wb") as target:
                    _write_file(path, target, files, pairs, alpha)
        _copy_others(folders["aligned"], place)

    return _made(Path(out), note, f"weights between {base} and {aligned}", write)


def scale_adapter(adapter: str | Path, factor: float, out: str | Path) -> Path:
    """Write a LoRA adapter whose change of the weights is ``factor`` times the given one's; returns its folder.

    With ``W + (alpha / r) B A`` (LoRA: Hu et al. 2021) the aligned model, alpha is multiplied, in ``alpha_pattern`` too: the
    weights are copied as they are. Where an alignment is an adapter this is :func:`interpolate` at α = factor, exactly: 0 is
    the base model, 1 the aligned one. Called again with the same arguments it returns the finished folder.

    Parameters
    ----------
    adapter : local folder of a peft LoRA adapter.
    factor : 0 or more; above 1 the alignment is exaggerated.
    out : folder to make. It is made whole or not at all.

    Raises
    ------
    ConfigError : a negative factor, or ``out`` holds something else.
    ModelError : no LoRA adapter, or one that holds more than LoRA matrices (DoRA, ``modules_to_save``, biases, an
        initialisation that changed the base weights): no factor leads from it to the base model.
    OutputError : no space or permission.
    """
    only_numbers(factor=factor)
    source, asked = Path(adapter), f"the adapter {str(adapter)!r} scaled by {factor:g}"
    if not 0 <= factor < float("inf"):
        raise ConfigError(
            asked=asked, found="a factor below 0 or infinite", todo="give 0 (base) to 1 (as it is), or more"
        )
    config = _adapter_config(source, asked)
    note = {"kind": "scaled adapter", "adapter": str(adapter), "factor": float(factor)}
    note["adapter_weights"] = fingerprint(source)

    def write(place: Path) -> None:
        scaled = {**config, "lora_alpha": config["lora_alpha"] * factor}
        scaled["alpha_pattern"] = {name: a * factor for name, a in (config.get("alpha_pattern") or {}).items()}
        for path in source.iterdir():
            if path.is_file() and path.name not in {NOTE, "adapter_config.json", "adapter_model.bin"}:
                shutil.copyfile(path, place / path.name)
        write_json(place / "adapter_config.json", scaled)

    return _made(Path(out), note, asked, write)


class _Weights:
    """The tensors of a folder of safetensors files, read one at a time."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.paths = folder, weight_files(folder)
        self._place: dict[str, Any] = {}
        for path in self.paths:
            file = stack.enter_context(_readable(path))
            self._place |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> set[str]:
        return set(self._place)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._place[name].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._place[name].get_tensor(name)
        return tensor

    def twin(self, name: str) -> str | None:
        """Another tensor here with the very same values: what this one is tied to."""
        alike = [other for other in self.names - {name} if self.shape(other) == self.shape(name)]
        return next((other for other in sorted(alike) if torch.equal(self.read(other), self.read(name))), None)


def _pairs(base: _Weights, aligned: _Weights) -> dict[str, str]:
    """For each tensor of the aligned model the base's; one that only one of them stores must be tied to another."""
    asked = f"the weights of {base.folder} and {aligned.folder} together"
    pairs = {name: name for name in aligned.names & base.names}
    for name in aligned.names - base.names:
        twin = aligned.twin(name)
        if twin in base.names:
            pairs[name] = twin
    alone = sorted(aligned.names - set(pairs))
    alone += sorted(name for name in base.names - aligned.names if base.twin(name) not in aligned.names)
    if alone:
        raise _unlike(asked, f"{len(alone)} tensors that only one of them has, first {alone[0]!r}")
    wrong = sorted(name for name, other in pairs.items() if aligned.shape(name) != base.shape(other))
    if wrong:
        sizes = f"{list(base.shape(pairs[wrong[0]]))} and {list(aligned.shape(wrong[0]))}"
        raise _unlike(asked, f"{len(wrong)} tensors of another shape, first {wrong[0]!r}: {sizes}")
    return pairs


def _write_file(path: Path, target: BinaryIO, files: dict[str, _Weights], pairs: dict[str, str], alpha: float) -> None:
    """One file with the header of ``path`` (names, dtypes, shapes, places) and new values."""
    with path.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header = source.read(length)
    target.write(struct.pack("<Q", length) + header)
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        mixed = _mixed(files["base"].read(pairs[name]), files["aligned"].read(name), alpha, name)
        target.write(mixed.contiguous().flatten().view(torch.uint8).numpy().data)


def _mixed(base: torch.Tensor, aligned: torch.Tensor, alpha: float, name: str) -> torch.Tensor:
    if aligned.is_floating_point() and base.is_floating_point():
        wide = torch.float64 if torch.float64 in {base.dtype, aligned.dtype} else torch.float32
        return ((1 - alpha) * base.to(wide) + alpha * aligned.to(wide)).to(aligned.dtype)
    if not torch.equal(base, aligned):
        raise _unlike("weights interpolated", f"whole numbers that differ in {name!r}")
    return aligned


def _refuse_other_configuration(base: Path, aligned: Path) -> None:
    found = []
    for folder in (base, aligned):
        try:
            found.append(AutoConfig.from_pretrained(folder).to_dict())
        except (OSError, ValueError, KeyError) as error:
            text = one_line(error)
            raise ModelError(asked=f"the model in {folder}", found=text, todo="check its config.json") from error
    quantised = [config.get("quantization_config") for config in found]
    if any(quantised):
        raise ModelError(
            asked=f"the weights of {base} and {aligned} interpolated",
            found="quantised weights",
            todo="give the models as they were before they were quantised",
        )
    differ = sorted(
        name
        for name in set(found[0]) | set(found[1])
        if name not in BOOKKEEPING and found[0].get(name) != found[1].get(name)
    )
    if differ:
        raise _unlike(f"the models {base} and {aligned}", f"configurations that differ in {', '.join(differ)}")


def _adapter_config(source: Path, asked: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(asked=asked, found=str(error), todo="give the folder of a peft adapter") from error
    if not (source / "adapter_model.safetensors").is_file():
        raise ModelError(asked=asked, found="no adapter_model.safetensors", todo="save the adapter as safetensors")
    start = config.get("init_lora_weights", True)
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"a {config.get('peft_type')} adapter")
    faults += [f"{name} in its settings" for name in TOO_MUCH if config.get(name)]
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        faults.append(f"the initialisation {start!r}, which changed the base weights")
    with _readable(source / "adapter_model.safetensors") as file:
        other = [name for name in file.keys() if not LORA_PART.search(name)]  # noqa: SIM118 (not a dict)
    if other:
        faults.append(f"{len(other)} tensors that are not LoRA matrices, first {other[0]!r}")
    if faults:
        raise ModelError(
            asked=asked,
            found="; ".join(faults),
            todo="merge it (peft: merge_and_unload, save_pretrained) and use interpolate() with the base model",
        )
    return config


def _folder(name: str | Path, revision: str | None = None) -> Path:
    asked = f"the weights of {str(name)!r}"
    path = Path(name)
    if not path.exists():
        try:
            path = Path(snapshot_download(str(name), revision=revision, allow_patterns=FILES, ignore_patterns=OTHERS))
        except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise ModelError(
                asked=asked,
                found=one_line(error),
                todo="check the name and the connection to the hub, or give a local folder",
            ) from error
    if not path.is_dir() or not weight_files(path):
        raise ModelError(
            asked=asked,
            found="no folder with model.safetensors, or with all files that model.safetensors.index.json names",
            todo="save the model as safetensors",
        )
    return path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder, in order; none where one is missing. Others may lie beside
    them, in another format (``consolidated.safetensors``) or precision.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    paths = [
        folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    ]
    return paths if all(path.is_file() for path in paths) else []


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ModelError(asked=f"the weights in {path}", found=str(error), todo="get the file again") from error


def _copy_others(source: Path, place: Path) -> None:
    """Configuration, tokenizer, template and the index of the weights: every file that holds no weights."""
    for path in source.iterdir():
        if path.is_file() and path.suffix not in WEIGHTS and path.name != NOTE and not path.name.startswith("."):
            shutil.copyfile(path, place / path.name)
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, place / TEMPLATES)


def _made(out: Path, note: dict[str, Any], asked: str, write: Callable[[Path], None]) -> Path:
    """``out``, made whole by ``write`` under another name and then renamed, or finished earlier with the same note."""
    if out.exists():
        known = out / NOTE
        if known.is_file() and json.loads(known.read_text(encoding="utf-8")) == note:
            return out
        raise ConfigError(asked=f"{asked} in {out}", found="it holds something else", todo="choose a new folder")
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        write_json(partial / NOTE, note)
        partial.rename(out)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            asked=f"{asked} in {out}", found=str(error), todo="free space or choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _unlike(asked: str, found: str) -> ModelError:
    return ModelError(asked=asked, found=found, todo="give two models of one architecture and vocabulary")
