"""From encoded questions to one forward pass and the places where its loss is read.

Letters: one row a question, the prompt; all its letters are read at the prompt's last token. Continuations: the prompt with
the right option; for objectives that need all option probabilities, one row an option.

Shape suffixes: B questions, K options, R rows, T tokens, S hidden rows that are read, A answer tokens, G token sequences
(aliases of letters, or option texts), L prompt tokens that the language-model loss predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrant.scoring.options import Encoded, Tokens


@dataclass(frozen=True)
class Example:
    """One training question: its tokens and the index of its correct option."""

    encoded: Encoded
    answer: int


@dataclass(frozen=True)
class Collator:
    """Makes batches for one reading and objective.

    Parameters
    ----------
    letters : whether options are letters.
    all_options : whether every option's probability is needed (rcft), or the answer's alone.
    prompt_tokens : whether the prompt's own tokens are predicted too (L_SFT2).
    """

    letters: bool
    all_options: bool
    prompt_tokens: bool

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The tensors of one batch; every index is explicit data."""
        k = max(len(e.encoded.options) for e in examples)
        rows: list[Tokens] = []
        first_row_B: list[int] = []
        read: dict[tuple[int, int], int] = {}  # (row, step) -> s
        token_A: list[int] = []
        at_A: list[int] = []
        group_A: list[int] = []
        option_G: list[int] = []
        for b, example in enumerate(examples):
            e = example.encoded
            first_row_B.append(len(rows))
            if self.letters:
                rows.append(e.prompt)
            for option, aliases in enumerate(e.options):
                if not (self.letters or self.all_options or option == example.answer):
                    continue
                for alias in aliases:
                    if not self.letters:
                        rows.append((*e.prompt, *alias[:-1]))
                    for t, token in enumerate(alias):
                        place = (len(rows) - 1, len(e.prompt) - 1 + t)
                        at_A.append(read.setdefault(place, len(read)))
                        token_A.append(token)
                        group_A.append(len(option_G))
                    option_G.append(b * k + option)
        batch = _padded(rows)
        batch.update(
            read_row_S=torch.tensor([row for row, _ in read]),
            read_step_S=torch.tensor([step for _, step in read]),
            token_A=torch.tensor(token_A),
            at_A=torch.tensor(at_A),
            group_A=torch.tensor(group_A),
            option_G=torch.tensor(option_G),
            answer_B=torch.tensor([e.answer for e in examples]),
            k_B=torch.tensor([len(e.encoded.options) for e in examples]),
            tokens_B=torch.tensor([_loss_tokens(e, self.letters) for e in examples]),
        )
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


def _loss_tokens(example: Example, letters: bool) -> int:
    answer = 1 if letters else len(example.encoded.options[example.answer][0])
    return len(example.encoded.prompt) - 1 + answer


def _padded(rows: Sequence[Tokens]) -> dict[str, Tensor]:
    length_R = torch.tensor([len(row) for row in rows])
    step_T = torch.arange(int(length_R.max()))
    input_ids = torch.zeros(len(rows), len(step_T), dtype=torch.long)
    for r, row in enumerate(rows):
        input_ids[r, : len(row)] = torch.tensor(row)
    return {
        "input_ids": input_ids,
        "attention_mask": (step_T < length_R[:, None]).long(),
        "position_ids": torch.minimum(step_T.expand(len(rows), -1), length_R[:, None] - 1),
    }
