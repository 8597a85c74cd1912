"""Scores that another tool made: sample files of lm-eval, tables, served decision models. Needs neither torch nor lm-eval."""

from calibrant.importing.lm_eval import import_lm_eval
from calibrant.importing.systemone import import_systemone
from calibrant.importing.table import import_table

__all__ = ["import_lm_eval", "import_systemone", "import_table"]
