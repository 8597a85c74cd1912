"""``calibrant restore``: the main job, from questions to a restored, re-measured, reported model."""

from __future__ import annotations

from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli import tune as t
from calibrant.errors import ConfigError
from calibrant.questions import QuestionSet, drop_leaked, split_questions

FRACTIONS = {"train": 0.6, "calibration": 0.2, "test": 0.2}


def run(
    model: o.Model,
    questions: o.Questions,
    out: o.OutFolder,
    test: Annotated[
        str | None, typer.Option(help="Test questions; without it, a fifth of --questions is held out.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Calibration questions; without it, a fifth of --questions is held out.")
    ] = None,
    ood: Annotated[list[str] | None, typer.Option(help="Out-of-domain test questions; may be given again.")] = None,
    objective: Annotated[str, typer.Option(help="auto (the diagnosis chooses), cft, rcft or sft.")] = "auto",
    config: t.Config = None,
    epochs: t.Epochs = None,
    lr: t.LearningRate = None,
    batch_size: t.BatchSize = None,
    micro_batch: t.MicroBatch = None,
    lam: t.Lam = None,
    rank: t.Rank = None,
    full: t.Full = False,
    seed: t.TuneSeed = None,
    report_to: t.ReportTo = None,
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
    """Score, diagnose, tune by CFT or RCFT, score again in and out of domain, report. Run again to go on."""
    if objective not in ("auto", "cft", "rcft", "sft"):
        raise ConfigError(
            asked=f"objective {objective!r}", found="known are auto, cft, rcft, sft", todo="choose one of these"
        )
    style = o.style_of(reading, format, variant, system)
    chosen = t.settings(
        config,
        rank=rank,
        full=full,
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        micro_batch_size=micro_batch,
        lam=lam,
        seed=seed,
        report_to=report_to,
    )

    def load(source: str) -> QuestionSet:
        return o.questions_of(source, columns=columns, skip_bad=skip_bad, limit=limit)

    whole = load(questions)
    given = {name: load(source) for name, source in (("test", test), ("calibration", calibration)) if source}
    sets = {}
    for source in ood or []:
        loaded = load(source)
        sets[loaded.name] = loaded
    if skip_bad:
        for kept in [*given.values(), *sets.values()]:
            before = len(whole.skipped)
            whole = drop_leaked(kept, whole)
            for row in whole.skipped[before:]:
                typer.echo(f"left out: {row.where}: {row.reason}", err=True)
    wanted = {name: share for name, share in FRACTIONS.items() if name not in given}
    total = sum(wanted.values())
    parts = split_questions(whole, **{name: wanted.get(name, 0.0) / total for name in FRACTIONS}, seed=chosen.seed)
    from calibrant.restoring import restore

    restore(
        model,
        {**parts, **given},
        out=out,
        ood=sets,
        objective=objective,  # type: ignore[arg-type]
        config=chosen,
        style=style,
        progress=o.watching(quiet),
        command=o.command_line(),
        batch_tokens=batch_tokens,
        **o.loading_of(
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        ),
    )
    typer.echo(str(out / "report" / "index.html"))
