"""A temperature for each question: its formula, its gradient, recovery, features, the choice of λ."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import auroc, nll
from calibrant.scalers import AdaptiveTemperature, Temperature
from calibrant.scalers.adaptive import FEATURES, feature, fit_temperatures, temperatures_loss
from calibrant.scores import Scores


def test_features_by_hand():
    """p = (.7, .2, .1): entropy .80182 of ln 3 = 1.09861; ln(.7/.2) = 1.25276, ln(1 + that) = .81216."""
    s = Scores.from_logp(
        np.log([[0.7, 0.2, 0.1]]), [0], logmass=[-0.25], columns={"question_length": [99]}, normalise=False
    )
    assert feature(s, "entropy")[0] == pytest.approx(0.80182 / 1.09861, abs=1e-5)
    assert feature(s, "margin")[0] == pytest.approx(0.81216, abs=1e-5)
    assert feature(s, "logmass")[0] == -0.25
    assert feature(s, "options")[0] == pytest.approx(math.log(3))
    assert feature(s, "question_length")[0] == pytest.approx(math.log(100))
    sure = Scores.from_probs([[1.0, 0.0, 0.0]], [0])
    assert feature(sure, "entropy")[0] == 0
    assert feature(sure, "margin")[0] == pytest.approx(math.log(51))
    assert np.isnan([feature(sure, "logmass")[0], feature(sure, "question_length")[0]]).all()


def test_the_loss_by_hand():
    """z = (0, -2), T = exp(a + w f) = exp(.5 + .3) = 2.2255: q = 1/(1 + exp(-2/2.2255)) = .71067; λ w² = .009."""
    theta, z, f = np.array([0.5, 0.3]), np.array([[0.0, -2.0]]), np.array([[1.0]])
    loss, _ = temperatures_loss(theta, z, np.array([0]), f, 0.1)
    assert loss == pytest.approx(-math.log(0.710674) + 0.009, abs=1e-5)


def problem(seed=0, n=200):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4)) * 3
    z[np.arange(4) >= rng.integers(2, 5, n)[:, None]] = -np.inf
    z -= z.max(1, keepdims=True)
    p = np.exp(0.4 * z)
    answer = (rng.random((n, 1)) * p.sum(1, keepdims=True) > p.cumsum(1)).sum(1)
    return z, answer, rng.normal(size=(n, 2))


def test_the_gradient_is_that_of_the_loss():
    z, answer, f = problem()
    theta = np.array([0.4, 0.2, -0.3])
    _, slope = temperatures_loss(theta, z, answer, f, 0.05)
    numeric = approx_fprime(theta, lambda t: temperatures_loss(t, z, answer, f, 0.05)[0], 1e-7)
    assert slope == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_random_starts_end_at_the_same_place(seed):
    z, answer, f = problem(seed)
    found = fit_temperatures(z, answer, f, 0.01)
    for start in np.random.default_rng(seed).normal(size=(5, 3)):
        other = minimize(temperatures_loss, start, args=(z, answer, f, 0.01), jac=True, method="BFGS")
        assert found == pytest.approx(other.x, abs=1e-4)


def drawn(n, seed, w):
    """Said is p^(T_i) of the true p, ln T_i = .6 + w f_i, f_i the standardised log option mass."""
    rng = np.random.default_rng(seed)
    logp = rng.normal(size=(n, 4)) * 1.5
    logp -= np.logaddexp.reduce(logp, axis=1, keepdims=True)
    f = rng.uniform(-math.sqrt(3), math.sqrt(3), n)
    answer = (rng.random((n, 1)) > np.exp(logp).cumsum(1)[:, :-1]).sum(1)
    said = logp * np.exp(0.6 + w * f)[:, None]
    return Scores.from_logp(said, answer, logmass=f - 3, ids=[f"{seed}-{i}" for i in range(n)])


def test_a_temperature_that_depends_on_a_feature_is_recovered():
    """n = 20,000: the standard error of w is about .01."""
    scaler = AdaptiveTemperature(["logmass"]).fit(drawn(20_000, 0, 0.5))
    assert scaler.offset_ == pytest.approx(0.6, abs=0.05)
    assert scaler.weights_ == pytest.approx([0.5], abs=0.05)
    other = drawn(5_000, 1, 0.5)
    single = Temperature().fit(drawn(20_000, 0, 0.5)).apply(other)
    after = scaler.apply(other)
    assert nll(after.logp_NK, other.answer_N) < nll(single.logp_NK, other.answer_N) - 0.01
    assert auroc(after.confidence_N, after.correct_N) > auroc(other.confidence_N, other.correct_N) + 0.01
    assert scaler.temperatures(other) == pytest.approx(np.exp(0.6 + 0.5 * (other.logmass_N + 3)), rel=0.1)


def test_where_one_temperature_is_the_truth_it_is_nearly_that():
    """Over ten fits of 400 questions ln T spreads by less than .05 on average, and less than .002 nats is lost to the single
    temperature on new questions. Some fits take noise for a feature: a claim about one of them would be luck.
    """
    spreads, losses = [], []
    for seed in range(2, 22, 2):
        fit, other = drawn(400, seed, 0.0), drawn(5_000, seed + 1, 0.0)
        scaler = AdaptiveTemperature().fit(fit)
        assert scaler.features_ == ("entropy", "margin", "logmass")
        spreads.append(np.log(scaler.temperatures(other)).std())
        single = Temperature().fit(fit).apply(other)
        losses.append(nll(scaler.apply(other).logp_NK, other.answer_N) - nll(single.logp_NK, other.answer_N))
    assert np.mean(spreads) < 0.05
    assert np.mean(losses) < 0.002


def test_a_strong_penalty_is_a_single_temperature_and_no_feature_is_exactly_that(draw):
    fit = draw(300, power=2.0, mixed=True, name="fit")
    single = Temperature().fit(fit).temperature_
    strong = AdaptiveTemperature(strengths=(1e6,)).fit(fit)
    assert strong.temperatures(fit) == pytest.approx(np.full(300, single), rel=1e-4)
    assert AdaptiveTemperature(features=()).fit(fit).temperatures(fit) == pytest.approx(np.full(300, single), rel=1e-6)


def test_default_features_are_those_that_are_known_and_vary(draw):
    plain = draw(100, name="fit")
    assert AdaptiveTemperature().fit(plain).features_ == ("entropy", "margin")
    rich = draw(100, mixed=True, logmass=np.linspace(-2, 0, 100), columns={"question_length": list(range(100))})
    assert AdaptiveTemperature().fit(rich).features_ == FEATURES


def test_features_are_cut_to_the_range_of_the_fit_questions():
    scaler = AdaptiveTemperature(["logmass"]).fit(drawn(500, 4, 0.5))
    p = np.full((3, 2), 0.5)
    far = Scores.from_logp(np.log(p), [0] * 3, logmass=[-500.0, scaler.low_[0], 0.0], ids=list("abc"))
    t = scaler.temperatures(far)
    assert t[0] == pytest.approx(t[1])
    assert t[2] == pytest.approx(
        np.exp(scaler.offset_ + scaler.weights_[0] * (scaler.high_ - scaler.mean_) / scaler.spread_)
    )


def test_a_feature_that_is_not_known_is_refused_and_named(draw):
    scaler = AdaptiveTemperature(["entropy", "logmass"]).fit(drawn(100, 5, 0.5))
    with pytest.raises(ScoresError, match="logmass not known"):
        scaler.apply(draw(10))
    with pytest.raises(ScoresError, match="question_length not known"):
        AdaptiveTemperature(["question_length"]).fit(draw(10))
    with pytest.raises(ConfigError, match="unknown: size"):
        AdaptiveTemperature(["size"])
    with pytest.raises(ConfigError, match="not positive"):
        AdaptiveTemperature(strengths=(0.0,))


def test_answers_of_probability_0_are_left_out_and_said():
    p = [[1.0, 0.0]] * 3 + [[0.8, 0.2]] * 30
    scaler = AdaptiveTemperature().fit(Scores.from_probs(p, [1] * 3 + [0, 0, 1] * 10))
    assert scaler.n_left_out_ == 3


def test_a_trial_step_far_beyond_any_temperature_stays_finite():
    rng = np.random.default_rng(0)
    z_NK, answer_N, f_NF = rng.normal(size=(30, 4)), rng.integers(0, 4, 30), rng.normal(size=(30, 3))
    z_NK -= z_NK.max(1, keepdims=True)
    for size in (1e2, 1e3, 1e6):
        loss, slope = temperatures_loss(np.full(4, -size), z_NK, answer_N, f_NF, 1e-3)
        assert np.isfinite(loss)
        assert np.isfinite(slope).all()


def test_lengths_of_an_array_count_as_those_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 300, 200)
    p, answers = rng.dirichlet([3, 1, 1], 200), rng.integers(0, 3, 200)
    scores = Scores.from_probs(p, answers, columns={"question_length": list(lengths)})
    scores.save(tmp_path / "s.safetensors")
    before, after = (AdaptiveTemperature().fit(s) for s in (scores, Scores.load(tmp_path / "s.safetensors")))
    assert "question_length" in before.features_
    assert before.to_json() == after.to_json()
