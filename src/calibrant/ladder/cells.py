"""What a ladder leaves on disk, and reading it back. One folder a cell; every file under its final name is whole.

::

    OUT/run.json                                what this ladder is: model, prompt, base settings, budget, questions
    OUT/questions/*.jsonl                       the splits, as used
    OUT/alignment.json                          what alignment is checked on, where it is
    OUT/cells/<fix>/run.json fix.json           the fix, as it was defined; its seeds
    OUT/cells/<fix>/not-run.json                why it cannot be run, where that is so
    OUT/cells/<fix>/choice.json                 what the sweep chose, and by which numbers
    OUT/cells/<fix>/<setting>/seed-<s>/
        run.json result.json                    what was asked; what fitting made and cost
        tuning/adapter  scaler.json             what would be shipped
        scores/<set>.safetensors                test sets only of chosen settings, only after the choice
        alignment-<digest>/alignment.json       the check of the first seed's chosen cell; its parts beside it
        error.json notes.json                   what went wrong, in three parts; what a reader must know
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import CalibrantError, ConfigError
from calibrant.files import RUN_FILE, alone, claim_folder, read_json, write_json
from calibrant.ladder.fixes import FIXES, Fix
from calibrant.scores import Scores
from calibrant.scoring.fingerprints import fingerprints
from calibrant.tuning.sweep import Budget, Setting

CELLS, FIX, CHOICE, NOT_RUN = "cells", "fix.json", "choice.json", "not-run.json"
NAMED = "none: named beforehand"
"""Criterion of a choice that no sweep made."""
RESULT, ERROR, NOTES = "result.json", "error.json", "notes.json"


@dataclass(frozen=True)
class Cell:
    """One fix with one setting and one seed."""

    root: Path
    fix: Fix
    setting: Setting
    seed: int

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self.root / CELLS / self.fix.name / self.setting.name / f"seed-{self.seed}"

    @property
    def name(self) -> str:
        """For people and for ``OUT/cells``."""
        return f"{self.fix.name}/{self.setting.name}/seed-{self.seed}"

    def claim(self, given: Mapping[str, Any]) -> None:
        """Make the folder, or check that it holds this very cell, made with the same further models."""
        identity = {"fix": self.fix.name, "setting": dict(self.setting.values), "seed": self.seed}
        further = {name: given[name] for name in self.fix.needs}
        if further:
            identity |= {name: str(at) for name, at in further.items()} | {"weights": fingerprints(**further)}
        claim_folder(self.folder, identity, "cell")

    @property
    def result(self) -> dict[str, Any] | None:
        """What fitting left, or ``None`` before."""
        return json_if_any(self.folder / RESULT)

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the result of fitting."""
        write_json(self.folder / RESULT, result)
        return dict(result)

    def path(self, name: str) -> Path:
        """The scores of one set of questions."""
        return self.folder / "scores" / f"{name}.safetensors"

    def scores(self, name: str) -> Scores | None:
        """The stored scores, or ``None``."""
        return Scores.load(self.path(name)) if self.path(name).exists() else None

    def fail(self, error: CalibrantError, what: str = "fit") -> None:
        """Record an error of fitting (``what="fit"``), of one set of questions, or of a check, in its three parts."""
        parts = {"asked": error.asked, "found": error.found, "todo": error.todo}
        write_json(self.folder / ERROR, {**self.errors, what: parts})

    @property
    def errors(self) -> dict[str, dict[str, str]]:
        """Errors by what failed."""
        return json_if_any(self.folder / ERROR) or {}

    def note(self, what: str, text: str) -> None:
        """Keep what a reader must know of one set of questions."""
        write_json(self.folder / NOTES, {**self.notes, what: text})

    @property
    def notes(self) -> dict[str, str]:
        """Notes by set of questions."""
        return json_if_any(self.folder / NOTES) or {}

    def forget_errors(self, *, check: str | None = None, but: str | None = None) -> None:
        """Before another attempt: at all ``but`` one thing, or at one ``check`` alone."""
        left = {what: parts for what, parts in self.errors.items() if what == but or check not in (None, what)}
        if left:
            write_json(self.folder / ERROR, left)
        else:
            (self.folder / ERROR).unlink(missing_ok=True)


@dataclass(frozen=True)
class Place:
    """The folder of one fix; ``seeds`` are those that its chosen setting is run with, ``named`` a setting to run instead of
    a sweep.
    """

    root: Path
    fix: Fix
    seeds: tuple[int, ...] = (0,)
    named: str | None = None

    def sweep(self, budget: Budget) -> tuple[Setting, ...]:
        """What is tried: the setting that was named, or the candidates that a budget allows."""
        return self.fix.sweep(budget) if self.named is None else (self.fix.candidate(self.named),)

    @property
    def folder(self) -> Path:
        """Where its cells are."""
        return self.root / CELLS / self.fix.name

    def claim(self, reason: str | None) -> None:
        """Write down the fix with its seeds, beside those of earlier calls, and why it cannot be run, if so and if it was not
        run before; refuse a folder of another definition or choice.
        """
        plain, choice = self.fix.to_json(), self.choice
        if choice is not None and self.named not in (None, choice["setting"]):
            raise ConfigError(
                asked=f"{self.fix.name} at the setting {self.named!r}",
                found=f"{self.folder} chose {choice['setting']!r}",
                todo="leave it out of the settings, or give another folder",
            )
        identity = {name: plain[name] for name in ("family", "values", "candidates", "of", "fit_on")}
        claim_folder(self.folder, identity, f"fix {self.fix.name!r}")
        earlier = (json_if_any(self.folder / FIX) or {"seeds": []})["seeds"]
        write_json(self.folder / FIX, {"fix": plain, "seeds": sorted({*earlier, *self.seeds})})
        if reason is None or choice is not None:
            (self.folder / NOT_RUN).unlink(missing_ok=True)
        else:
            write_json(self.folder / NOT_RUN, {"reason": reason})

    @property
    def not_run(self) -> str | None:
        """Why it cannot be run."""
        return (json_if_any(self.folder / NOT_RUN) or {}).get("reason")

    @property
    def choice(self) -> dict[str, Any] | None:
        """What the sweep chose, or ``None`` before."""
        return json_if_any(self.folder / CHOICE)

    def choose(self, choice: Mapping[str, Any]) -> None:
        """Keep the choice, unless another process was first: from now on test questions may be scored."""
        with alone(self.folder, "fix", waiting=lambda: None):
            if self.choice is None:
                write_json(self.folder / CHOICE, choice)

    @property
    def chosen(self) -> Setting | None:
        """The chosen setting."""
        choice = self.choice
        if choice is None or choice["setting"] is None:
            return None
        return self.fix.candidate(choice["setting"])

    def cell(self, setting: Setting, seed: int) -> Cell:
        """One of its cells."""
        return Cell(self.root, self.fix, setting, seed)

    def cells(self) -> Iterator[Cell]:
        """All that were begun, of any setting and seed."""
        for setting in self.fix.candidates:
            for folder in sorted((self.folder / setting.name).glob("seed-*")):
                if (folder / RUN_FILE).exists():
                    yield self.cell(setting, int(folder.name.removeprefix("seed-")))


def places(root: Path) -> list[Place]:
    """The fixes that a ladder's folder holds, as they were when it was last run."""
    order = {fix.name: i for i, fix in enumerate(FIXES)}
    found = [json_if_any(path) for path in (root / CELLS).glob(f"*/{FIX}")]
    known = [Place(root, Fix.from_json(values["fix"]), tuple(values["seeds"])) for values in found if values]
    return sorted(known, key=lambda place: (order.get(place.fix.name, len(order)), place.fix.name))


def json_if_any(path: Path) -> dict[str, Any] | None:
    """A JSON object, or ``None`` where there is no such file.

    Raises
    ------
    ConfigError : a damaged file.
    """
    value: dict[str, Any] | None = read_json(path) if path.exists() else None
    return value
