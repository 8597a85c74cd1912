"""The page on questions says what the package does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from calibrant.intake import load_questions

PAGE = Path(__file__).parents[2] / "docs" / "questions.md"
BLOCKS = re.findall(r"```(jsonl|csv)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_print_what_the_page_shows() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried >= 10) == (0, True)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_each_example_file_is_read_whole(block: int, tmp_path: Path) -> None:
    kind, content = BLOCKS[block]
    path = tmp_path / f"example.{kind}"
    path.write_text(content, encoding="utf-8")
    assert len(load_questions(path)) == len(content.splitlines()) - (kind == "csv")


def test_the_page_has_an_example_of_each_layout() -> None:
    assert len(BLOCKS) == 8
