"""DACA: its formula on a hand-worked case, agreement only, no answers, recovery."""

import math
from dataclasses import replace

import numpy as np
import pytest

from calibrant.errors import ScoresError
from calibrant.scalers import DACA, Temperature
from calibrant.scores import Scores


def kl(base, scores, t, use):
    logq = scores.logp_NK[use] / t
    logq = logq - np.logaddexp.reduce(logq, axis=1, keepdims=True)
    b = base.p_NK[use]
    return float((b * (np.log(b) - logq)).sum(1).mean())


def test_one_pair_by_hand_and_the_question_of_disagreement_is_out():
    """(.9, .1) against the base's (.7, .3): ln 9 / ln(7/3) = 2.593. The base's (.01, .99) on a third would say T < 0."""
    aligned = Scores.from_probs([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]], [1, 1, 1])
    base = Scores.from_probs([[0.7, 0.3], [0.7, 0.3], [0.01, 0.99]], [1, 1, 1])
    scaler = DACA().fit(aligned, reference=base)
    assert scaler.temperature_ == pytest.approx(math.log(9) / math.log(7 / 3), abs=1e-9)
    assert (scaler.n_agree_, scaler.n_left_out_, scaler.n_fit_) == (2, 0, 3)


def test_no_other_temperature_has_a_lower_divergence_from_the_base(draw):
    noise = np.random.default_rng(1).normal(size=(300, 4))
    aligned, base = draw(300, power=2.5), draw(300, distort=lambda logp: logp + noise)
    scaler = DACA().fit(aligned, reference=base)
    use = aligned.prediction_N == base.prediction_N
    assert 0 < scaler.n_agree_ == use.sum() < 300
    best = kl(base, aligned, scaler.temperature_, use)
    for t in np.geomspace(0.2, 20, 60):
        assert best <= kl(base, aligned, t, use) + 1e-12
    everywhere = min(np.geomspace(0.2, 20, 400), key=lambda t: kl(base, aligned, t, np.ones(300, dtype=bool)))
    assert everywhere > 1.2 * scaler.temperature_  # what the paper is about: disagreement calls for too much softening


@pytest.mark.parametrize("power", [0.5, 3.0])
def test_a_base_that_was_raised_to_a_power_is_found_exactly(draw, power):
    """aligned = base^power: T = power, whatever the answers are, with mixed numbers of options."""
    aligned, base = draw(100, power=power, mixed=True), draw(100, mixed=True)
    assert DACA().fit(aligned, reference=base).temperature_ == pytest.approx(power, rel=1e-9)


def test_answers_are_not_looked_at(draw):
    aligned, base = draw(200, power=2.0), draw(200)
    lied = [replace(s, answer_N=(s.answer_N + 1) % 4) for s in (aligned, base)]
    honest = DACA().fit(aligned, reference=base)
    assert DACA().fit(lied[0], reference=lied[1]).temperature_ == honest.temperature_


def test_with_a_calibrated_base_it_is_near_the_temperature_of_the_answers(draw):
    aligned, base = draw(20_000, power=2.5), draw(20_000)
    by_answers = Temperature().fit(aligned).temperature_
    assert DACA().fit(aligned, reference=base).temperature_ == pytest.approx(by_answers, rel=0.05)


def test_the_reference_may_be_in_another_order(draw):
    aligned, base = draw(50, power=2.0), draw(50)
    shuffled = base.select(np.random.default_rng(0).permutation(50))
    same = DACA().fit(aligned, reference=base).temperature_
    assert DACA().fit(aligned, reference=shuffled).temperature_ == same


def test_options_that_no_temperature_can_bring_back_are_left_out_and_said():
    aligned = Scores.from_probs([[1.0, 0.0], [0.9, 0.1]], [0, 0])
    scaler = DACA().fit(aligned, reference=Scores.from_probs([[0.8, 0.2], [0.7, 0.3]], [0, 0]))
    assert (scaler.n_agree_, scaler.n_left_out_) == (1, 1)
    assert scaler.temperature_ == pytest.approx(math.log(9) / math.log(7 / 3))


def test_without_agreement_it_refuses():
    aligned = Scores.from_probs([[0.9, 0.1]] * 3, [0] * 3)
    with pytest.raises(ScoresError, match="agree"):
        DACA().fit(aligned, reference=Scores.from_probs([[0.3, 0.7]] * 3, [0] * 3))


def test_a_base_that_is_sharper_than_any_temperature_ends_at_the_bound_and_says_so():
    aligned = Scores.from_probs([[0.6, 0.4]] * 3, [0] * 3)
    scaler = DACA().fit(aligned, reference=Scores.from_probs([[1.0, 0.0]] * 3, [0] * 3))
    assert (scaler.temperature_, scaler.at_bound_) == (0.01, True)
