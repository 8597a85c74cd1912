"""Scalers against independent implementations, where definitions are the same."""

import warnings

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from calibrant.scalers import DACA, Dirichlet, Histogram, Isotonic, Temperature, Vector
from calibrant.scores import Scores


def too_sure(n, k):
    """Scores to fit on and others, too sure by a power of 2, with a preference for the first position."""
    rng = np.random.default_rng(n + k)
    logit = rng.normal(size=(2 * n, k)) * 1.5
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((2 * n, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    both = Scores.from_logp(2 * logit + 0.5 * (np.arange(k) == 0), answer, ids=[str(i) for i in range(2 * n)])
    return both.select(np.arange(n)), both.select(np.arange(n, 2 * n))


@pytest.fixture(params=[(400, 4), (1500, 3), (1000, 2)])
def pair(request):
    return too_sure(*request.param)


def netcal_of(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn at import
        return pytest.importorskip(module)


def test_netcal_histogram_binning(pair):
    """Theirs on the confidence as a binary problem, equal widths; only bins that hold 20 questions or more, since ours
    never says more than 1 - 1/(n + 2) and leaves empty bins alone."""
    fit, other = pair
    theirs = netcal_of("netcal.binning").HistogramBinning(bins=10)
    ours = Histogram(bins="equal-width").fit(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(fit.confidence_N, fit.correct_N.astype(int))
        expected = np.asarray(theirs.transform(other.confidence_N)).ravel()
    at = np.minimum((other.confidence_N * 10).astype(int), 9)
    after = ours.apply(other)
    free = (ours.count_[at] >= 20) & (ours.values_[at] < 0.95) & (ours.values_[at] > 0.5)
    assert free.sum() > 100
    assert after.confidence_N[free] == pytest.approx(expected[free], abs=1e-9)


def test_netcal_temperature():
    """Two options, where its binary task is the same problem; it clips logits and stops early."""
    fit, other = too_sure(1000, 2)
    scaling = netcal_of("netcal.scaling")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = scaling.TemperatureScaling()
        theirs.fit(fit.p_NK[:, 1], fit.answer_N, random_state=0)
        expected = np.asarray(theirs.transform(other.p_NK[:, 1])).ravel()
    assert Temperature().fit(fit).apply(other).p_NK[:, 1] == pytest.approx(expected, abs=5e-3)


def test_scikit_learn_isotonic(pair):
    """Where neither of our limits is at work (it lifts g to 1/2 or more, and below 1)."""
    fit, other = pair
    theirs = IsotonicRegression(out_of_bounds="clip").fit(fit.confidence_N, fit.correct_N)
    expected = theirs.predict(other.confidence_N)
    free = (expected > 0.5) & (expected < 0.99)
    assert free.sum() > 50
    assert Isotonic().fit(fit).apply(other).confidence_N[free] == pytest.approx(expected[free], abs=1e-9)


def test_scikit_learn_logistic_regression_is_dirichlet_without_a_penalty(pair):
    """Multinomial regression on ln p. Both have directions that do not matter; the probabilities are the same."""
    fit, other = pair
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(fit.logp_NK, fit.answer_N)
    ours = Dirichlet(strengths=(1e-9,)).fit(fit).apply(other)
    expected = theirs.predict_proba(other.logp_NK)
    assert ours.p_NK == pytest.approx(expected, abs=2e-3)


def test_scikit_learn_logistic_regression_is_vector_scaling_of_two_options():
    """ln(q_1/q_0) = w_1 z_1 - w_0 z_0 + (b_1 - b_0)."""
    fit, other = too_sure(1000, 2)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(fit.logp_NK, fit.answer_N)
    ours = Vector().fit(fit).apply(other)
    assert ours.p_NK == pytest.approx(theirs.predict_proba(other.logp_NK), abs=2e-3)


def test_torch_finds_dacas_temperature_by_gradient_descent(pair):
    """The loss written again with torch: agreement mask, KL(base || softmax(logits / τ)), Adam on τ."""
    torch = pytest.importorskip("torch")
    aligned, _ = pair
    rng = np.random.default_rng(0)
    base = Scores.from_logp(aligned.logp_NK / 2 + rng.normal(size=aligned.logp_NK.shape) * 0.7, aligned.answer_N)
    base = Scores.from_logp(base.logp_NK, aligned.answer_N, ids=aligned.ids)
    logits, target = torch.tensor(aligned.logp_NK), torch.tensor(base.p_NK)
    agree = logits.argmax(1) == target.argmax(1)
    tau = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([tau], lr=0.02)
    for _ in range(1500):
        optimiser.zero_grad()
        log_q = torch.log_softmax(logits / tau, dim=1)
        each = torch.nn.functional.kl_div(log_q, target, reduction="none").sum(1)
        (each * agree).mean().backward()
        optimiser.step()
    scaler = DACA().fit(aligned, reference=base)
    assert scaler.temperature_ == pytest.approx(float(tau.detach()), rel=1e-3)
    assert 0 < scaler.n_agree_ < aligned.n
