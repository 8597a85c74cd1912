"""The page on importing says what the package does."""

import doctest
import re
from pathlib import Path

import pytest

from calibrant.importing import import_lm_eval, import_table
from calibrant.importing.lm_eval import READINGS

PAGE = Path(__file__).parents[2] / "docs" / "importing.md"
TEXT = PAGE.read_text(encoding="utf-8")
SAMPLES = Path(__file__).parents[1] / "unit" / "data" / "lm_eval" / "v0.4.13"


def test_the_example_prints_what_the_page_shows():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 4)


def test_the_example_table_is_read(tmp_path):
    (table,) = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "table.csv"
    path.write_text(table)
    s = import_table(path)
    assert (s.ids, s.subjects, s.k_N.tolist()) == (("q1", "q2"), ("history", "physics"), [3, 2])


@pytest.mark.parametrize("variant", re.findall(r'`variant="(\w+)"`:', TEXT))
def test_every_variant_of_the_page_exists(variant):
    assert import_lm_eval(SAMPLES, tasks="own_mutual", variant=variant).n == 6


def test_the_page_names_every_reading_and_provenance_key():
    assert all(f"{name.removeprefix('an ').removeprefix('a ')}" in TEXT for name in READINGS)
    keys = re.findall(r'provenance\["(\w+)"\]', TEXT)
    assert keys
    assert set(keys) <= set(import_lm_eval(SAMPLES).provenance)
