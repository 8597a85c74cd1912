"""What a foreign row tells of its question, so that imported scores and our own meet in ``compare`` and leakage checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from calibrant.errors import QuestionError
from calibrant.questions import Question
from calibrant.sources import fields_of


class Content(NamedTuple):
    """Content hash (``""`` where unknown), length of the question's text in characters, and its subject."""

    hash: str = ""
    length: int | None = None
    subject: str | None = None


def content_of(row: Mapping[str, Any], k: int) -> Content:
    """The content of a row whose columns are of a layout that :func:`calibrant.load_questions` knows.

    Nothing is known (an empty ``Content``) where no layout fits, or where it has another number of options than k.

    >>> content_of({"question": "Capital of France?", "choices": ["Lyon", "Paris"], "answer": 1}, 2).length
    18
    >>> content_of({"sentence": "no question here"}, 2)
    Content(hash='', length=None, subject=None)
    """
    try:
        fields = fields_of(row)
        if len(fields.choices) != k:
            return Content()
        content_hash = Question("row", fields.text, fields.choices, 0).content_hash
    except QuestionError:
        return Content()
    return Content(content_hash, len(fields.text), None if fields.subject in (None, "") else str(fields.subject))
