"""A judge at work: it is asked in both orders on the models' answers, and on pairs whose better response people chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibrant.alignment.data import PreferencePair, Prompt
from calibrant.alignment.judge import Judge, ask
from calibrant.alignment.verdict import agreement_words
from calibrant.alignment.wins import WinRate, agreement, both_orders, win_rate
from calibrant.metrics.estimates import Sampling


@dataclass
class Judging:
    """One judge, where its replies are kept, how intervals are made; ``notes`` collects what a reader must know.

    Parameters
    ----------
    judge, cache, how : see :class:`Judge`, :func:`ask`, :class:`Sampling`.
    progress : draw progress bars.
    """

    judge: Judge
    cache: Path
    how: Sampling
    progress: bool
    notes: list[str]

    def wins(
        self,
        prompts: Sequence[Prompt],
        aligned: Sequence[str],
        tuned: Sequence[str],
        known: Sequence[PreferencePair],
    ) -> WinRate:
        """Win rate of tuned over aligned answers, with the judge's agreement with people on ``known`` pairs.

        A prompt without a readable reply is named in ``notes``; where none could be read, no pairs are asked about.
        """
        found = self._votes("prompts", prompts, aligned, tuned)
        if found.unreadable and len(found.unreadable) == found.asked:
            return found
        if not known:
            self.notes.append("Whether the judge agrees with people was not asked: it was given no preference pairs.")
            return found
        rejected, chosen = [p.rejected for p in known], [p.chosen for p in known]
        of_people = self._votes("labelled pairs", [p.prompt for p in known], rejected, chosen)
        if not of_people.n:
            return found
        share = agreement(of_people, self.how.level)
        self.notes.append(f"The judge {agreement_words(share)}; chance is 50%.")
        return replace(found, agreement=share)

    def _votes(self, what: str, prompts: Sequence[Prompt], aligned: Sequence[str], tuned: Sequence[str]) -> WinRate:
        asked = both_orders([p.text for p in prompts], aligned, tuned)
        replies = ask(self.judge, asked, cache=self.cache, progress=f"judging {what}" if self.progress else None)
        found = win_rate([p.id for p in prompts], aligned, tuned, replies, judge=self.judge, how=self.how)
        if found.unreadable and len(found.unreadable) == found.asked:
            self.notes.append(f"No reply of the judge on the {what} held a verdict that could be read.")
        elif found.unreadable:
            names = ", ".join(found.unreadable[:5])
            self.notes.append(f"{len(found.unreadable)} {what} have no readable verdict of the judge, e.g. {names}.")
        return found
