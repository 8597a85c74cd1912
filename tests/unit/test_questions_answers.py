"""What an answer means where labels, several columns or named columns leave a doubt: settled by the row, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from calibrant.errors import QuestionError
from calibrant.intake import load_questions


def test_a_number_beside_labels_is_an_index() -> None:
    """As in sets that say the labels and count the answer; refused where it is another option's text."""
    row = {"question": "How many?", "choices": {"text": ["one", "two", "six"], "label": ["A", "B", "C"]}, "answer": 1}
    assert [q.answer for q in load_questions([row, {**row, "question": "And?", "answer": "0"}])] == [1, 0]
    assert load_questions([row], columns={"answer_base": 1})[0].answer == 0
    counts = {**row, "choices": {"text": ["1", "2", "3"], "label": ["A", "B", "C"]}}
    with pytest.raises(QuestionError, match="option 0 as an option's text but option 1 as a number from 0"):
        load_questions([counts])
    assert load_questions([counts], columns={"answer_base": 0})[0].answer == 1
    assert load_questions([counts], columns={"answer_base": "text"})[0].answer == 0
    numbered = {**row, "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}}
    for columns in ({}, {"answer_base": 0}):
        assert load_questions([numbered], columns=columns)[0].answer == 0  # the label
    tops = [{**row, "question": f"{i}?", "answer": i} for i in (1, 2, 3)]
    with pytest.raises(QuestionError):
        load_questions(tops)


def test_two_columns_of_answers_must_not_contradict_each_other() -> None:
    """MedQA holds the text and the label of the answer, MMLU-Pro its letter and index."""
    options = {"A": "O", "B": "A", "C": "B", "D": "AB"}
    medqa = {"question": "Blood of whom?", "options": options, "answer": "A", "answer_idx": "B"}
    pro = {"question": "Up?", "options": ["x", "y", "z"], "answer": "C", "answer_index": 2}
    read = [
        (medqa, 1),
        ({**medqa, "answer": None}, 1),
        ({**medqa, "answer": "B", "answer_idx": float("nan")}, None),  # a label and a text, and nothing settles it
        (pro, 2),
        ({**pro, "answer": "It is z, since x and y are not"}, 2),  # fits no option
        ({**pro, "options": ["3", "1", "2"], "answer": "C", "answer_index": "2"}, 2),
        ({**pro, "answer": 0, "answer_index": 17}, 0),  # no index
        ({**pro, "answer_index": ""}, 2),
        ({**medqa, "answer_idx": "C"}, None),
        ({**pro, "answer": "B"}, None),
        ({**pro, "answerKey": "A"}, None),
    ]
    for row, answer in read:
        if answer is not None:
            assert load_questions([row])[0].answer == answer, row
        else:
            with pytest.raises(QuestionError, match="is option"):
                load_questions([row])
    assert load_questions([{**pro, "answer": "B"}], columns={"answer": "answer"})[0].answer == 1
    assert load_questions([{**medqa, "answer_idx": "C"}], columns={"answer": "answer_idx"})[0].answer == 2  # a label
    assert load_questions([{**pro, "answer_index": 1, "answer": "B"}], columns={"answer_base": 1})[0].answer == 1


def test_named_option_columns_that_are_numbered_from_1_leave_numbers_in_doubt() -> None:
    row = {"q": "Up?", "option1": "x", "option2 ": "y", "answer": "1"}
    columns: dict[str, Any] = {"question": "q", "choices": ["option1", "option2 "]}
    with pytest.raises(QuestionError, match="numbered from 1"):
        load_questions([row], columns=columns)
    assert load_questions([row], columns={**columns, "answer_base": 1})[0].answer == 0
    both = load_questions([row, {**row, "q": "Down?", "answer": 0}], columns=columns)
    assert [q.answer for q in both] == [1, 0]  # no count from 1 has a 0
    tens = {"q": "10 + 10?", "o1": "10", "o2": "20", "o3": "30", "answer": "20"}
    assert load_questions([tens], columns={"question": "q", "choices": ["o1", "o2", "o3"]})[0].answer == 1
    with pytest.raises(QuestionError, match="numbered from 1"):
        load_questions([{"question": "Up?", "option1 ": "x", "option2": "y", "answer": 1}])
