"""``calibrant align-check``: does alignment survive a calibration fix?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from calibrant.cli import options as o

Preferences = Annotated[
    str | None, typer.Option(help="Preference pairs (prompt, chosen, rejected): file, data set folder or hub data set.")
]
Prompts = Annotated[str | None, typer.Option(help="Instruction prompts: file, data set folder or hub data set.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Where answers are cut.", min=1)]
PairLimit = Annotated[int | None, typer.Option("--limit-pairs", help="Use the first so many pairs.", min=1)]
Instructions = Annotated[
    bool, typer.Option(help="With --prompts, ask the tuned and the aligned model the 80 checkable instructions too.")
]
PairColumns = Annotated[
    str | None, typer.Option("--preference-columns", help="e.g. '{prompt: query, chosen: better}'.")
]
PromptColumns = Annotated[str | None, typer.Option("--prompt-columns", help="e.g. '{prompt: instruction}'.")]
PairSplit = Annotated[str | None, typer.Option("--preference-split", help="Split of a data set of pairs.")]
PromptSplit = Annotated[str | None, typer.Option("--prompt-split", help="Split of a data set of prompts.")]
PromptLimit = Annotated[int | None, typer.Option("--limit-prompts", help="Use the first so many prompts.", min=1)]


def run(
    model: o.Model,
    out: o.OutFolder,
    adapter: Annotated[str | None, typer.Option(help="The tuned model's adapter.")] = None,
    tuned: Annotated[str | None, typer.Option(help="Or the tuned model's weights.")] = None,
    preferences: Preferences = None,
    prompts: Prompts = None,
    reference: Annotated[str | None, typer.Option(help="The model before alignment, of the same vocabulary.")] = None,
    instructions: Annotated[bool, typer.Option(help="Ask the 80 checkable instructions.")] = True,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, e.g. https://host/v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name there.")] = None,
    judge_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    judge_concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 4,
    judge_pairs: Annotated[
        int, typer.Option(help="Preference pairs, at most, that the judge is checked on; 0: none.", min=0)
    ] = 50,
    judge_options: Annotated[str | None, typer.Option(help="Further fields of a request, as YAML or JSON.")] = None,
    beta: Annotated[float, typer.Option(help="β of the implicit reward.")] = 0.1,
    max_new_tokens: NewTokens = 256,
    kl_contexts: Annotated[
        str, typer.Option(help="Whose answers the KL is measured along: aligned,tuned.")
    ] = "aligned",
    temperature: Annotated[float, typer.Option(help="Of the answers the KL is measured along; 0: greedy.")] = 0.0,
    thresholds: Annotated[str | None, typer.Option(help="Of the verdict, e.g. '{kl: 0.05, least_n: 50}'.")] = None,
    preference_columns: PairColumns = None,
    prompt_columns: PromptColumns = None,
    preference_split: PairSplit = None,
    prompt_split: PromptSplit = None,
    skip_bad: o.SkipBad = False,
    limit_pairs: PairLimit = None,
    limit_prompts: PromptLimit = None,
    revision: o.Revision = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
    batch_tokens: o.BatchTokens = None,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Preference pairs, KL, answers, instructions and a judge: the tuned model against the aligned one it came from."""
    from calibrant.alignment import AlignSettings, Thresholds, align_check

    contexts: Any = tuple(name.strip() for name in kl_contexts.split(","))
    found = align_check(
        model,
        adapter=adapter,
        tuned=tuned,
        preferences=o.pairs_of(
            preferences, split=preference_split, columns=preference_columns, skip_bad=skip_bad, limit=limit_pairs
        ),
        prompts=o.prompts_of(
            prompts, split=prompt_split, columns=prompt_columns, skip_bad=skip_bad, limit=limit_prompts
        ),
        reference=reference,
        judge=o.judge_of(judge_url, judge_model, judge_key_env, judge_concurrency, judge_pairs, judge_options),
        out=out,
        settings=AlignSettings(
            beta=beta,
            max_new_tokens=max_new_tokens,
            contexts=contexts,
            temperature=temperature,
            instructions=instructions,
            n_boot=draws,
            level=level,
            seed=seed,
        ),
        thresholds=Thresholds.of(o.mapping_of("--thresholds", thresholds) or {}),
        batch_tokens=batch_tokens,
        progress=not quiet,
        command=o.command_line(),
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    if json:
        o.print_json(found.to_json())
    else:
        typer.echo(found.to_text(), nl=False)
