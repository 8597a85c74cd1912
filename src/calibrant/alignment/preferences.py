"""What the log-probabilities of preference pairs say. No torch. Shape suffixes: P pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.alignment.paired import Paired, paired_share
from calibrant.diagnosis.preference import PreferenceDrift, preference_drift
from calibrant.errors import ScoresError, only_numbers
from calibrant.files import read_lines, write_lines
from calibrant.metrics.estimates import Sampling, mean, share
from calibrant.metrics.measurement import Estimate

MODELS = ("aligned", "tuned", "reference")


@dataclass(frozen=True, eq=False)
class PairLogps:
    """Log-probabilities of whole responses to preference pairs, natural log.

    Parameters
    ----------
    ids : of the pairs. prompt_P : one number a different prompt; pairs of one prompt are resampled together.
    tokens_P2 : response tokens of chosen and rejected, end marker included.
    logp_P2 : by model (aligned, tuned, and reference where there is one), chosen and rejected.
    """

    ids: tuple[str, ...]
    prompt_P: np.ndarray
    tokens_P2: np.ndarray
    logp_P2: dict[str, np.ndarray]

    def save(self, path: str | Path) -> Path:
        """JSON lines, one pair each: id, prompt, chosen_tokens, rejected_tokens, and chosen_logp_MODEL, rejected_logp_MODEL."""
        rows = []
        for i, name in enumerate(self.ids):
            row: dict[str, Any] = {"id": name, "prompt": int(self.prompt_P[i])}
            for j, side in enumerate(("chosen", "rejected")):
                row[f"{side}_tokens"] = int(self.tokens_P2[i, j])
                row |= {f"{side}_logp_{m}": float(logp_P2[i, j]) for m, logp_P2 in self.logp_P2.items()}
            rows.append(row)
        return write_lines(path, rows)

    @classmethod
    def load(cls, path: str | Path) -> PairLogps:
        """Read what :meth:`save` wrote."""
        rows = read_lines(path)
        models = [m for m in MODELS if f"chosen_logp_{m}" in rows[0]]
        return cls(
            tuple(row["id"] for row in rows),
            np.array([row["prompt"] for row in rows]),
            np.array([[row["chosen_tokens"], row["rejected_tokens"]] for row in rows]),
            {m: np.array([[row[f"chosen_logp_{m}"], row[f"rejected_logp_{m}"]] for row in rows]) for m in models},
        )


@dataclass(frozen=True)
class PreferenceCheck:
    """How the tuned model stands to human preferences, beside the aligned model.

    Parameters
    ----------
    n, n_prompts : pairs, and different prompts among them.
    beta : β of the implicit reward.
    ranking : share of pairs whose chosen response is the more probable one, under each model.
    ranking_per_token : the same by log-probability per token.
    margin : mean of ``β [(log π_tuned − log π_aligned)(chosen) − (log π_tuned − log π_aligned)(rejected)]``: the implicit
        reward of tuned against aligned; below 0 the tuning moved against the preference.
    share_against : share of pairs with a negative margin.
    reward : with a reference model, share of pairs with ``(log π − log π_ref)(chosen) > (log π − log π_ref)(rejected)``,
        under each model: the accuracy of DPO's implicit reward.
    movement : how far chosen and rejected moved, from the aligned model (its reference) to the tuned one.
    """

    n: int
    n_prompts: int
    beta: float
    ranking: Paired
    ranking_per_token: Paired
    margin: Estimate
    share_against: Estimate
    reward: Paired | None
    movement: PreferenceDrift

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "n": self.n,
            "n_prompts": self.n_prompts,
            "beta": self.beta,
            "ranking": self.ranking.to_json(),
            "ranking_per_token": self.ranking_per_token.to_json(),
            "margin": self.margin.to_json(),
            "share_against": self.share_against.to_json(),
            "reward": None if self.reward is None else self.reward.to_json(),
            "movement": self.movement.to_json(),
        }


def preference_check(pairs: PairLogps, *, beta: float = 0.1, how: Sampling | None = None) -> PreferenceCheck:
    """Compare two models on preference pairs; intervals resample prompts.

    The implicit reward is that of DPO (Rafailov et al. 2023, arXiv 2305.18290), ``r = β log(π / π_ref)``.

    Raises
    ------
    ScoresError : fewer than two pairs, or numbers that are not finite.

    >>> logp = {"aligned": [[-10.0, -12.0], [-8.0, -6.0]], "tuned": [[-9.0, -13.0], [-8.0, -5.0]]}
    >>> logp = {name: np.array(values) for name, values in logp.items()}
    >>> found = preference_check(PairLogps(("a", "b"), np.arange(2), np.full((2, 2), 4), logp))
    >>> round(found.margin.value, 3), found.share_against.value  # .1 [(1 + 1) + (0 - 1)] / 2
    (0.05, 0.5)
    """
    only_numbers(beta=beta)
    how = (how or Sampling()).by(pairs.prompt_P)
    logp = pairs.logp_P2
    if len(pairs.ids) < 2 or not all(np.isfinite(x).all() for x in logp.values()):
        raise ScoresError(
            asked="a preference check", found=f"{len(pairs.ids)} pairs", todo="give two or more, with finite numbers"
        )

    def prefers(score_P2: np.ndarray) -> np.ndarray:
        return np.asarray(score_P2[:, 0] > score_P2[:, 1])

    def ranked(scores: Sequence[np.ndarray]) -> Paired:
        return paired_share(prefers(scores[0]), prefers(scores[1]), how)

    both = [logp["aligned"], logp["tuned"]]
    moved_P2 = logp["tuned"] - logp["aligned"]
    margin_P = beta * (moved_P2[:, 0] - moved_P2[:, 1])
    reference = logp.get("reference")
    return PreferenceCheck(
        n=len(pairs.ids),
        n_prompts=len(np.unique(pairs.prompt_P)),
        beta=beta,
        ranking=ranked(both),
        ranking_per_token=ranked([x / pairs.tokens_P2 for x in both]),
        margin=mean(margin_P, how),
        share_against=share(margin_P < 0, how),
        reward=None if reference is None else ranked([x - reference for x in both]),
        movement=preference_drift(
            both[1][:, 0],
            both[0][:, 0],
            both[1][:, 1],
            both[0][:, 1],
            n_boot=how.n_boot,
            level=how.level,
            seed=how.seed,
            prompts=pairs.prompt_P.tolist(),
        ),
    )
