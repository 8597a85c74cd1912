"""From text to tokens: where the answer slot is, and which token ids stand for each option there.

A position is data, never a fixed offset: :func:`encode` returns the prompt's tokens and each option's tokens separately,
and everything that reads or trains an answer uses these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from calibrant.errors import CalibrantError, ModelError, QuestionError
from calibrant.prompts import PromptStyle, Rendered, Variant
from calibrant.questions import Question, shown
from calibrant.scoring.templates import chat_template_of

Tokens = tuple[int, ...]
_TAIL = 8  # prompt tokens that decide how a letter after them is tokenised


@dataclass(frozen=True)
class Encoded:
    """One question as token ids.

    ``options[k]`` holds the token sequences that count as option k after ``prompt``: one for a continuation, one or more
    single-token aliases for a letter. ``n_chars[k]`` is the length of the option's text without the white space around it.
    """

    id: str
    prompt: Tokens
    options: tuple[tuple[Tokens, ...], ...]
    unconditional: Tokens
    n_chars: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt with its longest option."""
        return len(self.prompt) + max(len(alias) for aliases in self.options for alias in aliases)

    @property
    def n_tails(self) -> int:
        """Tokens with which the options go on after their first ones, all together."""
        return sum(len(alias) - 1 for aliases in self.options for alias in aliases)

    def lengths(self, variant: Variant) -> tuple[int, ...]:
        """What each option's log-probability is divided by: its tokens, its characters, or 1 (``sum``, ``pmi``)."""
        if variant == "per_char":
            return self.n_chars
        return tuple(len(option[0]) if variant == "per_token" else 1 for option in self.options)

    def without_question(self) -> Encoded:
        """The same options after the unconditional prompt, for the pmi variant."""
        return replace(self, prompt=self.unconditional)


def padded_lengths(encoded: Sequence[Encoded], variant: Variant, k: int) -> list[list[int]]:
    """:meth:`Encoded.lengths` of several questions, (N, K), 1 where there is no option."""
    rows = [e.lengths(variant) for e in encoded]
    return [[*row, *[1] * (k - len(row))] for row in rows]


def encode(
    tokenizer: Any, questions: Sequence[Question], style: PromptStyle, *, context_length: int | None = None
) -> list[Encoded]:
    """Tokenise questions for ``style``, prompt and option apart.

    The slot rule: tokenise the prompt, and the prompt with the option's text appended. If the second begins with the first,
    the rest is the option. Otherwise the tokenizer merges across the boundary (``":A"``), and the option's text is
    tokenised by itself, so the prompt's tokens are the same whichever option follows.

    Raises
    ------
    ModelError : a letter that is not one token here, two options with the same token, no chat template where one is asked.
    QuestionError : prompt and option longer than the context.
    """
    template = chat_template_of(tokenizer)
    try:
        rendered = [style.render(question, template) for question in questions]
    except (jinja2.TemplateError, ValueError) as error:
        if isinstance(error, CalibrantError):
            raise
        raise ModelError(
            asked=f"questions in the format {style.format!r}{' with a system message' if style.system else ''}",
            found=f"the chat template takes no such messages: {' '.join(str(error).split())[:300]}",
            todo="leave the system message out, or use the format raw" if style.system else "use the format raw",
        ) from error
    special = rendered[0].special_tokens if rendered else True
    prompts = tokens_of(tokenizer, [r.prompt for r in rendered], special)
    unconditional: dict[str, Tokens] = {}
    for r in rendered:
        if r.unconditional not in unconditional:
            unconditional[r.unconditional] = tokens_of(tokenizer, [r.unconditional], special)[0]
    if style.reading == "letters":
        options = _letter_options(tokenizer, questions, rendered, prompts)
    else:
        options = _text_options(tokenizer, rendered, prompts)
    encoded = [
        Encoded(q.id, prompt, option, unconditional[r.unconditional], tuple(len(c.strip()) for c in q.choices))
        for q, r, prompt, option in zip(questions, rendered, prompts, options, strict=True)
    ]
    for item in encoded:
        if not item.prompt:
            raise ModelError(
                asked=f"question {item.id!r} as tokens",
                found="the tokenizer makes no token of its prompt",
                todo="use another tokenizer",
            )
    long = [] if context_length is None else [item for item in encoded if item.n_tokens > context_length]
    if long:
        more = f"; too long as well, {shown([repr(item.id) for item in long[1:]])}" if long[1:] else ""
        raise QuestionError(
            asked=f"question {long[0].id!r} within the model's context of {context_length} tokens",
            found=f"prompt and longest option take {long[0].n_tokens} tokens{more}",
            todo="shorten the question, leave it out, or use a model with a longer context",
        )
    return encoded


def _text_options(
    tokenizer: Any, rendered: Sequence[Rendered], prompts: Sequence[Tokens]
) -> list[tuple[tuple[Tokens, ...], ...]]:
    pairs = [(i, text) for i, r in enumerate(rendered) for (text,) in r.options]
    special = rendered[0].special_tokens if rendered else True
    joined = tokens_of(tokenizer, [rendered[i].prompt + text for i, text in pairs], special)
    flat: list[list[tuple[Tokens, ...]]] = [[] for _ in rendered]
    for (i, text), whole in zip(pairs, joined, strict=True):
        flat[i].append((tokens_after(tokenizer, prompts[i], whole, text),))
    return [tuple(options) for options in flat]


def _letter_options(
    tokenizer: Any, questions: Sequence[Question], rendered: Sequence[Rendered], prompts: Sequence[Tokens]
) -> list[tuple[tuple[Tokens, ...], ...]]:
    known: dict[tuple[Tokens, str], Tokens] = {}
    result = []
    for question, r, prompt in zip(questions, rendered, prompts, strict=True):
        options = []
        for texts in r.options:
            found: dict[Tokens, None] = {}
            for text in texts:
                key = (prompt[-_TAIL:], text)
                if key not in known:
                    whole = tokens_of(tokenizer, [r.prompt + text], r.special_tokens)[0]
                    known[key] = tokens_after(tokenizer, prompt, whole, text)
                found[known[key]] = None
            options.append(tuple(found))
        result.append(_single_tokens(tokenizer, question, r, options))
    return result


def _single_tokens(
    tokenizer: Any, question: Question, rendered: Rendered, options: Sequence[tuple[Tokens, ...]]
) -> tuple[tuple[Tokens, ...], ...]:
    owner: dict[Tokens, int] = {}
    kept: list[tuple[Tokens, ...]] = []
    for k, aliases in enumerate(options):
        single = tuple(alias for alias in aliases if len(alias) == 1)
        if not single:
            text = rendered.options[k][0]
            raise ModelError(
                asked=f"option {text!r} of question {question.id!r} as one token",
                found=f"the tokenizer makes {tokenizer.convert_ids_to_tokens(list(aliases[0]))}",
                todo="read the options' texts instead (reading 'continuation')",
            )
        for alias in single:
            if owner.setdefault(alias, k) != k:
                raise ModelError(
                    asked=f"a token of its own for each option of question {question.id!r}",
                    found=f"options {owner[alias]} and {k} are both token {alias[0]}",
                    todo="read the options' texts instead (reading 'continuation')",
                )
        kept.append(single)
    return tuple(kept)


def tokens_after(tokenizer: Any, prompt: Tokens, whole: Tokens, text: str) -> Tokens:
    """The tokens of ``text`` after those of a prompt, by the slot rule of :func:`encode`; ``whole`` are those of both."""
    if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
        return whole[len(prompt) :]
    alone = tokens_of(tokenizer, [text], False)[0]
    if not alone:
        raise ModelError(
            asked=f"option text {text!r} as tokens",
            found="the tokenizer makes none of it",
            todo="use another tokenizer",
        )
    return alone


def tokens_of(tokenizer: Any, texts: list[str], special: bool) -> list[Tokens]:
    """Token ids of texts, with or without the special tokens at their start, never with an end token."""
    if not texts:
        return []
    rows = [tuple(row) for row in _ids(tokenizer, texts, special)]
    end = _end(tokenizer) if special else ()  # it would be put between prompt and option
    return [row[: -len(end)] if end and len(row) > len(end) and row[-len(end) :] == end else row for row in rows]


def _end(tokenizer: Any) -> Tokens:
    """What a tokenizer closes every text with."""
    bare, whole = (tuple(_ids(tokenizer, ["x"], special)[0]) for special in (False, True))
    places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    return whole[places[-1] + len(bare) :] if places else ()


def _ids(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    found = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = found["input_ids"]
    return ids
