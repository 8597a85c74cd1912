"""Columns of known data sets, answers in every notation, and the user's own column names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.errors import QuestionError
from calibrant.intake import load_questions
from calibrant.questions import Question
from calibrant.sources import answer_index, fields_of, numeral

LABELLED = {"text": ["rock", "air", "iron"], "label": ["A", "B", "C"]}
LAYOUTS: dict[str, dict[str, Any]] = {
    "native": {"id": "1", "question": "Magnetic?", "choices": ["rock", "air", "iron"], "answer": 2},
    "arc": {"id": "1", "question": "Magnetic?", "choices": LABELLED, "answerKey": "C"},
    "arc numbered": {
        "id": "1",
        "question": "Magnetic?",
        "choices": {"text": ["rock", "air", "iron"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
    "openbookqa": {"id": "1", "question_stem": "Magnetic?", "choices": LABELLED, "answerKey": "C"},
    "released": {
        "id": "1",
        "question": {
            "stem": "Magnetic?",
            "choices": [{"text": t, "label": n} for t, n in zip(LABELLED["text"], "ABC", strict=True)],
        },
        "answerKey": "C",
    },
    "mapping of letters": {
        "id": "1",
        "question": "Magnetic?",
        "options": {"A": "rock", "B": "air", "C": "iron"},
        "answer_idx": "C",
    },
    "json cell": {"id": "1", "question": "Magnetic?", "choices": json.dumps(LABELLED), "answerKey": "C"},
    "letters": {"id": "1", "question": "Magnetic?", "A": "rock", "B": "air", "C": "iron", "D": "", "answer": "c"},
    "choice_a": {
        "id": "1",
        "question": "Magnetic?",
        "choice_a": "rock",
        "choice_b": "air",
        "choice_c": "iron",
        "answer": "2",
    },
    "option from 0": {
        "id": "1",
        "question": "Magnetic?",
        "option0": "rock",
        "option1": "air",
        "option2": "iron",
        "label": 2,
    },
    "option from 1": {
        "id": "1",
        "question": "Magnetic?",
        "Option 1": "rock",
        "Option 2": "air",
        "Option 3": "iron",
        "Option 4": None,
        "answer": "iron",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_layouts_give_the_same_question(layout: str) -> None:
    assert load_questions([LAYOUTS[layout]])[0] == Question("1", "Magnetic?", ("rock", "air", "iron"), 2)


def test_commonsenseqa_and_qasc_keep_their_further_columns() -> None:
    row = {"id": "1", "question": "x?", "question_concept": "stone", "choices": LABELLED, "answerKey": "B"}
    assert load_questions([row])[0].columns == {"question_concept": "stone"}
    row = {"id": "1", "question": "x?", "choices": LABELLED, "answerKey": "B", "fact1": "f", "fact2": "g"}
    assert load_questions([row])[0].columns == {"fact1": "f", "fact2": "g"}


def test_mmlu_rows_have_no_id_and_a_subject() -> None:
    row = {"question": "x?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 3}
    assert load_questions([row], name="mmlu-test")[0] == Question(
        "mmlu-test-1", "x?", ("a", "b", "c", "d"), 3, "anatomy"
    )


def test_medmcqa_counts_from_0_and_takes_its_subject() -> None:
    row = {
        "id": "m",
        "question": "x?",
        "opa": "a",
        "opb": "b",
        "opc": "c",
        "opd": "d",
        "cop": 1,
        "choice_type": "single",
    }
    got = load_questions([row | {"subject_name": "Anatomy", "exp": None}])[0]
    assert got == Question("m", "x?", ("a", "b", "c", "d"), 1, "Anatomy", {"choice_type": "single", "exp": None})


def test_piqa() -> None:
    row = {"goal": "Dry a dish", "sol1": "with water", "sol2": "with a towel", "label": 1}
    assert load_questions([row], name="piqa")[0] == Question("piqa-1", "Dry a dish", ("with water", "with a towel"), 1)


@pytest.mark.parametrize("label", ["", None, -1])
def test_rows_of_a_test_split_without_labels_are_refused(label: object) -> None:
    with pytest.raises(QuestionError, match="answer"):
        load_questions([{"goal": "x", "sol1": "a", "sol2": "b", "label": label}])


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "choices", "expected"),
    [
        (0, "ab", 0),
        (1.0, "ab", 1),
        ("1", ["x", "y"], 1),
        ("1.0", ["x", "y"], 1),
        (" b ", ["x", "y"], 1),
        ("B", ["x", "y"], 1),
        ("y", ["x", "y"], 1),
        ("Paris", ["Lyon", "Paris "], 1),
        ("A", ["A", "B"], 0),  # letter and text agree
        ("0", ["0", "1"], 0),  # number and text agree
        (2, ["2", "1", "0"], 2),  # a JSON number is an index, never a text
        ("7", ["6", "7"], 1),  # no index, so only the text fits
    ],
)
def test_answers_that_have_one_reading(answer: Any, choices: list[str], expected: int) -> None:
    assert answer_index(answer, list(choices)) == expected


@pytest.mark.parametrize(("answer", "choices"), [("1", ["1", "2"]), ("A", ["B", "A"]), ("a", ["x", "a"])])
def test_answers_whose_readings_disagree_are_refused_not_guessed(answer: str, choices: list[str]) -> None:
    with pytest.raises(QuestionError, match=r"is option . as .* but option . as an option's text"):
        answer_index(answer, choices)


def test_a_base_settles_numbers_and_leaves_letters_alone() -> None:
    assert answer_index("1", ["1", "2"], base=0) == 1
    assert answer_index("1", ["1", "2"], base=1) == 0
    assert answer_index("B", ["x", "y"], base=1) == 1
    with pytest.raises(QuestionError, match="answer 0 for 2 options"):
        answer_index(0, ["x", "y"], base=1)


def test_labels_rule_over_letters_and_texts() -> None:
    assert answer_index("A", ["x", "A"], ["B", "A"]) == 1
    assert answer_index("x", ["x", "y"], ["1", "2"]) == 0
    with pytest.raises(QuestionError, match="labels 1, 2"):
        answer_index("0", ["x", "y"], ["1", "2"])


@given(st.lists(st.text("xyz1A", min_size=1, max_size=2), min_size=2, max_size=5, unique=True), st.data())
def test_an_accepted_answer_always_points_at_what_was_meant(choices: list[str], data: st.DataObject) -> None:
    """Whoever means option i writes its index, letter or text; what has another reading is refused."""
    i = data.draw(st.integers(0, len(choices) - 1))
    meant = {str(i), "ABCDE"[i], choices[i]}
    for answer in meant:
        readings = {j for j, c in enumerate(choices) if answer in (str(j), "ABCDE"[j], "abcde"[j], c)}
        if readings == {i}:
            assert answer_index(answer, choices) == i
        else:
            with pytest.raises(QuestionError):
                answer_index(answer, choices)


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "٣", "9" * 400, "nan", "--1"])
def test_texts_that_are_no_whole_number(text: str) -> None:
    assert numeral(text) is None


def wide(answers: str) -> list[dict[str, str]]:
    return [
        {"question": f"Number {i}?", "A": "w", "B": "x", "C": "y", "D": "z", "answer": a} for i, a in enumerate(answers)
    ]


def test_a_file_that_counts_from_1_is_refused_even_when_bad_rows_may_be_skipped() -> None:
    """Skipping the rows with answer 4 would read all the others one option too far."""
    with pytest.raises(QuestionError, match=r"(?s)answer '4' for 4 options.*'answer_base': 1"):
        load_questions(wide("4231"))
    with pytest.raises(QuestionError, match="no answer is 0 and 1 equal the number of options"):
        load_questions(wide("4231"), skip_bad=True)
    assert [q.answer for q in load_questions(wide("4231"), columns={"answer_base": 1})] == [3, 1, 2, 0]
    assert [q.answer for q in load_questions(wide("0231"))] == [0, 2, 3, 1]
    assert len(load_questions(wide("04"), skip_bad=True)) == 1  # a 0 proves that 4 is a fault


def test_numbers_beside_columns_numbered_from_1_need_a_base() -> None:
    row = {"question": "x?", "option_1": "a", "option_2": "b", "answer": "1"}
    with pytest.raises(QuestionError, match="numbered from 1"):
        load_questions([row])
    assert load_questions([row], columns={"answer_base": 1})[0].answer == 0
    assert load_questions([row], columns={"answer_base": 0})[0].answer == 1


# ---- unknown layouts and the user's own names -----------------------------------------------------------------------


def test_an_unknown_layout_lists_the_columns_found_and_wanted() -> None:
    with pytest.raises(QuestionError) as caught:
        load_questions([{"qestion": "x?", "choices": ["a", "b"], "answer": 0}])
    assert caught.value.found == "columns qestion, choices, answer; did you mean 'question'?"
    with pytest.raises(QuestionError, match="columns of a known layout"):
        fields_of({"text": "x?", "score": 1})


@pytest.mark.parametrize(
    "row",
    [
        {"question": "x?", "A": "a", "C": "c", "answer": "A"},  # a gap
        {"question": "x?", "B": "b", "C": "c", "answer": "B"},  # does not begin at A
        {"question": "x?", "A": "a", "B": "b", "choice_a": "c", "choice_b": "d", "answer": "A"},  # two families
        {"question": "x?", "A": "a", "answer": "A"},  # one option column
    ],
)
def test_option_columns_that_leave_doubt_are_no_layout(row: dict[str, str]) -> None:
    with pytest.raises(QuestionError, match="columns question"):
        load_questions([row])


def test_an_empty_option_between_others_is_a_fault() -> None:
    with pytest.raises(QuestionError, match=r"option 1 \(0-based\) is empty"):
        load_questions([{"question": "x?", "A": "a", "B": "", "C": "c", "answer": "A"}])


def test_columns_name_everything_and_lose_nothing() -> None:
    row = {
        "nr": 7,
        "stem": "x?",
        "r": "a",
        "w": "b",
        "v": "",
        "gold": 1,
        "field": "maths",
        "id": "old",
        "question": "why",
    }
    names = {"id": "nr", "question": "stem", "choices": ["r", "w", "v"], "answer": "gold", "subject": "field"}
    got = load_questions([row], columns=names | {"answer_base": 1})[0]
    assert got == Question("7", "x?", ("a", "b"), 0, "maths", {"id": "old", "question": "why"})


def test_columns_may_name_one_list_column_and_leave_the_rest_as_known() -> None:
    row = {"question": "x?", "possible": ["a", "b"], "answer": 1}
    assert load_questions([row], columns={"choices": "possible"})[0].choices == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"anwser": "gold"}, "did you mean 'answer'"),
        ({"answer_base": 2}, "'answer_base': 2"),
        ({"answer_base": True}, "'answer_base': True"),
        ({"question": []}, "'question'"),
        ({"question": ["a", 1]}, "'question'"),
        ({"choices": [1, 2]}, "'choices'"),
        ({"answer": "god"}, "did you mean 'gold'"),
    ],
)
def test_a_wrong_mapping_of_columns_is_refused(columns: dict[str, Any], found: str) -> None:
    with pytest.raises(QuestionError, match=found):
        load_questions([{"question": "x?", "choices": ["a", "b"], "gold": 0}], columns=columns)


def test_rows_of_data_frames_hold_arrays() -> None:
    """As ``pandas.read_parquet(file).to_dict("records")`` gives them."""
    row = {"question": "Magnetic?", "choices": np.array(["rock", "air", "iron"], dtype=object), "answer": np.int64(2)}
    labelled = {"text": np.array(["rock", "air", "iron"]), "label": np.array(["A", "B", "C"])}
    for one in (row, {"question": "Magnetic?", "choices": labelled, "answerKey": "C"}):
        (found,) = load_questions([one])
        assert (found.choices, found.answer) == (("rock", "air", "iron"), 2)


def test_numbers_that_no_float_holds_stay_texts(tmp_path: Path) -> None:
    long = "7" * 5000
    (tmp_path / "q.csv").write_text(f"question,A,B,answer,huge,far\nUp?,yes,no,A,{long},1e999\nDown?,yes,no,B,1,2\n")
    questions = load_questions(tmp_path / "q.csv")
    assert [q.columns for q in questions] == [{"huge": long, "far": "1e999"}, {"huge": "1", "far": "2"}]
    assert load_questions(questions.save(tmp_path / "again.jsonl")).questions == questions.questions


def test_the_answer_may_be_named_as_one_of_the_columns_of_the_options() -> None:
    """Numbers as options: the column says which is right, and no number is read as an index."""
    rows = [
        {"stem": f"How many moons has planet {i}?", "right": i, "wrong1": i + 1, "wrong2": i + 3} for i in range(30)
    ]
    columns = {"question": "stem", "choices": ["right", "wrong1", "wrong2"], "answer": "right"}
    found = load_questions(rows, columns=columns)
    assert [q.choices[q.answer] for q in found] == [str(i) for i in range(30)]
    assert {q.answer for q in found} == {0, 1, 2}
    assert all(q.columns == {} for q in found)
    turned = load_questions(rows, columns={**columns, "choices": ["wrong2", "right", "wrong1"]})
    assert [(q.choices, q.answer) for q in turned] == [(q.choices, q.answer) for q in found]


def test_answers_that_are_texts_are_read_as_texts_alone() -> None:
    rows = [
        {"question": "Twice 1?", "A": "2", "B": "1", "C": "3", "answer": "2"},
        {"question": "Blood of all?", "A": "B", "B": "A", "C": "0", "answer": "B"},
    ]
    for row in rows:
        with pytest.raises(QuestionError, match=r"'text' where answers are|'answer_base': 'text'"):
            load_questions([row])
    assert [q.answer for q in load_questions(rows, columns={"answer_base": "text"})] == [0, 0]
    with pytest.raises(QuestionError, match="give the text of an option"):
        load_questions([{**rows[0], "answer": "7"}], columns={"answer_base": "text"})


def test_a_text_is_no_label_where_answers_are_texts() -> None:
    """Nor the other way round, but in a column of keys."""
    row = {"question": "Blood of all?", "choices": {"text": ["B", "A"], "label": ["A", "B"]}, "answer": "B"}
    with pytest.raises(QuestionError, match="option 1 as a label but option 0 as an option's text"):
        load_questions([row])
    assert load_questions([row], columns={"answer_base": "text"})[0].answer == 0
    assert load_questions([{**row, "answerKey": row.pop("answer")}])[0].answer == 1


def test_several_columns_make_the_text_of_a_question() -> None:
    """RACE asks about an article."""
    row = {"article": "Ada ate.", "question": "Who ate?", "options": ["Ada", "Bob"], "answer": "A", "year": 1}
    (question,) = load_questions([row], columns={"question": ["article", "question"]})
    assert question.text == "Ada ate.\n\nWho ate?"
    assert question.columns == {"year": 1}


def test_options_that_a_table_cannot_leave_out_are_absent() -> None:
    """A struct of a Parquet file holds all labels; a column with gaps holds 3.0 for 3."""
    row = {"question": "Up?", "options": {"A": "x", "B": "y", "C": None}, "answer": "B"}
    assert load_questions([row])[0].choices == ("x", "y")
    wide = {"question": "Up?", "A": 1, "B": 2, "C": 3.0, "D": float("nan"), "answer": "C"}
    assert load_questions([wide])[0].choices == ("1", "2", "3")


def test_a_named_column_that_is_blank_or_a_base_beside_it_is_refused() -> None:
    columns = {"question": "q", "choices": ["wrong", "silly", "right"], "answer": "right"}
    row = {"q": "Up?", "right": "yes", "wrong": "no", "silly": None}
    with pytest.raises(QuestionError, match="a blank cell in 'right', the column of the correct options"):
        load_questions([{**row, "right": " ", "silly": "so"}], columns=columns)
    with pytest.raises(QuestionError, match="which would not be used"):
        load_questions([row], columns={**columns, "answer_base": 1})


def test_a_missing_number_of_an_array_is_no_option() -> None:
    columns = {"question": "q", "choices": ["a", "b", "c"], "answer": "gold"}
    row = {"q": "2?", "a": np.float32(2), "b": np.float32(3), "c": np.float32("nan"), "gold": np.float32(1)}
    (found,) = load_questions([row], columns=columns)
    assert (found.choices, found.answer) == (("2.0", "3.0"), 1)
