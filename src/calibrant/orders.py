"""Orders of a question's options: turned round, or drawn."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from calibrant.errors import QuestionError, only_numbers
from calibrant.questions import Question, QuestionSet, clean


def cyclic_permutations(questions: QuestionSet, k: int) -> tuple[QuestionSet, ...]:
    """The questions in ``k`` orders of their options: shift s = 0 … k - 1 moves option j to ``(j + s) mod K_i``.

    The answer moves along; ids and content hashes stay. A question with ``K_i < k`` options comes back to an order that it
    had; k = the largest number of options brings every option of every question to every position.

    >>> q = Question("q", "Up?", ("yes", "no", "both"), 1)
    >>> [(turned[0].choices, turned[0].answer) for turned in cyclic_permutations(QuestionSet("one", (q,)), 2)]
    [(('yes', 'no', 'both'), 1), (('both', 'yes', 'no'), 2)]
    """
    only_numbers(whole=True, k=k)
    if k < 1:
        raise QuestionError(asked=f"questions in {k} orders of their options", found="no order", todo="give 1 or more")

    def turned(q: Question, shift: int) -> Question:
        n = len(q.choices)
        choices = tuple(q.choices[(j - shift) % n] for j in range(n))
        return replace(q, choices=choices, answer=(q.answer + shift) % n)

    return tuple(replace(questions, questions=tuple(turned(q, shift) for q in questions)) for shift in range(k))


def shuffle_options(questions: QuestionSet, seed: int = 0) -> QuestionSet:
    """The questions with their options in an order drawn for each: by SHA-256 of seed, question and option, whatever the order
    before. The answer moves along; ids and content hashes stay.

    For sets whose correct option always stands in one place: letters read from them measure that place.

    >>> rows = [Question(str(i), f"{i} + 1?", (str(i + 1), str(i), "none"), 0) for i in range(300)]
    >>> [sum(q.answer == place for q in shuffle_options(QuestionSet("sums", tuple(rows)))) for place in range(3)]
    [104, 99, 97]
    """
    return replace(questions, questions=tuple(with_options_shuffled(q, seed) for q in questions))


def with_options_shuffled(question: Question, seed: int = 0) -> Question:
    """One question as :func:`shuffle_options` gives it."""

    def drawn(place: int) -> bytes:
        text = f"{seed}\n{question.content_hash}\n{clean(question.choices[place])}"
        return hashlib.sha256(text.encode()).digest()

    order = sorted(range(len(question.choices)), key=drawn)
    choices = tuple(question.choices[place] for place in order)
    return replace(question, choices=choices, answer=order.index(question.answer))
