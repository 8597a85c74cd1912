"""Pictures, the report and the model card: results in, files out. No model is touched here."""

from calibrant.reporting.card import model_card
from calibrant.reporting.curves import error_plot, regime_map, risk_coverage_plot
from calibrant.reporting.html import report
from calibrant.reporting.plots import before_after, reliability_diagram, smooth_reliability
from calibrant.reporting.results import Assessed, Domain, assess
from calibrant.reporting.sharpening import sharpening_plot
from calibrant.reporting.words import Verdict, verdict

__all__ = [
    "Assessed",
    "Domain",
    "Verdict",
    "assess",
    "before_after",
    "error_plot",
    "model_card",
    "regime_map",
    "reliability_diagram",
    "report",
    "risk_coverage_plot",
    "sharpening_plot",
    "smooth_reliability",
    "verdict",
]
