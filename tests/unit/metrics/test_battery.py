"""The battery: each metric by hand, identities between them, defined values at the borders."""

import math

import numpy as np
import pytest

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import (
    aurc,
    auroc,
    battery,
    brier_decomposition,
    conf_ece,
    debiased_ece,
    debiased_l2_ece,
    ece_at_coverage,
    equal_mass_ece,
    excess_aurc,
    l2_ece,
    mce,
    over_under,
    reliability_curve,
    selective_accuracy,
    signed_gap,
    smooth_ece,
    smooth_ece_at,
    wilson_interval,
)
from calibrant.metrics.profile import compress, exact_profile, resample
from calibrant.scores import Scores


def sample(n=2000, shift=0.1, seed=0):
    rng = np.random.default_rng(seed)
    c = 0.25 + 0.75 * rng.random(n)
    return c, (rng.random(n) < np.clip(c - shift, 0, 1)).astype(float)


def test_equal_mass_by_hand():
    """Five questions, two bins: three and two. {.1 .2 .3}: acc 1/3, conf .2; {.8 .9}: acc 1, conf .85.
    3/5 (.13333) + 2/5 (.15) = .14."""
    assert equal_mass_ece([0.9, 0.1, 0.2, 0.8, 0.3], [1, 0, 1, 1, 0], n_bins=2) == pytest.approx(0.14)


def test_equal_mass_keeps_ties_together_and_survives_more_bins_than_questions():
    assert equal_mass_ece([0.8] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.3)
    assert equal_mass_ece([0.4, 0.8], [1, 0], n_bins=10) == pytest.approx((0.6 + 0.8) / 2)


def test_mce_and_parts_by_hand():
    """Bins: .95 x2 acc .5 (gap -.45, share .5), .55 x2 acc 1 (gap +.45, share .5)."""
    c, y = [0.95, 0.95, 0.55, 0.55], [1, 0, 1, 1]
    assert mce(c, y) == pytest.approx(0.45)
    assert over_under(c, y) == (pytest.approx(0.225), pytest.approx(0.225))


def test_parts_add_up_to_the_error_and_their_difference_is_the_signed_gap():
    c, y = sample()
    over, under = over_under(c, y)
    assert over + under == pytest.approx(conf_ece(c, y))
    assert over - under == pytest.approx(signed_gap(c, y))


def test_brier_decomposition_adds_up_and_has_the_textbook_parts_for_constant_bins():
    c, y = sample()
    d = brier_decomposition(c, y)
    assert d.total == pytest.approx(np.mean((c - y) ** 2))
    assert d.reliability - d.resolution + d.uncertainty + d.within == pytest.approx(d.total)
    assert d.reliability + d.refinement == pytest.approx(d.total)
    constant = brier_decomposition([0.8] * 10 + [0.3] * 10, [1] * 7 + [0] * 3 + [1] * 4 + [0] * 6)
    assert constant.within == pytest.approx(0)
    assert constant.reliability == pytest.approx(0.01)  # both bins are off by .1
    assert constant.resolution == pytest.approx(0.15**2)  # .7 and .4 about .55


def test_debiased_l2_by_hand():
    """One bin, n = 10, acc .5, conf .9: .16 - .25/9 = .13222."""
    assert debiased_l2_ece([0.9] * 10, [1, 0] * 5) == pytest.approx(math.sqrt(0.16 - 0.25 / 9))
    assert debiased_l2_ece([0.5] * 10, [1, 0] * 5) == 0.0


def test_debiased_ece_is_the_limit_of_resampling():
    c, y = sample(300)
    rng = np.random.default_rng(0)
    at = np.minimum((c * 10).astype(int), 9)
    n, a, m = (np.bincount(at, w, minlength=10) for w in (np.ones(300), y, c))
    some = n > 0
    n, a, m = n[some], a[some] / n[some], m[some] / n[some]
    redrawn = np.abs(rng.normal(a, np.sqrt(a * (1 - a) / n), (200_000, len(n))) - m) @ n / n.sum()
    assert debiased_ece(c, y) == pytest.approx(2 * conf_ece(c, y) - redrawn.mean(), abs=2e-4)


def test_debiasing_removes_most_of_the_bias():
    """True error .1 for all bins (shift .1); mean over 200 samples of 150."""
    raw, less = [], []
    for seed in range(200):
        c, y = sample(150, seed=seed)
        raw.append(conf_ece(c, y))
        less.append(debiased_ece(c, y))
    assert np.mean(raw) > 0.115
    assert abs(np.mean(less) - 0.1) < 0.4 * (np.mean(raw) - 0.1)


def test_l2_u_statistic_equals_the_sum_over_pairs():
    c, y = sample(60)
    at, u = np.minimum((c * 10).astype(int), 9), y - c
    total = sum(
        sum(u[i] * u[j] for i in np.flatnonzero(at == m) for j in np.flatnonzero(at == m) if i != j)
        / max((at == m).sum() - 1, 1)
        for m in range(10)
    )
    assert l2_ece(c, y).value == pytest.approx(math.sqrt(max(total / 60, 0)))


def test_auroc_by_hand_and_where_it_is_not_defined():
    assert auroc([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0]) == 0.875
    assert auroc([0.5] * 4, [1, 0, 1, 0]) == 0.5
    assert math.isnan(auroc([0.9, 0.8], [1, 1]))
    assert math.isnan(auroc([0.9, 0.8], [0, 0]))


def test_aurc_of_ties_is_the_mean_over_all_orders():
    """Confidences .9 (hit), then a tie of hit, miss, miss: the mean over the six orders of the tie."""
    from itertools import permutations

    orders = [np.mean(np.cumsum([0, *tie]) / np.arange(1, 5)) for tie in permutations([0, 1, 1])]
    assert aurc([0.9, 0.6, 0.6, 0.6], [1, 1, 0, 0]) == pytest.approx(np.mean(orders))


def test_excess_aurc_is_zero_for_a_perfect_ranking_and_positive_else():
    assert excess_aurc([0.9, 0.8, 0.2], [1, 1, 0]) == pytest.approx(0)
    assert excess_aurc([0.9, 0.8, 0.2], [0, 1, 1]) > 0.3
    assert excess_aurc([0.9, 0.8], [1, 1]) == pytest.approx(0)


def test_selective_accuracy_takes_part_of_a_tie():
    """Half of four: the .9 (hit) and one of the three tied, of which 1/3 are hits: (1 + 1/3)/2."""
    assert selective_accuracy([0.9, 0.6, 0.6, 0.6], [1, 1, 0, 0], coverage=0.5) == pytest.approx(2 / 3)
    assert selective_accuracy([0.9, 0.6], [1, 0], coverage=1.0) == 0.5


def test_ece_at_full_coverage_is_the_ece():
    c, y = sample()
    assert ece_at_coverage(c, y, 1.0) == pytest.approx(conf_ece(c, y))
    top = np.argsort(c)[-500:]
    assert ece_at_coverage(c, y, 0.25) == pytest.approx(conf_ece(c[top], y[top]))


@pytest.mark.parametrize("coverage", [0, -1, 1.5, math.nan])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(ConfigError, match="coverage"):
        selective_accuracy([0.9, 0.6], [1, 0], coverage)


def test_smooth_error_at_a_bandwidth_equals_the_integral_with_image_charges():
    """Reflection by images: sources at 2j + c and 2j - c. Integrated on 20,001 points."""
    c, y = sample(50)
    t, sigma = np.linspace(0, 1, 20_001), 0.07
    field = np.zeros_like(t)
    for centre, weight in zip(c, y - c, strict=True):
        for image in (centre, -centre, 2 - centre, 2 + centre, centre - 2):
            field += weight * np.exp(-(((t - image) / sigma) ** 2) / 2)
    integral = np.trapezoid(np.abs(field), t) / (50 * sigma * math.sqrt(2 * math.pi))
    assert smooth_ece_at(c, y, sigma) == pytest.approx(integral, abs=2e-5)


def test_smooth_error_is_its_own_bandwidth_and_bounded_by_the_signed_gap():
    c, y = sample(5000)
    value, sigma = smooth_ece(c, y)
    assert 0 <= sigma - value < 2 / 1024
    assert value >= abs(signed_gap(c, y)) - 1e-9


def test_smooth_error_hardly_moves_when_confidences_cross_an_edge():
    """A step of 1e-4 across the edge at .5 moves binned ECE by half and smooth ECE by thousandths."""
    y = [1, 0] * 100
    below, above = [0.49995] * 200, [0.49995, 0.50005] * 100
    assert abs(conf_ece(above, y) - conf_ece(below, y)) > 0.4
    assert abs(smooth_ece(above, y).value - smooth_ece(below, y).value) < 5e-3


def test_reliability_curve_of_a_shifted_model_lies_below_the_diagonal():
    c, y = sample(20_000, shift=0.15)
    t, accuracy, density = reliability_curve(c, y)
    inside = (t > 0.45) & (t < 0.85)
    assert np.nanmax(np.abs(accuracy[inside] - (t[inside] - 0.15))) < 0.05
    assert np.trapezoid(density, t) == pytest.approx(1, abs=1e-6)
    assert np.isnan(accuracy[:1]).all() or density[0] > 0


def test_a_bandwidth_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError):
        smooth_ece_at([0.5], [1], 0)


def test_compressing_keeps_counts_bins_and_nearly_every_metric():
    c, y = sample(30_000)
    exact = exact_profile(c, y)
    small = compress(exact, 10)
    assert len(small.c_G) < 2500
    assert small.n == 30_000
    from calibrant.metrics.binned import bin_gaps, equal_width_bins
    from calibrant.metrics.ranking import aurc_of, auroc_of

    for one, other in zip(
        bin_gaps(exact, equal_width_bins(exact, 10), 10), bin_gaps(small, equal_width_bins(small, 10), 10), strict=True
    ):
        assert other == pytest.approx(one, abs=1e-12)
    assert auroc_of(small) == pytest.approx(float(auroc_of(exact)), abs=1e-4)
    assert aurc_of(small) == pytest.approx(float(aurc_of(exact)), abs=1e-4)


def test_profile_draws_have_the_bootstrap_mean_and_spread_of_accuracy():
    c, y = sample(1000)
    drawn = resample(exact_profile(c, y), 4000, seed=0)
    accuracy = drawn.hits_G.sum(1) / drawn.n
    assert accuracy.mean() == pytest.approx(y.mean(), abs=2e-3)
    assert accuracy.std() == pytest.approx(math.sqrt(y.mean() * (1 - y.mean()) / 1000), rel=0.05)


def test_the_battery_holds_the_definitions_and_honest_borders():
    c, y = sample(1500)
    s = Scores.from_probs(np.column_stack([c, (1 - c) / 3, (1 - c) / 3, (1 - c) / 3]), np.where(y, 0, 1))
    b = battery(s, n_boot=200)
    c, y = s.confidence_N, s.correct_N
    wanted = {
        "equal_mass_ece": equal_mass_ece(c, y),
        "smooth_ece": smooth_ece(c, y).value,
        "debiased_ece": debiased_ece(c, y),
        "debiased_l2_ece": debiased_l2_ece(c, y),
        "mce": mce(c, y),
        "over": over_under(c, y).over,
        "under": over_under(c, y).under,
        "auroc": auroc(c, y),
        "aurc": aurc(c, y),
        "excess_aurc": excess_aurc(c, y),
        "selective_accuracy": selective_accuracy(c, y),
        "ece_at_coverage": ece_at_coverage(c, y),
        "reliability": brier_decomposition(c, y).reliability,
        "resolution": brier_decomposition(c, y).resolution,
        "refinement": brier_decomposition(c, y).refinement,
    }
    assert set(b) == set(wanted)
    for name, value in wanted.items():
        assert b[name].value == pytest.approx(value, abs=1e-9), name
        assert math.isnan(b[name].low) or b[name].low <= value <= b[name].high, name
    assert b["smooth_ece"].verdict == "distinguishable from calibrated"
    assert b["smooth_ece"].low > b["smooth_ece"].floor_p95


def test_the_smooth_error_of_few_answers_that_are_all_right_is_not_sure():
    """Confidence .97, all right: resampling moves nothing, yet a calibrated model is all right in 30 % of such samples."""
    e = battery(Scores.from_probs([[0.97, 0.03]] * 40, [0] * 40))["smooth_ece"]
    assert e.value == pytest.approx(0.03)
    assert e.low == 0 < e.value < e.high
    rng, missed = np.random.default_rng(0), 0
    for seed in range(60):
        s = Scores.from_probs([[0.97, 0.03]] * 40, (rng.random(40) > 0.97).astype(int))
        missed += battery(s, n_boot=200, seed=seed)["smooth_ece"].low > 0
    assert missed <= 6  # 1.5 expected at 2.5 %


def test_ranking_of_answers_that_stand_apart_has_no_interval():
    """Three wrong answers below all right ones: every draw says so too, which does not make it certain."""
    c = np.linspace(0.55, 0.95, 40)
    b = battery(Scores.from_probs(np.column_stack([c, 1 - c]), [1] * 3 + [0] * 37))
    assert b["auroc"].value == 1
    assert math.isnan(b["auroc"].low)
    assert math.isnan(b["auroc"].high)
    assert (b["selective_accuracy"].value, b["selective_accuracy"].n) == (1, 20)
    assert (b["selective_accuracy"].low, b["selective_accuracy"].high) == pytest.approx(wilson_interval(1.0, 20))
    assert b["ece_at_coverage"].n == 20


def test_selective_accuracy_is_covered_where_nearly_all_is_right():
    """c ~ U(.8, .98), calibrated: the most confident half is right .935 of the time."""
    rng, covered = np.random.default_rng(0), 0
    for seed in range(100):
        c = rng.uniform(0.8, 0.98, 40)
        s = Scores.from_probs(np.column_stack([c, 1 - c]), (rng.random(40) > c).astype(int))
        e = battery(s, n_boot=50, seed=seed)["selective_accuracy"]
        covered += e.low <= 0.935 <= e.high
    assert covered >= 90


def test_the_battery_is_defined_for_one_question_one_class_and_constant_confidence():
    for scores in (
        Scores.from_probs([[0.7, 0.3]], [0]),
        Scores.from_probs([[0.7, 0.3]] * 20, [0] * 20),
        Scores.from_probs([[0.5, 0.5]] * 20, [0, 1] * 10),
    ):
        for name, e in battery(scores, n_boot=50).items():
            assert name == "auroc" or math.isfinite(e.value), name


@pytest.mark.parametrize("metric", [equal_mass_ece, mce, debiased_ece, auroc, aurc, smooth_ece, l2_ece])
@pytest.mark.parametrize("bad", [([], []), ([0.5, math.nan], [1, 0]), ([0.5, 1.5], [1, 0]), ([0.5], [0.5])])
def test_bad_input_is_refused_everywhere(metric, bad):
    with pytest.raises(ScoresError):
        metric(*bad)
