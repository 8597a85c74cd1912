"""``restore``: the main job. Score the aligned model, diagnose it, tune it, score it again, report."""

from calibrant.restoring.run import Restored, restore
from calibrant.restoring.sets import assemble

__all__ = ["Restored", "assemble", "restore"]
