"""``compare``: two ``Scores`` on the same questions, by a paired bootstrap. Shape suffixes: N questions, B draws, C
columns.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.bins import check_settings
from calibrant.metrics.measurement import finite, only_scores
from calibrant.metrics.planning import enough_draws, holm, n_to_decide
from calibrant.metrics.proportions import drawn_n, paired_change_interval
from calibrant.metrics.rare import LOSSES, change_reaching
from calibrant.metrics.sums import QuestionSums, bootstrap_sums, cluster_codes
from calibrant.metrics.text import (
    LABELS,
    aligned,
    change_cells,
    in_clusters,
    labelled,
    questions_needed,
    rounded,
    with_interval,
)
from calibrant.metrics.uncertainty import (
    cell_noise,
    cluster_factor,
    error_difference_interval,
    percentile_interval,
    possible,
)
from calibrant.scores import Scores

LOWER_IS_BETTER = ("conf_ece", "cw_ece", "smooth_ece", "nll", "brier")
HIGHER_IS_BETTER = ("accuracy", "auroc")
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Difference:
    """One metric of two sets of scores on the same questions.

    Parameters
    ----------
    a, b : the two values.
    value : ``b - a``: for before and after, the change.
    low, high : its paired interval; ``nan`` where there is none.
    n : questions behind it.
    p_value : of no difference: ``2 Phi(-z |value| / margin)`` with margin the distance from the value to the end of the
        interval that faces 0, so that it is below ``1 - level`` where the interval leaves out 0; never below
        ``1 / (n_boot + 1)``, more than the draws can say; ``nan`` where there is no interval.
    n_needed : questions at which the interval would leave out 0 with 80 % power, were this value the truth; ``None`` if
        it does already, if the value is 0 or within rounding of it, or if they are over a billion.
    verdict : ``"b is better"``, ``"a is better"``, ``"b is higher"``, ``"b is lower"`` (where neither end is better),
        or ``"undecided"`` where the interval holds 0.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    p_value: float
    n_needed: int | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a finite number is ``None``."""
        numbers = {name: finite(getattr(self, name)) for name in ("a", "b", "value", "low", "high", "p_value")}
        return {**numbers, "n": self.n, "n_needed": self.n_needed, "verdict": self.verdict}


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

    def sentence(self, name: str, a: str = "a", b: str = "b") -> str:
        """One difference in words, with the names of the two.

        >>> answer = [0] * 30 + [1] * 20
        >>> one = Scores.from_probs([[0.7, 0.3]] * 50, answer)
        >>> compare(one, one).sentence("nll", "before", "after")
        'nll: before and after do not differ on these 50 questions'
        """
        d = self[name]
        share = f"{100 * self.level:g} % interval {d.low:+.4f} to {d.high:+.4f}, n = {d.n}"
        if d.value == 0:
            return f"{name}: {a} and {b} do not differ on these {d.n} questions"
        change = f"{name}: from {d.a:.4f} ({a}) to {d.b:.4f} ({b}), {d.value:+.4f}"
        if np.isnan(d.value):
            infinite = " and ".join(word for word, value in ((a, d.a), (b, d.b)) if np.isinf(value))
            return f"{name}: infinite ({infinite}), since some answers have probability 0; no change to speak of, n = {d.n}"
        if d.verdict != UNDECIDED:
            word = {"a": a, "b": b}[d.verdict[0]] + d.verdict[1:]
            return f"{change}; {word}, {share}"
        needed = "" if d.n_needed is None else f"; would need about {rounded(d.n_needed)} questions to settle"
        return f"{change}; undecided, {share}{needed}"

    def __repr__(self) -> str:
        """In a line; ``print`` shows the table."""
        shown = (
            f"{LABELS[name]} {with_interval(d, '+.3f')}, {d.verdict}"
            for name, d in self.differences.items()
            if name in ("accuracy", "conf_ece")
        )
        return f"<Comparison: {self.n} questions, b - a: {'; '.join(shown)}>"

    def __str__(self) -> str:
        return self.to_text()

    def __iter__(self) -> Iterator[str]:
        return iter(self.differences)

    def keys(self) -> KeysView[str]:
        """Names of the metrics."""
        return self.differences.keys()

    def __getitem__(self, name: str) -> Difference:
        if name not in self.differences:
            raise ConfigError(
                asked=f"the difference {name!r}",
                found=f"differences: {', '.join(self.differences)}",
                todo="ask for one of those",
            )
        return self.differences[name]

    def to_text(self) -> str:
        """What the command prints: one line a metric with both values, the change, its interval, verdict, and what would
        settle it.
        """
        rows = [("", "a", "b", "b - a", f"{100 * self.level:g}% interval", "")]
        for label, d in labelled(self.differences).items():
            rows.append((label, f"{d.a:.4f}", f"{d.b:.4f}", *change_cells(d), d.verdict + questions_needed(d)))
        how = f"matched by {self.matched_by}; paired bootstrap, {self.n_boot} draws, seed {self.seed}"
        return "\n".join([f"{self.n} questions{in_clusters(self.n_clusters)}, {how}", *aligned(rows)])

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

    Both are resampled with the same weights, so what the questions have in common cancels. Accuracy by Newcombe's interval
    of a paired difference of shares (with clusters, at the effective number of questions); other means by the percentile
    bootstrap, nll and Brier also as far as accuracy's interval takes them where both predict the same
    (:func:`~calibrant.metrics.rare.change_reaching`); calibration errors by
    :func:`~calibrant.metrics.uncertainty.error_difference_interval`.

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
    only_scores("a comparison", a, b)
    check_settings(n_bins, n_boot, level, seed)
    b, matched_by = align(a, b)
    if a.n < 2:
        raise ScoresError(asked="a paired comparison", found="one question", todo="give two questions or more")
    sums_a, sums_b = QuestionSums(a, n_bins), QuestionSums(b, n_bins)
    cluster_N = cluster_codes(a, cluster)
    split = sums_a.n_columns
    draws_BC = bootstrap_sums(
        lambda rows: np.hstack([sums_a.columns(rows), sums_b.columns(rows)]),
        a.n,
        n_boot,
        seed,
        cluster_N,
        parts=(split,),
    )
    pair = ((sums_a, draws_BC[:, :split]), (sums_b, draws_BC[:, split:]))
    n_clusters = None if cluster_N is None else int(cluster_N.max()) + 1
    wider = cluster_factor(n_clusters, level)
    differences = _mean_differences(pair, level, wider, n_clusters) | _error_differences(pair, level, seed, wider)
    order = ("accuracy", "conf_ece", "cw_ece", "nll", "brier", "signed_gap", "mean_confidence")
    return Comparison(
        n=a.n,
        n_bins=n_bins,
        n_boot=n_boot,
        level=level,
        seed=seed,
        matched_by=matched_by,
        n_clusters=n_clusters,
        differences={name: differences[name] for name in order},
    )


def align(a: Scores, b: Scores) -> tuple[Scores, str]:
    """``b`` in the order and width of ``a``, and what they were matched by: ``"id"``, ``"row number"`` (ids that are none
    else) or ``"hash"``.

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
            todo="score the same questions twice, or (in Python) select() the common ones and say so",
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
    if b.k != a.k:  # trailing columns that no question has
        wide_NK = np.full((b.n, a.k), -np.inf)
        wide_NK[:, : min(a.k, b.k)] = b.logp_NK[:, : a.k]
        b = replace(b, logp_NK=wide_NK)
    counted = name == "id" and a.ids == tuple(map(str, range(a.n)))
    return b, "row number" if counted else name


Pair = tuple[tuple[QuestionSums, np.ndarray], tuple[QuestionSums, np.ndarray]]


def _mean_differences(pair: Pair, level: float, wider: float, n_clusters: int | None) -> dict[str, Difference]:
    (sums_a, draws_a), (sums_b, draws_b) = pair
    values_a, values_b = sums_a.means(sums_a.totals), sums_b.means(sums_b.totals)
    drawn_a, drawn_b = sums_a.means(draws_a), sums_b.means(draws_b)
    infinite = [bool(np.isinf(s.scores.logp_NK[np.arange(s.scores.n), s.scores.answer_N]).any()) for s, _ in pair]
    n, runs = sums_a.scores.n, [(sums_a.scores, sums_b.scores)]
    out = {}
    for name in ("accuracy", "nll", "brier", "mean_confidence"):
        a, b = float(values_a[name]), float(values_b[name])
        drawn_B = b - a + wider * (drawn_b[name] - drawn_a[name] - (b - a))
        if name == "accuracy":
            answers_a, answers_b = sums_a.scores.correct_N[None], sums_b.scores.correct_N[None]
            low, high = accuracy_change_interval(answers_a, answers_b, drawn_B, n_clusters, level)
        else:
            low, high = percentile_interval(drawn_B, level)
        if name == "nll" and any(infinite):
            a, b = (np.inf if bad else x for bad, x in zip(infinite, (a, b), strict=True))
            low = high = np.nan
        elif name in LOSSES:
            low, high = change_reaching((low, high), b - a, name, runs, drawn_B, n_clusters, level)
        out[name] = difference_of(name, a, b, low, high, n, level, len(draws_a))
    return out


def accuracy_change_interval(
    a_SN: np.ndarray, b_SN: np.ndarray, drawn_B: np.ndarray, n_clusters: int | None, level: float
) -> tuple[float, float]:
    """Interval of a change in accuracy, from which answers are right in each of S paired runs and the draws of the change.

    :func:`~calibrant.metrics.proportions.paired_change_interval` at N questions; with clusters or several runs at as many
    as would vary as the draws do. It has a width where no answer changed, and its p-values are McNemar's (mid-p) within a
    few thousandths where a bootstrap's are too small (``tests/unit/metrics/test_proportions.py``).
    """
    s, n = a_SN.shape
    effective = float(n)
    if s > 1 or n_clusters is not None:
        single = float((b_SN.astype(np.float64) - a_SN).var(axis=1).mean())
        effective = drawn_n(single, drawn_B, float(n * s), float(n_clusters or n))
    return paired_change_interval(a_SN, b_SN, effective, level)


def _error_differences(pair: Pair, level: float, seed: int, wider: float) -> dict[str, Difference]:
    n, n_boot = pair[0][0].scores.n, len(pair[0][1])
    cells: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"conf_ece": [], "cw_ece": []}
    for sums, draws_BC in pair:
        thin_M, thin_C = sums.thin_variances
        conf_M, class_C = sums.conf_cells(sums.totals), sums.class_cells(sums.totals)
        cells["conf_ece"].append((conf_M, cell_noise(sums.conf_cells(draws_BC), conf_M, thin_M, seed) * wider))
        cells["cw_ece"].append((class_C, cell_noise(sums.class_cells(draws_BC), class_C, thin_C, seed) * wider))
    out = {}
    for name, ((cell_a, noise_a), (cell_b, noise_b)) in cells.items():
        low, high = possible(error_difference_interval(cell_a, noise_a, cell_b, noise_b, level), -1, 1)
        a, b = float(np.abs(cell_a).sum()), float(np.abs(cell_b).sum())
        out[name] = difference_of(name, a, b, low, high, n, level, n_boot)
    (conf_a, noise_a), (conf_b, noise_b) = cells["conf_ece"]
    gap_a, gap_b = -float(conf_a.sum()), -float(conf_b.sum())
    low, high = percentile_interval(gap_b - gap_a - noise_b.sum(1) + noise_a.sum(1), level)
    return out | {"signed_gap": difference_of("signed_gap", gap_a, gap_b, low, high, n, level, n_boot)}


def difference_of(
    name: str, a: float, b: float, low: float, high: float, n: int, level: float, n_boot: int
) -> Difference:
    """The :class:`Difference` that two values and the interval of ``b - a`` make: p-value, verdict, questions needed."""
    value = b - a if np.isfinite(a) and np.isfinite(b) else np.nan
    if not (low > 0 or high < 0):
        verdict = UNDECIDED
    elif name in LOWER_IS_BETTER:
        verdict = "b is better" if high < 0 else "a is better"
    elif name in HIGHER_IS_BETTER:
        verdict = "b is better" if low > 0 else "a is better"
    else:
        verdict = "b is lower" if high < 0 else "b is higher"
    needed = n_to_decide(float(value), float(low), float(high), n, level) if verdict == UNDECIDED else None
    return Difference(
        a, b, float(value), float(low), float(high), n, _p_value(value, low, high, level, n_boot), needed, verdict
    )


def _p_value(value: float, low: float, high: float, level: float, n_boot: int) -> float:
    margin = value - low if value > 0 else high - value
    if np.isnan(margin):
        return float("nan")
    if margin <= 0:
        return 1.0 if value == 0 else 1 / (n_boot + 1)
    return max(float(2 * ndtr(-ndtri((1 + level) / 2) * abs(value) / margin)), 1 / (n_boot + 1))


def compare_many(
    base: Scores, others: Mapping[str, Scores], metric: str = "conf_ece", *, level: float = 0.95, **settings: Any
) -> dict[str, tuple[Difference, float]]:
    """Each of ``others`` against ``base`` on one metric, with Holm's correction for having looked at all of them.

    Returns the difference (its interval uncorrected) and the corrected p-value by name; call a difference real where
    that is below ``1 - level``. Further settings go to :func:`compare`, with draws enough for so many comparisons
    (:func:`calibrant.metrics.planning.enough_draws`).

    >>> answer = [0] * 30 + [1] * 20
    >>> base = Scores.from_probs([[0.99, 0.01]] * 50, answer)
    >>> cured = Scores.from_probs([[0.62, 0.38]] * 50, answer)
    >>> {name: p < 0.05 for name, (d, p) in compare_many(base, {"cured": cured, "same": base}).items()}
    {'cured': True, 'same': False}
    """
    settings["n_boot"] = enough_draws(settings.get("n_boot", 1000), len(others), level)
    found = {name: compare(base, other, level=level, **settings)[metric] for name, other in others.items()}
    corrected = holm([1.0 if np.isnan(d.p_value) else d.p_value for d in found.values()])
    return {name: (d, p) for (name, d), p in zip(found.items(), corrected, strict=True)}
