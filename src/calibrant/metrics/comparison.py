"""``compare``: two ``Scores`` on the same questions, by a paired bootstrap. Shape suffixes: N questions, B draws, C
columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.bins import bin_edges, check_level
from calibrant.metrics.measurement import finite
from calibrant.metrics.sums import QuestionSums, bootstrap_sums, cluster_codes
from calibrant.metrics.uncertainty import cell_noise, error_interval, percentile_interval
from calibrant.scores import Scores

LOWER_IS_BETTER = ("conf_ece", "cw_ece", "nll", "brier")
HIGHER_IS_BETTER = ("accuracy",)


@dataclass(frozen=True)
class Difference:
    """One metric of two sets of scores on the same questions.

    Parameters
    ----------
    a, b : the two values.
    value : ``b - a``: for before and after, the change.
    low, high : its paired interval; ``nan`` where there is none.
    n : questions behind it.
    verdict : ``"b is better"``, ``"a is better"``, ``"b is higher"``, ``"b is lower"`` (where neither end is better),
        or ``"undecided"`` where the interval holds 0.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``."""
        numbers = {name: finite(getattr(self, name)) for name in ("a", "b", "value", "low", "high")}
        return {**numbers, "n": self.n, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``c["conf_ece"].value`` is one change, ``b - a``."""

    n: int
    n_bins: int
    n_boot: int
    level: float
    seed: int
    matched_by: str
    n_clusters: int | None
    differences: Mapping[str, Difference]

    def __getitem__(self, name: str) -> Difference:
        if name not in self.differences:
            raise ConfigError(
                asked=f"the difference {name!r}",
                found=f"differences: {', '.join(self.differences)}",
                todo="ask for one of those",
            )
        return self.differences[name]

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object: settings, then one object a metric."""
        head = ("n", "n_bins", "n_boot", "level", "seed", "matched_by", "n_clusters")
        out: dict[str, Any] = {name: getattr(self, name) for name in head}
        return out | {name: difference.to_json() for name, difference in self.differences.items()}


def compare(
    a: Scores,
    b: Scores,
    *,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | Sequence[Any] | None = None,
) -> Comparison:
    """The change from ``a`` to ``b`` in each metric, with paired intervals.

    Both are resampled with the same weights, so what the questions have in common cancels. Means by the percentile
    bootstrap; calibration errors by combining the two intervals of
    :func:`~calibrant.metrics.uncertainty.error_interval` with the correlation r of the two errors over the draws
    (MOVER: Zou & Donner 2008): ``low = D - sqrt(u^2 + v^2 - 2 r u v)``, ``u = B - low_B``, ``v = high_A - A``, and
    alike for ``high``.

    Parameters
    ----------
    a, b
        Scores of the same questions, in any order: matched by id, or by content hash where ids differ.
    n_bins, n_boot, level, seed, cluster
        As for ``measure``; the columns are those of ``a``.

    Raises
    ------
    ScoresError : other questions, answers or numbers of options; ids that repeat.

    >>> answer = [0] * 30 + [1] * 20
    >>> before = Scores.from_probs([[0.99, 0.01]] * 50, answer)
    >>> after = Scores.from_probs([[0.62, 0.38]] * 50, answer)
    >>> d = compare(before, after)["conf_ece"]  # |.6 - .99| = .39 against |.6 - .62| = .02
    >>> round(d.value, 4), d.verdict
    (-0.37, 'b is better')
    """
    check_level(level)
    bin_edges(n_bins)
    if n_boot < 50:
        raise ConfigError(asked="bootstrap intervals", found=f"n_boot = {n_boot}", todo="give 50 draws or more")
    b, matched_by = align(a, b)
    if a.n < 2:
        raise ScoresError(asked="a paired comparison", found="one question", todo="give two questions or more")
    sums_a, sums_b = QuestionSums(a, n_bins), QuestionSums(b, n_bins)
    cluster_N = cluster_codes(a, cluster)
    split = sums_a.n_columns
    draws_BC = bootstrap_sums(
        lambda rows: np.hstack([sums_a.columns(rows), sums_b.columns(rows)]), a.n, n_boot, seed, cluster_N
    )
    pair = ((sums_a, draws_BC[:, :split]), (sums_b, draws_BC[:, split:]))
    differences = _mean_differences(pair, level) | _error_differences(pair, level, seed)
    order = ("accuracy", "conf_ece", "cw_ece", "nll", "brier", "signed_gap", "mean_confidence")
    return Comparison(
        n=a.n,
        n_bins=n_bins,
        n_boot=n_boot,
        level=level,
        seed=seed,
        matched_by=matched_by,
        n_clusters=None if cluster_N is None else int(cluster_N.max()) + 1,
        differences={name: differences[name] for name in order},
    )


def align(a: Scores, b: Scores) -> tuple[Scores, str]:
    """``b`` in the order of ``a``, and what they were matched by: ``"id"`` or ``"hash"``.

    Raises
    ------
    ScoresError : the sets of questions differ, a key repeats, or a matched pair has another answer or number of
        options.
    """
    hashed = all(a.hashes) and all(b.hashes)
    by_id = set(a.ids) == set(b.ids)
    keys_a, keys_b, name = (a.ids, b.ids, "id") if by_id or not hashed else (a.hashes, b.hashes, "hash")
    asked = "two sets of scores on the same questions"
    if len(set(keys_a)) < a.n or len(set(keys_b)) < b.n:
        raise ScoresError(
            asked=asked, found=f"a question {name} that repeats", todo="give each question an id of its own"
        )
    if set(keys_a) != set(keys_b):
        only_a, only_b = sorted(set(keys_a) - set(keys_b)), sorted(set(keys_b) - set(keys_a))
        raise ScoresError(
            asked=asked,
            found=f"by {name}, {len(only_a)} only in a {only_a[:3]}, {len(only_b)} only in b {only_b[:3]}",
            todo="score the same questions twice, or select() the common ones and say so",
        )
    place = {key: i for i, key in enumerate(keys_b)}
    b = b.select(np.array([place[key] for key in keys_a]))
    wrong_N = (a.answer_N != b.answer_N) | (a.k_N != b.k_N)
    if hashed:
        wrong_N |= np.array(a.hashes) != np.array(b.hashes)
    if wrong_N.any():
        first = a.ids[int(np.argmax(wrong_N))]
        raise ScoresError(
            asked=asked,
            found=f"{int(wrong_N.sum())} of {a.n} have another text, answer or number of options, first {first!r}",
            todo="compare scores made from one file of questions with the options in one order",
        )
    return b, name


Pair = tuple[tuple[QuestionSums, np.ndarray], tuple[QuestionSums, np.ndarray]]


def _mean_differences(pair: Pair, level: float) -> dict[str, Difference]:
    (sums_a, draws_a), (sums_b, draws_b) = pair
    values_a, values_b = sums_a.means(sums_a.totals), sums_b.means(sums_b.totals)
    drawn_a, drawn_b = sums_a.means(draws_a), sums_b.means(draws_b)
    infinite = [bool(np.isinf(s.scores.logp_NK[np.arange(s.scores.n), s.scores.answer_N]).any()) for s, _ in pair]
    out = {}
    for name in ("accuracy", "nll", "brier", "mean_confidence"):
        a, b = float(values_a[name]), float(values_b[name])
        low, high = percentile_interval(drawn_b[name] - drawn_a[name], level)
        if name == "nll" and any(infinite):
            a, b = (np.inf if bad else x for bad, x in zip(infinite, (a, b), strict=True))
            low = high = np.nan
        out[name] = _difference(name, a, b, low, high, sums_a.scores.n)
    return out


def _error_differences(pair: Pair, level: float, seed: int) -> dict[str, Difference]:
    n = pair[0][0].scores.n
    cells: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"conf_ece": [], "cw_ece": []}
    for sums, draws_BC in pair:
        thin_M, thin_C = sums.thin_variances
        conf_M, class_C = sums.conf_cells(sums.totals), sums.class_cells(sums.totals)
        cells["conf_ece"].append((conf_M, cell_noise(sums.conf_cells(draws_BC), conf_M, thin_M, seed)))
        cells["cw_ece"].append((class_C, cell_noise(sums.class_cells(draws_BC), class_C, thin_C, seed)))
    out = {}
    for name, ((cell_a, noise_a), (cell_b, noise_b)) in cells.items():
        low, high = error_difference_interval(cell_a, noise_a, cell_b, noise_b, level)
        out[name] = _difference(name, float(np.abs(cell_a).sum()), float(np.abs(cell_b).sum()), low, high, n)
    (conf_a, noise_a), (conf_b, noise_b) = cells["conf_ece"]
    gap_a, gap_b = -float(conf_a.sum()), -float(conf_b.sum())
    low, high = percentile_interval(gap_b - gap_a - noise_b.sum(1) + noise_a.sum(1), level)
    return out | {"signed_gap": _difference("signed_gap", gap_a, gap_b, low, high, n)}


def error_difference_interval(
    cell_a: np.ndarray, noise_a: np.ndarray, cell_b: np.ndarray, noise_b: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """MOVER interval of ``sum |delta_b| - sum |delta_a|`` from cells and *paired* draws of their noise (see
    :func:`compare`).
    """
    a, b = float(np.abs(cell_a).sum()), float(np.abs(cell_b).sum())
    (low_a, high_a), (low_b, high_b) = error_interval(cell_a, noise_a, level), error_interval(cell_b, noise_b, level)
    drawn_a, drawn_b = np.abs(cell_a + noise_a).sum(1), np.abs(cell_b + noise_b).sum(1)
    spread = float(drawn_a.std() * drawn_b.std())
    r = float(np.mean((drawn_a - drawn_a.mean()) * (drawn_b - drawn_b.mean()))) / spread if spread > 0 else 0.0

    def arm(u: float, v: float) -> float:
        return float(np.sqrt(max(u * u + v * v - 2 * r * u * v, 0.0)))

    return b - a - arm(b - low_b, high_a - a), b - a + arm(high_b - b, a - low_a)


def _difference(name: str, a: float, b: float, low: float, high: float, n: int) -> Difference:
    value = b - a if np.isfinite(a) and np.isfinite(b) else np.nan
    if not (low > 0 or high < 0):
        verdict = "undecided"
    elif name in LOWER_IS_BETTER:
        verdict = "b is better" if high < 0 else "a is better"
    elif name in HIGHER_IS_BETTER:
        verdict = "b is better" if low > 0 else "a is better"
    else:
        verdict = "b is lower" if high < 0 else "b is higher"
    return Difference(a, b, float(value), float(low), float(high), n, verdict)
