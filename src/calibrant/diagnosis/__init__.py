"""Why a model is miscalibrated, whether it can be mended, and by what. No torch."""

from calibrant.diagnosis.formats import FormatSensitivity, format_sensitivity
from calibrant.diagnosis.path import Checkpoint, checkpoint_point
from calibrant.diagnosis.preference import PreferenceDrift, expected_sharpening, preference_drift
from calibrant.diagnosis.reading import read_path, read_preferences
from calibrant.diagnosis.result import Diagnosis
from calibrant.diagnosis.run import diagnose
from calibrant.diagnosis.sensitivity import OrderSensitivity, order_sensitivity

__all__ = [
    "Checkpoint",
    "Diagnosis",
    "FormatSensitivity",
    "OrderSensitivity",
    "PreferenceDrift",
    "checkpoint_point",
    "diagnose",
    "expected_sharpening",
    "format_sensitivity",
    "order_sensitivity",
    "preference_drift",
    "read_path",
    "read_preferences",
]
