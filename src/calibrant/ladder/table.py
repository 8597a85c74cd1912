"""The table of a ladder, from the scores that lie in its folder; at any time, whether the ladder has finished or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from calibrant.errors import ConfigError
from calibrant.files import RUN_FILE
from calibrant.ladder.alignment import Alignment, asked_in
from calibrant.ladder.cells import Place, json_if_any, places
from calibrant.ladder.fixes import ALIGNED
from calibrant.ladder.standing import Standing, standing_of
from calibrant.metrics import CONTEST_METRICS, Contest, Difference, Estimate, holm, tukey
from calibrant.metrics.comparison import HIGHER_IS_BETTER, UNDECIDED
from calibrant.metrics.measurement import DISTINGUISHABLE, finite
from calibrant.questions import QuestionSet
from calibrant.scores import Scores
from calibrant.scoring.run import with_questions
from calibrant.sets import shared_groups

FORMAT, FORMAT_VERSION = "calibrant-ladder", 1


@dataclass(frozen=True)
class Contrast:
    """A paired difference to another fix, with its p-value corrected for all fixes that were looked at.

    ``difference`` is this fix minus the other, ``z`` how far it is from 0 in standard errors; ``verdict`` is ``better``,
    ``worse`` or ``undecided``, decided where ``p_corrected <= 1 - level`` and the interval leaves out 0. ``p_corrected``
    is ``None`` where the row is not a fix and so in no family of comparisons.
    """

    other: str
    difference: Difference
    z: float
    p_corrected: float | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "other": self.other,
            **self.difference.to_json(),
            "z": self.z,
            "p_corrected": self.p_corrected,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Cut:
    """By how much a fix cut the aligned model's excess of conf-ECE over its floor, in percent.

    ``100 (1 - (E - F) / (E_0 - F_0))`` with E conf-ECE, F the mean of its floor, and index 0 the aligned model: 100 is the
    noise floor, 0 no change. The interval is that of the paired difference ``E - E_0``, with ``E_0 - F_0`` taken as
    known. There is none where the aligned model cannot be told from calibrated. Source: ours.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON."""
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}


@dataclass(frozen=True)
class Entry:
    """One fix on one set of questions: a row of the table.

    ``estimates`` and ``runs`` by metric: mean over seeds with its interval, and each seed's value. ``against_aligned``
    and ``against_best`` by metric; the best is the best *other* fix by the value itself, and only fixes are compared with it.
    """

    name: str
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    runs: Mapping[str, tuple[float, ...]]
    against_aligned: Mapping[str, Contrast]
    against_best: Mapping[str, Contrast]
    cut: Cut | None

    def spread(self, metric: str) -> float | None:
        """Standard deviation between seeds, where there are two or more."""
        values = np.array(self.runs[metric])
        return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, one object a metric."""
        out: dict[str, Any] = {"seeds": list(self.seeds), "cut": None if self.cut is None else self.cut.to_json()}
        for metric, estimate in self.estimates.items():
            values = [finite(value) for value in self.runs[metric]]
            out[metric] = {**estimate.to_json(), "runs": values, "sd": self.spread(metric)}
            for name, found in (("against_aligned", self.against_aligned), ("against_best", self.against_best)):
                out[metric][name] = found[metric].to_json() if metric in found else None
        return out


@dataclass(frozen=True)
class Standings:
    """One set of questions with its rows, in the order of the fixes; ``best`` names the best fix by each metric."""

    name: str
    title: str
    in_domain: bool
    n: int
    n_clusters: int | None
    entries: Mapping[str, Entry]
    best: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        head = {name: getattr(self, name) for name in ("name", "title", "in_domain", "n", "n_clusters")}
        return {**head, "best": dict(self.best), "rows": {name: e.to_json() for name, e in self.entries.items()}}


@dataclass(frozen=True)
class Table:
    """What a ladder found. ``t.sets[0].entries["cft"].estimates["conf_ece"].value`` reads one number.

    ``asked`` : what alignment is checked on, ``None`` where it is not. ``shared`` : sentences on groups of test questions
    that a fix was made by too.
    """

    run: Mapping[str, Any]
    settings: Mapping[str, Any]
    fixes: Sequence[Standing]
    sets: Sequence[Standings]
    facts: Mapping[str, Any]
    asked: Mapping[str, Any] | None = None
    shared: Sequence[str] = ()

    def alignment(self, name: str) -> Alignment:
        """Whether a fix kept alignment."""
        return next(one.alignment for one in self.fixes if one.fix.name == name)

    @property
    def level(self) -> float:
        """Of the intervals."""
        return float(self.settings["level"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "run": dict(self.run),
            "settings": dict(self.settings),
            "facts": dict(self.facts),
            "alignment": None if self.asked is None else dict(self.asked),
            "shared_groups": list(self.shared),
            "fixes": [standing.to_json() for standing in self.fixes],
            "sets": [one.to_json() for one in self.sets],
        }


def read_table(
    out: str | Path,
    *,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | None = None,
) -> Table:
    """The table of what a ladder's folder holds by now; numbers and intervals are those of :class:`Contest`.

    Two families of comparisons in each set and metric: every fix with the aligned model, corrected by Holm, and every fix
    with the best other one, corrected by Tukey for all pairs of fixes (:func:`~calibrant.metrics.tukey`), since which one
    is best is seen on the same questions; Holm alone would call a fix worse than the best in a quarter of the contests
    of 28 equal fixes (``benchmarks/best_other_errors.py``). The pre-alignment model, where there is one, is shown beside
    them and is not a rival.

    Parameters
    ----------
    out : the ladder's folder.
    n_bins, n_boot, level, seed, cluster : as for ``measure``.

    Raises
    ------
    ConfigError : no ladder there, or ``cluster`` names no column.
    """
    out = Path(out)
    run, found = json_if_any(out / RUN_FILE), places(out)
    if run is None or "budget" not in run or not found:
        raise ConfigError(asked=f"the table of {out}", found="no ladder there", todo="give the folder of --out")
    settings = {"n_bins": n_bins, "n_boot": n_boot, "level": level, "seed": seed, "cluster": cluster}
    sets: list[Standings] = []
    every: list[Mapping[str, Any]] = []
    commands: dict[str, None] = {}  # in order: a folder may have come about by several calls
    for name in run["questions"]:
        if name in ("train", "calibration"):
            continue
        file = out / "questions" / f"{name}.jsonl"  # as they are now: groups may have been named since they were scored
        questions = QuestionSet.load(file) if file.is_file() else None
        scored = {place.fix.name: _scores(place, name, questions) for place in found}
        scored = {fix: runs for fix, runs in scored.items() if runs}
        every += [scores.provenance for runs in scored.values() for scores in runs.values()]
        commands |= dict.fromkeys(one["command"] for one in every if one.get("command"))
        if scored:
            sets.append(_standings(name, run["questions"][name], found, scored, settings))
    kept = {key: every[0].get(key) if every else None for key in ("revision", "weights")}
    kept |= {key: _all_of([one.get(key) for one in every]) for key in ("dtype", "device")}
    versions = [one.get("versions") or {} for one in every]
    kept["versions"] = {
        name: _all_of([one.get(name) for one in versions]) for name in (versions[0] if versions else ())
    }
    kept["command"] = "; ".join(commands) or None
    asked = asked_in(out)
    standing = [standing_of(place, found, asked) for place in found]
    return Table(run, settings, standing, sets, kept, asked, _shared(out, run["questions"], cluster))


def _all_of(values: Sequence[Any]) -> str | None:
    """All different values, in the order in which they come; ``None`` where there is none."""
    return " and ".join(dict.fromkeys(str(value) for value in values if value is not None)) or None


def _shared(out: Path, names: Iterable[str], cluster: str | None) -> tuple[str, ...]:
    if cluster is None:
        return ()
    files = {name: out / "questions" / f"{name}.jsonl" for name in names}
    if not all(file.is_file() for file in files.values()):
        return ()
    return tuple(shared_groups({name: QuestionSet.load(file) for name, file in files.items()}, cluster))


def _scores(place: Place, name: str, questions: QuestionSet | None) -> dict[int, Scores]:
    chosen = place.chosen
    if chosen is None or place.not_run is not None:
        return {}
    found = {seed: place.cell(chosen, seed).scores(name) for seed in place.seeds}
    known = {seed: scores for seed, scores in found.items() if scores is not None}
    return known if questions is None else {seed: with_questions(scores, questions) for seed, scores in known.items()}


def _standings(
    name: str,
    questions: Mapping[str, Any],
    found: Sequence[Place],
    scored: Mapping[str, Mapping[int, Scores]],
    settings: Mapping[str, Any],
) -> Standings:
    seeds = {fix: tuple(runs) for fix, runs in scored.items()}
    contest = Contest({fix: list(runs.values()) for fix, runs in scored.items()}, seeds=seeds, **settings)
    estimates = {fix: contest.estimates(fix) for fix in scored}
    rivals = [place.fix.name for place in found if place.fix.family != "none" and place.fix.name in scored]
    others = {fix: _best_others(estimates, [r for r in rivals if r != fix]) for fix in rivals}
    aligned = {
        fix: _contrasts(contest, fix, dict.fromkeys(CONTEST_METRICS, ALIGNED))
        for fix in scored
        if ALIGNED in scored and fix != ALIGNED
    }
    best = {fix: _contrasts(contest, fix, others[fix]) for fix in rivals}
    level = float(settings["level"])
    least = 1 / (int(settings["n_boot"]) + 1)  # no smaller p-value than the draws can say
    aligned = _corrected(
        aligned, rivals, level, lambda some: holm([max(2 * float(ndtr(-one.z)), least) for one in some])
    )
    best = _corrected(
        best, rivals, level, lambda some: [max(p, least) for p in tukey([one.z for one in some], len(rivals))]
    )
    entries = {
        fix: Entry(
            name=fix,
            seeds=tuple(scored[fix]),
            estimates=estimates[fix],
            runs=contest.per_run(fix),
            against_aligned=aligned.get(fix, {}),
            against_best=best.get(fix, {}),
            cut=_cut(estimates[fix]["conf_ece"], estimates[ALIGNED]["conf_ece"], aligned[fix]["conf_ece"].difference)
            if fix in aligned
            else None,
        )
        for fix in scored
    }
    title = name if questions["name"] == name else f"{questions['name']}, {name}"
    return Standings(
        name, title, name == "test", contest.n, contest.n_clusters, entries, _best_others(estimates, rivals)
    )


def _best_others(estimates: Mapping[str, Mapping[str, Estimate]], names: Sequence[str]) -> dict[str, str]:
    """The best of some fixes by each metric's value; of equal ones the first."""
    best = {}
    for metric in CONTEST_METRICS:
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        known = [fix for fix in names if not np.isnan(estimates[fix][metric].value)]
        if known:
            best[metric] = min(known, key=lambda fix: sign * estimates[fix][metric].value)
    return best


def _contrasts(contest: Contest, fix: str, others: Mapping[str, str]) -> dict[str, Contrast]:
    found = {}
    for other in dict.fromkeys(others.values()):
        metrics = [metric for metric, one in others.items() if one == other]
        differences, z = contest.differences(other, fix, metrics), contest.z_values(other, fix, metrics)
        for metric in metrics:
            found[metric] = Contrast(other, differences[metric], z[metric], None, _word(differences[metric]))
    return {metric: found[metric] for metric in CONTEST_METRICS if metric in found}


def _corrected(
    contrasts: Mapping[str, Mapping[str, Contrast]],
    rivals: Sequence[str],
    level: float,
    correct: Callable[[Sequence[Contrast]], list[float]],
) -> dict[str, dict[str, Contrast]]:
    """The contrasts of the rivals with corrected p-values and verdicts, metric by metric."""
    out = {fix: dict(found) for fix, found in contrasts.items()}
    for metric in CONTEST_METRICS:
        family = [fix for fix in rivals if metric in out.get(fix, {})]
        for fix, p in zip(family, correct([out[fix][metric] for fix in family]), strict=True):
            verdict = out[fix][metric].verdict if p <= 1 - level else UNDECIDED
            out[fix][metric] = replace(out[fix][metric], p_corrected=p, verdict=verdict)
    return out


def _word(difference: Difference) -> str:
    return {"b is better": "better", "a is better": "worse"}.get(difference.verdict, UNDECIDED)


def _cut(after: Estimate, before: Estimate, change: Difference) -> Cut | None:
    assert after.floor_mean is not None
    assert before.floor_mean is not None
    excess = before.value - before.floor_mean
    if before.verdict != DISTINGUISHABLE:
        return None  # no excess that could be told from chance
    moved = after.floor_mean - before.floor_mean
    low, high = (-100 * (end - moved) / excess for end in (change.high, change.low))
    high = min(high, 100 * (1 + after.floor_mean / excess))  # E = 0
    return Cut(100 * (1 - (after.value - after.floor_mean) / excess), low, high)
