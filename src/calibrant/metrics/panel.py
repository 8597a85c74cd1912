"""``battery``: every confidence metric of one ``Scores``, with intervals where an honest one exists, and floors.

Shape suffixes: B draws, R redraws, M bins, G groups or grid points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from calibrant.metrics.binned import (
    bin_gaps,
    brier_decomposition,
    debiased_ece,
    debiased_l2_ece,
    equal_mass_bins,
    equal_width_bins,
    l2_ece,
)
from calibrant.metrics.bins import bin_index, check_settings, thin_variance
from calibrant.metrics.measurement import Estimate, floor_verdict, only_scores
from calibrant.metrics.profile import Profile, compress, exact_profile, redraw_labels, resample, thin_hits
from calibrant.metrics.proportions import drawn_n
from calibrant.metrics.ranking import aurc_of, auroc_of, excess_aurc, most_confident
from calibrant.metrics.rare import few_of_a_kind
from calibrant.metrics.smooth import Grid, grid_of, smooth_cells, smooth_error_of, thinned
from calibrant.metrics.uncertainty import cell_noise, error_interval, percentile_interval, possible, wilson_interval
from calibrant.scores import Scores

DRAWS_AT_ONCE = 250
COVERAGE = 0.5
"""Share of the most confident questions that the last two are about, unless asked otherwise."""

Interval = tuple[float, float]
NO_INTERVAL: Interval = (np.nan, np.nan)


def battery(
    scores: Scores,
    *,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    coverage: float = COVERAGE,
) -> Mapping[str, Estimate]:
    """The further metrics of the confidence, by name; the headline ones are in ``measure``.

    ========================  ==========================================================  ============================
    name                      what                                                        interval
    ========================  ==========================================================  ============================
    equal_mass_ece            conf-ECE over bins of equal mass                            inverted law (error_interval)
    smooth_ece                smooth calibration error                                    inverted law at its bandwidth
    debiased_ece              conf-ECE less its estimated bias                            none; see ``conf_ece``
    debiased_l2_ece           l2 error less its bias                                      closed form (``l2_ece``)
    mce, over, under          worst bin; over- and underconfident part                    none, floor only
    reliability, resolution   parts of the confidence's Brier score                       none
    refinement                what recalibration would leave of it                        none
    auroc, aurc               ranking of right above wrong                                percentile bootstrap
    excess_aurc               AURC less that of the best ranking                          none
    selective_accuracy        accuracy of the most confident share ``coverage``           Wilson's, of its questions
    ece_at_coverage           conf-ECE of that share                                      inverted law
    ========================  ==========================================================  ============================

    AUROC and AURC have no interval where fewer than 10 answers are wrong, or right, for the draws vary too little then
    (``benchmarks/rare_errors.py``), nor where every draw gives the same number: right answers and wrong ones that stand apart
    in the sample need not do so in others. ``n`` of the last two counts the share kept.

    Cost: one sort of the questions, then O(groups) a draw whatever N is (see ``calibrant.metrics.profile``).

    >>> s = Scores.from_probs([[0.9, 0.1]] * 60 + [[0.8, 0.2]] * 40, ([0] * 6 + [1] * 4) * 10)
    >>> b = battery(s, n_boot=200)
    >>> round(b["mce"].value, 4), round(b["smooth_ece"].value, 3), b["auroc"].value
    (0.3, 0.26, 0.5)
    """
    only_scores("a battery", scores)
    check_settings(n_bins, n_boot, level, seed)
    c_N, y_N, n = scores.confidence_N, scores.correct_N, scores.n
    exact = exact_profile(c_N, y_N)
    small = compress(exact, n_bins)
    drawn, twin = resample(small, n_boot, seed), redraw_labels(small, n_boot, seed)
    bin_G, mass_bin_G = equal_width_bins(small, n_bins), equal_mass_bins(small, n_bins)
    kept_small, kept_draws = most_confident(small, coverage), most_confident(drawn, coverage)
    values = _values(c_N, y_N, exact, n_bins, coverage)
    intervals: dict[str, Interval] = {}
    if n > 1:
        l2 = l2_ece(c_N, y_N, n_bins, level)
        intervals["debiased_l2_ece"] = (min(l2.low, values["debiased_l2_ece"]), max(l2.high, values["debiased_l2_ece"]))
        intervals["equal_mass_ece"] = cell_interval(small, drawn, mass_bin_G, n_bins, level, seed)
        intervals["ece_at_coverage"] = cell_interval(kept_small, kept_draws, bin_G, n_bins, level, seed)
        intervals["smooth_ece"] = _smooth_interval(small, drawn, n_bins, level, seed)
        share, kept = values["selective_accuracy"], float(kept_small.n)
        drawn_B = kept_draws.hits_G.sum(-1) / kept_draws.n  # each draw with its own cut
        worth = drawn_n(share * (1 - share), drawn_B, kept, kept)
        intervals["selective_accuracy"] = wilson_interval(share, worth, level)
        if not few_of_a_kind(y_N):
            intervals["auroc"] = _of_draws(auroc_of(drawn), level)
            intervals["aurc"] = _of_draws(aurc_of(drawn), level)
    floors = _floors(twin, bin_G, mass_bin_G, n_bins, coverage)
    of_kept = dict.fromkeys(("selective_accuracy", "ece_at_coverage"), max(1, round(float(kept_small.n))))
    return {
        k: _estimate(value, intervals.get(k, NO_INTERVAL), of_kept.get(k, n), floors.get(k))
        for k, value in values.items()
    }


def _values(c_N: np.ndarray, y_N: np.ndarray, profile: Profile, n_bins: int, coverage: float) -> dict[str, float]:
    share_M, gap_M = bin_gaps(profile, equal_width_bins(profile, n_bins), n_bins)
    kept = most_confident(profile, coverage)
    brier = brier_decomposition(c_N, y_N, n_bins)
    return {
        "equal_mass_ece": _ece(profile, equal_mass_bins(profile, n_bins), n_bins),
        "smooth_ece": smooth_error_of(grid_of(profile)).value,
        "debiased_ece": debiased_ece(c_N, y_N, n_bins),
        "debiased_l2_ece": debiased_l2_ece(c_N, y_N, n_bins),
        "mce": float(np.abs(gap_M).max()),
        "over": float((share_M * np.maximum(-gap_M, 0)).sum()),
        "under": float((share_M * np.maximum(gap_M, 0)).sum()),
        "reliability": brier.reliability,
        "resolution": brier.resolution,
        "refinement": brier.refinement,
        "auroc": float(auroc_of(profile)),
        "aurc": float(aurc_of(profile)),
        "excess_aurc": excess_aurc(c_N, y_N),
        "selective_accuracy": float(kept.hits_G.sum() / kept.n),
        "ece_at_coverage": _ece(kept, bin_index(kept.c_G, n_bins), n_bins),
    }


def _ece(profile: Profile, bin_G: np.ndarray, n_bins: int) -> float:
    share_M, gap_M = bin_gaps(profile, bin_G, n_bins)
    return float((share_M * np.abs(gap_M)).sum())


def cell_interval(plain: Profile, drawn: Profile, bin_G: np.ndarray, n_bins: int, level: float, seed: int) -> Interval:
    cell_M, noise_BM = noisy_cells(plain, drawn, bin_G, n_bins, seed)
    return possible(error_interval(cell_M, noise_BM, level), 0, 1)


def noisy_cells(
    plain: Profile, drawn: Profile, bin_G: np.ndarray, n_bins: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells ``(n_m / N) (acc_m - conf_m)``, (M,), and draws of their noise with that of thin bins, (B, M)."""
    share_M, gap_M = bin_gaps(plain, bin_G, n_bins)
    share_BM, gap_BM = bin_gaps(drawn, bin_G, n_bins)
    n_M, hits_M, _ = plain.binned(bin_G, n_bins)
    thin_M = thin_variance(n_M, hits_M) / float(plain.n) ** 2
    return share_M * gap_M, cell_noise(share_BM * gap_BM, share_M * gap_M, thin_M, seed)


def _smooth_interval(plain: Profile, drawn: Profile, n_bins: int, level: float, seed: int) -> Interval:
    drawn = replace(drawn, hits_G=drawn.hits_G + thin_hits(plain, len(drawn.hits_G), n_bins, seed))
    grid = grid_of(plain)
    sigma = smooth_error_of(grid).sigma
    cell_G = smooth_cells(grid.residual_G, sigma)
    keep, scale = thinned(cell_G, sigma)
    noise = [(smooth_cells(grid_of(_part(drawn, rows)).residual_G, sigma) - cell_G)[:, keep] for rows in _chunks(drawn)]
    return possible(error_interval(cell_G[keep] * scale, np.concatenate(noise) * scale, level), 0, 1)


def _of_draws(draws_B: np.ndarray, level: float) -> Interval:
    known_B = draws_B[~np.isnan(draws_B)]
    varies = len(known_B) > 0 and np.ptp(known_B) > 0
    return percentile_interval(known_B, level) if varies else NO_INTERVAL


def _floors(
    twin: Profile, bin_G: np.ndarray, mass_bin_G: np.ndarray, n_bins: int, coverage: float
) -> dict[str, np.ndarray]:
    def ece(profile: Profile, at_G: np.ndarray) -> np.ndarray:
        share_RM, gap_RM = bin_gaps(profile, at_G, n_bins)
        return np.asarray((share_RM * np.abs(gap_RM)).sum(-1))

    share_RM, gap_RM = bin_gaps(twin, bin_G, n_bins)
    smooth: list[float] = []
    for rows in _chunks(twin):
        grid = grid_of(_part(twin, rows))
        pairs = zip(grid.residual_G, grid.density_G, strict=True)
        smooth += [smooth_error_of(Grid(r_G, d_G)).value for r_G, d_G in pairs]
    return {
        "equal_mass_ece": ece(twin, mass_bin_G),
        "smooth_ece": np.array(smooth),
        "mce": np.abs(gap_RM).max(-1),
        "over": (share_RM * np.maximum(-gap_RM, 0)).sum(-1),
        "under": (share_RM * np.maximum(gap_RM, 0)).sum(-1),
        "ece_at_coverage": ece(most_confident(twin, coverage), bin_G),
    }


def _chunks(profile: Profile) -> list[slice]:
    return [slice(i, i + DRAWS_AT_ONCE) for i in range(0, len(profile.hits_G), DRAWS_AT_ONCE)]


def _part(profile: Profile, rows: slice) -> Profile:
    return Profile(profile.c_G, profile.n_G[rows], profile.hits_G[rows])


def _estimate(value: float, interval: Interval, n: int, floor_R: np.ndarray | None) -> Estimate:
    if floor_R is None:
        return Estimate(value, *interval, n)
    p95 = float(np.quantile(floor_R, 0.95))
    verdict = floor_verdict(value, p95)
    return Estimate(value, *interval, n, float(floor_R.mean()), p95, verdict)
