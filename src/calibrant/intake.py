"""``load_questions``: from files, data sets and lists to a validated :class:`QuestionSet`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.errors import LeakageError, QuestionError, only_numbers
from calibrant.orders import with_options_shuffled
from calibrant.questions import Question, QuestionSet, Skipped, did_you_mean, shown
from calibrant.sources import (
    BASES,
    LABEL_NAMES,
    answer_index,
    fields_of,
    is_text_of,
    missing,
    numeral,
    rename,
)
from calibrant.sources.cells import blank, typed
from calibrant.sources.frames import splits_of
from calibrant.sources.layouts import MAPPING_KEYS
from calibrant.sources.readers import (
    Rows,
    is_of_system,
    is_pipe,
    is_text_table,
    one_split,
    read_file,
    read_folder,
    read_hub,
    read_list,
)

HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(:[\w.-]+)?")
WITH_SPLIT = re.compile(r"(.+)\[([^\[\]]+)\]")
FILE_NAME = re.compile(r"\.(jsonl?|ndjson|[ct]sv|parquet|gz)$")
PASSAGES = ("passage", "article", "context", "premise", "paragraph", "story")
SKIP_HINT = "or leave such rows out by name with skip_bad=True (--skip-bad)"


def load_questions(
    source: str | Path | Iterable[Question | Mapping[str, Any]] | Mapping[str, Any],
    *,
    split: str | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    columns: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> QuestionSet:
    """Read multiple-choice questions; every row becomes a question or a named reason.

    Parameters
    ----------
    source : a file (.jsonl, .ndjson, .json, .csv, .tsv, each also with .gz; .parquet), a folder that ``datasets``
        saved, a hub data set ``"owner/name"`` or ``"owner/name:config"``, an iterable of mappings or questions, a data frame
        of pandas, polars or pyarrow (an index that has a name is a column), or a mapping of split names to such.
    split : which split of a data set; needed when it has several, and may stand behind its name: ``"owner/name[test]"``.
    name : name of the set, by default the file's; rows without an id are called ``<name>-<row>``, counted from 1.
    skip_bad : list bad and repeated rows in ``skipped`` and go on, instead of refusing the whole.
    limit : keep the first so many questions, after the whole source was checked.
    columns : your names for ours: ``{"question": "stem", "choices": ["a", "b"] or "options", "answer": "gold", "id": …,
        "subject": …, "answer_base": 1}``, any part of it. Several columns of a question, ``["article", "question"]``, are
        joined by empty lines. ``answer_base`` says from where numbers as answers count, or is
        ``"text"`` where answers are options' texts. An answer that is one of the columns of the choices names the correct
        one; such columns have no order of their own: the options get that of :func:`calibrant.orders.shuffle_options`.
    revision : branch, tag or commit of a hub data set.

    Returns
    -------
    QuestionSet : before ``limit``, ``len(questions) + len(skipped)`` is the number of rows (blank lines are not rows).

    Raises
    ------
    LeakageError : an id or a content twice in the source.
    QuestionError : a bad row (with file and line), no rows, no such source, columns that no layout knows.
    ConfigError : a limit that is no number.

    >>> load_questions([{"question": "2+2?", "choices": ["3", "4"], "answer": 1}], name="sums")[0].id
    'sums-1'
    """
    columns = _checked_mapping(columns or {})
    only_numbers(whole=True, limit=limit)
    if limit is not None and limit < 1:
        raise QuestionError(
            asked=f"the first {limit} questions", found="nothing to keep", todo="give a limit of 1 or more"
        )
    found_name, rows = open_rows(source, split, revision)
    result = _collect(name or found_name, rows, columns, skip_bad)
    if isinstance(source, (str, Path)) and is_text_table(Path(source)):
        result = _with_typed_columns(result)
    before = source.skipped if isinstance(source, QuestionSet) else ()
    return QuestionSet(result.name, result.questions[:limit], before + result.skipped)


def unread_passages(questions: QuestionSet) -> list[str]:
    """Columns that by their names hold what the questions are about, and on most questions stand there unread.

    >>> row = {"article": "Ada ate.", "question": "Who ate?", "options": ["Ada", "Bob"], "answer": "A"}
    >>> unread_passages(load_questions([row]))
    ['article']
    """
    found = []
    for name in PASSAGES:
        cells = [(q.columns.get(name), q.text) for q in questions]
        unread = [isinstance(cell, str) and len(cell.split()) > 1 and cell.strip() not in text for cell, text in cells]
        found += [name] if sum(unread) > len(unread) / 2 else []
    return found


def _with_typed_columns(questions: QuestionSet) -> QuestionSet:
    """The further columns of a text table, with numbers where a column holds numbers and ``None`` where a cell is blank."""
    names = {name for q in questions for name in q.columns}
    columns = {name: typed([q.columns.get(name) for q in questions]) for name in names}
    again = [
        replace(q, columns={name: columns[name][i] for name in q.columns}) for i, q in enumerate(questions.questions)
    ]
    return replace(questions, questions=tuple(again))


def open_rows(source: Any, split: str | None, revision: str | None) -> tuple[str, Rows]:
    """The name and the rows of a source that :func:`load_questions` takes, as they are there."""
    if isinstance(source, Mapping):
        return _split_in_memory(source, split, revision)
    if not isinstance(source, (str, Path)):
        _refuse(split, revision, "a list in memory")
        return source.name if isinstance(source, QuestionSet) else "questions", read_list(source)
    path = Path(source)
    try:
        named = None if path.exists() else WITH_SPLIT.fullmatch(str(source))
        if named and (Path(named[1]).exists() or HUB_ID.fullmatch(named[1])):
            if split is not None:
                raise QuestionError(asked=f"split {split!r} of {source}", found="two splits", todo="give one")
            return open_rows(named[1], named[2], revision)
    except OSError as error:  # a name that is too long, such as the questions themselves
        raise QuestionError(
            asked=f"questions from {str(source)[:80]!r}",
            found=str(error)[:200],
            todo="give a file, a folder or a hub id",
        ) from error
    if path.is_dir():
        _refuse(None, revision, str(path))
        return path.name if split is None else f"{path.name}-{split}", read_folder(path, split)
    if is_pipe(path):
        raise QuestionError(
            asked=f"questions from {str(source)!r}",
            found="a pipe or device",
            todo="save its content to a file, and give that",
        )
    if path.is_file():
        _refuse(split, revision, str(path))
        return re.sub(r"(\.\w+?)(\.gz)?$", "", path.name), read_file(path)
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not FILE_NAME.search(source):
        owned, _, config = source.partition(":")
        title = "-".join(filter(None, (owned.split("/")[1], config, split)))
        return title, read_hub(owned, config or None, split, revision)
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() and not is_of_system(path) else []
    raise QuestionError(
        asked=f"questions from {str(source)!r}",
        found=f"no such file or folder{did_you_mean(path.name, near)}",
        todo="give a file, a saved data set, or a hub id such as owner/name or owner/name:config",
    )


def _split_in_memory(source: Mapping[Any, Any], split: str | None, revision: str | None) -> tuple[str, Rows]:
    """The name and the rows of one data set of a mapping of such."""
    _refuse(None, revision, "a mapping in memory")
    if not (splits := splits_of(source)):
        raise QuestionError(
            asked="questions from a mapping",
            found=f"the keys {', '.join(map(str, source)) or 'none'}, with no data set under each",
            todo='give a list of mappings, one a question, a data frame, or {"train": …, "test": …} of these',
        )
    chosen = one_split("a mapping", splits, split, in_memory=True)
    return f"questions-{chosen}", read_list(source[chosen])


def _refuse(split: str | None, revision: str | None, source: str) -> None:
    for what, value in (("split", split), ("revision", revision)):
        if value is not None:
            raise QuestionError(
                asked=f"{what} {value!r} of {source}",
                found=f"a source that has no {what}s",
                todo=f"leave the {what} out, or name the file that holds it",
            )


def _collect(name: str, rows: Rows, columns: Mapping[str, Any], skip_bad: bool) -> QuestionSet:
    kept: list[Question] = []
    skipped: list[Skipped] = []
    repeats: list[str] = []
    places: dict[tuple[str, str], str] = {}
    count, from_one = 0, _FromOne()
    for count, (where, row) in enumerate(rows, 1):
        try:
            question = _question(row, columns, f"{name}-{count}", from_one)
        except QuestionError as error:
            if not skip_bad:
                raise QuestionError(
                    asked=f"a question from {where}", found=error.found, todo=f"{error.todo}; {SKIP_HINT}"
                ) from error
            skipped.append(Skipped(where, error.found))
            continue
        keys = ("id", question.id), ("content", question.content_hash)
        earlier = next((key for key in keys if key in places), None)
        if earlier:
            repeats.append(f"{where} ({question.id!r}) repeats the {earlier[0]} of {places[earlier]}")
            skipped.append(Skipped(where, f"repeats the {earlier[0]} of {places[earlier]}"))
            continue
        places |= dict.fromkeys(keys, f"{where} ({question.id!r})")
        kept.append(question)
    if columns.get("answer_base") is None and not _named_correct(columns):
        from_one.refuse(name)
    if repeats and not skip_bad:
        raise LeakageError(
            asked=f"questions from {name!r}, each once", found=shown(repeats), todo=f"remove the repeats, {SKIP_HINT}"
        )
    if not kept:
        reason = f"{count} rows, none usable; {skipped[0].where}: {skipped[0].reason}" if count else "no rows"
        raise QuestionError(asked=f"questions from {name!r}", found=reason, todo="give at least one question")
    return QuestionSet(name, tuple(kept), tuple(skipped))


def _question(row: Any, columns: Mapping[str, Any], default_id: str, from_one: _FromOne) -> Question:
    if isinstance(row, QuestionError):
        raise row
    if isinstance(row, Question):
        return row
    if isinstance(row, Mapping):
        row = {name: None if missing(value) else value for name, value in row.items()}
    base = columns.get("answer_base")
    renamed, taken = rename(row, columns)
    if correct_first := _named_correct(columns):
        renamed["answer"], base = list(columns["choices"]).index(columns["answer"]), 0
        if blank(row[columns["answer"]]):
            raise QuestionError(
                asked="one correct option",
                found=f"a blank cell in {columns['answer']!r}, the column of the correct options",
                todo="write the correct option",
            )
    fields = fields_of(renamed)
    is_label = fields.is_label or columns.get("answer") in LABEL_NAMES
    counted = not fields.labels or not (is_label or any(numeral(label) is not None for label in fields.labels))
    if base is None and counted and (number := numeral(fields.answer)) is not None:
        if not is_text_of(fields.answer, fields.choices):
            from_one.see(number, len(fields.choices), named=_from_one(columns.get("choices")))
        if fields.unsure:
            raise QuestionError(
                asked="one correct option",
                found=f"answer {fields.answer!r} beside option columns that are numbered from 1",
                todo=f"say where the answers start with {BASES}",
            )
    extra = {str(k): _plain(v) for k, v in row.items() if _is_extra(k, v, columns, taken, fields.used)}
    nested = row.get("columns")
    if isinstance(nested, Mapping):
        extra |= {str(k): _plain(v) for k, v in nested.items()}
    given, subject = renamed.get("id"), fields.subject
    question = Question(
        id=default_id if given is None or given == "" else str(given),
        text=fields.text,
        choices=fields.choices,
        answer=answer_index(fields.answer, fields.choices, fields.labels, base, is_label=is_label, also=fields.also),
        subject=None if subject is None or subject == "" else str(subject),
        columns=extra,
    )
    return with_options_shuffled(question) if correct_first else question


def _from_one(names: Any) -> bool:
    """Whether columns that the user named for the options are numbered from 1."""
    numbers = (
        [re.fullmatch(r"\D*?(\d{1,2})", name.strip()) for name in names] if isinstance(names, (list, tuple)) else []
    )
    return bool(numbers) and [m and int(m[1]) for m in numbers] == list(range(1, len(numbers) + 1))


def _named_correct(columns: Mapping[str, Any]) -> bool:
    """Whether the answer is named as one of the columns that hold the options."""
    choices = columns.get("choices")
    return isinstance(choices, (list, tuple)) and columns.get("answer") in choices


def _is_extra(name: Any, value: Any, columns: Mapping[str, Any], taken: set[str], used: tuple[str, ...]) -> bool:
    """Whether a column is further knowledge: nobody read it, or ours of that name was read from elsewhere."""
    if name in taken or (name == "columns" and isinstance(value, Mapping)):
        return False
    return name in columns or name not in (*used, "id")


class _FromOne:
    """Notices answers that seem to count from 1: some equal the number of options, or stand beside columns that the user named
    and that are numbered from 1; none is 0.
    """

    def __init__(self) -> None:
        self.zeros = self.tops = self.doubts = 0

    def see(self, answer: int, k: int, *, named: bool) -> None:
        self.zeros += answer == 0
        self.tops += answer == k
        self.doubts += named and 0 < answer < k

    def refuse(self, name: str) -> None:
        if self.doubts and not self.zeros and not self.tops:
            raise QuestionError(
                asked=f"answers of {name!r} counted from 0",
                found=f"no answer is 0 and {self.doubts} stand beside option columns that are numbered from 1",
                todo=f"say where they start with {BASES}",
            )
        if self.tops and not self.zeros:
            raise QuestionError(
                asked=f"answers of {name!r} counted from 0",
                found=f"no answer is 0 and {self.tops} equal the number of options, so they seem to count from 1",
                todo=f"say where they start with {BASES}",
            )


def _checked_mapping(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = f"a mapping of columns with the keys {', '.join(MAPPING_KEYS)}"
    if not isinstance(columns, Mapping):
        raise QuestionError(asked=asked, found=f"{columns!r}"[:80], todo='give {"question": "your column", …}')
    for key, value in columns.items():
        if key not in MAPPING_KEYS:
            hint = did_you_mean(str(key), MAPPING_KEYS)
            raise QuestionError(asked=asked, found=f"the key {key!r}{hint}", todo="use only these keys")
        if key == "answer_base":
            good = value in (0, 1, "text") and not isinstance(value, bool)
        else:
            several = key in ("choices", "question") and isinstance(value, (list, tuple)) and len(value) > 0
            good = isinstance(value, str) or (several and all(isinstance(v, str) for v in value))
        if not good:
            raise QuestionError(
                asked=asked,
                found=f"{key!r}: {value!r}",
                todo="give one column name, for choices and question also a list of names, for answer_base 0, 1 or 'text'",
            )
    if _named_correct(columns) and "answer_base" in columns:
        raise QuestionError(
            asked="an answer that is named as one of the columns of the options",
            found=f"'answer_base': {columns['answer_base']!r}, which would not be used",
            todo="leave it out",
        )
    return columns


def _plain(value: Any) -> Any:
    """A value that JSON can hold; dates in ISO form, anything else by its text."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or missing(value):
        return None
    if isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
