"""Tables in memory: data frames of pandas, polars or pyarrow, and mappings of splits; none of them is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calibrant.errors import QuestionError


def is_frame(table: Any) -> bool:
    """Whether it is a data frame of pandas, polars or pyarrow."""
    return hasattr(table, "columns") and hasattr(table, "__getitem__") and not isinstance(table, Mapping)


def columns_of(frame: Any) -> dict[str, list[Any]]:
    """The columns of a data frame by name; those of pandas' index that have a name stand before them.

    Raises
    ------
    QuestionError : two columns of one name.
    """
    names = list(getattr(frame, "column_names", frame.columns))
    index: Any = getattr(frame, "index", None)
    levels = [name for name in getattr(index, "names", ()) if name is not None and name not in names]
    texts = [str(name) for name in (*levels, *names)]
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise QuestionError(
            asked="columns of a data frame, each once", found=f"{twice[0]!r} twice", todo="rename one of the columns"
        )
    parts = [*(index.get_level_values(name) for name in levels), *(frame[name] for name in names)]
    return dict(zip(texts, map(plain_values, parts), strict=True))


def rows_of_frame(frame: Any) -> Iterator[dict[str, Any]]:
    """The rows of a data frame as mappings."""
    columns = columns_of(frame)
    return (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def plain_values(column: Any) -> list[Any]:
    """A column of numpy, pandas, polars or pyarrow, or any other, as plain values."""
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def splits_of(source: Mapping[Any, Any]) -> list[str]:
    """The names of the splits of a mapping of data sets such as a ``datasets.DatasetDict``; none of any other mapping."""
    return list(source) if all(_is_data_set(part) for part in source.values()) else []


def _is_data_set(part: Any) -> bool:
    """Whether it holds rows: a data set, a data frame, or a list of mappings."""
    rows = isinstance(part, (list, tuple)) and len(part) > 0 and all(isinstance(row, Mapping) for row in part)
    return rows or is_frame(part) or (hasattr(part, "column_names") and hasattr(part, "__iter__"))
