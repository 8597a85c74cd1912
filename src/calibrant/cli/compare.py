"""``calibrant compare``: scores of the same questions, paired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli.tables import contest_text, corrected_verdict
from calibrant.errors import ConfigError
from calibrant.metrics import compare, compare_many
from calibrant.metrics.comparison import align
from calibrant.metrics.planning import enough_draws
from calibrant.scores import Scores


def run(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="Scores before.", show_default=False)],
    b: Annotated[
        list[Path], typer.Argument(help="Scores after, of the same questions; one or more.", show_default=False)
    ],
    metric: Annotated[str, typer.Option(help="What several are compared on.")] = "conf_ece",
    bins: o.Bins = 10,
    draws: o.Draws = 1000,
    level: o.Level = 0.95,
    seed: o.Seed = 0,
    cluster: o.Cluster = None,
    json: o.Json = False,
) -> None:
    """The change from A to B in each metric, with paired intervals; several B on one metric, corrected for their number."""
    base = Scores.load(a)
    if len(b) == 1:
        o.refuse_unused(context, ("metric",), "one B, which is compared on every metric")
        found = compare(base, Scores.load(b[0]), n_bins=bins, n_boot=draws, level=level, seed=seed, cluster=cluster)
        if json:
            o.print_json(found.to_json())
        else:
            typer.echo(f"a = {a}\nb = {b[0]}\n{found.to_text()}")
        return
    metric = metric.lower().replace("-", "_").replace(" ", "_")  # as the tables print it, too
    others = {str(path): Scores.load(path) for path in b}
    if len(others) < len(b):
        twice = next(str(path) for path in b if b.count(path) > 1)
        raise ConfigError(
            asked=f"a comparison of {a} with {len(b)} scores", found=f"{twice} twice", todo="name each file once"
        )
    many = compare_many(base, others, metric, level=level, n_bins=bins, n_boot=draws, seed=seed, cluster=cluster)
    matched = {name: align(base, other)[1] for name, other in others.items()}
    how = {"n_bins": bins, "n_boot": enough_draws(draws, len(others), level), "level": level, "seed": seed}
    if json:
        rivals = {
            name: {**d.to_json(), "p_holm": p, "verdict": corrected_verdict(d, p, level), "matched_by": matched[name]}
            for name, (d, p) in many.items()
        }
        o.print_json({"a": str(a), "metric": metric, **how, "cluster": cluster, "b": rivals})
    else:
        told = f"matched by {' or '.join(sorted(set(matched.values())))}; {how['n_boot']} draws, seed {seed}"
        typer.echo(f"a = {a}; {told}\n{contest_text(metric, many, level)}")
