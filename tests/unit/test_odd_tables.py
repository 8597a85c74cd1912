"""Tables as users have them: cells that must not merge, values of numpy and pandas, one question asked of many texts."""

import json

import numpy as np
import pandas as pd
import pytest

from calibrant import Question, QuestionSet, Scores, Temperature, diagnose, load_questions
from calibrant.importing import import_table
from calibrant.metrics import slices
from calibrant.scalers import cross_validated

REVIEWS = "id,review,question,A,B,p_a,p_b,answer"


def csv(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_sections_that_differ_in_a_trailing_zero_stay_apart(tmp_path):
    sections = ("1.1", "1.10", "1.2")
    rows = [f"q{i},.9,.1,{'AB'[i % 2]},{sections[i % 3]}" for i in range(12)]
    scores = import_table(csv(tmp_path / "t.csv", "id,p_a,p_b,answer,section", rows))
    assert set(scores.columns["section"]) == set(sections)
    assert {part.name: part.n for part in slices(scores, "section")} == dict.fromkeys(sections, 4)
    plain = import_table(csv(tmp_path / "p.csv", "id,p_a,p_b,answer,price", ["a,.9,.1,A,1.10", "b,.9,.1,A,2.30"]))
    assert plain.columns["price"] == (1.1, 2.3)


def test_slices_by_subject_are_those_of_the_subject_that_clusters_have(tmp_path):
    rows = [
        {"question": f"q{i}", "A": "x", "B": "y", "answer": "A", "subject": "medicine", "topic": f"t{i % 2}"}
        for i in range(4)
    ]
    questions = load_questions(rows, columns={"subject": "topic"})
    assert dict(questions[0].columns) == {"subject": "medicine"}
    scores = Scores.from_probs(
        [[0.7, 0.3]] * 4, [0] * 4, subjects=[q.subject for q in questions], columns={"subject": ["medicine"] * 4}
    )
    assert sorted(part.name for part in slices(scores, "subject")) == ["t0", "t1"]


def reviews(path, first, n=60):
    rng = np.random.default_rng(first)
    p = rng.uniform(0.05, 0.95, n)
    rows = [f"r{first + i},review {first + i},Positive?,yes,no,{x},{1 - x},{'AB'[i % 2]}" for i, x in enumerate(p)]
    return import_table(csv(path, REVIEWS, rows))


def test_one_question_asked_of_many_texts_is_many_questions(tmp_path):
    cal, test = reviews(tmp_path / "cal.csv", 0), reviews(tmp_path / "test.csv", 1000)
    assert set(cal.hashes) == {""}
    fitted = Temperature().fit(cal)
    assert fitted.apply(test).n == 60  # not "60 of them were used to fit the scaler"
    assert cross_validated(Temperature(), cal).n == 60
    assert diagnose(cal, n_boot=50).n == 60


def test_a_question_that_truly_repeats_keeps_its_content(tmp_path):
    asked = ("Capital of France?", "capital of  FRANCE", "Capital of Italy?")
    rows = [f"{i},{text},Paris,Rome,.6,.4,A" for i, text in enumerate(asked)]
    scores = import_table(csv(tmp_path / "t.csv", "id,question,A,B,p_a,p_b,answer", rows))
    assert scores.hashes[0] == scores.hashes[1] != scores.hashes[2]
    assert "" not in scores.hashes


def test_values_of_pandas_that_stand_for_nothing_are_nothing():
    frame = pd.DataFrame(
        {
            "p_a": [0.7, 0.4],
            "p_b": [0.3, 0.6],
            "answer": ["A", "B"],
            "subject": pd.array(["law", None], dtype="string"),
            "day": pd.to_datetime(["2020-01-01", None]),
            "year": pd.array([2020, None], dtype="Int64"),
        }
    )
    scores = import_table(frame)
    assert scores.subjects == ("law", None)
    assert scores.columns["year"] == (2020, None)
    assert scores.columns["day"][1] is None
    asked = frame.drop(columns=["p_a", "p_b"]).assign(question=["q", "r"], A=["a", "b"], B=["c", "d"])
    questions = load_questions(asked.to_dict("records"))
    assert [q.subject for q in questions] == ["law", None]
    assert [q.columns["year"] for q in questions] == [2020, None]
    assert questions[1].columns["day"] is None


def test_numbers_of_numpy_are_numbers(tmp_path):
    own = {"year": np.int64(3), "right": np.bool_(True), "share": np.float32(0.5)}
    (one,) = load_questions([{"question": "q", "choices": ["a", "b"], "answer": np.int64(1), **own}])
    assert dict(one.columns) == {"year": 3, "right": True, "share": 0.5}
    assert [type(v) for v in one.columns.values()] == [int, bool, float]
    made = QuestionSet("s", (Question("q", "q", ("a", "b"), 0, columns=own),))
    assert json.loads(made.save(tmp_path / "q.jsonl").read_text())["columns"] == {
        "year": 3,
        "right": True,
        "share": 0.5,
    }
    table = import_table({"p_a": [0.5], "p_b": [0.5], "answer": ["A"], "year": [np.int64(7)]})
    assert table.columns["year"] == (7,)


@pytest.mark.parametrize("extra", ["n", "t", "x", "q"])
def test_a_column_of_one_small_letter_beside_capital_options_is_no_option(extra):
    (one,) = load_questions([{"question": "Q?", "A": "x", "B": "y", extra: 3, "answer": "B"}])
    assert (one.choices, one.answer, dict(one.columns)) == (("x", "y"), 1, {extra: 3})
