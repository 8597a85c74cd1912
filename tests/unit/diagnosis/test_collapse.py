"""Sharpness, shift against a reference, and what one temperature undoes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from calibrant.diagnosis import diagnose
from calibrant.diagnosis.calibrator import calibrated, tempered
from calibrant.diagnosis.collapse import collapse, entropies, shift, temperature_effect
from calibrant.metrics import measure
from calibrant.metrics.estimates import Sampling
from calibrant.scores import Scores

HOW = Sampling(n_boot=200, level=0.95, seed=0, n_bins=10)


def power_of(reference, s, push=0.0):
    """The reference raised to the power s, with ``push`` nats added to its top option."""
    logp = s * np.where(np.isneginf(reference.logp_NK), np.nan, reference.logp_NK)
    logp[np.arange(reference.n), reference.prediction_N] += push
    return Scores.from_logp(logp, reference.answer_N)


def effect(scores):
    return temperature_effect(measure(scores, n_boot=200), tempered(scores, HOW))


def test_entropies_by_hand():
    p = [[0.5, 0.5, float("nan")], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]]
    assert entropies(Scores.from_probs(p, [0, 0, 0])) == pytest.approx([math.log(2), 0, 1.5 * math.log(2)])


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("s", "push"), [(0.5, 0.0), (1.0, 0.0), (3.0, 0.0), (2.0, 0.7)])
def test_a_power_and_a_push_are_slope_and_intercept_without_scatter(draw, s, push, mixed):
    reference = draw(200, mixed=mixed)
    found = shift(power_of(reference, s, push), reference, HOW)
    assert found.slope.value == pytest.approx(s)
    assert found.slope.low == pytest.approx(s, abs=1e-3)
    assert found.slope.high == pytest.approx(s, abs=1e-3)
    assert found.intercept.value == pytest.approx(push, abs=1e-9)
    assert found.scatter == pytest.approx(0, abs=1e-6)
    assert found.r2 == pytest.approx(1)
    assert found.agreement.value == 1
    assert found.n_pairs == int((reference.k_N - 1).sum())


def test_the_line_through_two_questions_by_hand():
    """x = ln 4, ln 1.5; y = ln 9, ln 4. Slope (ln 9 - ln 4)/(ln 4 - ln 1.5) = .8268, intercept ln 4 - .8268 ln 1.5."""
    reference = Scores.from_probs([[0.8, 0.2], [0.6, 0.4]], [0, 0])
    aligned = Scores.from_probs([[0.9, 0.1], [0.8, 0.2]], [0, 0])
    found = shift(aligned, reference, HOW)
    assert found.slope.value == pytest.approx(0.82679, abs=1e-4)
    assert found.intercept.value == pytest.approx(math.log(4) - 0.82679 * math.log(1.5), abs=1e-4)
    assert found.confidence.value == pytest.approx(0.15)


def test_scatter_is_the_noise_that_was_added(draw):
    """Noise of standard deviation .4 on each logit: differences scatter by .4 sqrt(2) = .566."""
    reference = draw(4000)
    rng = np.random.default_rng(1)
    aligned = Scores.from_logp(2 * reference.logp_NK + 0.4 * rng.normal(size=(4000, 4)), reference.answer_N)
    found = shift(aligned, reference, HOW)
    assert found.scatter == pytest.approx(0.4 * math.sqrt(2), rel=0.05)
    assert found.slope.low < 2 < found.slope.high
    assert 0.9 < found.r2 < 1
    assert found.agreement.value < 1


def test_pairs_with_a_probability_of_0_are_counted_not_used():
    reference = Scores.from_probs([[0.7, 0.3, 0.0], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1]], [0, 0, 0])
    aligned = Scores.from_probs([[0.8, 0.1, 0.1], [1.0, 0.0, 0.0], [0.6, 0.3, 0.1]], [0, 0, 0])
    found = shift(aligned, reference, HOW)
    assert (found.n_pairs, found.n_pairs_left_out) == (3, 3)


def test_a_reference_without_preferences_has_no_slope():
    found = shift(Scores.from_probs([[0.9, 0.1]] * 5, [0] * 5), Scores.from_probs([[0.5, 0.5]] * 5, [0] * 5), HOW)
    assert math.isnan(found.slope.value)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["slope"]["value"] is None


@pytest.mark.parametrize("power", [0.4, 3.0])
def test_one_temperature_undoes_a_power(draw, power):
    scores = draw(3000, power=power)
    found = effect(scores)
    assert found.temperature == pytest.approx(power, rel=0.1)
    assert found.conf_ece[0].value > 0.1
    assert found.undone > 0.9
    assert found.suffices
    assert found.nll[1].value < found.nll[0].value


def test_one_temperature_cannot_mend_two_confidences_that_are_wrong_in_opposite_ways():
    """Half at .95 right .7 of the time, half at .55 right .9: any T that softens the first spoils the second.

    K = 4, the other options share the rest equally. NLL is best near one confidence that errs both ways by over .05.
    """
    p = [[0.95] + [0.05 / 3] * 3] * 1000 + [[0.55] + [0.15] * 3] * 1000
    answer = [0] * 700 + [1, 2, 3] * 100 + [0] * 900 + [1, 2, 3, 1] * 25
    found = effect(Scores.from_probs(p, answer))
    assert not found.suffices
    assert found.undone < 0.9


def test_calibrated_scores_have_nothing_to_undo(draw):
    found = effect(draw(2000))
    assert found.undone is None
    assert found.suffices
    assert found.temperature == pytest.approx(1, abs=0.1)


def test_no_temperature_where_most_answers_have_probability_0():
    scores = Scores.from_probs([[1.0, 0.0]] * 10, [1] * 6 + [0] * 4)
    assert effect(scores) is None


def test_sharpness_by_hand_and_what_needs_a_reference():
    """Confidences 1, 1, .5, .5: half near one, of which one of two is right; entropy (0 + 0 + 2 ln 2)/4."""
    scores = Scores.from_probs([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0, 1])
    found = collapse(scores, measure(scores, n_boot=50), tempered(scores, HOW), None, HOW)
    assert found.share_near_one.value == 0.5
    assert found.accuracy_near_one.value == 0.5
    assert found.entropy.value == pytest.approx(math.log(2) / 2)
    assert found.entropy_share.value == 0.5
    assert found.confidence.value == 0.75
    assert found.to_json()["shift"] is None
    assert len(found.to_json()["needs_reference"]) == 3


def test_nothing_near_one_has_no_accuracy(draw):
    scores = draw(50, power=0.1)
    assert collapse(scores, measure(scores, n_boot=50), tempered(scores, HOW), None, HOW).accuracy_near_one is None


def uneven(n, seed=0):
    """Each question sharpened by its own power, 3 exp(N(0, 1)): no one temperature fits."""
    rng = np.random.default_rng([seed, 3])
    z = rng.normal(size=(n, 4)) * 1.5
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    return Scores.from_logp(z * 3 * np.exp(rng.normal(size=(n, 1))), answer)


def test_the_calibrator_is_a_temperature_where_that_fits(draw):
    scores = draw(2000, power=3.0)
    made, name = calibrated(scores, tempered(scores, HOW), HOW)
    assert name == "a cross-validated temperature"
    assert np.array_equal(made.logp_NK, tempered(scores, HOW).scores.logp_NK)


def test_the_calibrator_adds_a_map_where_a_temperature_leaves_a_gap():
    """The temperature of least NLL leaves confidence more than .05 below accuracy; the map takes that away."""
    scores = uneven(2000)
    own = tempered(scores, HOW)
    assert own.measured["signed_gap"].high < -0.05
    made, name = calibrated(scores, own, HOW)
    assert "monotone map" in name
    assert made.confidence_N.mean() == pytest.approx(made.correct_N.mean(), abs=0.02)
    assert np.array_equal(made.prediction_N, scores.prediction_N)


def test_the_calibrator_is_a_map_alone_where_no_temperature_exists():
    scores = Scores.from_probs([[1.0, 0.0]] * 50 + [[0.8, 0.2]] * 30, [1] * 50 + [0] * 20 + [1] * 10)
    assert tempered(scores, HOW) is None
    _, name = calibrated(scores, None, HOW)
    assert name == "a cross-validated monotone map of the confidence"


def test_a_temperature_that_makes_the_error_larger_undoes_nothing():
    """A fifth says .99 and is right .8 of the time, the rest says .7 and is: T mends the few and spoils the many."""
    p, answer = [[0.99, 0.01]] * 200 + [[0.7, 0.3]] * 800, [0] * 160 + [1] * 40 + [0] * 560 + [1] * 240
    found = diagnose(Scores.from_probs(p, answer), n_boot=60)
    assert found.collapse.temperature.undone < -1
    (text,) = (text for text in found.reasons if text.startswith("One temperature"))
    assert text.endswith("which does not lower the error.")
    assert "undone" not in text


def test_small_log_odds_that_say_something_else_are_no_mere_rescaling(draw):
    """Scatter under .25 nats, but of log-odds that vary by no more: predictions agree on about half of the questions."""
    reference = draw(1000)
    rng = np.random.default_rng(7)
    noise_NK = 1.5 * rng.normal(size=(1000, 4))
    weak = replace(reference, logp_NK=log_softmax(0.1 * (reference.logp_NK + noise_NK), axis=1))
    d = diagnose(weak, reference=reference, n_boot=200)
    assert d.collapse.shift.scatter < 0.25
    assert d.collapse.shift.agreement.value < 0.7
    assert d.collapse.shift.r2 < 0.7
    assert (d.verdict, d.action) == ("calibratable", "cft")
    weak = replace(reference, logp_NK=log_softmax(0.1 * reference.logp_NK, axis=1))
    assert diagnose(weak, reference=reference, n_boot=200).action == "temperature"


def test_log_odds_that_are_mostly_unknown_are_no_mere_rescaling(draw):
    reference = draw(1000)
    raised = 3 * reference.logp_NK
    rest = np.argsort(raised, axis=1)[:, :2]
    np.put_along_axis(raised, rest, -np.inf, 1)
    answered = np.where(np.isinf(np.take_along_axis(raised, reference.answer_N[:, None], 1)[:, 0]))[0]
    raised[answered, reference.answer_N[answered]] = -9.0
    aligned = replace(reference, logp_NK=log_softmax(raised, axis=1))
    d = diagnose(aligned, reference=reference, n_boot=200)
    assert d.collapse.shift.n_pairs_left_out > 1000
    assert d.action != "temperature"
