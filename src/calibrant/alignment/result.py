"""``AlignmentCheck``: everything that was found, as JSON and as text. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrant.alignment.drift import DriftCheck
from calibrant.alignment.instructions import InstructionCheck
from calibrant.alignment.preferences import PreferenceCheck
from calibrant.alignment.verdict import Check, Kept, Thresholds, overall
from calibrant.alignment.wins import WinRate
from calibrant.metrics.measurement import Estimate
from calibrant.metrics.text import in_unit, rounded

FORMAT, FORMAT_VERSION = "calibrant-alignment", 1
HEADLINES = {
    "kept": "Alignment kept",
    "not kept": "Alignment not kept",
    "undecided": "Whether alignment was kept is undecided",
}
ONLY_INSTRUCTIONS = "Instructions are followed as before; nothing else of the alignment was measured"


@dataclass(frozen=True)
class DivergenceCheck:
    """KL(tuned ‖ aligned) over the whole vocabulary, mean over tokens, in nats; intervals resample prompts.

    Parameters
    ----------
    contexts : whose answers the tokens' contexts come from, ``"aligned"`` or ``"tuned"``. temperature : 0 is greedy.
    kl : mean over the answers' tokens. agreement : share of them at which both models find the same token most probable.
    n, n_tokens : prompts and tokens.
    """

    contexts: str
    temperature: float
    kl: Estimate
    agreement: Estimate
    n: int
    n_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        values = {name: getattr(self, name) for name in ("contexts", "temperature", "n", "n_tokens")}
        return {
            "direction": "KL(tuned || aligned)",
            **values,
            "kl": self.kl.to_json(),
            "agreement": self.agreement.to_json(),
        }


@dataclass(frozen=True)
class AlignmentCheck:
    """Whether a tuned model still behaves as the aligned model it came from.

    Parameters
    ----------
    preferences, drift, instructions, wins : the parts, ``None`` where not measured. divergence : one for each kind of
        contexts.
    checks : one row a number, with its rule and verdict (:func:`~calibrant.alignment.verdict.judged`).
    thresholds, level : of those rules.
    notes : what was left out, in words. facts : models, data, settings, command.
    """

    preferences: PreferenceCheck | None
    divergence: tuple[DivergenceCheck, ...]
    drift: DriftCheck | None
    instructions: InstructionCheck | None
    wins: WinRate | None
    checks: tuple[Check, ...]
    thresholds: Thresholds
    level: float
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> Kept:
        """kept, not kept or undecided: kept only where every check is."""
        return overall(self.checks)

    @property
    def headline(self) -> str:
        """The verdict in a line, which claims no more than was measured."""
        alone = self.verdict == "kept" and {check.name for check in self.checks} == {"instructions"}
        return ONLY_INSTRUCTIONS if alone else HEADLINES[self.verdict]

    @property
    def sentence(self) -> str:
        """The verdict in words that a stranger understands."""
        return sentence(self.checks, self.level)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: verdict, one row a check, then every part whole."""
        parts = ("preferences", "drift", "instructions", "wins")
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "verdict": self.verdict,
            "headline": self.headline,
            "sentence": self.sentence,
            "level": self.level,
            "checks": [c.to_json() for c in self.checks],
            "thresholds": asdict(self.thresholds),
            **{name: None if (part := getattr(self, name)) is None else part.to_json() for name in parts},
            "divergence": [d.to_json() for d in self.divergence],
            "notes": list(self.notes),
            "facts": dict(self.facts),
        }

    def to_text(self) -> str:
        """For a terminal."""
        lines = [f"{self.headline}. {self.sentence}", ""]
        for c in self.checks:
            both = ""
            if c.aligned is not None:
                both = f"{in_unit(c.aligned, c.level_unit)} -> {in_unit(c.tuned, c.level_unit)}, "
            value, low, high = (
                in_unit(x, c.unit, sign=c.signed) for x in (c.change.value, c.change.low, c.change.high)
            )
            lines.append(f"  {c.label}: {both}{value} [{low}, {high}], n = {c.change.n} {c.of}: {c.verdict} ({c.rule})")
            if c.n_needed is not None:
                lines.append(f"    about {rounded(c.n_needed)} {c.of} would settle it")
            if c.why:
                lines.append(f"    {c.why}")
        lines += [f"  {line}" for line in self._more()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)]) + "\n"

    def _more(self) -> Sequence[str]:
        """Numbers beside the checks."""
        out = []
        if (p := self.preferences) is not None:
            a, t = p.ranking_per_token.aligned.value, p.ranking_per_token.tuned.value
            out.append(
                f"ranking by log-probability per token: {a:.1%} -> {t:.1%}; n = {p.n} pairs, {p.n_prompts} prompts"
            )
            out.append(f"moved against the preference (any distance): {p.share_against.value:.1%} of the pairs")
        for d in self.divergence:
            out.append(
                f"same most probable token along the {d.contexts} model's answers: {d.agreement.value:.1%} of {d.n_tokens:,}"
            )
        if self.drift is not None:
            out.append(f"exactly the same answer: {self.drift.identical.value:.1%} of {self.drift.n} prompts")
        if (w := self.wins) is not None:
            bias = "unknown" if w.position_bias is None else f"{w.position_bias.value:.0%}"
            out.append(
                f"judge: {w.wins} wins, {w.ties} ties, {w.losses} losses; votes for the answer shown first: {bias}"
            )
        return out


def sentence(checks: Sequence[Check], level: float) -> str:
    """One sentence on all checks.

    >>> sentence((), 0.95)
    'Nothing was measured.'
    """
    if not checks:
        return "Nothing was measured."
    by = {v: [c for c in checks if c.verdict == v] for v in ("kept", "not kept", "undecided")}
    if by["not kept"]:
        moved = "; ".join(f"“{c.label}” ({in_unit(c.change.value, c.unit, sign=c.signed)})" for c in by["not kept"])
        return f"Tuning moved the model away from the aligned one by more than is allowed: {moved}."
    if by["undecided"]:
        short, other = ([c for c in by["undecided"] if bool(c.why) is told] for told in (False, True))
        needed: dict[str, int] = {}
        for c in short:
            needed[c.of] = max(needed.get(c.of, 0), c.n_needed or 0)
        more = " and ".join(f"{rounded(n)} {of}" for of, n in needed.items() if n)
        why = [f"“{c.label}” is undecided: {c.why}" for c in other]
        if short:
            others = "the others" if not other else " and ".join(f"“{c.label}”" for c in short)
            settle = f" (about {more} would, were these values true)" if more else ""
            why = [f"too little was asked to decide {others}{settle}", *why]
        return (
            f"{len(by['kept'])} of {len(checks)} numbers stayed within what is allowed and none is shown to have left it; "
            f"{'; '.join(why)}."
        )
    ways, each = (f"{len(checks)} ways", "each time with") if checks[1:] else ("one way alone", "with")
    return (
        f"Measured in {ways}, the tuned model stayed as close to the aligned model as is allowed, {each} its whole "
        f"{100 * level:g}% interval."
    )
