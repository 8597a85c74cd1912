"""From encoded questions to log-probabilities of their options, with one model.

Shape suffixes: N questions, K options, B batch, R option rows, T tokens, D hidden, V vocabulary.

Prompts run once; the options of a continuation run on copies of the prompt's key-value cache. A self-test on the questions
that are hardest for that compares it with the plain way (whole sequences, one at a time) before anything is trusted to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from calibrant.errors import REFUSALS, ModelError, memory_full
from calibrant.progress import track
from calibrant.prompts import PromptStyle, Variant
from calibrant.scoring.head import Head
from calibrant.scoring.options import Encoded, padded_lengths
from calibrant.scoring.precision import keep_layout
from calibrant.scoring.refusals import refuse_virtual_tokens

Route = Literal["shared", "plain", "single"]
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def default_batch_tokens(device: torch.device) -> int:
    """Padded tokens of one forward pass where nobody says how many."""
    return 1024 if device.type == "cpu" else 16384


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """While active, the model is in evaluation mode; afterwards each of its modules is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _alike(one_V: Tensor, other_V: Tensor, tolerance: float) -> bool:
    """Whether two rows of logits give the likely tokens the same log-probability; NaN is judged elsewhere."""
    one_V, other_V = one_V.log_softmax(0), other_V.log_softmax(0)
    likely_V = (one_V > one_V.max() - 10) | (other_V > other_V.max() - 10)
    return not bool(((one_V - other_V)[likely_V].abs() > tolerance).any())


class OptionScorer:
    """Scores encoded questions with one model; holds the head and the route that the self-test chose."""

    def __init__(
        self, model: Any, style: PromptStyle, batch_tokens: int | None = None, route: Route = "shared"
    ) -> None:
        refuse_virtual_tokens(model, f"options scored by {type(model).__name__}")
        keep_layout(model)
        self.model, self.style = model, style
        self.route: Route = route
        self.head = Head.of(model)
        self.device = next(model.parameters()).device
        self.batch_tokens = batch_tokens or default_batch_tokens(self.device)

    @torch.inference_mode()
    def run(self, encoded: Sequence[Encoded], *, progress: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """``(logp_NK, logmass_N)`` in float64, in the order given."""
        return self.read(self.joint(encoded, progress=progress), encoded, self.style.variant)

    @torch.inference_mode()
    def read(self, joint_NK: np.ndarray, encoded: Sequence[Encoded], variant: Variant) -> tuple[np.ndarray, np.ndarray]:
        """``(logp_NK, logmass_N)`` of a variant, from what :meth:`joint` gave."""
        k = joint_NK.shape[1]
        with np.errstate(over="ignore"):
            logmass_N = np.minimum(np.logaddexp.reduce(joint_NK, axis=1), 0.0)
        score_NK = joint_NK
        if variant == "pmi":
            bare = [e.without_question() for e in encoded]
            with np.errstate(invalid="ignore"):
                score_NK = joint_NK - np.where(np.isneginf(joint_NK), 0.0, self._joint(bare, k, None))
        elif variant != "sum":
            score_NK = joint_NK / np.array(padded_lengths(encoded, variant, k))
        return score_NK - np.logaddexp.reduce(score_NK, axis=1, keepdims=True), logmass_N

    @torch.inference_mode()
    def joint(self, encoded: Sequence[Encoded], *, progress: str | None = None) -> np.ndarray:
        """Log-probability (N, K) of each option's text given its prompt, over the whole vocabulary; ``-inf`` where absent."""
        return self._joint(encoded, max(len(e.options) for e in encoded), progress)

    @torch.inference_mode()
    def self_test(
        self, encoded: Sequence[Encoded], precision: torch.dtype | None = None, *, slack: float = 1.0
    ) -> tuple[Route, float]:
        """Choose the fastest route that gives what single, plain sequences give, to a tolerance of the model's precision.

        Compared are the longest and the shortest prompt of the batch in which they differ most, where padding shows itself,
        those of the batch with the longest of all, where a rotary embedding may change for the whole batch, and the question
        whose options go on for most tokens, where the copied cache does. Each prompt is also read from the model's own
        logits, without positions or a mask: :class:`ModelError` where they are others.
        ``precision`` is that of the arithmetic, where it is not that of the weights (mixed precision); ``slack`` multiplies
        the tolerance, for texts so long that rounding adds up. Returns the route and the largest difference of a
        log-probability that was seen on it.
        """
        if not encoded:
            return self.route, 0.0
        picks = [encoded[i] for i in self._hardest(encoded)]
        k = max(len(e.options) for e in picks)
        tolerance = slack * TOLERANCE.get(precision or next(self.model.parameters()).dtype, 0.5)
        self.route = "single"
        truth_NK = self._joint(picks, k, None)
        self._refuse_misread(picks, tolerance)
        worst = 0.0
        routes: tuple[Route, ...] = ("shared", "plain")
        for route in routes:
            self.route = route
            try:
                batch_NK = self._joint(picks, k, None)
            except REFUSALS as error:
                if route == "plain" or memory_full(error, "scoring") is not None:
                    raise
                continue  # a cache that cannot be copied, or padding that gives NaN: this architecture goes the plain way
            both = np.isfinite(truth_NK) & np.isfinite(batch_NK)
            worst = float(np.max(np.abs(truth_NK[both] - batch_NK[both]), initial=0.0))
            if worst <= tolerance:
                return route, worst
        self.route = "single"
        return "single", 0.0

    def _refuse_misread(self, encoded: Sequence[Encoded], tolerance: float) -> None:
        """Raise :class:`ModelError` where what is read after a prompt is not what the model itself says after it."""
        for e in encoded:
            ids_1T = torch.tensor([e.prompt], device=self.device)
            with self.head.capture():  # which keeps the last position alone
                own_V = self.model(input_ids=ids_1T, use_cache=False).logits[0, -1]
            rounding = float(own_V.abs().max()) * torch.finfo(own_V.dtype).eps
            ids_BT, mask_BT, position_BT, _ = padded([e.prompt], self.device)
            with self.head.capture() as kept:
                self.model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT, use_cache=False)
            last = len(e.prompt) - 1
            read_V = self.head.logits(kept.take()[0, last : last + 1])[0]
            if own_V.shape != read_V.shape or not _alike(own_V.float(), read_V, tolerance + rounding):
                raise ModelError(
                    asked=f"answers of {type(self.model).__name__} read at the end of a prompt",
                    found="they are not what the model itself says there (positions that do not begin at 0, or tokens of "
                    "its own in front)",
                    todo="give another kind of causal language model; please report this one",
                )

    def _joint(self, encoded: Sequence[Encoded], k: int, progress: str | None) -> np.ndarray:
        """Log-probability (N, K) of each option given its prompt, over the whole vocabulary; ``-inf`` where absent."""
        joint_NK = np.full((len(encoded), k), -np.inf)
        one_pass: Callable[[list[Encoded]], Tensor] = self._shared if self.route == "shared" else self._plain
        for batch in track(self._batches(encoded), progress, total=len(encoded), size=len):
            rows = [encoded[i] for i in batch]
            logp_A = one_pass(rows).cpu().double().numpy()  # in this order: Apple's GPUs have no float64
            if not np.isfinite(logp_A).all():
                raise ModelError(
                    asked=f"log-probabilities of question {rows[0].id!r} and {len(rows) - 1} more",
                    found="the model's output is not finite (NaN or infinite)",
                    todo="check the weights; with float16, use bfloat16 or float32",
                )
            at = 0
            for i, e in zip(batch, rows, strict=True):
                for option, aliases in enumerate(e.options):
                    joint_NK[i, option] = np.logaddexp.reduce(logp_A[at : at + len(aliases)])
                    at += len(aliases)
        return joint_NK

    def _hardest(self, encoded: Sequence[Encoded]) -> list[int]:
        """The longest and the shortest prompt of the batch on the shared route with the most padding and of the first batch,
        and the question with the longest options.
        """
        self.route = "shared"
        ends = [(batch[0], batch[-1]) for batch in self._batches(encoded)]
        longest, shortest = max(ends, key=lambda pair: len(encoded[pair[0]].prompt) - len(encoded[pair[1]].prompt))
        return sorted({longest, shortest, *ends[0], max(range(len(encoded)), key=lambda i: encoded[i].n_tails)})

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Indices in batches of similar prompt length, within the token budget of the route; longest first."""
        order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].prompt), i))
        if self.route == "single":
            yield from ([i] for i in order)
            return
        batch: list[int] = []
        rows = width = tail = 0
        for i in order:
            e = encoded[i]
            new_rows = rows + sum(len(a) for a in e.options)
            new_width, new_tail = max(width, len(e.prompt)), max(tail, e.n_tokens - len(e.prompt))
            if self.style.reading == "letters":
                cost = (len(batch) + 1) * new_width
            elif self.route == "plain":
                cost = new_rows * (new_width + new_tail)
            else:  # the copies of the cache take memory, not arithmetic
                cost = max((len(batch) + 1) * new_width, new_rows * new_tail, new_rows * (new_width + new_tail) // 8)
            if batch and cost > self.batch_tokens:
                yield batch
                batch, rows, width, tail = [], 0, 0, 0
                new_rows, new_width, new_tail = (
                    sum(len(a) for a in e.options),
                    len(e.prompt),
                    e.n_tokens - len(e.prompt),
                )
            batch.append(i)
            rows, width, tail = new_rows, new_width, new_tail
        if batch:
            yield batch

    def _shared(self, rows: list[Encoded]) -> Tensor:
        """Log-probability of each alias of each option, flat in order; every prompt runs once.

        Where an option goes on for more than a token, prompts are padded on the left: with what follows padded on the right
        a text has no gap, and an attention window counts places.
        """
        aliases = [(b, alias) for b, e in enumerate(rows) for option in e.options for alias in option]
        longer = [j for j, (_, alias) in enumerate(aliases) if len(alias) > 1]
        prompts = [e.prompt for e in rows]
        ids_BT, mask_BT, position_BT, length_B = self._padded(prompts, side="left" if longer else "right")
        with self.head.capture() as kept:
            out = self.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=position_BT,
                use_cache=bool(longer),
                return_dict=True,
            )
        h_BTD = kept.take()
        last_BD = h_BTD[:, -1] if longer else h_BTD[torch.arange(len(rows), device=self.device), length_B - 1]
        of_A = torch.tensor([b for b, _ in aliases], device=self.device)
        first_A = torch.tensor([alias[0] for _, alias in aliases], device=self.device)
        logp_A = self.head.token_logp(last_BD, first_A, of_A)
        if longer:
            of_R = of_A[longer]
            out.past_key_values.batch_select_indices(of_R)
            tails = [aliases[j][1] for j in longer]
            ids_RT, inner_RT, steps_RT, _ = self._padded([t[:-1] for t in tails])
            with self.head.capture() as kept:
                self.model(
                    input_ids=ids_RT,
                    attention_mask=torch.cat([mask_BT[of_R], inner_RT], 1),
                    position_ids=steps_RT + length_B[of_R, None],
                    past_key_values=out.past_key_values,
                    use_cache=True,
                    return_dict=True,
                )
            h_SD = kept.take()[inner_RT.bool()]
            token_S = torch.tensor([token for t in tails for token in t[1:]], device=self.device)
            row_S = torch.tensor([j for j, t in zip(longer, tails, strict=True) for _ in t[1:]], device=self.device)
            logp_A = logp_A.index_add(0, row_S, self.head.token_logp(h_SD, token_S))
        return logp_A

    def _plain(self, rows: list[Encoded]) -> Tensor:
        """The same from whole sequences, prompt and option together, without a cache: the reference."""
        if self.style.reading == "letters":
            return self._shared(rows)
        pairs = [(e.prompt, alias) for e in rows for option in e.options for alias in option]
        size = 1 if self.route == "single" else len(pairs)
        parts = []
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            ids_RT, mask_RT, position_RT, _ = self._padded([(*prompt, *alias)[:-1] for prompt, alias in some])
            with self.head.capture() as kept:
                self.model(input_ids=ids_RT, attention_mask=mask_RT, position_ids=position_RT, use_cache=False)
            h_RTD = kept.take()
            at = [(r, len(p) - 1 + t) for r, (p, alias) in enumerate(some) for t in range(len(alias))]
            row_S = torch.tensor([r for r, _ in at], device=self.device)
            step_S = torch.tensor([t for _, t in at], device=self.device)
            token_S = torch.tensor([token for _, alias in some for token in alias], device=self.device)
            logp_S = self.head.token_logp(h_RTD[row_S, step_S], token_S)
            parts.append(logp_S.new_zeros(len(some)).index_add(0, row_S, logp_S))
        return torch.cat(parts)

    def _padded(
        self, sequences: Sequence[Sequence[int]], side: Literal["left", "right"] = "right"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return padded(sequences, self.device, side)


def padded(
    sequences: Sequence[Sequence[int]], device: torch.device, side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, attention mask, positions, lengths, padded on one side. The padding token is 0: nothing attends to it."""
    length_B = torch.tensor([len(s) for s in sequences])
    width = int(length_B.max())
    start_B = width - length_B if side == "left" else torch.zeros_like(length_B)
    ids_BT = torch.zeros(len(sequences), width, dtype=torch.long)
    for b, s in enumerate(sequences):
        ids_BT[b, start_B[b] : start_B[b] + len(s)] = torch.tensor(s, dtype=torch.long)
    step_BT = torch.arange(width) - start_B[:, None]
    mask_BT = ((step_BT >= 0) & (step_BT < length_B[:, None])).long()
    position_BT = torch.minimum(step_BT.clamp(min=0), length_B[:, None] - 1)
    return tuple(x.to(device) for x in (ids_BT, mask_BT, position_BT, length_B))  # type: ignore[return-value]
