"""What a table says of alignment, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibrant.ladder.alignment import FAILED, NOT_CHECKED, UNCHANGED, Alignment
from calibrant.ladder.table import Table
from calibrant.reporting.kept import TONES, check_row

NUMBERS = (
    ("ranking", "Ranking accuracy", "change of the share of pairs whose preferred response is the more probable one"),
    ("margin", "Reward margin", "implicit reward of tuned against aligned, preferred minus other response, in β nats"),
    ("kl", "KL a token", "KL(tuned ‖ aligned), nats, along answers to the prompts"),
)
"""The numbers that are shown of a check: name (of KL: its beginning), heading, meaning."""


def sentence_of(table: Table, name: str) -> str:
    """What to add to a verdict on a fix; empty where its alignment was not checked."""
    found = table.alignment(name)
    return {
        "kept": "Alignment was kept.",
        "not kept": f"Alignment was not kept: {decided(found)}.",
        "undecided": "Whether alignment was kept is undecided.",
    }.get(found.verdict, "")


def word(found: Alignment) -> dict[str, str]:
    """The verdict as one word, and how to set it."""
    tone = TONES.get(found.verdict)
    return {"word": found.verdict, "look": "plain" if tone is None else f"tone-word {tone}"}


def section(table: Table) -> dict[str, Any]:
    """The section on alignment: a row a fix that was to be checked, and in words what there is to say of the others."""
    rows, unchanged = [], []
    for standing in table.fixes:
        found, fix = standing.alignment, standing.fix
        if found.verdict == UNCHANGED and fix.family != "none":
            unchanged.append(fix.name)
        elif table.asked is not None and fix.family != "none":
            whose = "" if found.of in (None, fix.name) else f"as {found.of}: its map does not touch the answers"
            rows.append(
                {"name": fix.name, "whose": whose, **word(found), "why": decided(found), "cells": _cells(found)}
            )
    said = []
    if table.asked is None:
        said.append("Not checked: neither preference pairs nor prompts were given (--preferences, --prompts).")
    if unchanged:
        said.append(f"Unchanged, as the model is not touched: {', '.join(unchanged)}.")
    columns = [{"key": key, "name": name, "meaning": meaning} for key, name, meaning in NUMBERS]
    return {"columns": columns, "rows": rows, "sentences": said, "how": "" if table.asked is None else how(table.asked)}


def how(asked: Mapping[str, Any]) -> str:
    """What the checks were made on."""
    sets = {"preferences": "preference pairs", "prompts": "prompts"}
    given = [
        f"{asked[key]['n']:,} {what} ({asked[key]['name']})" for key, what in sets.items() if asked[key] is not None
    ]
    settings = asked["settings"]
    if settings["instructions"]:
        given.append("the checkable instructions")
    answers = asked["prompts"] is not None or settings["instructions"]
    cut = f", answers cut at {settings['max_new_tokens']:,} tokens" if answers else ""
    return (
        f"The first seed's chosen model of each fix that changes the model was compared with the aligned model on "
        f"{', '.join(given)}{cut}; {100 * settings['level']:g}% intervals resample prompts. No setting was chosen by it, and "
        "the verdicts are not corrected for the number of fixes."
    )


def decided(found: Alignment) -> str:
    """What decided the verdict."""
    if found.verdict in (FAILED, NOT_CHECKED, UNCHANGED):
        return found.reason
    n = len(found.checks)
    if found.verdict == "not kept":
        moved = [check_row(c) for c in found.checks if c["verdict"] == "not kept"]
        return "; ".join(f"{row['label']} ({row['change']})" for row in moved)
    kept = sum(c["verdict"] == "kept" for c in found.checks)
    return (
        f"all {n} numbers within their limits"
        if kept == n
        else f"{kept} of {n} numbers within their limits, none beyond"
    )


def _cells(found: Alignment) -> dict[str, dict[str, str]]:
    out = {}
    for key, _, _ in NUMBERS:
        row = next((check_row(c) for c in found.checks if c["name"].partition("_")[0] == key), None)
        out[key] = (
            {"value": "", "interval": ""} if row is None else {"value": row["change"], "interval": row["interval"]}
        )
    return out
