"""How each family of fixes is fitted and how its scores are made. Fitting sees a :class:`Bench` alone: no test question."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from calibrant.errors import CalibrantError, ConfigError
from calibrant.files import write_json
from calibrant.ladder.bench import Bench
from calibrant.ladder.cells import Cell
from calibrant.ladder.fixes import ALIGNED, REFERENCE
from calibrant.metrics import nll
from calibrant.questions import QuestionSet
from calibrant.scalers import Scaler, cross_validated, load_scaler, scaler_named
from calibrant.scores import Scores
from calibrant.tuning import TuneResult
from calibrant.tuning.interpolation import interpolate, scale_adapter

PARAMETERS = ("temperature", "weights", "intercept", "offset", "knots", "values", "edges")
"""Keys of a scaler's JSON that hold what it learned and needs when it is used."""


class Doer(Protocol):
    """One family of fixes."""

    def fit(self, cell: Cell) -> dict[str, Any]:
        """Fit on training and calibration questions; ``nll`` is the number that a sweep compares (lower is better)."""
        ...

    def scores(self, cell: Cell, sets: Mapping[str, QuestionSet]) -> Iterator[tuple[str, Scores | CalibrantError]]:
        """Scores of some sets of questions, once fitted; an error that one set alone brings instead of its scores."""
        ...


class AsIs:
    """A model that nothing was done to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def fit(self, cell: Cell) -> dict[str, Any]:
        """Score the calibration questions."""
        scores = self.bench.model_scores(cell.fix.name, "calibration")
        return {"nll": _nll(scores), "seconds": 0.0, "parameters": 0}

    def scores(self, cell: Cell, sets: Mapping[str, QuestionSet]) -> Iterator[tuple[str, Scores | CalibrantError]]:
        """Score with the model."""
        model = self.bench.reference if cell.fix.name == REFERENCE else None
        for name, questions in sets.items():
            yield name, self.bench.score(questions, name, model=model)


class PostHoc:
    """A map of scores, fitted on what the model (or the tuned model) made of the calibration questions.

    A sweep compares log loss of out-of-fold calibration scores (:func:`calibrant.scalers.cross_validated`): a question
    is rescaled by what the others taught. The map that is kept is fitted on all of them.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def fit(self, cell: Cell) -> dict[str, Any]:
        """Fit, cross-validate, and keep the map."""
        fit, reference = self._fit_scores(cell), self._reference(cell)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a fold may lack a number of options that the others have
            held_out = cross_validated(self._made(cell), fit, reference=reference, seed=self.bench.seed)
        of_calibration = held_out.select(np.arange(fit.n - len(self.bench.calibration), fit.n))
        of_calibration.save(cell.path("calibration"))
        start = time.monotonic()
        scaler = self._made(cell).fit(fit, reference=reference)
        seconds = time.monotonic() - start
        write_json(cell.folder / "scaler.json", scaler.to_json())
        if said := scaler.cautions():
            cell.note("calibration", "; ".join(said))
        return {
            "nll": _nll(of_calibration),
            "seconds": round(seconds, 3),
            "parameters": sum(_count(value) for key, value in scaler.to_json().items() if key in PARAMETERS),
            "fitted_on": fit.n,
        }

    def scores(self, cell: Cell, sets: Mapping[str, QuestionSet]) -> Iterator[tuple[str, Scores | CalibrantError]]:
        """Rescale the stored scores of the same sets."""
        scaler = load_scaler(cell.folder / "scaler.json")
        for name in sets:
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always", UserWarning)
                    scores = scaler.apply(self._source(cell, name))
            except CalibrantError as error:
                yield name, error
                continue
            if said:
                cell.note(name, "; ".join(str(warning.message) for warning in said))
            yield name, scores

    def _made(self, cell: Cell) -> Scaler:
        values = {**cell.fix.values, **cell.setting.values}
        return scaler_named(values.pop("scaler"))(**values)

    def _fit_scores(self, cell: Cell) -> Scores:
        if cell.fix.of != ALIGNED:
            return self._source(cell, "calibration")
        return concatenated([self.bench.model_scores(ALIGNED, split) for split in cell.fix.fit_on])

    def _reference(self, cell: Cell) -> Scores | None:
        needed = "reference" in cell.fix.needs
        return self.bench.model_scores(REFERENCE, "calibration") if needed else None

    def _source(self, cell: Cell, name: str) -> Scores:
        parent = self.bench.cell_of(cell.fix.of, cell.seed)
        scores = None if parent is None else parent.scores(name)
        if scores is None:
            raise ConfigError(
                asked=f"{cell.fix.name}, seed {cell.seed}, on {name!r}",
                found=f"no scores of {cell.fix.of!r} to build on",
                todo=f"see why {cell.fix.of!r} has none, then run again",
            )
        return scores


class Weights:
    """Weights between two models, or a scaled adapter. A sweep compares log loss of the calibration questions.

    Mixed weights are as large as the model: they are made again when they are needed, and not kept.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def fit(self, cell: Cell) -> dict[str, Any]:
        """Mix, and score the calibration questions."""
        start = time.monotonic()
        with self.model(cell) as mixed:
            seconds = time.monotonic() - start
            scores = self.bench.score(self.bench.calibration, "calibration", **mixed)
        scores.save(cell.path("calibration"))
        return {"nll": _nll(scores), "seconds": round(seconds, 1), "parameters": 1}

    def scores(self, cell: Cell, sets: Mapping[str, QuestionSet]) -> Iterator[tuple[str, Scores | CalibrantError]]:
        """Mix again, and score."""
        with self.model(cell) as mixed:
            for name, questions in sets.items():
                yield name, self.bench.score(questions, name, **mixed)

    @contextmanager
    def model(self, cell: Cell) -> Iterator[dict[str, Any]]:
        """The mixed model, as arguments of ``Bench.score``, as long as the block lasts."""
        bench, folder = self.bench, cell.folder / "mixed"
        assert bench.reference is not None
        try:
            if "factor" in cell.setting.values:
                assert bench.alignment_adapter is not None
                scale_adapter(bench.alignment_adapter, cell.setting.values["factor"], folder)
                yield {"model": bench.reference, "adapter": folder}
            else:
                alpha, revision = cell.setting.values["alpha"], bench.loading.get("revision")
                interpolate(bench.reference, bench.model, alpha, folder, revision=revision)
                yield {"model": folder}
        finally:
            bench.release()
            shutil.rmtree(folder, ignore_errors=True)


class Tuned:
    """A trained adapter. A sweep compares the least log loss that the calibration questions had at an evaluation."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def fit(self, cell: Cell) -> dict[str, Any]:
        """Train, or go on with training."""
        config = cell.fix.config(self.bench.config, cell.setting, cell.seed)
        made = self.bench.tune(cell.folder / "tuning", config)
        best = min((point for point in made.history if point["step"] > 0), key=lambda point: point["nll"])
        return {
            "nll": best["nll"],
            "seconds": made.seconds,
            "parameters": made.trained_parameters,
            "steps": made.steps,
            "kept_step": best["step"],
            "start_nll": made.history[0]["nll"],
            "learning_rate": config.learning_rate,
            "not_adapted": made.not_adapted,
        }

    def scores(self, cell: Cell, sets: Mapping[str, QuestionSet]) -> Iterator[tuple[str, Scores | CalibrantError]]:
        """Score with the adapter on the aligned model."""
        with self.model(cell) as tuned:
            for name, questions in sets.items():
                yield name, self.bench.score(questions, name, **tuned)
        self.bench.release()

    @contextmanager
    def model(self, cell: Cell) -> Iterator[dict[str, Any]]:
        """The tuned model, as arguments of ``Bench.score``."""
        made = TuneResult.load(cell.folder / "tuning")
        yield {"model": made.weights, "adapter": made.adapter}


DOERS: dict[str, type[AsIs] | type[PostHoc] | type[Weights] | type[Tuned]] = {
    "none": AsIs,
    "post-hoc": PostHoc,
    "weights": Weights,
    "tuning": Tuned,
}
Changed = Weights | Tuned
"""Families whose fixes change the model itself; ``model(cell)`` gives it."""


def concatenated(parts: list[Scores]) -> Scores:
    """Several sets of scores as one, in order; columns that all have are kept."""
    if len(parts) == 1:
        return parts[0]
    k = max(part.k for part in parts)
    rows = [np.pad(part.logp_NK, ((0, 0), (0, k - part.k)), constant_values=-np.inf) for part in parts]
    names = set.intersection(*(set(part.columns) for part in parts))
    return Scores(
        logp_NK=np.concatenate(rows),
        answer_N=np.concatenate([part.answer_N for part in parts]),
        k_N=np.concatenate([part.k_N for part in parts]),
        logmass_N=np.concatenate([part.logmass_N for part in parts]),
        ids=tuple(name for part in parts for name in part.ids),
        subjects=tuple(subject for part in parts for subject in part.subjects),
        hashes=tuple(known for part in parts for known in part.hashes),
        columns={name: tuple(value for part in parts for value in part.columns[name]) for name in sorted(names)},
        split="+".join(part.split for part in parts),
        provenance=parts[-1].provenance,
    )


def _nll(scores: Scores) -> float | None:
    value = nll(scores.logp_NK, scores.answer_N)
    return value if np.isfinite(value) else None


def _count(value: Any) -> int:
    return sum(_count(item) for item in value) if isinstance(value, list) else int(value is not None)
