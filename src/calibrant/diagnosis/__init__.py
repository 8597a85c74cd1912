"""Why a model is miscalibrated, whether it can be mended, and by what. No torch."""

from calibrant.diagnosis.path import Checkpoint
from calibrant.diagnosis.preference import PreferenceDrift, expected_sharpening, preference_drift
from calibrant.diagnosis.result import Diagnosis
from calibrant.diagnosis.run import diagnose

__all__ = ["Checkpoint", "Diagnosis", "PreferenceDrift", "diagnose", "expected_sharpening", "preference_drift"]
