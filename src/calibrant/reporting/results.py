"""What a report is about: sets of questions, measured once, before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from calibrant.errors import ConfigError
from calibrant.metrics import Comparison, Measurement, compare, measure
from calibrant.reporting.words import Verdict, verdict
from calibrant.scores import Scores


@dataclass(frozen=True, eq=False)
class Domain:
    """One set of questions, scored before a fix and, where there was one, after it.

    Parameters
    ----------
    name : for people, e.g. ``"ARC-Easy, test"``.
    in_domain : whether the fix saw questions of this kind.
    before, after : scores of the same questions; ``after=None`` measures only.
    """

    name: str
    in_domain: bool
    before: Scores
    after: Scores | None = None


@dataclass(frozen=True, eq=False)
class Assessed:
    """A :class:`Domain` with its numbers: the only ones that a report or a model card shows.

    Parameters
    ----------
    domain : the scores.
    key : its name, fit for a file name and unlike the others'.
    before, after : measurements.
    change : the paired comparison.
    verdict : in words.
    """

    domain: Domain
    key: str
    before: Measurement
    after: Measurement | None
    change: Comparison | None
    verdict: Verdict

    @property
    def title(self) -> str:
        """Its name and, where there was a fix, whether the fix saw such questions."""
        if self.domain.after is None:
            return self.domain.name
        return f"{self.domain.name} ({'in domain' if self.domain.in_domain else 'out of domain'})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "name": self.domain.name,
            "in_domain": self.domain.in_domain,
            "before": self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "change": None if self.change is None else self.change.to_json(),
            "verdict": self.verdict.to_json(),
        }


class HasJson(Protocol):
    """A result that can say itself in plain JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        ...


Plain = Mapping[str, Any] | HasJson | None


def plain(result: Plain) -> dict[str, Any]:
    """A result as plain JSON: its ``to_json()``, a mapping as it is, nothing as ``{}``."""
    if result is None:
        return {}
    return dict(result) if isinstance(result, Mapping) else dict(result.to_json())


def assess(
    domains: Sequence[Domain],
    *,
    fix: str = "tuning",
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | None = None,
) -> tuple[Assessed, ...]:
    """Measure each domain before and after, and compare the two on the same questions. Settings as for ``measure``.

    The order is kept, but domains that the fix saw come first. ``fix`` is its name in a sentence.

    Raises
    ------
    ConfigError : no domain, a name twice, or some domains with scores after a fix and some without.

    >>> s = Scores.from_probs([[0.9, 0.1]] * 100, [0] * 60 + [1] * 40)
    >>> assess([Domain("quiz", True, s)])[0].verdict.headline
    'Overconfident'
    """
    if not isinstance(domains, Sequence) or not all(isinstance(domain, Domain) for domain in domains):
        raise ConfigError(
            asked="a report of domains",
            found=f"{str(domains)[:80]}",
            todo='give [Domain("name", in_domain, before, after)]',
        )
    names = [domain.name for domain in domains]
    if not domains or len(set(names)) < len(names):
        found = f"names {names}" if domains else "no domain"
        raise ConfigError(asked="one domain or more, each with a name of its own", found=found, todo="name each set")
    without = [domain.name for domain in domains if domain.after is None]
    if without and len(without) < len(domains):
        raise ConfigError(
            asked="scores after the fix for every domain, or for none",
            found=f"none for {', '.join(without)}",
            todo="score those questions with the fixed model too, or leave them out",
        )
    settings: dict[str, Any] = {"n_bins": n_bins, "n_boot": n_boot, "level": level, "seed": seed, "cluster": cluster}
    out: list[Assessed] = []
    for i, domain in enumerate(sorted(domains, key=lambda domain: not domain.in_domain)):
        before, after, change = measure(domain.before, **settings), None, None
        if domain.after is not None:
            after, change = measure(domain.after, **settings), compare(domain.before, domain.after, **settings)
        key = f"{i + 1}-{re.sub(r'[^a-z0-9]+', '-', domain.name.lower()).strip('-')[:40] or 'set'}"
        out.append(Assessed(domain, key, before, after, change, verdict(before, after, change, fix)))
    return tuple(out)
