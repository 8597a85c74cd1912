"""The section on alignment: from the JSON of an alignment check to words and a small table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibrant.errors import ConfigError
from calibrant.metrics.text import in_unit, rounded
from calibrant.reporting.words import BAD, GOOD, NEUTRAL

FORMAT = "calibrant-alignment"
NEEDED = ("headline", "verdict", "sentence", "checks", "level")
TONES = {"kept": GOOD, "not kept": BAD, "undecided": NEUTRAL}
INTRODUCTION = (
    "Tuning for calibration must not undo what the model learnt from human preferences. Here the tuned model is compared "
    "with the aligned model that it was made from."
)


def alignment_words(alignment: Mapping[str, Any]) -> dict[str, Any] | None:
    """Headline, sentence and rows of an alignment check; ``None`` where there is none.

    Raises
    ------
    ConfigError : a mapping that is not an alignment check.
    """
    if not alignment:
        return None
    missing = ", ".join(name for name in NEEDED if name not in alignment)
    if alignment.get("format") != FORMAT or missing:
        raise ConfigError(
            asked="the section on alignment",
            found=f"a mapping of the format {alignment.get('format')!r}" + (f" without {missing}" if missing else ""),
            todo="give what AlignmentCheck.to_json() returns, or the alignment.json that align-check wrote",
        )
    wins = alignment.get("wins") or {}
    return {
        "headline": alignment["headline"],
        "tone": TONES[alignment["verdict"]],
        "introduction": INTRODUCTION,
        "sentence": alignment["sentence"],
        "rows": [check_row(check) for check in alignment["checks"]],
        "level": f"{100 * alignment['level']:g}%",
        "notes": list(alignment.get("notes") or ()),
        "judge": wins.get("judge"),
    }


def check_row(check: Mapping[str, Any]) -> dict[str, str]:
    """One number of a check (the JSON of ``calibrant.alignment.Check``) as text."""
    change, unit = check["change"], check["unit"]
    signed = check["aligned"] is not None or unit == "β nats"
    value, low, high = (_number(change[end], unit, sign=signed) for end in ("value", "low", "high"))
    needed = check.get("n_needed")
    more = f"about {rounded(needed)} {check['of']} would settle it" if needed else check.get("why", "")
    return {
        "label": check["label"],
        "aligned": _number(check["aligned"], check["level_unit"]) if check["aligned"] is not None else "",
        "tuned": _number(check["tuned"], check["level_unit"]) if check["tuned"] is not None else "",
        "change": value,
        "interval": f"{low} to {high}" if change["low"] is not None else "",
        "n": f"{change['n']:,} {check['of']}",
        "rule": check["rule"],
        "verdict": check["verdict"],
        "needed": more,
    }


def _number(value: float | None, unit: str, *, sign: bool = False) -> str:
    """As on a terminal, with a true minus: ``−2.1 pts``."""
    return in_unit(value, unit, sign=sign).replace("-", "−")
