"""``restore``: the main job. Score the aligned model, diagnose it, tune it, score it again, report."""

from calibrant.restoring.run import Restored, restore

__all__ = ["Restored", "restore"]
