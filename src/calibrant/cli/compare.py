"""``calibrant compare``: two scores of the same questions, paired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli.tables import comparison_text
from calibrant.metrics import compare
from calibrant.scores import Scores


def run(
    a: Annotated[Path, typer.Argument(help="Scores before.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Scores after, on the same questions.", show_default=False)],
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    json: o.Json = False,
) -> None:
    """The change from A to B in each metric, with paired intervals and a verdict."""
    found = compare(Scores.load(a), Scores.load(b), n_bins=bins, n_boot=draws, level=level, seed=seed, cluster=cluster)
    if json:
        o.print_json(found.to_json())
    else:
        typer.echo(comparison_text(a, b, found))
