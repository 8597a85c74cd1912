"""``Question`` and ``QuestionSet``: what is asked, and which questions may be in one split.

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
from typing import Any, overload

import numpy as np

from calibrant.errors import ConfigError, LeakageError, QuestionError
from calibrant.files import read_lines, write_lines

MIN_OPTIONS, MAX_OPTIONS = 2, 26
PAIRS_SHOWN = 5
ONE_PLACE = 20
"""Questions from which on it is no chance that all correct options stand in one place: 1 in 500,000 of two each."""
SPLIT_NAMES = ("train", "calibration", "test")
TYPOGRAPHY = str.maketrans(
    dict.fromkeys("‘’‚‛ʼ´`‹›", "'") | dict.fromkeys("“”„‟«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Parameters
    ----------
    id : the user's name for it, unique within a set.
    text : the question itself, without the options.
    choices : 2 to 26 option texts in the order shown. No option is blank and no two are equal; equality is judged after
        Unicode NFC with white space collapsed, case kept, because ``m`` and ``M``, or ``10²`` and ``102``, are
        different answers.
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
        plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in self.columns.items()}
        object.__setattr__(self, "columns", plain)  # of an array: JSON has no such numbers
        object.__setattr__(self, "answer", int(self.answer))

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the text and the sorted options; option order and answer do not matter.

        Both are normalised before: Unicode NFKC, case folded, white space collapsed, quotes and dashes made straight,
        and ``. : ; , ? _ -`` cut from the end. So a repeat that differs only in typography is found, while ``J << a``
        and ``J >> a`` stay apart; two questions which differ only in case or in a superscript look alike.
        """
        content = [folded(self.text), *sorted(map(folded, self.choices))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Skipped:
    """A row that is not a question: ``where`` it stands (``"file.jsonl line 12"``) and the ``reason``."""

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
                found=shown([f"{name!r} at positions {a} and {b}" for a, b, name in pairs]),
                todo="give each question its own id",
            )

    def __repr__(self) -> str:
        """In a line; the questions themselves are in the attributes."""
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"<QuestionSet {self.name!r}: {len(self)} questions{left_out}>"

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> QuestionSet: ...
    def __getitem__(self, index: int | slice) -> Question | QuestionSet:
        """A question, or a set of those of a slice; as with :meth:`subset`, the skipped rows stay with the whole set."""
        return QuestionSet(self.name, self.questions[index]) if isinstance(index, slice) else self.questions[index]

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
        rows = (
            {"id": q.id, "question": q.text, "choices": q.choices, "answer": q.answer, "subject": q.subject}
            | ({"columns": dict(q.columns)} if q.columns else {})
            for q in self.questions
        )
        return write_lines(path, rows)

    @classmethod
    def load(cls, path: str | Path) -> QuestionSet:
        """What :meth:`save` wrote, whatever repeats in it; files of others are for ``load_questions``."""
        names = {"question": "text"}
        rows = ({names.get(k, k): v for k, v in row.items()} for row in read_lines(path))
        return cls(Path(path).stem, tuple(Question(**{**row, "choices": tuple(row["choices"])}) for row in rows))


def question_set(questions: Iterable[Question], name: str = "questions") -> QuestionSet:
    """A set as it is; questions in a sequence as a set of that name. What holds no questions is refused.

    Raises
    ------
    QuestionError : a path, rows that are not read yet, or anything else.

    >>> question_set([Question("q", "Up?", ("yes", "no"), 1)], "mine").name
    'mine'
    """
    if isinstance(questions, QuestionSet):
        return questions
    sequence = isinstance(questions, Iterable) and not isinstance(questions, str)
    items: tuple[Any, ...] = tuple(questions) if sequence else (questions,)
    wrong = [item for item in items if not isinstance(item, Question)]
    if wrong or not sequence:
        raise QuestionError(
            asked=f"a QuestionSet, or a sequence of Question, for {name!r}",
            found=f"{type(wrong[0]).__name__} {str(wrong[0])[:80]!r}" if wrong else "one Question by itself",
            todo="read files, rows and data sets with calibrant.load_questions(...), and give what it returns",
        )
    return QuestionSet(name, items)


def split_questions(
    questions: Sequence[Question],
    *,
    train: float,
    calibration: float,
    test: float,
    seed: int = 0,
    group: str | None = None,
) -> dict[str, QuestionSet]:
    """Cut a set into ``train``, ``calibration`` and ``test``, reproducibly and with no content in two of them.

    Questions of equal content are one unit; with ``group`` so are all questions that share the value of that column.
    Units are ordered by SHA-256 of seed and unit, whatever the order of the file, and dealt to the splits in turn, so
    rows added later move only few of the others. A unit of several questions goes whole to the split in which it
    begins, so with ``group`` the sizes are approximate. Within a split the order of the file is kept.

    Parameters
    ----------
    questions : the whole set.
    train, calibration, test : the size of each split: an ``int`` counts questions, a ``float`` is a fraction of the
        set. Questions beyond the three sizes are in no split.
    seed : another seed gives another split.
    group : a column, or ``"subject"``, whose questions must stay together, e.g. the entity that they ask about.

    Raises
    ------
    QuestionError : sizes that are negative, together more than there is, or would leave a wanted split empty; a
        question without the group column.

    >>> rows = tuple(Question(str(i), f"What is {i} + 1?", (str(i), str(i + 1)), 1) for i in range(10))
    >>> parts = split_questions(QuestionSet("sums", rows), train=0.6, calibration=0.2, test=0.2)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 6, 'calibration': 2, 'test': 2}
    """
    questions = question_set(questions)
    ends = _ends(len(questions), (train, calibration, test))
    parts: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    dealt = 0
    for unit in _units(questions, seed, group):
        at = sum(dealt >= end for end in ends)
        if at < len(SPLIT_NAMES):
            parts[SPLIT_NAMES[at]].extend(unit)
        dealt += len(unit)
    for name, size in zip(SPLIT_NAMES, (train, calibration, test), strict=True):
        if size and not parts[name]:
            raise QuestionError(
                asked=f"a {name} split of {size} from {questions.name!r}",
                found=f"{len(questions)} questions do not reach so far",
                todo="give more questions, smaller groups, or other sizes",
            )
    return {name: questions.subset(sorted(at), f"{questions.name}-{name}") for name, at in parts.items()}


def refuse_leakage(**splits: QuestionSet) -> None:
    """Raise :class:`LeakageError`, naming the pairs, when the same content is in two splits.

    Two questions are the same when their :attr:`Question.content_hash` is; repeats within one split are not looked at.

    >>> a = QuestionSet("a", (Question("a1", "Up?", ("yes", "no"), 0),))
    >>> refuse_leakage(train=a, test=QuestionSet("b", ()))
    """
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, split in splits.items():
        for q in split:
            other, other_id = first.setdefault(q.content_hash, (name, q.id))
            if other != name:
                pairs.append(f"{other_id!r} of {other} = {q.id!r} of {name}")
    if pairs:
        raise LeakageError(
            asked=f"splits without a common question ({', '.join(splits)})",
            found=shown(pairs),
            todo="take them out of one split by name (drop_leaked(keep, drop_from), --skip-bad), or split again",
        )


def drop_leaked(keep: QuestionSet, drop_from: QuestionSet) -> QuestionSet:
    """``drop_from`` without the questions that are also in ``keep``; they are listed in its ``skipped``."""
    kept_ids = {q.content_hash: q.id for q in keep}
    leaked = [q for q in drop_from if q.content_hash in kept_ids]
    reasons = tuple(
        Skipped(f"{drop_from.name} id {q.id!r}", f"also in {keep.name!r} (id {kept_ids[q.content_hash]!r})")
        for q in leaked
    )
    questions = tuple(q for q in drop_from if q.content_hash not in kept_ids)
    return QuestionSet(drop_from.name, questions, drop_from.skipped + reasons)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing when no known word is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def clean(text: str) -> str:
    """The text in Unicode NFC with white space collapsed: two options that are equal here are the same option."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def shown(items: Sequence[str]) -> str:
    """How many there are and what the first of them are."""
    more = f"; and {len(items) - PAIRS_SHOWN} more" if len(items) > PAIRS_SHOWN else ""
    return f"{len(items)}: " + "; ".join(items[:PAIRS_SHOWN]) + more


def folded(text: str) -> str:
    """A text as the content hash sees it."""
    straight = text.translate(TYPOGRAPHY)  # before NFKC, which takes some of them apart, and after, for what it makes
    plain = " ".join(unicodedata.normalize("NFKC", straight).casefold().translate(TYPOGRAPHY).split())
    return plain.rstrip(" .:;,?_-") or plain


def _ends(n: int, sizes: tuple[float, float, float]) -> list[int]:
    """Where each split ends, counted in questions; fractions are rounded on their running sum."""
    good = all(isinstance(size, int | float | np.number) and size >= 0 and not isinstance(size, bool) for size in sizes)
    whole = [isinstance(size, int | np.integer) for size in sizes]
    fractions = [0.0 if is_whole else size for size, is_whole in zip(sizes, whole, strict=True)]
    counts = [int(size) if is_whole else 0 for size, is_whole in zip(sizes, whole, strict=True)]
    good = good and sum(fractions) <= 1 + 1e-9
    ends = [round(sum(fractions[:i]) * n) + sum(counts[:i]) for i in (1, 2, 3)] if good else []
    if not good or ends[-1] > n:
        raise QuestionError(
            asked=f"splits of {', '.join(map(repr, sizes))} ({', '.join(SPLIT_NAMES)})",
            found=f"{n} questions",
            todo="give whole numbers that add up to at most that, or fractions that add up to at most 1.0",
        )
    return ends


def _units(questions: QuestionSet, seed: int, group: str | None) -> list[list[int]]:
    """Positions that must stay together, in the order in which they are dealt."""
    parent = list(range(len(questions)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, q in enumerate(questions):
        for key in (q.content_hash, *([_group_key(q, group)] if group else [])):
            parent[root(i)] = root(first.setdefault(key, i))
    units: dict[int, list[int]] = {}
    for i in range(len(questions)):
        units.setdefault(root(i), []).append(i)

    def rank(unit: list[int]) -> str:
        key = min(_group_key(questions[i], group) if group else questions[i].content_hash for i in unit)
        return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()

    return sorted(units.values(), key=rank)


def _group_key(q: Question, group: str) -> str:
    value = q.subject if group == "subject" else q.columns.get(group)
    if value is None:
        raise QuestionError(
            asked=f"questions grouped by {group!r}",
            found=f"question {q.id!r} without it (columns: {', '.join(q.columns) or 'none'})",
            todo="give every question that column, or group by another",
        )
    return f"{group}={json.dumps(value, sort_keys=True)}"


def _fault(q: Any) -> tuple[str, str] | None:
    if not isinstance(q.id, str) or not q.id:
        return f"the id {q.id!r}", "give each question a non-empty id of its own"
    if not isinstance(q.text, str) or not q.text.strip():
        return "an empty question text", "write the question"
    if not isinstance(q.choices, tuple) or not all(isinstance(c, str) for c in q.choices):
        return f"options {q.choices!r}", "give the options as a tuple of strings"
    if not MIN_OPTIONS <= len(q.choices) <= MAX_OPTIONS:
        return f"{len(q.choices)} options", f"give between {MIN_OPTIONS} and {MAX_OPTIONS} options"
    if blank := [i for i, c in enumerate(q.choices) if not c.strip()]:
        return f"option {blank[0]} (0-based) is empty", "write every option"
    first: dict[str, int] = {}
    for i, choice in enumerate(q.choices):
        if (j := first.setdefault(clean(choice), i)) != i:
            return f"options {j} and {i} (0-based) are both {choice!r}", "correct the repeated option"
    beside = json.dumps(dict(q.columns), ensure_ascii=False, skipkeys=True, default=str) if q.columns else ""
    texts = (q.id, q.text, *q.choices, q.subject or "", beside)
    if any("\ud800" <= c <= "\udfff" for text in texts for c in str(text)):
        return "half of a surrogate pair, which is not a character", "correct the text's encoding"
    if isinstance(q.answer, bool) or not isinstance(q.answer, int | np.integer):
        return f"the answer {q.answer!r}", "give the 0-based index of the correct option"
    if not 0 <= q.answer < len(q.choices):
        return f"answer {q.answer} for {len(q.choices)} options", f"give an index from 0 to {len(q.choices) - 1}"
    if not (q.subject is None or isinstance(q.subject, str)):
        return f"the subject {q.subject!r}", "give a string or None"
    return None


def groups_of(questions: QuestionSet, column: str) -> list[Any]:
    """The group of each question: its subject, or a column's value; ``None`` where there is none."""
    return [q.subject if column == "subject" else q.columns.get(column) for q in questions]


def check_cluster(cluster: str | None, measured: Mapping[str, QuestionSet]) -> None:
    """Before hours are spent: each question must name its group."""
    if cluster is None:
        return
    for name, questions in measured.items():
        unnamed = [q.id for q, group in zip(questions, groups_of(questions, cluster), strict=True) if group is None]
        if unnamed:
            raise ConfigError(
                asked=f"intervals that resample whole groups by {cluster!r}",
                found=f"{len(unnamed)} of {len(questions)} questions of {name!r} name none, first {unnamed[0]!r}",
                todo="give each question that column, or leave cluster out",
            )
