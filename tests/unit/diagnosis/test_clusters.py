"""diagnose with whole clusters resampled: the numbers of measure, and copies that are one question."""

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.diagnosis.options import letter_prior
from calibrant.metrics import measure
from calibrant.scores import Scores


def test_with_clusters_the_diagnosis_is_that_of_measure(draw):
    scores = draw(600, power=1.3)
    label = [f"c{i % 12}" for i in range(600)]
    found, plain = diagnose(scores, cluster=label, n_boot=200), diagnose(scores, n_boot=200)
    wanted = measure(scores, cluster=label, n_boot=200)
    for name in ("conf_ece", "accuracy", "signed_gap"):
        assert found.numbers[name] == wanted[name]
        assert found.numbers[name] != plain.numbers[name]
    assert "(n = 600 in 12 clusters" in found.to_text()
    assert (found.to_json()["n_clusters"], plain.to_json()["n_clusters"]) == (12, None)
    copies = scores.select(np.repeat(np.arange(600), 4))
    each = np.repeat(np.arange(600), 4).tolist()
    for name in ("critical_accuracy", "tce", "bound_1"):  # four copies of a question are one question
        alone, four = plain.numbers[name], diagnose(copies, cluster=each, n_boot=200).numbers[name]
        assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.35, abs=0.004)


def copied(scores, times=4):
    """Every question several times, and the labels that say so."""
    many = scores.select(np.repeat(np.arange(scores.n), times))
    return Scores.from_logp(many.logp_NK, many.answer_N), np.repeat(np.arange(scores.n), times).astype(str).tolist()


def test_shares_and_a_path_of_numbers_are_clustered_too(draw):
    """Four copies of a question are one question: the intervals of shares and of A - A* are those without the copies."""
    scores, reference = draw(500, power=4.0), draw(500)
    (many, label), (many_reference, _) = copied(scores), copied(reference)
    path = [{"accuracy": 0.5, "conf_ece": 0.02, "n": 500, "floor_p95": 0.05}]
    long_path = [path[0] | {"n": 2000}]

    def shares(d):
        c = d.collapse
        return (c.share_near_one, c.accuracy_near_one, c.shift.agreement)

    once = shares(diagnose(scores, reference=reference, n_boot=100))
    four = shares(diagnose(many, reference=many_reference, n_boot=100, cluster=label))
    for a, b in zip(once, four, strict=True):
        assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=0.004)
    a = diagnose(scores, path=path, n_boot=100).numbers["excess_accuracy"]
    b = diagnose(many, path=long_path, n_boot=100, cluster=label).numbers["excess_accuracy"]
    c = diagnose(many, path=long_path, n_boot=100).numbers["excess_accuracy"]
    assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=0.002)
    assert c.high - c.low < 0.6 * (b.high - b.low)
    assert b.n == 2000


def test_a_path_of_scores_has_a_width_where_no_answer_changed(draw):
    scores = draw(500)
    found = diagnose(scores, path=[scores], n_boot=100)
    assert found.target_kind == "path"
    excess = found.numbers["excess_accuracy"]
    assert excess.low < 0 == excess.value < excess.high


def test_the_critical_accuracy_of_a_target_fitted_to_the_model_has_the_arms_of_its_accuracy():
    """Its calibrator moves with the answers: taken as known, the interval held the truth of calibrated models in 42 %."""
    held = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        p = rng.dirichlet(np.ones(4), 300)
        answers = (rng.random((300, 1)) > p.cumsum(1)[:, :-1]).sum(1)
        numbers = diagnose(Scores.from_probs(p, answers), n_boot=100).numbers
        star, right = numbers["critical_accuracy"], numbers["accuracy"]
        assert star.high - star.value == pytest.approx(right.high - right.value)
        held += star.low <= 25 / 48 <= star.high  # the mean of the largest of four Dirichlet(1) parts
    assert held >= 11


def test_the_prior_over_positions_counts_clusters():
    """A model blind to positions, right .9 of the time at confidence .65; each subject's key leans its own way, all together
    to none. Question by question the leaning of ten subjects looks like a preference of the model.
    """
    alarms = {"questions": 0, "clusters": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        subject = np.repeat(np.arange(10), 100)
        answer = np.where(rng.random(1000) < rng.beta(0.5, 0.5, 10)[subject], 0, 1)
        top = np.where(rng.random(1000) < 0.9, answer, 1 - answer)
        scores = Scores.from_probs(np.where(top[:, None] == np.arange(2), 0.65, 0.35), answer)
        alarms["questions"] += letter_prior(scores).p_value < 0.01
        alarms["clusters"] += letter_prior(scores, subject).p_value < 0.01
    assert alarms["questions"] > 20
    assert alarms["clusters"] <= 3
