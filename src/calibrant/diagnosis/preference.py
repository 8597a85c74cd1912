"""Preference pairs: how alignment moved them, and how far it is expected to. Shape suffix: P pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics.estimates import Sampling, mean_estimates
from calibrant.metrics.measurement import Estimate


@dataclass(frozen=True)
class PreferenceDrift:
    """How log-probabilities of preference pairs moved from the reference to the aligned model.

    Parameters
    ----------
    chosen, rejected : mean change of the log-probability, nats a response; negative is a fall.
    margin : mean of ``chosen - rejected`` change: the implicit reward margin over β.
    share_both_fell : share of pairs in which chosen *and* rejected became less likely.
    share_margin_grew : share of pairs whose margin grew.
    n : pairs.
    """

    chosen: Estimate
    rejected: Estimate
    margin: Estimate
    share_both_fell: Estimate
    share_margin_grew: Estimate
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: one object a number."""
        names = ("chosen", "rejected", "margin", "share_both_fell", "share_margin_grew")
        return {name: getattr(self, name).to_json() for name in names} | {"n": self.n}


def preference_drift(
    chosen_logp_aligned: ArrayLike,
    chosen_logp_reference: ArrayLike,
    rejected_logp_aligned: ArrayLike,
    rejected_logp_reference: ArrayLike,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    prompts: Sequence[Any] | None = None,
) -> PreferenceDrift:
    """Summarise log-probabilities (natural log, whole response, shape (P,)) of the same pairs under both models.

    Direct alignment often lowers both, the rejected one more: the margin grows while probability leaves the data
    altogether. Intervals: percentile bootstrap over pairs; with ``prompts``, one label a pair, pairs of a prompt together,
    and none where all are of one prompt.

    Raises
    ------
    ScoresError : lengths that differ, fewer than two pairs, or values that are not finite.

    >>> drift = preference_drift([-12.0, -9.0], [-10.0, -10.0], [-15.0, -11.0], [-11.0, -10.0])
    >>> drift.chosen.value, drift.rejected.value, drift.margin.value, drift.share_both_fell.value
    (-0.5, -2.5, 2.0, 0.5)
    """
    given = {
        "chosen_logp_aligned": chosen_logp_aligned,
        "chosen_logp_reference": chosen_logp_reference,
        "rejected_logp_aligned": rejected_logp_aligned,
        "rejected_logp_reference": rejected_logp_reference,
    }
    logp = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    shapes = {values_P.shape for values_P in logp.values()}
    wrong = sum(int((~np.isfinite(values_P)).sum()) for values_P in logp.values())
    given_shapes = shapes if prompts is None else shapes | {(len(prompts),)}
    if len(given_shapes) > 1 or len(shape := shapes.pop()) != 1 or shape[0] < 2 or wrong:
        raise ScoresError(
            asked="four lists of finite log-probabilities of the same two or more pairs",
            found=", ".join(f"{name} {v.shape}" for name, v in logp.items()) + f", {wrong} values not finite",
            todo="give one number a pair in each, one prompt a pair if any, and leave broken pairs out by name",
        )
    chosen_P = logp["chosen_logp_aligned"] - logp["chosen_logp_reference"]
    rejected_P = logp["rejected_logp_aligned"] - logp["rejected_logp_reference"]
    columns = {
        "chosen": chosen_P,
        "rejected": rejected_P,
        "margin": chosen_P - rejected_P,
        "share_both_fell": (chosen_P < 0) & (rejected_P < 0),
        "share_margin_grew": chosen_P > rejected_P,
    }
    how = Sampling(n_boot, level, seed)
    estimates = mean_estimates(columns, how if prompts is None else how.by(tuple(map(str, prompts))))
    return PreferenceDrift(**estimates, n=len(chosen_P))


def expected_sharpening(p: ArrayLike, beta: ArrayLike) -> np.ndarray:
    """Probability of the preferred of two responses at the optimum of KL-regularised alignment.

    ``π(y1) / (π(y1) + π(y2)) = p^(1/β) / (p^(1/β) + (1 - p)^(1/β)) = sigmoid(logit(p) / β)``, where p is the share of
    people who prefer y1 (Bradley-Terry) and the reference gives both the same probability. β = 1 keeps the human
    ratio; a small β collapses it. Ours: it follows from ``π ∝ π_ref exp(r / β)``. Broadcasts ``p`` against ``beta``.

    Raises
    ------
    ConfigError : p outside [0, 1] or β not above 0.

    >>> expected_sharpening(0.6, [1, 0.5, 0.1, 0.05]).round(4).tolist()
    [0.6, 0.6923, 0.983, 0.9997]
    """
    share, strength = np.asarray(p, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if not ((share >= 0) & (share <= 1)).all() or not ((strength > 0) & np.isfinite(strength)).all():
        raise ConfigError(
            asked="expected sharpening from a preference share and β",
            found=f"p from {share.min():g} to {share.max():g}, β from {strength.min():g} to {strength.max():g}",
            todo="give p in [0, 1] and a finite β above 0",
        )
    return np.asarray(expit(logit(share) / strength))
