"""``calibrant rescale``: fit a temperature on some scores and apply it to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.files import write_json
from calibrant.scalers import Temperature
from calibrant.scores import Scores


def run(
    scores: o.ScoresFile,
    out: o.OutFile,
    fit: Annotated[Path, typer.Option(help="Scores to fit on: other questions, same model.", show_default=False)],
) -> None:
    """Divide log-probabilities by the temperature that fits other questions best (held-out NLL)."""
    scaler = Temperature().fit(Scores.load(fit))
    scaler.apply(Scores.load(scores)).save(out)
    note = write_json(out.with_suffix(".temperature.json"), scaler.to_json())
    typer.echo(f"{out}: temperature {scaler.temperature_:.4f}, fitted on {fit}; kept in {note}")
