"""``calibrant measure``: scores to numbers with their uncertainty."""

from __future__ import annotations

import typer

from calibrant.cli import options as o
from calibrant.cli.tables import measurement_text
from calibrant.metrics import measure
from calibrant.scores import Scores


def run(
    scores: o.ScoresFile,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    json: o.Json = False,
) -> None:
    """Accuracy, conf-ECE, cw-ECE, NLL, Brier and signed gap, each with interval, n and noise floor."""
    found = measure(Scores.load(scores), n_bins=bins, n_boot=draws, level=level, seed=seed, cluster=cluster)
    if json:
        o.print_json(found.to_json())
    else:
        typer.echo(measurement_text(scores, found))
