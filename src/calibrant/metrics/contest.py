"""Several methods on the same questions, each trained once or several times: numbers that carry both uncertainties.

Shape suffixes: N questions, B draws, C cells, S runs (training seeds) of one method. A method's number is the mean of
its runs' numbers; it is uncertain because there are finitely many questions *and* because training is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.bins import check_settings
from calibrant.metrics.comparison import Difference, accuracy_change_interval, align, difference_of
from calibrant.metrics.measurement import MOST, Estimate, floor_verdict
from calibrant.metrics.profile import Profile, exact_profile, gather, thin_hits
from calibrant.metrics.proportions import drawn_n
from calibrant.metrics.ranking import auroc_of
from calibrant.metrics.rare import LOSSES, change_reaching, error_gap, few_of_a_kind, gap_arm, loss_of_each, reaching
from calibrant.metrics.runs import difference_error, joined, run_arm, runs_z
from calibrant.metrics.smooth import grid_of, smooth_cells, smooth_error_of, thinned
from calibrant.metrics.sums import QuestionSums, blocks, bootstrap_sums, bootstrap_weights, cluster_codes
from calibrant.metrics.uncertainty import (
    cell_noise,
    cluster_factor,
    error_difference_interval,
    error_interval,
    noise_floor,
    percentile_interval,
    possible,
    wilson_interval,
)
from calibrant.scores import Scores

CONTEST_METRICS = ("accuracy", "conf_ece", "cw_ece", "smooth_ece", "nll", "brier", "auroc")
MEANS, ERRORS = ("accuracy", "nll", "brier", "auroc"), ("conf_ece", "cw_ece", "smooth_ece")
RANGE = {"accuracy": (0.0, 1.0), "auroc": (0.0, 1.0)}
DRAWS_AT_ONCE = 128


class Contest:
    """Methods by name, each with one or more runs on the same questions.

    **Questions.** All methods and all runs are resampled with the same weights, so what they have in common cancels in a
    difference. A method's draws are the mean of its runs' draws; for calibration errors the runs' cells, each divided by
    S, are put side by side, since ``(1/S) Σ_s Σ_c |cell_sc| = Σ_sc |cell_sc / S|``: the inverted law of
    :func:`~calibrant.metrics.uncertainty.error_interval` applies as it stands. The floor is the mean over runs of the
    floors, drawn with the same uniform for a question in every run (with clusters, with the same weights).

    **Runs.** With standard deviation s between the S runs' values the mean over all possible seeds is known to within
    ``e = t_{S-1} s / sqrt(S)``. The two are put together by the method of variance estimates recovery (Zou & Donner,
    Statistics in Medicine 2008): ``low = m - sqrt((m - low_q)² + e²)``, and alike for ``high``. In a difference of two
    methods with equally many runs, run i is paired with run i (same seed), s is that of the paired differences;
    otherwise the two variances add, with the fewer degrees of freedom; p-values allow for few runs
    (:meth:`z_values`). This errs on the wide side: s also holds the
    part of the question noise that the runs do not share. One run has no e: its interval speaks of questions only.

    With one run everything is what :func:`~calibrant.metrics.measure` and :func:`~calibrant.metrics.compare` give.
    Source: ours, but for what is cited.

    Parameters
    ----------
    runs
        Scores of the same questions, in any order; one sequence a method.
    seeds
        Training seeds of the runs, by method; two methods of equally many runs are paired where theirs are equal. Without
        it run i is taken to be of seed i.
    n_bins, n_boot, level, seed, cluster
        As for ``measure``.

    Raises
    ------
    ConfigError : no method, or a method without runs. ScoresError : one question, or other questions in some scores.

    >>> answer = [0] * 30 + [1] * 20
    >>> sure, fair = (Scores.from_probs([[p, 1 - p]] * 50, answer) for p in (0.99, 0.62))
    >>> c = Contest({"before": [sure], "after": [fair, fair]})
    >>> round(c.estimates("after")["conf_ece"].value, 2), c.differences("before", "after")["conf_ece"].verdict
    (0.02, 'b is better')
    """

    def __init__(
        self,
        runs: Mapping[str, Sequence[Scores]],
        *,
        n_bins: int = 10,
        n_boot: int = 1000,
        level: float = 0.95,
        seed: int = 0,
        cluster: str | Sequence[Any] | None = None,
        seeds: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        check_settings(n_bins, n_boot, level, seed)
        if not runs or not all(runs.values()):
            raise ConfigError(
                asked="a contest", found=f"methods {list(runs)}, some without runs", todo="give each one or more scores"
            )
        first = next(iter(runs.values()))[0]
        if first.n < 2:
            raise ScoresError(asked="a contest", found="one question", todo="give two questions or more")
        self.n, self.n_boot, self.level = first.n, n_boot, level
        self._seeds = {name: tuple((seeds or {}).get(name, range(len(several)))) for name, several in runs.items()}
        self._known: dict[tuple[str, str, str], tuple[Difference, float]] = {}
        cluster_N = cluster_codes(first, cluster)
        self.n_clusters = None if cluster_N is None else int(cluster_N.max()) + 1
        self._wider = cluster_factor(self.n_clusters, level)
        weight_BN = bootstrap_weights(self.n, n_boot, seed, cluster_N)
        self._drawn = {
            name: _Method.of(
                [
                    _Run.of(align(first, run)[0], weight_BN, n_bins, n_boot, seed, cluster_N, self._wider)
                    for run in several
                ]
            )
            for name, several in runs.items()
        }

    def per_run(self, name: str) -> dict[str, tuple[float, ...]]:
        """Each metric's value in each run of a method."""
        return {metric: tuple(values) for metric, values in self._drawn[name].values.items()}

    def estimates(self, name: str) -> dict[str, Estimate]:
        """Each metric of a method: mean over its runs, interval of both uncertainties, and floor of binned errors."""
        method, out = self._drawn[name], {}
        for metric in CONTEST_METRICS:
            values_S = method.values[metric]
            value = float(values_S.mean())
            low, high = self._interval(method, metric, value)
            if metric in ERRORS:
                arm = run_arm(values_S, self.level)
                low, high = joined(value, low, high, arm, (0.0, 1.0))
                out[metric] = self._with_floor(method, metric, value, low, high)
            else:
                arm = run_arm(values_S, self.level)
                out[metric] = Estimate(
                    value, *joined(value, low, high, arm, RANGE.get(metric, (-np.inf, np.inf))), self.n
                )
        return out

    def differences(self, a: str, b: str, metrics: Sequence[str] = CONTEST_METRICS) -> dict[str, Difference]:
        """The paired difference ``b - a`` between two methods, in each metric or in some."""
        return {metric: self._compared(a, b, metric)[0] for metric in metrics}

    def z_values(self, a: str, b: str, metrics: Sequence[str] = CONTEST_METRICS) -> dict[str, float]:
        """How far each difference is from 0, on the scale of a standard normal: what its p-value rests on, without its floor.

        ``t = |b - a| / sqrt(q² + r²)`` with q the margin that faces 0 of the questions' interval over ``z_level`` and
        ``r = s / sqrt(S)`` of the runs, on ``(q² + r²)² (S - 1) / r⁴`` degrees of freedom (Satterthwaite 1946), brought
        to the normal scale by equal tails, or what the whole interval's margin says if that is less; 0 where nothing is
        known.
        """
        return {metric: self._compared(a, b, metric)[1] for metric in metrics}

    def _compared(self, a: str, b: str, metric: str) -> tuple[Difference, float]:
        if (a, b, metric) not in self._known:
            paired = self._seeds[a] == self._seeds[b]
            self._known[a, b, metric] = self._compare(self._drawn[a], self._drawn[b], metric, paired=paired)
        return self._known[a, b, metric]

    def _compare(self, one: _Method, other: _Method, metric: str, *, paired: bool) -> tuple[Difference, float]:
        value_a, value_b = float(one.values[metric].mean()), float(other.values[metric].mean())
        low = high = np.nan
        change = value_b - value_a if np.isfinite(value_a) and np.isfinite(value_b) else np.nan
        if metric in ERRORS:
            cells = *one.cells_of(metric, other), *other.cells_of(metric, one)
            low, high = possible(error_difference_interval(*cells, self.level), -1, 1)
        elif np.isfinite(change) and not (metric == "auroc" and (one.few or other.few)):
            drawn_B = change + self._wider * (other.draws[metric] - one.draws[metric] - change)
            if metric == "accuracy":
                answers = one.correct_beside(other), other.correct_beside(one)
                low, high = accuracy_change_interval(*answers, drawn_B, self.n_clusters, self.level)
            else:
                low, high = percentile_interval(drawn_B[np.isfinite(drawn_B)], self.level)
            if metric in LOSSES:
                runs = list(zip(one.scores_beside(other), other.scores_beside(one), strict=True))
                low, high = change_reaching((low, high), change, metric, runs, drawn_B, self.n_clusters, self.level)
        error, freedom = difference_error(one.values[metric], other.values[metric], paired=paired)
        z = runs_z(change, low, high, error, freedom, self.level)
        if error > 0:
            arm = float(stdtrit(freedom, (1 + self.level) / 2)) * error
            low, high = joined(change, low, high, arm, (-np.inf, np.inf))
            z = min(z, runs_z(change, low, high, 0.0, np.inf, self.level))
        found = difference_of(metric, value_a, value_b, low, high, self.n, self.level, self.n_boot)
        if error > 0 and np.isfinite(found.p_value):
            found = replace(found, p_value=max(2 * float(ndtr(-z)), 1 / (self.n_boot + 1)))
        return found, z

    def _interval(self, method: _Method, metric: str, value: float) -> tuple[float, float]:
        if metric in ERRORS:
            return possible(error_interval(*method.cells[metric], self.level), 0, 1)
        if not np.isfinite(value):
            return np.nan, np.nan
        draws_B = value + self._wider * (method.draws[metric] - value)
        if metric == "auroc" and (method.few or np.nanmax(draws_B) == np.nanmin(draws_B)):
            return np.nan, np.nan  # as in ``battery``
        share, effective = self._share(method)
        share_ends = wilson_interval(share, effective, self.level)
        if metric == "accuracy":
            return share_ends
        ends = percentile_interval(draws_B[np.isfinite(draws_B)], self.level)
        if metric in LOSSES:
            losses = [(loss_of_each(run, metric), run) for run in method.scores]
            gap = float(np.mean([error_gap(loss_NK, run) for loss_NK, run in losses]))
            arm = float(np.mean([gap_arm(loss_NK, run, self.level) for loss_NK, run in losses]))
            reached = reaching(ends, value, gap, share, share_ends, arm * math.sqrt(self.n / effective))
            ends = possible(reached, 0.0, MOST[metric])
        return ends

    def _share(self, method: _Method) -> tuple[float, float]:
        """Accuracy, and how many independent questions know it as well."""
        runs, share, effective = len(method.scores), float(method.values["accuracy"].mean()), float(self.n)
        if runs > 1 or self.n_clusters is not None:
            few, draws_B = float(self.n_clusters or self.n), self._wider * method.draws["accuracy"]
            effective = drawn_n(share * (1 - share), draws_B, float(self.n * runs), few)
        return share, effective

    def _with_floor(self, method: _Method, metric: str, value: float, low: float, high: float) -> Estimate:
        floor_R = method.floors.get(metric)
        if floor_R is None:
            return Estimate(value, low, high, self.n)
        p95 = float(np.quantile(floor_R, 0.95))
        verdict = floor_verdict(value, p95)
        return Estimate(value, low, high, self.n, float(floor_R.mean()), p95, verdict)


Cells = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Run:
    """One set of scores, resampled: values, draws (B,) of the means, cells (C,) and their noise (B, C), floors (R,)."""

    scores: Scores
    values: dict[str, float]
    draws: dict[str, np.ndarray]
    cells: dict[str, Cells]
    floors: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        scores: Scores,
        weight_BN: np.ndarray,
        n_bins: int,
        n_boot: int,
        seed: int,
        cluster_N: np.ndarray | None,
        wider: float,
    ) -> _Run:
        sums = QuestionSums(scores, n_bins)
        draws_BC = bootstrap_sums(sums.columns, scores.n, n_boot, seed, cluster_N)
        plain, drawn = sums.means(sums.totals), sums.means(draws_BC)
        values = {metric: float(plain[metric]) for metric in ("accuracy", "nll", "brier")}
        draws = {metric: drawn[metric] for metric in ("accuracy", "nll", "brier")}
        if np.isinf(scores.logp_NK[np.arange(scores.n), scores.answer_N]).any():
            values["nll"] = np.inf
        cells: dict[str, Cells] = {}
        pairs = ((sums.conf_cells, "conf_ece"), (sums.class_cells, "cw_ece"))
        for (cells_of, metric), thin_C in zip(pairs, sums.thin_variances, strict=True):
            cell_C = cells_of(sums.totals)
            cells[metric] = cell_C, wider * cell_noise(cells_of(draws_BC), cell_C, thin_C, seed)
            values[metric] = float(np.abs(cell_C).sum())
        values["auroc"], draws["auroc"] = _ranked(scores, weight_BN)
        values["smooth_ece"], cells["smooth_ece"] = _smoothed(scores, weight_BN, n_bins, seed, wider)
        if cluster_N is None:
            floors = dict(zip(("conf_ece", "cw_ece"), noise_floor(scores, n_bins, n_boot, seed), strict=True))
        else:
            floors = {metric: np.abs(cells[metric][1]).sum(1) for metric in ("conf_ece", "cw_ece")}
        return cls(scores, values, draws, cells, floors)


@dataclass(frozen=True, eq=False)
class _Method:
    """The runs of a method as one: their scores, values (S,), and draws, cells, noise and floors of their mean."""

    scores: tuple[Scores, ...]
    values: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]
    cells: dict[str, Cells]
    floors: dict[str, np.ndarray]

    @classmethod
    def of(cls, runs: Sequence[_Run]) -> _Method:
        s = len(runs)
        return cls(
            scores=tuple(run.scores for run in runs),
            values={metric: np.array([run.values[metric] for run in runs]) for metric in CONTEST_METRICS},
            draws={metric: np.mean([run.draws[metric] for run in runs], axis=0) for metric in MEANS},
            cells={
                metric: (
                    np.concatenate([run.cells[metric][0] for run in runs]) / s,
                    np.concatenate([run.cells[metric][1] for run in runs], axis=1) / s,
                )
                for metric in ERRORS
            },
            floors={metric: np.mean([run.floors[metric] for run in runs], axis=0) for metric in runs[0].floors},
        )

    def cells_of(self, metric: str, beside: _Method) -> Cells:
        """Cells and noise, each run as often as makes the runs of both methods equally many: the sums stay as they are."""
        times = self._times(beside)
        cell_C, noise_BC = self.cells[metric]
        return np.tile(cell_C, times) / times, np.tile(noise_BC, (1, times)) / times

    def scores_beside(self, beside: _Method) -> tuple[Scores, ...]:
        """Scores, each run as often as makes the runs of both methods equally many."""
        return self.scores * self._times(beside)

    def correct_beside(self, beside: _Method) -> np.ndarray:
        """Right answers of :meth:`scores_beside`, (S, N)."""
        return np.array([run.correct_N for run in self.scores_beside(beside)])

    @property
    def few(self) -> bool:
        """Whether a run has too few right or wrong answers to tell how well they are ranked."""
        return any(few_of_a_kind(run.correct_N) for run in self.scores)

    def _times(self, beside: _Method) -> int:
        mine, others = len(self.scores), len(beside.scores)
        return math.lcm(mine, others) // mine


def _ranked(scores: Scores, weight_BN: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC, and its draws (B,)."""
    profile = exact_profile(scores.confidence_N, scores.correct_N)
    drawn = [auroc_of(part) for _, part in _drawn_profiles(scores, profile, weight_BN)]
    return float(auroc_of(profile)), np.concatenate(drawn)


def _smoothed(scores: Scores, weight_BN: np.ndarray, n_bins: int, seed: int, wider: float) -> tuple[float, Cells]:
    """Smooth error, and its cells with their noise at its bandwidth."""
    profile = exact_profile(scores.confidence_N, scores.correct_N)
    grid = grid_of(profile)
    found = smooth_error_of(grid)
    whole_G = smooth_cells(grid.residual_G, found.sigma)
    keep, scale = thinned(whole_G, found.sigma, 8)
    hidden_BG = thin_hits(profile, len(weight_BN), n_bins, seed)
    noise = []
    for rows, drawn in _drawn_profiles(scores, profile, weight_BN):
        drawn = replace(drawn, hits_G=drawn.hits_G + hidden_BG[rows])
        noise.append((smooth_cells(grid_of(drawn).residual_G, found.sigma) - whole_G)[:, keep])
    return found.value, (whole_G[keep] * scale, wider * scale * np.concatenate(noise))


def _drawn_profiles(scores: Scores, profile: Profile, weight_BN: np.ndarray) -> Iterator[tuple[slice, Profile]]:
    """The profile under each draw's weights, some draws at a time."""
    c_N = np.clip(scores.confidence_N, 0.0, 1.0)
    order_N = np.argsort(c_N, kind="stable")
    group_N = np.searchsorted(profile.c_G, c_N[order_N])
    correct_N = scores.correct_N[order_N].astype(np.float64)
    for rows in blocks(len(weight_BN), DRAWS_AT_ONCE):
        weight_bN = weight_BN[rows, order_N].astype(np.float64)
        n_bG, hits_bG = (gather(w, group_N, len(profile.c_G)) for w in (weight_bN, weight_bN * correct_N))
        yield rows, Profile(profile.c_G, n_bG, hits_bG)
