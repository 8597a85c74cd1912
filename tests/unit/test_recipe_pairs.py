"""The preference pairs of ``recipes/alignment.py``: known ratio, every pair once before any twice, and worked numbers."""

import importlib.util
import sys
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from calibrant import Scores

FILE = Path(__file__).resolve().parents[2] / "recipes" / "alignment_pairs.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("alignment_pairs", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_pair_comes_once_before_any_comes_twice(recipe, make_questions):
    questions = make_questions("q", 10, ks=(3,))
    pairs = recipe.pairs_of(questions, 30, 0.7, 0)
    once = {(pair.question.id, pair.wrong) for pair in pairs[:20]}
    assert len(pairs) == 30
    assert len(once) == 20
    assert all(pair.wrong != pair.question.answer for pair in pairs)
    assert pairs == recipe.pairs_of(questions, 30, 0.7, 0)
    assert pairs != recipe.pairs_of(questions, 30, 0.7, 1)


def test_annotators_prefer_the_right_option_with_the_given_probability(recipe, make_questions):
    pairs = recipe.pairs_of(make_questions("q", 12), 4000, 0.7, 3)
    share = np.mean([pair.prefers_right for pair in pairs])
    assert abs(share - 0.7) < 4 * (0.7 * 0.3 / 4000) ** 0.5
    for pair in pairs[:50]:
        assert {pair.chosen, pair.rejected} == {pair.question.answer, pair.wrong}
        assert (pair.chosen == pair.question.answer) == pair.prefers_right


def test_drift_and_expectation_of_one_pair_by_hand(recipe, make_questions):
    """Two options: .5 to .5 before and .9 to .1 after, total mass .2 before and .1 after; the wrong one was preferred."""
    question, other = make_questions("q", 2, ks=(2,))
    right, wrong = question.answer, 1 - question.answer

    def scores(share, mass):
        p_NK = np.empty((2, 2))
        p_NK[:, right], p_NK[:, wrong] = share, 1 - share
        return Scores(
            logp_NK=np.log(p_NK),
            answer_N=np.array([right, other.answer]),
            k_N=np.array([2, 2]),
            logmass_N=np.log([mass, mass]),
            ids=(question.id, other.id),
            subjects=(None, None),
            hashes=(question.content_hash, other.content_hash),
            columns={},
        )

    pair = recipe.Pair(question, wrong, prefers_right=False)
    found = recipe.preferences(scores(0.9, 0.1), scores(0.5, 0.2), [pair, pair], 0.7, 0.5)
    assert found["drift"]["chosen"]["value"] == pytest.approx(log(0.01 / 0.1))
    assert found["drift"]["rejected"]["value"] == pytest.approx(log(0.09 / 0.1))
    assert found["share_of_right"] == pytest.approx(0.9)
    assert found["share_of_right_before"] == pytest.approx(0.5)
    assert found["push_to_right"] == pytest.approx(log(9))
    assert found["expected_push"] == pytest.approx(2 * log(7 / 3))
    assert found["expected"] == pytest.approx(1 / (1 + exp(-2 * log(7 / 3))))
    assert found["expected"] == pytest.approx(found["expected_from_even"])
