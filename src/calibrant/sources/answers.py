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
    answer: Any, choices: Sequence[str], labels: Sequence[str] = (), base: int | Literal["text"] | None = None
) -> int:
    """The 0-based index of the correct option.

    With ``labels`` (one an option, given by the data set) the answer is a label or the option's own text. Without them
    a number is an index that counts from ``base`` (0 unless said otherwise), and a text is every reading that fits: a
    numeral, a letter of either case, the option's own text. Readings that disagree are refused, not guessed. With the base
    ``"text"`` an answer is an option's own text and nothing else, numbers too.

    Raises
    ------
    QuestionError : no answer, none that fits, or readings that disagree.

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
    readings = _labelled(answer, choices, labels) if labels and base != "text" else _free(answer, choices, base)
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
            "options' texts",
        )
    return next(iter(readings.values()))


def _labelled(answer: Any, choices: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    wanted = clean(str(answer))
    for how, names in (("a label", labels), ("an option's text", choices)):
        at = [i for i, name in enumerate(names) if clean(name) == wanted]
        if at:
            return {how: at[0]}
    return {}


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
        todo = "give the text of an option, as it stands there"
    elif labels:
        todo = f"give one of the labels {', '.join(labels)}"
    else:
        todo = f"give an index from {base or 0} to {len(choices) - 1 + (base or 0)}, a letter, or an option's text"
        if numeral(answer) is not None and base is None:
            todo += "; say columns={'answer_base': 1} where answers count from 1, 'text' where they are options' texts"
    return QuestionError(asked=ASKED, found=f"answer {answer!r} for {len(choices)} options", todo=todo)
