"""Several methods and several runs: one run is measure and compare; more runs against worked cases and a known world."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import CONTEST_METRICS, Contest, auroc, compare, measure, smooth_ece
from calibrant.scores import Scores


def noisy(n, *, seed, sharp=2.0, jitter=0.0, k=4, run=0):
    """Overconfident scores of n questions whose answers follow the softened probabilities; runs jitter the logits."""
    rng = np.random.default_rng(seed)
    z_NK = rng.normal(0, 1.2, (n, k))
    p_NK = np.exp(z_NK) / np.exp(z_NK).sum(1, keepdims=True)
    answer_N = (rng.random((n, 1)) > p_NK.cumsum(1)).sum(1).clip(0, k - 1)
    z_NK = sharp * z_NK + jitter * np.random.default_rng([seed, run, 9]).normal(0, 1, (n, k))
    return Scores.from_logp(z_NK, answer_N, subjects=[f"s{i % 25}" for i in range(n)])


@pytest.mark.parametrize("cluster", [None, "subject"])
def test_one_run_is_measure_and_compare(cluster):
    a, b = noisy(300, seed=1), noisy(300, seed=1, sharp=1.1)
    contest = Contest({"a": [a], "b": [b]}, n_boot=400, seed=3, cluster=cluster)
    for name, scores in (("a", a), ("b", b)):
        found, wanted = contest.estimates(name), measure(scores, n_boot=400, seed=3, cluster=cluster)
        for metric in ("accuracy", "conf_ece", "cw_ece", "nll", "brier"):
            assert found[metric].to_json() == pytest.approx(wanted[metric].to_json(), abs=1e-6), metric
        assert found["auroc"].value == auroc(scores.confidence_N, scores.correct_N)
        assert found["smooth_ece"].value == smooth_ece(scores.confidence_N, scores.correct_N).value
        for metric in ("auroc", "smooth_ece"):
            assert found[metric].low < found[metric].value < found[metric].high
    wanted = compare(a, b, n_boot=400, seed=3, cluster=cluster)
    found = contest.differences("a", "b")
    for metric in ("accuracy", "conf_ece", "cw_ece", "nll", "brier"):
        one, other = found[metric].to_json(), wanted[metric].to_json()
        assert (one.pop("n_needed") or 0) == pytest.approx(other.pop("n_needed") or 0, rel=1e-3)
        assert one == pytest.approx(other, abs=1e-5), metric


def test_the_number_of_a_method_is_the_mean_of_its_runs():
    runs = [noisy(300, seed=1, jitter=0.4, run=i) for i in range(3)]
    contest = Contest({"m": runs}, n_boot=200)
    each = contest.per_run("m")
    for metric, estimate in contest.estimates("m").items():
        assert estimate.value == pytest.approx(np.mean(each[metric]))
        assert len(set(each[metric])) == 3
        assert estimate.low <= estimate.value <= estimate.high
    assert each["conf_ece"] == pytest.approx([measure(run)["conf_ece"].value for run in runs])


def test_equal_runs_add_nothing_and_unequal_runs_widen_as_the_formula_says():
    run = noisy(300, seed=2)
    one, three = (Contest({"m": [run] * s}, n_boot=3000).estimates("m") for s in (1, 3))
    for metric in CONTEST_METRICS:
        assert three[metric].value == pytest.approx(one[metric].value)
        assert three[metric].low == pytest.approx(one[metric].low, abs=2e-3), metric
        assert three[metric].high == pytest.approx(one[metric].high, abs=2e-3), metric
    runs = [noisy(300, seed=2, jitter=0.6, run=i) for i in range(3)]
    contest = Contest({"m": runs}, n_boot=300)
    brier, values = contest.estimates("m")["brier"], np.array(contest.per_run("m")["brier"])
    alone = np.mean([[measure(r, n_boot=300)["brier"].low] for r in runs])
    arm = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert brier.value - brier.low > arm
    assert brier.value - brier.low == pytest.approx(np.hypot(brier.value - alone, arm), rel=0.1)


def test_the_floor_of_equal_runs_is_that_of_one():
    """Labels of the calibrated twin are drawn with one uniform a question: averaging equal runs must not shrink it."""
    run = noisy(200, seed=4)
    one, three = (Contest({"m": [run] * s}, n_boot=200).estimates("m")["conf_ece"] for s in (1, 3))
    assert three.floor_p95 == pytest.approx(one.floor_p95)
    assert three.floor_mean == pytest.approx(one.floor_mean)


def test_a_difference_pairs_the_runs_of_one_seed():
    """b is a, sharper in the same way in every run: the runs differ among themselves, the differences hardly do."""
    a = [noisy(400, seed=5, sharp=1.0, jitter=0.8, run=i) for i in range(3)]
    b = [Scores.from_logp(2.5 * s.logp_NK, s.answer_N) for s in a]
    paired = Contest({"a": a, "b": b}, n_boot=300).differences("a", "b")["nll"]
    crossed = Contest({"a": a, "b": [b[1], b[2], b[0]]}, n_boot=300).differences("a", "b")["nll"]
    assert paired.value == pytest.approx(crossed.value)
    assert paired.high - paired.low < 0.8 * (crossed.high - crossed.low)
    assert paired.verdict == "a is better"


def test_a_method_without_seeds_against_one_with_three():
    a = noisy(300, seed=6)
    b = [noisy(300, seed=6, sharp=1.0, jitter=0.2, run=i) for i in range(3)]
    contest = Contest({"a": [a], "b": b}, n_boot=300)
    ab, ba = contest.differences("a", "b"), contest.differences("b", "a")
    for metric in CONTEST_METRICS:
        assert ab[metric].value == pytest.approx(-ba[metric].value)
        assert ab[metric].low == pytest.approx(-ba[metric].high, abs=1e-9)
    values = np.array(contest.per_run("b")["brier"])
    only = Contest({"a": [a], "b": b[:1]}, n_boot=300).differences("a", "b")["brier"]
    arm = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    width = ab["brier"].value - ab["brier"].low
    assert width == pytest.approx(np.hypot(only.value - only.low, arm), rel=0.15)


def test_intervals_cover_the_mean_over_seeds_and_questions():
    """A known world: accuracy .6 over all seeds; three runs scatter. 60 contests at 90 %: 48 is the 1 % quantile of hits."""
    rng, hits, n = np.random.default_rng(0), 0, 250
    for _ in range(60):
        easy_N = rng.normal(0, 0.15, n)
        runs = []
        for skill in 0.6 + 0.04 * rng.normal(size=3):
            right_N = rng.random(n) < np.clip(skill + easy_N, 0, 1)
            runs.append(Scores.from_probs(np.where(right_N[:, None], [0.6, 0.4], [0.4, 0.6]), [0] * n))
        e = Contest({"m": runs}, n_boot=100, level=0.9).estimates("m")["accuracy"]
        hits += e.low <= 0.6 <= e.high
    assert hits >= 48


def test_infinite_nll_and_all_correct_are_said_not_hidden():
    sure = Scores.from_probs([[1.0, 0.0]] * 5 + [[0.9, 0.1]] * 5, [1] + [0] * 9)
    right = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 10, ids=[str(i) for i in range(10)])
    e = Contest({"m": [sure]}, n_boot=100).estimates("m")
    assert np.isinf(e["nll"].value)
    assert np.isnan(e["nll"].low)
    assert np.isnan(Contest({"m": [right]}, n_boot=100).estimates("m")["auroc"].value)


def test_order_of_questions_does_not_matter_and_other_questions_are_refused():
    a, b = noisy(100, seed=7), noisy(100, seed=7, sharp=1.0)
    turned = b.select(np.arange(100)[::-1])
    first, second = (Contest({"a": [a], "b": [x]}, n_boot=100).differences("a", "b") for x in (b, turned))
    assert {k: d.to_json() for k, d in first.items()} == {k: d.to_json() for k, d in second.items()}
    with pytest.raises(ScoresError, match="same questions"):
        Contest({"a": [a], "b": [b.select(np.arange(99))]})
    with pytest.raises(ConfigError, match="without runs"):
        Contest({"a": [a], "b": []})
    with pytest.raises(ScoresError, match="one question"):
        Contest({"a": [a.select([0])]})


def test_few_runs_make_p_values_cautious():
    """Where seeds are all the noise, p is that of a t-test on S - 1 degrees of freedom, not of a normal."""
    a = noisy(4000, seed=8, sharp=1.0)
    b = [Scores.from_logp(t * a.logp_NK, a.answer_N) for t in (1.30, 1.45, 1.60)]
    contest = Contest({"a": [a], "b": b}, n_boot=2000)
    change_S = np.array(contest.per_run("b")["nll"]) - contest.per_run("a")["nll"][0]
    t_test = 2 * student.sf(change_S.mean() / (change_S.std(ddof=1) / np.sqrt(3)), 2)
    p = contest.differences("a", "b")["nll"].p_value
    assert t_test < p < 2 * t_test  # the questions add some; a normal would say .001
    z = contest.z_values("a", "b")["nll"]
    assert 2 * norm.sf(z) == pytest.approx(p)


def test_z_of_single_runs_is_that_of_the_interval():
    a, b = noisy(300, seed=9), noisy(300, seed=9, sharp=1.8)
    contest = Contest({"a": [a], "b": [b]}, n_boot=400)
    d, z = contest.differences("a", "b")["nll"], contest.z_values("a", "b")["nll"]
    assert z == pytest.approx(abs(d.value) / (d.high - d.value) * norm.ppf(0.975))
    assert contest.z_values("a", "a")["nll"] == 0


def test_two_models_whose_errors_luck_could_level_are_not_told_apart():
    """20 questions, one bin each: .58 said against .39 said, .35 right. Were .485 right, as one and a quarter standard
    deviations of luck allow, the two would be level."""
    answer = [0] * 7 + [1] * 13
    a, b = (Scores.from_probs([[p, (1 - p) / 2, (1 - p) / 2]] * 20, answer) for p in (0.58, 0.39))
    contest = Contest({"a": [b], "b": [a]}, n_boot=2000)
    d, z = contest.differences("a", "b")["conf_ece"], contest.z_values("a", "b")["conf_ece"]
    assert d.value == pytest.approx(0.23 - 0.04)
    assert d.low < 0 < d.high
    assert d.p_value > 0.1
    assert 2 * norm.sf(z) == pytest.approx(d.p_value)


def test_two_models_that_are_always_right_are_not_told_apart_by_the_smooth_error():
    """Confidences .97 and .99, 60 of 60 right: if the first is calibrated, that happens in 16 % of the samples."""
    a, b = (Scores.from_probs([[p, 1 - p]] * 60, [0] * 60) for p in (0.97, 0.99))
    for metric in ("conf_ece", "smooth_ece"):
        d = Contest({"a": [a], "b": [b]}).differences("a", "b")[metric]
        assert d.value == pytest.approx(-0.02)
        assert d.verdict == "undecided", metric
        assert d.p_value > 0.1


def test_a_method_is_no_other_for_having_more_runs_alike():
    """One run against three equal ones: each cell differs by nothing, whatever the noise; in accuracy that no answer changed
    leaves as much open as with one run.
    """
    run = noisy(200, seed=10)
    found = Contest({"a": [run], "b": [run] * 3}, n_boot=200).differences("a", "b")
    accuracy, alone = found.pop("accuracy"), compare(run, run)["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0, alone.low, alone.high))
    for metric, d in found.items():
        assert (d.value, d.low, d.high) == pytest.approx((0, 0, 0), abs=1e-12), metric


def test_runs_of_other_seeds_are_no_pairs():
    """Seed effects that both methods share cancel where the seeds are the same, and add where they are not."""
    a, b = ([noisy(300, seed=3, sharp=sharp, jitter=0.6, run=run) for run in range(3)] for sharp in (2.0, 1.6))
    runs = {"a": a, "b": b}
    plain = Contest(runs, n_boot=200).differences("a", "b")["nll"]
    same = Contest(runs, n_boot=200, seeds={"a": (0, 1, 2), "b": (0, 1, 2)}).differences("a", "b")["nll"]
    apart = Contest(runs, n_boot=200, seeds={"a": (0, 1, 2), "b": (1, 2, 3)}).differences("a", "b")["nll"]
    assert (same.low, same.high) == (plain.low, plain.high)
    assert apart.value == same.value
    assert apart.low < same.low < same.high < apart.high


def test_intervals_of_losses_stay_where_a_loss_can_be():
    """40 questions in 4 clusters, 2 answers wrong, both very sure: no Brier score is below 0 or above 2."""
    sure = Scores.from_probs([[0.999, 0.001]] * 40, [1] * 2 + [0] * 38)
    other = Scores.from_probs([[0.9, 0.1]] * 40, [1] * 2 + [0] * 38)
    cluster = np.repeat(np.arange(4), 10)
    contest = Contest({"sure": [sure], "other": [other]}, n_boot=100, cluster=cluster)
    for name in ("nll", "brier"):
        found, alone = contest.estimates("sure")[name], measure(sure, n_boot=100, cluster=cluster)[name]
        assert 0 <= found.low <= found.value <= found.high <= (2 if name == "brier" else np.inf)
        assert alone.low >= 0
