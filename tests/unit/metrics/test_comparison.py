"""compare: pairing, matching, direction, refusals."""

import json
import math

import numpy as np
import pytest

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import compare, compare_many, measure
from calibrant.scores import Scores


def pair(n=800, sharpen=2.0, seed=0):
    """The calibrated model and a sharpened copy: same answers, same predictions."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(n, 4)) * 1.5
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
    return Scores.from_logp(sharpen * logit, answer), Scores.from_logp(logit, answer)


def test_the_change_is_after_minus_before_and_the_cure_is_seen():
    before, after = pair()
    c = compare(before, after)
    for name in ("conf_ece", "cw_ece", "nll", "brier"):
        assert c[name].value == pytest.approx(measure(after)[name].value - measure(before)[name].value)
        assert c[name].low <= c[name].value <= c[name].high < 0
        assert c[name].verdict == "b is better"
    assert c["signed_gap"].verdict == "b is lower"
    assert compare(after, before)["conf_ece"].verdict == "a is better"


def test_swapping_the_two_mirrors_every_interval():
    before, after = pair()
    one, other = compare(before, after), compare(after, before)
    for name, d in one.differences.items():
        assert other[name].value == pytest.approx(-d.value)
        assert other[name].low == pytest.approx(-d.high, abs=1e-6)


def test_the_same_scores_twice_do_not_differ():
    s, _ = pair(200)
    for d in compare(s, s).differences.values():
        assert d.low <= 0 <= d.high
        assert (d.value, d.verdict) == (0.0, "undecided")


def test_pairing_is_narrower_than_two_separate_intervals():
    before, after = pair(sharpen=1.5)
    c, a, b = compare(before, after), measure(before), measure(after)
    for name in ("brier", "signed_gap", "nll"):
        assert c[name].high - c[name].low < 0.7 * math.hypot(a[name].high - a[name].low, b[name].high - b[name].low)


def test_questions_are_matched_by_id_whatever_their_order():
    before, after = pair(200)
    shuffled = after.select(np.random.default_rng(0).permutation(200))
    assert compare(before, shuffled).to_json() == compare(before, after).to_json()


def test_questions_are_matched_by_content_hash_where_ids_differ():
    before, after = pair(50)
    hashes = tuple(f"h{i}" for i in range(50))
    a = _with(before, hashes=hashes)
    b = _with(after, hashes=hashes, ids=tuple(f"other-{i}" for i in range(50))).select(np.arange(50)[::-1])
    c = compare(a, b)
    assert c.matched_by == "hash"
    assert c["nll"].value == pytest.approx(compare(before, after)["nll"].value)


def _with(scores, **changes):
    from dataclasses import replace

    return replace(scores, **changes)


def test_other_questions_answers_options_or_repeated_ids_are_refused():
    a, b = pair(50)
    with pytest.raises(ScoresError, match="only in a"):
        compare(a, b.select(np.arange(40)))
    with pytest.raises(ScoresError, match="another text, answer"):
        compare(a, _with(b, answer_N=(b.answer_N + 1) % 4))
    with pytest.raises(ScoresError, match="repeats"):
        compare(_with(a, ids=("x",) * 50), _with(b, ids=("x",) * 50))
    with pytest.raises(ScoresError, match="another text"):
        compare(_with(a, hashes=("h",) * 50), _with(b, hashes=("g",) * 50))
    with pytest.raises(ScoresError, match="one question"):
        compare(a.select([0]), b.select([0]))
    with pytest.raises(ConfigError, match="conf_ece"):
        compare(a, b)["ece"]


def test_an_infinite_loss_is_said_in_words():
    fair, sure = (Scores.from_probs([p] * 20, [0] * 10 + [1] * 10) for p in ([0.6, 0.4], [1.0, 0.0]))
    said = compare(sure, fair).sentence("nll", "before", "after")
    assert said == "nll: infinite (before), since some answers have probability 0; no change to speak of, n = 20"
    table = str(compare(sure, fair))
    assert "an answer has probability 0" in table
    assert "nan" not in table


def test_shown_in_a_line_and_printed_as_the_table_of_the_command():
    one = Scores.from_probs([[0.99, 0.01]] * 50, [0] * 30 + [1] * 20)
    found = compare(one, Scores.from_probs([[0.62, 0.38]] * 50, one.answer_N))
    accuracy, d = found["accuracy"], found["conf_ece"]
    assert repr(found) == (
        f"<Comparison: 50 questions, b - a: accuracy +0.000 [{accuracy.low:+.3f}, {accuracy.high:+.3f}], undecided; "
        f"conf-ECE -0.370 [{d.low:+.3f}, {d.high:+.3f}], b is better>"
    )
    lines = str(found).splitlines()
    assert lines[0] == "50 questions, matched by row number; paired bootstrap, 1000 draws, seed 0"
    assert f"conf-ECE         0.3900  0.0200  -0.3700  [{d.low:+.4f}, {d.high:+.4f}]  b is better" in lines
    assert len(lines) == 9


def test_json_has_no_nan_even_where_nll_is_infinite():
    a = Scores.from_probs([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    b = Scores.from_probs([[0.6, 0.4], [0.5, 0.5]], [1, 0])
    out = json.loads(json.dumps(compare(a, b).to_json(), allow_nan=False))
    assert out["nll"]["value"] is None
    assert out["nll"]["verdict"] == "undecided"
    assert out["accuracy"]["n"] == 2


def test_p_value_and_questions_needed_go_with_the_interval():
    before, after = pair()
    c = compare(before, after)
    assert c["nll"].p_value == pytest.approx(1 / 1001)
    assert c["nll"].n_needed is None
    assert "after is better" in c.sentence("nll", "before", "after")
    small = np.arange(60)
    undecided = compare(before.select(small), pair(sharpen=1.9)[0].select(small))["conf_ece"]
    assert undecided.verdict == "undecided"
    assert undecided.p_value > 0.05
    assert undecided.n_needed > 60


@pytest.mark.parametrize("cluster", [None, "subject"])
def test_p_is_small_exactly_where_the_interval_leaves_out_0(cluster):
    for seed in range(6):
        for sharpen in (1.1, 1.5):
            before, after = (
                _with(s, subjects=tuple(f"s{i % 12}" for i in range(250))) for s in pair(250, sharpen, seed)
            )
            for d in compare(before, after, n_boot=150, cluster=cluster, level=0.9).differences.values():
                assert d.low <= d.value <= d.high
                assert (d.p_value < 0.1) == (d.low > 0 or d.high < 0) == (d.verdict != "undecided")


@pytest.mark.parametrize("cluster", [None, "subject"])
def test_nearly_the_same_model_nearly_does_not_differ(cluster):
    """Logits 1e-6 apart move an error by 1e-6 at most, on 300 questions as on a million."""
    s = _with(pair(300)[0], subjects=tuple(f"s{i % 12}" for i in range(300)))
    nudged = Scores.from_logp((1 + 1e-6) * s.logp_NK, s.answer_N, ids=s.ids, subjects=s.subjects)
    c = compare(s, nudged, n_boot=200, cluster=cluster)
    for name in ("conf_ece", "cw_ece"):
        assert -2e-6 < c[name].low <= c[name].value <= c[name].high < 2e-6
    assert compare(s, s, n_boot=200, cluster=cluster)["cw_ece"].high == 0


def test_a_better_of_many_is_corrected_for_looking():
    before, after = pair(300)
    rng = np.random.default_rng(0)
    names = [f"same {i}" for i in range(5)]
    nudged = {name: _with(before, logp_NK=_nudge(before.logp_NK, rng)) for name in names}
    found = compare_many(before, {"cured": after, **nudged}, "nll", n_boot=500)
    assert found["cured"][1] <= 6 * found["cured"][0].p_value + 1e-12
    assert found["cured"][1] < 0.05
    for difference, corrected in found.values():
        assert corrected >= difference.p_value


def _nudge(logp, rng):
    moved = logp + rng.normal(0, 0.01, logp.shape)
    return moved - np.logaddexp.reduce(moved, axis=1, keepdims=True)


def test_two_models_wrong_in_mirrored_ways_do_not_differ_in_error():
    """One overconfident, one underconfident by the same .1: conf-ECE alike, signed gap opposite."""
    rng = np.random.default_rng(3)
    truth = 0.65 + 0.1 * rng.random(3000)
    y = np.where(rng.random(3000) < truth, 0, 1)
    over, under = (Scores.from_probs(np.column_stack([truth + d, 1 - truth - d]), y) for d in (0.1, -0.1))
    c = compare(over, under)
    assert c["conf_ece"].verdict == "undecided"
    assert c["signed_gap"].high < -0.15


@pytest.mark.parametrize("settings", [{"n_boot": 100}, {"level": 0.995}])
def test_many_comparisons_can_be_decided_whatever_the_draws(settings):
    """Seven effects of a size that none can miss: the least p-value of few draws, times seven, would hide them all."""
    before, after = pair(sharpen=4.0)
    level = settings.get("level", 0.95)
    found = compare_many(before, {str(i): after for i in range(7)}, **settings)
    assert all(p < 1 - level and d.verdict == "b is better" for d, p in found.values())


def test_a_seed_below_zero_is_refused_in_three_parts():
    before, after = pair(n=60)
    for call in (lambda: measure(before, seed=-1), lambda: compare(before, after, seed=-1)):
        with pytest.raises(ConfigError, match="seed = -1"):
            call()


def test_a_column_that_no_question_has_changes_nothing():
    rng = np.random.default_rng(0)
    p_NK = rng.dirichlet([1, 1, 1], 60)
    answer = rng.integers(3, size=60)
    plain = Scores.from_probs(p_NK, answer)
    wide = Scores.from_probs(np.column_stack([p_NK, np.full(60, np.nan)]), answer)
    assert wide.k == 4
    for a, b in ((plain, wide), (wide, plain)):
        for name, d in compare(a, b, n_boot=60).differences.items():
            assert (d.low, d.value, d.high) == (0, 0, 0) or name in ("accuracy", "nll", "brier"), name
            assert d.value == 0
