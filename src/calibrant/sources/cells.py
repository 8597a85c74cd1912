"""What a cell of a text table stands for, where every cell is text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

LONGEST = 1000  # characters of a number; Python reads no longer whole ones than 4,300
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def blank(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def typed(cells: Sequence[Any]) -> list[Any]:
    """A column's cells as JSON would hold them: blank ones ``None``, numbers where each of the others is one and no two that
    differ, such as sections 1.1 and 1.10, would become the same.

    >>> typed(["3", "", "4.5"]), typed(["3", "007"]), typed(["a", " "]), typed(["1.1", "1.10"])
    ([3, None, 4.5], ['3', '007'], ['a', None], ['1.1', '1.10'])
    """
    found = [None if blank(cell) else cell for cell in cells]
    known = [cell for cell in found if cell is not None]
    if not all(isinstance(cell, str) and len(cell) < LONGEST and NUMBER.fullmatch(cell.strip()) for cell in known):
        return found
    numbers = [
        None if cell is None else (int(cell) if cell.strip().lstrip("-").isdigit() else float(cell)) for cell in found
    ]
    if len({cell.strip() for cell in known}) > len(set(numbers) - {None}):
        return found
    return found if any(isinstance(x, float) and math.isinf(x) for x in numbers) else numbers  # 1e999: JSON has no such
