"""What must hold for any probabilities: bounds, invariances, identities."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calibrant.metrics import (
    aurc,
    auroc,
    bin_index,
    bin_table,
    brier,
    conf_ece,
    cw_ece,
    equal_mass_ece,
    error_interval,
    mce,
    measure,
    over_under,
    overconfident,
    overconfident_targets,
    signed_gap,
    smooth_ece,
)
from calibrant.scores import Scores

quick = settings(max_examples=30, deadline=None)
pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def arrays(sample):
    return np.array([c for c, _ in sample]), np.array([float(y) for _, y in sample])


@st.composite
def scored(draw):
    """Scores with mixed numbers of options."""
    n, k = draw(st.integers(2, 30)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logit = rng.normal(size=(n, k)) * draw(st.sampled_from([0.1, 1.0, 10.0]))
    k_n = rng.integers(2, k + 1, n)
    logit[np.arange(k) >= k_n[:, None]] = np.nan
    return Scores.from_logp(logit, rng.integers(0, k_n))


@quick
@given(pairs)
def test_errors_are_between_the_signed_gap_and_one(sample):
    c, y = arrays(sample)
    gap = abs(signed_gap(c, y))
    for error in (conf_ece(c, y), equal_mass_ece(c, y), smooth_ece(c, y).value):
        assert gap - 1e-9 <= error <= 1 + 1e-9
    assert conf_ece(c, y) <= mce(c, y) + 1e-12 <= 1 + 1e-9
    assert sum(over_under(c, y)) == pytest.approx(conf_ece(c, y))


@quick
@given(pairs, st.integers(1, 30))
def test_finer_nested_bins_never_lower_the_error(sample, n_bins):
    c, y = arrays(sample)
    assert conf_ece(c, y, n_bins) <= conf_ece(c, y, 2 * n_bins) + 1e-9


@quick
@given(pairs, st.randoms())
def test_order_of_questions_and_copies_of_all_do_not_matter(sample, random):
    c, y = arrays(sample)
    at = list(range(len(c)))
    random.shuffle(at)
    for metric in (conf_ece, mce, aurc):
        assert metric(c[at], y[at]) == pytest.approx(metric(c, y), abs=1e-9)
    twice = np.tile(c, 3), np.tile(y, 3)
    for metric in (conf_ece, mce, signed_gap):
        assert metric(*twice) == pytest.approx(metric(c, y), abs=1e-9)


@quick
@given(pairs)
def test_turning_right_into_wrong_mirrors_the_ranking(sample):
    c, y = arrays(sample)
    value = auroc(c, y)
    assert math.isnan(value) == (y.min() == y.max())
    if not math.isnan(value):
        assert auroc(c, 1 - y) == pytest.approx(1 - value)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(1, 40))
def test_every_probability_lies_in_its_bin(values, n_bins):
    at = bin_index(values, n_bins)
    assert ((at >= 0) & (at < n_bins)).all()
    c = np.array(values)
    assert (c >= at / n_bins - 1e-12).all()
    assert ((c < (at + 1) / n_bins) | (at == n_bins - 1)).all()
    assert bin_table(c, np.zeros(len(c)), n_bins).count_M.sum() == len(c)


@quick
@given(scored(), st.randoms())
def test_renaming_the_options_changes_nothing_but_which_is_first(scores, random):
    if (scores.k_N < scores.k).any():
        scores = scores.select(np.flatnonzero(scores.k_N == scores.k_N.max()))
    k = int(scores.k_N[0])
    order = list(range(k))
    random.shuffle(order)
    where = np.argsort(order)
    p = scores.p_NK[:, :k]
    assert cw_ece(p[:, order], where[scores.answer_N]) == pytest.approx(cw_ece(p, scores.answer_N))
    assert brier(p[:, order], where[scores.answer_N]) == pytest.approx(brier(p, scores.answer_N))


@settings(max_examples=15, deadline=None)
@given(scored())
def test_every_estimate_lies_in_its_interval_and_in_its_range(scores):
    m = measure(scores, n_boot=60)
    for name, e in m.estimates.items():
        assert e.low - 1e-6 <= e.value <= e.high + 1e-6, name
    for name in ("accuracy", "conf_ece", "cw_ece", "mean_confidence"):
        assert m[name].low >= 0
    assert 0 <= m["conf_ece"].floor_mean <= 1


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-0.2, 0.2).filter(lambda x: abs(x) > 1e-6), min_size=1, max_size=8),
    st.floats(1e-4, 0.1),
    st.integers(0, 99),
)
@example([3.4e-05], 1e-4, 0)  # an error far below its noise
def test_error_interval_is_symmetric_in_sign_and_scales(cells, sd, seed):
    cell = np.array(cells)
    noise = np.random.default_rng(seed).normal(0, sd, (200, len(cell)))
    low, high = error_interval(cell, noise)
    assert 0 <= low <= np.abs(cell).sum() <= high
    assert error_interval(-cell, -noise) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert error_interval(3 * cell, 3 * noise) == (pytest.approx(3 * low, abs=1e-5), pytest.approx(3 * high, abs=1e-5))


@pytest.mark.parametrize("k", [2, 4, 7])
def test_estimators_reach_their_closed_form_targets_as_n_grows(k):
    """Error against the target falls at least as fast as 1/sqrt(n) from 1,000 to 100,000 questions, within noise."""
    target = overconfident_targets(k, 0.3)
    for n, tolerance in ((1_000, 0.08), (100_000, 0.008)):
        m = measure(overconfident(n, k, 0.3, seed=k), n_boot=50)
        for name, value in target.items():
            assert m[name].value == pytest.approx(value, abs=tolerance), (name, n)
