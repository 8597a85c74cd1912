"""What a data set's answer means: an index, a letter, a label, or the text of an option."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from calibrant.errors import QuestionError
from calibrant.questions import clean

ASKED = "one correct option"
BASES = "columns={'answer_base': 0}, 1, or 'text' where answers are options' texts"
LABEL_NAMES = ("answerKey", "answer_idx")
"""Columns whose answers are labels, where there are labels."""
NUMERAL = re.compile(r"([+-]?\d{1,9})(\.0+)?", re.ASCII)


def numeral(answer: Any) -> int | None:
    """The whole number that the answer is or spells (``"2"``, ``"2.0"``), or ``None``.

    >>> numeral("2"), numeral(2.0), numeral("B"), numeral(True)
    (2, 2, None, None)
    """
    match = None if isinstance(answer, bool) else NUMERAL.fullmatch(str(answer).strip())
    return int(match[1]) if match else None


def is_text_of(answer: Any, choices: Sequence[str]) -> bool:
    """Whether an answer that is text reads like an option.

    >>> is_text_of("4", ["3", "4"]), is_text_of(4, ["3", "4"])
    (True, False)
    """
    return isinstance(answer, str) and clean(answer) in map(clean, choices)


def answer_index(
    answer: Any,
    choices: Sequence[str],
    labels: Sequence[str] = (),
    base: int | Literal["text"] | None = None,
    *,
    is_label: bool = False,
    also: Sequence[tuple[str, Any]] = (),
) -> int:
    """The 0-based index of the correct option.

    A number is an index that counts from ``base`` (0 unless said otherwise), and a text is every reading that fits: a
    numeral, a letter of either case, the option's own text. With ``labels`` (one an option, given by the data set) they take
    the place of letters, and of numbers where they are numbers; of an answer that ``is_label``, as in a column
    ``answerKey``, that reading goes before its others. ``also`` are further columns of answers, by name: they settle which
    reading is meant, and stand in for an answer that fits no option. Readings that disagree are refused, not guessed. With
    the base ``"text"`` an answer is an option's own text and nothing else, numbers too.

    Raises
    ------
    QuestionError : no answer, none that fits, readings that disagree, or columns that do.

    >>> answer_index("b", ["red", "blue"]), answer_index("blue", ["red", "blue"]), answer_index(2, ["x", "y"], base=1)
    (1, 1, 1)
    >>> answer_index("1", ["1", "2"])
    Traceback (most recent call last):
        ...
    calibrant.errors.QuestionError: asked: one correct option
    found: answer '1' is option 1 as a number from 0 but option 0 as an option's text
    to do: say how to read it with columns={'answer_base': 0}, 1, or 'text' where answers are options' texts
    >>> answer_index("1", ["1", "2"], base="text")
    0
    """
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        raise QuestionError(asked=ASKED, found="no answer", todo="give the correct option; test sets often withhold it")
    if isinstance(answer, np.number):
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        raise QuestionError(asked=ASKED, found=f"answer {answer!r}", todo="give one index, letter or option text")
    readings = readings_of(answer, choices, labels, base, is_label=is_label)
    for name, other in also:
        readings = _settled(
            readings, answer, name, readings_of(other, choices, labels, is_label=name in LABEL_NAMES), other
        )
    if not readings:
        raise _no_fit(answer, choices, labels, base)
    if len(set(readings.values())) > 1:
        told = " but ".join(f"option {index} as {how}" for how, index in readings.items())
        raise QuestionError(
            asked=ASKED,
            found=f"answer {answer!r} is {told}",
            todo=f"say how to read it with {BASES}"
            if numeral(answer) is not None
            else "give the 0-based index of the correct option, or say columns={'answer_base': 'text'} where answers are "
            "options' texts" + ("; call the column 'answerKey' where they are labels" if labels else ""),
        )
    return next(iter(readings.values()))


def readings_of(
    answer: Any,
    choices: Sequence[str],
    labels: Sequence[str] = (),
    base: int | Literal["text"] | None = None,
    *,
    is_label: bool = False,
) -> dict[str, int]:
    """Every reading of an answer that fits an option, in words, with that option's index; none for what is not an answer."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        return {}
    if not labels or base == "text":
        return _free(answer, choices, base)
    wanted, number = clean(str(answer)), numeral(answer)
    found = {
        how: [clean(name) for name in names].index(wanted)
        for how, names in (("a label", labels), ("an option's text", choices))
        if wanted in map(clean, names)
    }
    if is_label and "a label" in found:
        return {"a label": found["a label"]}
    if number is not None and all(numeral(label) is None for label in labels):
        index = number - (base or 0)
        counted = {f"a number from {base or 0}": index} if 0 <= index < len(choices) else {}
        return counted if base is not None else found | counted
    return found


def _settled(readings: dict[str, int], answer: Any, name: str, further: dict[str, int], other: Any) -> dict[str, int]:
    """The readings that a further column of answers allows; its own where there are none."""
    common = {how: index for how, index in readings.items() if index in further.values()}
    if readings and further and not common:
        told = [" or ".join(f"option {i} as {how}" for how, i in found.items()) for found in (readings, further)]
        raise QuestionError(
            asked=ASKED,
            found=f"answer {answer!r} is {told[0]}, but {name} {other!r} is {told[1]}",
            todo=f"name the column to read: columns={{'answer': {name!r}}}, or the other",
        )
    return common or readings or further


def _free(answer: int | float | str, choices: Sequence[str], base: int | Literal["text"] | None) -> dict[str, int]:
    readings: dict[str, int] = {}
    wanted = clean(str(answer))
    if base == "text":
        texts = [clean(choice) for choice in choices]
        return {"an option's text": texts.index(wanted)} if wanted in texts else {}
    if (number := numeral(answer)) is not None:
        index = number - (base or 0)
        if 0 <= index < len(choices):
            readings[f"a number from {base or 0}"] = index
        if base is not None or not isinstance(answer, str):
            return readings
    if len(wanted) == 1 and wanted.isascii() and wanted.isalpha() and ord(wanted.upper()) - 65 < len(choices):
        readings["a letter"] = ord(wanted.upper()) - 65
    for i, choice in enumerate(choices):
        if clean(choice) == wanted:
            readings["an option's text"] = i
            break
    return readings


def _no_fit(
    answer: Any, choices: Sequence[str], labels: Sequence[str], base: int | Literal["text"] | None
) -> QuestionError:
    if base == "text":
        todo = "give the text of an option, as it is written there"
    elif labels:
        todo = f"give one of the labels {', '.join(labels)}"
    else:
        todo = f"give an index from {base or 0} to {len(choices) - 1 + (base or 0)}, a letter, or an option's text"
        if numeral(answer) is not None and base is None:
            todo += "; say columns={'answer_base': 1} where answers count from 1, 'text' where they are options' texts"
    return QuestionError(asked=ASKED, found=f"answer {answer!r} for {len(choices)} options", todo=todo)
