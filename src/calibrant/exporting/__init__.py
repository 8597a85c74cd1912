"""A tuned model as a folder to serve, and proof that it is still the model that was measured. Needs torch."""

from calibrant.exporting.check import check_drift
from calibrant.exporting.folding import Folded, fold_temperature
from calibrant.exporting.manifest import Export, is_export
from calibrant.exporting.merging import merge_adapter
from calibrant.exporting.run import export
from calibrant.exporting.settings import ServeConfig
from calibrant.exporting.source import Source

__all__ = [
    "Export",
    "Folded",
    "ServeConfig",
    "Source",
    "check_drift",
    "export",
    "fold_temperature",
    "is_export",
    "merge_adapter",
]
