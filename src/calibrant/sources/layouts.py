"""Columns of known data sets. A layout is a pure function: row -> :class:`Fields`, or ``None`` if not its row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from calibrant.errors import QuestionError
from calibrant.questions import did_you_mean
from calibrant.sources.answers import LABEL_NAMES
from calibrant.sources.cells import blank

TEXT_NAMES = ("question", "question_stem")
CHOICES_NAMES = ("choices", "options")
ANSWER_NAMES = ("answer", "answerKey", "answer_idx", "answer_index", "label")
"""The first filled column is read; the others, except ``label``, must agree with it."""
MAPPING_KEYS = ("question", "choices", "answer", "id", "subject", "answer_base")
WANTED = (
    "question, choices, answer; question, A, B, …, answer; question, option_1, option_2, …, answer; "
    "question, opa, …, opd, cop (MedMCQA); goal, sol1, sol2, label (PIQA)"
)
OPTION_COLUMN = re.compile(r"(?:(choice|option|opt)s?[ _]?)?([a-z]|\d{1,2})", re.IGNORECASE)
LIST = re.compile(r"""\s*\[(\s*['"].*['"]\s*|[-+.,\d\s]*)\]\s*""", re.DOTALL)
"""A list of texts or of numbers, as JSON, Python or numpy writes it."""

Row = Mapping[str, Any]


class Fields(NamedTuple):
    """What a layout reads from a row.

    ``used`` are the columns it took; ``unsure`` says that a number as answer could count from 0 or from 1; ``is_label`` that
    the answer is a label, where there are labels; ``also`` is what further columns say is the answer.
    """

    text: str
    choices: tuple[str, ...]
    answer: Any
    used: tuple[str, ...]
    labels: tuple[str, ...] = ()
    subject: Any = None
    unsure: bool = False
    is_label: bool = False
    also: tuple[tuple[str, Any], ...] = ()


def fields_of(row: Row) -> Fields:
    """Read a row by the first layout that knows its columns.

    Raises
    ------
    QuestionError : no layout knows them; the error lists the columns found and those wanted.

    >>> fields_of({"goal": "Dry a dish", "sol1": "towel", "sol2": "water", "label": 0}).choices
    ('towel', 'water')
    """
    for layout in LAYOUTS:
        if (fields := layout(row)) is not None:
            return fields
    known = [*TEXT_NAMES, *CHOICES_NAMES, *ANSWER_NAMES, "goal", "cop"]
    hint = next((h for name in row if name not in known and (h := did_you_mean(str(name), known))), "")
    raise QuestionError(
        asked=f"columns of a known layout ({WANTED})",
        found=f"columns {', '.join(map(str, row)) or 'none'}{hint}",
        todo="rename them, or name yours: columns={'question': …, 'choices': [… or one list column], 'answer': …}",
    )


def rename(row: Row, columns: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The row with the user's column names turned into ours, and the names of theirs that were taken.

    Raises
    ------
    QuestionError : no such column, or a list in one of several columns that hold an option each.

    >>> rename({"stem": "2+2?", "x": "4", "y": "5"}, {"question": "stem", "choices": ["x", "y"]})[0]["choices"]
    ['4', '5']
    """
    mapped, taken = dict[str, Any](), set[str]()
    for ours, theirs in columns.items():
        if ours == "answer_base":
            continue
        names = [theirs] if isinstance(theirs, str) else list(theirs)
        for name in names:
            if name not in row:
                raise QuestionError(
                    asked=f"column {name!r} as {ours}",
                    found=f"columns {', '.join(map(str, row))}{did_you_mean(name, map(str, row))}",
                    todo="name a column that is there",
                )
        if isinstance(theirs, str):
            mapped[ours] = row[theirs]
        elif ours == "question":
            mapped[ours] = "\n\n".join(filter(None, (_text(row[name]).strip() for name in names)))
        else:
            _refuse_lists(row, names)
            mapped[ours] = [row[name] for name in _present(row, names)]
        taken.update(names)
    further = set(ANSWER_NAMES) if "answer" in columns else set()  # one that is named is the one to read
    kept = {name: value for name, value in row.items() if name not in taken and name not in further}
    return kept | mapped, taken


def _refuse_lists(row: Row, names: Sequence[str]) -> None:
    """Refuse a list in one of several columns of the options; one as text only where another column holds no such text, since
    all options of a question may read like lists.
    """
    filled = [name for name in names if not (blank(row[name]) or missing(row[name]))]
    as_text = [name for name in filled if isinstance(row[name], str) and LIST.fullmatch(row[name])]
    lists = [name for name in filled if isinstance(_as_list(row[name]), (list, tuple))]
    if found := lists or (as_text if len(as_text) < len(filled) else []):
        raise QuestionError(
            asked=f"one option in each of the columns {', '.join(names)}",
            found=f"a list in {found[0]!r}: {str(row[found[0]])[:80]}",
            todo="give each option its own column, or all options of a question as one list in one column",
        )


def listed(row: Row) -> Fields | None:
    """Options in one column: our own files, and ARC, OpenBookQA, CommonsenseQA, QASC, MMLU as the hub holds them.

    Columns ``question`` (or ``question_stem``), ``choices`` (or ``options``), ``answer`` (or ``answerKey``,
    ``answer_idx``, ``answer_index``, ``label``), ``subject``. The options are a list of texts, a list of ``{"text",
    "label"}``, a mapping ``{"text": [...], "label": [...]}`` or label -> text, or any of these as JSON text in a CSV cell.
    """
    text, choices = (next((n for n in names if n in row), None) for names in (TEXT_NAMES, CHOICES_NAMES))
    answer, also = _answers(row)
    if text is None or choices is None or answer is None or isinstance(row[text], Mapping):
        return None
    options, labels = _options(row[choices])
    used, key = (text, choices, answer, "subject"), answer in LABEL_NAMES
    return Fields(_text(row[text]), options, row[answer], used, labels, row.get("subject"), is_label=key, also=also)


def nested(row: Row) -> Fields | None:
    """ARC, OpenBookQA, CommonsenseQA, QASC as first released: ``question`` = {"stem", "choices"}, and ``answerKey``."""
    inner = row.get("question")
    if not isinstance(inner, Mapping) or not {"stem", "choices"} <= inner.keys() or "answerKey" not in row:
        return None
    options, labels = _options(inner["choices"])
    return Fields(
        _text(inner["stem"]),
        options,
        row["answerKey"],
        ("question", "answerKey", "subject"),
        labels,
        row.get("subject"),
        is_label=True,
    )


def medmcqa(row: Row) -> Fields | None:
    """MedMCQA as the hub holds it: ``question``, ``opa`` … ``opd``, ``cop`` (0-based), ``subject_name``."""
    names = ("opa", "opb", "opc", "opd")
    if not {"question", "cop", *names} <= row.keys():
        return None
    choices = tuple(_text(row[name]) for name in names)
    subject = "subject" if "subject" in row else "subject_name"
    used = ("question", "cop", subject, *names)
    return Fields(_text(row["question"]), choices, row["cop"], used, subject=row.get(subject))


def piqa(row: Row) -> Fields | None:
    """PIQA: ``goal``, ``sol1``, ``sol2``, ``label`` (0-based)."""
    if not {"goal", "sol1", "sol2", "label"} <= row.keys():
        return None
    used = ("goal", "sol1", "sol2", "label", "subject")
    choices = (_text(row["sol1"]), _text(row["sol2"]))
    return Fields(_text(row["goal"]), choices, row["label"], used, subject=row.get("subject"))


def wide(row: Row) -> Fields | None:
    """One column an option: ``A``, ``B``, … or ``choice_a`` … or ``option_1`` …; empty last cells are absent options.

    Where the columns are numbered from 1, a number as answer could count from 0 or from 1: ``unsure``.
    """
    text = next((name for name in TEXT_NAMES if name in row), None)
    answer, also = _answers(row)
    columns = _option_columns(row)
    if text is None or answer is None or len(columns) < 2:
        return None
    choices = _texts([row[name] for name in _present(row, columns)])
    used, from_one = (text, answer, "subject", *columns), columns[0].strip().endswith("1")
    return Fields(_text(row[text]), choices, row[answer], used, (), row.get("subject"), from_one, also=also)


LAYOUTS: tuple[Callable[[Row], Fields | None], ...] = (listed, nested, medmcqa, piqa, wide)


def _answers(row: Row) -> tuple[str | None, tuple[tuple[str, Any], ...]]:
    """The column of the answer, and further ones whose name says that they hold it, with what they say."""
    there = [name for name in ANSWER_NAMES if name in row]
    filled = [name for name in there if not (blank(row[name]) or missing(row[name]))]
    also = tuple((name, row[name]) for name in filled[1:] if name != ANSWER_NAMES[-1])
    return next(iter(filled or there), None), also


def _option_columns(row: Row) -> list[str]:
    """The option columns in order: one family of names, letters from a or numbers from 0 or 1, without a gap."""
    families: dict[tuple[str, bool, bool], dict[int, str]] = {}
    for name in row:
        match = OPTION_COLUMN.fullmatch(str(name).strip())
        if match and (match[1] or match[2].isalpha()):
            place = ord(match[2].lower()) - ord("a") if match[2].isalpha() else int(match[2])
            bare_small = not match[1] and match[2].islower()  # beside A, B, C a column n is not an option
            families.setdefault(((match[1] or "").lower(), match[2].isalpha(), bare_small), {})[place] = name
    runs = []
    for by_place in families.values():
        start = min(by_place)
        run = [by_place[place] for place in range(start, start + len(by_place)) if place in by_place]
        lettered = run[0].strip()[-1].isalpha()
        if start <= (0 if lettered else 1) and len(run) == len(by_place) >= 2:
            runs.append(run)
    return runs[0] if len(runs) == 1 else []


def _present(row: Row, names: Sequence[str]) -> list[str]:
    """Without the empty cells at the end."""
    present = list(names)
    while present and not _text(row[present[-1]]).strip():
        present.pop()
    return present


def _options(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Option texts and labels (none when the data set has none); lists may be arrays, as data frames hold them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _bad_options(value) from None
    value = _as_list(value)
    if isinstance(value, Mapping):
        value = {name: _as_list(part) for name, part in value.items()}
    if isinstance(value, Mapping) and {"text", "label"} <= value.keys():
        texts, labels = value["text"], value["label"]
    elif isinstance(value, Mapping):
        texts, labels = list(value.values()), list(value.keys())
    elif isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) and "text" in v for v in value):
        texts, labels = [v["text"] for v in value], [v["label"] for v in value if "label" in v]
    else:
        texts, labels = value, []
    if not isinstance(texts, (list, tuple)) or not isinstance(labels, (list, tuple)):
        raise _bad_options(value)
    if len(labels) == len(texts):  # as a table says which labels a question has not
        while texts and (texts[-1] is None or missing(texts[-1])):
            texts, labels = texts[:-1], labels[:-1]
    names = tuple(str(label).strip() for label in labels)
    if names and (len(names) != len(texts) or len(set(names)) != len(names)):
        raise QuestionError(
            asked="one label an option, all different",
            found=f"{len(texts)} options with labels {', '.join(names)}",
            todo="correct the labels",
        )
    return _texts(texts), names


def _texts(cells: Sequence[Any]) -> tuple[str, ...]:
    """Options as texts; whole numbers alike, which a table may hold as 3 in one column and as 3.0 in one with gaps."""
    if any(isinstance(cell, int | np.integer) and not isinstance(cell, bool) for cell in cells):
        cells = [int(c) if isinstance(c, float | np.floating) and float(c).is_integer() else c for c in cells]
    return tuple(map(_text, cells))


def _as_list(value: Any) -> Any:
    """The list that an array holds; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _bad_options(value: Any) -> QuestionError:
    return QuestionError(
        asked="a list of options",
        found=f"{str(value)[:80]!r}",
        todo='give a list of texts, as JSON text in a CSV: ["a", "b"]',
    )


def missing(value: Any) -> bool:
    """Whether a cell is what a table has for nothing: NaN in one of floats, pandas' NA and NaT."""
    return type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float | np.floating) and math.isnan(value)
    )


def _text(value: Any) -> str:
    """A cell as text; a missing one is empty, a number is spelt."""
    if value is None or missing(value):
        return ""
    if isinstance(value, str) or (isinstance(value, int | float | np.number) and not isinstance(value, bool)):
        return str(value)
    raise QuestionError(asked="questions and options that are texts", found=f"{value!r}", todo="give a text")
