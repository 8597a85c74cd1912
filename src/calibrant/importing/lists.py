"""A column that holds the probabilities of all options of a question, as one column an option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calibrant.errors import ScoresError
from calibrant.questions import did_you_mean
from calibrant.sources import missing
from calibrant.sources.cells import blank

Rows = list[tuple[str, Mapping[str, Any]]]
NAME = re.compile(r"p|probs?|probabilit(y|ies)|logps?|logprobs?", re.IGNORECASE)


def names_of(rows: Rows) -> list[str]:
    """Names of all columns, in the order of their first use."""
    return list(dict.fromkeys(str(name) for _, row in rows for name in row))


def list_column(rows: Rows) -> str | None:
    """The one column that, by its name and its first cell that is not blank, holds lists; ``None`` without one."""
    named = filter(NAME.fullmatch, names_of(rows))
    first = {name: next((row[name] for _, row in rows if not blank(row.get(name))), None) for name in named}
    found = [name for name, cell in first.items() if _items(cell)]
    return found[0] if len(found) == 1 else None


def spread(rows: Rows, column: str, asked: str) -> tuple[Rows, list[str]]:
    """Rows with a column ``column[i]`` an option instead of the one of lists, and the names of these columns.

    >>> rows, names = spread([("row 1", {"probs": [0.7, 0.3], "answer": 0})], "probs", "scores")
    >>> names, rows[0][1]
    (['probs[0]', 'probs[1]'], {'answer': 0, 'probs[0]': 0.7, 'probs[1]': 0.3})

    Raises
    ------
    ScoresError : no such column, or a cell in it that is not a list.
    """
    columns = names_of(rows)
    if column not in columns:
        raise ScoresError(
            asked=f"{asked}: column {column!r} with the probabilities of a question's options",
            found=f"columns {', '.join(columns)}{did_you_mean(column, columns)}",
            todo="name a column that is there, or a list of columns, one an option",
        )
    cells = [_items(row.get(column)) for _, row in rows]
    for (where, row), items in zip(rows, cells, strict=True):
        if items is None:
            raise ScoresError(
                asked=f"{asked}: a list of probabilities in column {column!r}",
                found=f"{str(row.get(column))[:80]!r} in {where}",
                todo="write a list, [0.7, 0.3], or name one column an option",
            )
    lists = [items or [] for items in cells]
    names = [f"{column}[{place}]" for place in range(max(map(len, lists)))]
    out: Rows = [
        (where, {name: value for name, value in row.items() if name != column} | dict(zip(names, items, strict=False)))
        for (where, row), items in zip(rows, lists, strict=True)
    ]
    return out, names


def _items(cell: Any) -> list[Any] | None:
    """The items of a list, of an array, or of the text of one, ``None`` where one is nan or left out; none of a blank cell,
    ``None`` for what is not a list.
    """
    if blank(cell) or missing(cell):
        return []
    if isinstance(cell, str):
        inside = re.fullmatch(r"\s*(?:\[(.*)\]|\((.*)\))\s*", cell, re.DOTALL)
        if inside is None:
            return None
        text = (inside[1] or inside[2] or "").strip()
        cell = [item.strip() for item in text.split(",")] if "," in text else text.split()
    elif hasattr(cell, "tolist"):
        cell = cell.tolist()
    if not isinstance(cell, (list, tuple)):
        return None
    return [None if blank(item) or missing(item) or str(item).lower() == "nan" else item for item in cell]
