"""The page on rescaling prints what it shows and names every scaler."""

import doctest
from pathlib import Path

from calibrant.scalers import SCALERS

PAGE = Path(__file__).parents[2] / "docs" / "rescaling.md"


def test_the_examples_print_what_the_page_shows():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 5)


def test_the_table_has_a_row_for_each_scaler():
    rows = [line.split("`")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(SCALERS)
