"""``calibrant score``: a model and questions to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.errors import ConfigError

MODEL_ONLY = (
    "questions", "skip_bad", "limit", "reading", "format", "system", "chat_template", "revision", "adapter",
    "adapter_revision", "dtype", "device", "trust_remote_code", "allow_pickle", "batch_tokens",
)  # fmt: skip
"""Options without use for scores that are imported."""


def run(
    context: typer.Context,
    out: o.OutFile,
    model: Annotated[str | None, typer.Argument(help="Hub id, local folder, or GGUF file.", show_default=False)] = None,
    questions: Annotated[str | None, typer.Option(help="Questions: a file, folder, or hub data set.")] = None,
    from_lm_eval: Annotated[
        Path | None, typer.Option(help="Import what `lm_eval --log_samples` wrote: a file or a folder.")
    ] = None,
    from_table: Annotated[
        Path | None, typer.Option(help="Import a CSV or Parquet of option probabilities; --columns names its columns.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Which lm-eval tasks to import, e.g. 'mmlu_*' or 'arc_easy,piqa'.")
    ] = None,
    split: o.Split = None,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    reading: o.Reading = "letters",
    format: o.Format = "raw",
    variant: o.Variant = "sum",
    system: o.System = None,
    chat_template: o.ChatTemplate = None,
    revision: o.Revision = None,
    adapter: o.Adapter = None,
    adapter_revision: o.AdapterRevision = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    quiet: o.Quiet = False,
) -> None:
    """Option probabilities of a model for each question, into one scores file."""
    asked = [
        name
        for name, value in (("MODEL", model), ("--from-lm-eval", from_lm_eval), ("--from-table", from_table))
        if value
    ]
    if len(asked) != 1 or (model and not questions):
        raise ConfigError(
            asked="scores",
            found=f"{' and '.join(asked) or 'no source'}{'' if questions or not model else ' without --questions'}",
            todo="give MODEL with --questions, or one of --from-lm-eval and --from-table",
        )
    o.refuse_no_scores_file(out, questions, from_table)
    if from_lm_eval:
        o.refuse_unused(context, (*MODEL_ONLY, "columns"), "--from-lm-eval")
        from calibrant.importing import import_lm_eval

        names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
        scores = import_lm_eval(from_lm_eval, variant=variant, tasks=names, split=split or "")  # type: ignore[arg-type]
        o.say_import(scores)
    elif from_table:
        o.refuse_unused(context, (*MODEL_ONLY, "variant", "tasks"), "--from-table")
        from calibrant.importing import import_table

        scores = import_table(from_table, split=split or "", **o.table_columns(columns))
        o.say_import(scores)
    else:
        assert model is not None
        assert questions is not None
        o.refuse_unused(context, ("tasks",), "a model to score with")
        style = o.style_of(reading, format, variant, system)
        if not format.startswith("chat"):
            o.refuse_unused(context, ("chat_template",), f"--format {format}")
        loaded = o.questions_of(questions, split=split, columns=columns, skip_bad=skip_bad, limit=limit)
        from calibrant.scoring import score  # takes seconds; a wrong question is told before

        scores = score(
            model,
            loaded,
            style=style,
            adapter=adapter,
            split=split or "",
            progress=not quiet,
            command=o.command_line(),
            batch_tokens=batch_tokens,
            adapter_revision=adapter_revision,
            chat_template=chat_template,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    o.save_scores(scores, out)
