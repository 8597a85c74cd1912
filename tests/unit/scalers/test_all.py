"""What every scaler promises: JSON, leakage, invariances, odd inputs, cross-validation."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from calibrant.errors import CalibrantError, ConfigError, LeakageError, ScoresError
from calibrant.metrics import nll
from calibrant.scalers import SCALERS, cross_validated, load_scaler, scaler_named
from calibrant.scalers.crossval import OUTER, fold_of
from calibrant.scores import Scores

EACH = pytest.mark.parametrize("name", SCALERS)
SYMMETRIC = pytest.mark.parametrize("name", [n for n in SCALERS if n not in {"vector", "dirichlet"}])
KEEPING = SYMMETRIC


def softer(scores, power=0.4):
    """A base model of the same questions: the scores at a lower power."""
    return Scores.from_logp(
        np.where(np.arange(scores.k) < scores.k_N[:, None], power * scores.logp_NK, np.nan),
        scores.answer_N,
        ids=scores.ids,
    )


def fitted(name, scores):
    cls = SCALERS[name]
    return cls().fit(scores, reference=softer(scores) if cls.needs_reference else None)


def test_the_registry_is_named_by_its_classes():
    assert list(SCALERS) == ["temperature", "vector", "dirichlet", "isotonic", "histogram", "adaptive", "daca"]
    assert all(cls.name == name for name, cls in SCALERS.items())
    assert [name for name, cls in SCALERS.items() if cls.needs_reference] == ["daca"]
    assert [name for name, cls in SCALERS.items() if not cls.uses_answers] == ["daca"]
    with pytest.raises(ConfigError, match="did you mean 'vector'"):
        scaler_named("vectors")


@EACH
def test_json_goes_round_through_a_file_and_still_refuses_the_fit_questions(name, draw, tmp_path):
    fit, other = draw(300, power=2.0, mixed=True, name="fit"), draw(200, power=2.0, mixed=True, seed=1)
    scaler = fitted(name, fit)
    (tmp_path / "scaler.json").write_text(json.dumps(scaler.to_json(), allow_nan=False))
    again = load_scaler(tmp_path / "scaler.json")
    assert type(again) is SCALERS[name]
    assert again.to_json() == scaler.to_json()
    assert np.array_equal(again.apply(other).logp_NK, scaler.apply(other).logp_NK)
    with pytest.raises(LeakageError, match="used to fit"):
        again.apply(fit.select([3]))
    assert again.apply(fit, allow_fit_rows=True).n == 300


@EACH
def test_json_that_lacks_anything_or_holds_nonsense_is_refused(name, draw):
    values = fitted(name, draw(100, power=2.0)).to_json()
    for key in values:
        if key != "fitted_on":  # which files of before it was kept lack
            with pytest.raises(ConfigError, match=f"{name}|missing"):
                SCALERS[name].from_json({k: v for k, v in values.items() if k != key})
        if key not in {"at_bound"}:
            with pytest.raises(ConfigError):
                SCALERS[name].from_json({**values, key: object()})
    with pytest.raises(ConfigError, match="is named 'tea'"):
        SCALERS[name].from_json({**values, "name": "tea"})


def test_a_file_that_holds_no_scaler_is_refused(tmp_path):
    path = tmp_path / "x.json"
    for content, found in (("{", "Expecting"), ("[1]", "without a scaler's name"), ('{"name": "tea"}', "no such one")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=found):
            load_scaler(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_scaler(tmp_path / "y.json")


@EACH
def test_unfitted_it_refuses_and_so_it_does_a_reference_that_is_missing_or_idle(name, draw):
    scores = draw(20)
    with pytest.raises(ConfigError, match="fit"):
        SCALERS[name]().apply(scores)
    with pytest.raises(ConfigError, match="reference"):
        SCALERS[name]().fit(scores, reference=None if SCALERS[name].needs_reference else scores)


@EACH
def test_what_comes_out_is_a_distribution_over_the_same_options_with_the_same_names(name, draw):
    fit, other = draw(400, power=3.0, mixed=True, name="fit"), draw(300, power=3.0, mixed=True, seed=1, split="test")
    after = fitted(name, fit).apply(other)
    assert np.exp(after.logp_NK).sum(1) == pytest.approx(np.ones(300), abs=1e-12)
    assert np.array_equal(np.isneginf(after.logp_NK), np.isneginf(other.logp_NK))
    assert (after.ids, after.split, after.k_N.tolist()) == (other.ids, "test", other.k_N.tolist())
    assert after.provenance["scaler"] == fitted(name, fit).described()
    assert nll(after.logp_NK, after.answer_N) < nll(other.logp_NK, other.answer_N) - 0.1  # it was far too sure


@KEEPING
def test_predictions_stay(name, draw):
    fit, other = draw(400, power=3.0, mixed=True, name="fit"), draw(500, power=3.0, mixed=True, seed=1)
    assert np.array_equal(fitted(name, fit).apply(other).prediction_N, other.prediction_N)


@EACH
def test_the_order_of_the_rows_does_not_matter(name, draw):
    fit, other = draw(200, power=2.0, name="fit"), draw(50, power=2.0, seed=1)
    turned = np.random.default_rng(0).permutation(200)
    # the inner folds follow the sorted keys, so they too are the same
    assert fitted(name, fit.select(turned)).apply(other).logp_NK == pytest.approx(
        fitted(name, fit).apply(other).logp_NK, abs=1e-6
    )


@SYMMETRIC
def test_the_order_of_a_questions_options_does_not_matter(name, draw):
    fit, other = draw(300, power=2.5, name="fit"), draw(100, power=2.5, seed=1)

    def turned(scores, seed):
        order = np.argsort(np.random.default_rng(seed).random((scores.n, 4)), axis=1)
        logp = np.take_along_axis(scores.logp_NK, order, 1)
        answer = np.argmax(order == scores.answer_N[:, None], axis=1)
        # hashes keep the questions' keys, and with them the inner folds, as they were
        return replace(scores, logp_NK=logp, answer_N=answer), order

    fit = replace(fit, hashes=fit.ids)
    (fit_turned, _), (other_turned, order) = turned(fit, 0), turned(other, 1)
    expected = np.take_along_axis(fitted(name, fit).apply(other).logp_NK, order, 1)
    assert fitted(name, fit_turned).apply(other_turned).logp_NK == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["vector", "dirichlet"])
def test_one_permutation_of_the_positions_in_all_questions_goes_through(name, draw):
    fit, other = replace(draw(300, power=2.5, name="fit"), hashes=tuple(map(str, range(300)))), draw(100, seed=1)
    order = np.array([2, 0, 3, 1])
    place = np.argsort(order)
    fit_turned, other_turned = (
        replace(s, logp_NK=s.logp_NK[:, order], answer_N=place[s.answer_N]) for s in (fit, other)
    )
    expected = fitted(name, fit).apply(other).logp_NK[:, order]
    assert fitted(name, fit_turned).apply(other_turned).logp_NK == pytest.approx(expected, abs=1e-6)


@EACH
def test_a_constant_added_to_a_questions_logits_changes_nothing(name, draw):
    def shifted(scores):
        logit = scores.logp_NK + np.random.default_rng(9).normal(size=(scores.n, 1)) * 20
        return replace(Scores.from_logp(logit, scores.answer_N, ids=scores.ids), hashes=scores.ids)

    fit, other = replace(draw(200, power=2.0, name="fit"), hashes=tuple(f"fit-{i}" for i in range(200))), draw(50)
    expected = fitted(name, fit).apply(other).logp_NK
    assert fitted(name, shifted(fit)).apply(shifted(other)).logp_NK == pytest.approx(expected, abs=1e-6)


@EACH
def test_probability_0_and_1_bring_neither_nan_nor_warning(name, draw):
    fit = draw(200, power=2.0, name="fit")
    p = fit.p_NK.copy()
    p[:20] = [1.0, 0.0, 0.0, 0.0]
    p[20:40] = [0.0, 0.5, 0.5, 0.0]
    fit = Scores.from_probs(p, fit.answer_N, ids=fit.ids)
    other = Scores.from_probs([[1.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.1, 0.0], [0.25] * 4], [0, 2, 3], ids=["x", "y", "z"])
    after = fitted(name, fit).apply(other)
    assert np.exp(after.logp_NK).sum(1) == pytest.approx(np.ones(3), abs=1e-12)
    if name in {"temperature", "vector", "adaptive", "daca"}:
        assert np.array_equal(after.p_NK == 0, other.p_NK == 0)
    if name != "isotonic":
        json.dumps(fitted(name, fit).to_json(), allow_nan=False)


@EACH
def test_one_class_only_and_always_right(name):
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 0.9, 60)
    scores = Scores.from_probs(np.stack([first, 1 - first], axis=1), [0] * 60, ids=[f"fit-{i}" for i in range(60)])
    after = fitted(name, scores).apply(scores.select([0]), allow_fit_rows=True)
    assert np.isfinite(after.logp_NK).all()
    assert after.prediction_N[0] == 0
    json.dumps(fitted(name, scores).to_json(), allow_nan=False)


@EACH
def test_one_question_is_enough_to_fit(name, draw):
    assert fitted(name, draw(1, name="fit")).apply(draw(5)).n == 5


@EACH
def test_cross_validation_gives_each_question_the_scaler_of_the_other_folds(name, draw):
    scores = draw(120, power=2.5)
    cls = SCALERS[name]
    base = softer(draw(120, power=2.5, distort=lambda logp: logp + 0.1 * np.sin(9 * logp)))
    reference = base.select(np.random.default_rng(1).permutation(120)) if cls.needs_reference else None
    unfitted = cls()
    after = cross_validated(unfitted, scores, reference=reference, folds=4, seed=2)
    assert unfitted.n_fit_ == 0
    assert after.ids == scores.ids
    folds = after.provenance["scaler"]["folds"]
    assert [part["n_fit"] for part in folds] == [90] * 4
    assert "fit_keys" not in folds[0]
    fold_N = fold_of(scores, 4, 2, OUTER)
    for fold, part in enumerate(folds):
        fit_N = fold_N != fold
        refitted = cls().fit(scores.select(fit_N), reference=base.select(fit_N) if cls.needs_reference else None)
        assert refitted.described() == part
        assert np.array_equal(refitted.apply(scores.select(~fit_N)).logp_NK, after.logp_NK[~fit_N])


def test_the_last_bits_of_a_score_which_differ_between_processors_change_no_fold():
    p_NK = np.random.default_rng(5).dirichlet(np.ones(4), 400)
    scores = Scores.from_probs(p_NK, [0] * 400)
    assert set(scores.hashes) == {""}
    for towards in (-np.inf, np.inf):
        other = replace(scores, logp_NK=np.nextafter(scores.logp_NK, towards))
        assert not np.array_equal(other.logp_NK, scores.logp_NK)
        assert np.array_equal(fold_of(other, 5, 0, OUTER), fold_of(scores, 5, 0, OUTER))
    certain = Scores.from_probs([[1.0, 0.0]] * 20, [0] * 20)
    other = replace(certain, logp_NK=np.where(certain.logp_NK == 0, -0.0, certain.logp_NK))
    assert np.array_equal(fold_of(other, 5, 0, OUTER), fold_of(certain, 5, 0, OUTER))


def test_what_was_applied_before_stays_in_the_provenance(draw):
    fit, other = draw(200, power=2.0), draw(100, power=2.0, name="other")
    once = fitted("temperature", fit).apply(other)
    twice = fitted("isotonic", fit).apply(once)
    assert "after" not in once.provenance["scaler"]
    assert twice.provenance["scaler"]["name"] == "isotonic"
    assert twice.provenance["scaler"]["after"] == once.provenance["scaler"]


def test_a_reference_of_other_questions_is_refused(draw):
    with pytest.raises(ScoresError, match="only in"):
        cross_validated(SCALERS["daca"](), draw(30), reference=draw(30, name="other"))
    with pytest.raises(ConfigError, match="reference"):
        cross_validated(SCALERS["daca"](), draw(30))
    with pytest.raises(ConfigError, match="does not use"):
        cross_validated(SCALERS["temperature"](), draw(30), reference=draw(30))


@EACH
def test_scores_where_no_answer_is_possible_are_refused_or_survived(name):
    """No parametric map of answers can start from probability 0 everywhere; maps of the confidence and DACA can."""
    scores = Scores.from_probs([[1.0, 0.0]] * 30, [1] * 30, ids=[f"fit-{i}" for i in range(30)])
    other = Scores.from_probs([[0.9, 0.1]], [1], ids=["x"])
    if name in {"temperature", "vector", "adaptive"}:
        with pytest.raises(ScoresError, match="every answer has probability 0"):
            fitted(name, scores)
    else:
        assert fitted(name, scores).apply(other).n == 1


def test_errors_are_of_the_one_tree():
    with pytest.raises(CalibrantError) as raised:
        scaler_named("x")
    assert str(raised.value).startswith("asked:")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SCALERS["temperature"]().n_fit_ == 0
