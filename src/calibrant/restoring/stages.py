"""What a run does with a model, stage by stage."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from calibrant.alignment import (
    AlignmentCheck,
    AlignSettings,
    Collected,
    PreferencePair,
    Prompt,
    align_check,
)
from calibrant.files import write_json
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scalers import Temperature
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.models import beside
from calibrant.scoring.options import encode
from calibrant.scoring.run import with_questions
from calibrant.tuning import TuneConfig, TuneResult, sweep
from calibrant.tuning.config import for_scoring
from calibrant.tuning.sweep import Budget


@dataclass
class Stage:
    """The stages of one run that need a model; each leaves its result in the run's folder and finds it there again."""

    out: Path
    model: str | Path
    style: PromptStyle
    progress: bool
    command: str | None
    config: TuneConfig
    batch_tokens: int | None
    loading: dict[str, Any]
    _loaded: LoadedModel | None = None

    def say(self, *texts: str) -> None:
        """Print, where progress is wanted."""
        for text in texts if self.progress else ():
            Console(stderr=True).print(text, highlight=False, markup=False)

    def scores(
        self,
        when: str,
        sets: Mapping[str, QuestionSet],
        *,
        adapter: Path | None = None,
        weights: str | Path | None = None,
    ) -> dict[str, Scores]:
        """Scores of each set, before tuning, after it (``tuned``), or with the reference."""
        found = {}
        for name, questions in sets.items():
            path = self.out / "scores" / when / f"{name}.safetensors"
            if not path.exists():
                by = {"reference": "with the reference", "before": "before tuning", "tuned": "after tuning"}[when]
                self.say(f"Scoring {name!r} {by}: {len(questions)} questions")
                score(
                    self._load(weights or self.model, adapter),
                    questions,
                    style=self.style,
                    split=name,
                    progress=self.progress,
                    command=self.command,
                    seed=self.config.seed,
                    batch_tokens=self.batch_tokens,
                ).save(path)
            found[name] = with_questions(Scores.load(path), questions)
            _save(found[name], path)
        self._release()
        return found

    def refuse_too_long(self, train: QuestionSet) -> None:
        """Refuse training questions that the model's context does not hold, before the others are scored."""
        if not (self.out / "scores" / "before").exists():
            model = self._load(self.model, None)
            encode(model.tokenizer, list(train), self.style, context_length=model.context_length)

    def keep(self, when: str, scores: Mapping[str, Scores], scaler: Temperature | None) -> None:
        """Save what is derived from scores: the restored model's, and the temperature in them."""
        for name, kept in scores.items():
            _save(kept, self.out / "scores" / when / f"{name}.safetensors")
        if scaler is not None:
            write_json(self.out / "temperature.json", scaler.to_json())
            self.say(f"One temperature on top, T = {scaler.temperature_:.3f}, from the calibration questions")

    def reference(self, model: str | Path, calibration: QuestionSet) -> Scores:
        """The reference's scores of the calibration questions."""
        other = replace(self, loading=beside(self.model, self.style, self.loading))
        return other.scores("reference", {"calibration": calibration}, weights=model)["calibration"]

    def tune(self, config: TuneConfig, splits: Mapping[str, QuestionSet], budget: Budget) -> TuneResult:
        """The tuning run, or a sweep of them, in its own folder."""
        self.say(f"Tuning by {config.objective.upper()} on {len(splits['train'])} questions")
        return sweep(
            self.model,
            splits["train"],
            splits["calibration"],
            out=self.out / "tuning",
            budget=budget,
            config=config,
            style=self.style,
            progress=self.progress,
            batch_tokens=self.batch_tokens,
            **self.loading,
        )

    def alignment(
        self,
        tuning: TuneResult,
        preferences: Collected[PreferencePair] | None,
        prompts: Collected[Prompt] | None,
        settings: AlignSettings | None,
    ) -> AlignmentCheck | None:
        """Compare the tuned with the aligned model, where there is something to compare them on."""
        if preferences is None and prompts is None:
            return None
        self.say("Comparing the tuned with the aligned model")
        found = align_check(
            self.model,
            adapter=tuning.adapter,
            tuned=tuning.weights,
            preferences=preferences,
            prompts=prompts,
            out=self.out / "alignment",
            settings=settings or AlignSettings(instructions=prompts is not None, seed=self.config.seed),
            batch_tokens=self.batch_tokens,
            progress=self.progress,
            command=self.command,
            **for_scoring(self.config, self.loading),
        )
        write_json(self.out / "alignment.json", found.to_json())
        self.say(found.to_text())
        return found

    def _load(self, model: str | Path, adapter: Path | None) -> LoadedModel:
        if self._loaded is None:
            self._loaded = load_model(model, adapter=adapter, **for_scoring(self.config, self.loading))
        return self._loaded

    def _release(self) -> None:
        self._loaded = None
        gc.collect()


def _save(scores: Scores, path: Path) -> None:
    """Write scores where they are not, or with other ids, subjects or columns."""
    before = Scores.load(path) if path.exists() else None
    if before is None or any(getattr(before, name) != getattr(scores, name) for name in ("ids", "subjects", "columns")):
        scores.save(path)
