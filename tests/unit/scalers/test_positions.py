"""Vector scaling and Dirichlet calibration: hand-worked, recovered, their gradients, mixed numbers of options."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from calibrant.errors import ConfigError
from calibrant.metrics import nll
from calibrant.scalers import Dirichlet, Temperature, Vector
from calibrant.scalers.positions import (
    RIDGE,
    dirichlet_inputs,
    dirichlet_penalty,
    fit_logits,
    logits_loss,
    logits_slope,
)
from calibrant.scores import Scores


def test_a_prior_of_the_positions_by_hand():
    """All p = (.5, .5), 8 of 10 right are A. w cannot matter, as z is one constant: b_A - b_B = logit(.8) = 1.3863."""
    scaler = Vector().fit(Scores.from_probs([[0.5, 0.5]] * 10, [0] * 8 + [1] * 2))
    after = scaler.apply(Scores.from_probs([[0.5, 0.5]], [0], ids=["x"]))
    assert after.p_NK[0] == pytest.approx([0.8, 0.2], abs=1e-3)
    w, b = scaler.weights_, scaler.intercept_
    assert (w[0] - w[1]) * math.log(0.5) + b[0] - b[1] == pytest.approx(math.log(4), abs=2e-3)


def test_the_map_of_guo_et_al_by_hand():
    """w = (2, 1), b = (.5, 0), p = (.6, .4): logits 2 ln .6 + .5 = -.5217, ln .4 = -.9163, so q_A = .59740."""
    scaler = Vector.from_json(
        {"name": "vector", "option_counts": [2], "weights": [2, 1], "intercept": [0.5, 0], "n_left_out": 0}
        | {"n_fit": 1, "fit_keys": []}
    )
    after = scaler.apply(Scores.from_probs([[0.6, 0.4]], [0]))
    assert after.p_NK[0, 0] == pytest.approx(0.59740, abs=1e-5)


def test_the_map_and_the_penalty_of_kull_et_al_by_hand():
    """W = ((1, .2), (-.1, 1)), b = (.3, 0), p = (.6, .4): logits -.51083 + .2 (-.91629) + .3 = -.39408 and
    .051083 - .91629 = -.86521; q_A = 1 / (1 + exp(-.47113)) = .61565. ODIR at λ = μ = 1: (.04 + .01)/2 + .09/2 = .07;
    L2 towards the identity: (.04 + .01 + .09)/6 = .02333."""
    weights, intercept = np.array([[1, 0.2], [-0.1, 1]]), np.array([0.3, 0.0])
    values = {"name": "dirichlet", "regularisation": "odir", "strength": 1.0, "strengths": [1.0], "held_out": []}
    values |= {"option_counts": [2], "weights": weights.tolist(), "intercept": intercept.tolist(), "n_left_out": 0}
    scaler = Dirichlet.from_json(values | {"n_fit": 1, "fit_keys": []})
    after = scaler.apply(Scores.from_probs([[0.6, 0.4]], [0]))
    assert after.p_NK[0, 0] == pytest.approx(0.61565, abs=1e-5)
    off = np.hstack([weights, intercept[:, None]]) - np.eye(2, 3)
    assert (dirichlet_penalty(2, "odir") * off**2).sum() == pytest.approx(0.07)
    assert (dirichlet_penalty(2, "l2") * off**2).sum() == pytest.approx(0.14 / 6)
    assert dirichlet_penalty(4, "odir")[0].tolist() == pytest.approx([0, 1 / 12, 1 / 12, 1 / 12, 1 / 4])


W, B = np.array([0.5, 0.7, 0.6, 0.4]), np.array([0.4, 0.0, -0.2, -0.2])


@pytest.mark.parametrize("mixed", [False, True])
def test_vector_recovers_the_distortion_that_was_put_in(draw, mixed):
    """The model says z = (log p - b) / w, so w and b (to a constant) undo it. n = 40,000: standard errors of about 1 %."""
    fit = draw(40_000, mixed=mixed, name="fit", distort=lambda logp: (logp - B) / W)
    # normalising moved each question by a constant c: w c is not a constant over k, so recovery is up to that
    scaler = Vector().fit(fit)
    other = draw(2_000, seed=1, mixed=mixed, distort=lambda logp: (logp - B) / W)
    truth = draw(2_000, seed=1, mixed=mixed)
    before, after = (np.abs(s.p_NK - truth.p_NK).mean() for s in (other, scaler.apply(other)))
    assert after < before / 5


@pytest.mark.parametrize("mixed", [False, True])
def test_vector_recovers_its_own_law(mixed):
    """Answers drawn from softmax(w log p + b): the parameters come back."""
    rng = np.random.default_rng(0)
    n = 60_000
    z = rng.normal(size=(n, 4)) * 2
    if mixed:
        z[np.arange(4) >= rng.integers(2, 5, n)[:, None]] = np.nan
    logp = z - np.log(np.nansum(np.exp(z), axis=1, keepdims=True))
    p = np.exp(W * logp + B)
    cumulative = np.nancumsum(p, axis=1)
    answer = (rng.random((n, 1)) * cumulative[:, -1:] > cumulative).sum(1)
    scaler = Vector().fit(Scores.from_logp(logp, answer))
    assert scaler.weights_ == pytest.approx(W, abs=0.04)
    assert scaler.intercept_ - scaler.intercept_.mean() == pytest.approx(B - B.mean(), abs=0.08)
    assert scaler.option_counts_ == ((2, 3, 4) if mixed else (4,))


@pytest.mark.parametrize("regularisation", ["odir", "l2"])
def test_dirichlet_recovers_its_own_law_where_vector_cannot(regularisation):
    """Answers drawn from softmax(W log p + b) with strong off-diagonals; held-out NLL within .005 of the truth's."""
    rng = np.random.default_rng(1)
    weights = np.array([[0.6, -0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.5]])
    z = rng.normal(size=(20_000, 3)) * 1.5
    logp = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    logq = logp @ weights.T + np.array([0.3, -0.3, 0.0])
    logq -= np.logaddexp.reduce(logq, axis=1, keepdims=True)
    answer = (rng.random((20_000, 1)) > np.exp(logq).cumsum(1)[:, :-1]).sum(1)
    scores = Scores.from_logp(logp, answer)
    fit, other = scores.select(np.arange(10_000)), scores.select(np.arange(10_000, 20_000))
    truth = nll(logq[10_000:], answer[10_000:])
    found = nll(Dirichlet(regularisation).fit(fit).apply(other).logp_NK, other.answer_N)
    assert found < truth + 0.005
    assert nll(Vector().fit(fit).apply(other).logp_NK, other.answer_N) > truth + 0.01


def test_on_calibrated_scores_a_strong_penalty_wins_and_the_map_is_nearly_the_identity(draw):
    fit, other = draw(300, name="fit"), draw(2_000, seed=1)
    scaler = Dirichlet("l2").fit(fit)
    assert scaler.strength_ >= 0.1
    assert len(scaler.held_out_) == 6
    assert min(scaler.held_out_) == scaler.held_out_[scaler.strengths.index(scaler.strength_)]
    gained = nll(other.logp_NK, other.answer_N) - nll(scaler.apply(other).logp_NK, other.answer_N)
    assert abs(gained) < 0.01
    free = Dirichlet("l2", strengths=(1e-6,)).fit(fit).apply(other)
    assert nll(free.logp_NK, other.answer_N) > nll(scaler.apply(other).logp_NK, other.answer_N)


def problem(seed=0, n=30, k=3):
    rng = np.random.default_rng(seed)
    k_N = rng.integers(2, k + 1, n)
    present_NK = np.arange(k) < k_N[:, None]
    logp_NK = np.where(present_NK, np.log(rng.dirichlet(np.ones(k), n)), -np.inf)
    logp_NK = logp_NK - np.logaddexp.reduce(logp_NK, axis=1, keepdims=True)
    answer_N = rng.integers(0, k_N)
    penalty_KA, centre_KA = np.full((k, k + 1), 0.01), np.eye(k, k + 1)
    return dirichlet_inputs(logp_NK, k_N), present_NK, answer_N, penalty_KA, centre_KA


def test_the_gradient_is_that_of_the_loss():
    x_NKA, present_NK, answer_N, penalty_KA, centre_KA = problem()
    theta = centre_KA + np.random.default_rng(5).normal(size=centre_KA.shape) * 0.3
    _, p_NK = logits_loss(theta, x_NKA, present_NK, answer_N, penalty_KA, centre_KA)
    slope = logits_slope(theta, p_NK, x_NKA, answer_N, penalty_KA, centre_KA)
    numeric = approx_fprime(
        theta.ravel(),
        lambda t: logits_loss(t.reshape(theta.shape), x_NKA, present_NK, answer_N, penalty_KA, centre_KA)[0],
        1e-7,
    )
    assert slope.ravel() == pytest.approx(numeric, abs=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_newton_ends_where_another_optimiser_ends_from_a_random_start(seed):
    x_NKA, present_NK, answer_N, penalty_KA, centre_KA = problem(seed)
    theta = fit_logits(x_NKA, present_NK, answer_N, penalty_KA, centre_KA)
    other = minimize(
        lambda t: logits_loss(t.reshape(theta.shape), x_NKA, present_NK, answer_N, penalty_KA, centre_KA)[0],
        np.random.default_rng(seed).normal(size=theta.size),
        method="BFGS",
        options={"gtol": 1e-8},
    )
    assert theta.ravel() == pytest.approx(other.x, abs=1e-4)
    loss, p_NK = logits_loss(theta, x_NKA, present_NK, answer_N, penalty_KA, centre_KA)
    assert loss <= other.fun + 1e-10
    assert np.abs(logits_slope(theta, p_NK, x_NKA, answer_N, penalty_KA, centre_KA)).max() < 1e-6


def test_the_penalty_that_keeps_fits_finite_weighs_next_to_nothing(draw):
    """Vector's NLL is at most the temperature's, up to the ridge's own weight."""
    fit = draw(500, power=2.0, mixed=True, name="fit")
    vector, temperature = (s.fit(fit).apply(fit, allow_fit_rows=True) for s in (Vector(), Temperature()))
    assert nll(vector.logp_NK, fit.answer_N) <= nll(temperature.logp_NK, fit.answer_N) + RIDGE / 500 * 8


@pytest.mark.parametrize("make", [Vector, Dirichlet])
def test_new_numbers_of_options_are_warned_of(make, draw):
    scaler = make().fit(draw(100, k=3, name="fit"))
    with pytest.warns(UserWarning, match="fitted on questions of 3 options and is applied to questions of 2 options"):
        after = scaler.apply(draw(20, k=2))
    assert after.k == 2
    padded = draw(60, k=5, mixed=True, seed=3)
    narrow = padded.select(np.flatnonzero(padded.k_N == 3))  # five columns, three options
    assert np.isneginf(scaler.apply(narrow).logp_NK[:, 3:]).all()


@pytest.mark.parametrize("make", [Vector, Dirichlet])
def test_a_position_never_fitted_has_the_mean_of_the_others(make, draw):
    """The law written out for four positions after a fit on three; questions of three are not touched by those of four."""
    scaler = make().fit(draw(200, k=3, name="fit"))
    mixed = draw(60, k=4, mixed=True, seed=3)
    with pytest.warns(UserWarning, match="positions from 4 on take the mean of the others"):
        after = scaler.apply(mixed)
    wide = np.append(scaler.intercept_, scaler.intercept_.mean())
    for logp_K, found_K, k in zip(mixed.logp_NK, after.logp_NK, mixed.k_N, strict=True):
        z_K = logp_K[:k]
        if make is Vector:
            logit_K = np.append(scaler.weights_, scaler.weights_.mean())[:k] * z_K + wide[:k]
        else:
            diagonal = np.diag(scaler.weights_)
            rest = (scaler.weights_.sum() - diagonal.sum()) / 6
            w_KK = np.full((4, 4), rest) + np.diag(np.append(diagonal, diagonal.mean()) - rest)
            w_KK[:3, :3] = scaler.weights_
            logit_K = w_KK[:k, :k] @ z_K + wide[:k]
        np.testing.assert_allclose(found_K[:k], logit_K - np.logaddexp.reduce(logit_K), atol=1e-12)
    narrow = mixed.k_N == 3
    np.testing.assert_array_equal(
        after.logp_NK[narrow][:, :3], scaler.apply(mixed.select(np.flatnonzero(narrow))).logp_NK[:, :3]
    )


def test_answers_of_probability_0_are_left_out_of_vector_and_said():
    p = [[0.9, 0.1, 0.0]] * 10 + [[0.5, 0.3, 0.2]] * 20
    scaler = Vector().fit(Scores.from_probs(p, [2] * 4 + [0] * 6 + [0, 1] * 10))
    assert scaler.n_left_out_ == 4
    assert scaler.to_json()["n_left_out"] == 4


@pytest.mark.parametrize("wrong", [{"regularisation": "l1"}, {"strengths": ()}, {"strengths": (0.0, 1.0)}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match="penalty"):
        Dirichlet(**wrong)


def test_a_wide_set_is_fitted_in_time(draw):
    """26 options, 702 parameters."""
    scaler = Dirichlet(strengths=(1.0,)).fit(draw(400, k=26, power=2.0, name="fit"))
    assert scaler.weights_.shape == (26, 26)


@pytest.mark.parametrize("kind", [Vector, Dirichlet])
def test_a_position_that_few_questions_have_gets_no_parameters_of_its_own(kind):
    """One question of five options among 500 of four: its answer, E, would be taken for a law."""
    rng = np.random.default_rng(0)
    p = [*rng.dirichlet(np.ones(4), 500).tolist(), [0.35, 0.25, 0.2, 0.1, 0.1]]
    answers = [*(int(rng.choice(4, p=row)) for row in p[:500]), 4]
    table = [[*row, *[float("nan")] * (5 - len(row))] for row in p]
    scaler = kind().fit(Scores.from_probs(table, answers))
    assert scaler.option_counts_ == (4,)
    other = Scores.from_probs([[0.35, 0.25, 0.2, 0.1, 0.1]], [0], ids=["other"])
    with pytest.warns(UserWarning, match="positions from 5 on take the mean of the others"):
        assert scaler.apply(other).p_NK[0, 4] < 0.2
