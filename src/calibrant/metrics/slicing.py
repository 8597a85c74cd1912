"""``slices``: calibration in parts of the questions, corrected for looking. Shape suffixes: N questions, S slices, R
redraws.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.binned import bin_gaps, equal_width_bins
from calibrant.metrics.bins import bin_index, check_settings
from calibrant.metrics.measurement import DISTINGUISHABLE, INDISTINGUISHABLE, Estimate, floor_verdict, only_scores
from calibrant.metrics.panel import noisy_cells
from calibrant.metrics.planning import holm
from calibrant.metrics.profile import compress, exact_profile, redraw_labels, resample
from calibrant.metrics.uncertainty import error_interval, percentile_interval, possible, wilson_interval
from calibrant.scores import Scores

QUANTILES = 4
MAX_VALUES = 10
GROUPS = 128
BUILT_IN = ("subject", "answer", "prediction", "options")


@dataclass(frozen=True)
class Slice:
    """One part of the questions.

    Parameters
    ----------
    name : its value, or its range of values.
    n : its questions.
    accuracy, mean_confidence, signed_gap, conf_ece : with intervals; conf_ece with the floor of this slice.
    p_value : chance that a calibrated model scores a conf-ECE this large on this slice. In slices by the answer the slices
        are drawn anew with the labels, and ``signed_gap`` has no interval: see :func:`slices`.
    p_holm : the same, corrected for all slices looked at.
    verdict : ``"distinguishable from calibrated"`` where ``p_holm <= 1 - level``.
    """

    name: str
    n: int
    accuracy: Estimate
    mean_confidence: float
    signed_gap: Estimate
    conf_ece: Estimate
    p_value: float
    p_holm: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = ("name", "n", "mean_confidence", "p_value", "p_holm", "verdict")
        out: dict[str, Any] = {key: getattr(self, key) for key in plain}
        return out | {key: getattr(self, key).to_json() for key in ("accuracy", "signed_gap", "conf_ece")}


def slices(
    scores: Scores,
    by: str | Sequence[Any] = "subject",
    *,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """The questions in parts, worst first: by corrected p-value, then by error above its floor. Every question is in
    one part.

    **By the answer.** A model that is calibrated over all questions is not so among those whose answer is A: there it is
    right more often than it says where it leans to A, and less often where it does not. So the null hypothesis redraws all
    answers, ``y ~ Categorical(p)``, and cuts the questions by what was drawn. ``conf_ece`` is to be read against that floor
    alone; its interval and that of ``signed_gap`` are left out, since neither is an error of the model. For a preference for
    positions use ``"prediction"``.

    Parameters
    ----------
    scores
        At least one question.
    by
        ``"subject"``, ``"answer"`` (position of the right option), ``"prediction"`` (position of the chosen one),
        ``"options"`` (their number), the name of a column such as a question's length, or one value a question. Numbers
        with more than ten different values are cut into four parts of equal mass. A missing value makes a part of its
        own, ``"(none)"``.
    n_bins, n_boot, level, seed
        As for ``measure``. Labels are redrawn ``max(n_boot, 20 S / (1 - level))`` times, so that the correction can
        bite.

    Source: ours.

    >>> p = [[0.7, 0.3]] * 400
    >>> answer = ([0] * 9 + [1]) * 20 + ([0] * 5 + [1] * 5) * 20  # accuracy .9 in one subject, .5 in the other: .7 over all
    >>> s = Scores.from_probs(p, answer, subjects=["law"] * 200 + ["art"] * 200)
    >>> [(part.name, round(part.signed_gap.value, 2), part.p_holm < 0.01) for part in slices(s)]
    [('art', 0.2, True), ('law', -0.2, True)]
    """
    only_scores("slices", scores)
    check_settings(n_bins, n_boot, level, seed)
    labels = _labels(scores, by)
    names = sorted(set(labels))
    draws = max(n_boot, round(20 * len(names) / (1 - level)))
    at = {name: np.flatnonzero(np.array(labels) == name) for name in names}
    floors = _answer_floors(scores, n_bins, draws, seed) if _by_answer(scores, by) else {}
    parts = [
        _slice(name, scores.select(at[name]), n_bins, n_boot, draws, level, seed, floors.get(name)) for name in names
    ]
    corrected = holm([part.p_value for part in parts])
    done = [
        replace(part, p_holm=p, verdict=DISTINGUISHABLE if p <= 1 - level else INDISTINGUISHABLE)
        for part, p in zip(parts, corrected, strict=True)
    ]
    return tuple(sorted(done, key=lambda s: (s.p_holm, (s.conf_ece.floor_mean or 0.0) - s.conf_ece.value, s.name)))


def _by_answer(scores: Scores, by: str | Sequence[Any]) -> bool:
    """Whether the slices are those of the right option's position, and not of a column of that name."""
    return isinstance(by, str) and by == "answer" and by not in scores.columns


def _answer_floors(scores: Scores, n_bins: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """conf-ECE of the questions with each answer under redrawn answers, by the answer's position, (R,) each."""
    rng = np.random.default_rng([seed, 6])
    n, k = scores.n, scores.k
    c_N, predicted_N = np.minimum(scores.confidence_N, 1.0), scores.prediction_N
    bin_N = bin_index(c_N, n_bins)
    upto_NK = np.where(np.arange(k) >= scores.k_N[:, None] - 1, np.inf, np.cumsum(scores.p_NK, axis=1))
    floor_KR = np.zeros((k, draws))
    for r in range(draws):
        y_N = (rng.random(n)[:, None] >= upto_NK).sum(1)
        residual_N = (y_N == predicted_N) - c_N
        cell_KM = np.bincount(y_N * n_bins + bin_N, weights=residual_N, minlength=k * n_bins).reshape(k, n_bins)
        floor_KR[:, r] = np.abs(cell_KM).sum(1) / np.maximum(np.bincount(y_N, minlength=k), 1)
    return {str(j): floor_KR[j] for j in range(k)}


def _slice(
    name: str,
    part: Scores,
    n_bins: int,
    n_boot: int,
    draws: int,
    level: float,
    seed: int,
    floor_R: np.ndarray | None,
) -> Slice:
    """One slice, against a calibrated twin of its questions or the floor given."""
    profile = compress(exact_profile(part.confidence_N, part.correct_N), n_bins, GROUPS)
    bin_G = equal_width_bins(profile, n_bins)
    share_M, gap_M = bin_gaps(profile, bin_G, n_bins)
    value, gap = float((share_M * np.abs(gap_M)).sum()), -float((share_M * gap_M).sum())
    low, high, gap_low, gap_high = (np.nan,) * 4
    if floor_R is None:
        share_RM, gap_RM = bin_gaps(redraw_labels(profile, draws, seed), bin_G, n_bins)
        floor_R = (share_RM * np.abs(gap_RM)).sum(-1)
        if part.n > 1:
            cell_M, noise_BM = noisy_cells(profile, resample(profile, n_boot, seed), bin_G, n_bins, seed)
            low, high = possible(error_interval(cell_M, noise_BM, level), 0, 1)
            gap_low, gap_high = possible(percentile_interval(gap - noise_BM.sum(1), level), -1, 1)
    p_value = float((1 + (floor_R >= value - 1e-12).sum()) / (1 + draws))
    accuracy = float(part.correct_N.mean())
    p95 = float(np.quantile(floor_R, 0.95))
    verdict = floor_verdict(value, p95)
    return Slice(
        name=name,
        n=part.n,
        accuracy=Estimate(accuracy, *wilson_interval(accuracy, part.n, level), part.n),
        mean_confidence=float(part.confidence_N.mean()),
        signed_gap=Estimate(gap, gap_low, gap_high, part.n),
        conf_ece=Estimate(value, low, high, part.n, float(floor_R.mean()), p95, verdict),
        p_value=p_value,
        p_holm=p_value,
        verdict=verdict,
    )


def _labels(scores: Scores, by: str | Sequence[Any]) -> list[str]:
    values: Sequence[Any]
    if not isinstance(by, str):
        values = list(by)
    elif by in scores.columns and by != "subject":  # which is one thing in slices, clusters and groups
        values = scores.columns[by]
    elif by in BUILT_IN:
        built = {"subject": scores.subjects, "answer": scores.answer_N, "prediction": scores.prediction_N}
        values = list(built.get(by, scores.k_N))
    else:
        raise ConfigError(
            asked=f"slices by {by!r}",
            found=f"columns: {', '.join(sorted(scores.columns)) or 'none'}",
            todo=f"give one of {', '.join(BUILT_IN)}, one of those columns, or one value a question",
        )
    if len(values) != scores.n:
        raise ScoresError(
            asked=f"one value for each of {scores.n} questions",
            found=f"{len(values)} values",
            todo="give one a question",
        )
    values = [v if isinstance(v, Hashable) else json.dumps(v, default=str) for v in values]
    values = [None if isinstance(v, numbers.Real) and v != v else v for v in values]
    known = [v for v in values if v is not None]
    if len(set(known)) > MAX_VALUES and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in known):
        return _ranges(values)
    return ["(none)" if v is None else str(v) for v in values]


def _ranges(values: Sequence[Any]) -> list[str]:
    number_N = np.array([np.nan if v is None else float(v) for v in values])
    known = number_N[~np.isnan(number_N)]
    edges = np.unique(np.quantile(known, np.arange(1, QUANTILES) / QUANTILES))
    part_N = np.searchsorted(edges, number_N, side="left")
    inside = {int(part): number_N[part_N == part] for part in np.unique(part_N[~np.isnan(number_N)])}
    ends = {part: (np.nanmin(values), np.nanmax(values)) for part, values in inside.items()}
    for digits in (6, 9, 12, 17):  # as many as tell the parts apart
        names = {part: f"{low:.{digits}g} to {high:.{digits}g}" for part, (low, high) in ends.items()}
        if len(set(names.values())) == len(names):
            break
    return ["(none)" if np.isnan(x) else names[int(p)] for x, p in zip(number_N, part_N, strict=True)]
