"""``calibrant sensitivity``: what the order of the options, the prompt's format and the reading do to the numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from calibrant.cli import options as o


def run(
    model: o.Model,
    questions: o.Questions,
    out: o.OutFolder,
    permutations: Annotated[
        int | None,
        typer.Option(help="Cyclic orders of the options; all by default for letters, 1 leaves this part out.", min=1),
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Prompt formats to compare; a single one leaves this part out.")
    ] = "raw,chat,chat-prefix",
    variants: Annotated[
        str | None,
        typer.Option(help="Readings of option texts to compare (continuation); all by default, one leaves it out."),
    ] = None,
    split: o.Split = None,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    reading: o.Reading = "letters",
    format: o.Format = "raw",
    variant: o.Variant = "sum",
    system: o.System = None,
    revision: o.Revision = None,
    adapter: o.Adapter = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a model under other option orders, prompt formats and readings of option texts; run again to go on."""
    from calibrant.scoring.sensitivity import sensitivity, to_json

    found = sensitivity(
        model,
        o.questions_of(questions, split=split, columns=columns, skip_bad=skip_bad, limit=limit),
        out=out,
        style=o.style_of(reading, format, variant, system),
        shifts=permutations,
        formats=[name.strip() for name in formats.split(",")],
        variants=None if variants is None else [name.strip() for name in variants.split(",")],  # type: ignore[misc]
        batch_tokens=batch_tokens,
        progress=not quiet,
        command=o.command_line(),
        split=split or "",
        analysis={"n_bins": bins, "n_boot": draws, "level": level, "seed": seed},
        adapter=adapter,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    if json:
        o.print_json(to_json(found))
    else:
        typer.echo("\n".join(part.to_text() for part in found if part is not None), nl=False)
