"""A calibrated copy of scores, each question mapped by what was fitted on other questions."""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.metrics.estimates import Sampling
from calibrant.metrics.measurement import INDISTINGUISHABLE, Measurement, measure
from calibrant.scalers import Isotonic, Temperature, cross_validated, temperature_is_possible
from calibrant.scores import Scores


@dataclass(frozen=True, eq=False)
class Tempered:
    """Scores after a cross-validated temperature (5 folds), measured; ``fitted`` is the temperature of all questions."""

    scores: Scores
    measured: Measurement
    fitted: Temperature

    @property
    def suffices(self) -> bool:
        """Whether conf-ECE is within its floor."""
        return self.measured["conf_ece"].verdict == INDISTINGUISHABLE


def tempered(scores: Scores, how: Sampling) -> Tempered | None:
    """Rescale by a cross-validated temperature; ``None`` where half of the answers or more have probability 0."""
    if not temperature_is_possible(scores):
        return None
    after = cross_validated(Temperature(), scores, seed=how.seed)
    return Tempered(after, remeasure(after, how), Temperature().fit(scores))


def calibrated(scores: Scores, own: Tempered | None, how: Sampling) -> tuple[Scores, str]:
    """The simplest cross-validated calibrator that fits, and its name; ``own`` is ``tempered(scores)``.

    A temperature where it brings conf-ECE within its floor. Else a monotone map of the confidence on top of it: a
    temperature that does not fit leaves a gap between confidence and accuracy, which A* would inherit.
    """
    if own is not None and own.suffices:
        return own.scores, "a cross-validated temperature"
    if own is not None:
        mapped = cross_validated(Isotonic(), own.scores, seed=how.seed)
        return mapped, "a cross-validated temperature and monotone map of the confidence"
    return cross_validated(Isotonic(), scores, seed=how.seed), "a cross-validated monotone map of the confidence"


def remeasure(scores: Scores, how: Sampling) -> Measurement:
    """:func:`~calibrant.metrics.measure` with the settings of the diagnosis."""
    return measure(scores, n_bins=how.n_bins, n_boot=how.n_boot, level=how.level, seed=how.seed, cluster=how.cluster)
