"""Preference pairs with a known human ratio, and what a model made of them. Used by ``alignment.py``; no model here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from scipy.special import expit, logit

from calibrant import Question, QuestionSet, Scores
from calibrant.diagnosis import expected_sharpening, preference_drift
from calibrant.metrics.comparison import align


@dataclass(frozen=True)
class Pair:
    """One vote: the question, the options that were put to the annotator, and which was preferred."""

    question: Question
    wrong: int
    prefers_right: bool

    @property
    def chosen(self) -> int:
        return self.question.answer if self.prefers_right else self.wrong

    @property
    def rejected(self) -> int:
        return self.wrong if self.prefers_right else self.question.answer


def pairs_of(questions: QuestionSet, n: int, p: float, seed: int) -> list[Pair]:
    """``n`` votes: every (question, wrong option) once before any comes twice, in an order drawn with the seed."""
    draw_of = Random(f"votes {seed}")
    every = [(q, k) for q in questions for k in range(len(q.choices)) if k != q.answer]
    order = [pair for _ in range(-(-n // len(every))) for pair in draw_of.sample(every, len(every))]
    return [Pair(q, k, draw_of.random() < p) for q, k in order[:n]]


def preferences(after: Scores, before: Scores, pairs: Sequence[Pair], p: float, beta: float | None) -> dict[str, Any]:
    """What became of pairs: drift of both log-probabilities, and the share that the right option has of the two.

    ``expected`` is the optimum of KL-regularised alignment for every pair, ``sigmoid(log-odds before + logit(p) / β)``, had
    the model known the right option; ``expected_from_even`` is the same from even odds (``expected_sharpening``).
    """
    before = align(after, before)[0]
    joint = [s.logp_NK + s.logmass_N[:, None] for s in (after, before)]
    row = {name: i for i, name in enumerate(after.ids)}
    at = np.array([row[pair.question.id] for pair in pairs])
    pick = {
        name: [joint_NK[at, [getattr(pair, name) for pair in pairs]] for joint_NK in joint]
        for name in ("chosen", "rejected", "wrong")
    }
    right = [joint_NK[at, [pair.question.answer for pair in pairs]] for joint_NK in joint]
    odds, odds_before = (r - w for r, w in zip(right, pick["wrong"], strict=True))
    out = {
        "drift": preference_drift(*pick["chosen"], *pick["rejected"]).to_json(),
        "share_of_right": float(expit(odds).mean()),
        "share_of_right_before": float(expit(odds_before).mean()),
        "human_share": p,
        "push_to_right": float((odds - odds_before).mean()),
    }
    if beta is not None:
        push = float(logit(p)) / beta
        out["expected"] = float(expit(odds_before + push).mean())
        out["expected_from_even"] = float(expected_sharpening(p, beta))
        out["expected_push"] = push
    return out
