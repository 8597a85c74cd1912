"""The command ``calibrant``: one small file a verb; it parses, calls and prints."""

from __future__ import annotations

import io
import os
import sys

import typer

from calibrant._version import __version__
from calibrant.cli import (
    align_check,
    compare,
    demo,
    diagnose,
    drift,
    export,
    ladder,
    measure,
    report,
    rescale,
    restore,
    score,
    score_served,
    sensitivity,
    tune,
)
from calibrant.cli.interrupts import firm
from calibrant.cli.verb import Verb
from calibrant.errors import CalibrantError, OutputError, memory_full

app = typer.Typer(
    name="calibrant",
    help="Measure, explain and restore the calibration of aligned language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS = (
    *(restore, score, score_served, measure, compare, diagnose, sensitivity, rescale, tune),
    *(ladder, align_check, export, drift, report, demo),
)
for verb in VERBS:
    app.command(name=verb.__name__.rpartition(".")[2].replace("_", "-"), cls=Verb)(verb.run)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"calibrant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Measure, explain and restore the calibration of aligned language models."""


def main() -> None:
    """Run the command; a user's error is three lines and exit code 2, an interruption exit code 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot write Δ
    try:
        with firm():
            app()
    except (CalibrantError, RuntimeError, MemoryError) as error:
        known = (
            error if isinstance(error, CalibrantError) else memory_full(error, f"calibrant {' '.join(sys.argv[1:2])}")
        )
        if known is None:
            raise
        typer.echo(str(known), err=True)
        sys.exit(2)
    except SystemExit as stop:  # an interruption arrives here as exit code 130
        if stop.code == 130:
            typer.echo("interrupted; nothing half-written is left, and the same command goes on where it can", err=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        todo = (
            "see who may read and write that place"
            if isinstance(error, PermissionError)
            else "check the names and places"
        )
        told = OutputError(asked=f"calibrant {' '.join(sys.argv[1:2])}", found=str(error), todo=todo)
        typer.echo(str(told), err=True)
        sys.exit(2)
