"""``calibrant score-served``: what a served decision model answers, as scores."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from calibrant.cli import options as o


def run(
    url: Annotated[
        str, typer.Argument(help="System One endpoint, without /systemone: https://host/v1.", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", help="The model's name there.", show_default=False)],
    questions: o.Questions,
    out: o.OutFile,
    state: Annotated[
        str,
        typer.Option(help="What the model is told first; {question} and columns such as {passage} are filled in."),
    ] = "",
    instructions: Annotated[str, typer.Option(help="What it is asked, filled in alike.")] = "{question}",
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 4,
    split: o.Split = None,
    columns: o.Columns = None,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    quiet: o.Quiet = False,
) -> None:
    """Option probabilities of a served decision model for each question, into one scores file.

    Until all are there, replies are kept in OUT.replies, so that the same command goes on where it broke off.
    """
    o.refuse_no_scores_file(out, questions)
    loaded = o.questions_of(
        questions, split=split, columns=columns, skip_bad=skip_bad, limit=limit, templates=f"{state} {instructions}"
    )
    from calibrant.importing import import_systemone

    replies = out.with_name(f"{out.name}.replies")
    scores = import_systemone(
        loaded,
        url,
        model,
        cache=replies,
        state=state,
        instructions=instructions,
        key_env=key_env,
        concurrency=concurrency,
        split=split or "",
        progress=not quiet,
        command=o.command_line(),
    )
    o.save_scores(scores, out)
    if before := scores.provenance["replies_kept_before"]:
        typer.echo(f"{before} of {scores.n} replies were kept from a run that was broken off", err=True)
    others = sum(1 for _ in replies.iterdir()) - scores.n
    if others > 0:
        typer.echo(f"{replies} is kept: it holds {others} replies to other requests", err=True)
    else:
        shutil.rmtree(replies)
