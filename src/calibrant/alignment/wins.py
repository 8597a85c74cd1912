"""Win rate of the tuned against the aligned model from votes in both orders, and how often the judge agrees with people.
No torch. Shape suffixes: P prompts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.alignment.data import PreferencePair
from calibrant.alignment.judge import Comparison, Judge, Judged, Vote
from calibrant.metrics.estimates import Sampling, mean, share
from calibrant.metrics.measurement import Estimate
from calibrant.metrics.uncertainty import wilson_interval


@dataclass(frozen=True)
class WinRate:
    """What a judge says of the tuned model's answers against the aligned model's.

    Parameters
    ----------
    n : prompts with two readable votes, or identical answers; 0 where no reply could be read.
    wins, losses, ties : by prompt: a win or a loss only where both orders agree on it; identical answers are ties.
    win_rate : ``(wins + ties / 2) / n``, bootstrap interval over prompts; .5 is no difference, nan where n is 0.
    decisive : ``wins / (wins + losses)``, Wilson interval; ``None`` where nothing was decided.
    position_bias : share of the votes other than a tie that went to the answer shown first; .5 is none. ``None``
        without such votes.
    consistent : share of judged prompts on which both orders gave the same winner, or both a tie; ``None`` where all
        answers were identical.
    unreadable : prompts left out because a reply held no verdict. identical : prompts that were not asked, as both
        answers are the same.
    judge : address, model, prompt.
    agreement : share of labelled pairs (:func:`labelled`) on which the judge prefers what people preferred, ties and votes
        that change with the order as half (:func:`agreement`); .5 is chance, ``None`` where none were asked.
    """

    n: int
    wins: int
    losses: int
    ties: int
    win_rate: Estimate
    decisive: Estimate | None
    position_bias: Estimate | None
    consistent: Estimate | None
    unreadable: tuple[str, ...]
    identical: int
    judge: dict[str, Any]
    agreement: Estimate | None = None

    @property
    def asked(self) -> int:
        """Prompts whose answers differ, so that the judge was asked."""
        return self.n - self.identical + len(self.unreadable)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        counts = {name: getattr(self, name) for name in ("n", "wins", "losses", "ties", "identical")}
        estimates = ("win_rate", "decisive", "position_bias", "consistent", "agreement")
        found = {name: None if (e := getattr(self, name)) is None else e.to_json() for name in estimates}
        return {**counts, **found, "unreadable": list(self.unreadable), "judge": self.judge}


def both_orders(prompts: Sequence[str], aligned: Sequence[str], tuned: Sequence[str]) -> list[Comparison]:
    """Two comparisons a prompt: tuned first, then aligned first; none where both answers are the same."""
    out = []
    for prompt, a, t in zip(prompts, aligned, tuned, strict=True):
        if a != t:
            out += [Comparison(prompt, t, a), Comparison(prompt, a, t)]
    return out


def win_rate(
    ids: Sequence[str],
    aligned: Sequence[str],
    tuned: Sequence[str],
    judged: Sequence[Judged],
    *,
    judge: Judge,
    how: Sampling | None = None,
) -> WinRate:
    """Count votes on the comparisons of :func:`both_orders`.

    >>> one = [Judged("first", ""), Judged("second", ""), Judged("first", ""), Judged("first", "")]
    >>> w = win_rate(["a", "b"], ["x", "y"], ["X", "Y"], one, judge=Judge("http://host/v1", "m"))
    >>> w.wins, w.losses, w.ties, w.win_rate.value, w.position_bias.value
    (1, 0, 1, 0.75, 0.75)
    """
    how, votes = how or Sampling(), iter(judged)
    result: list[float] = []
    firsts: list[bool] = []
    asked: list[int] = []
    agree: list[bool] = []
    unreadable: list[str] = []
    identical = 0
    for i, (name, a, t) in enumerate(zip(ids, aligned, tuned, strict=True)):
        if a == t:
            identical += 1
            result.append(0.5)
            continue
        first, second = next(votes).vote, next(votes).vote
        named = [vote for vote in (first, second) if vote not in (None, "tie")]
        firsts += [vote == "first" for vote in named]
        asked += [i] * len(named)
        if first is None or second is None:
            unreadable.append(name)
            continue
        winners = _winner(first, tuned_first=True), _winner(second, tuned_first=False)
        agree.append(winners[0] == winners[1])
        result.append(winners[0] if agree[-1] else 0.5)
    result_P = np.array(result)
    wins, losses = int((result_P == 1).sum()), int((result_P == 0).sum())
    decided_P = result_P[result_P != 0.5] == 1
    return WinRate(
        n=len(result_P),
        wins=wins,
        losses=losses,
        ties=len(result_P) - wins - losses,
        win_rate=mean(result_P, how) if result else Estimate(math.nan, math.nan, math.nan, 0),
        decisive=share(decided_P, how) if len(decided_P) else None,
        position_bias=share(np.array(firsts), how.by(asked)) if firsts else None,
        consistent=share(np.array(agree), how) if agree else None,
        unreadable=tuple(unreadable),
        identical=identical,
        judge=judge.to_json(),
    )


def labelled(pairs: Sequence[PreferencePair], n: int) -> list[PreferencePair]:
    """At most n pairs to check a judge on, one a prompt, by SHA-256 of the prompt: a smaller choice is part of a larger one."""
    by_prompt: dict[str, PreferencePair] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt.text, pair)
    return sorted(by_prompt.values(), key=lambda pair: hashlib.sha256(pair.prompt.text.encode()).hexdigest())[:n]


def agreement(found: WinRate, level: float) -> Estimate:
    """The win rate of chosen over rejected responses, with Wilson's interval.

    For a share of which some items count half it is too wide rather than too narrow, and unlike a bootstrap it has a width
    where every vote is the same.

    >>> one = [Judged("first", ""), Judged("second", "")] * 10
    >>> rate = win_rate(list("abcdefghij"), ["no"] * 10, ["yes"] * 10, one, judge=Judge("http://host/v1", "m"))
    >>> e = agreement(rate, 0.95)
    >>> e.value, round(e.low, 3), e.high
    (1.0, 0.722, 1.0)
    """
    value, n = found.win_rate.value, found.n
    return Estimate(value, *wilson_interval(value, n, level), n)


def _winner(vote: Vote, *, tuned_first: bool) -> float:
    """1 for tuned, 0 for aligned, .5 for a tie."""
    return 0.5 if vote == "tie" else float((vote == "first") == tuned_first)
