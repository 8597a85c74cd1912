"""Whether alignment survives a calibration fix: the tuned model against the aligned model it came from. Needs torch."""

from calibrant.alignment.data import Collected, PreferencePair, Prompt, load_preferences, load_prompts
from calibrant.alignment.judge import Judge
from calibrant.alignment.preferences import PairLogps, PreferenceCheck, preference_check
from calibrant.alignment.result import AlignmentCheck
from calibrant.alignment.run import align_check
from calibrant.alignment.settings import AlignSettings
from calibrant.alignment.verdict import Check, Thresholds

__all__ = [
    "AlignSettings",
    "AlignmentCheck",
    "Check",
    "Collected",
    "Judge",
    "PairLogps",
    "PreferenceCheck",
    "PreferencePair",
    "Prompt",
    "Thresholds",
    "align_check",
    "load_preferences",
    "load_prompts",
    "preference_check",
]
