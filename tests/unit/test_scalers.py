"""Temperature: known answers, mixed numbers of options, leakage, cross-validation, JSON."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from calibrant.errors import ConfigError, LeakageError, ScoresError
from calibrant.metrics import conf_ece, nll
from calibrant.scalers import Isotonic, Temperature, cross_validated, question_keys
from calibrant.scores import Scores


def draw(n, *, power=1.0, k=4, mixed=False, seed=0, **more):
    """Answers drawn from softmax(z); the model says softmax(power z)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 1.5
    if mixed:
        z[np.arange(k) >= rng.integers(2, k + 1, n)[:, None]] = np.nan
    cumulative = np.nancumsum(np.exp(z), axis=1)
    answer = (rng.random((n, 1)) * cumulative[:, -1:] > cumulative).sum(1)
    return Scores.from_logp(power * z, answer, **more)


def test_the_temperature_of_one_confidence_is_the_ratio_of_the_log_odds():
    """All p = (.9, .1) and 7 of 10 right: q = .7, so T = ln 9 / ln(7/3) = 2.19722 / .84730."""
    scaler = Temperature().fit(Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3))
    assert scaler.temperature_ == pytest.approx(math.log(9) / math.log(7 / 3), abs=1e-9)
    assert (scaler.at_bound_, scaler.n_fit_, scaler.n_left_out_) == (False, 10, 0)


@pytest.mark.parametrize("power", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("mixed", [False, True])
def test_scores_raised_to_a_power_are_recovered(power, mixed):
    """The law of the fitted T at n = 20,000 has a standard deviation of about 1.3 % of T."""
    scaler = Temperature().fit(draw(20_000, power=power, mixed=mixed))
    assert scaler.temperature_ == pytest.approx(power, rel=0.05)


def test_the_fit_is_equivariant_so_a_second_sharpening_multiplies_it():
    once, twice = draw(500, power=1.3), draw(500, power=1.3 * 1.7)
    assert Temperature().fit(twice).temperature_ == pytest.approx(1.7 * Temperature().fit(once).temperature_, rel=1e-9)


def test_no_other_temperature_has_a_lower_nll():
    scores = draw(300, power=2.0, mixed=True)
    scaler = Temperature().fit(scores)
    best = scaler.apply(scores, allow_fit_rows=True)
    for t in np.geomspace(0.1, 10, 50):
        logp = scores.logp_NK / t
        logp = logp - np.logaddexp.reduce(logp, axis=1, keepdims=True)
        assert nll(best.logp_NK, scores.answer_N) <= nll(logp, scores.answer_N) + 1e-12


def test_apply_keeps_predictions_absent_options_and_everything_else():
    fit, other = draw(200, power=3.0, seed=1), draw(300, power=3.0, mixed=True, split="test", logmass=[-0.5] * 300)
    after = Temperature().fit(fit).apply(other)
    assert np.array_equal(after.prediction_N, other.prediction_N)
    assert np.array_equal(after.k_N, other.k_N)
    assert np.array_equal(after.logmass_N, other.logmass_N)
    assert np.all(np.isneginf(after.logp_NK) == np.isneginf(other.logp_NK))
    assert (after.ids, after.split) == (other.ids, "test")
    assert after.confidence_N.mean() < other.confidence_N.mean()
    assert after.provenance["scaler"]["name"] == "temperature"


def test_questions_that_were_fitted_on_are_refused_by_hash_and_without_one():
    bare = draw(50, power=2.0)
    hashed = replace(bare, hashes=tuple(f"h{i}" for i in range(50)))
    renamed = replace(hashed, ids=tuple(f"new-{i}" for i in range(50)))
    for fit, evaluated in ((bare, bare), (hashed, renamed), (hashed, renamed.select([3]))):
        scaler = Temperature().fit(fit)
        with pytest.raises(LeakageError, match="were used to fit"):
            scaler.apply(evaluated)
        assert scaler.apply(evaluated, allow_fit_rows=True).n == evaluated.n


def test_two_unnamed_sets_of_arrays_are_not_taken_for_each_other():
    fit, other = draw(50, seed=1), draw(50, seed=2)
    assert fit.ids == other.ids
    assert Temperature().fit(fit).apply(other).n == 50


@pytest.mark.parametrize(
    ("answers", "bound"),
    [([0] * 10, 0.01), ([1] * 8 + [0] * 2, 100.0)],
    ids=["always right: no T is sharp enough", "worse than chance: no T is soft enough"],
)
def test_a_temperature_without_optimum_stops_at_a_bound_and_says_so(answers, bound):
    scaler = Temperature().fit(Scores.from_probs([[0.8, 0.2]] * 10, answers))
    assert (scaler.temperature_, scaler.at_bound_) == (bound, True)


def test_uniform_scores_and_certain_right_scores_keep_temperature_one():
    for p in ([0.5, 0.5], [1.0, 0.0]):
        scaler = Temperature().fit(Scores.from_probs([p] * 4, [0] * 4))
        assert (scaler.temperature_, scaler.at_bound_) == (1.0, False)


def test_answers_of_probability_0_are_left_out_and_counted():
    """The rest is ten of (.9, .1) with 7 right, as above."""
    p = [[0.9, 0.1]] * 10 + [[1.0, 0.0]] * 3
    scaler = Temperature().fit(Scores.from_probs(p, [0] * 7 + [1] * 3 + [1] * 3))
    assert scaler.temperature_ == pytest.approx(math.log(9) / math.log(7 / 3), abs=1e-9)
    assert scaler.n_left_out_ == 3
    with pytest.raises(ScoresError, match="every answer has probability 0"):
        Temperature().fit(Scores.from_probs([[1.0, 0.0]] * 3, [1] * 3))


def test_json_goes_round_and_still_refuses_the_fit_questions():
    fit, other = draw(50, power=2.0, seed=1), draw(50, power=2.0, seed=2)
    scaler = Temperature().fit(fit)
    again = Temperature.from_json(json.loads(json.dumps(scaler.to_json(), allow_nan=False)))
    assert np.array_equal(again.apply(other).logp_NK, scaler.apply(other).logp_NK)
    with pytest.raises(LeakageError):
        again.apply(fit)


@pytest.mark.parametrize(
    "change", [{"name": "vector"}, {"temperature": None}, {"temperature": -1.0}, {"temperature": True}, {"n_fit": ...}]
)
def test_damaged_json_is_refused(change):
    values = Temperature().fit(draw(20)).to_json() | change
    values = {name: value for name, value in values.items() if value is not ...}
    with pytest.raises(ConfigError):
        Temperature.from_json(values)


def test_an_unfitted_scaler_refuses():
    with pytest.raises(ConfigError, match="fit"):
        Temperature().apply(draw(5))


def test_cross_validation_rescales_each_question_with_the_other_folds():
    scores = draw(500, power=3.0)
    scaler = Temperature()
    after = cross_validated(scaler, scores, folds=5, seed=3)
    assert scaler.temperature_ is None
    assert np.array_equal(after.prediction_N, scores.prediction_N)
    temperatures = [part["temperature"] for part in after.provenance["scaler"]["folds"]]
    assert len(set(temperatures)) == 5
    assert [part["n_fit"] for part in after.provenance["scaler"]["folds"]] == [400] * 5
    margin = scores.logp_NK[:, 0] - scores.logp_NK[:, 1]
    used = margin / (after.logp_NK[:, 0] - after.logp_NK[:, 1])
    for t in temperatures:
        assert np.isclose(used, t).sum() == 100
    # the temperature of a fold is the one that its complement gives
    outside = scores.select(~np.isclose(used, temperatures[2]))
    assert Temperature().fit(outside).temperature_ == pytest.approx(temperatures[2], rel=1e-9)


def test_cross_validation_is_reproducible_and_keeps_copies_together():
    scores = draw(40, power=2.0)
    doubled = replace(
        scores.select(list(range(40)) * 2),
        ids=tuple(str(i) for i in range(80)),
        hashes=tuple(f"h{i % 40}" for i in range(80)),
    )
    once, again = cross_validated(Temperature(), doubled, seed=1), cross_validated(Temperature(), doubled, seed=1)
    assert np.array_equal(once.logp_NK, again.logp_NK)
    assert np.array_equal(once.logp_NK[:40], once.logp_NK[40:])


def test_cross_validation_of_too_little_is_refused():
    with pytest.raises(ConfigError, match="2 folds"):
        cross_validated(Temperature(), draw(20), folds=1)
    with pytest.raises(ScoresError, match="one question"):
        cross_validated(Temperature(), draw(1))
    assert cross_validated(Temperature(), draw(3)).n == 3


def test_keys_are_hashes_where_known():
    scores = replace(draw(2), hashes=("abc", ""))
    first, second = question_keys(scores)
    assert first == "abc"
    assert len(second) == 24


# ---- isotonic -------------------------------------------------------------------------------------------------------


def test_violators_are_pooled_by_hand():
    """At .6, .7, .8, .9 (ten each) 5, 8, 6, 9 are right: .8 and .6 are pooled to .7."""
    p = [[c, 1 - c] for c in (0.6, 0.7, 0.8, 0.9) for _ in range(10)]
    answer = [int(i >= right) for right in (5, 8, 6, 9) for i in range(10)]
    scaler = Isotonic().fit(Scores.from_probs(p, answer))
    assert scaler.knots_ == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert scaler.values_ == pytest.approx([0.5, 0.7, 0.7, 0.9])
    other = Scores.from_probs([[c, 1 - c] for c in (0.55, 0.65, 0.75, 0.85, 0.99)], [0] * 5, ids=list("abcde"))
    assert scaler.apply(other).confidence_N == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_the_map_keeps_predictions_proportions_and_absent_options():
    fit, other = draw(300, power=4.0, seed=1), draw(300, power=4.0, mixed=True, seed=2)
    after = Isotonic().fit(fit).apply(other)
    assert np.array_equal(after.prediction_N, other.prediction_N)
    assert np.all(np.isneginf(after.logp_NK) == np.isneginf(other.logp_NK))
    rest = [j for j in range(4) if j != other.prediction_N[0] and j < other.k_N[0]]
    before_0, after_0 = other.p_NK[0, rest], after.p_NK[0, rest]
    assert after_0 / after_0.sum() == pytest.approx(before_0 / before_0.sum())


def test_the_map_never_rules_an_option_out_nor_topples_the_top():
    """Ten of ten right: g = 1 is cut to 1 - 1/12. None right at .4: g = 0 is lifted to .35/.6 / (1 + .35/.6) = .3684."""
    sure = Isotonic().fit(Scores.from_probs([[0.9, 0.1]] * 10, [0] * 10))
    other = Scores.from_probs([[1.0, 0.0, 0.0]], [0], ids=["x"])
    assert sure.apply(other).p_NK[0] == pytest.approx([11 / 12, 1 / 24, 1 / 24])
    wrong = Isotonic().fit(Scores.from_probs([[0.4, 0.35, 0.25]] * 10, [1] * 10))
    after = wrong.apply(Scores.from_probs([[0.4, 0.35, 0.25]], [0], ids=["x"]))
    assert after.confidence_N[0] == pytest.approx(0.3684, abs=1e-4)
    assert after.prediction_N[0] == 0


def test_the_map_calibrates_what_a_temperature_cannot():
    """Confidence .95 right .75 of the time and .55 right .65, in the middle of a bin, which the folds' maps share."""
    p = [[0.95, 0.05]] * 1000 + [[0.55, 0.45]] * 1000
    scores = Scores.from_probs(p, [0] * 750 + [1] * 250 + [0] * 650 + [1] * 350)
    after = cross_validated(Isotonic(), scores)
    assert conf_ece(scores.confidence_N, scores.correct_N) == pytest.approx(0.15)
    assert conf_ece(after.confidence_N, after.correct_N) < 0.005


def test_the_map_refuses_its_fit_questions_and_to_work_unfitted():
    fit = draw(50)
    with pytest.raises(LeakageError, match="fit the scaler"):
        Isotonic().fit(fit).apply(fit)
    with pytest.raises(ConfigError, match="fit"):
        Isotonic().apply(fit)
    assert Isotonic().fit(fit).apply(fit, allow_fit_rows=True).n == 50
    json.dumps(Isotonic().fit(fit).to_json(), allow_nan=False)


def test_rounded_scores_of_the_same_ids_are_the_same_questions_and_other_ids_or_answers_are_not():
    """Without content hashes: ids that were given and answers that agree; row numbers say nothing."""
    names = [f"q{i}" for i in range(60)]
    fit = draw(60, ids=names)
    rounded = Scores.from_probs(
        np.round(fit.p_NK, 2) / np.round(fit.p_NK, 2).sum(1, keepdims=True), fit.answer_N, ids=names
    )
    scaler = Temperature().fit(fit)
    kept = Temperature.from_json(json.loads(json.dumps(scaler.to_json())))
    for one in (scaler, kept):
        with pytest.raises(LeakageError, match="60 of them were used to fit the scaler, first 'q0'"):
            one.apply(rounded)
        with pytest.raises(LeakageError, match="20 of them"):
            one.apply(replace(rounded.select(np.arange(40, 60)), split="part"))
        assert one.apply(draw(60, seed=1, ids=names)).n == 60  # the ids of another file, with its own answers
        assert one.apply(replace(rounded, ids=tuple(f"r{i}" for i in range(60)))).n == 60
    plain = Temperature().fit(draw(60))
    assert plain.apply(replace(rounded, ids=tuple(map(str, range(60))))).n == 60


def test_coarse_rows_without_ids_are_not_taken_for_fit_questions():
    """Two files of said confidences, numbered by row: some rows are alike by chance. A copy, or a part, is still known."""

    def said(seed, n=300):
        rng = np.random.default_rng(seed)
        top = rng.choice([0.5, 0.6, 0.7, 0.8, 0.9, 0.95], n)
        pick, right = rng.integers(0, 2, n), rng.random(n) < 0.85 * top
        p = np.where(np.arange(2) == pick[:, None], top[:, None], 1 - top[:, None])
        return Scores.from_probs(p, np.where(right, pick, 1 - pick))

    scaler = Temperature().fit(said(0))
    assert sum(key in scaler._fit_keys for key in question_keys(said(1))) > 3
    assert scaler.apply(said(1)).n == 300
    for copy in (said(0), said(0).select(np.arange(100)), said(0).select([7])):
        with pytest.raises(LeakageError, match=f"{copy.n} of them"):
            scaler.apply(copy)


def test_a_copied_part_of_a_numbered_table_is_known_among_other_rows():
    """100 of 300 rows in their places: more than chance explains, though not all that could be equal are."""
    fit, other = draw(300), draw(300, seed=1)
    part = np.arange(300) < 100
    mixed = Scores.from_logp(
        np.where(part[:, None], fit.logp_NK, other.logp_NK), np.where(part, fit.answer_N, other.answer_N)
    )
    with pytest.raises(LeakageError, match=r"100 of them.*\n.*give the tables an id column"):
        Temperature().fit(fit).apply(mixed)


def test_parts_of_another_numbered_table_are_not_taken_for_the_fit_set():
    rng = np.random.default_rng(0)
    fit, other = (Scores.from_probs(np.stack([p, 1 - p], 1), rng.integers(0, 2, 300)) for p in coarse(rng))
    scaler = Temperature().fit(fit)
    for part in (rng.permutation(300), np.arange(100, 300)):
        assert sum(key in scaler._fit_keys for key in question_keys(other.select(part))) > 3
        assert scaler.apply(other.select(part)).n == len(part)


def coarse(rng):
    return rng.choice([0.5, 0.6, 0.7, 0.8, 0.9], (2, 300))


@pytest.mark.parametrize(("n", "known"), [(9, False), (10, True)])
def test_ten_shared_ids_with_the_same_answers_are_no_chance(n, known):
    """Of two even options: 2^-9 = .00195, 2^-10 = .00098."""
    ids, answers = [f"q{i}" for i in range(n)], [0, 1] * 5
    even = Scores.from_probs([[0.6, 0.4]] * 10, answers, ids=[f"q{i}" for i in range(10)]).select(np.arange(n))
    other = Scores.from_probs([[0.3, 0.7]] * n, answers[:n], ids=ids)
    scaler = Temperature().fit(even)
    if known:
        with pytest.raises(LeakageError, match="10 of them"):
            scaler.apply(other)
    else:
        assert scaler.apply(other).n == n


def test_ids_that_count_rows_and_answers_that_never_vary_are_no_evidence():
    rng = np.random.default_rng(0)
    first, second = (rng.dirichlet([2, 1], 200) for _ in range(2))
    for ids in ([str(i + 1) for i in range(200)], [f"question {i}" for i in range(200)]):
        fit, other = (Scores.from_probs(p, [0] * 200, ids=ids) for p in (first, second))
        assert Temperature().fit(fit).apply(other).n == 200


def test_questions_are_known_by_their_ids_where_one_side_has_no_texts():
    rng = np.random.default_rng(0)
    names, answers = [f"q{i}" for i in range(200)], rng.integers(0, 3, 200)
    bare, other = (Scores.from_probs(rng.dirichlet([2, 1, 1], 200), answers, ids=names) for _ in range(2))
    texts = replace(other, hashes=tuple(f"{i:016x}" for i in range(200)))
    for fit, applied in ((bare, texts), (texts, bare)):
        with pytest.raises(LeakageError, match="200 of them"):
            Temperature().fit(fit).apply(applied)
    renamed = replace(texts, hashes=tuple(f"{i:016x}" for i in range(200, 400)))
    assert Temperature().fit(texts).apply(renamed).n == 200  # both have texts, and these are others


def test_the_map_keeps_the_proportions_of_what_underflows():
    """Options 760 and 900 nats below the top keep their difference; so no right answer gets probability 0."""
    fit = draw(50)
    for logp in ([0, -5, -760, -900], [0, -760, -900]):
        k = len(logp)
        found = Isotonic().fit(fit).apply(Scores.from_logp([logp], [k - 1])).logp_NK[0]
        assert np.isfinite(found).all()
        assert found[-2] - found[-1] == pytest.approx(140)
        assert np.logaddexp.reduce(found) == pytest.approx(0, abs=1e-12)


def test_scores_of_another_model_are_warned_of():
    fit, test = draw(100, seed=1, provenance={"model": "a"}), draw(100, seed=2, provenance={"model": "b"})
    scaler = Temperature().fit(fit)
    with pytest.warns(UserWarning, match="fitted on; model a where it was fitted, b here") as warned:
        scaled = scaler.apply(test)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="rescaled already where it is applied"):
        scaler.apply(replace(scaled, provenance={**scaled.provenance, "model": "a"}))
    assert scaler.apply(draw(100, seed=2)).n == 100  # scores that tell nothing
    twice = {"model": "a", "scaler": {"name": "temperature", "temperature": 2.0}}
    second = Temperature().fit(draw(100, seed=1, provenance=twice))
    other = {**twice, "scaler": {"name": "temperature", "temperature": 7.0}}
    with pytest.warns(UserWarning, match="rescaled already, in another way"):
        second.apply(draw(100, seed=2, provenance=other))
    assert second.apply(draw(100, seed=2, provenance=twice)).n == 100
    known = {"model": "a", "weights": "1", "adapter_weights": None}
    served = Temperature().fit(draw(100, seed=1, provenance={**known, "served_temperature": 2.5, "revision": None}))
    with pytest.warns(UserWarning, match=r"served temperature 2\.5 where it was fitted, 1\.0 here$"):
        served.apply(draw(100, seed=2, provenance={**known, "revision": "main"}))  # the same weights


def test_a_cross_validated_copy_remembers_what_was_applied_before():
    once = Temperature().fit(draw(100, seed=1)).apply(draw(100, seed=2))
    again = cross_validated(Temperature(), once).provenance["scaler"]
    assert again["after"] == once.provenance["scaler"]


def test_a_scaler_is_told_in_a_line():
    assert repr(Temperature()) == "<Temperature: not fitted>"
    sharp = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3)
    assert repr(Temperature().fit(sharp)) == "<Temperature: temperature 2.593, fitted on 10 questions>"
    right = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 10)
    assert repr(Temperature().fit(right)) == "<Temperature: temperature 0.01, at_bound, fitted on 10 questions>"
    assert repr(Isotonic().fit(sharp)) == "<Isotonic: fitted on 10 questions>"
