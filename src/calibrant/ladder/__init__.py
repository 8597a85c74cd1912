"""The ladder: every fix on equal data and splits, into one table. See ``docs/ladder.md``."""

from calibrant.ladder.alignment import Alignment
from calibrant.ladder.fixes import FIXES, Fix, settings_named
from calibrant.ladder.page import write_table
from calibrant.ladder.plan import Plan
from calibrant.ladder.run import Ladder, ladder
from calibrant.ladder.standing import Standing
from calibrant.ladder.table import Contrast, Cut, Entry, Standings, Table, read_table
from calibrant.tuning.sweep import SETTINGS, Setting

__all__ = [
    "FIXES",
    "SETTINGS",
    "Alignment",
    "Contrast",
    "Cut",
    "Entry",
    "Fix",
    "Ladder",
    "Plan",
    "Setting",
    "Standing",
    "Standings",
    "Table",
    "ladder",
    "read_table",
    "settings_named",
    "write_table",
]
