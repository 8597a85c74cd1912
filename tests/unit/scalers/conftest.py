"""Answers drawn from a known law, and scores that distort it."""

import numpy as np
import pytest

from calibrant.scores import Scores


def draw_scores(n, *, power=1.0, k=4, mixed=False, seed=0, name="q", distort=None, **more):
    """Answers from softmax(z); the model says softmax(power z), or softmax(distort(log softmax z)). Ids are ``name-i``."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 1.5
    if mixed:
        z[np.arange(k) >= rng.integers(2, k + 1, n)[:, None]] = np.nan
    logp = z - np.log(np.nansum(np.exp(z), axis=1, keepdims=True))
    cumulative = np.nancumsum(np.exp(logp), axis=1)
    answer = (rng.random((n, 1)) * cumulative[:, -1:] > cumulative).sum(1)
    said = power * logp if distort is None else distort(logp)
    return Scores.from_logp(said, answer, ids=[f"{name}-{i}" for i in range(n)], **more)


@pytest.fixture(scope="session")
def draw():
    return draw_scores
