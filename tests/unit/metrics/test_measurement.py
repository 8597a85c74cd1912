"""measure: values equal the definitions, intervals and floors behave, JSON is stable."""

import json
import math

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import (
    battery,
    brier,
    compare,
    conf_ece,
    cw_ece,
    error_interval,
    measure,
    nll,
    noise_floor,
    signed_gap,
    wilson_interval,
)
from calibrant.metrics.measurement import DISTINGUISHABLE, INDISTINGUISHABLE
from calibrant.metrics.sums import bootstrap_sums
from calibrant.scores import Scores

KEYS = {"accuracy", "conf_ece", "cw_ece", "nll", "brier", "signed_gap", "mean_confidence"}


def draw(n, *, k=4, sharpen=1.0, mixed=False, seed=0, **more):
    """Questions whose true probabilities are known; ``sharpen > 1`` makes the model overconfident."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(n, k)) * 1.5
    if mixed:
        logit[np.arange(k) >= rng.integers(2, k + 1, n)[:, None]] = np.nan
    p = np.exp(logit) / np.nansum(np.exp(logit), axis=1, keepdims=True)
    cumulative = np.nancumsum(p, axis=1)
    answer = (rng.random((n, 1)) * cumulative[:, -1:] > cumulative).sum(1)
    return Scores.from_logp(sharpen * logit, answer, **more)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_values_equal_the_definitions(mixed, n_bins):
    s = draw(700, mixed=mixed, sharpen=1.7)
    m = measure(s, n_bins=n_bins, n_boot=50)
    assert m["accuracy"].value == pytest.approx(s.correct_N.mean())
    assert m["mean_confidence"].value == pytest.approx(s.confidence_N.mean())
    assert m["conf_ece"].value == pytest.approx(conf_ece(s.confidence_N, s.correct_N, n_bins))
    assert m["cw_ece"].value == pytest.approx(cw_ece(s.p_NK, s.answer_N, s.k_N, n_bins))
    assert m["signed_gap"].value == pytest.approx(signed_gap(s.confidence_N, s.correct_N))
    assert m["nll"].value == pytest.approx(nll(s.logp_NK, s.answer_N))
    assert m["brier"].value == pytest.approx(brier(s.p_NK, s.answer_N))
    for e in m.estimates.values():
        assert e.low <= e.value <= e.high
        assert e.n == 700


def test_shown_in_a_line_and_printed_as_the_table_of_the_command():
    found = measure(Scores.from_probs([[0.9, 0.1]] * 60 + [[0.8, 0.2]] * 40, ([0] * 6 + [1] * 4) * 10), n_boot=200)
    e = found["conf_ece"]
    assert repr(found) == (
        f"<Measurement: 100 questions, accuracy 0.600 [0.502, 0.691], conf-ECE 0.260 [{e.low:.3f}, {e.high:.3f}], "
        "distinguishable from calibrated>"
    )
    lines = str(found).splitlines()
    assert lines[0] == "100 questions of at most 2 options, 10 bins, 200 draws, seed 0"
    assert f"0.2600  [{e.low:.4f}, {e.high:.4f}]  {e.floor_mean:.4f}, {e.floor_p95:.4f}" in lines[5]
    assert [line.split("  ")[0] for line in lines[2:]] == [
        *("accuracy", "mean confidence", "signed gap", "conf-ECE", "cw-ECE", "NLL", "Brier"),
    ]  # fmt: skip
    one = measure(Scores.from_probs([[0.9, 0.1]], [0]))
    assert str(one).endswith("note: one question: no interval but accuracy's")
    assert "conf-ECE 0.100, " in repr(one)
    assert "8 questions in 2 clusters of at most" in str(measure(draw(8), cluster=[0, 1] * 4))


def test_a_calibrated_model_is_not_distinguishable_and_its_interval_starts_at_zero():
    m = measure(draw(2000))
    assert m["conf_ece"].verdict == INDISTINGUISHABLE
    assert m["conf_ece"].low == 0.0
    assert m["cw_ece"].low == 0.0
    assert m["signed_gap"].low < 0 < m["signed_gap"].high


def test_a_sharpened_model_is_distinguishable():
    m = measure(draw(2000, sharpen=2.0))
    assert m["conf_ece"].verdict == DISTINGUISHABLE
    assert m["cw_ece"].verdict == DISTINGUISHABLE
    assert m["conf_ece"].low > m["conf_ece"].floor_p95
    assert m["signed_gap"].low > 0


def test_the_floor_of_a_constant_half_is_the_binomial_mean_deviation():
    """c = .5 for N = 100: |hits - 50|/100 with hits ~ Binomial(100, .5). E = C(100,50) 2^-100 * 50/100 = .0398."""
    s = Scores.from_probs([[0.5, 0.5]] * 100, [0] * 100)
    conf, cw = noise_floor(s, n_draws=20_000)
    assert conf.mean() == pytest.approx(math.comb(100, 50) / 2**100 / 2, abs=5e-4)
    assert cw.mean() == pytest.approx(conf.mean())  # both classes deviate alike


def test_the_floor_is_the_law_of_the_error_of_a_calibrated_model():
    """Redrawing labels from the model must give what fresh calibrated models score: mean over 400 fresh label sets."""
    s = draw(400, mixed=True, seed=5)
    rng = np.random.default_rng(1)
    p, at = s.p_NK, np.arange(s.n)
    fresh_conf, fresh_cw = [], []
    for _ in range(400):
        y = _labels(p, rng)
        assert (s.logp_NK[at, y] > -np.inf).all()
        fresh_conf.append(conf_ece(s.confidence_N, s.prediction_N == y))
        fresh_cw.append(cw_ece(p, y, s.k_N))
    conf, cw = noise_floor(s, n_draws=4000)
    assert conf.mean() == pytest.approx(np.mean(fresh_conf), rel=0.04)
    assert cw.mean() == pytest.approx(np.mean(fresh_cw), rel=0.04)
    assert np.quantile(conf, 0.95) == pytest.approx(np.quantile(fresh_conf, 0.95), rel=0.08)


def test_the_floor_with_clusters_is_the_law_of_the_error_of_a_model_that_is_calibrated_over_all_of_them():
    """In cluster g the top of two options is right with c + o_g (1 - c), o_g = +-.8. Over 300 fresh worlds of 40 clusters of
    ten the mean error is that of the floor, which labels redrawn question by question miss; and about 5 % lie above it.
    """
    label = np.repeat(np.arange(40), 10).tolist()
    worlds = []
    for seed in range(300):
        rng = np.random.default_rng([7, seed])
        c = rng.uniform(0.5, 1.0, 400)
        truth = c + rng.choice([-0.8, 0.8], 40)[label] * (1 - c)
        worlds.append(Scores.from_probs(np.stack([c, 1 - c], 1), (rng.random(400) > truth).astype(int)))
    seen = [measure(s, cluster=label, n_boot=200)["conf_ece"] for s in worlds]
    plain = [measure(s, n_boot=200)["conf_ece"] for s in worlds[:100]]
    error = np.mean([e.value for e in seen])
    assert np.mean([e.floor_mean for e in seen]) == pytest.approx(error, rel=0.08)
    assert np.mean([e.floor_mean for e in plain]) < 0.85 * error
    assert np.mean([e.value > e.floor_p95 for e in seen]) < 0.08
    assert np.mean([e.value > e.floor_p95 for e in plain]) > 0.15


def test_no_interval_leaves_what_its_number_can_be():
    """All wrong at .995: 1.328 and 1.294 were the upper ends of conf-ECE and of the signed gap of five questions."""
    for n in (5, 20, 50):
        wrong = Scores.from_probs([[0.995, 0.005]] * n, [1] * n)
        m = measure(wrong, n_boot=200)
        for name in ("conf_ece", "cw_ece", "signed_gap"):
            assert m[name].low <= m[name].value <= m[name].high == 1.0, name
        cured = compare(wrong, Scores.from_probs([[0.005, 0.995]] * n, [1] * n), n_boot=200)
        assert cured["cw_ece"].low >= -1
        assert battery(wrong, n_boot=200)["equal_mass_ece"].high <= 1


def _labels(p, rng):
    return (rng.random((len(p), 1)) * p.sum(1, keepdims=True) > p.cumsum(1)).sum(1)


def test_bootstrap_of_a_mean_has_its_standard_error():
    """sd of the mean of 0/1 with share .3 over 1,000 questions: sqrt(.21/1000) = .01449."""
    x = np.zeros((1000, 2))
    x[:, 0], x[:300, 1] = 1, 1
    sums = bootstrap_sums(x.__getitem__, 1000, 8000, seed=0)
    means = sums[:, 1] / sums[:, 0]
    assert means.mean() == pytest.approx(0.3, abs=1e-3)
    assert means.std() == pytest.approx(0.01449, rel=0.04)


def test_clusters_of_copies_widen_the_interval_by_the_root_of_their_size():
    """Each question four times over: clustered by question the error is that of N, not of 4 N, so twice as wide."""
    s = draw(500, sharpen=2.0)
    four = s.select(np.repeat(np.arange(500), 4))
    label = np.repeat(np.arange(500), 4).tolist()
    plain, clustered = measure(four), measure(four, cluster=label)
    for name in ("accuracy", "conf_ece", "brier", "signed_gap"):
        ratio = (clustered[name].high - clustered[name].low) / (plain[name].high - plain[name].low)
        assert 1.7 < ratio < 2.3, name
    assert clustered.n_clusters == 500


def test_interval_of_a_large_error_is_that_of_a_mean():
    """All cells far from 0 with one sign: the error is minus a mean, its interval +-1.96 sd, sd = .01 sqrt(4) = .02."""
    noise = np.random.default_rng(0).normal(0, 0.01, (20_000, 4))
    low, high = error_interval(np.full(4, 0.1), noise)
    assert low == pytest.approx(0.4 - 1.96 * 0.02, abs=1.5e-3)
    assert high == pytest.approx(0.4 + 1.96 * 0.02, abs=1.5e-3)


def test_interval_holds_zero_exactly_when_the_value_is_ordinary_noise():
    noise = np.random.default_rng(0).normal(0, 0.01, (4000, 10))
    ordinary = np.quantile(np.abs(noise).sum(1), [0.5, 0.97, 0.98])
    lows = [error_interval(np.full(10, total / 10), noise)[0] for total in ordinary]
    assert lows[0] == lows[1] == 0.0
    assert lows[2] > 0


def test_interval_without_noise_is_the_value():
    low, high = error_interval(np.array([0.1, -0.2]), np.zeros((100, 2)))
    assert (low, high) == (pytest.approx(0.3, abs=1e-6), pytest.approx(0.3, abs=1e-6))
    assert error_interval(np.zeros(2), np.zeros((100, 2))) == (0.0, 0.0)


def test_all_correct_still_has_an_interval():
    m = measure(Scores.from_probs([[0.95, 0.05]] * 20, [0] * 20))
    assert m["accuracy"].low == pytest.approx(wilson_interval(1.0, 20)[0])
    assert m["conf_ece"].low < m["conf_ece"].value < m["conf_ece"].high
    assert m["signed_gap"].high - m["signed_gap"].low > 0.05


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    s = draw(300)
    assert measure(s).to_json() == measure(s).to_json()
    assert measure(s, seed=1)["nll"].low != measure(s)["nll"].low


def test_json_is_plain_and_complete_and_has_no_nan():
    s = Scores.from_logp([[0.0, -math.inf], [0.0, -1.0]], [1, 0], split="test")
    out = json.loads(json.dumps(measure(s).to_json(), allow_nan=False))
    assert out["n"] == 2
    assert out["split"] == "test"
    assert set(out) >= KEYS
    assert out["nll"]["value"] is None
    assert any("probability 0" in note for note in out["notes"])
    assert out["option_mass"] is None
    for name in ("conf_ece", "cw_ece"):
        assert {"value", "low", "high", "floor_mean", "floor_p95", "verdict"} <= set(out[name])


def test_one_question_has_values_and_no_intervals():
    m = measure(Scores.from_probs([[0.7, 0.3]], [0]))
    assert m["conf_ece"].value == pytest.approx(0.3)
    assert math.isnan(m["conf_ece"].low)
    assert m.to_json()["conf_ece"]["low"] is None
    assert any("one question" in note for note in m.notes)


def test_option_mass_is_measured_and_low_mass_is_noted():
    logmass = np.log([0.2, 0.4, 0.3, 0.3])
    s = Scores.from_logp(np.log([[0.5, 0.5]] * 4), [0, 1, 0, 1], logmass=logmass)
    m = measure(s)
    assert m["option_mass"].value == pytest.approx(0.3)
    assert any("hardly wanted" in note for note in m.notes)
    part = measure(Scores.from_logp(np.log([[0.5, 0.5]] * 4), [0, 1, 0, 1], logmass=[math.nan, -0.1, -0.1, -0.1]))
    assert part["option_mass"].n == 3
    assert part["option_mass"].value == pytest.approx(math.exp(-0.1))


def test_ties_constant_probabilities_and_a_single_class_are_defined():
    m = measure(Scores.from_probs([[0.25] * 4] * 50, [0] * 50))
    assert m["accuracy"].value == 1.0  # a tie goes to the first option
    assert m["conf_ece"].value == pytest.approx(0.75)
    assert m["cw_ece"].value == pytest.approx((0.75 + 3 * 0.25) / 4)


@pytest.mark.parametrize("wrong", [{"n_boot": 1}, {"level": 1.0}, {"level": 95}, {"n_bins": 0}, {"cluster": "nothing"}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError):
        measure(draw(20), **wrong)


@pytest.mark.parametrize("cluster", ["subject", [1] * 20, [1, 2], [None] + [1] * 19])
def test_clusters_that_do_not_cover_the_questions_are_refused(cluster):
    with pytest.raises(ScoresError):
        measure(draw(20), cluster=cluster)


def test_an_unknown_estimate_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="conf_ece"):
        measure(draw(20))["ece"]


@pytest.mark.parametrize("k", [2, 4])
def test_a_model_that_is_all_right_and_all_but_sure_is_at_its_floor(k):
    """Value and floor are the same sum, made in two ways: their last bits are not evidence."""
    for seed in range(40):
        c_N = 1 - 1e-4 * np.random.default_rng(seed).random(100)
        p_NK = np.column_stack([c_N, *[(1 - c_N) / (k - 1)] * (k - 1)])
        found = measure(Scores.from_probs(p_NK, [0] * 100), n_boot=50)["conf_ece"]
        assert found.verdict == "not distinguishable from calibrated"


def test_two_clusters_do_not_make_impossible_ends():
    """With two clusters deviations are widened by a factor of nine, past what a mean can be; the ends are cut there."""
    s = Scores.from_probs([[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 20, [0] * 20 + [1] * 20, subjects=["a"] * 20 + ["b"] * 20)
    m = measure(s, cluster="subject")
    assert (m["mean_confidence"].low, m["mean_confidence"].high) == (0, 1)
    assert m["nll"].low == 0
    assert (m["brier"].low, m["brier"].high) == (0, 2)


def test_names_of_the_numbers_can_be_asked_for():
    m, c = measure(draw(50)), compare(draw(50), draw(50))
    assert set(m) >= KEYS
    assert dict(m) == m.estimates
    assert "conf_ece" in m
    assert "ece" not in m
    assert dict(c) == c.differences


@pytest.mark.parametrize("wrong", ["a.scores", [[0.5, 0.5]], None])
def test_what_are_no_scores_is_told(wrong):
    for call in (lambda: measure(wrong), lambda: compare(draw(20), wrong)):
        with pytest.raises(ConfigError, match=r"Scores\.(load|from_probs)"):
            call()


def test_answers_that_all_stand_in_one_place_are_told_of():
    """Uniform probabilities: ties go to the first option, so a model that knows nothing is right every time."""
    always = Scores.from_probs([[1 / 3] * 3] * 30, [0] * 30)
    assert any("all 30 correct options stand at place 1" in note for note in measure(always).notes)
    texts = Scores.from_probs([[1 / 3] * 3] * 30, [0] * 30, provenance={"prompt": {"reading": "continuation"}})
    turned = Scores.from_probs([[1 / 3] * 3] * 30, [0, 1] * 15)
    assert not any("place" in note for scores in (texts, turned) for note in measure(scores).notes)


def test_a_gap_beside_an_error_within_chance_is_told_of():
    """Everywhere right .05 less often than said: with few questions the gap may show before the error does."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 400)
    s = Scores.from_probs(np.column_stack([p, 1 - p]), (rng.random(400) > p - 0.05).astype(int))
    m = measure(s)
    assert m["conf_ece"].verdict == INDISTINGUISHABLE
    assert m["signed_gap"].low > 0
    assert any("confidence is above accuracy on average beyond its interval" in note for note in m.notes)
    assert not any("on average beyond" in note for note in measure(draw(2000)).notes)
    found = diagnose(s, n_boot=100)
    assert found.action == "score-more"
    assert "a small error, or chance, which does this to a calibrated model now and then" in " ".join(found.reasons)


def test_row_numbers_are_not_called_ids():
    plain, named = draw(20), draw(20, ids=[f"q{i}" for i in range(20)])
    assert compare(plain, plain).matched_by == "row number"
    assert compare(named, named).matched_by == "id"


def test_a_line_says_what_scores_are():
    assert repr(draw(600, split="test")).startswith("<Scores: 600 questions of up to 4 options, split 'test', accuracy")
    assert len(repr(draw(600))) < 200


def test_a_cluster_that_is_no_number_is_missing():
    scores = Scores.from_probs([[0.7, 0.3]] * 40, [0] * 30 + [1] * 10, columns={"g": [1.0] * 20 + [float("nan")] * 20})
    with pytest.raises(ScoresError, match="20 of them missing"):
        measure(scores, cluster="g")


def test_equal_probabilities_of_a_table_stay_equal_wherever_they_stand():
    """.7 + .2 + .1 is 1 or .9999999999999999, by the order; divided by that, .7 would be two numbers."""
    orders = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.1, 0.7, 0.2]]
    assert len({sum(p) for p in orders}) > 1
    assert len(set(Scores.from_probs(orders, [0, 2, 1, 1]).confidence_N.tolist())) == 1
