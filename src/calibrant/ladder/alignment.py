"""Alignment beside calibration: a fix that changes what the model says is compared with the aligned model.

Only the first seed's chosen cell is checked, by :func:`~calibrant.alignment.align_check`, after its choice; nothing is
chosen by it. A map of the scores does not touch the model, so its alignment is unchanged by construction; a map of a
tuned model's scores has that model's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibrant.alignment import AlignSettings, Collected, PreferencePair, Prompt, align_check
from calibrant.alignment.instructions import instruction_set
from calibrant.alignment.settings import refuse_other_kinds
from calibrant.errors import ConfigError
from calibrant.files import RUN_FILE, write_json
from calibrant.ladder.bench import Bench
from calibrant.ladder.cells import CELLS, Cell, Place, json_if_any
from calibrant.ladder.fixes import ALIGNED, Fix
from calibrant.scoring.models import chat_template_facts
from calibrant.scoring.precision import precision

ASKED = RESULT = "alignment.json"
CHECK = "alignment check"
"""What failed, in a cell's errors."""
UNCHANGED, NOT_CHECKED, FAILED = "unchanged", "not checked", "failed"
A_TOKEN = 0.1
"""Passes that a generated token counts: a rough guess, as answers come token by token but many at a time."""


@dataclass(frozen=True)
class Asked:
    """What alignment is checked on.

    Parameters
    ----------
    preferences, prompts : one of them or both.
    settings : of the checks.
    """

    preferences: Collected[PreferencePair] | None
    prompts: Collected[Prompt] | None
    settings: AlignSettings

    @classmethod
    def of(
        cls,
        preferences: Collected[PreferencePair] | None,
        prompts: Collected[Prompt] | None,
        settings: AlignSettings | None,
        seed: int,
    ) -> Asked | None:
        """``None`` without pairs and prompts; by default the checkable instructions are asked where there are prompts.

        Raises
        ------
        ConfigError : settings, but nothing to check on; or pairs or prompts without a single one; or of another kind.
        """
        refuse_other_kinds(preferences, prompts, settings)
        given = {"preference pairs": preferences, "prompts": prompts}
        empty = [name for name, some in given.items() if some is not None and not len(some)]
        if empty or (settings is not None and preferences is None and prompts is None):
            raise ConfigError(
                asked="alignment checks of a ladder",
                found=f"no {' and no '.join(empty or given)}",
                todo="give preference pairs, prompts, or both; or leave the checks out",
            )
        if preferences is None and prompts is None:
            return None
        return cls(preferences, prompts, settings or AlignSettings(instructions=prompts is not None, seed=seed))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the name of the folder that each cell keeps the check in."""
        sets = {"preferences": self.preferences, "prompts": self.prompts}
        plain = {
            name: None if some is None else {"name": some.name, "n": len(some), "digest": some.digest}
            for name, some in sets.items()
        }
        return {**plain, "settings": asdict(self.settings), "folder": self.folder}

    @property
    def folder(self) -> str:
        """Of a check, inside its cell: its name is a digest of what is asked, so another question gets another folder."""
        digests = [None if some is None else some.digest for some in (self.preferences, self.prompts)]
        text = json.dumps([digests, asdict(self.settings)], sort_keys=True)
        return f"alignment-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def write(self, root: Path) -> None:
        """Keep in the ladder's folder what is asked: the table shows the checks of this."""
        write_json(root / ASKED, self.to_json())

    def done(self, cell: Cell) -> bool:
        """Whether a cell has been checked."""
        return (cell.folder / self.folder / RESULT).exists()

    def passes(self, *, first: bool) -> float:
        """Size of a check, in passes of one question. The ``first`` one makes the aligned model's side for all."""
        sides = 2 if first else 1
        pairs = 0 if self.preferences is None else 2 * len(self.preferences)
        answers = 0 if self.prompts is None else len(self.prompts)
        asked = answers + (len(instruction_set()) if self.settings.instructions else 0)
        along = 2 * answers * len(self.settings.contexts)  # both models along each answer, for the KL
        return sides * (pairs + asked * self.settings.max_new_tokens * A_TOKEN) + along


def reason_against(fix: Fix) -> str | None:
    """Why there is no check of a fix's own model, or ``None`` where there is one."""
    if fix.name == ALIGNED:
        return "the model that the others are compared with"
    if fix.family == "none":
        return "no fix"
    if fix.family == "post-hoc":
        return "the model is not touched"
    if "alignment_adapter" in fix.needs:
        return "its adapter stands on the pre-alignment model; align-check takes adapters of the aligned one"
    return None


def check(bench: Bench, cell: Cell, asked: Asked, model: Mapping[str, Any]) -> None:
    """Compare a cell's model (arguments of ``Bench.score``) with the aligned one; what was begun goes on.

    What the aligned model says is taken from a check of another cell in the same precision and under the same chat template,
    where there is one.
    """
    bench.release()
    wanted = (precision(bench.scoring) | chat_template_facts(bench.model, ["chat"], **bench.scoring)).items()
    found = sorted((bench.root / CELLS).glob(f"*/*/seed-*/{asked.folder}/{RESULT}"))
    others = [path for path in found if wanted <= (json_if_any(path.parent / RUN_FILE) or {}).items()]
    align_check(
        bench.model,
        adapter=model.get("adapter"),
        tuned=model.get("model"),
        preferences=asked.preferences,
        prompts=asked.prompts,
        aligned_from=others[0].parent if others else None,
        out=cell.folder / asked.folder,
        settings=asked.settings,
        batch_tokens=bench.batch_tokens,
        progress=bench.progress,
        command=bench.command,
        **bench.scoring,
    )


@dataclass(frozen=True)
class Alignment:
    """Whether a fix kept alignment, as far as that was checked.

    Parameters
    ----------
    verdict : ``kept``, ``not kept``, ``undecided``; ``unchanged`` where the model is not touched; ``not checked``;
        ``failed``.
    reason : in words.
    of, seed : whose model was checked: the fix itself, or the one whose scores it maps.
    level : of the intervals.
    checks : each number with its change, interval and verdict (``Check.to_json``).
    """

    verdict: str
    reason: str = ""
    of: str | None = None
    seed: int | None = None
    level: float | None = None
    checks: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the numbers by name: the change (KL: the value itself) with its interval, n and verdict."""
        numbers = {
            c["name"]: {
                **{key: c[key] for key in ("unit", "aligned", "tuned")},
                **{key: c["change"][key] for key in ("value", "low", "high", "n")},
                "verdict": c["verdict"],
            }
            for c in self.checks
        }
        head = {name: getattr(self, name) for name in ("verdict", "reason", "of", "seed", "level")}
        return {**head, "checks": numbers}


def asked_in(root: Path) -> dict[str, Any] | None:
    """What the checks of a ladder's folder are about, or ``None`` where nothing was asked."""
    return json_if_any(root / ASKED)


def alignment_of(place: Place, found: Sequence[Place], asked: Mapping[str, Any] | None) -> Alignment:
    """What a ladder's folder says on the alignment of a fix."""
    fix, reason = place.fix, reason_against(place.fix)
    if fix.family == "post-hoc" and fix.of != ALIGNED:
        below = next((one for one in found if one.fix.name == fix.of), None)
        return Alignment(NOT_CHECKED) if below is None else alignment_of(below, found, asked)
    if reason is not None:
        untouched = fix.name == ALIGNED or fix.family == "post-hoc"
        return Alignment(UNCHANGED if untouched else NOT_CHECKED, reason)
    if asked is None:
        return Alignment(NOT_CHECKED, "neither preference pairs nor prompts were given")
    setting = place.chosen
    if setting is None:
        return Alignment(NOT_CHECKED, place.not_run or "")
    cell = place.cell(setting, place.seeds[0])
    result = json_if_any(cell.folder / asked["folder"] / RESULT)
    if result is not None:
        return Alignment(
            result["verdict"], result["sentence"], fix.name, cell.seed, result["level"], tuple(result["checks"])
        )
    error = cell.errors.get(CHECK)
    return Alignment(NOT_CHECKED) if error is None else Alignment(FAILED, error["found"], fix.name, cell.seed)
