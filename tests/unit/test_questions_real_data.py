"""Intake finds exactly the known faults of public question sets."""

from __future__ import annotations

import functools
import os
from itertools import combinations
from pathlib import Path

import pytest

from calibrant.errors import LeakageError, QuestionError
from calibrant.intake import load_questions
from calibrant.questions import QuestionSet, drop_leaked, refuse_leakage, split_questions

DATA = Path(os.environ.get("CALIBRANT_DATA", Path(__file__).parents[2] / "../shared/data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="public question sets are not at hand (CALIBRANT_DATA)")

# rows, rows with duplicate options, rows that repeat an earlier one. A coarser hash, blind to all punctuation, counts
# 115 repeats in the MMLU test split, but three of them differ in meaning: Q(sqrt(2) + sqrt(3)), Q(sqrt(2), sqrt(3)) and
# Q(sqrt(2)*sqrt(3)); J << a and J >> a. The fourth is a stray space before a full stop.
EXPECTED = {
    "arc_easy-train": (2251, 0, 0),
    "arc_easy-validation": (570, 0, 0),
    "arc_easy-test": (2376, 0, 0),
    "arc_challenge-train": (1119, 0, 1),
    "arc_challenge-validation": (299, 0, 0),
    "arc_challenge-test": (1172, 0, 0),
    "openbookqa-train": (4957, 3, 43),
    "openbookqa-test": (500, 0, 0),
    "commonsenseqa-train": (9741, 122, 0),
    "commonsenseqa-validation": (1221, 24, 0),
    "mmlu-dev": (285, 1, 1),
    "mmlu-val": (1531, 3, 2),
    "mmlu-test": (14042, 9, 111),
    "medmcqa-train_sample1000": (1000, 2, 0),
    "medmcqa-validation": (4183, 21, 10),
    "qasc-validation": (926, 0, 0),
    "piqa-validation": (1838, 0, 0),
}
SHARED = {
    ("arc_easy-train", "arc_easy-test"): 3,
    ("openbookqa-train", "openbookqa-test"): 14,
    ("mmlu-dev", "mmlu-val"): 1,
    ("mmlu-dev", "mmlu-test"): 5,
    ("mmlu-val", "mmlu-test"): 28,
}


@functools.cache
def load(name: str) -> QuestionSet:
    return load_questions(DATA / f"{name}.jsonl.gz", skip_bad=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_row_is_a_question_or_a_known_fault(name: str) -> None:
    rows, duplicate_options, repeats = EXPECTED[name]
    reasons = [s.reason for s in load(name).skipped]
    assert sum("are both" in reason for reason in reasons) == duplicate_options
    assert sum("repeats the content" in reason for reason in reasons) == repeats
    assert len(reasons) == duplicate_options + repeats
    assert len(load(name)) + len(reasons) == rows


def test_splits_share_exactly_the_known_questions() -> None:
    hashes = {name: {q.content_hash for q in load(name)} for name in EXPECTED}
    found = {(a, b): len(hashes[a] & hashes[b]) for a, b in combinations(EXPECTED, 2) if hashes[a] & hashes[b]}
    assert found == SHARED


def test_a_set_with_faults_is_refused_unless_they_may_be_skipped() -> None:
    with pytest.raises(LeakageError, match=r"found: 1: arc_challenge-train\.jsonl\.gz line \d+"):
        load_questions(DATA / "arc_challenge-train.jsonl.gz")
    with pytest.raises(QuestionError, match="are both"):
        load_questions(DATA / "medmcqa-validation.jsonl.gz")


def test_leaks_between_train_and_test_are_refused_and_can_be_dropped_by_name() -> None:
    train, test = load("openbookqa-train"), load("openbookqa-test")
    with pytest.raises(LeakageError, match="found: 14: "):
        refuse_leakage(train=train, test=test)
    clean = drop_leaked(keep=test, drop_from=train)
    refuse_leakage(train=clean, test=test)
    assert len(clean) + len(clean.skipped) == 4957


@pytest.mark.parametrize("name", ["mmlu-test", "mmlu-val"])
def test_a_line_separator_inside_a_question_does_not_cut_it(name: str) -> None:
    """One question of each split holds U+0085, at which ``str.splitlines`` would cut the line in two."""
    assert sum("\x85" in text for q in load(name) for text in (q.text, *q.choices)) == 1


def test_a_real_set_splits_without_a_common_question() -> None:
    parts = split_questions(load("arc_easy-train"), train=1000, calibration=500, test=0.25)
    assert [len(part) for part in parts.values()] == [1000, 500, 563]  # 0.25 of 2,251 = 562.75
    refuse_leakage(**parts)
