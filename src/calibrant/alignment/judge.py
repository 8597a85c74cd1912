"""Asking a judge which of two answers is better, through any OpenAI-compatible endpoint. Every reply is kept on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from calibrant.endpoint import Endpoint, ask_all
from calibrant.errors import ConfigError, only_numbers

Vote = Literal["first", "second", "tie"]
JUDGE_PROMPT = """\
Two assistants answered the same request. Decide which answer serves the person who asked better: is it correct, helpful, \
to the point, and does it follow what was asked? Do not prefer an answer because it is longer, or because it stands first.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Explain in one or two sentences. Then write one last line that is exactly one of:
Verdict: A
Verdict: B
Verdict: tie"""

CUT = "(cut off: raise max_tokens)"
"""Stands for a reply that was cut: it holds no verdict that could be trusted."""
_VERDICT = re.compile(
    r"verdict[*_`\"']*\s*[:=]?\s*[*_`\"'\[(]*\s*(?:answer\s+|an?\s+(?=tie))?(A|B|tie)[*_`\"'\])]*[ \t]*"
    r"(?=$|[.!;:(–—-]|,(?!\s*(?:A|B|tie)\b))",  # a verdict stands by itself: "a matter of taste" is none, nor is "A and B"
    re.IGNORECASE | re.MULTILINE,
)
_LISTED = re.compile(
    r"verdict\W+A\b\W+(?:or\W+)?verdict\W+B\b\W+(?:or\W+)?verdict\W+tie\b(?!.*verdict)", re.IGNORECASE | re.DOTALL
)
_BARE = re.compile(r"[*_`\"'\[(]*(A|B|tie)[*_`\"'\])]*\.?", re.IGNORECASE)


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible chat endpoint and how it is asked.

    Parameters
    ----------
    base_url : up to and without ``/chat/completions``, e.g. ``https://host/v1``.
    model : the judge's name there.
    key_env : environment variable that holds the key; without it no key is sent. The key itself is never written.
    prompt : with the fields ``{prompt}``, ``{first}``, ``{second}``; must ask for a line ``Verdict: A``, ``B`` or ``tie``.
    max_tokens : of a reply.
    timeout : seconds for one request. retries : further tries after a busy or broken answer. backoff : seconds before
        the first further try, doubled each time; a server's ``Retry-After`` is heeded, up to a minute.
    concurrency : requests at once.
    pairs : preference pairs, at most, that the judge is checked on; 0: none.
    options : further fields of the request, e.g. ``{"max_completion_tokens": 256, "max_tokens": None}`` for an endpoint that
        calls it so; ``None`` leaves a field out.
    """

    base_url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    prompt: str = JUDGE_PROMPT
    max_tokens: int = 256
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    concurrency: int = 4
    pairs: int = 50
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("max_tokens", "retries", "concurrency", "pairs")
        only_numbers(whole=True, **{name: getattr(self, name) for name in counts})
        only_numbers(timeout=self.timeout, backoff=self.backoff)
        missing = [field for field in ("{prompt}", "{first}", "{second}") if field not in self.prompt]
        if missing or not self.base_url.startswith(("http://", "https://")) or self.concurrency < 1 or self.pairs < 0:
            wrong = f"base_url {self.base_url!r}, concurrency {self.concurrency}, pairs {self.pairs}"
            raise ConfigError(
                asked=f"a judge {self.model!r}",
                found=f"a prompt without {', '.join(missing)}" if missing else wrong,
                todo="give an http(s) address, a prompt with the three fields, a concurrency of 1 or more, pairs of 0 or more",
            )

    def to_json(self) -> dict[str, Any]:
        """What a reader must know of the judge: address, model and prompt."""
        return {"base_url": self.base_url, "model": self.model, "prompt": self.prompt, "options": dict(self.options)}


class Comparison(NamedTuple):
    """Two answers to one prompt, in the order in which the judge sees them."""

    prompt: str
    first: str
    second: str


class Judged(NamedTuple):
    """The judge's vote, ``None`` where its reply could not be read, and the reply itself."""

    vote: Vote | None
    reply: str


def read_vote(reply: str) -> Vote | None:
    """The last verdict in a reply, or the reply itself where it is no more than one; ``None`` where there is none.

    What a judge thinks aloud (up to ``</think>``) is no verdict; nor is the last of a list of verdicts that it was given, which
    a reply that repeats its task ends in where it is cut.

    >>> read_vote("A is vague. Verdict: B"), read_vote("**tie**"), read_vote("Both are fine.")
    ('second', 'tie', None)
    >>> read_vote("<think>One of: Verdict: A, Verdict: B, Verdict: tie. Now")
    """
    reply = reply.rpartition("</think>")[2]
    if "<think>" in reply or _LISTED.search(reply):
        return None
    named = _VERDICT.findall(reply) or [m.group(1) for m in [_BARE.fullmatch(reply.strip())] if m]
    return {"a": "first", "b": "second", "tie": "tie"}[named[-1].lower()] if named else None  # type: ignore[return-value]


def ask(
    judge: Judge, comparisons: Sequence[Comparison], *, cache: str | Path, progress: str | None = None
) -> list[Judged]:
    """The judge's vote on each comparison, in order; a reply that is in ``cache`` is not asked for again.

    Raises
    ------
    MissingExtraError : no HTTP client.
    ModelError : the endpoint refuses, cannot be reached, or stays busy; what was answered until then is kept.
    """
    endpoint = Endpoint(
        judge.base_url,
        "/chat/completions",
        asked=f"a verdict of the judge {judge.model!r} at {judge.base_url}",
        reads=_content,
        reply="chat completion",
        key_env=judge.key_env,
        timeout=judge.timeout,
        retries=judge.retries,
        backoff=judge.backoff,
        concurrency=judge.concurrency,
    )
    replies = ask_all(endpoint, [_body(judge, c) for c in comparisons], cache=Path(cache), progress=progress)
    return [Judged(read_vote(str(reply)), str(reply)) for reply in replies]


def _body(judge: Judge, c: Comparison) -> dict[str, Any]:
    text = judge.prompt
    parts = re.split(r"(\{prompt\}|\{first\}|\{second\})", text)  # so that braces in answers mean nothing
    fields = {"{prompt}": c.prompt, "{first}": c.first, "{second}": c.second}
    content = "".join(fields.get(part, part) for part in parts)
    body = {
        "model": judge.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": judge.max_tokens,
        **judge.options,
    }
    return {name: value for name, value in body.items() if value is not None}


def _content(completion: Any, _body: Any) -> str | None:
    """The text of a chat completion, :data:`CUT` where ``max_tokens`` ended it; ``None`` where it is something else."""
    choice = completion["choices"][0]
    text = choice["message"]["content"]
    if choice.get("finish_reason") == "length":
        return CUT
    return text if isinstance(text, str) else "" if text is None else None
