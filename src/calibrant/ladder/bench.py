"""What a fix may touch while it is fitted: the models, the training and the calibration questions. No test question."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from calibrant.ladder.cells import Cell, Place
from calibrant.ladder.fixes import ALIGNED, REFERENCE, by_name
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.models import beside
from calibrant.tuning import TuneConfig, TuneResult, tune
from calibrant.tuning.config import for_scoring


@dataclass
class Bench:
    """The models of a ladder and the questions to fit on.

    Parameters
    ----------
    root : the ladder's folder.
    model, reference, alignment_adapter : aligned model, pre-alignment model, and the LoRA adapter that lies between.
    train, calibration : the questions to fit on.
    style, config : how questions are put; settings that all trained fixes share.
    seed : the first seed.
    loading : further arguments of ``load_model``; a revision is the aligned model's.
    """

    root: Path
    model: str | Path
    train: QuestionSet
    calibration: QuestionSet
    style: PromptStyle
    config: TuneConfig
    seed: int = 0
    reference: str | Path | None = None
    alignment_adapter: str | Path | None = None
    progress: bool = False
    command: str | None = None
    batch_tokens: int | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    _loaded: tuple[tuple[str | None, ...], LoadedModel] | None = None

    @property
    def given(self) -> dict[str, str | Path | None]:
        """What fixes may need besides the aligned model."""
        return {"reference": self.reference, "alignment_adapter": self.alignment_adapter}

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        if self.progress:
            Console(stderr=True).print(text, highlight=False, markup=False)

    def score(
        self, questions: QuestionSet, split: str, *, model: str | Path | None = None, adapter: Path | None = None
    ) -> Scores:
        """Scores of the aligned model, of another one, or with an adapter on it."""
        return score(
            self.load(model, adapter),
            questions,
            style=self.style,
            split=split,
            progress=self.progress,
            command=self.command,
            seed=self.seed,
            batch_tokens=self.batch_tokens,
        )

    def load(self, model: str | Path | None = None, adapter: Path | None = None) -> LoadedModel:
        """The aligned model, or another one, which the revision is not of and which is asked under the aligned model's chat
        template; the last one is kept until another is asked for.
        """
        key = tuple(None if name is None else str(name) for name in (model, adapter))
        if self._loaded is None or self._loaded[0] != key:
            self.release()
            arguments = self.scoring if model is None else beside(self.model, self.style, self.scoring)
            self._loaded = key, load_model(self.model if model is None else model, adapter=adapter, **arguments)
        return self._loaded[1]

    def release(self) -> None:
        """Forget the loaded model."""
        self._loaded = None
        gc.collect()

    def tune(self, folder: Path, config: TuneConfig) -> TuneResult:
        """Tune the aligned model."""
        self.release()
        return tune(
            self.model,
            self.train,
            self.calibration,
            out=folder,
            config=config,
            style=self.style,
            progress=self.progress,
            batch_tokens=self.batch_tokens,
            **self.loading,
        )

    def cell_of(self, name: str, seed: int) -> Cell | None:
        """The cell of a fix at its chosen setting, if it has been chosen."""
        place = Place(self.root, by_name(name))
        setting = place.chosen
        return None if setting is None else place.cell(setting, seed)

    def model_scores(self, name: str, split: str) -> Scores:
        """Scores of the aligned or the pre-alignment model on train or calibration questions, computed if missing."""
        assert name in (ALIGNED, REFERENCE)
        fix = by_name(name)
        cell = Place(self.root, fix).cell(fix.candidates[0], self.seed)
        found = cell.scores(split)
        if found is None:
            questions = {"train": self.train, "calibration": self.calibration}[split]
            self.say(f"scoring {split!r} with the {name} model: {len(questions)} questions")
            found = self.score(questions, split, model=None if name == ALIGNED else self.reference)
            found.save(cell.path(split))
        return found

    @property
    def scoring(self) -> dict[str, Any]:
        """How models are loaded for scoring."""
        return for_scoring(self.config, self.loading)
