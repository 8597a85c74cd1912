"""Worlds whose true option probabilities are known."""

import numpy as np
import pytest

from calibrant.scores import Scores


def softmax(logit_NK):
    p = np.exp(logit_NK - np.nanmax(logit_NK, axis=1, keepdims=True))
    return p / np.nansum(p, axis=1, keepdims=True)


def draw_answers(p_NK, rng):
    """One answer a question from its probabilities (nan where it has no such option)."""
    cumulative = np.nancumsum(p_NK, axis=1)
    return (rng.random((len(p_NK), 1)) * cumulative[:, -1:] > cumulative).sum(1)


@pytest.fixture
def draw():
    """``draw(n, power=s)``: true logits ~ 1.5 N(0, 1), answers drawn from them, and a model that raises them to s."""

    def make(n, *, k=4, power=1.0, noise=0.0, mixed=False, seed=0, **more):
        rng = np.random.default_rng(seed)
        logit = rng.normal(size=(n, k)) * 1.5
        if mixed:
            logit[np.arange(k) >= rng.integers(2, k + 1, n)[:, None]] = np.nan
        answer = draw_answers(softmax(logit), rng)
        return Scores.from_logp(power * logit + noise * rng.normal(size=(n, k)), answer, **more)

    return make


@pytest.fixture
def known_world():
    """``known_world(n, known=m)``: the target π* of each question is known, and a model that has learnt answers by heart.

    π* ~ Dirichlet(1, 1, 1, 1) and the answer is drawn from π*. The model's top option is the answer on a share m of the
    questions (chance told it), the top option of π* on the rest. Its confidence is the largest probability of π*, or a
    constant. In closed form, with E max π* = (1 + 1/2 + 1/3 + 1/4)/4 = 25/48 and E sum π*^2 = 2/5:

        A  = m + (1 - m) 25/48,   A* = (2/5) m + (1 - m) 25/48,   A - A* = (3/5) m.

    A negative ``known`` gives a model that *avoids* the answer on that share: A < A*.
    """

    def make(n, *, known=0.0, confidence=None, seed=0, **more):
        rng = np.random.default_rng([seed, 9])
        star = rng.dirichlet(np.ones(4), n)
        answer = draw_answers(star, rng)
        chosen, at = star.argmax(1), np.arange(n)
        moved = rng.random(n) < abs(known)
        if known >= 0:
            chosen = np.where(moved, answer, chosen)
        else:
            others = star.copy()
            others[at, answer] = -1
            chosen = np.where(moved, others.argmax(1), chosen)
        p = star.copy()
        p[at, chosen], p[at, star.argmax(1)] = star.max(1), star[at, chosen]
        if confidence is not None:
            p = np.full((n, 4), (1 - confidence) / 3)
            p[at, chosen] = confidence
        return Scores.from_probs(p, answer, **more), Scores.from_probs(star, answer)

    return make
