"""Preference pairs and prompts: what an alignment check is asked on, from files, hub data sets and lists."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from calibrant.errors import QuestionError, only_numbers
from calibrant.intake import SKIP_HINT, open_rows
from calibrant.questions import Skipped, did_you_mean

PROMPT_NAMES = ("prompt", "question", "instruction")
ROLES = ("system", "user", "assistant", "tool")
TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a model answers.

    Parameters
    ----------
    id : unique within a set.
    turns : the conversation so far, the user's last.
    text : the same as plain text, for tokenizers without a chat template.
    """

    id: str
    turns: tuple[Turn, ...]
    text: str


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt, of which people preferred ``chosen``."""

    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def id(self) -> str:
        """The prompt's id, which is the pair's own."""
        return self.prompt.id


T = TypeVar("T", Prompt, PreferencePair)


@dataclass(frozen=True)
class Collected(Generic[T]):
    """Pairs or prompts in order, with the rows that were left out by name."""

    name: str
    items: tuple[T, ...]
    skipped: tuple[Skipped, ...] = ()

    def __repr__(self) -> str:
        """In a line; the pairs or prompts themselves are in the attributes."""
        kind = "pairs" if self.items and isinstance(self.items[0], PreferencePair) else "prompts"
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"<Collected {self.name!r}: {len(self)} {kind}{left_out}>"

    def __len__(self) -> int:
        return len(self.items)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of ids and texts in order."""
        digest = hashlib.sha256()
        for item in self.items:
            if isinstance(item, PreferencePair):
                texts = [item.prompt.id, item.prompt.turns, item.prompt.text, item.chosen, item.rejected]
            else:
                texts = [item.id, item.turns, item.text]
            digest.update(json.dumps(texts).encode() + b"\n")
        return digest.hexdigest()


def load_preferences(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    revision: str | None = None,
) -> Collected[PreferencePair]:
    """Read preference pairs; every row becomes a pair or a named reason.

    Layouts: ``{"prompt", "chosen", "rejected"}`` as texts; the same as lists of messages ``{"role", "content"}``, with
    the prompt apart or as the common beginning of both; and transcripts ``"Human: … Assistant: …"`` whose common
    beginning is the prompt. A prompt that is such a transcript becomes a conversation of several turns. A column ``system``
    goes before the prompt as a system message, a column ``input`` beside ``instruction`` after it, behind an empty line.

    Parameters
    ----------
    source : as for :func:`calibrant.load_questions`: JSONL, JSON, CSV, TSV (each also .gz), Parquet, a saved or hub
        data set, or a list.
    split, revision : of a data set.
    columns : your names for ours, e.g. ``{"chosen": "response_j"}``; ours are id, prompt, chosen, rejected.
    skip_bad : list bad and repeated rows in ``skipped`` and go on, instead of refusing the whole.
    limit : keep the first so many pairs.

    Raises
    ------
    QuestionError : a bad row (with file and line), a repeated id or pair, no rows, no such source.
    ConfigError : a limit that is no number.

    >>> pairs = load_preferences([{"prompt": "Up?", "chosen": "Yes.", "rejected": "No."}])
    >>> pairs.items[0].prompt.turns, pairs.items[0].chosen
    ((Turn(role='user', content='Up?'),), 'Yes.')
    """
    return _collect("preference pairs", source, _pair, split, columns, skip_bad, limit, revision)


def load_prompts(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    revision: str | None = None,
) -> Collected[Prompt]:
    """Read prompts ``{"id", "prompt"}``; the prompt is a text or a list of messages. As :func:`load_preferences`.

    >>> [p.text for p in load_prompts([{"prompt": "Name a colour."}]).items]
    ['Name a colour.']
    """
    return _collect("prompts", source, _prompt, split, columns, skip_bad, limit, revision)


def _collect(
    what: str,
    source: Any,
    read: Callable[[Mapping[str, Any], str], T],
    split: str | None,
    columns: Mapping[str, str] | None,
    skip_bad: bool,
    limit: int | None,
    revision: str | None,
) -> Collected[T]:
    only_numbers(whole=True, limit=limit)
    if limit is not None and limit < 1:
        raise QuestionError(
            asked=f"the first {limit} {what}", found="nothing to keep", todo="give a limit of 1 or more"
        )
    kept: list[T] = []
    skipped: list[Skipped] = []
    places: dict[tuple[str, Any], str] = {}
    try:
        name, rows = open_rows(source, split, revision)
        numbered = list(enumerate(rows, 1))
    except QuestionError as error:
        shown = repr(str(source)) if isinstance(source, (str, Path)) else "a list"
        raise QuestionError(asked=f"{what} from {shown}", found=error.found, todo=error.todo) from error
    for number, (where, row) in numbered:
        try:
            if isinstance(row, QuestionError):
                raise row
            item = read(_renamed(row, columns or {}), f"{name}-{number}")
            content = (item.turns,) if isinstance(item, Prompt) else (item.prompt.turns, item.chosen, item.rejected)
            keys = (("id", item.id), ("content", content))
            if earlier := next((key for key in keys if key in places), None):
                raise QuestionError(
                    asked="", found=f"it repeats the {earlier[0]} of {places[earlier]}", todo="remove the repeat"
                )
        except QuestionError as error:
            if not skip_bad:
                raise QuestionError(
                    asked=f"{what} from {where}", found=error.found, todo=f"{error.todo}; {SKIP_HINT}"
                ) from error
            skipped.append(Skipped(where, error.found))
            continue
        places |= dict.fromkeys(keys, where)
        kept.append(item)
    if not kept:
        reason = f"no usable row; {skipped[0].where}: {skipped[0].reason}" if skipped else "no rows"
        raise QuestionError(asked=f"{what} from {name!r}", found=reason, todo="give at least one")
    return Collected(name, tuple(kept[:limit]), tuple(skipped))


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    known = ("id", "prompt", "chosen", "rejected")
    for ours, theirs in columns.items():
        if ours not in known or theirs not in row:
            wrong, names = (ours, known) if ours not in known else (theirs, tuple(map(str, row)))
            raise QuestionError(
                asked="",
                found=f"columns {', '.join(map(str, row))}; no {wrong!r}{did_you_mean(str(wrong), names)}",
                todo=f"map some of {', '.join(known)} to columns that are there",
            )
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _prompt(row: Mapping[str, Any], default_id: str) -> Prompt:
    given = _given(row)
    if given is None:
        raise _bad(row, f"a prompt in one of the columns {', '.join(PROMPT_NAMES)}")
    turns, text = _conversation(row, given)
    return Prompt(_id_of(row, default_id), turns, text)


def _pair(row: Mapping[str, Any], default_id: str) -> PreferencePair:
    given = _given(row)
    sides = row.get("chosen"), row.get("rejected")
    if all(isinstance(side, str) for side in sides):
        chosen, rejected = (str(side) for side in sides)
        if given is None:
            given, chosen, rejected = _common_transcript(row, chosen, rejected)
        elif isinstance(given, str) and _of_transcript(given):
            start = given.strip()
            if all(side.lstrip().startswith(start) for side in (chosen, rejected)):  # the whole transcripts once more
                chosen, rejected = (side.lstrip()[len(start) :] for side in (chosen, rejected))
    elif all(_is_messages(side) for side in sides):
        alone = {name: value for name, value in row.items() if name not in ("system", "input")}
        turns_of = [_turns(side) for side in sides]
        if given is not None and _says(turns_of, _given(alone)):
            given = _given(alone)  # the messages hold the rest, where there is more
        given, (chosen, rejected) = _of_messages(alone, given, turns_of)
    else:
        raise _bad(row, "chosen and rejected, both as text or both as lists of messages")
    turns, text = _conversation(row, given)
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise QuestionError(asked="", found=f"an empty {name} response", todo="write it")
    if chosen.strip() == rejected.strip():
        raise QuestionError(asked="", found="chosen and rejected are the same", todo="correct one of them")
    return PreferencePair(Prompt(_id_of(row, default_id), turns, text), chosen, rejected)


def _given(row: Mapping[str, Any]) -> Any:
    """The prompt as it stands in its column, with what stands beside an instruction; ``None`` without one."""
    column = next((name for name in PROMPT_NAMES if row.get(name)), None)
    given, beside = None if column is None else row[column], row.get("input")
    if column == "instruction" and isinstance(given, str) and isinstance(beside, str) and beside.strip():
        return f"{given.strip()}\n\n{beside.strip()}"
    return given


def _id_of(row: Mapping[str, Any], default: str) -> str:
    given = row.get("id")
    return default if given is None or given == "" else str(given)


def _bad(row: Mapping[str, Any], wanted: str) -> QuestionError:
    return QuestionError(
        asked="",
        found=f"columns {', '.join(map(str, row)) or 'none'}, without {wanted}",
        todo="rename the columns, or map them, e.g. columns={'prompt': 'query'}",
    )


def _is_messages(value: Any) -> bool:
    rows = value if isinstance(value, (list, tuple)) else ()
    return bool(rows) and all(isinstance(m, Mapping) and m.get("role") in ROLES for m in rows)


def _turns(messages: Any) -> tuple[Turn, ...]:
    return tuple(Turn(str(m["role"]), _content(m.get("content"))) for m in messages)


def _content(value: Any) -> str:
    """The text of a message: a text, or a list of parts that are texts."""
    if value is None or isinstance(value, str):
        return value or ""
    parts = value if isinstance(value, (list, tuple)) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    if not texts or len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise QuestionError(
            asked="", found=f"a message whose content is {str(value)[:80]!r}", todo="give text, or parts of type text"
        )
    return "".join(map(str, texts))


def _of_messages(
    row: Mapping[str, Any], given: Any, sides: Sequence[tuple[Turn, ...]]
) -> tuple[tuple[Turn, ...], list[str]]:
    """The prompt's turns and the two responses; the prompt is the common beginning, or a column of its own."""
    before = [side[:-1] for side in sides]
    prompt: tuple[Turn, ...] = before[0]
    if given is not None:
        explicit = _conversation(row, given)[0]
        prompt = explicit if before == [(), ()] else before[0]
        if before != [(), ()] and _said(before[0][-len(explicit) :]) != _said(explicit):
            raise QuestionError(
                asked="", found="a prompt that is not how both conversations begin", todo="correct the row"
            )
    if before[0] != before[1] or any(side[-1].role != "assistant" for side in sides) or not prompt:
        raise QuestionError(
            asked="",
            found="chosen and rejected that do not share all turns but a last one of the assistant",
            todo="give one prompt and two responses to it",
        )
    return prompt, [side[-1].content for side in sides]


def _says(sides: Sequence[tuple[Turn, ...]], given: Any) -> bool:
    """Whether both conversations have the given prompt, a text, as their last turn before the response."""
    asked = [side[-2].content.strip() if len(side) > 1 else None for side in sides]
    return isinstance(given, str) and asked == [given.strip()] * 2


def _said(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Roles and contents without white space at their ends: a prompt as text has none, the same as a message may have."""
    return [(turn.role, turn.content.strip()) for turn in turns]


def _common_transcript(row: Mapping[str, Any], chosen: str, rejected: str) -> tuple[str, str, str]:
    """``(prompt, chosen, rejected)`` of two transcripts that differ in the assistant's last words alone."""
    cue = "\n\nAssistant:"
    at = chosen.rfind(cue)
    while at >= 0 and chosen[: at + len(cue)] != rejected[: at + len(cue)]:
        at = chosen.rfind(cue, 0, at)
    end = at + len(cue)
    if at < 0 or cue in chosen[end:] or cue in rejected[end:]:
        raise _bad(row, "a prompt, or transcripts that share all but the assistant's last words")
    return chosen[:end].strip(), chosen[end:], rejected[end:]


def _conversation(row: Mapping[str, Any], given: Any) -> tuple[tuple[Turn, ...], str]:
    """A prompt's turns and its plain text."""
    if isinstance(given, tuple) and given and isinstance(given[0], Turn):
        turns: tuple[Turn, ...] = given
    elif _is_messages(given):
        turns = _turns(given)
    elif isinstance(given, str) and given.strip():
        turns = _of_transcript(given) or (Turn("user", given.strip()),)
        if not _system(row):
            return turns, given.strip()
    else:
        raise _bad(row, "a prompt as text or as a list of messages")
    if (system := _system(row)) and turns[0].role != "system":
        turns = (Turn("system", system), *turns)
    if turns[-1].role != "user":
        raise QuestionError(asked="", found=f"a prompt that ends with the {turns[-1].role}", todo="end with the user")
    names = {"user": "Human", "assistant": "Assistant"}
    lines = [f"{names[t.role]}: {t.content.strip()}" if t.role in names else t.content.strip() for t in turns]
    return turns, turns[0].content.strip() if len(turns) == 1 else "\n\n".join([*lines, "Assistant:"])


def _system(row: Mapping[str, Any]) -> str:
    """The system message that stands in a column of its own, or nothing."""
    system = row.get("system")
    return system.strip() if isinstance(system, str) else ""


def _of_transcript(text: str) -> tuple[Turn, ...]:
    """The turns of ``"Human: … Assistant: … Human: … Assistant:"``; nothing where it is no such transcript."""
    if not text.lstrip().startswith(("Human:", "Assistant:")) or not text.rstrip().endswith("\n\nAssistant:"):
        return ()
    parts = TRANSCRIPT.split(text.strip())
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [Turn(roles[name], said.strip()) for name, said in zip(parts[1::2], parts[2::2], strict=True)]
    turns = turns[:-1]
    if turns and turns[0].role == "assistant":  # words before the first question set the scene
        turns = [Turn("system", turns[0].content), *turns[1:]]
    alternating = all(
        t.role == ("user", "assistant")[i % 2] for i, t in enumerate(t for t in turns if t.role != "system")
    )
    good = turns and turns[-1].role == "user" and alternating and all(t.content for t in turns)
    return tuple(turns) if good else ()
