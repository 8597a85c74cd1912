"""Drawn orders of options. (Turned ones: test_sensitivity.)"""

from __future__ import annotations

from collections import Counter

from scipy.stats import chisquare

from calibrant.orders import shuffle_options
from calibrant.questions import Question, QuestionSet


def sums(n: int) -> QuestionSet:
    rows = (Question(f"q{i}", f"{i} + 1?", (str(i + 1), str(i), str(i + 2), "none"), 0) for i in range(n))
    return QuestionSet("sums", tuple(rows))


def test_the_answer_moves_along_and_every_place_is_as_likely() -> None:
    before, after = sums(2000), shuffle_options(sums(2000))
    assert [q.choices[q.answer] for q in after] == [q.choices[0] for q in before]
    assert [q.content_hash for q in after] == [q.content_hash for q in before]
    assert [q.id for q in after] == [q.id for q in before]
    counts = Counter(q.answer for q in after)
    assert chisquare([counts[place] for place in range(4)]).pvalue > 0.001


def test_the_drawn_order_does_not_depend_on_the_order_before_or_on_other_questions() -> None:
    whole = shuffle_options(sums(50))
    turned = QuestionSet("turned", tuple(Question(q.id, q.text, q.choices[::-1], 3) for q in sums(50)[30:]))
    assert [q.choices for q in shuffle_options(turned)] == [q.choices for q in whole[30:]]
    assert [q.choices for q in shuffle_options(sums(50), seed=1)] != [q.choices for q in whole]
