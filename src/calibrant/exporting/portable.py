"""A prompt style as plain data, so that a server can put questions as they were put when the model was measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from calibrant.prompts import ChatTemplate, PromptStyle
from calibrant.questions import Question

OPTION_LINE = "{letter}. {choice}"
_END = "\0"


def portable_prompt(style: PromptStyle, slot: str = "") -> dict[str, Any]:
    r"""The style's fields and digest, with its texts as templates.

    ``template`` has ``{question}`` and, where the options are shown, ``{options}``: lines of ``option_line``. With
    ``chat`` it is the content of the user's turn, after a ``system`` turn if there is one, and ``suffix`` opens the
    assistant's. ``option_texts`` are what counts as an option at the end of the prompt. ``unconditional`` takes the
    place of the filled template in the pmi variant. ``add_special_tokens`` is for the tokenizer. ``slot`` is the chat
    template's own space before an answer (:class:`calibrant.prompts.ChatTemplate`).

    >>> p = portable_prompt(PromptStyle())
    >>> p["template"], p["option_texts"]
    ('Question: {question}\n{options}\nAnswer:', [' {letter}', '{letter}'])
    >>> portable_prompt(PromptStyle(reading="continuation", format="chat-prefix"))["suffix"]
    'Answer:'
    """
    chat = style.format.startswith("chat")
    probe = Question("probe", "{question}", ("{choice}", "{another}"), 0)
    rendered = style.render(probe, ChatTemplate(lambda messages: messages[-1]["content"] + _END, slot))
    template, _, suffix = rendered.prompt.partition(_END)
    unconditional = rendered.unconditional.partition(_END)[0]
    lines = "\n".join(OPTION_LINE.format(letter=x, choice=c) for x, c in zip("AB", probe.choices, strict=True))
    letters = style.reading == "letters"
    assert (lines in template) == letters, "prompts.py lists the options in another way than OPTION_LINE"
    texts = [text.replace("A", "{letter}") if letters else text for text in rendered.options[0]]
    return {
        **asdict(style),
        "digest": style.digest,
        "chat": chat,
        "template": template.replace(lines, "{options}"),
        "suffix": suffix,
        "option_line": OPTION_LINE,
        "option_texts": texts,
        "unconditional": unconditional,
        "add_special_tokens": rendered.special_tokens,
    }
