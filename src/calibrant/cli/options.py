"""The options that several verbs share, each declared once."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from calibrant.errors import ConfigError, OutputError, ScoresError
from calibrant.files import printable, refuse_unwritable
from calibrant.intake import load_questions, unread_passages
from calibrant.prompts import PromptStyle
from calibrant.questions import ONE_PLACE, QuestionSet, Skipped
from calibrant.scores import Scores

Model = Annotated[str, typer.Argument(help="Hub id, local folder, or GGUF file.", show_default=False)]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Adapter = Annotated[str | None, typer.Option(help="A peft adapter to put on the model.")]
AdapterRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps …")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Accept weights that are not safetensors.")]
ChatTemplate = Annotated[
    str | None,
    typer.Option(help="Chat template of another model (or a .jinja file): a reference, asked as the aligned model is."),
]
BatchTokens = Annotated[int | None, typer.Option(help="Padded tokens in one scoring pass.", min=1)]

Reading = Annotated[str, typer.Option(help="letters, or continuation (the options' texts).")]
Format = Annotated[str, typer.Option(help="raw, chat, chat-prefix, or release (the paper's prompt, letters only).")]
Variant = Annotated[str, typer.Option(help="Score of a continuation: sum, per_token, per_char or pmi.")]
System = Annotated[str | None, typer.Option(help="System message of the chat formats.")]

Questions = Annotated[
    str, typer.Option("--questions", help="JSONL, CSV, TSV or Parquet file, data set folder, or hub data set.")
]
Split = Annotated[str | None, typer.Option(help="Split of a data set; also behind its name: owner/name[test].")]
Columns = Annotated[
    str | None, typer.Option(help="Which column is what, e.g. '{question: stem, choices: [a, b], answer: gold}'.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad, repeated and leaked rows out, by name, instead of stopping.")
]
Limit = Annotated[int | None, typer.Option(help="Use the first so many questions.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Seed = Annotated[int, typer.Option(help="Same seed, same numbers.", min=0, max=2**32 - 1)]
Bins = Annotated[int, typer.Option("--bins", help="Equal-width bins (M).", min=1)]
Draws = Annotated[int, typer.Option("--draws", help="Bootstrap draws.", min=50)]
Level = Annotated[float, typer.Option(help="Level of the intervals.")]
Test = Annotated[
    str | None, typer.Option("--test", help="Test questions; without it, a fifth of --questions is held out.")
]
Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Calibration questions; without it, a fifth of --questions is held out."),
]
OutOfDomain = Annotated[
    list[str] | None, typer.Option("--ood", help="Out-of-domain test questions; may be given again.")
]
Cluster = Annotated[str | None, typer.Option(help="Resample whole clusters: subject, or a column's name.")]
SplitCluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Resample whole clusters, and hold them out together: subject, or a column's name."),
]
OutFile = Annotated[Path, typer.Option("--out", help="File to write.", show_default=False)]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
ScoresFile = Annotated[Path, typer.Argument(help="Scores file, made by `calibrant score`.", show_default=False)]


def style_of(reading: str, format: str, variant: str, system: str | None) -> PromptStyle:
    """The prompt style that the options name."""
    return PromptStyle(reading=reading, format=format, variant=variant, system=system)  # type: ignore[arg-type]


def questions_of(
    source: str,
    *,
    split: str | None = None,
    columns: str | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    templates: str = "",
) -> QuestionSet:
    """Load questions and say on stderr what was left out, row by row, and what is not asked; ``templates`` name columns that
    are.
    """
    questions = load_questions(
        source, split=split, columns=mapping_of("--columns", columns), skip_bad=skip_bad, limit=limit
    )
    say_left_out(questions.name, questions.skipped)
    if unread := [name for name in unread_passages(questions) if f"{{{name}}}" not in templates]:
        typer.echo(
            f"warning: the column {unread[0]!r} of {questions.name!r} is not part of what is asked; where the questions are "
            f"about it, write it into their text, or join the columns: --columns '{{question: [{unread[0]}, …]}}'",
            err=True,
        )
    if len(questions) >= ONE_PLACE and len({q.answer for q in questions}) == 1:
        typer.echo(
            f"warning: all {len(questions)} correct options of {questions.name!r} stand at place {questions[0].answer + 1}: "
            "read by letters they measure that place; calibrant.orders.shuffle_options puts options in drawn orders",
            err=True,
        )
    return questions


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user typed an option, rather than left it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_unused(context: typer.Context, names: Iterable[str], beside: str) -> None:
    """Raise :class:`ConfigError` where an option was typed that another one leaves without use."""
    if typed := [f"--{name.replace('_', '-')}" for name in names if is_given(context, name)]:
        raise ConfigError(asked=f"{', '.join(typed)} with {beside}", found="no use for that", todo="leave it out")


def command_line() -> str:
    """What the user typed."""
    return printable(shlex.join(["calibrant", *sys.argv[1:]]))


def print_json(value: Any) -> None:
    """One JSON object on stdout, in ASCII: valid whatever the terminal's encoding is."""
    typer.echo(json.dumps(value, allow_nan=False))


def table_columns(columns: str | None) -> dict[str, Any]:
    """Keyword arguments of ``import_table`` from ``--columns``."""
    mapping = mapping_of("--columns", columns) or {}
    known = ("answer", "probabilities", "id", "subject")
    unknown = [name for name in mapping if name not in known]
    if unknown:
        raise ConfigError(
            asked=f"--columns {columns!r} for a table of probabilities",
            found=f"unknown: {', '.join(map(str, unknown))}",
            todo=f"name {', '.join(known)}",
        )
    for name, value in mapping.items():
        if name != "probabilities" and not isinstance(value, str):
            raise ConfigError(
                asked=f"--columns {columns!r} for a table of probabilities",
                found=f"{name}: {value!r}",
                todo="give the name of a column, in quotes where it is a number",
            )
    return mapping


def pairs_of(source: str | None, *, columns: str | None, **settings: Any) -> Any:
    """Preference pairs by ``load_preferences``, or ``None`` where no source is named; what was left out is said on stderr."""
    from calibrant.alignment.data import load_preferences

    return _told(source, load_preferences, columns=mapping_of("--preference-columns", columns), **settings)


def prompts_of(source: str | None, *, columns: str | None, **settings: Any) -> Any:
    """Prompts by ``load_prompts``, as :func:`pairs_of`."""
    from calibrant.alignment.data import load_prompts

    return _told(source, load_prompts, columns=mapping_of("--prompt-columns", columns), **settings)


def _told(source: str | None, load: Callable[..., Any], **settings: Any) -> Any:
    if source is None:
        return None
    found = load(source, **settings)
    say_left_out(found.name, found.skipped)
    return found


def say_left_out(name: str, rows: Sequence[Skipped]) -> None:
    """Say on stderr what of a set was left out, row by row."""
    if rows:
        typer.echo(f"{len(rows)} rows of {name!r} left out:", err=True)
        for row in rows:
            typer.echo(f"  {row.where}: {row.reason}", err=True)


def say_import(scores: Any) -> None:
    """Say on stderr what of an import was left out, and what counts more than once."""
    told = scores.provenance
    for task, reason in told.get("skipped", {}).items():
        typer.echo(f"task {task} left out: {reason}", err=True)
    for aside in told.get("files_left_aside", ()):
        typer.echo(f"file left aside: {aside}", err=True)
    if rounded := told.get("rows_rounded", 0):
        typer.echo(
            f"{rounded} of {scores.n} rows sum to 1 up to rounding only, and were divided by their sum", err=True
        )
    if repeats := told.get("questions_that_repeat", 0):
        typer.echo(
            f"{repeats} of {scores.n} questions are in several tasks and count each time, which makes intervals too narrow; "
            "--tasks chooses",
            err=True,
        )


def refuse_no_scores_file(out: Path, *inputs: str | Path | None) -> None:
    """Raise :class:`OutputError` where scores cannot be written to ``out``, or would replace an input or something else."""
    if str(out) == "-":
        raise OutputError(
            asked="scores on standard output", found="no text: they are a binary file", todo="name a file"
        )
    refuse_unwritable(out, inputs=inputs)
    if out.exists() and out.stat().st_size:
        try:
            Scores.load(out)
        except ScoresError as error:
            raise OutputError(
                asked=f"write scores to {out}",
                found="a file that holds no scores is there",
                todo="choose another name, or delete that file",
            ) from error


def save_scores(scores: Any, out: Path) -> None:
    """Write scores, and say in a line what they are."""
    scores.save(out)
    accuracy, confidence = scores.correct_N.mean(), scores.confidence_N.mean()
    typer.echo(f"{out}: {scores.n} questions, accuracy {accuracy:.3f}, mean confidence {confidence:.3f}")


def judge_of(
    url: str | None, model: str | None, key_env: str, concurrency: int, pairs: int, options: str | None
) -> Any:
    """The judge that the options name, or ``None``."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise ConfigError(
            asked="a judge",
            found="--judge-url without --judge-model" if model is None else "--judge-model without --judge-url",
            todo="give both, or neither",
        )
    from calibrant.alignment.judge import Judge

    further = mapping_of("--judge-options", options) or {}
    return Judge(url, model, key_env=key_env, concurrency=concurrency, pairs=pairs, options=further)


def mapping_of(option: str, value: str | None) -> dict[str, Any] | None:
    """A mapping given in an option as YAML or JSON."""
    if value is None:
        return None
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(asked=f"{option} {value!r}", found=str(error), todo="give YAML or JSON") from error
    if not isinstance(found, dict):
        raise ConfigError(
            asked=f"{option} {value!r}", found=f"a {type(found).__name__}", todo="give a mapping, {name: value, …}"
        )
    return found
