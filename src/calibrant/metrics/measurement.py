"""``measure``: the numbers of one ``Scores``, each with its uncertainty. Shape suffixes: B draws, C columns, G
clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.errors import ConfigError, only
from calibrant.metrics.bins import check_settings
from calibrant.metrics.proportions import drawn_n
from calibrant.metrics.rare import LOSSES, error_gap, gap_arm, loss_of_each, reaching
from calibrant.metrics.sums import QuestionSums, bootstrap_sums, cluster_codes
from calibrant.metrics.text import estimate_lines, in_clusters, labelled, with_interval
from calibrant.metrics.uncertainty import (
    cell_noise,
    cluster_factor,
    error_interval,
    noise_floor,
    percentile_interval,
    possible,
    wilson_interval,
)
from calibrant.questions import ONE_PLACE
from calibrant.scores import Scores

DISTINGUISHABLE = "distinguishable from calibrated"
INDISTINGUISHABLE = "not distinguishable from calibrated"
LOW_MASS = 0.5
"""Below this mean option mass a model that reads letters hardly wanted to answer with one."""
MOST = {"mean_confidence": 1.0, "nll": math.inf, "brier": 2.0, "option_mass": 1.0}
"""The largest that each mean can be; the least is 0."""
ROUNDING = 1e-9
"""An error that is above its floor by no more than this is at its floor: both are sums of many rounded numbers."""


def beyond_floor(value: float, floor_p95: float) -> bool:
    """Whether an error is above what chance alone gives a calibrated model, by more than rounding.

    >>> beyond_floor(0.1 + 0.2, 0.3), beyond_floor(0.31, 0.3)
    (False, True)
    """
    return value > floor_p95 + ROUNDING


def floor_verdict(value: float, floor_p95: float) -> str:
    """:func:`beyond_floor` in words."""
    return DISTINGUISHABLE if beyond_floor(value, floor_p95) else INDISTINGUISHABLE


@dataclass(frozen=True)
class Estimate:
    """One number with its interval.

    Parameters
    ----------
    value : the statistic on these questions; ``inf`` only for an nll with an answer of probability 0.
    low, high : ends of the interval; ``nan`` where no interval exists (one question, an infinite value).
    n : questions behind it.
    floor_mean, floor_p95 : mean and 95th percentile of the same statistic for a perfectly calibrated twin (errors
        only); with clusters, for a model that is calibrated over all clusters, though not in each.
    verdict : whether the value is above ``floor_p95``, in words (errors only).
    """

    value: float
    low: float
    high: float
    n: int
    floor_mean: float | None = None
    floor_p95: float | None = None
    verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``; the floor only where there is one."""
        out: dict[str, Any] = {
            "value": finite(self.value),
            "low": finite(self.low),
            "high": finite(self.high),
            "n": self.n,
        }
        if self.floor_mean is not None and self.floor_p95 is not None:
            out |= {"floor_mean": finite(self.floor_mean), "floor_p95": finite(self.floor_p95), "verdict": self.verdict}
        return out


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found; ``m["conf_ece"].value`` reads one estimate.

    Parameters
    ----------
    n, k : questions and largest number of options.
    n_bins, n_boot, level, seed : how it was measured.
    split : the split's name, as in the scores.
    n_clusters : clusters resampled, or ``None`` where questions were.
    estimates : by name: accuracy, conf_ece, cw_ece, nll, brier, signed_gap, mean_confidence, and option_mass where
        known.
    notes : what a reader must know, in words.
    """

    n: int
    k: int
    n_bins: int
    n_boot: int
    level: float
    seed: int
    split: str
    n_clusters: int | None
    estimates: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """In a line; ``print`` shows the table."""
        ece = self.estimates["conf_ece"]
        accuracy = with_interval(self.estimates["accuracy"])
        return f"<Measurement: {self.n} questions, accuracy {accuracy}, conf-ECE {with_interval(ece)}, {ece.verdict}>"

    def __str__(self) -> str:
        return self.to_text()

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def keys(self) -> KeysView[str]:
        """Names of the estimates."""
        return self.estimates.keys()

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise ConfigError(
                asked=f"the estimate {name!r}",
                found=f"estimates: {', '.join(self.estimates)}",
                todo="ask for one of those",
            )
        return self.estimates[name]

    def to_text(self) -> str:
        """What the command prints: one line a metric with value, interval, floor and verdict; then the notes."""
        how = f"{self.n_bins} bins, {self.n_boot} draws, seed {self.seed}"
        lines = estimate_lines(labelled(self.estimates), f"{100 * self.level:g}% interval")
        head = f"{self.n} questions{in_clusters(self.n_clusters)} of at most {self.k} options, {how}"
        return "\n".join([head, *lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object: settings, then one object an estimate; ``option_mass`` is ``None`` where unknown."""
        head = ("n", "k", "split", "n_bins", "n_boot", "level", "seed", "n_clusters")
        out: dict[str, Any] = {name: getattr(self, name) for name in head}
        out |= {name: estimate.to_json() for name, estimate in self.estimates.items()}
        out.setdefault("option_mass", None)
        return out | {"notes": list(self.notes)}


def measure(
    scores: Scores,
    *,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | Sequence[Any] | None = None,
) -> Measurement:
    """Accuracy, calibration errors and proper scores of one set of scores, with intervals, floors and verdicts.

    Intervals: the calibration errors by :func:`~calibrant.metrics.uncertainty.error_interval`; accuracy by Wilson's
    interval (with clusters, at the effective number of questions); the rest by the percentile bootstrap, nll and Brier
    also as far as accuracy's interval takes them (:func:`~calibrant.metrics.rare.reaching`). With
    ``cluster``, whole clusters are resampled (Miller 2024, arXiv 2411.00640, on clustered questions in evaluations).

    Parameters
    ----------
    scores
        At least one question.
    n_bins
        M equal-width bins on [0, 1].
    n_boot
        Bootstrap draws, and redraws of the labels for the floor; at least 50.
    level
        Of the intervals.
    seed
        The same seed and scores give the same numbers.
    cluster
        ``"subject"``, the name of a column, or one label a question.

    >>> s = Scores.from_probs([[0.9, 0.1]] * 60 + [[0.8, 0.2]] * 40, ([0] * 6 + [1] * 4) * 10)
    >>> m = measure(s)
    >>> e = m["conf_ece"]  # accuracy .6 in both bins: .6 |.6 - .9| + .4 |.6 - .8|
    >>> round(e.value, 4), e.low < e.value < e.high, e.verdict
    (0.26, True, 'distinguishable from calibrated')
    """
    only_scores("numbers", scores)
    check_settings(n_bins, n_boot, level, seed)
    sums = QuestionSums(scores, n_bins)
    cluster_N = cluster_codes(scores, cluster)
    n_clusters = None if cluster_N is None else int(cluster_N.max()) + 1
    draws_BC = bootstrap_sums(sums.columns, scores.n, n_boot, seed, cluster_N)
    floors = None if n_clusters else noise_floor(scores, n_bins, n_boot, seed)
    estimates = mean_estimates(sums, draws_BC, level, n_clusters)
    estimates |= error_estimates(sums, draws_BC, floors, level, seed, n_clusters)
    order = ("accuracy", "conf_ece", "cw_ece", "nll", "brier", "signed_gap", "mean_confidence", "option_mass")
    return Measurement(
        n=scores.n,
        k=scores.k,
        n_bins=n_bins,
        n_boot=n_boot,
        level=level,
        seed=seed,
        split=scores.split,
        n_clusters=n_clusters,
        estimates={name: estimates[name] for name in order if name in estimates},
        notes=_notes(scores, estimates, n_clusters),
    )


def mean_estimates(
    sums: QuestionSums, draws_BC: np.ndarray, level: float, n_clusters: int | None
) -> dict[str, Estimate]:
    """The means, from bootstrap sums (B, C): accuracy, mean confidence, nll, brier, and option mass where known."""
    n = sums.scores.n
    values, draws = sums.means(sums.totals), sums.means(draws_BC)
    wider = cluster_factor(n_clusters, level)
    draws = {name: values[name] + wider * (draws_B - values[name]) for name, draws_B in draws.items()}
    share = float(values["accuracy"])
    n_effective = float(n)
    if n_clusters is not None:
        n_effective = drawn_n(share * (1 - share), draws["accuracy"], float(n), float(n_clusters))
    share_ends = wilson_interval(share, n_effective, level)
    out = {"accuracy": Estimate(share, *share_ends, n)}
    for name in ("mean_confidence", "nll", "brier"):
        value, ends = float(values[name]), (np.nan, np.nan)
        if n > 1:
            ends = percentile_interval(draws[name], level)
            if name in LOSSES:
                loss_NK = loss_of_each(sums.scores, name)
                arm = gap_arm(loss_NK, sums.scores, level) * math.sqrt(n / n_effective)
                ends = reaching(ends, value, error_gap(loss_NK, sums.scores), share, share_ends, arm)
        out[name] = Estimate(value, *possible(ends, 0.0, MOST[name]), n)
    if np.isinf(sums.scores.logp_NK[np.arange(n), sums.scores.answer_N]).any():
        out["nll"] = Estimate(np.inf, np.nan, np.nan, n)
    known = int((~np.isnan(sums.scores.logmass_N)).sum())
    if known:
        mass_B = draws["option_mass"][~np.isnan(draws["option_mass"])]
        ends = percentile_interval(mass_B, level) if known > 1 else (np.nan, np.nan)
        out["option_mass"] = Estimate(float(values["option_mass"]), *possible(ends, 0.0, MOST["option_mass"]), known)
    return out


def error_estimates(
    sums: QuestionSums,
    draws_BC: np.ndarray,
    floors: tuple[np.ndarray, np.ndarray] | None,
    level: float,
    seed: int,
    n_clusters: int | None = None,
) -> dict[str, Estimate]:
    """The calibration errors and the signed gap, from bootstrap sums (B, C) and floor draws of conf-ECE and cw-ECE;
    without these, the floor is the law of the errors under the resampled noise alone, ``sum |noise|``.
    """
    n = sums.scores.n
    cells = (sums.conf_cells(sums.totals), sums.class_cells(sums.totals))
    drawn = (sums.conf_cells(draws_BC), sums.class_cells(draws_BC))
    out = {}
    for name, cell_C, cells_BC, thin_C, redrawn_R in zip(
        ("conf_ece", "cw_ece"), cells, drawn, sums.thin_variances, floors or (None, None), strict=True
    ):
        noise_BC = cell_noise(cells_BC, cell_C, thin_C, seed) * cluster_factor(n_clusters, level)
        floor_R = np.abs(noise_BC).sum(1) if redrawn_R is None else redrawn_R
        value, p95 = float(np.abs(cell_C).sum()), float(np.quantile(floor_R, 0.95))
        low, high = possible(error_interval(cell_C, noise_BC, level), 0, 1) if n > 1 else (np.nan, np.nan)
        out[name] = Estimate(value, low, high, n, float(floor_R.mean()), p95, floor_verdict(value, p95))
        if name == "conf_ece":
            gap = -float(cell_C.sum())
            drawn_B = gap - noise_BC.sum(1)
            low, high = possible(percentile_interval(drawn_B, level), -1, 1) if n > 1 else (np.nan, np.nan)
            out["signed_gap"] = Estimate(gap, low, high, n)
    return out


def _notes(scores: Scores, estimates: Mapping[str, Estimate], n_clusters: int | None) -> tuple[str, ...]:
    notes = []
    mass = estimates.get("option_mass")
    prompt = scores.provenance.get("prompt")
    of_texts = isinstance(prompt, Mapping) and prompt.get("reading") == "continuation"
    if mass is not None and mass.value < LOW_MASS and not of_texts:  # a text has many rivals that mean the same
        notes.append(
            f"mean option mass {mass.value:.3f} is under {LOW_MASS}: the model hardly wanted to answer with any option"
        )
    if mass is not None and mass.n < scores.n:
        notes.append(f"option mass is known for {mass.n} of {scores.n} questions only")
    if math.isinf(estimates["nll"].value):
        count = int(np.isinf(scores.logp_NK[np.arange(scores.n), scores.answer_N]).sum())
        notes.append(f"nll is infinite: {count} of {scores.n} answers have probability 0")
    if scores.n >= ONE_PLACE and len(set(scores.answer_N.tolist())) == 1 and not of_texts:
        notes.append(
            f"all {scores.n} correct options stand at place {int(scores.answer_N[0]) + 1}: where options were shown in this "
            "order, a preference for the place passes for knowledge"
        )
    repeats = scores.provenance.get("questions_that_repeat")
    if isinstance(repeats, int) and repeats:
        notes.append(
            f"{repeats} questions are in several tasks and count each time: intervals and floors are too narrow"
        )
    gap, ece = estimates["signed_gap"], estimates["conf_ece"]
    if ece.verdict == INDISTINGUISHABLE and (gap.low > 0 or gap.high < 0):
        notes.append(
            f"conf-ECE is within chance, yet confidence is {'above' if gap.value > 0 else 'below'} accuracy on average beyond "
            "its interval: one of the two errs, and more questions would tell which"
        )
    if scores.n < 2:
        notes.append("one question: no interval but accuracy's")
    elif scores.n < 100:
        notes.append(f"{scores.n} questions: intervals of calibration errors are wide and approximate under 100")
    if n_clusters is not None and n_clusters < 10:
        notes.append(f"{n_clusters} clusters: with fewer than 10, clustered intervals are rough")
    return tuple(notes)


def only_scores(asked: str, *given: Any) -> None:
    """Raise :class:`ConfigError` where one of these is no :class:`Scores`, such as the path of a file of them."""
    for one in given:
        if isinstance(one, str | Path):
            raise ConfigError(
                asked=f"{asked} of scores",
                found=f"the path {str(one)!r}",
                todo="load it with calibrant.Scores.load(path)",
            )
        only(Scores, one, f"{asked} of scores", "give Scores, made by score() or Scores.from_probs()")


def finite(value: float) -> float | None:
    """The number itself, or ``None`` where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None
