"""Histogram binning of the confidence: by hand, empty bins, ties, limits."""

import numpy as np
import pytest

from calibrant.errors import ConfigError
from calibrant.metrics import conf_ece
from calibrant.scalers import Histogram, cross_validated
from calibrant.scores import Scores


def binary(confidences, right):
    """One group a confidence: ``right`` of ten."""
    p = [[c, 1 - c] for c in confidences for _ in range(10)]
    return Scores.from_probs(p, [int(i >= r) for r in right for i in range(10)])


def test_equal_masses_by_hand():
    """Four groups of ten in two bins: (5 + 8)/20 up to the edge (.7 + .8)/2, (6 + 9)/20 above."""
    scaler = Histogram(2).fit(binary((0.6, 0.7, 0.8, 0.9), (5, 8, 6, 9)))
    assert scaler.edges_ == pytest.approx([0.75])
    assert scaler.values_ == pytest.approx([0.65, 0.75])
    assert scaler.count_.tolist() == [20, 20]
    other = Scores.from_probs([[c, 1 - c] for c in (0.55, 0.75, 0.7500001, 0.99)], [0] * 4, ids=list("abcd"))
    assert scaler.apply(other).confidence_N == pytest.approx([0.65, 0.65, 0.75, 0.75])


def test_equal_widths_follow_the_rule_of_conf_ece_and_leave_empty_bins_alone():
    scaler = Histogram(bins="equal-width").fit(binary((0.6, 0.69, 0.9), (5, 7, 6)))
    assert scaler.values_[[6, 9]] == pytest.approx([0.6, 0.6])
    assert np.isnan(scaler.values_[[5, 7, 8]]).all()
    other = Scores.from_probs([[c, 1 - c] for c in (0.55, 0.6, 0.7, 0.85, 1.0)], [0] * 5, ids=list("abcde"))
    assert scaler.apply(other).confidence_N == pytest.approx([0.55, 0.6, 0.7, 0.85, 0.6])


def test_ties_stay_together_and_leave_fewer_bins():
    scaler = Histogram(10).fit(binary((0.6, 0.9), (5, 8)))
    assert scaler.edges_ == pytest.approx([0.75])
    assert scaler.values_ == pytest.approx([0.5, 0.8])
    assert Histogram(10).fit(binary((0.9,), (7,))).values_ == pytest.approx([0.7])


def test_no_option_is_ruled_out_and_the_top_stays():
    """All ten right: 1 - 1/12. None right at (.4, .35, .25): lifted to (7/12) / (1 + 7/12) = .3684."""
    sure = Histogram().fit(Scores.from_probs([[0.9, 0.1]] * 10, [0] * 10))
    assert sure.apply(Scores.from_probs([[1.0, 0.0]], [0], ids=["x"])).p_NK[0] == pytest.approx([11 / 12, 1 / 12])
    wrong = Histogram().fit(Scores.from_probs([[0.4, 0.35, 0.25]] * 10, [1] * 10))
    after = wrong.apply(Scores.from_probs([[0.4, 0.35, 0.25]], [0], ids=["x"]))
    assert after.confidence_N[0] == pytest.approx(0.3684, abs=1e-4)
    assert after.prediction_N[0] == 0


@pytest.mark.parametrize("bins", ["equal-mass", "equal-width"])
def test_cross_validated_it_calibrates_what_a_temperature_cannot(bins):
    """Right .75 and .65 of the time, in the middle of a bin: the folds' maps, which differ by chance, share it and even out."""
    p = [[0.95, 0.05]] * 1000 + [[0.55, 0.45]] * 1000
    scores = Scores.from_probs(p, [0] * 750 + [1] * 250 + [0] * 650 + [1] * 350)
    after = cross_validated(Histogram(bins=bins), scores)
    assert conf_ece(scores.confidence_N, scores.correct_N) == pytest.approx(0.15)
    assert conf_ece(after.confidence_N, after.correct_N) < 0.005


def test_settings_without_meaning_are_refused():
    with pytest.raises(ConfigError, match="n_bins"):
        Histogram(0)
    with pytest.raises(ConfigError, match="equal-mass"):
        Histogram(bins="quantile")


def test_impossible_json_is_refused():
    values = Histogram(2).fit(binary((0.6, 0.9), (5, 8))).to_json()
    for change in (
        {"edges": [0.5, 0.4]},
        {"values": [0.5, 1.2]},
        {"count": [10]},
        {"bins": "equal-width", "n_bins": 9},
    ):
        with pytest.raises(ConfigError):
            Histogram.from_json(values | change)
