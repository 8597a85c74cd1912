"""Asking a judge which of two answers is better, through any OpenAI-compatible endpoint. Every reply is kept on disk."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal, NamedTuple

from calibrant.errors import ConfigError, MissingExtraError, ModelError
from calibrant.files import write_json
from calibrant.progress import track

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
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0

_VERDICT = re.compile(
    r"verdict[*_`\"']*\s*[:=]?\s*[*_`\"'\[(]*\s*(?:answer\s+|an?\s+(?=tie))?(A|B|tie)[*_`\"'\])]*[ \t]*"
    r"(?=$|[.!;:(–—-]|,(?!\s*(?:A|B|tie)\b))",  # a verdict stands by itself: "a matter of taste" is none, nor is "A and B"
    re.IGNORECASE | re.MULTILINE,
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
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [field for field in ("{prompt}", "{first}", "{second}") if field not in self.prompt]
        if missing or not self.base_url.startswith(("http://", "https://")) or self.concurrency < 1:
            found = f"a prompt without {', '.join(missing)}" if missing else f"base_url {self.base_url!r}"
            raise ConfigError(
                asked=f"a judge {self.model!r}",
                found=found if missing or self.concurrency >= 1 else f"concurrency {self.concurrency}",
                todo="give an http(s) address, a prompt with the three fields, and a concurrency of 1 or more",
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

    >>> read_vote("A is vague. Verdict: B"), read_vote("**tie**"), read_vote("Both are fine.")
    ('second', 'tie', None)
    """
    named = _VERDICT.findall(reply) or [m.group(1) for m in [_BARE.fullmatch(reply.strip())] if m]
    return {"a": "first", "b": "second", "tie": "tie"}[named[-1].lower()] if named else None  # type: ignore[return-value]


def ask(
    judge: Judge, comparisons: Sequence[Comparison], *, cache: str | Path, progress: str | None = None
) -> list[Judged]:
    """The judge's vote on each comparison, in order; a reply that stands in ``cache`` is not asked for again.

    Raises
    ------
    MissingExtraError : no HTTP client.
    ModelError : the endpoint refuses, cannot be reached, or stays busy; what was answered until then is kept.
    """
    folder = Path(cache)
    bodies = [_body(judge, c) for c in comparisons]
    paths = [folder / f"{_digest(judge, body)}.json" for body in bodies]
    missing = {path: body for path, body in zip(paths, bodies, strict=True) if not path.exists()}
    if missing:
        _fetch(judge, missing, progress)
    replies = [str(json.loads(path.read_text(encoding="utf-8"))["reply"]) for path in paths]
    return [Judged(read_vote(reply), reply) for reply in replies]


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


def _digest(judge: Judge, body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([judge.base_url, body], sort_keys=True).encode()).hexdigest()[:32]


def _fetch(judge: Judge, missing: dict[Path, dict[str, Any]], progress: str | None) -> None:
    try:
        http = importlib.import_module("httpx2")
    except ImportError as error:
        raise MissingExtraError(
            asked=f"the judge {judge.model!r} at {judge.base_url}",
            found="the HTTP client httpx2 is not installed",
            todo="pip install 'calibrant[api]'",
        ) from error
    key = os.environ.get(judge.key_env) if judge.key_env else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    stop = Event()
    first: list[BaseException] = []  # what stopped all, whichever comparison it was of
    with http.Client(timeout=judge.timeout, headers=headers) as client, ThreadPoolExecutor(judge.concurrency) as pool:

        def one(item: tuple[Path, dict[str, Any]]) -> None:
            path, body = item
            if stop.is_set():
                return
            try:
                write_json(path, {"reply": _reply(judge, http, client, body, stop), "request": body})
            except BaseException as error:
                if not stop.is_set():
                    first.append(error)
                stop.set()
                raise

        futures = [pool.submit(one, item) for item in missing.items()]
        try:
            for future in track(futures, progress, total=len(futures), size=lambda _: 1):
                future.result()
        except BaseException as error:
            stop.set()
            for future in futures:
                future.cancel()
            if first and first[0] is not error:
                raise first[0] from error
            raise


def _reply(judge: Judge, http: Any, client: Any, body: dict[str, Any], stop: Event) -> str:
    url, wait, found = f"{judge.base_url.rstrip('/')}/chat/completions", judge.backoff, ""
    for attempt in range(judge.retries + 1):
        if attempt:
            stop.wait(min(wait, LONGEST_WAIT))
            if stop.is_set():
                break
            wait *= 2
        try:
            response = client.post(url, json=body)
        except http.InvalidURL as error:
            raise _refused(judge, f"no address: {error}") from error
        except (http.TransportError, http.DecodingError) as error:
            found = f"{type(error).__name__}: {error}"
            continue
        if response.status_code in RETRIED:
            found = f"status {response.status_code}: {response.text[:200]}"
            wait = max(wait, _retry_after(response.headers.get("retry-after")))
            continue
        if response.status_code != 200:
            raise _refused(judge, f"status {response.status_code}: {response.text[:200]}")
        text = _content(response)
        if text is None:
            raise _refused(judge, f"a reply that is no chat completion: {response.text[:200]!r}")
        return text
    raise ModelError(
        asked=f"a verdict of the judge {judge.model!r} at {judge.base_url}",
        found=f"{judge.retries + 1} tries failed, the last with {found or 'an interruption'}",
        todo="check that it is up and run the same command again; what it answered already is kept",
    )


def _content(response: Any) -> str | None:
    """The text of a chat completion; ``None`` where the body is something else."""
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else "" if text is None else None


def _refused(judge: Judge, found: str) -> ModelError:
    key = f"the key in the environment variable {judge.key_env}" if judge.key_env else "whether it needs a key"
    return ModelError(
        asked=f"a verdict of the judge {judge.model!r} at {judge.base_url}",
        found=found,
        todo=f"check the address, the model's name and {key}",
    )


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait; 0 where it says nothing that we read (dates are not)."""
    try:
        return max(float(value or 0), 0.0)
    except ValueError:
        return 0.0
