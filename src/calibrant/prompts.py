"""``PromptStyle``: how a question becomes text, decided before any tokenizer is asked.

Two readings, both first class. **letters**: the options are listed under letters and the model is
read at the one token after the prompt. **continuation**: the options are not shown; each option's text is scored as a
continuation of the prompt.

The space rule: a prompt never ends in white space, and what stands around a question or an option in a table is left out.
The space between prompt and option belongs to the option (``" A"``, ``" Paris"``), because that is how byte-pair
vocabularies are trained. At a chat template's answer slot the option has the
space that the template itself writes there (``ASSISTANT: Paris``), most often none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from calibrant.errors import ConfigError, ModelError, only
from calibrant.questions import Question

Reading = Literal["letters", "continuation"]
Format = Literal["raw", "chat", "chat-prefix", "release"]
Variant = Literal["sum", "per_token", "per_char", "pmi"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_CUE = "Answer:"
LETTER_INSTRUCTION = "Answer with only a single letter."


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become text.

    Parameters
    ----------
    text : from messages to text that ends at the assistant's turn.
    slot : the white space that the template itself writes there before an answer, ``""`` or ``" "``.
    """

    text: Callable[[list[dict[str, str]]], str]
    slot: str = ""


@dataclass(frozen=True)
class Rendered:
    """One question as text.

    ``options[k]`` holds the texts that count as option k at the answer slot, the one to train on first; more than one only
    for letters (``" A"`` and ``"A"``), whose probabilities are summed. ``unconditional`` is the prompt without the question,
    for the ``pmi`` variant.
    """

    prompt: str
    options: tuple[tuple[str, ...], ...]
    unconditional: str
    special_tokens: bool


@dataclass(frozen=True)
class PromptStyle:
    """How a question is put to the model.

    Parameters
    ----------
    reading : ``"letters"`` or ``"continuation"``.
    format : ``"raw"`` (plain text ending in ``Answer:``), ``"chat"`` (the tokenizer's chat template, answer slot right after
        the assistant's header), ``"chat-prefix"`` (the same, with ``Answer:`` as the start of the assistant's turn), or
        ``"release"`` (letters only: the prompt in the release of the paper's authors).
    variant : how a continuation's token log-probabilities become one score: ``"sum"``; ``"per_token"`` and ``"per_char"``
        (divided by the number of tokens, or of characters of the option); ``"pmi"`` (sum, minus the sum without the question).
    system : system message for the chat formats.

    Examples
    --------
    >>> q = Question(id="1", text="2 + 2 = ?", choices=("3", "4"), answer=1)
    >>> r = PromptStyle().render(q)
    >>> print(r.prompt)
    Question: 2 + 2 = ?
    A. 3
    B. 4
    Answer:
    >>> r.options
    ((' A', 'A'), (' B', 'B'))
    >>> PromptStyle(reading="continuation").render(q).options
    ((' 3',), (' 4',))
    """

    reading: Reading = "letters"
    format: Format = "raw"
    variant: Variant = "sum"
    system: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("reading", Reading), ("format", Format), ("variant", Variant)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    asked=f"{name} = {getattr(self, name)!r}",
                    found=f"{name} is one of {', '.join(get_args(allowed))}",
                    todo="choose one of these",
                )
        wrong = None
        if self.reading == "letters" and self.variant != "sum":
            wrong = f"variant {self.variant!r} is for option texts; a letter is one token"
        if self.reading == "continuation" and self.format == "release":
            wrong = "the release's prompt asks for a letter"
        if self.system is not None and not self.format.startswith("chat"):
            wrong = f"format {self.format!r} has no system message"
        if wrong:
            raise ConfigError(asked=f"prompt style {self}", found=wrong, todo="change the reading, format or variant")

    @property
    def digest(self) -> str:
        """First 16 hex digits of sha256 over the fields and a rendered probe; changes whenever the prompt of the probe does."""
        probe = Question(id="probe", text="Q?", choices=("x", "y"), answer=0)
        rendered = self.render(probe, ChatTemplate(json.dumps))
        return hashlib.sha256(json.dumps([asdict(self), asdict(rendered)]).encode()).hexdigest()[:16]

    def render(self, question: Question, chat_template: ChatTemplate | None = None) -> Rendered:
        """The prompt and the option texts of one question.

        Parameters
        ----------
        question : with 2 to 26 options.
        chat_template : for the chat formats.

        Raises
        ------
        ModelError : a chat format without a chat template.
        """
        if self.format.startswith("chat"):
            return self._render_chat(question, chat_template)
        text = question.text.strip()
        if self.format == "release":
            prompt = (
                f"### Question: Question: {text}\n\nOptions:\n{_option_lines(question)}\n\n"
                "Answer with only a single letter:\n ### Answer:"
            )
            return Rendered(prompt, _letters(question, spaced_first=True), "### Answer:", special_tokens=True)
        if self.reading == "letters":
            prompt = f"Question: {text}\n{_option_lines(question)}\n{ANSWER_CUE}"
            return Rendered(prompt, _letters(question, spaced_first=True), ANSWER_CUE, special_tokens=True)
        prompt = f"Question: {text}\n{ANSWER_CUE}"
        return Rendered(prompt, _texts(question, space=" "), ANSWER_CUE, special_tokens=True)

    def _render_chat(self, question: Question, chat_template: ChatTemplate | None) -> Rendered:
        if chat_template is None:
            raise ModelError(
                asked=f"prompt format {self.format!r}",
                found="the tokenizer has no chat template",
                todo="use --format raw, or a tokenizer with a chat template",
            )
        user = question.text.strip()
        if self.reading == "letters":
            user = f"{user}\n{_option_lines(question)}\n{LETTER_INSTRUCTION}"
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        prompt = chat_template.text([*system, {"role": "user", "content": user}])
        unconditional = chat_template.text([*system, {"role": "user", "content": ""}])
        space = chat_template.slot
        if self.format == "chat-prefix":
            prompt, unconditional = (f"{text}{space}{ANSWER_CUE}" for text in (prompt, unconditional))
            space = " "
        letters = self.reading == "letters"
        options = _letters(question, spaced_first=space == " ") if letters else _texts(question, space=space)
        return Rendered(prompt, options, unconditional, special_tokens=False)


def _option_lines(question: Question) -> str:
    return "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, question.choices, strict=False))


def _letters(question: Question, *, spaced_first: bool) -> tuple[tuple[str, ...], ...]:
    letters = LETTERS[: len(question.choices)]
    return tuple((f" {c}", c) if spaced_first else (c, f" {c}") for c in letters)


def _texts(question: Question, *, space: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{space}{choice.strip()}",) for choice in question.choices)


def given_style(style: PromptStyle | None, loading: Mapping[str, object]) -> PromptStyle:
    """The style that was given, or letters in a raw prompt.

    Raises
    ------
    ConfigError : what is no style, or one of its settings among the arguments of ``load_model``.
    """
    loose = [field.name for field in fields(PromptStyle) if field.name in loading]
    if loose:
        raise ConfigError(
            asked=", ".join(f"{name} = {loading[name]!r}" for name in loose),
            found="a setting of the prompt, given by itself",
            todo=f"give style=PromptStyle({', '.join(f'{name}={loading[name]!r}' for name in loose)})",
        )
    if style is None:
        return PromptStyle()
    only(PromptStyle, style, "a style of prompt", 'give PromptStyle(...), such as PromptStyle(reading="letters")')
    return style
