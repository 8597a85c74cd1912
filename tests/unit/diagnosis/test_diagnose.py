"""diagnose: each verdict, each action, each warning, JSON and text."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.errors import ConfigError, ScoresError
from calibrant.scores import Scores

N_BOOT = 100


def said(sentences):
    return " ".join(sentences)


def raised(reference, s, noise=0.0, seed=0):
    """The reference raised to the power s, with noise on each logit."""
    rng = np.random.default_rng([seed, 7])
    return replace(reference, logp_NK=logp(s * reference.logp_NK + noise * rng.normal(size=reference.logp_NK.shape)))


def logp(z_NK):
    return z_NK - np.logaddexp.reduce(z_NK, axis=1, keepdims=True)


def reading(name):
    return {"prompt": {"reading": name}}


# ---- actions and verdicts -------------------------------------------------------------------------------------------


def test_a_calibrated_model_needs_nothing(draw):
    d = diagnose(draw(2000), n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("calibratable", "nothing")
    assert "Nothing to mend" in said(d.reasons)
    assert d.warnings == ()


def test_an_overconfident_model_gets_cft_and_hears_that_a_temperature_is_cheaper(draw):
    d = diagnose(draw(1000, power=3.0), n_boot=N_BOOT)
    assert (d.verdict, d.action, d.target_kind) == ("calibratable", "cft", "self")
    assert "overconfident on average" in said(d.reasons)
    assert "cheap alternative" in said(d.reasons)
    assert "near A by construction" in said(d.reasons)


def test_an_underconfident_model_is_called_so(draw):
    d = diagnose(draw(1000, power=0.3), n_boot=N_BOOT)
    assert d.action == "cft"
    assert "underconfident on average" in said(d.reasons)
    assert d.numbers["signed_gap"].high < 0


@pytest.mark.parametrize(("before", "power", "collapsed"), [(1.0, 3.0, True), (3.0, 0.5, False), (3.0, 1.0, False)])
def test_a_reference_raised_to_a_power_gets_a_temperature_and_is_told_which(draw, before, power, collapsed):
    reference = raised(draw(1000), before)
    d = diagnose(raised(reference, power), reference=reference, n_boot=N_BOOT)
    assert (d.verdict, d.action, d.target_kind, d.collapsed) == ("calibratable", "temperature", "reference", collapsed)
    assert ("Preference collapse" in said(d.reasons)) == collapsed
    assert f"nothing to the reference's log-odds but multiply them by {power:.3f}" in said(d.reasons)


def test_sharpening_with_scatter_gets_cft(draw):
    reference = draw(1000)
    d = diagnose(raised(reference, 3.0, noise=0.5), reference=reference, n_boot=N_BOOT)
    assert (d.verdict, d.action, d.collapsed) == ("calibratable", "cft", True)


def test_accuracy_beyond_the_reference_gets_rcft(known_world):
    """Answers learnt by heart on .4 of the questions, at confidence .95: A - A* = .24 (see known_world)."""
    scores, star = known_world(1000, known=0.4, confidence=0.95)
    d = diagnose(scores, reference=star, n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("non-calibratable", "rcft")
    assert "at least" in said(d.reasons)
    assert d.numbers["excess_accuracy"].value == pytest.approx(0.24, abs=0.05)


@pytest.mark.parametrize(("n", "known", "verdict"), [(1000, 0.4, "calibratable"), (150, 0.2, "undecided")])
def test_a_calibrated_model_beyond_its_target_needs_nothing_all_the_same(known_world, n, known, verdict):
    """c = A by choice: conf-ECE 0, whatever the target says. A - A* is .24 +- .03 and .12 +- .07; an ECE of 0 has an
    interval up to about 2 sqrt(A (1 - A) / n), .03 and .08. Only the first pair lies apart.
    """
    first, star = known_world(n, known=known, confidence=0.5)
    scores, _ = known_world(n, known=known, confidence=float(first.correct_N.mean()))
    d = diagnose(scores, target=star, n_boot=N_BOOT)
    assert d.numbers["excess_accuracy"].low > 0
    assert (d.verdict, d.action) == (verdict, "nothing")
    assert ("calibrated as it is" if verdict == "calibratable" else "no miscalibration is seen") in said(d.reasons)


def test_a_model_at_chance_needs_another_reading(draw):
    """Answers that have nothing to do with the scores: accuracy 1/4 up to noise."""
    scores = draw(400, power=2.0)
    random = replace(scores, answer_N=np.random.default_rng(5).integers(0, 4, 400))
    d = diagnose(random, n_boot=N_BOOT)
    assert (d.verdict, d.action, d.at_chance) == ("undecided", "other-reading", True)
    assert "cannot be told from chance" in said(d.warnings)
    assert d.chance == 0.25


def test_a_model_below_chance_has_its_answers_doubted(draw):
    scores = draw(400)
    worst = replace(scores, answer_N=scores.logp_NK.argmin(1))
    d = diagnose(worst, n_boot=N_BOOT)
    assert (d.verdict, d.action, d.at_chance) == ("undecided", "other-reading", False)
    assert "below chance" in said(d.warnings)


def test_chance_with_mixed_numbers_of_options_is_the_mean_of_one_over_k():
    """Two options once, four options three times: (1/2 + 3/4)/4 = .3125."""
    p = [[0.5, 0.5, float("nan"), float("nan")]] + [[0.25] * 4] * 3
    assert diagnose(Scores.from_probs(p, [0, 1, 2, 3]), n_boot=N_BOOT).chance == 0.3125


def test_mixed_numbers_of_options_are_diagnosed(draw):
    reference = draw(1500, mixed=True)
    found = Scores.from_logp(
        np.where(np.isneginf(reference.logp_NK), np.nan, 3 * reference.logp_NK), reference.answer_N
    )
    d = diagnose(found, reference=reference, n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("calibratable", "temperature")
    assert d.collapse.shift.slope.value == pytest.approx(3)


@pytest.mark.parametrize("n", [2, 3, 5, 29])
def test_fewer_than_thirty_questions_decide_nothing(draw, n):
    d = diagnose(draw(n, power=3.0), n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("undecided", "score-more")
    assert f"{n} questions are fewer than 30" in said(d.reasons)
    assert "Score at least 30 questions" in said(d.reasons)
    assert f"{n} questions are fewer than 30" in said(d.warnings)
    json.dumps(d.to_json(), allow_nan=False)


def test_a_hundred_questions_leave_a_calibratable_model_undecided(draw):
    d = diagnose(draw(60, power=3.0, seed=2), n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("undecided", "cft")
    assert "Diagnose again afterwards" in said(d.reasons)
    assert "approximate under 100" in said(d.warnings)


def test_within_the_floor_on_few_questions_is_called_weak(draw):
    d = diagnose(draw(60), n_boot=N_BOOT)
    assert d.action == "nothing"
    assert "shows little" in said(d.warnings)


def test_the_tolerance_moves_the_verdict(known_world):
    """A - A* = .12 +- .03: beyond .05, within .2."""
    scores, star = known_world(1000, known=0.2)
    assert diagnose(scores, target=star, n_boot=N_BOOT).verdict == "non-calibratable"
    assert diagnose(scores, target=star, n_boot=N_BOOT, tolerance=0.2).verdict == "calibratable"


# ---- what stands for the target -------------------------------------------------------------------------------------


def test_targets_are_preferred_in_order_and_named(draw):
    scores, reference = draw(200, power=3.0), replace(draw(200), provenance={"model": "base-7b"})
    point = {"accuracy": 0.6, "conf_ece": 0.01, "floor_p95": 0.05, "n": 500}
    kinds = [
        diagnose(scores, n_boot=N_BOOT, **more)
        for more in (
            {"target": reference, "reference": reference, "path": [point]},
            {"reference": reference, "path": [point]},
            {"path": [point]},
            {},
        )
    ]
    assert [d.target_kind for d in kinds] == ["given", "reference", "path", "self"]
    assert "base-7b" in kinds[1].target_name
    assert kinds[1].target_name in kinds[1].to_text()


def test_the_reference_is_calibrated_before_it_stands_for_the_target(draw):
    """An overconfident reference would promise an A* far above A; its temperature is fitted out of fold."""
    reference = draw(2000, power=4.0)
    d = diagnose(raised(reference, 1.5), reference=reference, n_boot=N_BOOT)
    assert d.numbers["excess_accuracy"].value == pytest.approx(0, abs=0.03)
    raw = diagnose(raised(reference, 1.5), target=reference, n_boot=N_BOOT)
    assert raw.numbers["excess_accuracy"].value < -0.1


def test_the_reference_may_be_in_another_order_but_not_of_other_questions(draw):
    reference = draw(200)
    scores = raised(reference, 2.0)
    shuffled = reference.select(np.random.default_rng(0).permutation(200))
    same = diagnose(scores, reference=reference, n_boot=N_BOOT).to_json()
    assert diagnose(scores, reference=shuffled, n_boot=N_BOOT).to_json() == same
    with pytest.raises(ScoresError, match="same questions"):
        diagnose(scores, reference=reference.select(np.arange(100)), n_boot=N_BOOT)
    with pytest.raises(ScoresError, match="same questions"):
        diagnose(scores, target=reference.select(np.arange(100)), n_boot=N_BOOT)


def test_a_model_that_predicts_as_its_reference_is_as_right_as_the_reference_may_be():
    """Least-NLL temperature on unevenly sharp questions ends underconfident: uncorrected, A* would lie below A for no
    other reason. Corrected by the reference's own A - A*, nothing is left where the predictions are the same.
    """
    reference, _ = unevenly_sharp(400, seed=0)
    d = diagnose(raised(reference, 2.0), reference=reference, n_boot=N_BOOT)
    excess = d.numbers["excess_accuracy"]
    assert (excess.value, excess.low, excess.high) == pytest.approx((0, -0.009512, 0.009512), abs=1e-6)  # z²/(n + z²)
    assert d.numbers["critical_accuracy"].value == pytest.approx(reference.correct_N.mean())
    assert d.verdict == "calibratable"


def test_the_corrected_critical_accuracy_by_hand():
    """The reference says .6 of option 0 on 100 questions and is right on 60: calibrated, T = 1, star = .6 or .4. The
    aligned model turns to option 1 on 20 questions, 12 of them of answer 1. A = .6 + (12 - 8)/100; its A* is
    .6 + 20 (.4 - .6)/100 = .56 before and after the correction, which is 0 on average; so A - A* = .08.
    """
    answers = [0] * 60 + [1] * 40
    reference = Scores.from_probs([[0.6, 0.4]] * 100, answers)
    turned = [52 <= i < 72 for i in range(100)]
    aligned = Scores.from_probs([[0.1, 0.9] if turn else [0.9, 0.1] for turn in turned], answers)
    d = diagnose(aligned, reference=reference, n_boot=N_BOOT)
    assert d.numbers["accuracy"].value == 0.64
    assert d.numbers["critical_accuracy"].value == pytest.approx(0.56, abs=0.005)
    assert d.numbers["excess_accuracy"].value == pytest.approx(0.08, abs=0.005)


def unevenly_sharp(n, seed):
    """Each question sharpened by its own power, 3 exp(N(0, 1)): no one temperature fits."""
    rng = np.random.default_rng([seed, 1])
    z = rng.normal(size=(n, 4)) * 1.5
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    return Scores.from_logp(z * 3 * np.exp(rng.normal(size=(n, 1))), answer), Scores.from_logp(z, answer)


def test_a_misfit_of_the_temperature_is_not_taken_for_too_high_an_accuracy():
    """The temperature alone would leave A - A* about +.1; the map on top of it brings A* to A."""
    scores, _ = unevenly_sharp(1500, seed=0)
    d = diagnose(scores, n_boot=N_BOOT)
    assert (d.verdict, d.action) == ("calibratable", "cft")
    assert "monotone map" in d.target_name
    assert not d.collapse.temperature.suffices
    as_reference = diagnose(scores, reference=scores, n_boot=N_BOOT)
    assert as_reference.verdict == "calibratable"


def test_a_target_fitted_to_the_model_itself_never_says_non_calibratable():
    """On 60 questions a temperature that does not fit may pass for one that does, and leave A* well below A."""
    found = [diagnose(unevenly_sharp(60, seed)[0], n_boot=50) for seed in range(40)]
    assert all(d.verdict != "non-calibratable" for d in found)
    excess = [d.numbers["excess_accuracy"] for d in found]
    misled = [d for d, e in zip(found, excess, strict=True) if e.low > 0 and e.value > d.tolerance]
    assert misled
    for d in misled:
        assert (d.verdict, d.action) == ("undecided", "cft") or d.action == "nothing"
        assert "the calibrator does not fit" in said(d.reasons)


def test_a_target_that_is_not_calibrated_itself_is_warned_of(draw):
    scores, star = unevenly_sharp(800, seed=1)
    assert "itself not calibrated" in said(diagnose(scores, target=scores, n_boot=N_BOOT).warnings)
    assert "itself not calibrated" not in said(diagnose(scores, target=star, n_boot=N_BOOT).warnings)


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_an_adapter_that_the_reference_has_not_is_warned_of(draw):
    tuned, reference = (replace(draw(300), provenance={"adapter": name}) for name in ("cft", None))
    assert "tuned after the alignment" in said(diagnose(tuned, reference=reference, n_boot=N_BOOT).warnings)
    assert "tuned after" not in said(diagnose(tuned, reference=tuned, n_boot=N_BOOT).warnings)
    assert "tuned after" not in said(diagnose(tuned, n_boot=N_BOOT).warnings)


def test_no_absurd_number_of_questions_is_asked_for(known_world):
    """A - A* just above the tolerance, n = 300: a difference of .002 would need some hundred thousand."""
    scores, star = known_world(300, known=0.08)
    excess = diagnose(scores, target=star, n_boot=N_BOOT).numbers["excess_accuracy"]
    near = diagnose(scores, target=star, n_boot=N_BOOT, tolerance=excess.value + 0.0005)
    far = diagnose(scores, target=star, n_boot=N_BOOT, tolerance=excess.value + 0.01)
    assert near.verdict == far.verdict == "undecided"
    assert "any realistic number" in said(near.reasons)
    assert "would settle it" in said(far.reasons)


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        (reading("letters"), "hardly wanted to answer with a letter"),
        (reading("continuation"), ""),
        ({}, "do not say how options were read"),
        ({"prompt": "Q: {q}"}, "do not say how options were read"),
    ],
)
def test_low_option_mass_is_a_warning_for_letters_only(draw, provenance, expected):
    scores = replace(draw(500), logmass_N=np.full(500, -2.0), provenance=provenance)
    d = diagnose(scores, n_boot=N_BOOT)
    assert (expected in said(d.warnings)) if expected else (d.warnings == ())
    assert d.option_mass.mean == pytest.approx(math.exp(-2))
    assert "option mass: mean 0.135, under .5 for 100%" in d.to_text()


def test_high_or_unknown_mass_is_no_warning(draw):
    high = replace(draw(500), logmass_N=np.full(500, -0.1), provenance=reading("letters"))
    assert diagnose(high, n_boot=N_BOOT).warnings == ()
    d = diagnose(draw(500), n_boot=N_BOOT)
    assert (d.option_mass, d.to_json()["option_mass"], d.warnings) == (None, None, ())
    assert "option mass: unknown" in d.to_text()


def test_a_prior_over_positions_is_warned_of(draw):
    plain = draw(600)
    d = diagnose(Scores.from_logp(plain.logp_NK + np.array([2.0, 0, 0, 0]), plain.answer_N), n_boot=N_BOOT)
    assert "the model prefers positions" in said(d.warnings)


def test_scores_of_training_questions_are_warned_of(draw):
    assert "flatters" in said(diagnose(draw(300, split="train"), n_boot=N_BOOT).warnings)
    assert "flatters" not in said(diagnose(draw(300, split="test"), n_boot=N_BOOT).warnings)


def test_answers_of_probability_0_are_counted(draw):
    """Of 100 certain answers 20 are wrong; of 100 all wrong, no temperature exists."""
    d = diagnose(Scores.from_probs([[1.0, 0.0]] * 100, [0] * 80 + [1] * 20), n_boot=N_BOOT)
    assert "20 of 100 answers have probability 0" in said(d.warnings)
    assert d.numbers["nll"].value == math.inf
    assert d.to_json()["numbers"]["nll"]["value"] is None
    assert "NLL" not in said(d.reasons)
    reference = Scores.from_probs([[0.6, 0.4]] * 100, [0] * 30 + [1] * 70)
    d = diagnose(Scores.from_probs([[1.0, 0.0]] * 100, [0] * 30 + [1] * 70), reference=reference, n_boot=N_BOOT)
    assert "no temperature can be fitted" in said(d.warnings)
    assert d.collapse.temperature is None
    assert d.collapse.shift.n_pairs_left_out == 100
    assert math.isnan(d.collapse.shift.scatter)
    assert "no log-odds to compare" in d.to_text()
    assert "nan" not in d.to_text()
    json.dumps(d.to_json(), allow_nan=False)
    alone = diagnose(Scores.from_probs([[1.0, 0.0]] * 100, [0] * 30 + [1] * 70), n_boot=N_BOOT)
    assert alone.target_name == "the model itself, calibrated by a cross-validated monotone map of the confidence"


# ---- form -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_diagnosis(draw):
    scores = draw(300, power=2.0)
    first, again = (diagnose(scores, n_boot=N_BOOT, seed=3).to_json() for _ in range(2))
    assert first == again
    assert diagnose(scores, n_boot=N_BOOT, seed=4).to_json() != first


def test_json_has_every_number_and_its_interval(draw):
    reference = draw(300)
    out = json.loads(
        json.dumps(diagnose(raised(reference, 2.0), reference=reference, n_boot=N_BOOT).to_json(), allow_nan=False)
    )
    assert set(out["numbers"]) == {
        *("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll"),
        *("critical_accuracy", "excess_accuracy", "distance", "tce", "delta"),
        *("bound_1", "bound_2_low", "bound_2_high", "bound_3"),
    }
    for number in out["numbers"].values():
        assert number["low"] <= number["value"] <= number["high"]
        assert number["n"] == 300
    assert out["numbers"]["conf_ece"]["floor_p95"] > 0
    assert out["target_accuracy"] == out["numbers"]["critical_accuracy"]
    assert "relative to a target" in out["caveat"]
    assert out["collapse"]["needs_reference"] == []


def test_the_text_says_what_a_reader_needs(draw):
    text = diagnose(draw(300, power=3.0), n_boot=N_BOOT).to_text()
    for part in (
        "Verdict: ",
        "Action:  ",
        "Why\n- ",
        "n = 300",
        "bound 3",
        "needs a reference",
        "relative to a target",
    ):
        assert part in text
    assert "nan" not in text
    reference = draw(300)
    text = diagnose(raised(reference, 3.0), reference=reference, n_boot=N_BOOT).to_text()
    assert "needs a reference" not in text
    assert "slope 3.000" in text


def test_what_cannot_be_diagnosed_is_refused(draw):
    with pytest.raises(ScoresError, match="one question"):
        diagnose(draw(1))
    for tolerance in (0, 1, -0.1):
        with pytest.raises(ConfigError, match="tolerance"):
            diagnose(draw(30), tolerance=tolerance)
    with pytest.raises(ConfigError):
        diagnose(draw(30), n_boot=10)
