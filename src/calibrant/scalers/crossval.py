"""Each question rescaled by what other questions taught; and a strength chosen so. Shape suffix: N questions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from calibrant.errors import ConfigError, ScoresError, only_numbers
from calibrant.metrics.comparison import align
from calibrant.metrics.measurement import only_scores
from calibrant.scalers.base import Scaler, question_keys
from calibrant.scores import Scores

INNER_FOLDS = 5
OUTER, INNER = 5, 6
"""Streams of the seed: inner folds are drawn apart from outer ones."""


def cross_validated(
    scaler: Scaler, scores: Scores, *, reference: Scores | None = None, folds: int = 5, seed: int = 0
) -> Scores:
    """``scores`` in which each question was rescaled by a scaler fitted on the other folds only; same order.

    The scaler that is handed in stays unfitted. A question that occurs twice stays in one fold. A scaler that chooses a
    strength does so anew within each fit set: the cross-validation is nested. ``reference`` (other scores of the same
    questions, in any order) is split in the same way.

    Raises
    ------
    ConfigError : fewer than two folds; a reference that is missing or not used.
    ScoresError : fewer than two different questions; a reference of other questions.

    >>> from calibrant.scalers import Temperature
    >>> p = [[0.9, 0.1], [0.8, 0.2]] * 50
    >>> scores = Scores.from_probs(p, ([0] * 7 + [1] * 3) * 10)
    >>> after = cross_validated(Temperature(), scores)
    >>> after.ids == scores.ids, bool(after.confidence_N.mean() < scores.confidence_N.mean())
    (True, True)
    """
    only_numbers(whole=True, folds=folds)
    if folds < 2:
        raise ConfigError(asked="cross-validation", found=f"{folds} fold(s)", todo="give 2 folds or more, usually 5")
    only_scores("cross-validation", scores)
    fold_N = fold_of(scores, folds, seed, OUTER)
    if fold_N is None:
        raise ScoresError(
            asked="cross-validation", found="one question only", todo="give two different questions or more"
        )
    if reference is not None:
        reference = align(scores, reference)[0]
    logp_NK = np.empty_like(scores.logp_NK)
    parts = []
    for fold in range(int(fold_N.max()) + 1):
        fit_N = fold_N != fold
        shown = None if reference is None else reference.select(fit_N)
        fitted = copy.deepcopy(scaler).fit(scores.select(fit_N), reference=shown)
        logp_NK[~fit_N] = fitted.apply(scores.select(~fit_N)).logp_NK
        parts.append(fitted.described())
    named = {"cross_validated": True, "folds": parts, "seed": seed}
    if (earlier := scores.provenance.get("scaler")) is not None:
        named["after"] = earlier
    return replace(scores, logp_NK=logp_NK, provenance={**scores.provenance, "scaler": named})


def chosen_by_cv(
    strengths: Sequence[float], scores: Scores, held_out: Callable[[np.ndarray, float], np.ndarray]
) -> tuple[float, list[float]]:
    """The strength of a penalty whose held-out log loss is least, by 5 folds within the fit questions, and all losses.

    Parameters
    ----------
    strengths : candidates, ascending; of equal ones the strongest wins.
    scores : the fit questions; the folds depend on them alone.
    held_out : ``(fit_N, strength) -> losses``, one for each question outside the mask ``fit_N``, in nats.

    With a single candidate, or one question only, the strongest is returned with no losses. The seed is fixed: the same
    fit questions give the same scaler.
    """
    fold_N = None if len(strengths) == 1 else fold_of(scores, INNER_FOLDS, 0, INNER)
    if fold_N is None:
        return float(strengths[-1]), []
    folds = range(int(fold_N.max()) + 1)
    losses = [
        float(np.concatenate([held_out(fold_N != fold, strength) for fold in folds]).mean()) for strength in strengths
    ]
    best = max(i for i, loss in enumerate(losses) if loss <= min(losses))
    return float(strengths[best]), losses


def fold_of(scores: Scores, folds: int, seed: int, stream: int) -> np.ndarray | None:
    """Fold of each question, int (N,), copies together; ``None`` where there is one question only."""
    _, question_N = np.unique(np.array(question_keys(scores)), return_inverse=True)
    different = int(question_N.max()) + 1
    if different < 2:
        return None
    order = np.random.default_rng([seed, stream]).permutation(different)
    return np.asarray(order[question_N] % min(folds, different))
