"""Reading questions: every format, every fault, every row accounted for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.errors import LeakageError, QuestionError
from calibrant.intake import load_questions
from calibrant.questions import Question, QuestionSet, Skipped
from calibrant.sources.readers import read_hub

NAN = float("nan")
GOOD: list[dict[str, Any]] = [
    {"id": "a", "question": "Sky?", "choices": ["red", "blue"], "answer": 1, "subject": "colour", "year": 2020},
    {"id": "b", "question": "Grass?", "choices": ["green", "blue", "red"], "answer": 0, "subject": None, "year": 2021},
]
EXPECTED = (
    Question("a", "Sky?", ("red", "blue"), 1, "colour", {"year": 2020}),
    Question("b", "Grass?", ("green", "blue", "red"), 0, None, {"year": 2021}),
)


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.ndjson", "x.json", "x.JSONL"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    loaded = load_questions(write(tmp_path / name, jsonl(GOOD)))
    assert loaded == QuestionSet("x", EXPECTED)


def test_a_json_list(tmp_path: Path) -> None:
    assert load_questions(write(tmp_path / "x.json", json.dumps(GOOD, indent=1))).questions == EXPECTED


@pytest.mark.parametrize(("name", "tab"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_tables_with_one_column_an_option_and_fewer_options_in_some_rows(tmp_path: Path, name: str, tab: str) -> None:
    lines = ["id,question,A,B,C,answer,subject", "a,Sky?,red,blue,,B,colour", "b,Grass?,green,blue,red,A,"]
    loaded = load_questions(write(tmp_path / name, "\r\n".join(lines).replace(",", tab)))
    assert [(q.choices, q.answer, q.subject) for q in loaded] == [(q.choices, q.answer, q.subject) for q in EXPECTED]


def test_a_table_with_the_options_as_json_in_one_cell(tmp_path: Path) -> None:
    text = 'question,choices,answer\nSky?,"[""red"", ""blue""]",1\n'
    assert load_questions(write(tmp_path / "x.csv", text))[0].choices == ("red", "blue")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "x.parquet")
    assert load_questions(tmp_path / "x.parquet") == QuestionSet("x", EXPECTED)


def test_a_saved_data_set_and_its_splits(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list(GOOD)
    one.save_to_disk(tmp_path / "one")
    assert load_questions(tmp_path / "one") == QuestionSet("one", EXPECTED)
    datasets.DatasetDict({"train": one.select([0]), "test": one.select([1])}).save_to_disk(tmp_path / "two")
    assert load_questions(tmp_path / "two", split="test") == QuestionSet("two-test", EXPECTED[1:])
    assert load_questions(f"{tmp_path / 'two'}[test]") == QuestionSet("two-test", EXPECTED[1:])
    with pytest.raises(QuestionError, match=r"the splits train, test\nto do: choose one, e\.g\. '.*two\[train\]'"):
        load_questions(tmp_path / "two")
    with pytest.raises(QuestionError, match="split 'dev'"):
        load_questions(f"{tmp_path / 'two'}[dev]")
    with pytest.raises(QuestionError, match="two splits"):
        load_questions(f"{tmp_path / 'two'}[test]", split="test")
    odd = write(tmp_path / "odd[test].jsonl", json.dumps(GOOD[0]))
    assert len(load_questions(odd)) == 1  # a file of that name is that file
    with pytest.raises(QuestionError, match="split 'dev'"):
        load_questions(tmp_path / "two", split="dev")
    with pytest.raises(QuestionError, match="without splits"):
        load_questions(tmp_path / "one", split="test")


def test_the_hub_reader_on_a_repository_that_lies_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "repository"
    repository.mkdir()
    write(repository / "test.jsonl", jsonl(GOOD))
    rows = list(read_hub(str(repository), None, None, None))
    assert [row["question"] for _, row in rows] == ["Sky?", "Grass?"]
    assert rows[0][0].endswith("[test] row 1")
    with pytest.raises(QuestionError, match="the splits test"):
        read_hub(str(repository), None, "train", None)


def test_a_hub_data_set_without_connection_is_a_clear_error() -> None:
    code = (
        "from calibrant.errors import QuestionError; from calibrant.intake import load_questions\n"
        "try: load_questions('nobody-at-all/no-such-set:main', split='test')\n"
        "except QuestionError as error: print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=offline, timeout=120)
    assert done.stdout.startswith("asked: questions from the hub data set 'nobody-at-all/no-such-set', config 'main'")
    assert "to do: look at the name" in done.stdout


def test_lists_of_mappings_questions_and_sets() -> None:
    assert load_questions(GOOD).questions == EXPECTED
    assert load_questions(iter(EXPECTED), name="mine") == QuestionSet("mine", EXPECTED)
    theirs = QuestionSet("theirs", EXPECTED, (Skipped("line 3", "no answer"),))
    assert load_questions(theirs) == theirs


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    rows = [{"question": f"one{separator}two?", "choices": [f"a{separator}b", "c"], "answer": 0}]
    assert load_questions(write(tmp_path / "x.jsonl", jsonl(rows)))[0].text == f"one{separator}two?"
    table = io.StringIO()
    csv.writer(table).writerows([["question", "A", "B", "answer"], [f"one{separator}two?", "x", "y", "A"]])
    assert load_questions(write(tmp_path / "x.csv", table.getvalue()))[0].text == f"one{separator}two?"


def test_a_byte_order_mark_blank_lines_and_a_missing_last_line_end_are_no_faults(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + jsonl(GOOD).replace("\n", "\r\n\n").rstrip().encode()
    assert load_questions(write(tmp_path / "x.jsonl", content)).questions == EXPECTED


def test_rows_without_an_id_are_named_after_set_and_row() -> None:
    rows = [{key: value for key, value in row.items() if key != "id"} for row in GOOD]
    assert [q.id for q in load_questions(rows, name="mine")] == ["mine-1", "mine-2"]
    assert [q.id for q in load_questions([GOOD[0] | {"id": 7}])] == ["7"]


def test_columns_that_json_cannot_hold_become_text() -> None:
    import datetime

    row = GOOD[0] | {"day": datetime.date(2020, 1, 2), "nested": {"t": (1, 2)}, "raw": b"x"}
    assert load_questions([row])[0].columns == {
        "year": 2020,
        "day": "2020-01-02",
        "nested": {"t": [1, 2]},
        "raw": "b'x'",
    }


@pytest.mark.parametrize("source", ["x" * 300, '[{"question": "' + "x" * 5000 + '"}]'])
def test_questions_themselves_are_no_name(source: str) -> None:
    with pytest.raises(QuestionError, match="give a file, a folder or a hub id"):
        load_questions(source)


def test_limit_keeps_the_first_questions_but_checks_all() -> None:
    assert load_questions(GOOD, limit=1).questions == EXPECTED[:1]
    with pytest.raises(QuestionError, match="answer 9"):
        load_questions([*GOOD, GOOD[0] | {"id": "c", "answer": 9}], limit=1)
    with pytest.raises(QuestionError, match="nothing to keep"):
        load_questions(GOOD, limit=0)


# ---- faults of rows -------------------------------------------------------------------------------------------------

FAULTS: list[tuple[str, str]] = [
    ('{"question": "x?", "choices": ["a"], "answer": 0}', "1 options"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": 2}', "answer 2 for 2 options"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": -1}', "answer -1 for 2 options"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": "C"}', "answer 'C' for 2 options"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": 0.5}', "answer 0.5 for 2 options"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": null}', "no answer"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": [0]}', "answer [0]"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": true}', "answer True"),
    ('{"question": "x?", "choices": ["a", "a "], "answer": 0}', "options 0 and 1"),
    ('{"question": "x?", "choices": ["a", null], "answer": 0}', "option 1 (0-based) is empty"),
    ('{"question": "x?", "choices": ["a", ["b"]], "answer": 0}', "['b']"),
    ('{"question": "x?", "choices": "a or b", "answer": 0}', "'a or b'"),
    ('{"question": "x?", "choices": 3, "answer": 0}', "'3'"),
    ('{"question": "", "choices": ["a", "b"], "answer": 0}', "empty question text"),
    ('{"question": null, "choices": ["a", "b"], "answer": 0}', "empty question text"),
    ('{"question": "x?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}', "labels A"),
    ('{"question": "x?", "choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"}', "labels A, A"),
    ('{"question": "x?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "E"}', "answer 'E'"),
    ('{"question": "x?", "choices": ["a", "b"]}', "columns question, choices"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": 0', "not JSON"),
    ('["x?", ["a", "b"], 0]', "list"),
    ("{}", "columns none"),
    ('{"question": "x?", "choices": ["a", "b"], "answer": ' + "9" * 5000 + "}", "not JSON"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "found"), FAULTS, ids=[found for _, found in FAULTS])
def test_a_bad_row_is_an_error_with_file_line_and_reason_or_listed_by_name(
    tmp_path: Path, line: str, found: str
) -> None:
    path = write(tmp_path / "x.jsonl", jsonl(GOOD[:1]) + "\n" + line + "\n" + jsonl(GOOD[1:]))
    with pytest.raises(QuestionError) as caught:
        load_questions(path)
    assert caught.value.asked == "a question from x.jsonl line 3"
    assert found in caught.value.found
    assert "skip_bad=True" in caught.value.todo
    loaded = load_questions(path, skip_bad=True)
    assert loaded.questions == EXPECTED
    assert loaded.skipped == (Skipped("x.jsonl line 3", caught.value.found),)


def test_bytes_that_are_not_utf8_are_a_fault_of_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", jsonl(GOOD[:1]).encode() + '{"question": "é"}\n'.encode("latin-1"))
    with pytest.raises(QuestionError, match="is not UTF-8") as caught:
        load_questions(path)
    assert "line 2" in caught.value.asked
    assert len(load_questions(path, skip_bad=True)) == 1


def test_a_table_names_the_line_on_which_a_row_begins(tmp_path: Path) -> None:
    """The first question holds two line ends, so the bad row begins on line 5."""
    text = 'question,A,B,answer\n"one\ntwo\nthree?",x,y,A\nbad?,x,y,Z\nshort?,x\n'
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(QuestionError, match=r"x\.csv line 5"):
        load_questions(path)
    assert load_questions(path, skip_bad=True).skipped == (
        Skipped("x.csv line 5", "answer 'Z' for 2 options"),
        Skipped("x.csv line 6", "2 cells under 4 columns"),
    )


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.jsonl", "", "no rows"),
        ("x.csv", "question,A,B,answer\n", "no rows"),
        ("x.json", "[]", "no rows"),
        ("x.json", "[{}", "Expecting"),
        ("x.csv", 'question,A,B,answer\n"x?,a,b,A\n', "line 2"),
        ("x.csv", "question,A,A,answer\nx?,a,b,A\n", "'A' twice"),
        ("x.csv", b"question,A,B,answer\nx?,\xe9,b,A\n", "another encoding in line 2"),
        ("x.parquet", "no parquet", "not readable"),
        ("x.xlsx", "", "file type '.xlsx'"),
        ("x", "", "file type 'of no suffix'"),
    ],
)
def test_a_bad_file_is_an_error_even_when_rows_may_be_skipped(
    tmp_path: Path, name: str, content: str | bytes, found: str
) -> None:
    path = write(tmp_path / name, content)
    for skip_bad in (False, True):
        with pytest.raises(QuestionError) as caught:
            load_questions(path, skip_bad=skip_bad)
        assert found in caught.value.found


def test_a_cut_off_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl.gz", jsonl(GOOD))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(QuestionError, match="not readable"):
        load_questions(path)


def test_a_file_of_nothing_but_bad_rows_is_an_error_that_shows_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", "{}\n{}\n")
    with pytest.raises(QuestionError, match=r"2 rows, none usable; x\.jsonl line 1: columns none"):
        load_questions(path, skip_bad=True)


def test_a_missing_file_is_an_error_that_offers_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "questions.jsonl", "")
    with pytest.raises(QuestionError, match=r"did you mean 'questions\.jsonl'"):
        load_questions(tmp_path / "question.jsonl")
    with pytest.raises(QuestionError, match="no such file"):
        load_questions("data/none.jsonl")  # looks like owner/name, but ends like a file
    with pytest.raises(QuestionError, match="no such file"):
        load_questions("../none")


def test_a_folder_that_is_no_data_set_is_an_error_that_lists_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "")
    with pytest.raises(QuestionError, match=r"no saved data set but a\.jsonl"):
        load_questions(tmp_path)


def test_a_split_or_revision_that_a_source_cannot_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", jsonl(GOOD))
    for asked in ({"split": "test"}, {"revision": "main"}):
        for source in (path, GOOD):
            with pytest.raises(QuestionError, match=f"a source that has no {next(iter(asked))}s"):
                load_questions(source, **asked)  # type: ignore[arg-type]
    with pytest.raises(QuestionError, match="has no revisions"):
        load_questions(tmp_path, revision="main")


# ---- repeats --------------------------------------------------------------------------------------------------------


def test_repeated_ids_and_contents_are_refused_with_both_places_or_listed(tmp_path: Path) -> None:
    rows = [*GOOD, GOOD[0] | {"question": "Sea?"}, GOOD[1] | {"id": "d", "question": "grass", "answer": 1}]
    path = write(tmp_path / "x.jsonl", jsonl(rows))
    with pytest.raises(LeakageError) as caught:
        load_questions(path)
    assert caught.value.found == (
        "2: x.jsonl line 3 ('a') repeats the id of x.jsonl line 1 ('a'); "
        "x.jsonl line 4 ('d') repeats the content of x.jsonl line 2 ('b')"
    )
    loaded = load_questions(path, skip_bad=True)
    assert loaded.questions == EXPECTED
    assert [s.where for s in loaded.skipped] == ["x.jsonl line 3", "x.jsonl line 4"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(12)), min_size=1, max_size=30))
def test_every_row_becomes_a_question_or_a_named_reason(kinds: list[int]) -> None:
    """Kinds 0 to 7 are good questions (with repeats where drawn twice), 8 to 11 are faults."""
    bad: list[Any] = [{"question": "x?"}, "text", None, GOOD[0] | {"answer": 5}]
    rows = [GOOD[0] | {"id": None, "question": f"Number {k}?"} if k < 8 else bad[k - 8] for k in kinds]
    wanted = len({k for k in kinds if k < 8})
    if wanted == 0:
        with pytest.raises(QuestionError, match="none usable"):
            load_questions(rows, skip_bad=True)
        return
    loaded = load_questions(rows, skip_bad=True)
    assert len(loaded) == wanted
    assert len(loaded) + len(loaded.skipped) == len(rows)
    assert len({s.where for s in loaded.skipped}) == len(loaded.skipped)


def test_a_missing_cell_of_a_table_of_floats_is_no_text():
    """As ``pandas.read_csv(...).to_dict("records")`` gives rows of two and of three options."""
    rows = [
        {"id": "a", "question": "Up?", "A": "x", "B": "y", "C": "z", "answer": "C", "subject": "s", "year": 1.0},
        {"id": NAN, "question": "Iron?", "A": "no", "B": "yes", "C": NAN, "answer": "B", "subject": NAN, "year": NAN},
    ]
    one, two = load_questions(rows)
    assert one.choices == ("x", "y", "z")
    assert (two.choices, two.answer, two.subject) == (("no", "yes"), 1, None)
    assert "nan" not in two.id
    assert two.columns["year"] is None
    with pytest.raises(QuestionError, match="empty"):
        load_questions([{"question": "Up?", "choices": ["a", NAN], "answer": 0}])


def test_a_number_as_text_that_can_only_be_an_options_text_is_that():
    row = {"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": "4"}
    assert load_questions([row])[0].answer == 1
    with pytest.raises(QuestionError, match="count from 1"):
        load_questions([{**row, "answer": 4}])


def test_further_cells_of_a_csv_are_what_json_would_hold_and_the_question_stays_as_written(tmp_path: Path) -> None:
    head = "question,choice_0,choice_1,answer,entity,length\n"
    path = tmp_path / "q.csv"
    path.write_text(head + "7,007,8,0,x,3\nand 8?,8,9,1,,12\n", encoding="utf-8")
    first, second = load_questions(path)
    assert (first.text, first.choices) == ("7", ("007", "8"))
    assert (first.columns, second.columns) == ({"entity": "x", "length": 3}, {"entity": None, "length": 12})


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(QuestionError, match="surrogate"):
        load_questions([{"question": "bad \ud800 x?", "choices": ["a", "b"], "answer": 0}])
    with pytest.raises(QuestionError, match="surrogate"):  # an id is written into every file
        load_questions([{"id": "\ud800", "question": "x?", "choices": ["a", "b"], "answer": 0}])
