"""``calibrant report``: scores to one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli import options as o
from calibrant.diagnosis import diagnose
from calibrant.errors import ConfigError
from calibrant.files import printable, read_json
from calibrant.provenance import told_apart
from calibrant.scores import Scores


def run(
    before: Annotated[list[Path], typer.Option(help="Scores; the first in domain, further ones out of domain.")],
    out: o.OutFolder,
    after: Annotated[list[Path] | None, typer.Option(help="Scores after, in the same order.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Name of each, in the same order; default: the file's.")
    ] = None,
    target_accuracy: Annotated[
        float, typer.Option(help="Show the confidence above which this accuracy is guaranteed.")
    ] = 0.9,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    alignment: Annotated[Path | None, typer.Option(help="alignment.json, made by `calibrant align-check`.")] = None,
) -> None:
    """A self-contained HTML page, with Markdown, JSON and figures, from scores of one model or of two."""
    from calibrant.reporting import Domain, report  # draws, so it costs a second that the other verbs need not pay

    later = after or []
    if later and len(later) != len(before):
        raise ConfigError(
            asked=f"a report on {len(before)} scores before and {len(later)} after",
            found="they do not pair up",
            todo="give --after once for each --before, in the same order, or not at all",
        )
    if any(not one.strip() for one in name or ()):
        raise ConfigError(
            asked="a report with a name for each of its scores",
            found="an empty --name",
            todo="write it, or leave it out",
        )
    names = [printable(one) for one in name or [path.stem for path in before]]
    if not name and len(set(names)) < len(names):
        names = [printable(f"{path.parent.name}/{path.stem}") for path in before]
    if len(names) != len(before):
        raise ConfigError(
            asked=f"names for {len(before)} scores",
            found=f"{len(names)} names",
            todo="give --name once for each --before, in the same order, or not at all",
        )
    pairs = [(Scores.load(path), Scores.load(later[i]) if later else None) for i, path in enumerate(before)]
    domains = [
        Domain(label, i == 0, first, second)
        for i, (label, (first, second)) in enumerate(zip(names, pairs, strict=True))
    ]
    facts = pairs[0][0].provenance
    settings: dict[str, Any] = {"n_bins": bins, "n_boot": draws, "level": level, "seed": seed, "cluster": cluster}
    page = report(
        domains,
        diagnosis=diagnose(pairs[0][0], **settings),
        alignment=None if alignment is None else _check_of(alignment),
        asked={"model": facts.get("model"), "prompt": facts.get("prompt"), "command": o.command_line()},
        notes=[
            note for label, (first, second) in zip(names, pairs, strict=True) for note in _unlike(label, first, second)
        ]
        + _of_several_models(names, pairs),
        target_accuracy=target_accuracy,
        out=out,
        **settings,
    )
    typer.echo(str(page))


def _unlike(label: str, before: Scores, after: Scores | None) -> list[str]:
    """What else than the fix lies between two scores, as far as their provenance tells."""
    if after is None:
        return []
    names = ("model", "prompt", "chat_template", "dtype", "device")
    told = told_apart(before.provenance, after.provenance, names, ("before", "after"))
    return [f"On {label!r} more than the weights may differ: {'; '.join(told)}."] if told else []


def _of_several_models(names: Sequence[str], pairs: Sequence[tuple[Scores, Scores | None]]) -> list[str]:
    """Where the scores of a further set are not of the model that the page is about, or were read in another way."""
    facts = ("model", "revision", "adapter", "quantized", "prompt", "chat_template")
    notes = []
    for label, further in zip(names[1:], pairs[1:], strict=True):
        for one, other, when in zip(pairs[0], further, ("", " after"), strict=True):
            sides = (f"on {names[0]!r}", f"on {label!r}")
            told = [] if one is None or other is None else told_apart(one.provenance, other.provenance, facts, sides)
            if told:
                notes.append(f"The scores{when} are not all of one model, asked in one way: {'; '.join(told)}.")
    return notes


def _check_of(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            asked=f"an alignment check from {path}",
            found="an empty object" if found == {} else f"a JSON {type(found).__name__}",
            todo="name the alignment.json that `calibrant align-check` wrote",
        )
    return found
