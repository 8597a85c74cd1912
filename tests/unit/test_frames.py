"""Data frames, lists of mappings and mappings of splits: what Python users hold in memory."""

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from calibrant.errors import QuestionError, ScoresError
from calibrant.importing import import_table
from calibrant.intake import load_questions

ROWS = [
    {"id": "sky", "question": "Sky?", "choices": ["red", "blue"], "answer": 1, "year": 2020},
    {"id": "sea", "question": "Sea?", "choices": ["wet", "dry"], "answer": 0, "year": 2021},
]
SCORED = [{"id": "a", "p_a": 0.7, "p_b": 0.3, "answer": 0}, {"id": "b", "p_a": 0.4, "p_b": 0.6, "answer": 1}]


def frames(rows):
    frame = pd.DataFrame(rows)
    return [frame, frame.set_index("id"), frame.set_index("id", drop=False), pa.Table.from_pylist(rows)]


@pytest.mark.parametrize("place", range(4))
def test_a_data_frame_holds_questions_and_a_named_index_their_ids(place):
    found = load_questions(frames(ROWS)[place])
    assert (found.name, found.questions) == ("questions", load_questions(ROWS).questions)


@pytest.mark.parametrize("place", range(4))
def test_a_data_frame_holds_scores_and_a_named_index_their_ids(place):
    scores = import_table(frames(SCORED)[place])
    assert (scores.ids, scores.answer_N.tolist(), scores.p_NK[0].round(6).tolist()) == (("a", "b"), [0, 1], [0.7, 0.3])


def test_an_index_of_several_levels_is_several_columns():
    frame = pd.DataFrame([{**row, "task": "t"} for row in SCORED]).set_index(["task", "id"])
    scores = import_table(frame)
    assert (scores.ids, scores.columns["task"]) == (("a", "b"), ("t", "t"))


def test_a_list_of_mappings_or_a_data_set_is_a_table():
    for table in (SCORED, datasets.Dataset.from_list(SCORED), iter(SCORED)):
        assert import_table(table).ids == ("a", "b")
    mixed = [SCORED[0], {"p_a": 0.2, "p_b": 0.3, "p_c": 0.5, "answer": 2}]
    assert import_table(mixed).k_N.tolist() == [2, 3]


@pytest.mark.parametrize("table", [3, None, ["table.csv"], [[0.7, 0.3]]])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ScoresError, match="a list of mappings, one a question"):
        import_table(table)


def test_two_columns_of_one_name_are_refused():
    frame = pd.DataFrame([[0.7, 0.3, 0]], columns=["p_a", "p_a", "answer"])
    with pytest.raises(ScoresError, match="'p_a' twice"):
        import_table(frame)
    with pytest.raises(QuestionError, match="'p_a' twice"):
        load_questions(frame)


@pytest.mark.parametrize("kind", [list, pd.DataFrame, datasets.Dataset.from_list])
def test_a_mapping_of_data_sets_has_splits(kind):
    both = {"train": kind(ROWS[:1]), "test": kind(ROWS[1:])}
    for source in (both, datasets.DatasetDict(both)) if kind is datasets.Dataset.from_list else (both,):
        found = load_questions(source, split="test")
        assert (found.name, [q.id for q in found]) == ("questions-test", ["sea"])
        with pytest.raises(
            QuestionError, match=r"found: the splits train, test\nto do: choose one, e\.g\. split='train'"
        ):
            load_questions(source)
        with pytest.raises(QuestionError, match="the splits train, test"):
            load_questions(source, split="val")
    assert load_questions({"test": both["test"]})[0].id == "sea"


def test_a_mapping_of_something_else_is_refused():
    for source in (ROWS[0], {"question": ["Sky?"], "answer": [1]}, {}):
        with pytest.raises(QuestionError, match="give a list of mappings, one a question"):
            load_questions(source)
    with pytest.raises(QuestionError, match="no revisions"):
        load_questions({"test": ROWS}, revision="main")
