"""Scores that another tool made: sample files of lm-eval, and tables. Needs neither torch nor lm-eval."""

from calibrant.importing.lm_eval import import_lm_eval
from calibrant.importing.table import import_table

__all__ = ["import_lm_eval", "import_table"]
