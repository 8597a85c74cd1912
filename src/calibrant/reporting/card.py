"""``model_card``: the README of a tuned model, from the same measurements as the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from calibrant._version import __version__
from calibrant.errors import ConfigError
from calibrant.provenance import is_gguf
from calibrant.reporting import content
from calibrant.reporting.kept import alignment_words
from calibrant.reporting.results import Assessed, Domain, Plain, assess, plain
from calibrant.reporting.tables import METRICS, rows
from calibrant.reporting.templates import render


def model_card(
    domains: Sequence[Domain],
    *,
    tuning: Plain,
    alignment: Plain = None,
    asked: Mapping[str, Any] | None = None,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | None = None,
) -> str:
    """Markdown with YAML front matter, as model hubs read it: before and after in each domain, settings, use, limits.

    The numbers are those of :func:`~calibrant.reporting.report` with the same settings.

    Parameters
    ----------
    domains
        Each with scores before and after.
    tuning
        The result of the tuning run, or its ``to_json()``.
    alignment
        What an alignment check of this tuning found, or its ``to_json()``.
    asked
        Plain facts; ``model`` names the base model.
    n_bins, n_boot, level, seed, cluster
        As for ``measure``.

    Raises
    ------
    ConfigError : a domain without scores after the tuning, or as for ``report``.
    """
    asked, tuned = dict(asked or {}), plain(tuning)
    if any(domain.after is None for domain in domains):
        raise ConfigError(
            asked="a model card with before and after",
            found="a domain without scores after the tuning",
            todo="score its questions with the tuned model too",
        )
    assessed = assess(
        domains, fix=content.fix_words(tuned), n_bins=n_bins, n_boot=n_boot, level=level, seed=seed, cluster=cluster
    )
    page = _page(assessed, tuned, asked) | {"alignment": alignment_words(plain(alignment))}
    return render("card.md.jinja", page)


def _page(assessed: Sequence[Assessed], tuned: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    base, objective = str(asked.get("model") or "BASE MODEL"), str(tuned.get("objective") or "tuning")
    parts = [
        {
            "title": part.title,
            "caption": content.table_caption(part),
            "rows": rows(part, index),
            "sentences": part.verdict.sentences,
        }
        for index, part in enumerate(assessed)
    ]
    return {
        "front_matter": _front_matter(base, objective, bool(tuned.get("adapter"))),
        "model": content.model_name(asked),
        "tuned_by": f"tuned by {objective.upper()}",
        "adapter": tuned.get("adapter"),
        "main": assessed[0],
        "parts": parts,
        "training": content.training_facts({**tuned, "adapter": None, "weights": None}),
        "asked": [fact for fact in content.facts(asked) if fact[0] not in ("Seed", "Objective")],
        "use": content.USE_ADAPTER if tuned.get("adapter") else content.USE_WEIGHTS,
        "code": content.usage_code(base, tuned, asked.get("revision")),
        "metrics": METRICS,
        "terms": [term for term in content.terms(assessed[0]) if "diagram" not in term[0]],
        "limits": content.LIMITS,
        "version": __version__,
    }


def _front_matter(base: str, objective: str, adapter: bool) -> str:
    """Keys that model hubs know; a local base model is left out, as its path means nothing elsewhere."""
    values: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if _is_hub_id(base):
        values["base_model"] = base
    values |= {"pipeline_tag": "text-generation", "tags": ["calibration", "calibrant", objective]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _is_hub_id(name: str) -> bool:
    local = PurePath(name).is_absolute() or name.startswith((".", "~")) or is_gguf(name) or Path(name).exists()
    return name.count("/") == 1 and not local and " " not in name
