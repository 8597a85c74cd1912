"""The page on the ladder prints what it shows, names every fix, and quotes the benchmark."""

import doctest
import json
import re
from pathlib import Path

from calibrant.ladder import FIXES, SETTINGS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ladder.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_print_what_the_page_shows():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 6)


def test_the_table_names_every_fix_and_no_other():
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted(fix.name for fix in FIXES)


def test_the_budgets_are_those_of_the_code():
    assert ", ".join(f"`{name}`" for name in SETTINGS).replace("`quick`", "`--budget quick`") in TEXT
    assert f": {', '.join(map(str, SETTINGS.values()))} settings" in TEXT


def test_the_error_rates_are_those_of_the_benchmark():
    found = json.loads((ROOT / "benchmarks" / "best_other_errors.json").read_text(encoding="utf-8"))
    quoted = re.findall(r"^  \| (\d+) \| ([\d.]+) % \| ([\d.]+) % \|", TEXT, re.MULTILINE)
    known = {str(row["fixes"]): (str(row["worse_by_holm"]), str(row["worse_by_tukey"])) for row in found["percent"]}
    assert len(quoted) == 3
    assert all(known[fixes] == (by_holm, by_tukey) for fixes, by_holm, by_tukey in quoted)
