"""Pipes and devices where a file is asked for."""

import os

import pytest

from calibrant.errors import QuestionError, ScoresError
from calibrant.importing import import_table
from calibrant.intake import load_questions

READERS = pytest.mark.parametrize(("reader", "kind"), [(load_questions, QuestionError), (import_table, ScoresError)])


@READERS
def test_a_pipe_or_a_device_is_named_as_that(tmp_path, reader, kind):
    os.mkfifo(tmp_path / "questions.jsonl")
    with (tmp_path / "odd.jsonl").open("w") as file:  # what the shell makes of < odd.jsonl
        for path in (tmp_path / "questions.jsonl", "/dev/null", f"/dev/fd/{file.fileno()}"):
            with pytest.raises(kind, match="found: a pipe or device\nto do: save its content to a file"):
                reader(path)


@READERS
def test_no_other_open_file_is_offered_for_one_that_is_closed(reader, kind):
    with pytest.raises(kind) as caught:
        reader("/dev/fd/6300")
    assert "no such file" in caught.value.found
    assert "did you mean" not in caught.value.found
