"""Calibration statistics in numpy: definitions, intervals, noise floors, paired comparisons. No torch."""

from calibrant.metrics.binned import (
    BrierParts,
    brier_decomposition,
    debiased_ece,
    debiased_l2_ece,
    equal_mass_ece,
    l2_ece,
    mce,
    over_under,
)
from calibrant.metrics.bins import BinTable, bin_edges, bin_index, bin_table, clopper_pearson
from calibrant.metrics.calibration import conf_ece, cw_ece, signed_gap
from calibrant.metrics.comparison import Comparison, Difference, compare, compare_many
from calibrant.metrics.contest import CONTEST_METRICS, Contest
from calibrant.metrics.decisions import Decision, RiskCoverage, risk_coverage, threshold_for
from calibrant.metrics.drift import Drift, drift
from calibrant.metrics.measurement import Estimate, Measurement, measure
from calibrant.metrics.panel import battery
from calibrant.metrics.planning import holm, minimum_detectable, n_for_width, n_to_decide, tukey, verification_rate
from calibrant.metrics.proper import brier, nll
from calibrant.metrics.ranking import aurc, auroc, ece_at_coverage, excess_aurc, selective_accuracy
from calibrant.metrics.slicing import Slice, slices
from calibrant.metrics.smooth import reliability_curve, smooth_ece, smooth_ece_at
from calibrant.metrics.synthetic import overconfident, overconfident_targets
from calibrant.metrics.uncertainty import (
    bca_interval,
    cluster_factor,
    error_difference_interval,
    error_interval,
    noise_floor,
    percentile_interval,
    wilson_interval,
)

__all__ = [
    "CONTEST_METRICS",
    "BinTable",
    "BrierParts",
    "Comparison",
    "Contest",
    "Decision",
    "Difference",
    "Drift",
    "Estimate",
    "Measurement",
    "RiskCoverage",
    "Slice",
    "aurc",
    "auroc",
    "battery",
    "bca_interval",
    "bin_edges",
    "bin_index",
    "bin_table",
    "brier",
    "brier_decomposition",
    "clopper_pearson",
    "cluster_factor",
    "compare",
    "compare_many",
    "conf_ece",
    "cw_ece",
    "debiased_ece",
    "debiased_l2_ece",
    "drift",
    "ece_at_coverage",
    "equal_mass_ece",
    "error_difference_interval",
    "error_interval",
    "excess_aurc",
    "holm",
    "l2_ece",
    "mce",
    "measure",
    "minimum_detectable",
    "n_for_width",
    "n_to_decide",
    "nll",
    "noise_floor",
    "over_under",
    "overconfident",
    "overconfident_targets",
    "percentile_interval",
    "reliability_curve",
    "risk_coverage",
    "selective_accuracy",
    "signed_gap",
    "slices",
    "smooth_ece",
    "smooth_ece_at",
    "threshold_for",
    "tukey",
    "verification_rate",
    "wilson_interval",
]
