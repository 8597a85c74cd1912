"""``ladder``: every fix on equal data and splits, into one table.

Protocol, in the order of time; one fix after the other:

1. **Sweep.** Up to 1, 3 or 5 settings (the budget), on the first seed. Fitting is handed a :class:`Bench`, which holds
   training and calibration questions and no test question. Trained fixes do all their optimiser steps, equally many.
2. **Choice.** The setting with the least held-out log loss on the calibration questions; written to ``choice.json``.
3. **Test.** Only then are the test and out-of-domain questions scored, by the chosen setting alone, for each seed.
4. **Alignment**, where pairs or prompts were given: the first seed's chosen model against the aligned one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

from calibrant.alignment import AlignSettings, Collected, PreferencePair, Prompt
from calibrant.errors import CalibrantError, ConfigError, OutputError, memory_full
from calibrant.files import alone, claim_folder
from calibrant.ladder.alignment import CHECK, Asked, check, reason_against
from calibrant.ladder.arguments import refuse
from calibrant.ladder.bench import Bench
from calibrant.ladder.cells import NAMED, Cell, Place
from calibrant.ladder.families import DOERS, Changed, Doer
from calibrant.ladder.fixes import select
from calibrant.ladder.page import write_table
from calibrant.ladder.plan import Plan, fit_passes, plan_of, score_passes, timed
from calibrant.ladder.table import Table, read_table
from calibrant.metrics.bins import check_settings
from calibrant.progress import duration
from calibrant.prompts import PromptStyle, given_style
from calibrant.questions import QuestionSet, check_cluster
from calibrant.scores import Scores
from calibrant.scoring.models import run_identity
from calibrant.sets import checked_sets
from calibrant.tuning import TuneConfig
from calibrant.tuning.config import for_scoring, given_config
from calibrant.tuning.sweep import Budget, Setting

CRITERION = {
    "none": "none: nothing to choose",
    "post-hoc": "out-of-fold log loss of the calibration questions (5 folds)",
    "weights": "log loss of the calibration questions",
    "tuning": "least log loss of the calibration questions at an evaluation",
}


@dataclass(frozen=True)
class Ladder:
    """A ladder to be planned, run and read.

    Parameters
    ----------
    model : the aligned model: hub id, local folder or GGUF file.
    splits : ``train``, ``calibration`` and ``test``, disjoint by content.
    out : the ladder's folder.
    ood : out-of-domain test sets by name.
    reference : the pre-alignment model, for the fixes that need it.
    alignment_adapter : the LoRA adapter that makes the aligned model of ``reference``.
    fixes : names (:data:`calibrant.ladder.FIXES`), all by default; those that cannot be run are listed with the reason.
    budget : ``"quick"``, ``"standard"`` or ``"thorough"``: 1, 3 or 5 settings a sweep.
    seeds : trainings of the chosen setting, with seeds ``config.seed``, ``config.seed + 1`` …
    settings : by fix, a candidate's name to run instead of a sweep, as an earlier ladder chose it: ``{"cft": "lr-x3"}``.
    config : settings that all trained fixes start from; objective, patience and ``keep`` are the ladder's.
    style : how questions are put; letters in a raw prompt by default.
    preferences, prompts : pairs and prompts on which each fix that changes the model is compared with the aligned model,
        with the first seed of its chosen setting (:func:`calibrant.alignment.align_check`); either or both.
    align : how; by default the checkable instructions are asked too where there are prompts.
    progress, command, batch_tokens : as for ``restore``.
    loading : further arguments of :func:`calibrant.load_model`; a revision is the aligned model's.

    Raises
    ------
    LeakageError : a question is in two splits. QuestionError : a set without questions.
    ConfigError : an argument of another kind, an unknown fix, setting or budget, a set with the name of a split,
    alignment settings with nothing to check on, or a further process of a run of several.
    """

    model: str | Path
    splits: Mapping[str, QuestionSet]
    out: str | Path
    ood: Mapping[str, QuestionSet] = field(default_factory=dict)
    reference: str | Path | None = None
    alignment_adapter: str | Path | None = None
    fixes: Sequence[str] | None = None
    budget: Budget = "standard"
    seeds: int = 3
    settings: Mapping[str, str] = field(default_factory=dict)
    config: TuneConfig = field(default_factory=TuneConfig)
    style: PromptStyle = field(default_factory=PromptStyle)
    preferences: Collected[PreferencePair] | None = None
    prompts: Collected[Prompt] | None = None
    align: AlignSettings | None = None
    progress: bool = False
    command: str | None = None
    batch_tokens: int | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: dict[str, Any] = {"config": given_config(self.config), "style": given_style(self.style, {})}
        given["splits"], given["ood"] = checked_sets(self.splits, self.ood)
        for name, value in given.items():
            object.__setattr__(self, name, value)
        refuse(self)

    @property
    def exam(self) -> dict[str, QuestionSet]:
        """The questions that nothing is fitted on: test and out-of-domain sets."""
        return {"test": self.splits["test"], **self.ood}

    @property
    def asked(self) -> Asked | None:
        """What alignment is checked on, if it is."""
        return Asked.of(self.preferences, self.prompts, self.align, self.config.seed)

    def bench(self) -> Bench:
        """What fixes are fitted on."""
        return Bench(
            root=Path(self.out),
            model=self.model,
            train=self.splits["train"],
            calibration=self.splits["calibration"],
            style=self.style,
            config=self.config,
            seed=self.config.seed,
            reference=self.reference,
            alignment_adapter=self.alignment_adapter,
            progress=self.progress,
            command=self.command,
            batch_tokens=self.batch_tokens,
            loading=dict(self.loading),
        )

    def plan(self, bench: Bench | None = None) -> Plan:
        """What there is to do."""
        return plan_of(
            bench or self.bench(),
            select(self.fixes),
            self.exam,
            budget=self.budget,
            seeds=self.seeds,
            settings=self.settings,
            asked=self.asked,
        )

    def dry_run(self) -> Plan:
        """What there is to do and how long it may take, from timing a few calibration questions; writes nothing."""
        bench = self.bench()
        return replace(self.plan(bench), pace=timed(bench))

    def run(self) -> None:
        """Do it, or go on with it."""
        bench = self.bench()
        plan = self.plan(bench)
        asked = self.asked
        _claim(self)
        if asked is not None:
            asked.write(Path(self.out))
        _Run(bench, self.exam, plan, asked).go()


def ladder(
    model: str | Path,
    splits: Mapping[str, QuestionSet],
    *,
    out: str | Path,
    table: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Table:
    """Run every fix on equal data and splits, compare them, and write ``out/table``; the protocol is at the module's head.

    Resumable: called again with the same arguments it goes on where it stopped, however it stopped. More fixes and more
    seeds may be added to a folder, by several processes at a time too: none touches a cell that another works on. Model,
    prompt, questions, base settings and budget may not change. An error in one cell is recorded there, and the other cells
    go on; a later call tries that cell again, but for a setting of a sweep that has chosen another. Where memory was too
    small for a setting, nothing is chosen until a later call has tried it.

    Parameters
    ----------
    model, splits, out, settings : of :class:`Ladder`.
    table : arguments of :func:`calibrant.ladder.read_table`: ``n_bins``, ``n_boot``, ``level``, ``cluster``.

    Raises
    ------
    ConfigError : ``out`` holds another ladder; and as :class:`Ladder`.
    OutputError : the disk is full or forbidden: the one error that stops everything.
    """
    climb = Ladder(model, splits, out, **settings)
    known = {name: p.default for name, p in signature(read_table).parameters.items() if name != "out"}
    if wrong := set(table or {}) - set(known):
        raise ConfigError(
            asked="the table of a ladder", found=f"unknown: {', '.join(sorted(wrong))}", todo=f"give {', '.join(known)}"
        )
    of_table = known | dict(table or {})
    check_cluster(of_table.pop("cluster"), climb.exam)
    check_settings(**of_table)
    climb.run()
    found = read_table(out, **dict(table or {}))
    write_table(found, out)
    return found


@dataclass
class _Run:
    bench: Bench
    exam: Mapping[str, QuestionSet]
    plan: Plan
    asked: Asked | None = None
    _doers: dict[str, Doer] = field(default_factory=dict)
    _short: set[str] = field(default_factory=set)  # cells that memory was too small for in this call
    _clock: _Clock | None = None

    def go(self) -> None:
        for place in self.plan.places:
            place.claim(self.plan.not_run.get(place.fix.name))
        self._clock = _Clock(self.plan)
        for place in self.plan.places:
            if (reason := self.plan.not_run.get(place.fix.name)) is not None:
                self.bench.say(f"{place.fix.name}: not run: {reason}")
                continue
            setting = self._choose(place)
            if setting is None:
                continue
            for seed in place.seeds:
                with self._alone(place.cell(setting, seed)) as cell:
                    if self._fit(cell) is not None:
                        self._score(cell)
            with self._alone(place.cell(setting, place.seeds[0])) as cell:
                self._align(cell)
        self.bench.release()

    def _choose(self, place: Place) -> Setting | None:
        """The sweep; from training and calibration questions alone, and never again once it is written down."""
        if place.choice is not None:
            return place.chosen
        tried: list[dict[str, Any]] = []
        for setting in place.sweep(self.plan.budget):
            with self._alone(place.cell(setting, place.seeds[0])) as cell:
                result = self._fit(cell)
            loss = None if result is None else result["nll"]
            error = cell.errors.get("fit", {}).get("found") if result is None else None
            tried.append({"setting": setting.name, "values": dict(setting.values), "nll": loss, "error": error})
            if cell.name in self._short:
                self.bench.say(
                    f"{place.fix.name}: nothing chosen; that {setting.name!r} ran out of memory decides nothing"
                )
                return None
        usable = [one for one in tried if one["error"] is None]
        if not usable:
            return None  # tried again when the ladder is called again
        best = min(usable, key=lambda one: float("inf") if one["nll"] is None else one["nll"])
        one = NAMED if place.named else "none: one setting"
        criterion = CRITERION[place.fix.family] if len(tried) > 1 else one
        place.choose({"setting": best["setting"], "criterion": criterion, "nll": best["nll"], "candidates": tried})
        return place.chosen

    @contextmanager
    def _alone(self, cell: Cell) -> Iterator[Cell]:
        """The cell, while no other process that fills this ladder is at work in it."""
        cell.claim(self.bench.given)
        with alone(
            cell.folder, "cell", waiting=lambda: self._say(f"{cell.name}: waiting for another process to finish it")
        ):
            yield cell

    def _fit(self, cell: Cell) -> dict[str, Any] | None:
        if cell.result is not None:
            return cell.result
        cell.forget_errors()
        self._say(f"{cell.name}: fitting")
        with self._recorded(cell, "fit", fit_passes(cell.fix, self.bench)):
            start = time.monotonic()
            cell.finish({**self._doer(cell).fit(cell), "wall_seconds": round(time.monotonic() - start, 1)})
        return cell.result

    def _score(self, cell: Cell) -> None:
        sets = {"calibration": self.bench.calibration, **self.exam}
        lacking = {name: questions for name, questions in sets.items() if not cell.path(name).exists()}
        if not lacking:
            return
        assert Place(cell.root, cell.fix).choice is not None, "test questions before the choice"
        cell.forget_errors(but=CHECK)
        self._say(f"{cell.name}: scoring {', '.join(lacking)}")
        with self._recorded(cell, "score", score_passes(cell.fix, self.bench, self.exam)):
            for name, scores in self._doer(cell).scores(cell, lacking):
                if isinstance(scores, Scores):
                    scores.save(cell.path(name))
                else:
                    cell.fail(scores, name)
                    self._say(f"{cell.name}, {name!r}: {scores.found}; recorded, going on")

    def _align(self, cell: Cell) -> None:
        """Compare the chosen model with the aligned one, where that was asked and the fix changes the model."""
        asked = self.asked
        if asked is None or reason_against(cell.fix) is not None or cell.result is None or asked.done(cell):
            return
        cell.forget_errors(check=CHECK)
        self._say(f"{cell.name}: comparing with the aligned model")
        doer = self._doer(cell)
        assert isinstance(doer, Changed)
        with self._recorded(cell, CHECK, asked.passes(first=False)), doer.model(cell) as model:
            check(self.bench, cell, asked, model)

    @contextmanager
    def _recorded(self, cell: Cell, what: str, passes: float) -> Iterator[None]:
        """An error inside is recorded in the cell, and the ladder goes on; only a full or forbidden disk stops it."""
        start = time.monotonic()
        try:
            yield
        except OutputError:
            raise
        except (CalibrantError, RuntimeError) as error:
            known = error if isinstance(error, CalibrantError) else memory_full(error, cell.name)
            if known is None:
                raise
            if known is not error:
                self._short.add(cell.name)
            cell.fail(known, what)
            self._say(f"{cell.name}: {known.found}; recorded, going on")
        finally:
            self._passed(passes, start)

    def _doer(self, cell: Cell) -> Doer:
        family = cell.fix.family
        if family not in self._doers:
            self._doers[family] = DOERS[family](self.bench)
        return self._doers[family]

    def _say(self, text: str) -> None:
        assert self._clock is not None
        self.bench.say(f"{self._clock.head} {text}")

    def _passed(self, passes: float, start: float) -> None:
        assert self._clock is not None
        self._clock.passed(passes, time.monotonic() - start)


class _Clock:
    """How much is left, from the pace of what this call has done so far."""

    def __init__(self, plan: Plan) -> None:
        todo = [job for job in plan.jobs if not job.done]
        self.jobs, self.total = len(todo), sum(job.passes for job in todo)
        self.done, self.passes, self.seconds = 0, 0.0, 0.0

    def passed(self, passes: float, seconds: float) -> None:
        self.done, self.passes, self.seconds = self.done + 1, self.passes + passes, self.seconds + seconds

    @property
    def head(self) -> str:
        left = max(self.total - self.passes, 0.0)
        time_left = f", about {duration(left * self.seconds / self.passes)} left" if self.passes and left else ""
        return f"[{min(self.done + 1, self.jobs)}/{self.jobs}{time_left}]"


def _claim(asked: Ladder) -> None:
    root, sets = Path(asked.out), {**asked.splits, **asked.ood}
    config = asked.config.identity()
    identity = {
        **run_identity(asked.model, asked.style, asked.loading, scored=for_scoring(asked.config, asked.loading)),
        "budget": asked.budget,
        "config": {name: value for name, value in config.items() if name != "objective"},
        "questions": {name: {"name": q.name, "n": len(q), "digest": q.digest} for name, q in sets.items()},
    }
    claim_folder(root, identity, "ladder")
    for name, questions in sets.items():
        questions.save(root / "questions" / f"{name}.jsonl")
