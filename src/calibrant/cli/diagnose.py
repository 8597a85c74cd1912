"""``calibrant diagnose``: what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.diagnosis import diagnose, read_path, read_preferences
from calibrant.scores import Scores


def run(
    scores: o.ScoresFile,
    reference: Annotated[
        Path | None, typer.Option(help="Scores of the pre-alignment model on the same questions.")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="Scores that stand for the target probabilities.")] = None,
    path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a tuning or training run, file of its points, or scores; may be given again."),
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(help="JSONL of log-probabilities of preference pairs under both models.")
    ] = None,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    json: o.Json = False,
) -> None:
    """Over- or underconfident, in which regime, by which evidence, and what to do: nothing, temperature, CFT or RCFT."""
    found = diagnose(
        Scores.load(scores),
        reference=None if reference is None else Scores.load(reference),
        target=None if target is None else Scores.load(target),
        path=read_path(path or []),
        preferences=None
        if preferences is None
        else read_preferences(preferences, seed=seed, n_boot=draws, level=level),
        seed=seed,
        n_boot=draws,
        n_bins=bins,
        level=level,
        cluster=cluster,
    )
    if json:
        o.print_json(found.to_json())
    else:
        typer.echo(found.to_text())
