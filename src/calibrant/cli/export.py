"""``calibrant export``: a tuned model as a folder to serve, checked against the model that was measured."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli import options as o
from calibrant.errors import ConfigError
from calibrant.scores import Scores

RUN_KNOWS = (
    *("adapter", "adapter_revision", "revision", "trust_remote_code", "allow_pickle"),
    *("reading", "format", "variant", "system", "test_scores"),
)


def run(
    context: typer.Context,
    out: o.OutFolder,
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of a finished `calibrant restore`.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Instead of RUN: hub id, local folder, or GGUF file.")] = None,
    adapter: o.Adapter = None,
    adapter_revision: o.AdapterRevision = None,
    merge: Annotated[bool, typer.Option(help="Add the adapter to the weights, or write it alone.")] = True,
    dtype: Annotated[str, typer.Option(help="auto (as measured), float32, bfloat16 or float16.")] = "auto",
    scaler: Annotated[Path | None, typer.Option(help="A temperature to ship, made by `calibrant rescale`.")] = None,
    temperature_from: Annotated[
        str | None, typer.Option(help="Fit one on these scores, or on 'calibration': the run's calibration questions.")
    ] = None,
    fold: Annotated[bool, typer.Option("--fold", help="Fold it into the weights; changes all sampling.")] = False,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Find the threshold that promises this accuracy among the answered.")
    ] = None,
    level: Annotated[float, typer.Option(help="Probability of that promise.")] = 0.95,
    calibration: Annotated[str, typer.Option(help="Scores to find it on, or 'calibration'.")] = "calibration",
    test_scores: Annotated[Path | None, typer.Option(help="Scores of the tuned model on test questions.")] = None,
    check: Annotated[
        str | None, typer.Option(help="Questions of the drift check; by default the run's calibration questions.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Movement that the drift check allows.")] = 0.02,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="Write it even if it drifted.")] = False,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    reading: o.Reading = "letters",
    format: o.Format = "raw",
    variant: o.Variant = "sum",
    system: o.System = None,
    revision: o.Revision = None,
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    quiet: o.Quiet = False,
) -> None:
    """Write a folder to serve: weights or adapter, temperature, threshold, reader, manifest; and check its drift."""
    _refuse_sources(context, run, model)
    questions = None if check is None else o.questions_of(check, columns=columns, skip_bad=skip_bad)
    named = {
        "temperature_from": _scores_or_word(temperature_from),
        "calibration": _scores_or_word(calibration),
        "scaler": None if scaler is None else _temperature(scaler),
    }
    test = None if test_scores is None else Scores.load(test_scores)

    from dataclasses import replace

    from calibrant.exporting import ServeConfig, Source, export
    from calibrant.exporting.card import abstention_words, decision_words, drift_words, temperature_words

    if run is not None:
        source = Source.of_run(run)
        if device != "auto":
            source = replace(source, loading={**source.loading, "device": device})
    else:
        assert model is not None
        loading = {
            "revision": revision,
            "adapter_revision": adapter_revision,
            "dtype": "auto",
            "device": device,
            "trust_remote_code": trust_remote_code,
            "allow_pickle": allow_pickle,
        }
        style = o.style_of(reading, format, variant, system)
        source = Source(model, adapter, style, loading, test=test)
    config = ServeConfig(
        merge=merge,
        dtype=dtype,
        fold=fold,
        target_accuracy=target_accuracy,
        level=level,
        tolerance=tolerance,
        allow_drift=allow_drift,
        **named,
    )
    made = export(
        source,
        out=out,
        config=config,
        check=questions,
        progress=not quiet,
        command=o.command_line(),
        batch_tokens=batch_tokens,
    )
    typer.echo(str(made.folder))
    told = {
        "temperature": temperature_words,
        "abstention": abstention_words,
        "drift": drift_words,
        "decision model": decision_words,
    }
    for label, words in told.items():
        typer.echo(f"{label}: {words(made.facts)}")


def _refuse_sources(context: typer.Context, run: Path | None, model: str | None) -> None:
    """Raise :class:`ConfigError` for no source or two, and for options that nothing was asked for."""
    if (run is None) == (model is None):
        raise ConfigError(
            asked="an export",
            found="both a run and --model" if run else "neither a run nor --model",
            todo="give the folder of a restore run, or --model with --adapter",
        )
    if run is not None:
        given = [name for name in RUN_KNOWS if o.is_given(context, name)]
        if given:
            raise ConfigError(
                asked=f"an export of the run in {run} with {', '.join('--' + x.replace('_', '-') for x in given)}",
                found="the run knows that itself",
                todo="leave it out, or give --model and --adapter instead of the run",
            )
    own = run is not None  # a run has questions of its own to check on
    checked = ("columns",) if own else ("columns", "tolerance", "allow_drift")
    needed = {"target_accuracy": ("calibration", "level"), "check": checked, "adapter": ("adapter_revision",)}
    for name, options in needed.items():
        if not o.is_given(context, name):
            o.refuse_unused(context, options, f"no --{name.replace('_', '-')}")


def _scores_or_word(value: str | None) -> Any:
    return value if value in (None, "calibration") else Scores.load(value)


def _temperature(path: Path) -> Any:
    from calibrant.scalers import Temperature

    try:
        values = _json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        todo = "give the .temperature.json that `calibrant rescale` wrote"
        raise ConfigError(asked=f"a temperature from {path}", found=str(error), todo=todo) from error
    return Temperature.from_json(values)
