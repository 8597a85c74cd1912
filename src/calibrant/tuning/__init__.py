"""Questions in, adapter out: CFT, RCFT and their control. Needs torch."""

from calibrant.tuning.callback import CalibrationCallback
from calibrant.tuning.config import LoraSettings, TuneConfig, load_config
from calibrant.tuning.tune import TuneResult, tune

__all__ = ["CalibrationCallback", "LoraSettings", "TuneConfig", "TuneResult", "load_config", "tune"]
