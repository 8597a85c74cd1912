"""``calibrant restore``: the main job, from questions to a restored, re-measured, reported model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from calibrant.cli import align_check as a
from calibrant.cli import options as o
from calibrant.cli import tune as t
from calibrant.errors import ConfigError
from calibrant.objectives import OBJECTIVES
from calibrant.questions import QuestionSet

if TYPE_CHECKING:
    from calibrant.tuning import TuneConfig


def sets_of(
    load: Callable[[str], QuestionSet],
    questions: str,
    test: str | None,
    calibration: str | None,
    ood: list[str] | None,
    *,
    seed: int,
    drop: bool,
    group: str | None = None,
) -> tuple[dict[str, QuestionSet], dict[str, QuestionSet]]:
    """The splits and the out-of-domain sets that the options name."""
    from calibrant.sets import assemble

    far = [load(source) for source in ood or []]
    names = [questions.name for questions in far]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            asked=f"out-of-domain sets {', '.join(ood or [])}",
            found=f"more than one is named {', '.join(map(repr, twice))}",
            todo="rename the files, so that each set has a name of its own",
        )
    loaded = {name: load(source) for name, source in (("test", test), ("calibration", calibration)) if source}
    main = load(questions)
    splits, ood_sets = assemble(
        main,
        test=loaded.get("test"),
        calibration=loaded.get("calibration"),
        ood={questions.name: questions for questions in far},
        seed=seed,
        drop=drop,
        group=group,
    )
    told = {row for one in (main, *loaded.values(), *far) for row in one.skipped}
    for name, one in (splits | ood_sets).items():
        o.say_left_out(name, [row for row in one.skipped if row not in told])
    return splits, ood_sets


def run(
    model: o.Model,
    questions: o.Questions,
    out: o.OutFolder,
    test: o.Test = None,
    calibration: o.Calibration = None,
    ood: o.OutOfDomain = None,
    reference: Annotated[
        str | None, typer.Option(help="The model before its alignment, for the diagnosis: hub id, folder or GGUF file.")
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
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"auto (the diagnosis chooses cft or rcft), or one of: {', '.join(OBJECTIVES)}. Without it, what --config "
            "names, else auto."
        ),
    ] = None,
    config: t.Config = None,
    budget: t.Budget = "quick",
    epochs: t.Epochs = None,
    lr: t.LearningRate = None,
    batch_size: t.BatchSize = None,
    micro_batch: t.MicroBatch = None,
    lam: t.Lam = None,
    over: t.Over = None,
    language: t.Language = None,
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
    cluster: o.SplitCluster = None,
    temperature: Annotated[
        bool, typer.Option(help="After tuning, one temperature from the calibration questions where it helps.")
    ] = True,
    quiet: o.Quiet = False,
) -> None:
    """Score, diagnose, tune by CFT or RCFT, score again in and out of domain, report. Run again to go on."""
    style = o.style_of(reading, format, variant, system)
    chosen = t.settings(
        config,
        auto=True,
        rank=rank,
        full=full,
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        micro_batch_size=micro_batch,
        lam=lam,
        over=over,
        language=language,
        seed=seed,
        report_to=report_to,
    )
    objective = _objective(objective, chosen)

    def load(source: str) -> QuestionSet:
        return o.questions_of(source, columns=columns, skip_bad=skip_bad, limit=limit)

    from calibrant.alignment import AlignSettings
    from calibrant.restoring import restore

    splits, sets = sets_of(load, questions, test, calibration, ood, seed=chosen.seed, drop=skip_bad, group=cluster)
    restore(
        model,
        splits,
        out=out,
        ood=sets,
        objective=objective,  # type: ignore[arg-type]
        config=chosen,
        budget=budget,  # type: ignore[arg-type]
        style=style,
        reference=reference,
        progress=not quiet,
        command=o.command_line(),
        batch_tokens=batch_tokens,
        cluster=cluster,
        temperature=temperature,
        preferences=o.pairs_of(
            preferences, split=preference_split, columns=preference_columns, skip_bad=skip_bad, limit=limit_pairs
        ),
        prompts=o.prompts_of(
            prompts, split=prompt_split, columns=prompt_columns, skip_bad=skip_bad, limit=limit_prompts
        ),
        align=AlignSettings(
            max_new_tokens=max_new_tokens, instructions=instructions and prompts is not None, seed=chosen.seed
        ),
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    typer.echo(str(out / "report" / "index.html"))


def _objective(typed: str | None, chosen: TuneConfig) -> str:
    """What was typed, else what the file of settings names, else auto."""
    if typed is None:
        return chosen.objective if "objective" in chosen.model_fields_set else "auto"
    known = ("auto", *OBJECTIVES)
    if typed not in known:
        raise ConfigError(
            asked=f"objective {typed!r}", found=f"known are {', '.join(known)}", todo="choose one of these"
        )
    return typed
