"""``calibrant rescale``: fit a post-hoc scaler on some scores, or load one, and apply it to others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.diagnosis.verdict import LEAST_N
from calibrant.errors import ConfigError
from calibrant.files import write_json
from calibrant.scalers import SCALERS, Scaler, Temperature, load_scaler, scaler_named
from calibrant.scores import Scores


def run(
    context: typer.Context,
    scores: o.ScoresFile,
    out: o.OutFile,
    fit_on: Annotated[
        Path | None, typer.Option("--fit-on", "--fit", help="Scores to fit on: other questions, same model.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"{', '.join(SCALERS)}.")] = Temperature.name,
    reference: Annotated[
        Path | None, typer.Option(help="The base model's scores of the questions fitted on (daca).")
    ] = None,
    scaler: Annotated[Path | None, typer.Option(help="Instead of fitting: a scaler that this command kept.")] = None,
) -> None:
    """Fit a post-hoc scaler on other questions (by default one temperature, by held-out NLL), apply it and keep it."""
    if (fit_on is None) == (scaler is None) or (scaler is not None and reference is not None):
        raise ConfigError(
            asked="scores rescaled",
            found="neither --fit-on nor --scaler"
            if fit_on is None and scaler is None
            else "--scaler and what to fit on",
            todo="give --fit-on with scores to learn from, or --scaler with what an earlier run kept",
        )
    o.refuse_no_scores_file(out, scores, fit_on, reference, scaler)
    if fit_on is None:
        assert scaler is not None
        o.refuse_unused(context, ("method",), "--scaler, which names its method itself")
        chosen = load_scaler(scaler)
        _apply(chosen, scores, out)
        typer.echo(f"{out}: rescaled by {scaler} ({chosen.name}, fitted on {chosen.n_fit_} questions)")
        return
    base = None if reference is None else Scores.load(reference)
    chosen = scaler_named(method)().fit(Scores.load(fit_on), reference=base)
    _apply(chosen, scores, out)
    stem = out.name.removesuffix(".safetensors").removesuffix(".scores")
    note = write_json(out.with_name(f"{stem}.{method}.json"), chosen.to_json())
    fitted = chosen.described().get("temperature")
    what = method if fitted is None else f"{method} {fitted:.4f}"
    typer.echo(f"{out}: {what}, fitted on {fit_on}; kept in {note}")


def _apply(scaler: Scaler, scores: Path, out: Path) -> None:
    """Apply and save; say what it warns of, and what there is to know of its fit."""
    found = Scores.load(scores)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        scaler.apply(found).save(out)
    few = (
        f"fitted on {scaler.n_fit_} questions only: what it learned may be chance" if scaler.n_fit_ < LEAST_N else None
    )
    for said in (*(warning.message for warning in noted), *scaler.cautions(), *([few] if few else [])):
        typer.echo(f"warning: {said}", err=True)
