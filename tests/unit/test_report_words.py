"""The verdict in words: every direction that a result can take, from numbers written by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from calibrant.metrics import Comparison, Difference, Estimate, Measurement, compare, measure
from calibrant.metrics.measurement import DISTINGUISHABLE, INDISTINGUISHABLE
from calibrant.reporting.words import BAD, GOOD, MIXED, NEUTRAL, direction, verdict
from calibrant.scores import Scores

N = 400


def measurement(said, right, ece, floor=0.06, half=0.03, n=N, level=0.95):
    """Numbers as ``measure`` gives them: the gap's interval is ``said - right`` plus and minus ``half``."""
    gap = said - right
    word = DISTINGUISHABLE if ece > floor else INDISTINGUISHABLE
    estimates = {
        "accuracy": Estimate(right, right - 0.05, right + 0.05, n),
        "mean_confidence": Estimate(said, said - 0.02, said + 0.02, n),
        "signed_gap": Estimate(gap, gap - half, gap + half, n),
        "conf_ece": Estimate(ece, max(ece - 0.04, 0), ece + 0.04, n, floor - 0.02, floor, word),
    }
    return Measurement(n, 4, 10, 1000, level, 0, "test", None, estimates)


def change(before, after, ece_verdict, accuracy_verdict, half=0.03, level=0.95):
    def difference(name, word):
        a, b = before[name].value, after[name].value
        return Difference(a, b, b - a, b - a - half, b - a + half, N, 0.5, None, word)

    parts = {"conf_ece": difference("conf_ece", ece_verdict), "accuracy": difference("accuracy", accuracy_verdict)}
    return Comparison(N, 10, 1000, level, 0, "id", None, parts)


SICK = measurement(0.85, 0.67, 0.18)
WELL = measurement(0.68, 0.69, 0.04)


def said(before, after, ece, accuracy):
    return verdict(before, after, change(before, after, ece, accuracy))


def test_overconfident_alone():
    v = verdict(SICK)
    assert (v.headline, v.tone) == ("Overconfident", BAD)
    assert v.sentences == (
        "The model said 85% on average and was right 67% of the time, over 400 questions.",
        "Its calibration error is 0.180, more than chance alone gives a calibrated model (up to 0.060): "
        "it is overconfident by 18.0 points (95% interval 15.0 to 21.0).",
    )


def test_underconfident_alone_is_told_in_points_without_a_sign():
    v = verdict(measurement(0.50, 0.67, 0.17, level=0.9))
    assert (v.headline, v.tone) == ("Underconfident", BAD)
    assert v.sentences[1].endswith("it is underconfident by 17.0 points (90% interval 14.0 to 20.0).")


def test_wrong_in_both_directions_when_the_gap_cancels():
    v = verdict(measurement(0.67, 0.67, 0.12))
    assert (v.headline, v.tone) == ("Miscalibrated in both directions", BAD)
    assert "cancels on average" in v.sentences[1]


def test_what_was_overconfident_and_is_now_wrong_in_both_directions_is_still_miscalibrated():
    both = measurement(0.67, 0.67, 0.09)
    assert (
        "and still miscalibrated, now in both directions, and"
        in said(SICK, both, "b is better", "undecided").sentences[1]
    )
    assert "and now miscalibrated, and" in said(WELL, both, "undecided", "undecided").sentences[1]
    assert "and still overconfident, and" in said(SICK, SICK, "undecided", "undecided").sentences[1]


def test_a_level_of_the_users_is_said_in_full():
    assert "(99.6% interval 15.0 to 21.0)" in verdict(measurement(0.85, 0.67, 0.18, level=0.996)).sentences[1]


def test_nothing_detected_is_not_called_calibrated():
    v = verdict(WELL)
    assert (v.headline, v.tone) == ("No miscalibration detected", GOOD)
    assert v.sentences[1] == (
        "Its calibration error is 0.040, no more than chance alone gives a calibrated model (up to 0.060), "
        "so no miscalibration can be told from chance with this many questions."
    )


def test_a_gap_that_is_detectable_below_the_floor_is_said_as_such():
    v = verdict(measurement(0.72, 0.68, 0.05))
    assert v.headline == "Overconfident"
    assert (
        "no more than chance alone gives a calibrated model (up to 0.060), yet on average it is overc" in v.sentences[1]
    )


def test_one_question_is_not_plural():
    assert verdict(measurement(0.72, 0.68, 0.05, n=1)).sentences[0].endswith("over 1 question.")


@pytest.mark.parametrize(
    ("m", "word"),
    [
        (SICK, "overconfident"),
        (measurement(0.5, 0.6, 0.1), "underconfident"),
        (measurement(0.6, 0.6, 0.1), "miscalibrated"),
        (WELL, ""),
    ],
)
def test_direction(m, word):
    assert direction(m) == word


def test_restored():
    v = said(SICK, WELL, "b is better", "undecided")
    assert (v.headline, v.tone) == ("Calibration restored", GOOD)
    assert v.sentences == (
        "Before tuning, the model said 85% on average and was right 67% of the time, over 400 questions: overconfident.",
        "After tuning, it said 68% and was right 69% of the time: the calibration error fell from 0.180 to 0.040 "
        "(change −0.140, 95% interval −0.170 to −0.110), which is no more than chance alone gives a calibrated model "
        "(up to 0.060), and accuracy did not change detectably (+2.0 points, 95% interval −1.0 to +5.0).",
    )


def test_restored_and_more_often_right():
    v = said(SICK, measurement(0.84, 0.85, 0.04), "b is better", "b is better")
    assert (v.headline, v.tone) == ("Calibration restored", GOOD)
    assert v.sentences[1].endswith("and accuracy rose by 18.0 points (95% interval +15.0 to +21.0).")


def test_restored_at_the_cost_of_accuracy():
    v = said(SICK, measurement(0.50, 0.51, 0.04), "b is better", "a is better")
    assert (v.headline, v.tone) == ("Calibration restored, but accuracy fell", MIXED)
    assert v.sentences[1].endswith("and accuracy fell by 16.0 points (95% interval −19.0 to −13.0).")


def test_improved_but_still_overconfident():
    v = said(SICK, measurement(0.77, 0.67, 0.10), "b is better", "undecided")
    assert (v.headline, v.tone) == ("Calibration improved, not fully restored", MIXED)
    assert (
        "which is more than chance alone gives a calibrated model (up to 0.060) and still overconfident,"
        in v.sentences[1]
    )


def test_improved_but_now_wrong_the_other_way():
    v = said(SICK, measurement(0.60, 0.67, 0.08), "b is better", "undecided")
    assert v.headline == "Calibration improved, not fully restored"
    assert "and now underconfident," in v.sentences[1]


def test_an_error_within_its_floor_with_a_detectable_gap_is_not_restored():
    v = said(SICK, measurement(0.71, 0.67, 0.05), "b is better", "undecided")
    assert v.headline == "Calibration improved, not fully restored"


def test_improved_and_accuracy_fell():
    v = said(SICK, measurement(0.60, 0.50, 0.10), "b is better", "a is better")
    assert (v.headline, v.tone) == ("Calibration improved, not fully restored, but accuracy fell", MIXED)


def test_got_worse():
    v = said(WELL, SICK, "a is better", "undecided")
    assert (v.headline, v.tone) == ("Calibration got worse", BAD)
    assert v.sentences[0].endswith("no miscalibration beyond chance.")
    assert "the calibration error rose from 0.040 to 0.180" in v.sentences[1]
    assert "and now overconfident" in v.sentences[1]


def test_got_worse_and_accuracy_fell():
    assert said(WELL, SICK, "a is better", "a is better").headline == "Calibration got worse, and accuracy fell"


def test_undecided_with_a_sick_model():
    v = said(SICK, measurement(0.84, 0.67, 0.17), "undecided", "undecided")
    assert (v.headline, v.tone) == ("No detectable change in calibration", NEUTRAL)
    assert "the calibration error did not change detectably, from 0.180 to 0.170" in v.sentences[1]


def test_undecided_with_a_sick_model_and_accuracy_fell():
    v = said(SICK, measurement(0.84, 0.60, 0.17), "undecided", "a is better")
    assert (v.headline, v.tone) == ("No detectable change in calibration, but accuracy fell", BAD)


def test_nothing_to_repair():
    v = said(WELL, WELL, "undecided", "undecided")
    assert (v.headline, v.tone) == ("Nothing to repair was detected, before or after", NEUTRAL)


def test_without_intervals_nothing_is_claimed():
    nan = math.nan
    lone = {name: Estimate(e.value, nan, nan, 1) for name, e in WELL.estimates.items()}
    v = verdict(Measurement(1, 4, 10, 1000, 0.95, 0, "", None, lone))
    assert (v.headline, v.tone) == ("Too few questions to tell", NEUTRAL)
    assert v.sentences[1].endswith("with this many questions.")


def test_few_questions_that_could_not_show_an_error_are_not_good_news():
    wide = {**WELL.estimates, "conf_ece": replace(WELL.estimates["conf_ece"], high=0.151)}
    v = verdict(replace(WELL, estimates=wide))
    assert (v.headline, v.tone) == ("Too few questions to tell", NEUTRAL)
    assert v.sentences[1].endswith("It may still be as large as 0.151.")


def test_the_words_agree_with_measure_and_compare_on_a_known_world():
    """Answers drawn from p; the sick model says p², renormalised (logits doubled), the cured one p itself."""
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(1500, 4)) * 1.5
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((1500, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
    sick, cured = Scores.from_logp(2 * logit, answer), Scores.from_logp(logit, answer)
    forth = verdict(measure(sick), measure(cured), compare(sick, cured))
    back = verdict(measure(cured), measure(sick), compare(cured, sick))
    assert (forth.headline, back.headline) == ("Calibration restored", "Calibration got worse")
    assert "(+0.0 points" in forth.sentences[1]
