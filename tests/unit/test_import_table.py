"""Tables of option probabilities become Scores: names of columns, kinds of file, answers, and what is refused."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from calibrant.errors import ScoresError
from calibrant.importing import import_table
from calibrant.metrics import compare
from calibrant.questions import Question
from calibrant.scores import Scores

P = [[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]


def csv(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(table, **options):
    with pytest.raises(ScoresError) as caught:
        import_table(table, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("p_0", "p_1", "p_2"),
        ("p_1", "p_2", "p_3"),
        ("p_a", "p_b", "p_c"),
        ("prob_A", "prob_B", "prob_C"),
        ("P0", "P1", "P2"),
        ("A", "B", "C"),
    ],
)
def test_option_columns_are_found_by_their_names(tmp_path, names):
    s = import_table(csv(tmp_path, ",".join([*names, "answer"]) + "\n.7,.2,.1,A\n.25,.5,.25,c\n"))
    assert s.p_NK == pytest.approx(np.array(P))
    assert s.answer_N.tolist() == [0, 2]
    assert s.provenance["columns"] == list(names)


def test_bare_letters_are_probabilities_only_where_nothing_else_is(tmp_path):
    """In the layout of MMLU they are the options' texts."""
    path = csv(tmp_path, "question,A,B,p_0,p_1,answer\nWhere?,here,there,.7,.3,A\n")
    assert import_table(path).provenance["columns"] == ["p_0", "p_1"]
    assert "columns question, B, C, answer" in refusal(csv(tmp_path, "question,B,C,answer\nWhere?,.7,.3,B\n"))


def test_option_columns_in_any_order_go_by_number_and_named_ones_as_named(tmp_path):
    path = csv(tmp_path, "p_2,p_0,p_1,answer\n.1,.7,.2,0\n")
    assert import_table(path).p_NK[0] == pytest.approx(P[0])
    assert import_table(path, probabilities=["p_2", "p_0", "p_1"]).p_NK[0] == pytest.approx([0.1, 0.7, 0.2])


def test_logarithms_are_normalised():
    """e^-1 : e^-2 = .7311 : .2689."""
    s = import_table({"logp_0": [-1.0], "logp_1": [-2.0], "answer": [0]})
    assert s.p_NK[0] == pytest.approx([0.7311, 0.2689], abs=1e-4)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path, kind):
    path = tmp_path / f"table.{kind}"
    head, cells = (
        ["id", "subject", "p_0", "p_1", "p_2", "answer", "level"],
        [["a", "x", 0.7, 0.2, 0.1, 0, "easy"], ["b", "y", 0.5, 0.5, None, 1, "hard"]],
    )
    mark = "\t" if kind == "tsv" else ","
    text = "\n".join(mark.join("" if c is None else str(c) for c in row) for row in [head, *cells])
    if kind == "parquet":
        pyarrow.parquet.write_table(
            pyarrow.table(dict(zip(head, map(list, zip(*cells, strict=True)), strict=True))), path
        )
    elif kind == "jsonl":
        import json

        path.write_text("\n".join(json.dumps(dict(zip(head, row, strict=True))) for row in cells))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    s = import_table(path, split="test")
    assert s.p_NK == pytest.approx(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]))
    assert s.k_N.tolist() == [3, 2]
    assert (s.ids, s.subjects) == (("a", "b"), ("x", "y"))
    assert s.answer_N.tolist() == [0, 1]
    assert s.columns == {"level": ("easy", "hard")}
    assert Scores.load(s.save(tmp_path / "s.safetensors")).columns == s.columns


def test_arrays_in_memory_and_columns_by_name():
    s = import_table(
        {
            "first": np.array([0.9, 0.5]),
            "second": np.array([0.1, 0.5]),
            "gold": np.array([0, 1]),
            "name": ["q", "r"],
            "field": ["x", None],
        },
        probabilities=["first", "second"],
        answer="gold",
        id="name",
        subject="field",
    )
    assert s.p_NK == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert (s.ids, s.subjects, s.columns) == (("q", "r"), ("x", None), {})


def test_mass_of_the_options_is_kept(tmp_path):
    s = import_table(csv(tmp_path, "p_0,p_1,answer,logmass\n.5,.5,0,-0.1\n.5,.5,1,\n"))
    assert s.logmass_N[0] == -0.1
    assert np.isnan(s.logmass_N[1])


def test_question_and_options_in_the_table_give_our_hash(tmp_path):
    path = csv(tmp_path, "question,A,B,answer,p_0,p_1\nCapital of France?,Lyon,Paris,B,.4,.6\n")
    s = import_table(path)
    assert s.hashes == (Question("q", "Capital of France?", ("Lyon", "Paris"), 1).content_hash,)
    assert s.columns["question"] == ("Capital of France?",)


def test_dates_are_kept_as_text(tmp_path):
    import datetime

    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"p_0": [1.0], "p_1": [0.0], "answer": [0], "day": [datetime.date(2026, 1, 2)]}), path
    )
    s = import_table(path)
    assert s.columns["day"] == ("2026-01-02",)
    s.save(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("p_0,p_1,gold\n.5,.5,0\n", "column 'answer'"),
        ("x,y,answer\n.5,.5,0\n", "say which they are with probabilities"),
        ("p_0,p_2,answer\n.5,.5,0\n", "say which they are with probabilities"),
        ("p_0,p_1,logp_0,logp_1,answer\n.5,.5,-1,-1,0\n", "several sets of options"),
        ("p_0,p_1,answer\n.5,half,0\n", "'half' in table.csv line 2"),
        ("p_0,p_1,answer\n.5,nan,0\n", "'nan' in table.csv line 2"),
        (
            "logp_0,logp_1,answer\n-1,-2,0\n-inf,-inf,0\n",
            "table.csv line 3\nfound: no option with a probability above 0",
        ),
        ("p_0,p_1,answer\n.5,.5,0\n\n.5,.4,0\n", "table.csv line 4\nfound: a sum of 0.9: .5, .4"),
        ("p_0,p_1,answer\n1.5,-.5,0\n", "table.csv line 2\nfound: a number outside [0, 1]: 1.5, -.5"),
        ("p_0,p_1,p_2,answer\n.5,,.5,0\n", "a blank cell before the last option: .5, blank, .5"),
        (
            "logp_0,logp_1,logp_2,answer\n-1,,-2,0\n",
            "line 2\nfound: a blank cell before the last option: -1, blank, -2",
        ),
        ("p_0,p_1,answer\n1,,0\n", "at least two options"),
        ("p_0,p_1,answer\n.5,.5,\n", "the correct option in table.csv line 2"),
        ("p_0,p_1,answer\n.5,.5,yes\n", "found: 'yes'"),
        ("p_0,p_1,answer\n.5,.5,C\n", "answer 'C' for 2 options"),
        ("p_0,p_1,answer\n.5,.5,0\n.5,.5,-1\n", "answer '-1' for 2 options"),
        ("p_0,p_1,answer\n.5,.5,1\n.5,.5,2\n", "subtract 1 from the answers"),
        ("p_1,p_2,answer\n.5,.5,1\n.5,.5,1\n", "subtract 1 from the answers"),
        ("p_0,p_1,answer,id\n.5,.5,1,a\n.5,.5,0,a\n", "'a' in table.csv line 2 and table.csv line 3"),
        ("p_0,p_1,answer\n.5,.5\n", "2 cells under 3 columns in table.csv line 2"),
        ("p_0,p_1,answer\n,,0\n.5,.5,0\n", "0 in table.csv line 2"),
        ("p_0,p_1,answer\n", "no rows"),
    ],
)
def test_faults_are_refused_with_their_place(tmp_path, text, told):
    message = refusal(csv(tmp_path, text))
    assert told in message
    assert message.startswith("asked: ")


def test_columns_numbered_from_one_are_read_when_an_answer_is_zero(tmp_path):
    s = import_table(csv(tmp_path, "p_1,p_2,answer\n.5,.5,0\n.5,.5,1\n"))
    assert s.answer_N.tolist() == [0, 1]


def test_no_such_file_and_no_such_type(tmp_path):
    csv(tmp_path, "p_0,p_1,answer\n.5,.5,0\n", "scores.csv")
    assert "did you mean 'scores.csv'" in refusal(tmp_path / "score.csv")
    assert "file type '.xlsx'" in refusal(csv(tmp_path, "", "scores.xlsx"))
    assert "1 in p_0, 2 in p_1" in refusal({"p_0": [1], "p_1": [0, 0]})
    assert "did you mean 'answers'" in refusal({"p_0": [1], "p_1": [0], "answers": [0]})


def test_options_and_columns_that_only_later_rows_have_are_not_lost(tmp_path):
    rows = [
        {"id": "a", "logp_0": -1.0, "logp_1": -2.0, "answer": 0},
        {"id": "b", "logp_0": -1.0, "logp_1": -3.0, "logp_2": -0.1, "answer": 2, "kind": "long"},
    ]
    path = csv(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "table.jsonl")
    s = import_table(path)
    assert (s.k_N.tolist(), s.prediction_N.tolist(), s.columns["kind"]) == ([2, 3], [0, 2], (None, "long"))
    backwards = import_table(csv(tmp_path, "".join(json.dumps(row) + "\n" for row in rows[::-1]), "back.jsonl"))
    assert np.array_equal(backwards.logp_NK[::-1], s.logp_NK)


def test_cells_of_a_text_table_stand_for_what_json_would_hold(tmp_path):
    text = csv(tmp_path, "p_0,p_1,answer,entity,length,code\n.6,.4,0,x,3,007\n.6,.4,0,,12,1\n.6,.4,1,y,4.5,2\n")
    columns = import_table(text).columns
    assert columns == {"entity": ("x", None, "y"), "length": (3, 12, 4.5), "code": ("007", "1", "2")}


def test_a_blank_id_is_the_number_of_its_row_and_a_bad_line_has_its_place(tmp_path):
    good = [{"id": "a", "p_a": 0.7, "p_b": 0.3, "answer": 0}, {"p_a": 0.7, "p_b": 0.3, "answer": 1}]
    lines = "".join(json.dumps(row) + "\n" for row in good)
    assert import_table(csv(tmp_path, lines, "ids.jsonl")).ids == ("a", "1")
    assert "in bad.jsonl line 3" in refusal(csv(tmp_path, lines + "{oops\n", "bad.jsonl"))


def test_a_column_of_lists_is_a_column_an_option(tmp_path):
    lists, answers = [[0.7, 0.2, 0.1], [0.4, 0.6]], ["A", "b"]
    wanted = import_table({"p_0": [0.7, 0.4], "p_1": [0.2, 0.6], "p_2": [0.1, float("nan")], "answer": answers})
    text = csv(tmp_path, 'probs,A,B,answer\n"[0.7, 0.2, 0.1]",Paris,Rome,A\n[0.4   0.6],Bern,Oslo,b\n')
    jsonl = tmp_path / "table.jsonl"
    rows = [{"mine": cell, "answer": answer} for cell, answer in zip(lists, answers, strict=True)]
    jsonl.write_text("\n".join(map(json.dumps, rows)))
    arrays = {"probs": [np.array(cell) for cell in lists], "answer": answers}
    for found in (import_table(text), import_table(jsonl, probabilities="mine"), import_table(arrays)):
        assert found.k_N.tolist() == [3, 2]
        assert found.answer_N.tolist() == [0, 1]
        np.testing.assert_array_equal(found.logp_NK, wanted.logp_NK)
    assert import_table(text).columns["A"] == ("Paris", "Bern")
    logs = import_table({"logprobs": np.log([[0.7, 0.3]]), "answer": [0]})
    assert logs.confidence_N.tolist() == pytest.approx([0.7])


def test_a_column_of_lists_with_other_cells_is_refused(tmp_path):
    path = csv(tmp_path, "probs,answer\n[.5 .5],0\n.5,0\n")
    assert "found: '.5' in table.csv line 3" in refusal(path)
    assert "did you mean 'probs'" in refusal(path, probabilities="prob")
    assert "found: 0 in table.csv line 3" in refusal(csv(tmp_path, "probs,answer\n[.5 .5],0\n,0\n"))
    assert "found: 'half' in table.csv line 2" in refusal(csv(tmp_path, "probs,answer\n[half .5],0\n"))
    assert "a blank cell before the last option" in refusal(csv(tmp_path, 'probs,answer\n"[.4,,.6]",1\n'))
    assert "found: '(.7, .3]' in table.csv line 2" in refusal(
        csv(tmp_path, 'probs,answer\n"(.7, .3]",0\n'), probabilities="probs"
    )
    assert "found: 0 in table.csv line 2" in refusal(csv(tmp_path, "probs,answer\n,0\n[.5 .5],0\n"))
    both = "several sets of options"
    assert both in refusal({"A": [0.7], "B": [0.3], "logprobs": [[-0.4, -3.0, -4.1]], "answer": ["A"]})


def test_gaps_of_frames_and_lists_are_absent_options_and_no_subjects():
    frame = pytest.importorskip("pandas").DataFrame(
        {"p_a": [0.7, 0.4], "p_b": [0.2, 0.6], "p_c": [0.1, None], "answer": ["A", "B"], "subject": ["x", None]}
    )
    lists = {"probs": [[0.7, 0.2, 0.1], [0.4, 0.6, float("nan")]], "answer": ["A", "B"], "subject": ["x", float("nan")]}
    for table in (frame, lists):
        found = import_table(table)
        assert (found.k_N.tolist(), found.subjects) == ([3, 2], ("x", None))


@pytest.mark.parametrize("dtype", ["Float64", "object"])
def test_pandas_own_missing_cell_is_an_absent_option(dtype):
    pandas = pytest.importorskip("pandas")
    third = pandas.array([0.1, pandas.NA], dtype=dtype)
    frame = pandas.DataFrame({"p_a": [0.7, 0.4], "p_b": [0.2, 0.6], "p_c": third, "answer": ["A", "B"]})
    assert import_table(frame).k_N.tolist() == [3, 2]
    assert "a blank cell before the last option: 0.4, blank, 0.6" in refusal(
        frame[["p_a", "p_c", "p_b", "answer"]], probabilities=["p_a", "p_c", "p_b"]
    )


def test_what_is_no_table_and_what_is_no_logarithm_is_refused():
    assert "no list in answer" in refusal({"p": [[0.7, 0.3]], "answer": 0})
    assert "list of two column names" in refusal({"p": [[0.7, 0.3]], "answer": [0]}, probabilities=3)
    assert "a logarithm of a probability above 0" in refusal({"logprobs": [[0.7, 0.3]], "answer": [0]})


def test_the_hash_needs_no_answer_column_of_that_name():
    table = {"question": ["Up?"], "choices": [["yes", "no"]], "p_a": [0.7], "p_b": [0.3]}
    named, ours = import_table({**table, "gold": ["A"]}, answer="gold"), import_table({**table, "answer": ["A"]})
    assert named.hashes == ours.hashes == (Question("q", "Up?", ("yes", "no"), 0).content_hash,)


@pytest.mark.parametrize("names", [[], ["p_0"], [0, 1]])
def test_columns_of_the_options_are_two_names_or_more(tmp_path, names):
    path = csv(tmp_path, "p_0,p_1,answer\n.5,.5,0\n")
    assert "give a list of two column names or more" in refusal(path, probabilities=names)


def test_the_probabilities_of_columns_a_and_b_are_no_option_texts(tmp_path):
    """Two models on the same questions: what is compared are questions, not the numbers under A and B."""
    one = csv(tmp_path, "id,question,A,B,answer\nx,Which?,.7,.3,A\ny,Or which?,.6,.4,B\n")
    before, after = import_table(one), import_table({**MAPPING, "A": [0.6, 0.5], "B": [0.4, 0.5]})
    assert before.hashes == after.hashes == ("", "")
    assert compare(before, after)["mean_confidence"].value == pytest.approx(0.55 - 0.65)


MAPPING = {"id": ["x", "y"], "question": ["Which?", "Or which?"], "answer": ["A", "B"]}


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_data_frame_is_a_table(library):
    columns = {"p_0": [0.7, 0.4], "p_1": [0.3, 0.6], "answer": [0, 1], "7": ["a", "b"]}
    frame = pyarrow.table(columns) if library == "pyarrow" else pytest.importorskip("pandas").DataFrame(columns)
    s = import_table(frame)
    assert s.p_NK == pytest.approx(np.array([[0.7, 0.3], [0.4, 0.6]]))
    assert s.columns["7"] == ("a", "b")


def test_a_folder_is_told_from_a_missing_file_and_a_table_from_scores(tmp_path):
    (tmp_path / "odd.csv").mkdir()
    assert "found: a folder" in refusal(tmp_path / "odd.csv")
    table = csv(tmp_path, "p_0,p_1,answer\n.5,.5,0\n")
    with pytest.raises(ScoresError, match="score --from-table"):
        Scores.load(table)


def test_rows_that_were_rounded_are_divided_by_their_sum_and_counted(tmp_path):
    s = import_table(csv(tmp_path, "p_0,p_1,p_2,answer\n.33,.33,.33,0\n.34,.34,.33,1\n.7,.2,.1,2\n"))
    assert s.p_NK == pytest.approx(np.array([[1 / 3] * 3, [0.34 / 1.01, 0.34 / 1.01, 0.33 / 1.01], [0.7, 0.2, 0.1]]))
    assert s.provenance["rows_rounded"] == 2
    assert import_table({f"p_{i}": np.array([0.33], np.float32) for i in range(3)} | {"answer": [0]}).n == 1
    assert "a sum of 1.03" in refusal(csv(tmp_path, "p_0,p_1,p_2,answer\n.34,.35,.34,0\n"))
    assert "a sum of 1.1" in refusal(csv(tmp_path, "p_0,p_1,answer\n.9,.2,0\n"))  # one digit is not a rounding
    assert "a sum of 1.002" in refusal({"p_0": [0.5011], "p_1": [0.5009], "answer": [0]})


def test_an_answer_may_be_the_name_of_its_column():
    table = {"p_yes": [0.7, 0.4, 0.4], "p_no": [0.3, 0.6, 0.6], "answer": ["no", "P_NO", "A"]}
    assert import_table(table, probabilities=["p_yes", "p_no"]).answer_N.tolist() == [1, 1, 0]
    turned = {"p_b": [0.7], "p_a": [0.3], "answer": ["b"]}
    cases = {"yes": [0.7, 0.7], "Yes": [0.3, 0.3], "answer": ["yes", "Yes"]}
    assert import_table(cases, probabilities=["yes", "Yes"]).answer_N.tolist() == [0, 1]
    assert import_table(turned, probabilities=["p_b", "p_a"]).answer_N.tolist() == [0]
    assert (
        import_table({"alpha": [0.7], "alps": [0.3], "answer": ["alps"]}, probabilities=["alpha", "alps"]).answer_N == 1
    )


def test_confidences_alone_are_told_what_they_are_good_for(tmp_path):
    told = refusal(csv(tmp_path, "question,prediction,confidence,correct\nUp?,yes,.8,1\n"))
    assert "calibrant.metrics has conf_ece" in told
    assert "calibrant.metrics has" not in refusal(csv(tmp_path, "x,y,answer\n.5,.5,0\n"))
