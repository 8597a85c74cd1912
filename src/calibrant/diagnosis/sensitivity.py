"""Does the order of the options decide the answer? Shape suffixes: N questions, K options, S orders.

The same questions are scored in S cyclic orders: order s moves option j of a question with K_i options to position
``(j + s) mod K_i`` (docs/sensitivity.md). A question has K_i such orders; ``s >= K_i`` repeats one that it had,
and such repeats count in no average over orders. In a *complete* design, ``S >= K_i`` for all, each option stood at each
position once, so that a model which reads only what the options say gives each position 1/K_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibrant.diagnosis.contrasts import CONTRASTED, Contrast, contrasts, numbers_lines
from calibrant.diagnosis.positions import PositionEffect, position_effect, turned
from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.comparison import Comparison, align, compare
from calibrant.metrics.estimates import Sampling, mean_estimates, share
from calibrant.metrics.measurement import Estimate, Measurement, measure
from calibrant.metrics.text import with_interval
from calibrant.scores import Scores


@dataclass(frozen=True)
class OrderSensitivity:
    """What :func:`order_sensitivity` found.

    Parameters
    ----------
    n, n_orders, complete : questions, orders, and whether every question was asked in all its orders.
    consistency : share of questions whose chosen option is the same in all their orders (Wilson's interval).
    agreement : share of pairs of orders that choose the same option, mean over questions.
    probability, picks : of positions, in mean probability and in how often they are chosen.
    by_order : numbers of each order, the given one first.
    contrasts : each other order against the given one.
    averaged : scores whose probabilities are the mean over a question's orders, in the given order of options.
    averaged_numbers : its numbers.
    change : from the given order (a) to the average (b), paired.
    """

    n: int
    n_orders: int
    complete: bool
    consistency: Estimate
    agreement: Estimate
    probability: PositionEffect
    picks: PositionEffect
    by_order: tuple[Measurement, ...]
    contrasts: tuple[Contrast, ...]
    averaged: Scores
    averaged_numbers: Measurement
    change: Comparison

    @property
    def order_part(self) -> Estimate:
        """conf-ECE of the given order minus that of the average over orders, with its paired interval."""
        d = self.change["conf_ece"]
        return Estimate(-d.value, -d.high, -d.low, d.n)

    def spread(self, name: str) -> float:
        """Largest minus smallest value of one metric over the orders; 0 only if no order differs."""
        values = [m[name].value for m in self.by_order]
        return max(values) - min(values)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the averaged scores themselves."""
        return {
            "n": self.n,
            "n_orders": self.n_orders,
            "complete": self.complete,
            "consistency": self.consistency.to_json(),
            "agreement": self.agreement.to_json(),
            "probability": self.probability.to_json(),
            "picks": self.picks.to_json(),
            "spread": {name: self.spread(name) for name in CONTRASTED},
            "by_order": [m.to_json() for m in self.by_order],
            "contrasts": [contrast.to_json() for contrast in self.contrasts],
            "averaged": self.averaged_numbers.to_json(),
            "change": self.change.to_json(),
            "order_part": self.order_part.to_json(),
        }

    def to_text(self) -> str:
        """What the command prints."""
        level = self.averaged_numbers.level
        lines = [
            f"Order of the options: {self.n} questions in {self.n_orders} orders"
            + ("" if self.complete else ", not all orders of all questions"),
            f"  same choice in all orders   {with_interval(self.consistency)}",
            f"  same choice in two orders   {with_interval(self.agreement)}",
            "  position  probability, without a preference  chosen, without one",
        ]
        for k in range(len(self.probability.share_K)):
            shares = [effect.share_K[k] for effect in (self.probability, self.picks)]
            even = [effect.expected_K[k] for effect in (self.probability, self.picks)]
            lines.append(f"  {k + 1:>8}  {shares[0]:>11.3f}  {even[0]:>20.3f}  {shares[1]:>7.3f}  {even[1]:>11.3f}")
        lines += [
            f"  moved by position: {effect.distance:.3f} of {what} (p = {effect.p_value:.2g})"
            for what, effect in (("the probability", self.probability), ("the choices", self.picks))
        ]
        named = {f"order {s + 1}": m for s, m in enumerate(self.by_order)} | {"average": self.averaged_numbers}
        lines += numbers_lines(named)
        lines.append(
            f"  over the orders accuracy spreads by {self.spread('accuracy'):.3f}, conf-ECE by {self.spread('conf_ece'):.3f}"
        )
        lines += [f"  {self.change.sentence(name, 'order 1', 'average')}" for name in ("accuracy", "conf_ece")]
        lines.append(f"  {self._conclusion(100 * level)}")
        return "\n".join(lines) + "\n"

    def _conclusion(self, percent: float) -> str:
        part, before = self.order_part, self.by_order[0]["conf_ece"].value
        interval = f"{percent:g} % interval {part.low:+.4f} to {part.high:+.4f}"
        if part.low > 0:
            return f"of the conf-ECE of {before:.4f}, {part.value:.4f} is order: averaging takes it away, {interval}"
        if part.high < 0:
            return f"averaging the orders adds {-part.value:.4f} to the conf-ECE of {before:.4f}, {interval}"
        return f"whether order is part of the conf-ECE of {before:.4f} is undecided: {part.value:+.4f}, {interval}"


def unpermute(scores: Scores, shift: int) -> Scores:
    """Scores of questions whose option j stood at ``(j + shift) mod K_i``, with the columns back in the first order.

    >>> shown = Scores.from_probs([[0.2, 0.7, 0.1], [0.4, 0.6, float("nan")]], [1, 0])
    >>> back = unpermute(shown, 1)
    >>> back.p_NK.round(1).tolist(), back.answer_N.tolist()
    ([[0.7, 0.1, 0.2], [0.6, 0.4, 0.0]], [0, 1])
    """
    return replace(
        scores, logp_NK=turned(scores.logp_NK, scores.k_N, shift), answer_N=(scores.answer_N - shift) % scores.k_N
    )


def order_sensitivity(
    scores_by_shift: Sequence[Scores], *, n_bins: int = 10, n_boot: int = 1000, level: float = 0.95, seed: int = 0
) -> OrderSensitivity:
    """How much of the choices, and of the calibration error, is the order in which the options stand.

    Parameters
    ----------
    scores_by_shift
        Two or more; item s are the scores of shift s, as :func:`calibrant.orders.cyclic_permutations` makes the questions.
    n_bins, n_boot, level, seed
        As for ``measure``; ``n_boot`` also counts the draws of the test of positions.

    Raises
    ------
    ConfigError : fewer than two orders; scores of option texts, which do not see the order.
    ScoresError : other questions, or an order that is not that of its place.

    Averages of confidences are less extreme than what they average, whether or not positions matter: where the orders
    disagree at random, the average is less confident too. Its gain is thus what averaging does, not positions alone.

    >>> letters = [[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]  # always the first, whatever is there
    >>> found = order_sensitivity([Scores.from_probs(letters, a) for a in ([0, 1, 0, 1], [1, 0, 1, 0])])
    >>> found.consistency.value, found.picks.share_K, found.averaged.p_NK.round(3).tolist()[0]
    (0.0, (1.0, 0.0), [0.5, 0.5])
    """
    how = Sampling(n_boot, level, seed, n_bins)
    straight = _straightened(scores_by_shift)
    first, k_N = straight[0], straight[0].k_N
    counts_SN = np.arange(len(straight))[:, None] < k_N
    picks_SN = np.array([(turned(s.logp_NK, k_N, -shift).argmax(1) - shift) % k_N for shift, s in enumerate(straight)])
    pick_SNK = (picks_SN[:, :, None] == np.arange(first.k)).astype(np.float64)
    p_SNK = np.array([s.p_NK for s in straight])
    times_NK, m_N = (pick_SNK * counts_SN[:, :, None]).sum(0), counts_SN.sum(0)
    same_N = (times_NK * (times_NK - 1)).sum(1) / (m_N * (m_N - 1))
    consistency = share(times_NK.max(1) == m_N, how)
    averaged = _averaged(straight, p_SNK, counts_SN)
    shown = [unpermute(s, -shift) for shift, s in enumerate(straight)]
    settings: dict[str, Any] = {"n_bins": n_bins, "n_boot": n_boot, "level": level, "seed": seed}
    named = {f"order {shift + 1}": s for shift, s in enumerate(straight)}
    return OrderSensitivity(
        n=first.n,
        n_orders=len(straight),
        complete=bool((len(straight) >= k_N).all()),
        consistency=consistency,
        agreement=_agreement(same_N, consistency, how),
        probability=position_effect(p_SNK, counts_SN, k_N, how),
        picks=position_effect(pick_SNK, counts_SN, k_N, how),
        by_order=tuple(measure(s, **settings) for s in shown),
        contrasts=contrasts(named, [("order 1", name) for name in list(named)[1:]], **settings),
        averaged=averaged,
        averaged_numbers=measure(averaged, **settings),
        change=compare(first, averaged, **settings),
    )


def _agreement(same_N: np.ndarray, consistency: Estimate, how: Sampling) -> Estimate:
    """Mean share of pairs of orders with the same choice; where it is 0 or 1 everywhere, as with two orders, it is the
    consistency, whose interval does not vanish.
    """
    return consistency if np.isin(same_N, (0.0, 1.0)).all() else mean_estimates({"same": same_N}, how)["same"]


def _straightened(scores_by_shift: Sequence[Scores]) -> list[Scores]:
    """All scores with questions and options in the order of the first, or a refusal."""
    asked = "sensitivity to the order of the options"
    if len(scores_by_shift) < 2:
        raise ConfigError(
            asked=asked, found=f"{len(scores_by_shift)} order", todo="score the questions in two orders or more"
        )
    for shift, scores in enumerate(scores_by_shift):
        prompt = scores.provenance.get("prompt")
        if isinstance(prompt, Mapping) and prompt.get("reading") == "continuation":
            raise ConfigError(
                asked=asked,
                found="option texts scored one by one (reading 'continuation'): the model never sees their order",
                todo="score letters, or look at the prompt formats alone",
            )
        said = scores.provenance.get("option_shift", shift)
        if said != shift:
            raise ScoresError(
                asked=f"scores of shift {shift} at place {shift}",
                found=f"scores of shift {said}",
                todo="give the scores in the order of cyclic_permutations",
            )
    first = scores_by_shift[0]
    return [align(first, unpermute(scores, shift))[0] for shift, scores in enumerate(scores_by_shift)]


def _averaged(straight: Sequence[Scores], p_SNK: np.ndarray, counts_SN: np.ndarray) -> Scores:
    weight_SN = counts_SN / counts_SN.sum(0)
    mass_N = (np.exp([s.logmass_N for s in straight]) * weight_SN).sum(0)
    p_NK = (p_SNK * weight_SN[:, :, None]).sum(0)
    with np.errstate(divide="ignore"):
        logp_NK, logmass_N = np.log(p_NK / p_NK.sum(1, keepdims=True)), np.log(mass_N)
    facts = {name: value for name, value in straight[0].provenance.items() if name != "option_shift"}
    facts["averaged_over_orders"] = len(straight)
    return replace(straight[0], logp_NK=logp_NK, logmass_N=logmass_N, provenance=facts)
