"""Calibration statistics in numpy: definitions, intervals, noise floors, paired comparisons. No torch."""

from calibrant.metrics.bins import BinTable, bin_edges, bin_index, bin_table, clopper_pearson
from calibrant.metrics.calibration import conf_ece, cw_ece, signed_gap
from calibrant.metrics.comparison import Comparison, Difference, compare
from calibrant.metrics.measurement import Estimate, Measurement, measure
from calibrant.metrics.proper import brier, nll
from calibrant.metrics.uncertainty import error_interval, noise_floor, percentile_interval, wilson_interval

__all__ = [
    "BinTable",
    "Comparison",
    "Difference",
    "Estimate",
    "Measurement",
    "bin_edges",
    "bin_index",
    "bin_table",
    "brier",
    "clopper_pearson",
    "compare",
    "conf_ece",
    "cw_ece",
    "error_interval",
    "measure",
    "nll",
    "noise_floor",
    "percentile_interval",
    "signed_gap",
    "wilson_interval",
]
