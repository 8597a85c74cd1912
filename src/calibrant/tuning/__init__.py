"""Questions in, adapter out: CFT, RCFT and their control. Needs torch."""

from calibrant.tuning.config import LoraSettings, TuneConfig, load_config
from calibrant.tuning.tune import TuneResult, tune

__all__ = ["LoraSettings", "TuneConfig", "TuneResult", "load_config", "tune"]
