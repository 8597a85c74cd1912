"""A tokenizer's chat template as it is asked with: the same text on any day, the answer where the template would write it."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

import jinja2

from calibrant.prompts import ChatTemplate

DAY = datetime(2024, 7, 26)
"""What a template takes for today, else scores of two days would be of two prompts. It is what Llama 3's templates write where
no date is known."""
DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
PROBE = "X"


def templated(tokenizer: Any, messages: list[dict[str, str]], *, answered: bool = False) -> str:
    """Messages as text, up to where the assistant's answer begins, or with it where it is the last of them.

    Raises
    ------
    jinja2.TemplateError, ValueError : messages that the template does not take.
    """
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=not answered,
        chat_template=dated(tokenizer.get_chat_template()),
    )
    assert isinstance(text, str)
    return text


def dated(template: str) -> str:
    """A template with :data:`DAY` in the place of today.

    >>> dated("{{ strftime_now('%d %b %Y') }}")
    "{{ '26 Jul 2024' }}"
    """
    return DATE.sub(lambda found: f"{found[1]}{DAY.strftime(found[2])}{found[1]}", template)


def chat_template_of(tokenizer: Any) -> ChatTemplate | None:
    """A tokenizer's chat template, ``None`` where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    return ChatTemplate(lambda messages: templated(tokenizer, messages), answer_slot(tokenizer))


def answer_slot(tokenizer: Any) -> str:
    """What the chat template writes between the end of the prompt and an answer: ``" "`` (``ASSISTANT: Paris``), or ``""``.

    Measured on an answer. A template that writes more there (an empty thought), or takes no such messages, has ``""``.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    asked = [{"role": "user", "content": "Q"}]
    try:
        before = templated(tokenizer, asked)
        whole = templated(tokenizer, [*asked, {"role": "assistant", "content": PROBE}], answered=True)
    except (jinja2.TemplateError, ValueError):
        return ""
    return " " if whole.startswith(f"{before} {PROBE}") else ""


def template_digest(tokenizer: Any) -> str | None:
    """First 16 hex digits of sha256 over a tokenizer's chat template as it is written; ``None`` where it has none.

    A chat prompt is the style's text within the template: :attr:`calibrant.PromptStyle.digest` knows the first alone. Where
    the template asks for the date, or writes a space before an answer, what is put there belongs to it.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    text += DAY.date().isoformat() if DATE.search(text) else ""
    if slot := answer_slot(tokenizer):
        text += f"slot {slot!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
