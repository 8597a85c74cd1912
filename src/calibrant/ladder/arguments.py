"""What a ladder may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING

from calibrant.errors import ConfigError, only, only_numbers
from calibrant.files import refuse_further_process
from calibrant.ladder.alignment import Asked
from calibrant.ladder.fixes import select
from calibrant.scoring.models import only_by_name
from calibrant.tuning.config import refuse_to_load
from calibrant.tuning.sweep import SETTINGS

if TYPE_CHECKING:
    from calibrant.ladder.run import Ladder


def refuse(asked: Ladder) -> None:
    """Raise :class:`ConfigError` for what cannot be asked of a ladder, before a model is read."""
    refuse_further_process("a ladder")
    only_by_name(asked.model, "a model of a ladder")
    only(Integral, asked.seeds, "a number of seeds", "give how many, such as seeds=3; the first is the seed of config")
    only_numbers(whole=True, seeds=asked.seeds, batch_tokens=asked.batch_tokens)
    only(Mapping, asked.settings, "settings to run, by fix", 'give {"cft": "lr-x3"}')
    only(Mapping, asked.loading, "arguments of load_model", 'give {"device": "cpu"}')
    if isinstance(asked.fixes, str):
        raise ConfigError(asked="fixes of a ladder", found=f"str {asked.fixes!r}", todo='give names in a list: ["cft"]')
    if asked.budget not in SETTINGS or asked.seeds < 1:
        raise ConfigError(
            asked=f"budget {asked.budget!r} with {asked.seeds} seeds",
            found=f"budgets: {', '.join(SETTINGS)}; at least one seed",
            todo="choose one of these",
        )
    chosen = {fix.name: fix for fix in select(asked.fixes)}
    for name, setting in asked.settings.items():
        if name not in chosen:
            raise ConfigError(
                asked=f"the setting {setting!r} of {name}",
                found=f"a ladder without it: {', '.join(chosen)}",
                todo="name it among the fixes, or leave out its setting",
            )
        chosen[name].candidate(setting)
    refuse_to_load(asked.config, asked.loading)
    Asked.of(asked.preferences, asked.prompts, asked.align, asked.config.seed)
