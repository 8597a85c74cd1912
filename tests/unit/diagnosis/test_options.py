"""Option mass and the prior over positions."""

import numpy as np
import pytest

from calibrant.diagnosis.options import letter_prior, option_mass
from calibrant.scores import Scores


def test_mass_by_hand_over_the_questions_where_it_is_known():
    """.9, .4 and unknown: mean .65, one of two under .5."""
    logmass = np.log([0.9, 0.4, np.nan])
    mass = option_mass(Scores.from_logp([[0.0, 0.0]] * 3, [0, 0, 0], logmass=logmass))
    assert mass.mean == pytest.approx(0.65)
    assert (mass.share_low, mass.n) == (0.5, 2)


def test_unknown_mass_is_none():
    assert option_mass(Scores.from_probs([[0.5, 0.5]], [0])) is None


def test_prior_by_hand_with_mixed_numbers_of_options():
    """Mean p: option 1 (.5 + .6 + .2)/3, option 3 only in two questions, (.2 + .7)/2; answers at 1, 1, 3.

    Residual means: (1.3 - 2)/3, (.5 + .2 + .1)/3, (.2 + .7 - 1)/3; half the sum of absolute values: .8/3.
    """
    p = [[0.5, 0.3, 0.2], [0.6, 0.4, float("nan")], [0.2, 0.1, 0.7]]
    prior = letter_prior(Scores.from_probs(p, [0, 0, 2]))
    assert prior.mean_p_K == pytest.approx((1.3 / 3, 0.8 / 3, 0.45))
    assert prior.frequency_K == pytest.approx((2 / 3, 0, 0.5))
    assert prior.n_K == (3, 3, 2)
    assert prior.distance == pytest.approx(0.8 / 3)


def test_a_model_that_favours_the_first_letter_is_found(draw):
    plain = draw(600)
    logit = plain.logp_NK + np.array([1.5, 0, 0, 0])
    prior = letter_prior(Scores.from_logp(logit, plain.answer_N))
    assert prior.distance > 0.15
    assert prior.p_value < 1e-6
    assert prior.mean_p_K[0] > prior.frequency_K[0] + 0.15


@pytest.mark.parametrize("mixed", [False, True])
def test_the_test_holds_its_level_on_calibrated_models(draw, mixed):
    """400 worlds at level .05: 20 expected, standard deviation 4.4; Hotelling's law is exact for normal rows only."""
    p_values = [letter_prior(draw(100, mixed=mixed, seed=seed)).p_value for seed in range(400)]
    assert 6 <= sum(p < 0.05 for p in p_values) <= 36


def test_overconfidence_alone_is_no_prior(draw):
    prior = letter_prior(draw(2000, power=5.0))
    assert prior.distance < 0.03
    assert prior.p_value > 0.001


def test_too_few_questions_or_no_variation_are_untested():
    assert letter_prior(Scores.from_probs([[0.5, 0.5]], [0])).p_value is None
    assert letter_prior(Scores.from_probs([[0.9, 0.1]] * 5, [1] * 5)).p_value is None
    assert letter_prior(Scores.from_probs([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3]], [0, 1])).p_value is not None
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(10), 250)
    answers = [int(rng.choice(10, p=row)) for row in p]
    few, many = (letter_prior(Scores.from_probs(p[:n], answers[:n])).p_value for n in (100, 250))
    assert few is None  # ten options: 2 · 9² questions
    assert many > 0.001
