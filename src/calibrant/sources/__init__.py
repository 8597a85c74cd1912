"""Rows of known data sets, turned into questions: one small pure function a layout."""

from calibrant.sources.answers import answer_index, numeral
from calibrant.sources.layouts import Fields, fields_of, rename

__all__ = ["Fields", "answer_index", "fields_of", "numeral", "rename"]
