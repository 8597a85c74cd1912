"""``calibrant drift``: what merging, casting or quantising did to a model's probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli.tables import drift_text
from calibrant.errors import ModelError
from calibrant.metrics import Drift
from calibrant.provenance import is_gguf

MODELS_ONLY = (
    "questions", "in_4bit", "columns", "skip_bad", "limit", "reading", "format", "variant", "system", "dtype", "device",
    "trust_remote_code", "allow_pickle", "batch_tokens",
)  # fmt: skip
"""Options without use where nothing is scored."""
Side = "Scores file, export folder, model (hub id or folder), or GGUF file."


def run(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help=f"Before. {Side}", show_default=False)],
    b: Annotated[str, typer.Argument(help=f"After. {Side}", show_default=False)],
    questions: Annotated[str | None, typer.Option(help="Questions to score models on: a file or data set.")] = None,
    tolerance: Annotated[float, typer.Option(help="Movement allowed: mean total variation.")] = 0.02,
    in_4bit: Annotated[
        bool, typer.Option("--in-4bit", help="Load B in 4 bits (NF4; needs the extra [quant]).")
    ] = False,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    reading: o.Reading = "letters",
    format: o.Format = "raw",
    variant: o.Variant = "sum",
    system: o.System = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """How far the probabilities of B are from those of A on the same questions; exit code 3 if B drifted."""
    both = all(Path(side).is_file() and not is_gguf(side) for side in (a, b))
    if both:
        o.refuse_unused(context, MODELS_ONLY, "two scores files")
    styled = any(o.is_given(context, name) for name in ("reading", "format", "variant", "system"))
    asked = o.style_of(reading, format, variant, system) if styled else None
    loaded = None if questions is None else o.questions_of(questions, columns=columns, skip_bad=skip_bad, limit=limit)
    from calibrant.exporting import check_drift

    found = check_drift(
        a,
        b,
        loaded,
        style=asked,
        quantize_4bit=in_4bit,
        tolerance=tolerance,
        progress=not quiet,
        batch_tokens=batch_tokens,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    copy = f"{b} in 4 bits" if in_4bit else b
    if json:
        o.print_json(found.to_json())
    else:
        typer.echo(drift_text(a, copy, found))
    if not found.is_faithful:
        drifted = ModelError(
            asked=f"{copy} within {found.tolerance:g} of {a}",
            found=f"{_moved(found)} on {found.n} questions",
            todo="use a finer precision, or measure, rescale and set thresholds again with this copy",
        )
        typer.echo(str(drifted), err=True)
        raise typer.Exit(3)  # any error is 2, so that a gate tells them apart


def _moved(found: Drift) -> str:
    """What was too much of a change."""
    if found.movement > found.tolerance:
        return f"it moved by {found.movement:.3g}"
    accuracy, ece = found.accuracy, found.conf_ece
    fell = accuracy.high < 0 and accuracy.value < -found.tolerance
    what = f"accuracy fell by {-accuracy.value:.3g}" if fell else f"conf-ECE rose by {ece.value:.3g}"
    return f"{what}, beyond chance, though it moved by {found.movement:.3g} only,"
