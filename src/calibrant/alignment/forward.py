"""What both models say about given responses. Shape suffixes: P pairs or prompts, S response tokens, V vocabulary, D hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from calibrant.alignment.models import WHICH, ModelPair, Which
from calibrant.errors import ModelError
from calibrant.progress import track
from calibrant.prompts import PromptStyle
from calibrant.scoring.head import Head
from calibrant.scoring.options import Encoded, Tokens
from calibrant.scoring.scorer import OptionScorer, default_batch_tokens, padded

TEXTS = PromptStyle(reading="continuation")
ROWS = 128
"""Response tokens whose logits over the vocabulary are held at once, for each of the two models."""


def response_logp(
    model: Any, encoded: Sequence[Encoded], *, batch_tokens: int | None = None, progress: str | None = None
) -> np.ndarray:
    """``log π(response | prompt) = Σ_t log π(token_t | prompt, tokens before t)``, natural log, (P, 2): chosen, rejected.

    Logits are float32; prompts run once for both responses where a self-test shows that this changes nothing.

    Raises
    ------
    ModelError : numbers that are not finite.
    """
    scorer = OptionScorer(model, TEXTS, batch_tokens)
    longest = max(len(option[0]) for e in encoded for option in e.options)
    scorer.self_test(encoded, slack=math.sqrt(longest))
    return scorer.joint(encoded, progress=progress)


class Divergence(NamedTuple):
    """Sums over the tokens of each prompt's response, (P,) each.

    ``kl`` is ``Σ_t KL(tuned ‖ aligned)`` in nats, ``agree`` the number of tokens at which both have the same most
    probable one, ``tokens`` their number.
    """

    kl: np.ndarray
    agree: np.ndarray
    tokens: np.ndarray


@torch.inference_mode()
def token_divergence(
    models: ModelPair,
    sequences: Sequence[tuple[Tokens, Tokens]],
    *,
    batch_tokens: int | None = None,
    rows: int = ROWS,
    progress: str | None = None,
) -> Divergence:
    """``KL_t = Σ_v π_tuned(v | c_t) [log π_tuned(v | c_t) − log π_aligned(v | c_t)]``, exact over the whole vocabulary.

    The contexts c_t are the prompt and the first t tokens of the response given with it, for each t of the response.
    Logits are float32 and made for ``rows`` tokens at a time.

    Parameters
    ----------
    models : aligned and tuned.
    sequences : prompt and response tokens; responses of one token or more.

    Raises
    ------
    ModelError : numbers that are not finite, or vocabularies of different size.
    """
    device = models.device
    budget = batch_tokens or default_batch_tokens(device)
    heads: dict[Which, Head] = {}
    for which in WHICH:
        with models.using(which) as model:
            heads[which] = Head.of(model)
    kl_P, agree_P = np.zeros(len(sequences)), np.zeros(len(sequences))
    batches = batches_of([len(p) + len(r) for p, r in sequences], budget)
    for batch in track(batches, progress, total=len(sequences), size=len):
        some = [sequences[i] for i in batch]
        row_S = np.repeat(batch, [len(r) for _, r in some])
        hidden = {which: _hidden(models, heads[which], which, some) for which in heads}
        for start in range(0, len(row_S), rows):
            block = {}
            for which, h_SD in hidden.items():
                with models.using(which):  # the adapter may be on the head, too
                    block[which] = heads[which].logits(h_SD[start : start + rows])
            kl_S, agree_S = _divergence(block["tuned"], block["aligned"])
            at_S = row_S[start : start + rows]
            np.add.at(kl_P, at_S, kl_S.cpu().double().numpy())
            np.add.at(agree_P, at_S, agree_S.cpu().numpy())
    if not np.isfinite(kl_P).all():
        raise ModelError(
            asked="KL(tuned ‖ aligned) on responses",
            found="the models' output is not finite (NaN or infinite)",
            todo="check the weights; with float16, use bfloat16 or float32",
        )
    return Divergence(kl_P, agree_P, np.array([len(r) for _, r in sequences]))


def _divergence(tuned_SV: Tensor, aligned_SV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(tuned ‖ aligned) of each row, and whether both rows have the same most probable token."""
    if tuned_SV.shape != aligned_SV.shape:
        raise ModelError(
            asked="KL(tuned ‖ aligned) over the vocabulary",
            found=f"vocabularies of {tuned_SV.shape[1]} and {aligned_SV.shape[1]} tokens",
            todo="give a tuned model with the aligned model's vocabulary",
        )
    tuned_logp_SV, aligned_logp_SV = torch.log_softmax(tuned_SV, 1), torch.log_softmax(aligned_SV, 1)
    # A token that a model rules out (logit -inf) adds nothing where the tuned model rules it out.
    terms_SV = tuned_logp_SV.exp() * (tuned_logp_SV - aligned_logp_SV)
    kl_S = torch.where(torch.isneginf(tuned_logp_SV), 0.0, terms_SV).sum(1)
    return kl_S, tuned_SV.argmax(1) == aligned_SV.argmax(1)


def _hidden(models: ModelPair, head: Head, which: Which, sequences: Sequence[tuple[Tokens, Tokens]]) -> Tensor:
    """Hidden rows (S, D) from which the responses' tokens are predicted, sequence after sequence."""
    ids_BT, mask_BT, position_BT, _ = padded([(*p, *r)[:-1] for p, r in sequences], models.device)
    with models.using(which) as model, head.capture() as kept:
        model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT, use_cache=False)
    h_BTD = kept.take()
    at = [(b, len(p) - 1 + t) for b, (p, r) in enumerate(sequences) for t in range(len(r))]
    row_S, step_S = (torch.tensor(x, device=h_BTD.device) for x in zip(*at, strict=True))
    return h_BTD[row_S, step_S]


def batches_of(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first; each batch, padded, is within the budget or alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
