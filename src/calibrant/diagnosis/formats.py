"""How much of the calibration error is the way of asking: the format of the prompt (raw text, chat template, chat with an
answer prefix), or the variant in which the likelihoods of the options' texts are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from calibrant.diagnosis.calibrator import Tempered, tempered
from calibrant.diagnosis.contrasts import CONTRASTED, Contrast, contrasts, numbers_lines
from calibrant.errors import ConfigError
from calibrant.metrics.comparison import Difference, align, compare_many
from calibrant.metrics.estimates import Sampling, share
from calibrant.metrics.measurement import Estimate, Measurement, finite, measure
from calibrant.metrics.text import with_interval
from calibrant.scalers.base import question_keys
from calibrant.scores import Scores

Aspect = Literal["format", "variant"]
HEADS: dict[Aspect, str] = {"format": "Format of the prompt", "variant": "Reading of the options' texts"}
SHARES: dict[Aspect, str] = {"format": "format", "variant": "the reading's"}


@dataclass(frozen=True)
class FormatSensitivity:
    """What :func:`format_sensitivity` found.

    Parameters
    ----------
    n : questions.
    numbers : accuracy, confidence, calibration errors with floors, and option mass of each format (or variant).
    contrasts : each pair of formats, in accuracy, confidence and conf-ECE, corrected for looking at all pairs.
    agreement : share of questions with the same choice, by pair as in ``contrasts`` (Wilson's interval).
    best, worst : the formats of least and of largest conf-ECE.
    left_out : formats that could not be asked, with the reason.
    aspect : what differs, ``"format"`` or ``"variant"``.
    tempered : each format after one temperature of its own, cross-validated (5 folds): what is left once the scale of
        its scores does not matter. Those for which no temperature can be fitted are missing.
    sharpest : of these, the one with the least log loss; ``None`` if there is none.
    losses : log loss of each other one minus that of ``sharpest``, paired, and its p-value after Holm's correction
        (not for the choice of ``sharpest``).
    """

    n: int
    numbers: Mapping[str, Measurement]
    contrasts: tuple[Contrast, ...]
    agreement: tuple[Estimate, ...]
    best: str
    worst: str
    left_out: Mapping[str, str]
    aspect: Aspect
    tempered: Mapping[str, Tempered]
    sharpest: str | None
    losses: Mapping[str, tuple[Difference, float]]

    @property
    def part(self) -> Estimate | None:
        """conf-ECE of the worst format minus that of the best, with its paired interval (not corrected for the choice of
        the two); ``None`` with one format only.
        """
        for contrast in self.contrasts:
            d = contrast.differences["conf_ece"]
            if (contrast.a, contrast.b) == (self.best, self.worst):
                return Estimate(d.value, d.low, d.high, d.n)
            if (contrast.a, contrast.b) == (self.worst, self.best):
                return Estimate(-d.value, -d.high, -d.low, d.n)
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        part = self.part
        pairs = zip(self.contrasts, self.agreement, strict=True)
        return {
            "aspect": self.aspect,
            "n": self.n,
            "numbers": {name: m.to_json() for name, m in self.numbers.items()},
            "contrasts": [contrast.to_json() | {"agreement": same.to_json()} for contrast, same in pairs],
            "best": self.best,
            "worst": self.worst,
            "part": None if part is None else part.to_json(),
            "left_out": dict(self.left_out),
            "tempered": {
                name: {"temperature": one.fitted.temperature_, **one.measured.to_json()}
                for name, one in self.tempered.items()
            },
            "sharpest": self.sharpest,
            "losses": {name: d.to_json() | {"p_corrected": finite(p)} for name, (d, p) in self.losses.items()},
        }

    def to_text(self) -> str:
        """What the command prints."""
        lines = [f"{HEADS[self.aspect]}: {self.n} questions", *numbers_lines(self.numbers)]
        for contrast, same in zip(self.contrasts, self.agreement, strict=True):
            lines.append(f"  {contrast.b} against {contrast.a}: same choice {with_interval(same)}")
            for name, label in CONTRASTED.items():
                d, p = contrast.differences[name], contrast.p_corrected[name]
                change = f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
                lines.append(f"    {label:<15}  {change}  corrected p = {p:.2g}")
        lines.append(f"  {self._conclusion()}")
        lines += self._after_temperature()
        lines += [f"  left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines) + "\n"

    def _after_temperature(self) -> Iterator[str]:
        """The table of what one temperature each leaves, and which has the least log loss then."""
        if self.sharpest is None or len(self.numbers) < 2:
            return
        width = max(len(name) for name in self.tempered)
        yield "  After one temperature each, fitted on other questions (5 folds):"
        yield f"  {'':<{width}}  {'temperature':<11}  {'conf-ECE':<20}  {'floor p95':<9}  log loss"
        for name, one in self.tempered.items():
            ece, loss = one.measured["conf_ece"], one.measured["nll"]
            yield (
                f"  {name:<{width}}  {one.fitted.temperature_:<11.3g}  {with_interval(ece):<20}  {ece.floor_p95:<9.3f}  "
                f"{with_interval(loss)}"
            )
        for name, (d, p) in self.losses.items():
            change = f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}], corrected p = {p:.2g}"
            if not math.isfinite(d.value):
                change = "infinite, since some answers have probability 0"
            yield f"    log loss of {name} against {self.sharpest}: {change}"

    def _conclusion(self) -> str:
        part = self.part
        if part is None:
            return f"one {self.aspect} only ({self.best}): nothing to compare"
        best, worst = (self.numbers[name]["conf_ece"].value for name in (self.best, self.worst))
        p = next(c.p_corrected["conf_ece"] for c in self.contrasts if {c.a, c.b} == {self.best, self.worst})
        level = self.numbers[self.best].level
        real = "" if p <= 1 - level else "; not distinguishable from no difference"
        return (
            f"conf-ECE runs from {best:.4f} ({self.best}) to {worst:.4f} ({self.worst}): {part.value:.4f} of it is "
            f"{SHARES[self.aspect]}, {100 * level:g} % interval {part.low:.4f} to {part.high:.4f}, corrected p = {p:.2g}{real}"
        )


def format_sensitivity(
    scores_by_format: Mapping[str, Scores],
    *,
    left_out: Mapping[str, str] | None = None,
    aspect: Aspect = "format",
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> FormatSensitivity:
    """Numbers of one model under several prompt formats, or variants of a continuation's score, and their paired differences.

    Twice: as they are, and after a cross-validated temperature each. Scores on another scale, such as a pointwise mutual
    information, look far too sure as they are and may still tell right from wrong best. The best of several formats is
    flattered by having been chosen: measure it again on other questions.

    Parameters
    ----------
    scores_by_format
        By name, on the same questions with the options in one order; one or more.
    left_out
        Formats that could not be asked, and why.
    aspect
        What differs between the scores, for the text.
    n_bins, n_boot, level, seed
        As for ``measure``.

    Raises
    ------
    ConfigError : no scores. ScoresError : other questions, or options in another order.

    >>> answer = [0] * 30 + [1] * 20
    >>> raw, chat = Scores.from_probs([[0.62, 0.38]] * 50, answer), Scores.from_probs([[0.99, 0.01]] * 50, answer)
    >>> found = format_sensitivity({"raw": raw, "chat": chat})  # accuracy .6: |.6 - .62| against |.6 - .99|
    >>> found.best, found.worst, round(found.part.value, 4), found.agreement[0].value
    ('raw', 'chat', 0.37, 1.0)
    >>> round(found.tempered["chat"].fitted.temperature_, 1)  # logit(.99) / logit(.6)
    11.3
    """
    if not scores_by_format:
        raise ConfigError(asked="sensitivity to the format", found="no scores", todo="give the scores of a format")
    first = next(iter(scores_by_format.values()))
    scores = {name: align(first, s)[0] for name, s in scores_by_format.items()}
    settings: dict[str, Any] = {"n_bins": n_bins, "n_boot": n_boot, "level": level, "seed": seed}
    pairs = list(combinations(scores, 2))
    numbers = {name: measure(s, **settings) for name, s in scores.items()}
    by_error = sorted(numbers, key=lambda name: numbers[name]["conf_ece"].value)
    how = Sampling(n_boot, level, seed, n_bins)
    after = _tempered(scores, how)
    sharpest = min(after, key=lambda name: after[name].measured["nll"].value, default=None)
    others = {name: one.scores for name, one in after.items() if name != sharpest}
    return FormatSensitivity(
        n=first.n,
        numbers=numbers,
        contrasts=contrasts(scores, pairs, **settings),
        agreement=tuple(share(scores[a].prediction_N == scores[b].prediction_N, how) for a, b in pairs),
        best=by_error[0],
        worst=by_error[-1],
        left_out=dict(left_out or {}),
        aspect=aspect,
        tempered=after,
        sharpest=sharpest,
        losses=compare_many(after[sharpest].scores, others, "nll", **settings) if sharpest else {},
    )


def _tempered(scores: Mapping[str, Scores], how: Sampling) -> dict[str, Tempered]:
    """Each with a temperature of its own, where one can be fitted on some questions and judged on others."""
    if len(set(question_keys(next(iter(scores.values()))))) < 2:
        return {}
    found = {name: tempered(one, how) for name, one in scores.items()}
    return {name: one for name, one in found.items() if one is not None}
