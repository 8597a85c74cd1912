"""The page on serving says what the package does."""

import doctest
import re
from pathlib import Path

from calibrant import exporting
from calibrant.exporting import manifest
from calibrant.metrics.drift import TOLERANCE

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_print_what_the_page_shows():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 7)


def test_files_names_and_the_tolerance_are_those_of_the_code():
    for name in (manifest.MANIFEST, manifest.SCALER, manifest.THRESHOLD, manifest.READER, manifest.CARD):
        assert f"`{name}`" in TEXT
    assert f"default {TOLERANCE:g}".replace("0.", ".") in TEXT
    named = re.findall(r"calibrant\.exporting\.(\w+)`, `(\w+)`, `(\w+)\.open`", TEXT)
    assert named
    assert all(hasattr(exporting, name) for name in named[0])
