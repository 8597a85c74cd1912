"""The rows of a table of probabilities, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from calibrant.errors import QuestionError, ScoresError
from calibrant.importing.lists import Rows
from calibrant.questions import did_you_mean
from calibrant.sources.frames import columns_of, is_frame, plain_values
from calibrant.sources.readers import SUFFIXES, is_of_system, is_pipe, read_file


def rows_of(table: Any) -> tuple[str, Rows]:
    """Name of a table that :func:`calibrant.importing.import_table` takes, and its rows with where they stand; at least one.

    Raises
    ------
    ScoresError : no table, no such file, columns of several lengths, or no rows.
    """
    if isinstance(table, (str, Path)):
        name, rows = Path(table).name, _file_rows(Path(table))
    elif isinstance(table, Mapping):
        name, rows = "a mapping", _column_rows(table)
    elif is_frame(table):
        try:
            name, rows = "a data frame", _column_rows(columns_of(table))
        except QuestionError as error:
            raise ScoresError(asked=error.asked, found=error.found, todo=error.todo) from error
    else:
        name, rows = "a list", _list_rows(table)
    if not rows:
        raise ScoresError(asked=f"scores from {name}", found="no rows", todo="give at least one question")
    return name, rows


def _list_rows(table: Any) -> Rows:
    rows = list(table) if isinstance(table, Iterable) else [table]
    if wrong := [row for row in rows if not isinstance(row, Mapping)]:
        raise ScoresError(
            asked="scores from a table",
            found=f"{type(wrong[0]).__name__} {str(wrong[0])[:60]!r}",
            todo="give a file, a data frame, a mapping of column names to values, or a list of mappings, one a question",
        )
    return [(f"row {i}", {str(name): value for name, value in row.items()}) for i, row in enumerate(rows, 1)]


def _column_rows(table: Mapping[Any, Any]) -> Rows:
    single = [str(name) for name, values in table.items() if isinstance(values, str) or not hasattr(values, "__len__")]
    lengths = {name: len(values) for name, values in table.items() if str(name) not in single}
    if single or len(set(lengths.values())) != 1:
        raise ScoresError(
            asked="columns of one length",
            found=", ".join(
                [f"{n} in {name}" for name, n in lengths.items()] + [f"no list in {name}" for name in single]
            )
            or "no columns",
            todo="give one value a question in every column",
        )
    plain = {name: plain_values(values) for name, values in table.items()}
    return [
        (f"row {i}", dict(zip(plain, row, strict=True))) for i, row in enumerate(zip(*plain.values(), strict=True), 1)
    ]


def _file_rows(path: Path) -> Rows:
    asked = f"scores from {path}"
    if path.is_dir():
        raise ScoresError(asked=asked, found="a folder", todo="name the file in it")
    if is_pipe(path):
        raise ScoresError(asked=asked, found="a pipe or device", todo="save its content to a file, and give that")
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() and not is_of_system(path) else []
        raise ScoresError(
            asked=asked,
            found=f"no such file{did_you_mean(path.name, near)}",
            todo=f"give a table, one of {', '.join(SUFFIXES)}",
        )
    rows = []
    try:
        for where, row in read_file(path):
            if isinstance(row, QuestionError):
                raise QuestionError(asked=row.asked, found=f"{row.found} in {where}", todo=row.todo)
            rows.append((where, row))
    except QuestionError as error:
        raise ScoresError(asked=asked, found=error.found, todo=error.todo) from error
    return rows
