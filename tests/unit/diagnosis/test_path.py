"""Checkpoints, the critical one, and the signs of leaving the regime."""

import math
from dataclasses import replace

import numpy as np
import pytest

from calibrant.diagnosis import checkpoint_point, diagnose
from calibrant.diagnosis.path import checkpoints, critical_checkpoint, signs_of_leaving
from calibrant.errors import ConfigError
from calibrant.metrics import measure, wilson_interval
from calibrant.metrics.estimates import Sampling
from calibrant.scores import Scores

HOW = Sampling(n_boot=100, level=0.95, seed=0, n_bins=10)


def point(accuracy=0.6, conf_ece=0.03, floor_p95=0.04, n=1000, **more):
    return {"accuracy": accuracy, "conf_ece": conf_ece, "floor_p95": floor_p95, "n": n, **more}


def test_a_mapping_and_scores_give_the_same_checkpoint(draw):
    scores = draw(300, power=2.0)
    m = measure(scores, n_boot=100)
    made = m.to_json()
    made["floor_p95"] = m["conf_ece"].floor_p95
    assert checkpoints([scores], HOW) == checkpoints([made], HOW)


def test_the_critical_checkpoint_is_the_most_accurate_that_is_within_its_floor():
    lucky = point(0.9, n=40, conf_ece=0.15, floor_p95=0.2)  # its floor is too high to tell
    path = [point(0.5), point(0.62), point(0.7, conf_ece=0.05), point(0.8, floor_p95=None), point(0.61), lucky]
    assert critical_checkpoint(checkpoints(path, HOW)).accuracy == 0.62
    assert critical_checkpoint(checkpoints(path[2:4], HOW)) is None


def test_a_confidence_without_interval_is_set_against_the_interval_of_accuracy():
    """Gap from C - A_high to C - A_low."""
    low, high = wilson_interval(0.6, 1000)
    (made,) = checkpoints([point(mean_confidence=0.75)], HOW)
    assert made.gap == pytest.approx((0.75 - high, 0.75 - low))
    assert checkpoints([point()], HOW)[0].gap is None


def test_a_point_measured_while_training_is_what_measure_says(draw):
    """Quicker (fewer draws, an interval in closed form), but the same numbers and nearly the same interval."""
    scores = draw(800, power=2.0, mixed=True)
    point, m = checkpoint_point(scores), measure(scores)
    for name in ("accuracy", "mean_confidence", "conf_ece", "nll", "signed_gap"):
        assert point[name] == pytest.approx(m[name].value), name
    assert point["floor_p95"] == pytest.approx(m["conf_ece"].floor_p95, rel=0.1)
    assert point["signed_gap_low"] == pytest.approx(m["signed_gap"].low, abs=0.004)
    assert point["signed_gap_high"] == pytest.approx(m["signed_gap"].high, abs=0.004)
    assert point["entropy"] == pytest.approx(diagnose(scores, n_boot=50).collapse.entropy.value)
    assert "option_mass" not in point  # unknown here, so left out
    assert checkpoints([point], HOW)[0].gap == (point["signed_gap_low"], point["signed_gap_high"])


def test_the_interval_of_the_gap_by_hand():
    """Confidence .9, right 3 of 4: gaps -.1, -.1, -.1, .9; mean .15, sd .5; and what 3 of 4 alike hide: (2/9 - 3/16)/4."""
    point = checkpoint_point(Scores.from_probs([[0.9, 0.1]] * 4, [0, 0, 0, 1]), n_draws=10)
    assert point["signed_gap"] == pytest.approx(0.15)
    assert point["signed_gap_high"] - point["signed_gap"] == pytest.approx(
        1.959964 * (0.25**2 + (2 / 9 - 3 / 16) / 4) ** 0.5
    )


def test_an_impossible_answer_leaves_no_log_loss():
    point = checkpoint_point(Scores.from_probs([[1.0, 0.0]] * 3, [0, 0, 1]), n_draws=10)
    assert "nll" not in point
    assert point["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("train_n", "seen"), [(None, True), (1000, True), (100, False)])
def test_growth_of_the_lead_must_exceed_its_interval(train_n, seen):
    """.62 to .72 on training questions, .60 held out (n = 1,000): growth .10. Standard error at 1,000 training questions
    sqrt(.2356 + .2016 + .24 + .24) / sqrt(1000) = .030, interval .059; at 100 .070, .136.
    """
    path = [point(train_accuracy=a, **({} if train_n is None else {"train_n": train_n})) for a in (0.62, 0.72)]
    assert bool(signs_of_leaving(checkpoints(path, HOW))) == seen


@pytest.mark.parametrize(
    ("path", "sign"),
    [
        ([point(train_accuracy=0.62), point(train_accuracy=0.70)], "grew from"),
        ([point(nll=1.0), point(nll=0.9), point(nll=0.95)], "NLL turned up from 0.900"),
        ([point(mean_confidence=0.6), point(mean_confidence=0.7)], "excludes 0"),
        ([point(), point(conf_ece=0.06)], "within its floor earlier"),
    ],
)
def test_each_sign_is_seen_alone(path, sign):
    (found,) = signs_of_leaving(checkpoints(path, HOW))
    assert sign in found


@pytest.mark.parametrize(
    "path",
    [
        [],
        [point(nll=0.9, train_accuracy=0.9)],
        [point(nll=1.0, train_accuracy=0.62), point(nll=0.9, train_accuracy=0.64)],
        [point(nll=0.9), point(nll=0.905)],
        [point(nll=0.9), point(accuracy=0.8, nll=0.95)],
        [point(conf_ece=0.2, mean_confidence=0.8), point(conf_ece=0.1, mean_confidence=0.7)],
        [point(conf_ece=0.05, floor_p95=0.095), point(conf_ece=0.05, floor_p95=0.105)],
    ],
    ids=["none", "one", "improving", "NLL within noise", "accuracy pays for NLL", "never calibrated", "a wider floor"],
)
def test_no_sign_where_there_is_none(path):
    assert signs_of_leaving(checkpoints(path, HOW)) == ()


@pytest.mark.parametrize(
    "broken",
    [{"accuracy": 0.5, "n": 10}, point(accuracy=1.5), point(n=0), point(nll="low"), point(accuracy=math.nan)],
)
def test_a_checkpoint_that_is_none_is_refused_with_its_place(broken):
    with pytest.raises(ConfigError, match="checkpoint 1"):
        checkpoints([point(), broken], HOW)


def test_a_path_is_the_target_where_no_reference_is(draw):
    """A = .75 against the calibrated checkpoint's .60, n = 1,000 each: A - A* = .15 +- .04."""
    scores = Scores.from_probs([[0.95, 0.05]] * 1000, [0] * 750 + [1] * 250)
    path = [point(0.55), point(0.60), point(0.72, conf_ece=0.15)]
    d = diagnose(scores, path=path, n_boot=100)
    assert (d.verdict, d.action, d.target_kind) == ("non-calibratable", "rcft", "path")
    assert d.critical_checkpoint.accuracy == 0.60
    assert d.numbers["excess_accuracy"].value == pytest.approx(0.15)
    assert "tce" not in d.numbers
    assert d.to_json()["numbers"]["tce"] is None
    assert d.to_json()["path"][2]["conf_ece"] == 0.15
    assert any("Sign of leaving" in warning for warning in d.warnings)
    lower = diagnose(scores, path=[point(0.85)], n_boot=100)
    assert lower.verdict == "calibratable"


def test_a_path_of_scores_of_the_same_questions_is_compared_pair_by_pair(draw):
    """Of 600 questions the last checkpoint gets those right that the first did, and 60 more: A - A* = .1, standard error
    sqrt(.1 * .9 / 600) = .012. Unpaired it would be sqrt(2 * .24 / 600) = .028.
    """
    first = draw(600)
    wrong = np.flatnonzero(~first.correct_N)[:60]
    p = first.p_NK.copy()
    p[wrong] = np.where(np.arange(4) == first.answer_N[wrong, None], 0.97, 0.01)
    last = Scores.from_probs(p, first.answer_N)
    path = [
        first,
        replace(last, logp_NK=Scores.from_probs(p**5 / (p**5).sum(1, keepdims=True), first.answer_N).logp_NK),
    ]
    d = diagnose(last, path=path, n_boot=400)
    excess = d.numbers["excess_accuracy"]
    assert d.critical_checkpoint.accuracy == pytest.approx(first.correct_N.mean())
    assert excess.value == pytest.approx(0.1)
    assert excess.high - excess.low == pytest.approx(2 * 1.96 * 0.0122, rel=0.2)
    assert "on the same questions" in " ".join(d.reasons)
    unpaired = diagnose(last, path=[s.select(np.arange(599)) for s in path], n_boot=400)
    assert unpaired.numbers["excess_accuracy"].high > excess.high + 0.02
    assert "599 other questions" in " ".join(unpaired.warnings)


def test_a_path_without_a_calibrated_checkpoint_is_no_target(draw):
    d = diagnose(draw(300, power=3.0), path=[point(conf_ece=0.2)], n_boot=100)
    assert d.target_kind == "self"
    assert d.critical_checkpoint is None
