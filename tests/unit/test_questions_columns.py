"""Columns that the user names for the options: what such a column may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.alignment.data import load_preferences
from calibrant.errors import QuestionError
from calibrant.intake import load_questions

TRIVIA = {"answer": "correct_answer", "choices": ["correct_answer", "incorrect_answers"]}


@pytest.mark.parametrize(
    "cell", ['["a", "c"]', "['a', 'c']", "[1, 2.5]", "['a' 'c']", "[]", ["a", "c"], ("a", "c"), np.array(["a", "c"])]
)
def test_a_list_in_one_of_several_columns_of_options_is_no_option(cell: Any) -> None:
    """As Open Trivia DB has them, whose wrong answers became one option of that text."""
    row = {"question": "x?", "correct_answer": "b", "incorrect_answers": cell}
    with pytest.raises(QuestionError, match="found: a list in 'incorrect_answers'"):
        load_questions([row], columns=TRIVIA)


def test_such_a_list_in_a_table_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trivia.csv"
    path.write_text('question,correct_answer,incorrect_answers\nx?,b,"[""a"",""c""]"\n', encoding="utf-8")
    with pytest.raises(QuestionError, match=r"trivia\.csv line 2") as caught:
        load_questions(path, columns=TRIVIA)
    assert "one list in one column" in str(caught.value)


def test_options_that_all_read_like_lists_or_only_begin_like_one_are_texts() -> None:
    columns = {"choices": ["one", "two", "three"]}
    for options in (["[1, 2]", "[2, 1]", ""], ["[MASK]", "[a", "b]"], ["[0, 1)", "(0, 1]", "{0}"]):
        row = dict(zip(columns["choices"], options, strict=True)) | {"question": "x?", "answer": "A"}
        assert load_questions([row], columns=columns)[0].choices == tuple(filter(None, options))
    listed = {"question": "x?", "choices": json.dumps(["[0, 1]", "(0, 1)"]), "answer": "A"}
    assert load_questions([listed])[0].choices == ("[0, 1]", "(0, 1)")  # what the error advises


@pytest.mark.parametrize(
    "changes", [{"choices": ["a", "a"]}, {"choices": ["a", ""]}, {"question": ""}, {"question": "\ud800"}]
)
def test_to_leave_rows_out_is_advised_once(changes: dict[str, Any]) -> None:
    with pytest.raises(QuestionError) as caught:
        load_questions([{"question": "x?", "choices": ["a", "b"], "answer": 0} | changes])
    assert caught.value.todo.count("out") == 1
    for chosen in ("yes", " "):
        with pytest.raises(QuestionError) as caught:
            load_preferences([{"prompt": "x?", "chosen": chosen, "rejected": "yes"}])
        assert caught.value.todo.count("out") == 1
