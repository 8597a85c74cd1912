"""Numbers where nearly all answers are right: intervals that resampling alone makes too narrow, or of no width."""

import numpy as np
import pytest
from scipy.stats import t as student

from calibrant import Scores, compare, measure
from calibrant.metrics import Contest, battery
from calibrant.metrics.rare import change_reaching, error_gap, gap_arm, loss_of_each, reaching
from calibrant.metrics.sums import QuestionSums, bootstrap_sums
from calibrant.metrics.uncertainty import percentile_interval, wilson_interval
from calibrant.scalers import at_temperature


def sure(n, wrong=0, p=0.9):
    return Scores.from_probs([[p, 1 - p]] * n, [0] * (n - wrong) + [1] * wrong)


def accurate(rng, n):
    """A calibrated model with four options, right 98 % of the time."""
    c_N = np.clip(1 - 0.7 * rng.beta(1, 1 / 0.03 - 1, n), None, 1 - 1e-9)
    p_NK = np.column_stack([c_N, *((1 - c_N) / 3,) * 3])
    return Scores.from_probs(p_NK, (rng.random((n, 1)) > np.cumsum(p_NK, axis=1)[:, :-1]).sum(1))


def test_the_gap_of_a_wrong_answer_by_hand():
    """Two wrong at .9 cost ln 9 more each, and a third, as the model expects it: as much. Brier: 2 (.9 − .1)."""
    scores = sure(10, wrong=2)
    assert error_gap(loss_of_each(scores, "nll"), scores) == pytest.approx(np.log(9))
    assert error_gap(loss_of_each(scores, "brier"), scores) == pytest.approx(1.6)
    for name, loss_N in (("nll", -np.log([0.9, 0.1])), ("brier", [0.02, 1.62])):
        assert loss_of_each(scores, name)[0] == pytest.approx(loss_N)


def test_options_without_a_finite_loss_are_left_out_of_the_gap():
    scores = Scores.from_probs([[0.75, 0.25, 0.0]] * 4 + [[0.5, 0.5, np.nan]], [0] * 5)
    expected = 4 * 0.25 * np.log(3) / (4 * 0.25 + 0.5)
    assert error_gap(loss_of_each(scores, "nll"), scores) == pytest.approx(expected)
    certain = Scores.from_probs([[1.0, 0.0]] * 4, [0] * 4)
    assert error_gap(loss_of_each(certain, "nll"), certain) == 0


def test_all_right_leaves_room_for_wrong_answers():
    """10 right of 10: up to 28 % may be wrong (Wilson), each at ln 9 more."""
    m = measure(sure(10))
    low, high = wilson_interval(1.0, 10)
    assert high == 1.0
    assert (m["nll"].low, m["nll"].high) == pytest.approx((-np.log(0.9), -np.log(0.9) + (1 - low) * np.log(9)))
    d = compare(sure(10), sure(10, p=0.95))
    assert [d[name].verdict for name in ("nll", "brier", "conf_ece")] == ["undecided"] * 3
    c = Contest({"a": [sure(10)], "b": [sure(10, p=0.95)]})
    for name in ("nll", "brier"):
        assert c.estimates("a")[name].high == pytest.approx(m[name].high)
        assert c.differences("a", "b")[name].verdict == "undecided"


def test_where_both_kinds_are_many_nothing_changes():
    rng = np.random.default_rng(0)
    p_NK = rng.dirichlet([1, 1, 1, 1], 1000)
    scores = Scores.from_probs(p_NK, (rng.random((1000, 1)) > np.cumsum(p_NK, axis=1)[:, :-1]).sum(1))
    e, share = measure(scores)["nll"], float(scores.correct_N.mean())
    gap = error_gap(loss_of_each(scores, "nll"), scores)
    assert reaching((e.low, e.high), e.value, gap, share, wilson_interval(share, 1000)) == (e.low, e.high)
    assert e.low < e.value - gap * (wilson_interval(share, 1000)[1] - share)
    sums = QuestionSums(scores, 10)
    low, high = percentile_interval(sums.means(bootstrap_sums(sums.columns, 1000, 1000, 0))["nll"])
    assert e.low == low
    assert high <= e.high < high + 0.03 * (high - low)


def test_few_wrong_answers_do_not_tell_what_one_costs():
    """50 answers at .99 and 50 at .6, one wrong of each: ln 99, ln 1.5, and a third as the model expects it. The upper end is
    where both are worse than seen, how many are wrong (Wilson) and what one costs (Student), as the root of two squares.
    """
    scores = Scores.from_probs([[0.99, 0.01]] * 50 + [[0.6, 0.4]] * 50, [1] + [0] * 98 + [1])
    expected = (0.5 * np.log(99) + 20 * np.log(1.5)) / 20.5
    cost = np.array([np.log(99), np.log(1.5), expected])
    loss_NK = loss_of_each(scores, "nll")
    arm = student.ppf(0.975, 3) * cost.std(ddof=1) / np.sqrt(3)
    assert error_gap(loss_NK, scores) == pytest.approx(cost.mean())
    assert gap_arm(loss_NK, scores) == pytest.approx(arm)
    low = wilson_interval(0.98, 100)[0]
    e = measure(scores)["nll"]
    high = e.value + np.hypot(cost.mean() * (0.98 - low), (1 - low) * arm)
    assert e.high == pytest.approx(high)
    assert high - e.value > 1.2 * cost.mean() * (0.98 - low)
    assert Contest({"a": [scores]}).estimates("a")["nll"].high == pytest.approx(high)
    assert gap_arm(loss_of_each(sure(10), "nll"), sure(10)) == 0


def test_few_wrong_answers_do_not_tell_what_a_temperature_saves():
    """The same two wrong answers at a temperature of 2, which halves each log-odds: they cost ln 99 / 2 and ln 1.5 / 2 less
    and may have saved more. The lower end is the further one of what the two models expect of a third.
    """
    a = Scores.from_probs([[0.99, 0.01]] * 50 + [[0.6, 0.4]] * 50, [1] + [0] * 98 + [1])
    b = at_temperature(a, 2.0)
    change_NK, low, ends = loss_of_each(b, "nll") - loss_of_each(a, "nll"), wilson_interval(0.98, 100)[0], []
    for wrong in (np.array([0.01, 0.4]), 1 / (1 + np.sqrt([99, 1.5]))):
        saved = np.append(np.log([99, 1.5]) / 2, wrong @ np.log([99, 1.5]) / 2 / wrong.sum())
        ends.append(
            np.hypot(saved.mean() * (0.98 - low), (1 - low) * student.ppf(0.975, 3) * saved.std(ddof=1) / 3**0.5)
        )
        by = a if len(ends) == 1 else b
        assert error_gap(change_NK, by) == pytest.approx(-saved.mean())
    d = compare(a, b)["nll"]
    assert d.low == pytest.approx(d.value - max(ends))
    assert compare(b, a)["nll"].high == pytest.approx(-d.value + max(ends))


def test_four_copies_of_a_question_tell_no_more_of_what_a_wrong_answer_costs():
    scores = Scores.from_probs([[0.99, 0.01]] * 50 + [[0.6, 0.4]] * 50, [1] + [0] * 98 + [1])
    at = np.repeat(np.arange(100), 4)
    four, label = Scores.from_probs(scores.p_NK[at], scores.answer_N[at]), at.tolist()
    once, copied = measure(scores)["nll"], measure(four, cluster=label)["nll"]
    assert copied.high - copied.value == pytest.approx(once.high - once.value, rel=0.2)
    assert copied.high - copied.value > 1.5 * (measure(four)["nll"].high - copied.value)
    cooled, cooled_four = at_temperature(scores, 2.0), at_temperature(four, 2.0)
    once, copied, apart = compare(scores, cooled), compare(four, cooled_four, cluster=label), compare(four, cooled_four)
    saved = [d["nll"].value - d["nll"].low for d in (once, copied, apart)]
    assert saved[1] == pytest.approx(saved[0], rel=0.2)
    assert saved[1] > 1.5 * saved[2]


def test_a_sharpened_model_is_not_called_better_for_want_of_wrong_answers():
    """Truly worse at T = .7; plain percentiles call it better in every seventh sample (benchmarks/rare_errors.py)."""
    rng = np.random.default_rng(1)
    better = 0
    for i in range(60):
        a = accurate(rng, 100)
        d = compare(a, at_temperature(a, 0.7), n_boot=100, seed=i)
        better += sum(d[name].verdict == "b is better" for name in ("nll", "brier"))
    assert better <= 3


@pytest.mark.parametrize("wrong", [1, 9, 10])
def test_ranking_has_an_interval_from_ten_wrong_answers_on(wrong):
    c_N = np.linspace(0.5, 1, 200)
    right_N = np.ones(200, dtype=bool)
    right_N[10 : 10 + 7 * wrong : 7] = False
    scores = Scores.from_probs(np.column_stack([c_N, 1 - c_N]), np.where(right_N, 0, 1))
    found = battery(scores, n_boot=100)
    contest = Contest({"a": [scores], "b": [at_temperature(scores, 2.0)]}, n_boot=100)
    for ends in (
        (found["auroc"].low, found["aurc"].low, contest.estimates("a")["auroc"].low),
        (found["auroc"].high, found["aurc"].high, contest.differences("a", "b")["auroc"].high),
    ):
        assert np.isfinite(ends).all() == (wrong >= 10)


def test_the_smooth_error_has_a_width_where_nothing_is_left():
    """50 of 100 right at .5: no residual at all, and yet no proof of calibration."""
    scores = Scores.from_probs([[0.5, 0.5]] * 100, [0, 1] * 50)
    assert battery(scores)["smooth_ece"].high == pytest.approx(measure(scores)["conf_ece"].high, abs=0.02)
    certain = Scores.from_probs([[1.0, 0.0]] * 100, [0] * 100)
    assert battery(certain)["smooth_ece"].high > 0.01
    assert Contest({"a": [certain]}).estimates("a")["smooth_ece"].high > 0.01


def test_a_change_is_wider_only_where_both_predict_the_same():
    """Where predictions differ, the changed answers are what is resampled: thousands of errors leave the interval as it is."""
    rng = np.random.default_rng(3)
    p_NK, q_NK = rng.dirichlet([1, 1, 1], 2000), rng.dirichlet([1, 1, 1], 2000)
    answer = rng.integers(3, size=2000)
    a, b = Scores.from_probs(p_NK, answer), Scores.from_probs(q_NK, answer)
    drawn_B = np.array([-0.1, 0.1])
    assert change_reaching((-0.1, 0.1), 0.0, "nll", [(a, b)], drawn_B, None) == (-0.1, 0.1)
    flipped = Scores.from_probs(q_NK[:, [1, 0]] / q_NK[:, :2].sum(1, keepdims=True), answer.clip(0, 1))
    straight = Scores.from_probs(q_NK[:, :2] / q_NK[:, :2].sum(1, keepdims=True), answer.clip(0, 1))
    assert not (flipped.prediction_N == straight.prediction_N).any()
    assert change_reaching((0.0, 0.0), 0.0, "nll", [(flipped, straight)], drawn_B, None) == (0.0, 0.0)
    few = sure(10), sure(10, p=0.95)
    low, high = change_reaching((0.0, 0.0), 0.0, "nll", [few], drawn_B, None)
    gap, end = np.log(0.95 / 0.05) - np.log(9), wilson_interval(1.0, 10)[0]
    assert (low, high) == pytest.approx((0, gap * (1 - end)))
    clustered = change_reaching((0.0, 0.0), 0.0, "nll", [few], np.zeros(5), 4)[1]
    assert clustered == pytest.approx(gap * (1 - wilson_interval(1.0, 4)[0]))
