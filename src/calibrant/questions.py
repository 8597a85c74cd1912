"""``Question`` and ``QuestionSet``: what is asked, and which questions may stand in one split.

Reading files and data sets is in :mod:`calibrant.intake`; here are the validated objects, splits and leakage checks.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from calibrant.errors import LeakageError, QuestionError
from calibrant.files import write_atomically

MIN_OPTIONS, MAX_OPTIONS = 2, 26
PAIRS_SHOWN = 5
SPLIT_NAMES = ("train", "calibration", "test")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Parameters
    ----------
    id : the user's name for it, unique within a set.
    text : the question itself, without the options.
    choices : 2 to 26 option texts in the order shown. No option is blank and no two are equal; equality is judged after
        Unicode NFC with white space collapsed, case kept, because ``m`` and ``M``, or ``10²`` and ``102``, are different
        answers.
    answer : 0-based index of the correct option.
    subject : the field of knowledge, if known; statistics are clustered by it.
    columns : further JSON-able facts about the question, kept for slicing.

    Raises
    ------
    QuestionError : any of the above broken.

    >>> q = Question("q1", "Capital of France?", ("Lyon", "Paris"), 1)
    >>> q.content_hash == Question("other", "capital of  FRANCE?", ("Paris", "Lyon"), 0).content_hash
    True
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise QuestionError(asked=f"a multiple-choice question (id {self.id!r})", found=fault[0], todo=fault[1])

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the text and the sorted options; option order and answer do not matter.

        Both are normalised before: Unicode NFKC, case folded, white space collapsed. So a repeat that differs only in
        typography is found; the price is that two questions which differ only in case or in a superscript look alike.
        """
        content = [_folded(self.text), *sorted(map(_folded, self.choices))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Skipped:
    """A row that is no question: ``where`` it stands (``"file.jsonl line 12"``) and the ``reason``."""

    where: str
    reason: str


@dataclass(frozen=True)
class QuestionSet(Sequence[Question]):
    """Questions in order, with the rows that were left out by name.

    Raises
    ------
    LeakageError : two questions with one id.
    """

    name: str
    questions: tuple[Question, ...]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        first: dict[str, int] = {}
        repeats = [(first.setdefault(q.id, i), i) for i, q in enumerate(self.questions)]
        pairs = [(a, b, self.questions[b].id) for a, b in repeats if a != b]
        if pairs:
            raise LeakageError(
                asked=f"questions with ids of their own in {self.name!r}",
                found=_shown([f"{name!r} at positions {a} and {b}" for a, b, name in pairs]),
                todo="give each question its own id",
            )

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    def __getitem__(self, index: Any) -> Any:
        return self.questions[index]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the exact texts, options and answers in order; ids, subjects and columns do not count."""
        digest = hashlib.sha256()
        for q in self.questions:
            digest.update(json.dumps([q.text, q.choices, q.answer]).encode() + b"\n")
        return digest.hexdigest()

    def subset(self, indices: Iterable[int], name: str | None = None) -> QuestionSet:
        """The questions at some 0-based positions, in the order given; the skipped rows stay with the whole set."""
        return QuestionSet(name or self.name, tuple(self.questions[i] for i in indices))

    def save(self, path: str | Path) -> Path:
        """Write the questions as JSON lines that ``load_questions`` reads back equal; skipped rows are not written."""
        lines = (
            {"id": q.id, "question": q.text, "choices": q.choices, "answer": q.answer, "subject": q.subject}
            | ({"columns": dict(q.columns)} if q.columns else {})
            for q in self.questions
        )
        return write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def split_questions(
    questions: QuestionSet,
    *,
    train: float | int,
    calibration: float | int,
    test: float | int,
    seed: int = 0,
    group: str | None = None,
) -> dict[str, QuestionSet]:
    """Cut a set into ``train``, ``calibration`` and ``test``, reproducibly and with no content in two of them."""
    raise NotImplementedError


def refuse_leakage(**splits: QuestionSet) -> None:
    """Raise :class:`LeakageError` when the same content stands in two splits."""
    raise NotImplementedError


def drop_leaked(keep: QuestionSet, drop_from: QuestionSet) -> QuestionSet:
    """``drop_from`` without the questions that also stand in ``keep``; they are listed in its ``skipped``."""
    raise NotImplementedError


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing when no known word is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def clean(text: str) -> str:
    """The text in Unicode NFC with white space collapsed: two options that are equal here are the same option."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _fault(q: Question) -> tuple[str, str] | None:
    if not isinstance(q.id, str) or not q.id:
        return f"the id {q.id!r}", "give each question a non-empty id of its own"
    if not isinstance(q.text, str) or not q.text.strip():
        return "an empty question text", "write the question, or leave the row out"
    if not isinstance(q.choices, tuple) or not all(isinstance(c, str) for c in q.choices):
        return f"options {q.choices!r}", "give the options as a tuple of strings"
    if not MIN_OPTIONS <= len(q.choices) <= MAX_OPTIONS:
        return f"{len(q.choices)} options", f"give between {MIN_OPTIONS} and {MAX_OPTIONS} options"
    if blank := [i for i, c in enumerate(q.choices) if not c.strip()]:
        return f"option {blank[0]} (0-based) is empty", "write every option, or leave the row out"
    first: dict[str, int] = {}
    for i, choice in enumerate(q.choices):
        if (j := first.setdefault(clean(choice), i)) != i:
            return f"options {j} and {i} (0-based) are both {choice!r}", "correct the repeated option, or leave the row out"
    if isinstance(q.answer, bool) or not isinstance(q.answer, int):
        return f"the answer {q.answer!r}", "give the 0-based index of the correct option"
    if not 0 <= q.answer < len(q.choices):
        return f"answer {q.answer} for {len(q.choices)} options", f"give an index from 0 to {len(q.choices) - 1}"
    if not (q.subject is None or isinstance(q.subject, str)):
        return f"the subject {q.subject!r}", "give a string or None"
    return None


def _shown(items: Sequence[str]) -> str:
    more = f"; and {len(items) - PAIRS_SHOWN} more" if len(items) > PAIRS_SHOWN else ""
    return f"{len(items)}: " + "; ".join(items[:PAIRS_SHOWN]) + more
