"""``calibrant ladder``: every fix on equal data and splits, into one table."""

from __future__ import annotations

from typing import Annotated

import typer

from calibrant.cli import align_check as a
from calibrant.cli import options as o
from calibrant.cli import restore as r
from calibrant.cli import tune as t
from calibrant.errors import ConfigError
from calibrant.metrics.bins import check_settings
from calibrant.questions import check_cluster


def run(
    out: o.OutFolder,
    model: Annotated[
        str | None, typer.Argument(help="Aligned model: hub id, local folder, or GGUF file.", show_default=False)
    ] = None,
    questions: Annotated[str | None, typer.Option(help="Training questions, as for restore.")] = None,
    test: o.Test = None,
    calibration: o.Calibration = None,
    ood: o.OutOfDomain = None,
    fixes: Annotated[str | None, typer.Option(help="Names with commas between; all by default.")] = None,
    budget: Annotated[str, typer.Option(help="Settings a sweep: quick (1), standard (3), thorough (5).")] = "standard",
    seeds: Annotated[int, typer.Option(help="Trainings of the chosen setting.", min=1)] = 3,
    settings: Annotated[
        str | None, typer.Option(help="cft=lr-x3,focal=default: run these instead of a sweep, as an earlier one chose.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The model before its alignment.")] = None,
    alignment_adapter: Annotated[
        str | None, typer.Option(help="The LoRA adapter that makes the aligned model of --reference.")
    ] = None,
    preferences: a.Preferences = None,
    prompts: a.Prompts = None,
    preference_columns: a.PairColumns = None,
    prompt_columns: a.PromptColumns = None,
    preference_split: a.PairSplit = None,
    prompt_split: a.PromptSplit = None,
    limit_pairs: a.PairLimit = None,
    limit_prompts: a.PromptLimit = None,
    max_new_tokens: a.NewTokens = 256,
    instructions: a.Instructions = True,
    dry: Annotated[bool, typer.Option("--dry", help="Print the cells and what they may cost; do nothing.")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Write and print the table of what --out holds by now; run nothing.")
    ] = False,
    config: t.Config = None,
    epochs: t.Epochs = None,
    lr: t.LearningRate = None,
    batch_size: t.BatchSize = None,
    micro_batch: t.MicroBatch = None,
    rank: t.Rank = None,
    seed: t.TuneSeed = None,
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    cluster: o.SplitCluster = None,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    reading: o.Reading = "letters",
    format: o.Format = "raw",
    variant: o.Variant = "sum",
    system: o.System = None,
    revision: o.Revision = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    quiet: o.Quiet = False,
) -> None:
    """Run every fix on the same questions, choose settings on the calibration split, test once, compare. Run again to go on."""
    if not table and (model is None or questions is None):
        raise ConfigError(
            asked="a ladder",
            found=f"no {'MODEL' if model is None else '--questions'}",
            todo="give MODEL --questions FILE --out FOLDER, or --out FOLDER --table for the table of a ladder",
        )
    check_settings(bins, draws, level)  # before the training, not after it
    if dry and table:
        raise ConfigError(asked="--dry with --table", found="one writes nothing, the other the table", todo="give one")
    from calibrant.alignment import AlignSettings
    from calibrant.ladder import Ladder, read_table, settings_named, write_table

    if model is not None and questions is not None and not table:
        chosen = t.settings(
            config, rank=rank, epochs=epochs, learning_rate=lr, batch_size=batch_size, micro_batch_size=micro_batch,
            seed=seed,
        )  # fmt: skip

        splits, far = r.sets_of(
            lambda source: o.questions_of(source, columns=columns, skip_bad=skip_bad, limit=limit),
            questions, test, calibration, ood, seed=chosen.seed, drop=skip_bad, group=cluster,
        )  # fmt: skip
        loading = {
            "revision": revision,
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
            "allow_pickle": allow_pickle,
        }
        pairs = o.pairs_of(
            preferences, split=preference_split, columns=preference_columns, skip_bad=skip_bad, limit=limit_pairs
        )
        asked = o.prompts_of(
            prompts, split=prompt_split, columns=prompt_columns, skip_bad=skip_bad, limit=limit_prompts
        )
        align = AlignSettings(
            max_new_tokens=max_new_tokens, instructions=instructions and asked is not None, seed=chosen.seed
        )
        climb = Ladder(
            model, splits, out, ood=far, reference=reference, alignment_adapter=alignment_adapter,
            fixes=[name.strip() for name in fixes.split(",")] if fixes is not None else None, budget=budget,  # type: ignore[arg-type]
            seeds=seeds, settings=settings_named(settings), config=chosen,
            style=o.style_of(reading, format, variant, system), progress=not quiet,
            preferences=pairs, prompts=asked, align=align if pairs or asked else None,
            command=o.command_line(), batch_tokens=batch_tokens, loading=loading,
        )  # fmt: skip
        check_cluster(cluster, climb.exam)
        if dry:
            typer.echo(climb.dry_run().to_text())
            return
        climb.run()
    page = write_table(read_table(out, n_bins=bins, n_boot=draws, level=level, cluster=cluster), out)
    if table:
        typer.echo(page.with_suffix(".md").read_text(encoding="utf-8"))
    typer.echo(str(page))
