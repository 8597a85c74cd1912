"""From encoded questions to one forward pass and the places where its loss is read.

Letters: one row a question, the prompt; all its letters are read at the prompt's last token. Continuations: the prompt with
the right option; for objectives that need all option probabilities, either one row an option (plain), or one row a question
in which all options follow the prompt and none sees another (packed). :mod:`calibrant.tuning.rows` chooses between them.

Shape suffixes: B questions, K options, R rows, T tokens, S hidden rows that are read, A answer tokens, G token sequences
(aliases of letters, or option texts), L prompt tokens that the language-model loss predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from calibrant.prompts import Variant
from calibrant.scoring.options import Encoded, Tokens, padded_lengths


@dataclass(frozen=True)
class Example:
    """One training question: its tokens, the index of its correct option, and what some objectives need besides.

    ``encoded`` holds its tokens, ``answer`` the index of the correct option, ``target`` the answer distribution to teach, over
    the question's own options; ``index`` is its place among the training questions.
    """

    encoded: Encoded
    answer: int
    target: tuple[float, ...] | None = None
    index: int = 0

    @property
    def k(self) -> int:
        """Its number of options."""
        return len(self.encoded.options)


@dataclass(frozen=True)
class Collator:
    """Makes batches for one reading and objective.

    Parameters
    ----------
    letters : whether options are letters.
    all_options : whether every option's probability is needed, or the answer's alone.
    prompt_tokens : whether the prompt's own tokens are predicted too (L_SFT2).
    packed : whether all options of a continuation share one row, and so the prompt's computation.
    mask_dtype : of the packed rows' (B, 1, T, T) attention mask: ``torch.bool`` (true: attend), or a floating type (added to
        the attention scores: 0, or the type's lowest value).
    variant : how an option's log-probability is read where options are compared. ``per_token`` and ``per_char`` add the
        options' lengths to the batch, ``pmi`` a second batch, ``bare``, of the same options without the question.
    """

    letters: bool
    all_options: bool
    prompt_tokens: bool
    packed: bool = False
    mask_dtype: torch.dtype = torch.bool
    variant: Variant = "sum"

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The tensors of one batch; every index is explicit data."""
        k = max(e.k for e in examples)
        rows: list[_Row] = []
        first_row_B: list[int] = []
        read: dict[tuple[int, int], int] = {}  # (row, step) -> s
        token_A: list[int] = []
        at_A: list[int] = []
        group_A: list[int] = []
        option_G: list[int] = []
        for b, example in enumerate(examples):
            e = example.encoded
            first_row_B.append(len(rows))
            if self.letters or self.packed:
                rows.append(_Row.of(e.prompt))
            for option, aliases in enumerate(e.options):
                if not (self.letters or self.all_options or option == example.answer):
                    continue
                for alias in aliases:
                    if not (self.letters or self.packed):
                        rows.append(_Row.of(e.prompt))
                    steps = rows[-1].branch(alias[:-1])
                    for step, token in zip((len(e.prompt) - 1, *steps), alias, strict=True):
                        at_A.append(read.setdefault((len(rows) - 1, step), len(read)))
                        token_A.append(token)
                        group_A.append(len(option_G))
                    option_G.append(b * k + option)
        batch: dict[str, Any] = dict(_padded(rows))
        if self.packed and not self.letters:
            batch["attention_mask"] = _tree_mask(rows, self.mask_dtype)
        batch.update(
            read_row_S=torch.tensor([row for row, _ in read]),
            read_step_S=torch.tensor([step for _, step in read]),
            token_A=torch.tensor(token_A),
            at_A=torch.tensor(at_A),
            group_A=torch.tensor(group_A),
            option_G=torch.tensor(option_G),
            answer_B=torch.tensor([e.answer for e in examples]),
            k_B=torch.tensor([e.k for e in examples]),
            index_B=torch.tensor([e.index for e in examples]),
            tokens_B=torch.tensor([_loss_tokens(e, self.letters) for e in examples]),
        )
        if all(e.target is not None for e in examples):
            batch["target_BK"] = torch.tensor([[*(e.target or ()), *[0.0] * (k - e.k)] for e in examples])
        if self.all_options:
            batch.update(self._variant(examples, k))
        if self.prompt_tokens:
            places = [
                (row, t, example.encoded.prompt[t + 1], b)
                for b, (example, row) in enumerate(zip(examples, first_row_B, strict=True))
                for t in range(len(example.encoded.prompt) - 1)
            ]
            columns = torch.tensor(places, dtype=torch.long).reshape(-1, 4).unbind(1)
            batch.update(
                zip(("prompt_row_L", "prompt_step_L", "prompt_token_L", "prompt_question_L"), columns, strict=True)
            )
        return batch

    def passes(self, examples: Sequence[Example], tokens: int) -> list[list[Example]]:
        """The examples cut into forward passes of at most so many padded tokens, or of one question that has more.

        In the given order where one pass holds them all; else by length, longest first, so that little is padded.
        """
        shaped = sorted(((*self._shape(e), e) for e in examples), key=lambda found: -found[1])
        parts: list[list[Example]] = []
        rows = width = 0
        for own_rows, own_width, example in shaped:
            if not parts or (rows + own_rows) * width > tokens:
                parts.append([])
                rows, width = 0, own_width
            parts[-1].append(example)
            rows += own_rows
        return parts if len(parts) > 1 else [list(examples)]

    def _shape(self, example: Example) -> tuple[int, int]:
        """Rows of one question and the tokens of its longest."""
        e = example.encoded
        tails = [len(alias) - 1 for aliases in e.options for alias in aliases]
        if self.letters or self.packed:
            return 1, len(e.prompt) + sum(tails)
        if self.all_options:
            return len(tails), len(e.prompt) + max(tails)
        return 1, len(e.prompt) + len(e.options[example.answer][0]) - 1

    def _variant(self, examples: Sequence[Example], k: int) -> dict[str, Any]:
        if self.variant == "sum":
            return {}
        if self.variant == "pmi":
            bare = [replace(e, encoded=e.encoded.without_question()) for e in examples]
            return {"bare": replace(self, variant="sum", prompt_tokens=False)(bare)}
        return {"length_BK": torch.tensor(padded_lengths([e.encoded for e in examples], self.variant, k))}


def _loss_tokens(example: Example, letters: bool) -> int:
    answer = 1 if letters else len(example.encoded.options[example.answer][0])
    return len(example.encoded.prompt) - 1 + answer


@dataclass
class _Row:
    """One row of the model's input: a prompt and the branches that go on from its end."""

    tokens: list[int]
    positions: list[int]
    n_prompt: int
    branch_T: list[int] = field(default_factory=list)  # 0: prompt; then 1, 2, …

    @classmethod
    def of(cls, prompt: Tokens) -> _Row:
        return cls(list(prompt), list(range(len(prompt))), len(prompt), [0] * len(prompt))

    def branch(self, tokens: Tokens) -> range:
        """Append a branch; the steps at which its tokens stand."""
        start, name = len(self.tokens), self.branch_T[-1] + 1
        self.tokens.extend(tokens)
        self.positions.extend(range(self.n_prompt, self.n_prompt + len(tokens)))
        self.branch_T.extend([name] * len(tokens))
        return range(start, start + len(tokens))


def _padded(rows: Sequence[_Row]) -> dict[str, Tensor]:
    length_R = torch.tensor([len(row.tokens) for row in rows])
    step_T = torch.arange(int(length_R.max()))
    input_ids = torch.zeros(len(rows), len(step_T), dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    for r, row in enumerate(rows):
        input_ids[r, : len(row.tokens)] = torch.tensor(row.tokens)
        position_ids[r, : len(row.tokens)] = torch.tensor(row.positions)
        position_ids[r, len(row.tokens) :] = row.positions[-1]
    return {
        "input_ids": input_ids,
        "attention_mask": (step_T < length_R[:, None]).long(),
        "position_ids": position_ids,
    }


def _tree_mask(rows: Sequence[_Row], dtype: torch.dtype) -> Tensor:
    """``(R, 1, T, T)``: a token sees what stands before it in the prompt and in its own branch, and itself.

    Padding is a branch of its own at the end, so nothing else sees it and no token sees nothing.
    """
    width = max(len(row.tokens) for row in rows)
    branch_RT = torch.full((len(rows), width), -1)
    for r, row in enumerate(rows):
        branch_RT[r, : len(row.tokens)] = torch.tensor(row.branch_T)
    key_R1T, query_RT1 = branch_RT[:, None, :], branch_RT[:, :, None]
    seen_RTT = ((key_R1T == 0) | (key_R1T == query_RT1)) & torch.ones(width, width, dtype=torch.bool).tril()
    if dtype == torch.bool:
        return seen_RTT[:, None]
    added_RTT = torch.zeros(seen_RTT.shape, dtype=dtype).masked_fill(~seen_RTT, torch.finfo(dtype).min)
    return added_RTT[:, None]
