"""How an alignment check is asked for: its settings, and what cannot be taken for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from calibrant.alignment.data import Collected
from calibrant.alignment.judge import Judge
from calibrant.alignment.models import WHICH, Which
from calibrant.alignment.verdict import Thresholds
from calibrant.errors import ConfigError, only, only_numbers
from calibrant.metrics.bins import check_level
from calibrant.metrics.estimates import Sampling


@dataclass(frozen=True)
class AlignSettings:
    """How an alignment check is made.

    Parameters
    ----------
    beta : β of the implicit reward.
    max_new_tokens : where answers are cut.
    contexts : whose answers the KL is measured along: ``"aligned"``, ``"tuned"``, or both.
    temperature : of the answers that the KL is measured along; 0 takes the greedy ones. All else is greedy.
    instructions : whether the 80 checkable instructions are asked.
    n_boot, level, seed : of the intervals; ``seed`` also of sampled answers.
    """

    beta: float = 0.1
    max_new_tokens: int = 256
    contexts: tuple[Which, ...] = ("aligned",)
    temperature: float = 0.0
    instructions: bool = True
    n_boot: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_level(self.level)
        only_numbers(beta=self.beta, temperature=self.temperature)
        only_numbers(whole=True, max_new_tokens=self.max_new_tokens, n_boot=self.n_boot, seed=self.seed)
        wrong = [c for c in self.contexts if c not in WHICH]
        sizes = 0 < self.beta < math.inf and self.max_new_tokens > 0 and 0 <= self.temperature < math.inf
        if wrong or not sizes or self.n_boot < 50:
            found = f"contexts {', '.join(wrong)}" if wrong else str(self)
            todo = (
                "contexts are aligned, tuned; β above 0, one new token or more, temperature 0 or more, 50 draws or more"
            )
            raise ConfigError(asked="settings of an alignment check", found=found, todo=todo)

    @property
    def how(self) -> Sampling:
        """How intervals are made."""
        return Sampling(self.n_boot, self.level, self.seed)


def refuse_other_kinds(
    preferences: object, prompts: object, settings: object, thresholds: object = None, judge: object = None
) -> None:
    """Raise :class:`ConfigError` where one of these is given and of another kind, such as a path or a dict."""
    reading = "read a file or rows with calibrant.alignment."
    wanted = (
        (Collected, preferences, "preference pairs", reading + "load_preferences(...), and give what it returns"),
        (Collected, prompts, "prompts", reading + "load_prompts(...), and give what it returns"),
        (
            AlignSettings,
            settings,
            "settings of an alignment check",
            "give AlignSettings(...), such as AlignSettings(beta=0.1)",
        ),
        (
            Thresholds,
            thresholds,
            "thresholds of an alignment check",
            "give Thresholds(...), such as Thresholds(kl=0.05)",
        ),
        (Judge, judge, "a judge of answers", "give Judge(base_url, model)"),
    )
    for kind, given, asked, todo in wanted:
        if given is not None:
            only(kind, given, asked, todo)


def refuse_nothing(
    preferences: object, prompts: object, reference: object, judge: object, settings: AlignSettings
) -> None:
    """Raise :class:`ConfigError` where there is nothing to measure, or what is given is of no use without more."""
    missing: Callable[[str, str], ConfigError] = lambda found, todo: ConfigError(  # noqa: E731
        asked="an alignment check", found=found, todo=todo
    )
    if preferences is None and prompts is None and not settings.instructions:
        raise missing("nothing to measure", "give preference pairs or prompts, or leave the instructions on")
    if reference is not None and preferences is None:
        raise missing("a reference model without preference pairs", "give pairs too, or leave the reference out")
    if judge is not None and prompts is None:
        raise missing("a judge without prompts", "give prompts too, or leave the judge out")
