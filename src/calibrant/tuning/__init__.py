"""Questions in, adapter out, by CFT, RCFT or another objective; and models between base and aligned. Needs torch."""

from calibrant.tuning.callback import CalibrationCallback
from calibrant.tuning.config import LoraSettings, TuneConfig, load_config
from calibrant.tuning.interpolation import interpolate, scale_adapter
from calibrant.tuning.sweep import sweep
from calibrant.tuning.tune import TuneResult, tune

__all__ = [
    "CalibrationCallback",
    "LoraSettings",
    "TuneConfig",
    "TuneResult",
    "interpolate",
    "load_config",
    "scale_adapter",
    "sweep",
    "tune",
]
