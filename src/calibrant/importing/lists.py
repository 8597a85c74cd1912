"""A column that holds the probabilities of all options of a question, as one column an option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from calibrant.errors import ScoresError
from calibrant.questions import did_you_mean
from calibrant.sources import missing
from calibrant.sources.cells import blank

Rows = list[tuple[str, Mapping[str, Any]]]
NAME = re.compile(r"p|probs?|probabilit(y|ies)|logps?|(top_)?logprobs?", re.IGNORECASE)
TOP = re.compile("top_", re.IGNORECASE)
"""A list of that name is one of an API's candidates, not of options."""


def names_of(rows: Rows) -> list[str]:
    """Names of all columns, in the order of their first use."""
    return list(dict.fromkeys(str(name) for _, row in rows for name in row))


def list_column(rows: Rows) -> str | None:
    """The one column that, by its name and its first cell that is not blank, holds lists, else mappings; ``None`` without."""
    named = filter(NAME.fullmatch, names_of(rows))
    first = {name: next((row[name] for _, row in rows if not blank(row.get(name))), None) for name in named}
    mappings = [name for name, cell in first.items() if isinstance(cell, Mapping)]
    lists = [name for name, cell in first.items() if name not in mappings and not TOP.match(name) and _items(cell)]
    found = lists or mappings
    return found[0] if len(found) == 1 else None


def spread(rows: Rows, column: str, asked: str) -> tuple[Rows, list[str]]:
    """Rows with a column ``column[i]`` an option instead of the one of lists, and the names of these columns.

    >>> rows, names = spread([("row 1", {"probs": [0.7, 0.3], "answer": 0})], "probs", "scores")
    >>> names, rows[0][1]
    (['probs[0]', 'probs[1]'], {'answer': 0, 'probs[0]': 0.7, 'probs[1]': 0.3})
    >>> spread([("row 1", {"probs": {"B": 0.3, "A": 0.7}})], "probs", "scores")[0]
    [('row 1', {'probs[0]': 0.7, 'probs[1]': 0.3})]

    Raises
    ------
    ScoresError : no such column, or a cell in it that is neither a list nor a mapping of all letters from A on.
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
                todo="write a list, [0.7, 0.3], a mapping of the options' letters, {'A': 0.7, 'B': 0.3}, with all from A on, "
                "or name one column an option",
            )
    lists = [items or [] for items in cells]
    names = [f"{column}[{place}]" for place in range(max(map(len, lists)))]
    out: Rows = [
        (where, {name: value for name, value in row.items() if name != column} | dict(zip(names, items, strict=False)))
        for (where, row), items in zip(rows, lists, strict=True)
    ]
    return out, names


def _items(cell: Any) -> list[Any] | None:
    """The items of a list, of an array, or of the text of one, or of a mapping of letters in their order, ``None`` where one
    is nan or left out; none of a blank cell, ``None`` for what is none of these.
    """
    if blank(cell) or missing(cell):
        return []
    if isinstance(cell, Mapping):
        by_letter = {str(letter).strip().upper(): value for letter, value in cell.items()}
        letters = ascii_uppercase[: len(cell)]
        cell = [by_letter[letter] for letter in letters] if by_letter.keys() == set(letters) else None
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
