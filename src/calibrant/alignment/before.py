"""The aligned model's side of a check that was made before, for another tuned model. No torch. Shape suffixes: P pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.alignment.preferences import PairLogps
from calibrant.errors import ConfigError
from calibrant.files import RUN_FILE, read_json, read_lines

GENERATION = ("max_new_tokens", "temperature", "seed")
SAME = ("model", "chat_template", "loading", "dtype", "quantized", "preferences", "prompts", *GENERATION)
"""What the aligned model's side of a check depends on, beside the fingerprint of its weights."""


@dataclass(frozen=True)
class AlignedSide:
    """Log-probabilities and answers of the aligned model in the ``folder`` of a check."""

    folder: Path

    @classmethod
    def of(cls, folder: str | Path, wanted: Mapping[str, Any]) -> AlignedSide:
        """Of a check whose ``run.json`` agrees with the ``wanted`` identity in all that the aligned model's side depends on.

        Raises
        ------
        ConfigError : no check there, or one of another model, of other pairs or prompts, or with other settings.
        """
        folder = Path(folder)
        there = read_json(folder / RUN_FILE)
        wanted = json.loads(json.dumps(wanted))
        differs = [name for name in SAME if name not in there or there[name] != wanted[name]]
        weights = [run["weights"].get("model") for run in (there, wanted) if "weights" in run]
        if weights[:1] != weights[1:]:
            differs.append("weights")
        if differs:
            raise ConfigError(
                asked=f"the aligned model's side of the check in {folder}",
                found=f"it is of another check, with a different {', '.join(differs)}",
                todo="name a check of the same aligned model with the same pairs, prompts and settings, or none",
            )
        return cls(folder)

    def logp(self, ids: Sequence[str]) -> np.ndarray | None:
        """``logp_P2`` of these very pairs; ``None`` where other pairs, or none, were kept there."""
        path = self.folder / "preferences.jsonl"
        known = PairLogps.load(path) if path.exists() else None
        return known.logp_P2["aligned"] if known is not None and known.ids == tuple(ids) else None

    def answers(self, name: str, ids: Sequence[str]) -> list[Any] | None:
        """The answers of ``NAME.jsonl`` to these very prompts; ``None`` where other prompts, or none, were kept there."""
        path = self.folder / f"{name}.jsonl"
        rows = read_lines(path) if path.exists() else []
        same = [row["id"] for row in rows] == list(ids) and all("aligned" in row for row in rows)
        return [row["aligned"] for row in rows] if same else None
