"""The noise of the target's own calibrator: what a question does to it, and TCE's interval with that in it."""

from dataclasses import replace

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.diagnosis.calibrator import tempered
from calibrant.diagnosis.influence import influence
from calibrant.metrics.bins import bin_index
from calibrant.metrics.estimates import Sampling
from calibrant.scalers import Isotonic, Temperature, at_temperature
from calibrant.scores import Scores

HOW = Sampling(n_boot=50, level=0.95, seed=0, n_bins=10)


def again(scores, i):
    """The same questions, question i once more."""
    return scores.select(np.append(np.arange(scores.n), i))


def test_a_question_moves_the_bins_by_way_of_the_temperature_as_fitting_it_twice_does(draw):
    """The fit to all questions and one of them once more, beside its influence; second order is within a tenth."""
    scores = draw(2000, power=2.0)
    bin_N = bin_index(scores.confidence_N)
    pulls_NM = influence(scores, tempered(scores, HOW)).on_bins(scores, bin_N, 10, None)

    def cells(temperature):
        star_N = at_temperature(scores, temperature).confidence_N
        return np.bincount(bin_N, star_N, 10) / scores.n

    before = cells(Temperature().fit(scores).temperature_)
    for i in (0, 1, 2, 3, 4):
        moved = cells(Temperature().fit(again(scores, i)).temperature_) - before
        assert moved * scores.n == pytest.approx(pulls_NM[i], rel=0.1)
    assert pulls_NM.sum(0) == pytest.approx(0, abs=1e-6)  # all questions once more change nothing


def test_a_question_moves_its_flat_part_of_a_map_by_its_distance_from_the_accuracy_there():
    """Right 18 of 30 at .6 and 35 of 50 at .8: two flat parts, .6 and .7. A right answer at .6 moves its bin's sum by .4.

    Right 20 of 30 at .6 and 12 of 50 at 1: no rising map says so, the two are pooled at .4. A right answer moves that by
    .6/80, and with it 30 questions of the one bin and 50 of the other, as fitting the map to one more does.
    """
    rising = Scores.from_probs([[0.6, 0.4]] * 30 + [[0.8, 0.2]] * 50, [0] * 18 + [1] * 12 + [0] * 35 + [1] * 15)
    pulls_NM = influence(rising, None).on_bins(rising, bin_index(rising.confidence_N), 10, None)
    assert pulls_NM[0, [6, 8]] == pytest.approx([0.4, 0])
    assert pulls_NM[-1, [6, 8]] == pytest.approx([0, -0.7])
    answer = [0] * 20 + [1] * 10 + [0] * 12 + [1] * 38
    pooled = Scores.from_probs([[0.6, 0.2, 0.2]] * 30 + [[1.0, 0.0, 0.0]] * 50, answer)
    pulls_NM = influence(pooled, None).on_bins(pooled, bin_index(pooled.confidence_N), 10, None)
    assert pulls_NM[0, [6, 9]] == pytest.approx([0.6 * 30 / 80, 0.6 * 50 / 80])
    assert pulls_NM[-1, [6, 9]] == pytest.approx([-0.4 * 30 / 80, -0.4 * 50 / 80])

    def cells(fitted_on):
        star_N = np.exp(Isotonic().fit(fitted_on)._rescaled(pooled))[:, 0]
        return np.bincount(bin_index(pooled.confidence_N), star_N, 10)

    for i in (0, -1):
        moved = cells(again(pooled, i)) - cells(pooled)
        assert moved == pytest.approx(pulls_NM[i], rel=0.02)


def test_what_a_limit_of_the_map_holds_is_moved_by_nobody():
    """Right 20 of 30 at .8 and 0 of 50 at 1, two options: pooled at .25, but the predicted option stays on top at .5."""
    held = Scores.from_probs([[0.8, 0.2]] * 30 + [[1.0, 0.0]] * 50, [0] * 20 + [1] * 10 + [1] * 50)
    assert influence(held, None).slope_NK == pytest.approx(0)


def test_an_option_that_a_map_did_not_predict_moves_down_by_its_share_of_the_rest():
    """Of the .2 that .8 leaves to others they have .15 and .05; a rest of 1e-20 is shared as it stands, one of 0 equally."""
    rows = [[0.8, 0.15, 0.05]] * 8 + [[1.0, 3e-20, 1e-20]] * 6 + [[1.0, 0.0, 0.0]] * 6
    reference = Scores.from_logp(np.log(np.maximum(rows, 1e-300)), [0] * 8 + [1] * 8 + [0] * 4)
    none = replace(reference, logp_NK=np.where(np.array(rows) == 0, -np.inf, reference.logp_NK))
    slope_NK = influence(none, None).slope_NK
    assert slope_NK[0] == pytest.approx([1, -0.75, -0.25])
    assert slope_NK[8] == pytest.approx([1, -0.75, -0.25])
    assert slope_NK[-1] == pytest.approx([1, -0.5, -0.5])


def test_what_a_reference_is_predicted_to_be_cancels_where_both_predict_the_same(draw):
    """The correction takes out on average what the calibrator adds: over all bins no question moves anything."""
    scores, reference = draw(600, power=3.0), draw(600, power=1.5)
    assert np.array_equal(scores.prediction_N, reference.prediction_N)
    pulls = influence(reference, tempered(reference, HOW))
    pulls_NM = pulls.on_bins(scores, bin_index(scores.confidence_N), 10, reference)
    assert np.abs(pulls_NM).max() > 0.01
    assert pulls_NM.sum(1) == pytest.approx(0, abs=1e-9)


def test_a_temperature_at_an_end_of_its_range_is_moved_by_nobody():
    """All right: the sharper the better, so the temperature stops at its least."""
    scores = Scores.from_probs([[0.9, 0.1]] * 60, [0] * 60)
    own = tempered(scores, HOW)
    assert own.fitted.at_bound_
    assert own.suffices
    assert not influence(scores, own).pull_N.any()


@pytest.mark.parametrize("with_reference", [False, True])
def test_tce_of_a_calibrated_model_begins_at_0(known_world, with_reference):
    """π* itself: of 20 samples of 300 at most 3 leave 0 out (a true 95 % leaves out more once in 60 times)."""
    left_out = 0
    for seed in range(20):
        scores, star = known_world(300, seed=seed)
        reference = replace(star, logp_NK=at_temperature(star, 0.6).logp_NK) if with_reference else None
        tce = diagnose(scores, reference=reference, n_boot=200, seed=seed).numbers["tce"]
        assert tce.value > 0
        left_out += tce.low > 0
    assert left_out <= 3


@pytest.mark.parametrize("with_reference", [False, True])
def test_tce_and_bound_2_of_a_model_too_sure_by_a_known_amount_hold_it(known_world, with_reference):
    """π*² normalised: TCE = ECE = .161 in a million questions, Δ = 0. Of 20 samples of 300 at most 3 miss; all see an error."""
    missed, seen = dict.fromkeys(("tce", "bound_2_low", "bound_2_high"), 0), 0
    for seed in range(20):
        _, star = known_world(300, seed=seed)
        scores = replace(star, logp_NK=at_temperature(star, 0.5).logp_NK)
        reference = replace(star, logp_NK=at_temperature(star, 0.6).logp_NK) if with_reference else None
        found = diagnose(scores, reference=reference, n_boot=200, seed=seed).numbers
        for name in missed:
            missed[name] += not found[name].low <= 0.161 <= found[name].high
        seen += found["tce"].low > 0.02
    assert max(missed.values()) <= 3
    assert seen == 20


def test_a_given_target_has_no_calibrator_and_its_tce_no_noise_of_one(known_world):
    """The same probabilities as target and model: TCE = 0, certainly."""
    scores, star = known_world(300)
    tce = diagnose(scores, target=star, n_boot=100).numbers["tce"]
    assert (tce.low, tce.high) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
