"""Draws docs/figures/before-after.svg: a model of known overconfidence beside its calibrated twin."""

from pathlib import Path

import numpy as np

from calibrant import Scores
from calibrant.reporting import before_after
from calibrant.reporting.canvas import figure_of, svg_text

N, SHARPENING = 800, 2.0


def worlds() -> tuple[Scores, Scores]:
    """Answers drawn from a softmax; one model says the softmax of twice the logits, the other the softmax itself."""
    rng = np.random.default_rng(0)
    logit_NK = rng.normal(size=(N, 4)) * 1.3
    p_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(1, keepdims=True)
    answer_N = (rng.random((N, 1)) > p_NK.cumsum(1)[:, :-1]).sum(1)
    return Scores.from_logp(SHARPENING * logit_NK, answer_N), Scores.from_logp(logit_NK, answer_N)


if __name__ == "__main__":
    Path(__file__).with_name("before-after.svg").write_text(
        svg_text(figure_of(before_after(*worlds()))), encoding="utf-8"
    )
