"""From prompts and responses to tokens: chat template where there is one, plain text otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jinja2

from calibrant.alignment.data import PreferencePair, Prompt
from calibrant.errors import ModelError, QuestionError
from calibrant.questions import Skipped
from calibrant.scoring.options import Encoded, Tokens, tokens_after, tokens_of
from calibrant.scoring.templates import templated

I = TypeVar("I", Prompt, PreferencePair)  # noqa: E741


@dataclass(frozen=True)
class Encoder:
    """Turns prompts and responses into tokens of one tokenizer.

    With a chat template: the prompt ends at the assistant's turn, and a response ends with what the template writes
    after it, its end marker included and white space after that left out. Without: prompt and response as they stand,
    with one space at the start of a response that has no white space there; then the end token, if the tokenizer has
    one.
    """

    tokenizer: Any

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def prompt(self, prompt: Prompt) -> Tokens:
        """Tokens up to where the answer begins."""
        tokens = tokens_of(self.tokenizer, [self._text(prompt)], not self.chat)[0]
        if not tokens:
            raise ModelError(
                asked=f"prompt {prompt.id!r} as tokens", found="the tokenizer makes none", todo="use another tokenizer"
            )
        return tokens

    def pair(self, pair: PreferencePair) -> Encoded:
        """A pair as an encoded question of two options: chosen, rejected."""
        prompt = self.prompt(pair.prompt)
        options = tuple((self._response(pair.prompt, prompt, text),) for text in (pair.chosen, pair.rejected))
        return Encoded(pair.id, prompt, options, (), (len(pair.chosen), len(pair.rejected)))

    def _text(self, prompt: Prompt) -> str:
        if not self.chat:
            return prompt.text.rstrip()
        return self._templated([t._asdict() for t in prompt.turns], prompt.id)

    def _templated(self, messages: list[dict[str, str]], name: str, *, answered: bool = False) -> str:
        try:
            return templated(self.tokenizer, messages, answered=answered)
        except (jinja2.TemplateError, ValueError) as error:
            raise QuestionError(
                asked=f"prompt {name!r} in the tokenizer's chat template",
                found=str(error),
                todo="give turns that this template takes, or leave the row out",
            ) from error

    def _response(self, prompt: Prompt, prompt_tokens: Tokens, response: str) -> Tokens:
        before = self._text(prompt)
        if not self.chat:
            spaced = response if response[:1].isspace() else f" {response}"
            return self._ended(prompt_tokens, before, spaced)
        messages = [*(t._asdict() for t in prompt.turns), {"role": "assistant", "content": response}]
        full = self._templated(messages, prompt.id, answered=True)
        said = response.strip()
        at = full.find(said, len(before))
        if full[len(before) : at].strip():  # the template opens a turn with more, such as an empty thought
            at = full.rfind(said)
        if full.startswith(before) and at >= len(before):
            text = full[len(before) : at + len(said)]
            closing = full[at + len(said) :]
            text += closing.rstrip() or closing
            whole = tokens_of(self.tokenizer, [before + text], False)[0]
            return tokens_after(self.tokenizer, prompt_tokens, whole, text)
        return self._ended(
            prompt_tokens, before, response
        )  # the template writes an answered turn otherwise than it opens one

    def _ended(self, prompt_tokens: Tokens, before: str, text: str) -> Tokens:
        """The text's tokens after the prompt, and the end token, if there is one."""
        whole = tokens_of(self.tokenizer, [before + text], not self.chat)[0]
        tokens = tokens_after(self.tokenizer, prompt_tokens, whole, text)
        end = self.tokenizer.eos_token_id
        return tokens if end is None else (*tokens, int(end))


def fitting(
    items: Iterable[I],
    encode: Callable[[I], Any],
    size: Callable[[Any], int],
    limit: int | None,
    what: str,
) -> tuple[list[I], list[Any], list[Skipped]]:
    """Encode what fits into ``limit`` tokens; the rest is named with its length.

    Raises
    ------
    QuestionError : none fits.
    """
    kept: list[I] = []
    encoded: list[Any] = []
    skipped: list[Skipped] = []
    for item in items:
        tokens = encode(item)
        if limit is not None and size(tokens) > limit:
            skipped.append(Skipped(f"{what} {item.id!r}", f"{size(tokens)} tokens, where {limit} fit"))
        else:
            kept.append(item)
            encoded.append(tokens)
    if not kept:
        raise QuestionError(
            asked=f"a {what} that fits into the model's context",
            found=f"none of {len(skipped)}; {skipped[0].where}: {skipped[0].reason}" if skipped else "none at all",
            todo="give shorter ones, or ask for fewer new tokens",
        )
    return kept, encoded, skipped


def prompt_codes(prompts: Sequence[Prompt]) -> list[int]:
    """One number a different prompt: pairs of one prompt are one cluster."""
    known: dict[Any, int] = {}
    return [known.setdefault(p.turns, len(known)) for p in prompts]
