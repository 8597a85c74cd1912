"""``serving.json``: one manifest of an export, with a checksum of every file; and the export read back.

::

    DIR/serving.json        model, adapter, prompt, temperature, threshold, what to expect, drift, versions, checksums
    DIR/README.md           model card
    DIR/reader.py           reads option probabilities; stands alone
    DIR/*.safetensors, config.json, tokenizer …     the weights, or the adapter alone
    DIR/scaler.json, threshold.json                 where asked for
    DIR/check/{before,after}.safetensors            the scores behind the drift check
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import ModelError
from calibrant.files import write_json
from calibrant.prompts import PromptStyle
from calibrant.scalers import Temperature
from calibrant.scoring.models import LoadedModel, load_model
from calibrant.scoring.refusals import ADAPTER_CONFIG

MANIFEST, SCALER, THRESHOLD, READER, CARD = "serving.json", "scaler.json", "threshold.json", "reader.py", "README.md"
FORMAT, FORMAT_VERSION = "calibrant-export", 1
WEIGHTS = {".safetensors", ".bin"}
STYLE_FIELDS = ("reading", "format", "variant", "system")


@dataclass(frozen=True)
class Export:
    """A folder that :func:`~calibrant.exporting.export` wrote; ``facts`` is its manifest."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Export:
        """Read the manifest and check each file against it.

        Raises
        ------
        ModelError : no export, one of a newer format, a file that is missing or changed, or weights or an adapter beside them
            that are not of this export (a GGUF file made from it may be there: nothing loads that unasked).
        """
        folder = Path(folder)
        asked = f"the export in {folder}"
        try:
            facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                asked=asked, found=f"no readable {MANIFEST}", todo="make it with `calibrant export`"
            ) from error
        kind = facts.get("format") if isinstance(facts, dict) else None
        if kind != FORMAT or not 0 < facts.get("version", 0) <= FORMAT_VERSION:
            found = f"format {kind!r}, version {facts.get('version')!r}" if kind else f"another {MANIFEST}"
            todo = f"give an export of format version {FORMAT_VERSION} or older, or upgrade calibrant"
            raise ModelError(asked=asked, found=found, todo=todo)
        if verify and (faults := _faults(folder, facts)):
            raise ModelError(
                asked=asked,
                found="; ".join(faults[:5]),
                todo="delete what is not of it and fetch the other files again, or delete the folder and export again",
            )
        return cls(folder, facts)

    @property
    def style(self) -> PromptStyle:
        """How questions are put."""
        return PromptStyle(**{name: self.facts["prompt"][name] for name in STYLE_FIELDS})

    @property
    def scaler(self) -> Temperature | None:
        """The temperature shipped beside the weights or folded into them; ``None`` where there is none."""
        if self.facts["temperature"]["file"] is None:
            return None
        return Temperature.from_json(json.loads((self.folder / SCALER).read_text(encoding="utf-8")))

    @property
    def folded(self) -> bool:
        """Whether the weights hold the temperature already."""
        return bool(self.facts["temperature"]["folded"])

    def load(self, **loading: Any) -> LoadedModel:
        """The model for scoring, in the precision of the export unless ``dtype`` says otherwise."""
        base, adapter = self.facts["model"], self.facts["adapter"]
        loading = {"dtype": self.facts["dtype"], **loading}
        if adapter is None or adapter["merged"]:
            return load_model(self.folder, **loading)
        return load_model(base["name"], **{**loading, "revision": base["revision"]}, adapter=self.folder)


def is_export(path: str | Path) -> bool:
    """Whether a folder holds an export's manifest."""
    return (Path(path) / MANIFEST).is_file()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest, with size and SHA-256 of every file in the folder and a digest of itself."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: _file_facts(folder / name) for name in names if name != MANIFEST}
    whole = {"format": FORMAT, "version": FORMAT_VERSION, **facts, "files": files}
    write_json(folder / MANIFEST, {**whole, "sha256": _digest(whole)})


def _faults(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    faults = [] if facts.get("sha256") == _digest(facts) else [f"{MANIFEST} was changed"]
    for name, wanted in facts.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != wanted["bytes"] or _file_facts(path) != wanted:
            faults.append(f"{name} was changed")
    there = (path.name for path in sorted(folder.iterdir()) if path.name == ADAPTER_CONFIG or path.suffix in WEIGHTS)
    faults += [f"{name} is not of this export" for name in there if name not in facts.get("files", {})]
    return faults


def _file_facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(facts: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
