"""What few wrong (or right) answers hide from resampling. Shape suffixes: S pairs of runs, N questions, K options, B draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from calibrant.metrics.proportions import drawn_n
from calibrant.metrics.uncertainty import wilson_interval
from calibrant.scores import Scores

LOSSES = ("nll", "brier")
FEW = 10
"""With fewer wrong answers than this, or fewer right ones, a ranking's draws are too alike (``benchmarks/rare_errors.py``)."""


def few_of_a_kind(correct_N: np.ndarray) -> bool:
    """Whether right answers or wrong ones are fewer than :data:`FEW`."""
    right = int(correct_N.sum())
    return min(right, len(correct_N) - right) < FEW


def loss_of_each(scores: Scores, name: str) -> np.ndarray:
    """The loss of a question if option k were the answer, (N, K): ``-log p_k`` or ``sum_j p_j^2 - 2 p_k + 1``.

    >>> loss_of_each(Scores.from_probs([[0.75, 0.25]], [0]), "brier").tolist()
    [[0.125, 1.125]]
    """
    if name == "nll":
        return -scores.logp_NK
    p_NK = np.exp(scores.logp_NK)
    return np.asarray((p_NK**2).sum(1, keepdims=True) - 2 * p_NK + 1)


def error_gap(loss_NK: np.ndarray, scores: Scores, among_N: np.ndarray | None = None) -> float:
    """How much a wrong answer costs beyond a right one, in units of the loss, on all questions or among some.

    ``(sum over wrong answers of l_i(y_i) - l_i(pred_i) + G) / (W + 1)`` with W wrong answers and one more as the model
    itself expects it, ``G = sum_ik p_ik (l_ik - l_i,pred) / sum_ik p_ik`` over options k other than the predicted one. Options
    without a finite loss are left out. Source: ours.

    >>> one = Scores.from_probs([[0.9, 0.1]] * 10, [0] * 10)  # all right: what the model itself expects, ln 9
    >>> round(error_gap(loss_of_each(one, "nll"), one), 3)
    2.197
    """
    return float(_gaps(loss_NK, scores, among_N).mean())


def gap_arm(loss_NK: np.ndarray, scores: Scores, level: float = 0.95, among_N: np.ndarray | None = None) -> float:
    """How far from :func:`error_gap` the mean cost of a wrong answer may lie: ``t s / sqrt(W + 1)``, s the standard deviation
    of the W costs seen and of the one more, t Student's with ``W + 1`` degrees of freedom; 0 with no wrong answer.
    Source: ours.

    >>> two = Scores.from_probs([[0.9, 0.1]] * 9 + [[0.6, 0.4]], [1] + [0] * 8 + [1])  # ln 9, ln 1.5, and one more as expected
    >>> round(error_gap(loss_of_each(two, "nll"), two), 3), round(gap_arm(loss_of_each(two, "nll"), two), 3)
    (1.416, 1.686)
    """
    gap_W = _gaps(loss_NK, scores, among_N)
    if len(gap_W) == 1:
        return 0.0
    return float(stdtrit(len(gap_W), (1 + level) / 2) * gap_W.std(ddof=1) / np.sqrt(len(gap_W)))


def _gaps(loss_NK: np.ndarray, scores: Scores, among_N: np.ndarray | None = None) -> np.ndarray:
    """What each wrong answer cost beyond the predicted option, and last what the model itself expects of one, (W + 1,)."""
    at_N = np.arange(scores.n)
    predicted_N = np.argmax(scores.logp_NK, axis=1)
    with np.errstate(invalid="ignore"):
        gap_NK = loss_NK - loss_NK[at_N, predicted_N][:, None]
    p_NK = np.exp(scores.logp_NK)
    p_NK[at_N, predicted_N] = 0.0
    p_NK[~np.isfinite(gap_NK)] = 0.0
    among_N = np.ones(scores.n, dtype=bool) if among_N is None else among_N
    p_NK[~among_N] = 0.0
    expected = float((p_NK * np.where(p_NK > 0, gap_NK, 0.0)).sum()) / max(float(p_NK.sum()), 1e-300)
    seen_N = gap_NK[at_N, scores.answer_N][among_N & ~scores.correct_N]
    return np.append(seen_N[np.isfinite(seen_N)], expected)


def reaching(
    ends: tuple[float, float],
    value: float,
    gap: float,
    share: float,
    share_ends: tuple[float, float],
    arm: float = 0.0,
) -> tuple[float, float]:
    """The interval of a mean loss, as wide at least as the share of right answers makes it: where nearly all are right,
    resampling sees no other wrong answers than the few that there are, and none if there are none.

    Joined with ``value + gap (share - end)`` at both ends of the share's own interval, Wilson's, which holds there. Few wrong
    answers do not tell what one costs either, and losses are skewed to the right: the upper end is joined with ``value +
    sqrt((gap (share - low))^2 + ((1 - low) arm)^2)``, the arm that of :func:`gap_arm`. Where both kinds of answers are many,
    the interval is about as wide as that already, for it has the losses' own spread too. Source: ours, the root of two squares
    after Zou & Donner (Statistics in Medicine 2008); simulated in ``benchmarks/rare_errors.py`` and ``known_models.py``.

    >>> [round(x, 3) for x in reaching((0.105, 0.105), 0.105, 2.197, 1.0, (0.722, 1.0))]
    [0.105, 0.716]
    """
    reach = [value + gap * (share - end) for end in share_ends]
    high = value + float(np.hypot(gap * (share - share_ends[0]), (1 - share_ends[0]) * arm))
    return min(ends[0], *reach), max(ends[1], *reach, high)


def change_reaching(
    ends: tuple[float, float],
    value: float,
    name: str,
    pairs: Sequence[tuple[Scores, Scores]],
    drawn_B: np.ndarray,
    n_clusters: int | None,
    level: float = 0.95,
) -> tuple[float, float]:
    """:func:`reaching` for the change ``b - a`` of a mean loss, over pairs of runs of a and b.

    Only questions for which the two predict the same count, ``gap (n_same / n) (accuracy - end)`` there: they are right and
    wrong together, so few wrong answers tell what both lose. Where predictions differ, the changed answers themselves are
    what is resampled. The gap is expected by a's probabilities and by b's, and both must be reached. The arm is that of the
    lower end of accuracy, to the side to which the gap moves it: losses change most where answers are wrong.

    Parameters
    ----------
    drawn_B, n_clusters : draws of the change, from which clustered questions are told to be worth so many independent ones.
    """
    n, n_effective = pairs[0][0].n, float(pairs[0][0].n)
    if n_clusters is not None:
        at_N = np.arange(n)
        change_N = np.mean([_change(a, b, name)[at_N, a.answer_N] for a, b in pairs], axis=0)
        n_effective = drawn_n(float(change_N.var()), drawn_B, float(n), float(n_clusters))
    for side in (0, 1):
        shifts = [_shift(a, b, name, (a, b)[side], n_effective, level) for a, b in pairs]
        reach = value + np.mean(shifts, axis=0)
        ends = min(ends[0], float(reach.min())), max(ends[1], float(reach.max()))
    return ends


def _change(a: Scores, b: Scores, name: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(loss_of_each(b, name) - loss_of_each(a, name))


def _shift(a: Scores, b: Scores, name: str, by: Scores, n_effective: float, level: float) -> np.ndarray:
    """How far the change moves if accuracy is at either end of its interval, where both predict the same; (2,)."""
    same_N = a.prediction_N == b.prediction_N
    part = float(same_N.mean())
    if part == 0:
        return np.zeros(2)
    share, change_NK = float(a.correct_N[same_N].mean()), _change(a, b, name)
    low, high = wilson_interval(share, n_effective * part, level)
    gap = error_gap(change_NK, by, same_N)
    arm = gap_arm(change_NK, by, level, same_N) * np.sqrt(a.n / n_effective)
    far = np.copysign(np.hypot(gap * (share - low), (1 - low) * arm), gap)
    return part * np.array([far, gap * (share - high)])
