"""``calibrant tune``: questions to an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli import options as o
from calibrant.objectives import OBJECTIVES
from calibrant.questions import drop_leaked

Budget = Annotated[
    str, typer.Option(help="Settings to try, best by held-out log loss: quick (1), standard (3) or thorough (5).")
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings; the options here go first.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training questions.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
BatchSize = Annotated[int | None, typer.Option(help="Questions an optimiser step.")]
MicroBatch = Annotated[int | None, typer.Option("--micro-batch", help="Questions a forward pass.")]
Lam = Annotated[
    float | None, typer.Option("--lam", help="λ, weight of the calibration term (rcft, brier, mmce, soft_ece).")
]
Over = Annotated[
    str | None,
    typer.Option(
        help="Log loss of the answer over: vocabulary (the paper's, the default), or options (what restore takes for options "
        "read as continuations, unless an objective is named)."
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        help="What RCFT's term is added to: sft2 (question and answer, the paper's, the default) or sft1 (the answer alone)."
    ),
]
Rank = Annotated[int | None, typer.Option(help="LoRA rank; alpha is twice that, unless --config names one.")]
Full = Annotated[bool, typer.Option("--full", help="Tune all weights instead of a LoRA adapter.")]
ReportTo = Annotated[str | None, typer.Option(help="Tracker: wandb, trackio, tensorboard …")]
TuneSeed = Annotated[int | None, typer.Option("--seed", help="Same seed, same adapter.", min=0, max=2**32 - 1)]


def settings(
    path: Path | None, *, rank: int | None = None, full: bool = False, auto: bool = False, **overrides: Any
) -> Any:
    """The :class:`TuneConfig` of a YAML file with the command line's options on top; what neither names counts as not set.
    ``auto`` as for ``load_config``.
    """
    from calibrant.errors import ConfigError
    from calibrant.tuning import TuneConfig, load_config

    values = {name: value for name, value in overrides.items() if value is not None}
    base = TuneConfig() if path is None else load_config(path, auto=auto)
    if full and rank is not None:
        raise ConfigError(asked="--full and --rank", found="full tuning has no adapter", todo="give one of them")
    if full:
        values["lora"] = None
    elif rank is not None:
        lora = {} if base.lora is None else base.lora.model_dump()
        named = base.lora is not None and "alpha" in base.lora.model_fields_set
        values["lora"] = {**lora, "rank": rank, **({} if named else {"alpha": 2 * rank})}
    return TuneConfig.make({**base.model_dump(exclude_unset=True), **values})


def run(
    model: o.Model,
    questions: o.Questions,
    calibration: Annotated[str, typer.Option(help="Held-out questions: E-step, early stopping.", show_default=False)],
    out: o.OutFolder,
    objective: Annotated[str | None, typer.Option(help=f"One of: {', '.join(OBJECTIVES)}.")] = None,
    config: Config = None,
    budget: Budget = "quick",
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = None,
    lam: Lam = None,
    over: Over = None,
    language: Language = None,
    rank: Rank = None,
    full: Full = False,
    seed: TuneSeed = None,
    report_to: ReportTo = None,
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
    """Tune an adapter on questions by CFT, RCFT or another objective; run again to go on after an interruption."""
    from calibrant.tuning import sweep

    chosen = settings(
        config,
        rank=rank,
        full=full,
        objective=objective,
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
    train, held_out = (
        o.questions_of(source, columns=columns, skip_bad=skip_bad, limit=limit) for source in (questions, calibration)
    )
    kept = drop_leaked(held_out, train) if skip_bad else train
    o.say_left_out(train.name, kept.skipped[len(train.skipped) :])
    result = sweep(
        model,
        kept,
        held_out,
        out=out,
        budget=budget,  # type: ignore[arg-type]
        config=chosen,
        style=o.style_of(reading, format, variant, system),
        progress=not quiet,
        batch_tokens=batch_tokens,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    best = f", {result.sweep['chosen']} of {len(result.sweep['tried'])} settings" if result.sweep else ""
    typer.echo(
        f"{result.adapter or result.weights}: {result.objective}{best}, {result.steps} steps, "
        f"{result.seconds:.0f} s, {result.stopped}{f'; {result.not_adapted}' if result.not_adapted else ''}"
    )
