"""What a ladder is going to do, and what that costs, before anything is done.

Work is counted in passes: one forward pass of one question with all its options, as scoring makes it. A training step of one
question counts three (forward and twice as much backward), whatever the objective: options share the question's tokens.
How long a pass takes is timed on this machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from calibrant.ladder.alignment import Asked, reason_against
from calibrant.ladder.bench import Bench
from calibrant.ladder.cells import Place
from calibrant.ladder.fixes import Fix, missing
from calibrant.progress import duration
from calibrant.questions import QuestionSet
from calibrant.tuning.sweep import Budget

BACKWARD = 3.0
TIMED = 16


@dataclass(frozen=True)
class Pace:
    """Seconds of one pass and of loading the model, timed on this machine."""

    a_pass: float
    a_load: float

    def of(self, job: Job) -> float:
        """Estimated time of a job."""
        return job.passes * self.a_pass + (self.a_load if job.passes else 0.1)


@dataclass(frozen=True)
class Job:
    """One thing to do: ``what`` is sweep, fit, score or align; ``passes`` its size; ``done`` whether it is there already."""

    cell: str
    what: str
    passes: float
    done: bool


@dataclass(frozen=True)
class Plan:
    """The cells of a ladder in the order in which they are done, and the fixes that cannot be run, with the reason.

    Parameters
    ----------
    places : the fixes.
    not_run : reasons, by fix.
    budget : how many settings a sweep tries.
    jobs : what there is to do.
    pace : how fast it goes here; ``None`` where that was not timed.
    steps : optimiser steps of each training.
    """

    places: tuple[Place, ...]
    not_run: Mapping[str, str]
    budget: Budget
    jobs: tuple[Job, ...]
    steps: int
    pace: Pace | None = None

    @property
    def seconds(self) -> float | None:
        """Estimated time of what is not done yet; within a factor of about two."""
        return None if self.pace is None else sum(self.pace.of(job) for job in self.jobs if not job.done)

    def to_text(self) -> str:
        """Every cell with its estimated cost."""
        lines = []
        for job in self.jobs:
            cost = "done" if job.done else ""
            if self.pace is not None and not job.done:
                cost = f"about {duration(self.pace.of(job))}"
            lines.append(f"{job.cell:<44} {job.what:<6} {cost}".rstrip())
        lines += [f"{name:<44} not run: {reason}" for name, reason in self.not_run.items()]
        trainings = sum(
            job.what in ("sweep", "fit") and job.cell.partition("/")[0] in self._trained for job in self.jobs
        )
        head = (
            f"{len(self.places) - len(self.not_run)} fixes, {len(self.jobs)} jobs, {trainings} trainings of {self.steps} "
            f"optimiser steps each; a sweep tries up to {len(self._widest)} settings"
        )
        if any(job.what == "align" for job in self.jobs):
            head += "; an answer is counted as if it took all the new tokens that it may"
        total = self.seconds
        if total is not None:
            head += f"; about {duration(total)} here (timed on a few questions: right to a factor of about two)"
        return "\n".join([head, *lines])

    @property
    def _trained(self) -> set[str]:
        return {place.fix.name for place in self.places if place.fix.family == "tuning"}

    @property
    def _widest(self) -> tuple[object, ...]:
        return max((place.sweep(self.budget) for place in self.places), key=len)


def plan_of(
    bench: Bench,
    fixes: Sequence[Fix],
    exam: Mapping[str, QuestionSet],
    *,
    budget: Budget,
    seeds: int,
    settings: Mapping[str, str] | None = None,
    asked: Asked | None = None,
) -> Plan:
    """The plan of a ladder, from what it shall run and check, and what lies in its folder already; ``settings`` name, by fix,
    one to run instead of a sweep.
    """
    trained = tuple(range(bench.seed, bench.seed + seeds))
    by_name = {fix.name: fix for fix in fixes}
    ordered = sorted(fixes, key=lambda fix: _turn(fix, by_name))
    named = settings or {}
    places = tuple(Place(bench.root, fix, seeds_of(fix, by_name, trained), named.get(fix.name)) for fix in ordered)
    not_run = {
        place.fix.name: reason
        for place in places
        if (reason := missing(place.fix, bench.given, bench.config)) is not None
    }
    jobs = []
    first = True
    for place in places:
        if place.fix.name in not_run:
            continue
        jobs += _jobs(place, bench, exam, budget)
        if asked is not None and reason_against(place.fix) is None:
            jobs.append(_check(place, asked, first))
            first = False
    steps = math.ceil(math.ceil(len(bench.train) / bench.config.batch_size) * bench.config.epochs)
    return Plan(places, not_run, budget, tuple(jobs), steps)


def timed(bench: Bench) -> Pace:
    """How fast it goes, from loading the model and scoring a few calibration questions."""
    sample = bench.calibration.subset(range(min(TIMED, len(bench.calibration))))
    bench = replace(bench, progress=False)
    start = time.monotonic()
    bench.load()
    a_load = time.monotonic() - start
    bench.score(sample.subset([0]), "warm-up")
    start = time.monotonic()
    bench.score(sample, "timing")
    return Pace((time.monotonic() - start) / len(sample), a_load)


def seeds_of(fix: Fix, by_name: Mapping[str, Fix], trained: tuple[int, ...]) -> tuple[int, ...]:
    """All seeds for what is trained, and for what builds on it; the first one for what has no chance in it."""
    of = by_name.get(fix.of)
    random = fix.family == "tuning" or (of is not None and of.family == "tuning")
    return trained if random else trained[:1]


def fit_passes(fix: Fix, bench: Bench) -> float:
    """Passes of fitting one cell."""
    if fix.family in ("none", "weights"):
        return float(len(bench.calibration))
    if fix.family == "post-hoc":
        return float(len(bench.train)) if "train" in fix.fit_on else 0.0
    config = bench.config
    evaluations = math.ceil(config.epochs * config.evaluations_per_epoch) + 1
    return BACKWARD * config.epochs * len(bench.train) + evaluations * len(bench.calibration)


def score_passes(fix: Fix, bench: Bench, exam: Mapping[str, QuestionSet]) -> float:
    """Passes of scoring one cell."""
    if fix.family == "post-hoc":
        return 0.0
    calibration = len(bench.calibration) if fix.family == "tuning" else 0
    return float(calibration + sum(map(len, exam.values())))


def _turn(fix: Fix, by_name: Mapping[str, Fix]) -> int:
    """Cheap ones first, so that the table has rows early; then what is trained, each before what builds on it."""
    of = by_name.get(fix.of)
    if of is not None and of.family == "tuning":
        return 4
    return {"none": 0, "post-hoc": 1, "weights": 2, "tuning": 3}[fix.family]


def _jobs(place: Place, bench: Bench, exam: Mapping[str, QuestionSet], budget: Budget) -> list[Job]:
    fix, chosen, passes = place.fix, place.chosen, fit_passes(place.fix, bench)
    first = place.seeds[0]
    jobs = [
        Job(place.cell(setting, first).name, "sweep", passes, chosen is not None or _fitted(place, setting, first))
        for setting in place.sweep(budget)
    ]
    name = "(chosen)" if chosen is None else chosen.name
    for seed in place.seeds:
        cell = f"{fix.name}/{name}/seed-{seed}"
        if seed != first:
            jobs.append(Job(cell, "fit", passes, chosen is not None and _fitted(place, chosen, seed)))
        scored = chosen is not None and all(place.cell(chosen, seed).path(n).exists() for n in ("calibration", *exam))
        jobs.append(Job(cell, "score", score_passes(fix, bench, exam), scored))
    return jobs


def _check(place: Place, asked: Asked, first: bool) -> Job:
    chosen, seed = place.chosen, place.seeds[0]
    cell = f"{place.fix.name}/{'(chosen)' if chosen is None else chosen.name}/seed-{seed}"
    done = chosen is not None and asked.done(place.cell(chosen, seed))
    return Job(cell, "align", asked.passes(first=first), done)


def _fitted(place: Place, setting: object, seed: int) -> bool:
    return any(one == setting and place.cell(one, seed).result is not None for one in place.fix.candidates)
