"""Bounds and verdict in a world where the target is known."""

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.diagnosis.regime import Target, regime_numbers
from calibrant.diagnosis.verdict import TOLERANCE, regime_of
from calibrant.metrics import measure, wilson_interval
from calibrant.metrics.estimates import Sampling, mean_estimates
from calibrant.scores import Scores

HOW = Sampling(n_boot=100, level=0.95, seed=0, n_bins=10)


def numbers(scores, star):
    measured = measure(scores, n_boot=100)
    found = regime_numbers(scores, measured, Target("given", "π*", star), HOW)
    return measured["accuracy"].value, measured["conf_ece"].value, {name: e.value for name, e in found.items()}


@pytest.mark.parametrize("known", [-0.3, 0.0, 0.2, 0.6])
def test_accuracy_and_critical_accuracy_are_those_of_the_closed_form(known_world, known):
    a, _, found = numbers(*known_world(20_000, known=known))
    if known >= 0:  # 4 standard errors of a share at n = 20,000 are .014
        assert a == pytest.approx(known + (1 - known) * 25 / 48, abs=0.014)
        assert found["critical_accuracy"] == pytest.approx(0.4 * known + (1 - known) * 25 / 48, abs=0.014)
        assert found["excess_accuracy"] == pytest.approx(0.6 * known, abs=0.014)
    else:
        assert found["excess_accuracy"] < -0.05


@pytest.mark.parametrize("confidence", [None, 0.3, 0.55, 0.9])
@pytest.mark.parametrize("known", [-0.5, 0.0, 0.1, 0.5])
@pytest.mark.parametrize("n", [3, 40, 1500])
def test_the_bounds_hold_in_every_sample(known_world, n, known, confidence):
    _, ece, found = numbers(*known_world(n, known=known, confidence=confidence))
    slack = 1e-12
    assert found["bound_1"] <= ece + slack
    assert found["bound_2_low"] <= ece + slack
    assert ece <= found["bound_2_high"] + slack
    assert found["bound_3"] <= ece + slack
    assert found["bound_3"] <= found["bound_2_low"] + slack


def test_all_bounds_are_tight_when_the_confidence_is_the_critical_accuracy(known_world):
    """Confidence A* everywhere: TCE = 0, so ECE = Δ = |A - A*| = |A - C|."""
    _, star = known_world(1500, known=0.4)
    first, _ = known_world(1500, known=0.4, confidence=0.5)
    critical = float(star.p_NK[np.arange(1500), first.prediction_N].mean())
    scores, _ = known_world(1500, known=0.4, confidence=critical)
    a, ece, found = numbers(scores, star)
    assert found["tce"] == pytest.approx(0, abs=1e-12)
    for name in ("bound_1", "bound_2_low", "bound_2_high", "bound_3", "delta", "distance"):
        assert found[name] == pytest.approx(ece), name
    assert ece == pytest.approx(a - critical)
    assert ece > 0.2


def test_collapse_makes_ece_one_minus_accuracy_and_both_sides_of_bound_2_tight(known_world):
    """Confidence 1: ECE = 1 - A, TCE = 1 - A*. Above the critical accuracy 1 - A = TCE - Δ; below it, TCE + Δ."""
    above, star = known_world(1500, known=0.4, confidence=1.0)
    a, ece, found = numbers(above, star)
    assert ece == pytest.approx(1 - a)
    assert found["bound_2_low"] == pytest.approx(ece)
    assert found["bound_2_high"] > ece + 0.2
    below, star = known_world(1500, known=-0.4, confidence=1.0)
    a, ece, found = numbers(below, star)
    assert ece == pytest.approx(1 - a)
    assert found["bound_2_high"] == pytest.approx(ece)
    assert found["bound_2_low"] < ece - 0.2


def test_bound_1_is_tight_where_no_two_bins_err_in_opposite_directions_and_loose_where_they_do():
    """Bins of confidence .6 and .9, 100 questions each. Right 50 and 70: both too sure, ECE = (.1 + .2)/2 = |A - C|.
    Right 80 and 70: one too unsure, one too sure, ECE = (.2 + .2)/2 while A = C.
    """
    p = [[0.6, 0.4]] * 100 + [[0.9, 0.1]] * 100
    for right, ece, bound in (((50, 70), 0.15, 0.15), ((80, 70), 0.2, 0.0)):
        answer = [int(i >= hits) for hits in right for i in range(100)]
        scores = Scores.from_probs(p, answer)
        _, found_ece, found = numbers(scores, scores)
        assert (found_ece, found["bound_1"]) == (pytest.approx(ece), pytest.approx(bound, abs=1e-12))


def test_bound_3_is_tight_for_a_model_that_matches_the_target_and_is_right_more_often_everywhere():
    """π* and the model say .6 and .9; it is right on 80 and 100 of 100: ECE = (.2 + .1)/2 = A - A*, TCE = 0."""
    answer = [int(i >= hits) for hits in (80, 100) for i in range(100)]
    scores = Scores.from_probs([[0.6, 0.4]] * 100 + [[0.9, 0.1]] * 100, answer)
    a, ece, found = numbers(scores, scores)
    assert found["tce"] == 0
    assert (
        found["bound_3"] == pytest.approx(ece) == pytest.approx(a - found["critical_accuracy"]) == pytest.approx(0.15)
    )


@pytest.mark.parametrize("known", [0.0, 0.3])
@pytest.mark.parametrize("power", [1.0, 2.5])
def test_a_calibrated_reference_stands_for_the_target(known_world, known, power):
    """π* raised to a power is the reference: its cross-validated calibrator gives back A*, and the verdict with it.

    A* = (2/5) m + (1 - m) 25/48. The answers that the model has by heart are those that the calibrator is fitted to, so
    A* follows them a little; half an interval at n = 4,000 is .014.
    """
    scores, star = known_world(4000, known=known)
    reference = Scores.from_logp(power * star.logp_NK, star.answer_N)
    by_reference = diagnose(scores, reference=reference, n_boot=100)
    by_truth = diagnose(scores, target=star, n_boot=100)
    assert by_reference.target_kind == "reference"
    assert by_reference.numbers["critical_accuracy"].value == pytest.approx(
        0.4 * known + (1 - known) * 25 / 48, abs=0.02
    )
    assert by_reference.verdict == by_truth.verdict == ("non-calibratable" if known else "calibratable")


def test_a_path_finds_the_critical_accuracy_where_learning_by_heart_sets_in(known_world):
    """Checkpoints under- then over-learnt: accuracy rises from .52 with m while confidence stays π*'s. ECE >= .6 m - TCE,
    TCE small: those with m > 0 leave the floor, so A* is that of m = 0, 25/48, and the verdict of the last is the one
    that the true target gives.
    """
    path = [known_world(3000, known=m, seed=7)[0] for m in (0.0, 0.1, 0.2, 0.4)]
    found = diagnose(path[-1], path=path, n_boot=100)
    assert found.critical_checkpoint.accuracy == pytest.approx(25 / 48, abs=0.03)
    assert found.verdict == diagnose(path[-1], target=known_world(3000, known=0.4, seed=7)[1], n_boot=100).verdict
    assert found.verdict == "non-calibratable"
    assert any("within its floor earlier" in warning for warning in found.warnings)


def test_the_target_itself_is_calibrated_up_to_noise(known_world):
    scores, star = known_world(4000, known=0.0)
    d = diagnose(scores, target=star, n_boot=200)
    assert d.numbers["tce"].value == pytest.approx(0, abs=1e-12)
    assert (d.verdict, d.action) == ("calibratable", "nothing")


def test_the_verdict_flips_at_the_critical_accuracy(known_world):
    """A - A* = .6 m; half an interval is about 1.96 * .45 / sqrt(4000) = .014; the tolerance is .05."""
    verdicts = []
    for known in (-0.3, 0.0, 0.03, 0.15, 0.4):
        scores, star = known_world(4000, known=known)
        d = diagnose(scores, target=star, n_boot=100)
        verdicts.append(d.verdict)
        assert (d.action == "rcft") == (d.verdict == "non-calibratable")
    assert verdicts == ["calibratable"] * 3 + ["non-calibratable"] * 2


def test_near_the_critical_accuracy_few_questions_leave_it_undecided(known_world):
    scores, star = known_world(300, known=0.05)
    d = diagnose(scores, target=star, n_boot=200)
    assert d.verdict == "undecided"
    assert "questions would settle it" in " ".join(d.reasons)


def test_intervals_of_the_excess_cover_the_truth(known_world):
    """95 % nominal; of 200 worlds at least 180 (a true 95 % gives fewer with probability .001)."""
    inside = 0
    for seed in range(200):
        scores, star = known_world(300, known=0.2, seed=seed)
        excess = scores.correct_N - star.p_NK[np.arange(300), scores.prediction_N]
        e = mean_estimates({"excess": excess}, Sampling(200, 0.95, seed, 10))["excess"]
        inside += e.low <= 0.12 <= e.high
    assert inside >= 180


def test_a_target_that_promises_too_much_is_named_and_does_not_forbid_calibration(known_world):
    scores, star = known_world(2000, known=-0.4)
    d = diagnose(scores, target=star, n_boot=100)
    assert d.verdict == "calibratable"
    assert any("promises more" in reason for reason in d.reasons)


@pytest.mark.parametrize(
    ("known", "wrong_verdict", "at_most"), [(0.0, "non-calibratable", 10), (0.2, "calibratable", 2)]
)
def test_the_verdict_is_seldom_wrong(known_world, known, wrong_verdict, at_most):
    """200 worlds of 500 questions; docs/regimes.md has 2 % for A = A*, and 0 % from A - A* = .10 on (here .12)."""
    wrong = 0
    for seed in range(200):
        scores, star = known_world(500, known=known, seed=seed)
        excess = scores.correct_N - star.p_NK[np.arange(500), scores.prediction_N]
        e = mean_estimates({"excess": excess}, Sampling(200, 0.95, seed, 10))["excess"]
        wrong += regime_of(e, TOLERANCE) == wrong_verdict
    assert wrong <= at_most


def test_no_change_on_few_questions_is_no_proof_that_there_is_none(known_world):
    """Where no prediction differs from the reference's, resampling gives an interval of no width."""
    for n, verdict in ((40, "undecided"), (200, "calibratable")):
        _, star = known_world(n)
        sharp = Scores.from_logp(3 * star.logp_NK, star.answer_N)
        d = diagnose(sharp, reference=star, n_boot=100)
        e = d.numbers["excess_accuracy"]
        unseen = wilson_interval(0.0, n, 0.95)[1]  # of the share of predictions that differ
        assert (e.value, e.low, e.high) == (pytest.approx(0, abs=1e-9), pytest.approx(-unseen), pytest.approx(unseen))
        assert d.verdict == verdict
