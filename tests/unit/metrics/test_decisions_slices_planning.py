"""Thresholds that keep their promise, slices that find what averages hide, and how many questions are enough."""

import math

import numpy as np
import pytest

from calibrant.cli.tables import decision_text
from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import (
    Estimate,
    holm,
    measure,
    minimum_detectable,
    n_for_width,
    n_to_decide,
    risk_coverage,
    slices,
    threshold_for,
    verification_rate,
)
from calibrant.metrics.measurement import DISTINGUISHABLE, INDISTINGUISHABLE
from calibrant.reporting.abstention import promise
from calibrant.scores import Scores


def test_risk_coverage_ends_at_the_error_rate_and_groups_ties():
    curve = risk_coverage([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0])
    assert curve.threshold_G.tolist() == [0.9, 0.8, 0.3]
    assert curve.coverage_G.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk_G == pytest.approx([0, 1 / 3, 1 / 2])
    assert (curve.low_G <= curve.risk_G).all()
    assert (curve.risk_G <= curve.high_G).all()


def test_a_promise_is_broken_no_more_often_than_stated():
    """Accuracy equals confidence on [.5, 1]: above t it is (1 + t)/2, so a promise of .9 holds iff t >= .8."""
    broken, made = 0, 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        c = 0.5 + rng.random(600) / 2
        d = threshold_for(c, rng.random(600) < c, target_accuracy=0.9, level=0.9)
        made += d.threshold is not None
        broken += d.threshold is not None and (1 + d.threshold) / 2 < 0.9
    assert made > 200
    assert broken / 400 < 0.10 + 2 * math.sqrt(0.09 / 400)


def test_the_bound_of_the_chosen_threshold_is_above_the_target():
    rng = np.random.default_rng(0)
    c = 0.5 + rng.random(4000) / 2
    d = threshold_for(c, rng.random(4000) < c, target_accuracy=0.85)
    assert d.accuracy_low >= 0.85
    assert 0.70 < d.threshold < 0.80
    assert d.coverage == pytest.approx((c >= d.threshold).mean())
    assert d.abstention == pytest.approx(1 - d.coverage)


@pytest.mark.parametrize(("n", "share", "why"), [(20, 1.0, "need at least"), (500, 0.3, "too low")])
def test_no_threshold_is_said_with_its_reason(n, share, why):
    c = np.linspace(0.5, 1, n)
    d = threshold_for(c, np.arange(n) < share * n, target_accuracy=0.95)
    assert d.threshold is None
    assert d.coverage == 0
    assert why in d.note
    assert d.to_json()["accuracy"] is None


def test_targets_that_are_no_share_are_refused():
    with pytest.raises(ConfigError):
        threshold_for([0.5], [1], 1.0)


def hidden(seed=1):
    """Twenty subjects of 150; one is overconfident by .2 and another underconfident by .2: the average is calibrated."""
    rng = np.random.default_rng(seed)
    c = 0.55 + 0.2 * rng.random(3000)
    subject = np.repeat(np.arange(20), 150)
    shift = np.select([subject == 3, subject == 11], [-0.2, 0.2], 0.0)
    y = rng.random(3000) < c + shift
    p = np.column_stack([c, 1 - c])
    lengths = rng.integers(1, 500, 3000).tolist()
    return Scores.from_probs(
        p, np.where(y, 0, 1), subjects=[f"s{i:02d}" for i in subject], columns={"length": lengths, "kind": ["x"] * 3000}
    )


def test_a_miscalibrated_subject_behind_a_calibrated_average_is_found():
    s = hidden()
    assert measure(s)["conf_ece"].verdict == INDISTINGUISHABLE
    found = slices(s)
    assert {part.name for part in found[:2]} == {"s03", "s11"}
    assert [part.verdict for part in found].count(DISTINGUISHABLE) == 2
    assert sum(part.n for part in found) == s.n
    by_name = {part.name: part for part in found}
    assert by_name["s03"].signed_gap.low > 0
    assert by_name["s11"].signed_gap.high < 0
    assert by_name["s03"].conf_ece.low > 0.05


def test_looking_at_many_calibrated_slices_raises_a_false_alarm_rarely():
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        c = 0.5 + 0.5 * rng.random(600)
        s = Scores.from_probs(np.column_stack([c, 1 - c]), np.where(rng.random(600) < c, 0, 1))
        parts = slices(s, rng.integers(0, 12, 600).tolist(), n_boot=50)
        alarms += any(part.verdict == DISTINGUISHABLE for part in parts)
    assert alarms <= 6  # 5 % of 40 is 2; P(more than 6) < .5 %


def test_numbers_are_cut_in_four_and_nothing_is_dropped():
    s = hidden()
    parts = slices(s, "length", n_boot=50)
    assert len(parts) == 4
    assert all(650 < part.n < 850 for part in parts)
    assert sum(part.n for part in parts) == s.n
    values = [None, math.nan, *range(2998)]
    parts = slices(s, values, n_boot=50)
    assert {part.name: part.n for part in parts}["(none)"] == 2
    assert sum(part.n for part in parts) == s.n


def test_parts_of_numbers_that_look_alike_in_six_digits_stay_apart():
    s = hidden()
    parts = slices(s, [1.7e9 + i for i in range(s.n)], n_boot=50)
    assert sorted(part.n for part in parts) == [s.n // 4] * 4
    assert len({part.name for part in parts}) == 4


def test_a_threshold_is_said_in_full():
    """.90002 and 1 - 2.5e-5 would be said as .9 and 1: more, or none, of the questions, and another accuracy."""
    for sure, half in ((0.90002, 0.9), (1 - 2.5e-5, 1 - 3e-5)):
        c = [sure] * 100 + [half] * 100
        decision = threshold_for(c, [1] * 99 + [0] + [1, 0] * 50, target_accuracy=0.9)
        assert decision.coverage == 0.5
        for text in (decision_text(decision), promise(decision)):
            said = float(next(number for number in text.split() if number[:2] == "0.").rstrip(":,"))
            assert half < said <= sure


@pytest.mark.parametrize(
    ("by", "names"), [("answer", {"0", "1"}), ("options", {"2"}), ("kind", {"x"}), ("prediction", {"0"})]
)
def test_built_in_slices(by, names):
    assert {part.name for part in slices(hidden(), by, n_boot=50)} == names


def leaning(n, seed, *, power=1.0):
    """Two options, the first with probability ~ Beta(3, 2), answers drawn from it; the model raises its odds to a power."""
    rng = np.random.default_rng(seed)
    q = rng.beta(3, 2, n)
    odds = (q / (1 - q)) ** power
    p = odds / (1 + odds)
    return Scores.from_probs(np.column_stack([p, 1 - p]), np.where(rng.random(n) < q, 0, 1))


def test_a_calibrated_model_that_leans_to_a_position_is_not_condemned_by_the_answers():
    """Among its questions with answer 0 it is right more often than it says, by the definition of calibration."""
    found = [part for seed in range(20) for part in slices(leaning(1000, seed), "answer", n_boot=50)]
    assert all(abs(part.signed_gap.value) > 0.05 for part in found)
    assert sum(part.p_value < 0.05 for part in found) <= 6  # 2 of 40 expected, P(more than 6) < .4 %
    assert all(math.isnan(part.signed_gap.low) and math.isnan(part.conf_ece.high) for part in found)
    assert all(part.conf_ece.floor_mean == pytest.approx(part.conf_ece.value, rel=0.5) for part in found)


def test_a_column_that_is_called_answer_is_a_column():
    scores = leaning(400, 0)
    named = Scores.from_logp(scores.logp_NK, scores.answer_N, columns={"answer": ["0", "1"] * 200})
    parts = slices(named, "answer", n_boot=50)
    assert [part.n for part in parts] == [200, 200]
    assert all(part.signed_gap.low < part.signed_gap.high for part in parts)


def test_a_sharpened_model_is_told_by_the_answers_too_and_options_may_be_mixed():
    assert [part.verdict for part in slices(leaning(1000, 0, power=3.0), "answer", n_boot=50)] == [DISTINGUISHABLE] * 2
    few = [[0.6, 0.4, math.nan]] * 30 + [[0.2, 0.3, 0.5]] * 30
    parts = slices(Scores.from_probs(few, [0] * 18 + [1] * 12 + [0] * 6 + [1] * 9 + [2] * 15), "answer", n_boot=50)
    assert [(part.name, part.n) for part in sorted(parts, key=lambda part: part.name)] == [
        ("0", 24),
        ("1", 21),
        ("2", 15),
    ]
    assert all(part.verdict == INDISTINGUISHABLE for part in parts)


def test_a_slice_whose_answers_are_all_right_has_an_interval_like_that_of_measure():
    s = Scores.from_probs([[0.9, 0.1]] * 30, [0] * 30, subjects=["law"] * 30)
    (part,), whole = slices(s), measure(s)["signed_gap"]
    assert (part.signed_gap.low, part.signed_gap.high) == pytest.approx((whole.low, whole.high), abs=0.02)
    assert part.signed_gap.high - part.signed_gap.low > 0.08


def test_slices_by_nothing_known_are_refused():
    assert [part.name for part in slices(hidden(), [math.nan] * 3000, n_boot=50)] == ["(none)"]
    with pytest.raises(ConfigError, match="n_boot"):
        slices(hidden(), n_boot=0)
    with pytest.raises(ConfigError, match="kind"):
        slices(hidden(), "nothing")
    with pytest.raises(ScoresError):
        slices(hidden(), [1, 2])


def test_holm_by_hand():
    """Sorted .005 x4 = .02; .01 x3 = .03; .03 x2 = .06; .04 x1 -> at least .06."""
    assert holm([0.04, 0.005, 0.03, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_n_for_width_quadruples_for_half_the_width():
    e = Estimate(0.5, 0.4, 0.6, 100)
    assert n_for_width(e, 0.1) == 400
    with pytest.raises(ConfigError):
        n_for_width(Estimate(0.5, math.nan, math.nan, 1), 0.1)
    with pytest.raises(ConfigError):
        n_for_width(e, 0)


def test_n_to_decide_gives_its_power():
    """A mean of 1 with sd 10: n = (10 (1.96 + .84)/1)^2 = 785; from a pilot of 100 whose margin is 1.96."""
    assert n_to_decide(1.0, 1.0 - 1.96, 1.0 + 1.96, 100) == pytest.approx(785, abs=2)
    assert n_to_decide(0.0, -1, 1, 100) is None
    assert n_to_decide(0.5, -0.1, 1.1, 500, power=0.2) == 500  # never fewer than do not decide it now


def test_no_number_of_questions_settles_rounding_nor_one_that_nobody_has():
    """One model in batches of another size: its change and its whole interval are rounding."""
    assert n_to_decide(-1.6e-9, -2.6e-9, 2e-10, 50) is None
    assert n_to_decide(1e-17, -1e-2, 1e-2, 500) is None
    assert n_to_decide(2e-6, -1e-2, 1e-2, 500) is None  # 2e10
    assert n_to_decide(1e-4, -1e-2, 1e-2, 500) < 10**8


def test_minimum_detectable_error_is_detected_with_its_power_and_shrinks_with_the_root_of_n():
    """c = .7: about (z.95-two-sided-ish + .84) sqrt(.21/n)."""
    s = Scores.from_probs([[0.7, 0.3]] * 400, [0] * 400)
    d = minimum_detectable(s)
    rng = np.random.default_rng(1)
    hits = rng.binomial(400, 0.7 - d, 4000)
    calibrated = np.abs(rng.binomial(400, 0.7, 100_000) / 400 - 0.7)
    seen = np.mean(np.abs(hits / 400 - 0.7) > np.quantile(calibrated, 0.95))
    assert seen == pytest.approx(0.8, abs=0.05)
    assert minimum_detectable(s, n=6400) == pytest.approx(d / 4, rel=0.1)
    assert minimum_detectable(s, n=1) == math.inf


def test_verification_rate_is_a_cube_root_and_refuses_nonsense():
    assert verification_rate(0.1, 8000) == pytest.approx(verification_rate(0.1, 1000) / 2)
    with pytest.raises(ConfigError):
        verification_rate(0, 100)
