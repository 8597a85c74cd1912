"""Questions, sets, splits and leakage."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.errors import ConfigError, LeakageError, QuestionError
from calibrant.intake import load_questions
from calibrant.questions import (
    Question,
    QuestionSet,
    Skipped,
    clean,
    drop_leaked,
    question_set,
    refuse_leakage,
    split_questions,
)
from calibrant.sets import checked_sets


def question(i: int, **changes: object) -> Question:
    fields = {"id": f"q{i}", "text": f"What is {i} + 1?", "choices": (str(i), str(i + 1)), "answer": 1}
    return Question(**(fields | changes))  # type: ignore[arg-type]


def sums(n: int, start: int = 0) -> QuestionSet:
    return QuestionSet("sums", tuple(question(i) for i in range(start, start + n)))


# ---- one question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"id": ""}, "the id ''"),
        ({"text": " \n"}, "empty question text"),
        ({"choices": ("only",), "answer": 0}, "1 options"),
        ({"choices": tuple(map(str, range(27)))}, "27 options"),
        ({"choices": ("a", " ")}, r"option 1 \(0-based\) is empty"),
        ({"choices": ("a", "b", "a ")}, "options 0 and 2"),
        ({"choices": ("e\u0301", "\u00e9")}, "options 0 and 1"),  # the same letter, composed and decomposed
        ({"choices": ["a", "b"]}, "options"),
        ({"answer": 2}, "answer 2 for 2 options"),
        ({"answer": -1}, "answer -1 for 2 options"),
        ({"answer": True}, "the answer True"),
        ({"answer": "B"}, "the answer 'B'"),
        ({"subject": 3}, "the subject 3"),
    ],
)
def test_an_unusable_question_is_refused_with_its_reason(changes: dict[str, object], found: str) -> None:
    with pytest.raises(QuestionError, match=found) as caught:
        question(1, **changes)
    assert caught.value.todo


def test_two_and_twenty_six_options_are_both_fine() -> None:
    assert len(question(1, choices=("a", "b")).choices) == 2
    assert len(question(1, choices=tuple("abcdefghijklmnopqrstuvwxyz"), answer=25).choices) == 26


@pytest.mark.parametrize("choices", [("m", "M"), ("10²", "102"), ("-5", "5"), ("Ca", "CA")])
def test_options_that_differ_in_meaning_are_not_duplicates(choices: tuple[str, str]) -> None:
    assert question(1, choices=choices).choices == choices


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("What is 1 + 1?", ("2", "1")),
        ("what  IS 1 + 1", ("1.", "2")),
        ("What is\u00a01 + 1 –", ("１", "2")),
    ],
)
def test_content_hash_sees_through_typography_and_option_order(text: str, choices: tuple[str, str]) -> None:
    assert question(1, text=text, choices=choices).content_hash == question(1).content_hash


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "What is 1 - 1?"},
        {"choices": ("1", "3")},
        {"choices": ("1", "2", "3")},
        {"choices": ("1", "-2")},
        {"choices": ('1", "2', "x")},  # no way to move the boundary between options
    ],
)
def test_content_hash_keeps_different_questions_apart(changes: dict[str, object]) -> None:
    assert question(1, **changes).content_hash != question(1).content_hash


def test_content_hash_never_changes_between_releases() -> None:
    """SHA-256 of the JSON list ["what is 1 + 1", "1", "2"], first 16 digits, by ``sha256sum``."""
    assert question(1).content_hash == "a7000dad424f9a74"


# ---- a set ----------------------------------------------------------------------------------------------------------


def test_a_set_is_a_sequence_of_its_questions() -> None:
    some = sums(5)
    assert len(some) == 5
    assert some[0].id == "q0"
    assert [q.id for q in some[3:]] == ["q3", "q4"]
    assert [q.id for q in some.subset([4, 0], "two")] == ["q4", "q0"]


def test_a_slice_of_a_set_is_a_set() -> None:
    whole = sums(5)
    part = whole[1:4]
    assert isinstance(part, QuestionSet)
    assert part.name == "sums"
    assert part == whole.subset([1, 2, 3])
    assert whole[::-1].questions == whole.questions[::-1]
    assert whole[7:].questions == ()


def test_questions_in_a_list_become_a_set_and_anything_else_is_refused() -> None:
    whole = sums(4)
    assert question_set(whole) is whole
    assert question_set(list(whole), "mine") == QuestionSet("mine", whole.questions)
    parts = split_questions(list(whole), train=2, calibration=1, test=1)
    assert [part.name for part in parts.values()] == ["questions-train", "questions-calibration", "questions-test"]
    for wrong in (
        "questions.jsonl",
        Path("questions.jsonl"),
        [{"question": "Up?"}],
        [*whole, "Up?"],
        None,
        5,
        whole[0],
    ):
        with pytest.raises(QuestionError, match=r"(?s)Question, for 'train'.*load_questions"):
            question_set(wrong, "train")  # type: ignore[arg-type]


def test_the_sets_of_a_run_are_checked_together() -> None:
    splits = {"train": list(sums(3)), "calibration": sums(2, 10), "test": sums(2, 20)}
    found, ood = checked_sets(splits, {"far": sums(2, 30)})
    assert list(found) == ["train", "calibration", "test"]
    assert list(ood) == ["far"]
    assert found["train"] == QuestionSet("train", sums(3).questions)
    with pytest.raises(ConfigError, match="validation, which nothing is done with"):
        checked_sets({**splits, "validation": sums(2, 40)}, {})
    with pytest.raises(ConfigError, match="test is the name of a split"):
        checked_sets(splits, {"test": sums(2, 40)})
    with pytest.raises(QuestionError, match="none for train; 1 for far"):
        checked_sets({**splits, "train": []}, {"far": sums(1, 40)})
    with pytest.raises(LeakageError, match="'q20' of test = 'q20' of far"):
        checked_sets(splits, {"far": sums(2, 20)})


def test_two_questions_with_one_id_are_refused_with_their_positions() -> None:
    with pytest.raises(LeakageError, match="'q0' at positions 0 and 2"):
        QuestionSet("x", (question(0), question(1), question(0, text="another")))


def test_digest_depends_on_order_and_content_but_not_on_ids_or_columns() -> None:
    a, b = question(0), question(1)
    base = QuestionSet("x", (a, b)).digest
    assert QuestionSet("y", (question(0, id="other", columns={"c": 1}), b)).digest == base
    assert QuestionSet("x", (b, a)).digest != base
    assert QuestionSet("x", (a, question(1, answer=0))).digest != base
    assert QuestionSet("x", (a, question(1, choices=("2", "1")))).digest != base


words = st.text(min_size=1, max_size=20).filter(lambda s: bool(s.strip()) and s.isprintable())
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda s: bool(clean(s)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def any_question(draw: st.DrawFn, i: int = 0) -> Question:
    choices = draw(st.lists(any_text, min_size=2, max_size=6, unique_by=clean))
    return Question(
        f"id{i}",
        f"{i} {draw(any_text)}",
        tuple(choices),
        draw(st.integers(0, len(choices) - 1)),
        draw(st.none() | words),
        draw(st.dictionaries(st.text(max_size=8), json_values, max_size=3)),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_saved_is_loaded_equal(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 4))
    before = QuestionSet("set", tuple(data.draw(any_question(i)) for i in range(n)))
    path: Path = before.save(tmp_path_factory.mktemp("saved") / "set.jsonl")
    after = load_questions(path)
    assert after == before
    assert after.digest == before.digest
    twice = QuestionSet("set", (*before.questions, replace(before[0], id="once more")))
    assert QuestionSet.load(twice.save(path)) == twice  # which load_questions would refuse


# ---- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((0.6, 0.2, 0.2), (6, 2, 2)),
        ((0.5, 0.25, 0.25), (5, 3, 2)),  # running sums 5, 7.5 -> 8, 10
        ((3, 2, 1), (3, 2, 1)),
        ((0.5, 2, 1), (5, 2, 1)),
        ((10, 0, 0), (10, 0, 0)),
    ],
)
def test_split_sizes_are_counts_or_fractions(sizes: tuple[float, ...], expected: tuple[int, ...]) -> None:
    parts = split_questions(sums(10), train=sizes[0], calibration=sizes[1], test=sizes[2])
    assert tuple(map(len, parts.values())) == expected
    assert [part.name for part in parts.values()] == ["sums-train", "sums-calibration", "sums-test"]


@pytest.mark.parametrize("sizes", [(0.9, 0.2, 0.0), (8, 2, 1), (-1, 1, 1), (True, 1, 1), (float("nan"), 0.1, 0.1)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[float, ...]) -> None:
    with pytest.raises(QuestionError, match="10 questions"):
        split_questions(sums(10), train=sizes[0], calibration=sizes[1], test=sizes[2])


def test_a_wanted_split_that_would_be_empty_is_refused() -> None:
    with pytest.raises(QuestionError, match="calibration split"):
        split_questions(sums(3), train=0.9, calibration=0.01, test=0.09)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 60), st.integers(0, 5), st.randoms(use_true_random=False))
def test_splits_are_disjoint_cover_the_set_and_do_not_depend_on_its_order(
    n: int, seed: int, rng: random.Random
) -> None:
    whole = sums(n)
    parts = split_questions(whole, train=n - 2, calibration=1, test=1, seed=seed)
    refuse_leakage(**parts)
    assert sorted(q.id for part in parts.values() for q in part) == sorted(q.id for q in whole)
    order = list(range(n))
    rng.shuffle(order)
    again = split_questions(whole.subset(order), train=n - 2, calibration=1, test=1, seed=seed)
    assert {k: {q.id for q in v} for k, v in again.items()} == {k: {q.id for q in v} for k, v in parts.items()}


def test_another_seed_gives_another_split() -> None:
    first, second = (split_questions(sums(50), train=25, calibration=10, test=15, seed=s)["train"] for s in (0, 1))
    assert {q.id for q in first} != {q.id for q in second}


def test_rows_added_later_move_few_of_the_others() -> None:
    """1,000 rows, 20 added: a border at fraction f moves by about 20·f·(1-f) rank places, so some tens at most move."""

    def places(n: int) -> dict[str, str]:
        parts = split_questions(sums(n), train=0.6, calibration=0.2, test=0.2)
        return {q.id: name for name, part in parts.items() for q in part}

    before, after = places(1000), places(1020)
    moved = sum(after[name] != place for name, place in before.items())
    assert 0 <= moved <= 30


def test_questions_of_equal_content_never_stand_in_two_splits() -> None:
    """Each content three times, with the options turned, as when the order of options is studied."""
    rows = [
        Question(f"{i}-{turn}", f"Which of {i}?", (*"abc"[turn:], *"abc"[:turn]), 0)
        for i in range(20)
        for turn in range(3)
    ]
    parts = split_questions(QuestionSet("turned", tuple(rows)), train=0.5, calibration=0.2, test=0.3)
    refuse_leakage(**parts)
    assert sum(map(len, parts.values())) == 60


def test_a_group_stays_in_one_split() -> None:
    rows = tuple(question(i, columns={"entity": f"e{i % 7}"}, subject=f"s{i % 5}") for i in range(70))
    for group in ("entity", "subject"):
        parts = split_questions(QuestionSet("x", rows), train=0.5, calibration=0.25, test=0.25, group=group)
        values = [{q.subject if group == "subject" else q.columns["entity"] for q in part} for part in parts.values()]
        assert all(not a & b for a, b in combinations(values, 2))
        assert sum(map(len, parts.values())) == 70


def test_groups_that_share_a_content_are_one_unit() -> None:
    rows = (
        question(0, id="a", columns={"g": 1}),
        question(0, id="b", columns={"g": 2}),
        question(1, columns={"g": 2}),
        *(question(i, columns={"g": i}) for i in range(3, 30)),
    )
    parts = split_questions(QuestionSet("x", rows), train=0.4, calibration=0.3, test=0.3)
    refuse_leakage(**parts)
    for seed in range(10):
        parts = split_questions(QuestionSet("x", rows), train=0.4, calibration=0.3, test=0.3, seed=seed, group="g")
        assert sum({"a", "b", "q1"} <= {q.id for q in part} for part in parts.values()) == 1


def test_a_question_without_the_group_column_is_refused_by_name() -> None:
    with pytest.raises(QuestionError, match="question 'q0' without it"):
        split_questions(sums(3), train=1, calibration=1, test=1, group="entity")


# ---- leakage --------------------------------------------------------------------------------------------------------


def test_leakage_names_the_pairs_and_dropping_them_lists_them() -> None:
    train, test = sums(5), QuestionSet("test", (question(9), question(3, id="t3", text="what is 3 + 1")))
    with pytest.raises(LeakageError, match="1: 'q3' of train = 't3' of test"):
        refuse_leakage(train=train, test=test)
    dropped = drop_leaked(keep=test, drop_from=train)
    refuse_leakage(train=dropped, test=test)
    assert [q.id for q in dropped] == ["q0", "q1", "q2", "q4"]
    assert dropped.skipped == (Skipped("sums id 'q3'", "also in 'test' (id 't3')"),)


def test_many_leaks_are_counted_and_the_first_shown() -> None:
    with pytest.raises(LeakageError, match=r"found: 8: .*; and 3 more"):
        refuse_leakage(a=sums(8), b=sums(8))


# ---- numbers of arrays, typography, encodings -----------------------------------------------------------------------


def test_sizes_and_answers_of_arrays_are_whole_numbers() -> None:
    sizes = {"train": np.int64(1), "calibration": np.int64(2), "test": np.int64(3)}
    parts = split_questions(sums(10), **sizes)
    assert [len(part) for part in parts.values()] == [1, 2, 3]
    assert Question("q", "Up?", ("yes", "no"), np.int64(1)) == Question("q", "Up?", ("yes", "no"), 1)
    assert isinstance(QuestionSet("s", (Question("q", "Up?", ("yes", "no"), np.int64(1)),)).digest, str)
    with pytest.raises(QuestionError, match=r"splits of None, 1, 1"):
        split_questions(sums(10), train=None, calibration=1, test=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [('Is "Haus" one?', "Is „Haus“ one?"), ('Is "so" one?', "Is «so» one?"), ("a - b", "a ― b"), ("don't", "don´t"),
     ("don't", "don`t")],
)  # fmt: skip
def test_a_repeat_in_other_typography_is_found(one: str, other: str) -> None:
    assert question(0, text=one).content_hash == question(1, text=other, choices=question(0).choices).content_hash


def test_half_a_surrogate_pair_in_a_column_is_refused_when_read() -> None:
    with pytest.raises(QuestionError, match="half of a surrogate pair"):
        question(0, columns={"passage": ["cut \ud83d"]})


def test_a_set_is_told_in_a_line():
    assert repr(sums(3)) == "<QuestionSet 'sums': 3 questions>"
    assert repr({"test": replace(sums(2), skipped=(Skipped("row 3", "no answer"),))}) == (
        "{'test': <QuestionSet 'sums': 2 questions, 1 left out>}"
    )
