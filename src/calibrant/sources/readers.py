"""Files and data sets as rows: ``(where it stands, the row or why it cannot be read)``."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calibrant.errors import QuestionError
from calibrant.questions import Question
from calibrant.sources.frames import is_frame, rows_of_frame

Rows = Iterator[tuple[str, Any]]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SEPARATED = "separate cells by commas in .csv and by tabs in .tsv; in Python give pandas.read_csv(…, sep=';')"
CELL_LIMIT = 2**24  # characters; the csv module's own limit of 131,072 is too short for long passages


def read_file(path: Path) -> Rows:
    """Rows of one file, by its suffix; lines end at LF alone, because questions may hold other line separators."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        raise QuestionError(
            asked=f"questions from {path}",
            found=f"the file type {suffix or 'of no suffix'!r}",
            todo=f"give one of {', '.join(SUFFIXES)} (text files also with .gz)",
        )
    if suffix.lower() == ".parquet":
        return _parquet(path)
    content = _content(path)
    if suffix.lower() in (".csv", ".tsv"):
        return _table(path.name, content, "," if suffix.lower() == ".csv" else "\t")
    if suffix.lower() == ".json" and content.lstrip().startswith(b"["):
        return _array(path.name, content)
    return _lines(path.name, content)


def is_pipe(path: Path) -> bool:
    """Whether a path is a pipe or a device, such as /dev/stdin, into which a shell may put a file too."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or (is_of_system(path) and not path.suffix)


def is_of_system(path: Path) -> bool:
    """Whether a path is one of those that the system makes up, such as /dev/fd/63."""
    return path.parts[:2] in (("/", "dev"), ("/", "proc"))


def is_text_table(path: Path) -> bool:
    """Whether all cells of a file are text: .csv and .tsv, also with .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower() in (".csv", ".tsv")


def read_list(items: Iterable[Any]) -> Rows:
    """Rows of a data frame, or of a list of mappings or questions."""
    items = rows_of_frame(items) if is_frame(items) else items
    return ((f"row {i}", _row(item)) for i, item in enumerate(items, 1))


def read_folder(path: Path, split: str | None) -> Rows:
    """Rows of a folder that ``datasets`` saved with ``save_to_disk``."""
    if not any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        files = sorted(p.name for p in path.iterdir())[:8]
        raise QuestionError(
            asked=f"questions from the folder {path}",
            found=f"no saved data set but {', '.join(files) or 'nothing'}",
            todo="name one file of it, or a folder that Dataset.save_to_disk wrote",
        )
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise _unreadable(path, error) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded[one_split(str(path), list(loaded), split)]
    elif split is not None:
        raise QuestionError(
            asked=f"split {split!r} of {path}", found="a data set without splits", todo="leave the split out"
        )
    return _data_set(path.name, loaded)


def read_hub(name: str, config: str | None, split: str | None, revision: str | None) -> Rows:
    """Rows of a data set on the hub; no code of the data set is run."""
    import datasets
    import huggingface_hub.errors

    asked = f"questions from the hub data set {name!r}" + (f", config {config!r}" if config else "")
    try:
        splits = datasets.get_dataset_split_names(name, config, revision=revision)
        split = one_split(f"{name}:{config}" if config else name, splits, split)
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except QuestionError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        huggingface_hub.errors.HfHubHTTPError,
    ) as error:
        raise QuestionError(
            asked=asked,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}",
            todo="look at the name, the config, the connection and, for a private set, the login; or give a file",
        ) from error
    return _data_set(f"{name}[{split}]", loaded)


def one_split(name: str, splits: list[str], split: str | None, *, in_memory: bool = False) -> str:
    """The split that is asked for, or the only one."""
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        bracketed = f"'{name}[{splits[0]}]' or " if splits and not in_memory else ""
        raise QuestionError(
            asked=f"one split of {name}" if split is None else f"split {split!r} of {name}",
            found=f"the splits {', '.join(splits)}",
            todo=f"choose one, e.g. {bracketed}split={splits[0]!r}" if splits else "give another data set",
        )
    return split


def _data_set(name: str, rows: Iterable[Mapping[str, Any]]) -> Rows:
    return ((f"{name} row {i}", dict(row)) for i, row in enumerate(rows, 1))


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _lines(name: str, content: bytes) -> Rows:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield f"{name} line {number}", _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return _row(json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return QuestionError(
            asked="text in UTF-8", found=f"the byte at {error.start} is not UTF-8", todo="save as UTF-8"
        )
    except (ValueError, RecursionError) as error:
        return QuestionError(asked="one JSON object a line", found=f"not JSON ({error})", todo="correct the line")


def _row(value: Any) -> Any:
    """The row itself, or the error that it is not a row."""
    if isinstance(value, (Mapping, Question)):
        return value
    return QuestionError(
        asked="an object with named columns",
        found=f"{type(value).__name__} {str(value)[:60]!r}",
        todo='write {"question": …, "choices": […], "answer": …}',
    )


def _array(name: str, content: bytes) -> Rows:
    rows = _parsed_array(name, content)
    return ((f"{name} item {i}", _row(item)) for i, item in enumerate(rows, 1))


def _parsed_array(name: str, content: bytes) -> list[Any]:
    try:
        rows = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise QuestionError(asked=f"a JSON list from {name}", found=str(error), todo="correct the file") from error
    assert isinstance(rows, list)  # it begins with "["
    return rows


def _table(name: str, content: bytes, delimiter: str) -> Rows:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise QuestionError(
            asked=f"text in UTF-8 from {name}",
            found="UTF-16" if utf_16 else f"another encoding in line {line}",
            todo="save as UTF-8 (in Excel the type 'CSV UTF-8')",
        ) from error
    header: list[str] | None = None
    for line, cells in _cells(name, text, delimiter):
        where = f"{name} line {line}"
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(name, cells)
        elif len(cells) != len(header):
            found = f"{len(cells)} cells under {len(header)} columns"
            yield where, QuestionError(asked="one cell a column", found=found, todo="correct the row (quotes?)")
        else:
            yield where, dict(zip(header, cells, strict=True))


def _cells(name: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The table's rows, each with the line on which it begins (a quoted cell may hold line ends)."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    limit = csv.field_size_limit(CELL_LIMIT)
    try:
        for cells in reader:
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise QuestionError(
            asked=f"a table from {name}", found=f"line {line}: {error}", todo="correct the quoting"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _header(name: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    asked = f"column names from {name}, each once"
    if cells[0].startswith("sep=") and not any(header[1:]):
        raise QuestionError(
            asked=asked,
            found=f"{','.join(cells)!r} in the first line",
            todo=f"delete that line; {SEPARATED}",
        )
    if len(header) == 1 and (mark := next((mark for mark in ";\t," if mark in header[0]), None)):
        raise QuestionError(asked=asked, found=f"the cells are separated by {mark!r}: {header[0]!r}", todo=SEPARATED)
    if (unnamed := header.count("")) > 1:
        raise QuestionError(
            asked=asked,
            found=f"{unnamed} columns without a name",
            todo="delete what is there: empty columns, or a title above the column names",
        )
    if len(set(header)) < len(header):
        twice = next(cell for cell in header if header.count(cell) > 1)
        raise QuestionError(asked=asked, found=f"{twice!r} twice", todo="rename one of the columns")
    return header


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from error
    return _data_set(path.name, rows)


def _unreadable(path: Path, error: BaseException) -> QuestionError:
    return QuestionError(
        asked=f"questions from {path}", found=f"not readable ({error})", todo="make the file again, or give another"
    )
