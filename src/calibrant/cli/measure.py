"""``calibrant measure``: scores to numbers with their uncertainty."""

from __future__ import annotations

from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli.tables import battery_text, decision_text, slices_text
from calibrant.metrics import battery, measure, slices, threshold_for
from calibrant.metrics.panel import COVERAGE
from calibrant.scores import Scores


def run(
    scores: o.ScoresFile,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    full: Annotated[
        bool, typer.Option("--battery", help="Add the further metrics: equal-mass, smooth, AUROC, AURC …")
    ] = False,
    by: Annotated[
        str | None, typer.Option(help="Add a table by subject, answer, prediction, options, or a column; worst first.")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Add the confidence above which this accuracy is guaranteed.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Accuracy, conf-ECE, cw-ECE, NLL, Brier and signed gap, each with interval, n and noise floor."""
    s = Scores.load(scores)
    found = measure(s, n_bins=bins, n_boot=draws, level=level, seed=seed, cluster=cluster)
    further = battery(s, n_bins=bins, n_boot=draws, level=level, seed=seed) if full else None
    parts = slices(s, by, n_bins=bins, n_boot=draws, level=level, seed=seed) if by else None
    decision = None
    if target_accuracy is not None:
        decision = threshold_for(s.confidence_N, s.correct_N, target_accuracy, level)
    others = full or by is not None or target_accuracy is not None
    note = [f"Only the first table knows of the clusters ({cluster}): the rest takes questions as independent."]
    note = note if others and cluster is not None else []
    if json:
        out = found.to_json()
        out["notes"] += note
        if further is not None:
            out["coverage"] = COVERAGE
            out["battery"] = {name: estimate.to_json() for name, estimate in further.items()}
        if parts is not None:
            out["by"] = by
            out["slices"] = [part.to_json() for part in parts]
        if decision is not None:
            out["decision"] = decision.to_json()
        o.print_json(out)
        return
    typer.echo(f"{scores}: {found.to_text()}")
    if further is not None:
        typer.echo("\n" + battery_text(further))
    if parts is not None:
        typer.echo("\n" + slices_text(by or "", parts))
    if decision is not None:
        typer.echo("\n" + decision_text(decision))
    for line in note:
        typer.echo(f"\n{line}")
