"""What a provenance says of two scores: where their model, or the way it was read, differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def is_gguf(model: str | Path) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return str(model).lower().endswith(".gguf")


def told_apart(
    one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str], sides: tuple[str, str]
) -> list[str]:
    """What of these facts differs between two scores, in words, where both tell it; a model or adapter by another name or
    revision with the same weights is the same.
    """
    weights = {"model": "weights", "revision": "weights", "adapter": "adapter_weights"}
    alike = {name for name, of in weights.items() if one.get(of) is not None and one.get(of) == other.get(of)}
    return [
        f"{name.replace('_', ' ')} {_short(one[name])} {sides[0]}, {_short(other[name])} {sides[1]}"
        for name in names
        if name in one and name in other and one[name] != other[name] and name not in alike
    ]


def _short(value: object) -> str:
    return ", ".join(map(str, filter(None, value.values()))) if isinstance(value, dict) else str(value or "none")
