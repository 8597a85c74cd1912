"""Tables as Excel writes them, which are no CSV: the error says what is wrong with them."""

import pytest

from calibrant.errors import QuestionError, ScoresError
from calibrant.importing import import_table
from calibrant.intake import load_questions

BY_COMMAS = "separate cells by commas"


@pytest.mark.parametrize(
    ("name", "content", "found", "todo"),
    [
        ("t.csv", "question;A;B;p_a;p_b;answer\nx?;a;b;.7;.3;A\n", "separated by ';'", BY_COMMAS),
        ("t.csv", "question\tA\tB\tanswer\nx?\ta\tb\tA\n", r"separated by '\t'", "by tabs in .tsv"),
        ("t.tsv", "question,A,B,answer\nx?,a,b,A\n", "separated by ','", "by tabs in .tsv"),
        (
            "t.csv",
            "sep=;\nquestion;A;B;answer\nx?;a;b;A\n",
            "'sep=;' in the first line",
            "delete that line; " + BY_COMMAS,
        ),
        ("t.csv", "sep=,\nquestion,A,B,answer\nx?,a,b,A\n", "'sep=,' in the first line", "delete that line"),
        ("t.csv", "question,A,B,answer,,\nx?,a,b,A,,\n", "2 columns without a name", "empty columns"),
        ("t.csv", "My quiz,,,\nquestion,A,B,answer\nx?,a,b,A\n", "3 columns without a name", "a title above"),
        ("t.csv", "question,A,B,answer\nx?,a,b,A\n".encode("utf-16"), "found: UTF-16", "'CSV UTF-8'"),
    ],
)
def test_what_excel_writes_is_refused_with_what_to_do(tmp_path, name, content, found, todo):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for reader, kind in ((load_questions, QuestionError), (import_table, ScoresError)):
        with pytest.raises(kind) as caught:
            reader(path)
        assert found in str(caught.value)
        assert todo in caught.value.todo


def test_one_column_without_a_name_is_the_index_that_pandas_writes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",question,A,B,answer\n0,x?,a,b,A\n")
    assert load_questions(path)[0].choices == ("a", "b")
