"""Rows of known data sets, turned into questions: one small pure function a layout."""

from calibrant.sources.answers import BASES, LABEL_NAMES, answer_index, is_text_of, numeral
from calibrant.sources.layouts import Fields, fields_of, missing, rename

__all__ = ["BASES", "LABEL_NAMES", "Fields", "answer_index", "fields_of", "is_text_of", "missing", "numeral", "rename"]
