"""Sensitivity to the order of the options and to the prompt format: worked examples and models with a known bias."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.diagnosis.formats import format_sensitivity
from calibrant.diagnosis.positions import position_effect
from calibrant.diagnosis.sensitivity import order_sensitivity, unpermute
from calibrant.errors import ConfigError, QuestionError, ScoresError
from calibrant.metrics.estimates import Sampling
from calibrant.orders import cyclic_permutations
from calibrant.questions import Question, QuestionSet
from calibrant.scores import Scores

NAN = float("nan")


def shown_in_order(logit_NK, answer_N, shift, bias_K=0.0):
    """Scores of a model that adds a bias to each position, for options moved by ``shift`` (absent ones are nan)."""
    logit_NK = np.asarray(logit_NK, dtype=float)
    k_N = (~np.isnan(logit_NK)).sum(1)
    shown_NK = np.full(logit_NK.shape, NAN)
    for i, k in enumerate(k_N):
        shown_NK[i, :k] = np.roll(logit_NK[i, :k], shift)
    return Scores.from_logp(shown_NK + bias_K, (np.asarray(answer_N) + shift) % k_N)


def orders(logit_NK, answer_N, n_orders, bias_K=0.0):
    return [shown_in_order(logit_NK, answer_N, shift, bias_K) for shift in range(n_orders)]


@pytest.fixture(scope="module")
def world():
    """A calibrated model: the answers are drawn from its own probabilities; (logits, answers, probabilities)."""
    rng = np.random.default_rng(1)
    logit_NK = rng.normal(size=(1500, 4)) * 1.5
    p_NK = np.exp(logit_NK)
    p_NK /= p_NK.sum(1, keepdims=True)
    answer_N = np.minimum((rng.random((len(p_NK), 1)) > p_NK.cumsum(1)).sum(1), 3)
    return logit_NK, answer_N, p_NK


# ---- orders and back ----------------------------------------------------------------------------------------------


def test_a_shift_moves_each_option_and_the_answer_and_keeps_id_and_hash():
    two = Question("two", "Up?", ("yes", "no"), 0, "s", {"c": 1})
    three = Question("three", "Which?", ("a", "b", "c"), 2)
    turned = cyclic_permutations(QuestionSet("mixed", (two, three)), 4)
    assert [t[0].choices for t in turned] == [("yes", "no"), ("no", "yes")] * 2
    assert [t[0].answer for t in turned] == [0, 1, 0, 1]
    assert [t[1].choices for t in turned] == [("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a"), ("a", "b", "c")]
    assert [t[1].choices[t[1].answer] for t in turned] == ["c"] * 4
    for t in turned:
        assert [q.id for q in t] == ["two", "three"]
        assert [q.content_hash for q in t] == [two.content_hash, three.content_hash]
        assert (t[0].subject, t[0].columns) == ("s", {"c": 1})
    with pytest.raises(QuestionError, match="no order"):
        cyclic_permutations(QuestionSet("mixed", (two, three)), 0)


@st.composite
def scores_with_mixed_options(draw):
    k_N = draw(st.lists(st.integers(2, 6), min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    logit_NK = np.where(np.arange(max(k_N)) < np.array(k_N)[:, None], rng.normal(size=(len(k_N), max(k_N))), NAN)
    return logit_NK, rng.integers(0, k_N)


@settings(max_examples=60, deadline=None)
@given(scores_with_mixed_options(), st.integers(0, 9))
def test_unpermuting_gives_back_options_and_answers_whatever_their_number(world, shift):
    logit_NK, answer_N = world
    straight = Scores.from_logp(logit_NK, answer_N)
    back = unpermute(shown_in_order(logit_NK, answer_N, shift), shift)
    np.testing.assert_allclose(back.p_NK, straight.p_NK, atol=1e-12)
    np.testing.assert_array_equal(back.answer_N, straight.answer_N)
    np.testing.assert_array_equal(back.k_N, straight.k_N)


# ---- worked by hand -----------------------------------------------------------------------------------------------


def test_consistency_agreement_positions_and_average_of_two_questions_by_hand():
    """Question 1 has three options, question 2 two; three orders, so question 2 counts its first two only.

    Options' probabilities, in the first order of options:
    question 1: (.6, .3, .1), (.5, .2, .3), (.2, .2, .6): chosen 0, 0, 2: one pair of three agrees, 1/3.
    question 2: (.8, .2), (.4, .6), and again (.8, .2), which does not count: chosen 0, 1: no pair agrees.
    Agreement (1/3 + 0)/2 = 1/6, consistency 0. Averages: (1.3, .7, 1.0)/3 and (.6, .4).
    Order s puts option j at position (j + s) mod K. Question 1 as shown: (.6, .3, .1); (.3, .5, .2); (.2, .6, .2), so
    its positions get (1.1, 1.4, .5)/3; question 2 as shown: (.8, .2); (.6, .4), so (.7, .3).
    Mean over the questions with that position: (1.1/3 + .7)/2 = .5333, (1.4/3 + .3)/2 = .3833, .5/3 = .1667.
    Without a preference: (1/3 + 1/2)/2 = .4167 twice, 1/3. Excess over all N: (.1/3 + .2)/2, (.4/3 - .2)/2, -.5/6:
    .11667, -.03333, -.08333; half of the absolute sum .11667.
    Positions chosen: question 1: 0, 1, 1 (option 2 at (2 + 2) mod 3); question 2: 0, 0.
    """
    shown = [
        Scores.from_probs([[0.6, 0.3, 0.1], [0.8, 0.2, NAN]], [0, 0]),
        Scores.from_probs([[0.3, 0.5, 0.2], [0.6, 0.4, NAN]], [1, 1]),
        Scores.from_probs([[0.2, 0.6, 0.2], [0.8, 0.2, NAN]], [2, 0]),
    ]
    found = order_sensitivity(shown, n_boot=200)
    assert (found.n, found.n_orders, found.complete) == (2, 3, True)
    assert found.consistency.value == 0
    assert found.agreement.value == pytest.approx(1 / 6)
    np.testing.assert_allclose(found.averaged.p_NK, [[1.3 / 3, 0.7 / 3, 1 / 3], [0.6, 0.4, 0]], atol=1e-12)
    np.testing.assert_allclose(found.probability.share_K, [1.6 / 3, 1.15 / 3, 0.5 / 3], atol=1e-12)
    np.testing.assert_allclose(found.probability.expected_K, [1.25 / 3, 1.25 / 3, 1 / 3], atol=1e-12)
    assert found.probability.n_K == (2, 2, 1)
    assert found.probability.distance == pytest.approx(0.35 / 3)
    np.testing.assert_allclose(found.picks.share_K, [(1 / 3 + 1) / 2, (2 / 3 + 0) / 2, 0], atol=1e-12)
    assert [m["accuracy"].value for m in found.by_order] == [1.0, 0.5, 0.5]
    assert found.spread("accuracy") == 0.5


def test_the_part_of_the_error_that_is_order_by_hand():
    """Always .9 on the first of two positions: accuracy .5 in each order, conf-ECE .4; the average is (.5, .5): 0.

    Were .6 right, as two standard deviations of luck allow, the two would err by .3 and .1: the part would be .2.
    """
    shown = [Scores.from_probs([[0.9, 0.1]] * 100, answer) for answer in ([0] * 50 + [1] * 50, [1] * 50 + [0] * 50)]
    found = order_sensitivity(shown)
    assert [m["conf_ece"].value for m in found.by_order] == pytest.approx([0.4, 0.4])
    assert found.averaged_numbers["conf_ece"].value == pytest.approx(0.0)
    assert found.order_part.value == pytest.approx(0.4)
    assert 0.18 < found.order_part.low <= 0.21
    assert 0.4 <= found.order_part.high < 0.401
    assert found.picks.share_K == (1.0, 0.0)
    assert found.picks.p_value == pytest.approx(1 / 1001)
    assert "of the conf-ECE of 0.4000, 0.4000 is order" in found.to_text()


def test_option_mass_is_averaged_as_a_probability():
    """Masses .8 and .4: the average has .6, not the mean of their logarithms."""
    shown = [Scores.from_logp([[0.0, -1.0]] * 2, [a, a], logmass=np.log([m, m])) for a, m in ((0, 0.8), (1, 0.4))]
    np.testing.assert_allclose(np.exp(order_sensitivity(shown, n_boot=50).averaged.logmass_N), 0.6)


# ---- models with a known bias -------------------------------------------------------------------------------------


def test_averaging_removes_a_known_position_bias(world):
    logit_NK, answer_N, _ = world
    found = order_sensitivity(orders(logit_NK, answer_N, 4, bias_K=np.array([1.5, 0.5, 0.0, -0.5])))
    shares = found.probability.share_K
    assert list(shares) == sorted(shares, reverse=True)
    assert found.probability.p_value == pytest.approx(1 / 1001)
    assert found.probability.expected_K == pytest.approx((0.25,) * 4)
    change = found.change
    assert change["accuracy"].verdict == change["conf_ece"].verdict == "b is better"
    assert found.order_part.low > 0
    truth = Scores.from_logp(logit_NK, answer_N)
    biased = shown_in_order(logit_NK, answer_N, 0, np.array([1.5, 0.5, 0.0, -0.5]))
    assert (found.averaged.prediction_N == truth.prediction_N).mean() > 0.9
    assert (biased.prediction_N == truth.prediction_N).mean() < 0.75


def test_a_model_without_position_bias_is_the_same_in_every_order(world):
    logit_NK, answer_N, p_NK = world
    found = order_sensitivity(orders(logit_NK, answer_N, 4))
    assert found.consistency.value == found.agreement.value == 1
    assert found.consistency.low > 0.99
    assert found.probability.distance == pytest.approx(0, abs=1e-9)
    assert found.probability.p_value == 1
    np.testing.assert_allclose(found.averaged.p_NK, p_NK, atol=1e-9)
    assert found.order_part.value == pytest.approx(0, abs=1e-9)
    assert found.spread("conf_ece") == pytest.approx(0, abs=1e-9)
    assert "undecided" in found.to_text()


def test_noise_that_prefers_no_position_is_called_a_preference_at_its_nominal_rate():
    """60 questions, noise that is new in each of three orders: p is .05 or less in about 1 of 20 draws."""
    below = 0
    for seed in range(300):
        p_SNK = np.random.default_rng(seed).dirichlet(np.ones(3), (3, 60))
        how = Sampling(n_boot=99, level=0.95, seed=seed, n_bins=10)
        below += position_effect(p_SNK, np.ones((3, 60), dtype=bool), np.full(60, 3), how).p_value <= 0.05
    assert 4 <= below <= 28  # P(Binomial(300, .05) outside) = .001


def test_mixed_numbers_of_options_and_an_incomplete_design(world):
    """With two orders of four options the expected share is what the options seen there deserve, not 1/4."""
    logit_NK, answer_N, p_NK = (x[:300].copy() for x in world)
    found = order_sensitivity(orders(logit_NK, answer_N, 2))
    assert not found.complete
    assert "not all orders" in found.to_text()
    first = [
        float(x) for x in next(line for line in found.to_text().splitlines() if line.startswith("         1")).split()
    ]
    expected = found.probability.expected_K[0], found.picks.expected_K[0]
    assert first[2::2] == pytest.approx(expected, abs=5e-4)
    assert found.probability.distance == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.probability.expected_K, (p_NK + np.roll(p_NK, 1, 1)).mean(0) / 2, atol=1e-9)
    logit_NK[::2, 2:] = NAN
    answer_N[::2] %= 2
    mixed = order_sensitivity(orders(logit_NK, answer_N, 4, bias_K=np.array([1.0, 0.0, 0.0, 0.0])), n_boot=100)
    assert mixed.complete
    assert mixed.probability.n_K == (300, 300, 150, 150)
    assert mixed.probability.expected_K == pytest.approx((0.375, 0.375, 0.25, 0.25))
    assert mixed.averaged.k_N.tolist() == [2, 4] * 150


def test_an_average_that_is_worse_is_called_so():
    """Each order says .9 and is right .9 of the time; their errors are independent, so where both agree (.82) the average
    still says .9 but is right .81/.82 = .988: conf-ECE .82 (.988 - .9) = .072 and more, from about 0.
    """
    rng = np.random.default_rng(0)
    answer = rng.integers(0, 2, 2000)
    shown = []
    for shift in range(2):
        right = rng.random(2000) < 0.9
        p_answer = np.where(right, 0.9, 0.1)
        at = (answer + shift) % 2
        p = np.where(np.arange(2) == at[:, None], p_answer[:, None], 1 - p_answer[:, None])
        shown.append(Scores.from_probs(p, at))
    found = order_sensitivity(shown)
    assert found.order_part.high < 0
    assert "averaging the orders adds" in found.to_text()


# ---- refusals and forms -------------------------------------------------------------------------------------------


def test_fewer_than_two_orders_continuations_and_wrong_orders_are_refused():
    one = Scores.from_probs([[0.9, 0.1]] * 4, [0, 1, 0, 1])
    with pytest.raises(ConfigError, match="two orders or more"):
        order_sensitivity([one])
    text = Scores.from_probs([[0.9, 0.1]] * 4, [0, 1, 0, 1], provenance={"prompt": {"reading": "continuation"}})
    with pytest.raises(ConfigError, match="never sees their order"):
        order_sensitivity([text, text])
    with pytest.raises(ScoresError, match="another text, answer"):
        order_sensitivity([one, one])
    swapped = Scores.from_probs([[0.9, 0.1]] * 4, [1, 0, 1, 0], provenance={"option_shift": 0})
    with pytest.raises(ScoresError, match="scores of shift 0"):
        order_sensitivity([one, swapped])


def test_json_has_every_number_and_no_nan(world):
    logit_NK, answer_N, _ = world
    shown = orders(logit_NK[:200], answer_N[:200], 4, bias_K=np.array([1.0, 0, 0, 0]))
    found = order_sensitivity(shown, n_boot=100)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["n_orders"] == len(plain["by_order"]) == 4
    assert [c["b"] for c in plain["contrasts"]] == ["order 2", "order 3", "order 4"]
    assert plain["order_part"]["value"] == pytest.approx(-found.change["conf_ece"].value)
    assert plain["averaged"]["conf_ece"]["floor_p95"] > 0
    assert order_sensitivity(shown, n_boot=100).to_json() == found.to_json()


def test_a_position_that_no_question_has_is_unknown_in_json():
    """Three columns, two options each: as where the third option stood in questions that were left out."""
    shown = [
        Scores.from_probs([[0.7, 0.3, NAN], [0.4, 0.6, NAN], [0.2, 0.5, 0.3]], answers).select([0, 1])
        for answers in ([0, 1, 2], [1, 0, 0])
    ]
    assert (shown[0].k, shown[0].k_N.tolist()) == (3, [2, 2])
    found = order_sensitivity(shown, n_boot=50)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for effect in (plain["probability"], plain["picks"]):
        assert effect["share_K"][2] is effect["expected_K"][2] is None
        assert effect["n_K"] == [2, 2, 0]
    assert plain["probability"]["share_K"][:2] == pytest.approx([0.55, 0.45])


# ---- formats ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_formats():
    """Accuracy .6 of 100; said: .62, .99, .62 the other way round for ten questions."""
    answer = [0] * 60 + [1] * 40
    other = [[0.38, 0.62]] * 10 + [[0.62, 0.38]] * 90
    return {
        "raw": Scores.from_probs([[0.62, 0.38]] * 100, answer),
        "chat": Scores.from_probs([[0.99, 0.01]] * 100, answer),
        "chat-prefix": Scores.from_probs(other, answer),
    }


def test_formats_by_hand(three_formats):
    """conf-ECE: |.6 - .62| = .02, |.6 - .99| = .39, |.5 - .62| = .12; raw and chat choose alike, the third 90 % so."""
    found = format_sensitivity(three_formats)
    assert {name: round(m["conf_ece"].value, 9) for name, m in found.numbers.items()} == {
        "raw": 0.02,
        "chat": 0.39,
        "chat-prefix": 0.12,
    }
    assert (found.best, found.worst) == ("raw", "chat")
    assert found.part.value == pytest.approx(0.37)
    assert [(c.a, c.b) for c in found.contrasts] == [("raw", "chat"), ("raw", "chat-prefix"), ("chat", "chat-prefix")]
    assert [same.value for same in found.agreement] == pytest.approx([1.0, 0.9, 0.9])
    assert "0.3700 of it is format" in found.to_text()


def test_a_temperature_each_shows_which_way_tells_right_from_wrong(world):
    """``scaled`` holds the log-odds of ``plain`` times 8: too sure as it is, the same after a temperature 8 times as
    large. ``blurred`` is calibrated from the start, and knows less: no temperature gives it what it lacks.
    """
    logit_NK, answer_N, p_NK = world
    plain = Scores.from_logp(logit_NK, answer_N)
    scaled = Scores.from_logp(8 * logit_NK, answer_N)
    blurred = Scores.from_probs(np.full_like(p_NK, 1 / p_NK.shape[1]), answer_N)
    plain, scaled, blurred = (replace(s, hashes=s.ids) for s in (plain, scaled, blurred))  # one question, one fold
    found = format_sensitivity({"blurred": blurred, "scaled": scaled, "plain": plain}, n_boot=200)
    assert found.best in {"plain", "blurred"}
    assert found.worst == "scaled"
    after = found.tempered
    assert after["scaled"].fitted.temperature_ == pytest.approx(8 * after["plain"].fitted.temperature_)
    assert after["scaled"].measured["nll"].value == pytest.approx(after["plain"].measured["nll"].value)
    assert found.sharpest in {"scaled", "plain"}
    difference, p = found.losses["blurred"]
    assert difference.low > 0.1
    assert p < 0.05
    assert "log loss of blurred against" in found.to_text()


def test_no_temperature_where_none_can_be_fitted(three_formats):
    """Impossible answers, or one question alone: the rest is said all the same."""
    impossible = Scores.from_probs([[0.0, 1.0]] * 60 + [[0.62, 0.38]] * 40, [0] * 60 + [1] * 40)
    found = format_sensitivity({"raw": three_formats["raw"], "off": impossible}, n_boot=100)
    assert list(found.tempered) == ["raw"]
    assert (found.sharpest, dict(found.losses)) == ("raw", {})
    json.dumps(found.to_json(), allow_nan=False)
    some = Scores.from_probs([[0.0, 1.0]] * 20 + [[0.6, 0.4]] * 80, [0] * 60 + [1] * 40)
    partly = format_sensitivity({"raw": three_formats["raw"], "some": some}, n_boot=100)
    assert "log loss of some against raw: infinite, since some answers have probability 0" in partly.to_text()
    json.dumps(partly.to_json(), allow_nan=False)
    one = Scores.from_probs([[0.6, 0.4]], [0])
    alone = format_sensitivity({"a": one}, n_boot=100)
    assert (dict(alone.tempered), alone.sharpest) == ({}, None)
    assert "After one temperature" not in alone.to_text()


def test_p_values_of_formats_are_corrected_for_the_three_pairs(three_formats):
    """Holm: the smallest of three p-values is multiplied by 3, and none falls below one that was smaller."""
    contrasts = format_sensitivity(three_formats).contrasts
    for name in ("accuracy", "mean_confidence", "conf_ece"):
        plain = [c.differences[name].p_value for c in contrasts]
        corrected = [c.p_corrected[name] for c in contrasts]
        assert min(corrected) == pytest.approx(min(1.0, 3 * min(plain)))
        assert [p >= q for p, q in zip(corrected, plain, strict=True)] == [True] * 3
        order = np.argsort(plain)
        assert sorted(corrected) == [corrected[i] for i in order]


def test_the_same_scores_under_two_names_differ_in_nothing(three_formats):
    found = format_sensitivity({"a": three_formats["raw"], "b": three_formats["raw"]}, n_boot=100)
    assert found.part.value == 0
    assert "not distinguishable from no difference" in found.to_text()


def test_the_worst_format_may_come_first(three_formats):
    found = format_sensitivity({"chat": three_formats["chat"], "raw": three_formats["raw"]}, n_boot=100)
    assert (found.best, found.worst) == ("raw", "chat")
    part = found.part
    assert part.value == pytest.approx(0.37)
    assert part.low <= part.value <= part.high


def test_one_format_and_formats_left_out_are_said(three_formats):
    found = format_sensitivity({"raw": three_formats["raw"]}, left_out={"chat": "the tokenizer has no chat template"})
    assert found.part is None
    assert "one format only (raw)" in found.to_text()
    assert "left out: chat: the tokenizer has no chat template" in found.to_text()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["left_out"]["chat"].endswith("no chat template")
    with pytest.raises(ConfigError, match="no scores"):
        format_sensitivity({})


def test_formats_of_other_questions_are_refused(three_formats):
    with pytest.raises(ScoresError, match="same questions"):
        format_sensitivity({"raw": three_formats["raw"], "chat": Scores.from_probs([[0.5, 0.5]] * 3, [0, 1, 0])})


@pytest.mark.parametrize("n_orders", [2, 3])
def test_choices_that_always_or_never_agree_have_no_interval_of_width_0(n_orders):
    logit = np.log([[0.8, 0.1, 0.1]] * 24)
    orders = [Scores.from_logp(logit, [(0 + shift) % 3] * 24) for shift in range(n_orders)]
    found = order_sensitivity(orders, n_boot=100)  # always the first, whatever is there
    assert (found.consistency.value, found.agreement.value) == (0, 0)
    assert found.agreement == found.consistency
    assert found.agreement.high == pytest.approx(1.96**2 / (24 + 1.96**2), rel=1e-3)  # Wilson's for 0 of 24
