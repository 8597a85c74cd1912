"""What tells a model's weights from others in their place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

BLOCK, LARGEST_HEADER = 1 << 16, 100_000_000


def fingerprint(path: Path) -> str:
    """First 16 hex digits of sha256 over a model's weight files: what tells weights from others in their place, in seconds.

    Of each file it sees the name, the size, 64 evenly spaced blocks of 64 KiB, and of a safetensors file the header and every
    tensor of at most 64 KiB whole: normalisations, biases, a temperature folded into one of them. It does not see a change
    that lies inside larger tensors between the blocks alone (in a file above 4 MiB), such as a single edited row; training,
    merging and quantisation change nearly all of a tensor and are seen. Configuration and tokenizer are not part of it.
    """
    files = (
        [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in {".safetensors", ".bin", ".gguf"})
    )
    digest, blocks = hashlib.sha256(), 64
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            spans = _header_and_small_tensors(stream, size) if file.suffix == ".safetensors" else []
            for start, length in [*((max(0, size - BLOCK) * i // (blocks - 1), BLOCK) for i in range(blocks)), *spans]:
                stream.seek(start)
                digest.update(stream.read(length))
    return digest.hexdigest()[:16]


def _header_and_small_tensors(stream: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Start and length of a safetensors file's header and of its tensors of at most 64 KiB; nothing of a damaged file.

    The file is a length of 8 bytes, so many bytes of JSON, and the tensors, at offsets from the end of the header.
    """
    header = int.from_bytes(stream.read(8), "little")
    if not 0 < header <= min(size - 8, LARGEST_HEADER):
        return []
    try:
        tensors = json.loads(stream.read(header))
        places = sorted(tuple(facts["data_offsets"]) for name, facts in tensors.items() if name != "__metadata__")
        small = [(8 + header + start, end - start) for start, end in places if 0 < end - start <= BLOCK]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
    return [(8, header), *small]


def fingerprints(**places: str | Path | None) -> dict[str, str]:
    """:func:`fingerprint` of those that are local, by name: what tells a model from another that took its place."""
    return {name: fingerprint(Path(at)) for name, at in places.items() if at is not None and Path(at).exists()}
