"""Many JSON requests to one HTTP address: tried again while it is busy, several at once, every reply kept on disk."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from calibrant.errors import ConfigError, MissingExtraError, ModelError
from calibrant.files import write_json
from calibrant.progress import track

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Endpoint:
    """An address that takes JSON and gives JSON.

    Parameters
    ----------
    base_url : address without ``route``; route : what follows it, e.g. ``"/chat/completions"``.
    asked : what an error says was asked, e.g. ``"a verdict of the judge 'm' at https://host/v1"``.
    reads : what is kept (JSON-able) of a reply's JSON to a request body; ``None`` where it is none of the kind ``reply``.
    key_env : environment variable that holds the key; without it no key is sent. The key itself is never written.
    timeout : seconds for one request. retries : further tries after a busy or broken answer. backoff : seconds before
        the first further try, doubled each time; a server's ``Retry-After`` is heeded, up to a minute.
    concurrency : requests at once.
    """

    base_url: str
    route: str
    asked: str
    reads: Callable[[Any, Mapping[str, Any]], Any]
    reply: str
    key_env: str | None = None
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    concurrency: int = 4

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}{self.route}"


def ask_all(
    endpoint: Endpoint,
    bodies: Sequence[Mapping[str, Any]],
    *,
    cache: Path,
    names: Sequence[str] = (),
    progress: str | None = None,
) -> list[Any]:
    """The reply to each request body, in order; one that is in ``cache`` is not asked for again.

    ``names`` are what an error calls the requests, e.g. ``"for question 'q7'"``.

    Raises
    ------
    MissingExtraError : no HTTP client.
    ModelError : the endpoint refuses, cannot be reached, or stays busy; what was answered until then is kept.
    ConfigError : a key that no header can hold.
    """
    paths = _paths(endpoint, bodies, cache)
    known = kept_replies(endpoint, bodies, cache)
    calls = names or [""] * len(bodies)
    missing = {path: (body, name) for path, body, name in zip(paths, bodies, calls, strict=True) if path not in known}
    if missing:
        known |= _fetch(endpoint, missing, progress)
    return [known[path] for path in paths]


def kept_replies(endpoint: Endpoint, bodies: Sequence[Mapping[str, Any]], cache: Path) -> dict[Path, Any]:
    """The replies in ``cache`` that can be read, by file."""
    found = {}
    for path in _paths(endpoint, bodies, cache):
        try:
            reply = json.loads(path.read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if reply is not None:
            found[path] = reply
    return found


def _paths(endpoint: Endpoint, bodies: Sequence[Mapping[str, Any]], cache: Path) -> list[Path]:
    """Where the reply to each body is kept. The order of a body's fields counts: options may be such fields."""
    digests = (hashlib.sha256(json.dumps([endpoint.base_url, body]).encode()).hexdigest() for body in bodies)
    return [cache / f"{digest[:32]}.json" for digest in digests]


def _fetch(
    endpoint: Endpoint, missing: Mapping[Path, tuple[Mapping[str, Any], str]], progress: str | None
) -> dict[Path, Any]:
    try:
        http = importlib.import_module("httpx2")
    except ImportError as error:
        raise MissingExtraError(
            asked=endpoint.asked,
            found="the HTTP client httpx2 is not installed",
            todo="pip install 'httpx2>=2'",
        ) from error
    key = _key(endpoint)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    stop = Event()
    found: dict[Path, Any] = {}
    first: list[BaseException] = []  # what stopped all, whichever request it was of
    timeout, at_once = endpoint.timeout, endpoint.concurrency
    with http.Client(timeout=timeout, headers=headers) as client, ThreadPoolExecutor(at_once) as pool:

        def one(item: tuple[Path, tuple[Mapping[str, Any], str]]) -> None:
            path, (body, name) = item
            if stop.is_set():
                return
            try:
                reply = _reply(replace(endpoint, asked=f"{endpoint.asked} {name}".rstrip()), http, client, body, stop)
                write_json(path, {"reply": reply, "request": dict(body)})
                found[path] = reply
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
    return found


def _key(endpoint: Endpoint) -> str:
    """The key without the white space around it, as files leave it; empty where there is none."""
    key = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            asked=endpoint.asked,
            found=f"a key in the environment variable {endpoint.key_env} with spaces or other than ASCII characters",
            todo="set it again, without quotes or spaces that a text program has put in",
        )
    return key


def _reply(endpoint: Endpoint, http: Any, client: Any, body: Mapping[str, Any], stop: Event) -> Any:
    wait, found = endpoint.backoff, ""
    for attempt in range(endpoint.retries + 1):
        if attempt:
            stop.wait(min(wait, LONGEST_WAIT))
            if stop.is_set():
                break
            wait *= 2
        try:
            response = client.post(endpoint.url, json=body)
        except http.InvalidURL as error:
            raise _refused(endpoint, f"no address: {error}") from error
        except http.LocalProtocolError:
            # Its text may hold the headers, and so the key.
            raise _refused(endpoint, "a request that the HTTP client would not send") from None
        except (http.TransportError, http.DecodingError) as error:
            found = f"{type(error).__name__}: {error}"
            continue
        if response.status_code in RETRIED:
            found = f"status {response.status_code}: {response.text[:200]}"
            wait = max(wait, _retry_after(response.headers.get("retry-after")))
            continue
        if response.status_code != 200:
            raise _refused(endpoint, f"status {response.status_code}: {response.text[:200]}")
        kept = _read(endpoint, response, body)
        if kept is None:
            raise _refused(endpoint, f"a reply that is no {endpoint.reply}: {response.text[:200]!r}")
        return kept
    raise ModelError(
        asked=endpoint.asked,
        found=f"{endpoint.retries + 1} tries failed, the last with {found or 'an interruption'}",
        todo="check that it is up and run the same command again; what it answered already is kept",
    )


def _read(endpoint: Endpoint, response: Any, body: Mapping[str, Any]) -> Any:
    try:
        return endpoint.reads(response.json(), body)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError):
        return None


def _refused(endpoint: Endpoint, found: str) -> ModelError:
    key = f"the key in the environment variable {endpoint.key_env}" if endpoint.key_env else "whether it needs a key"
    return ModelError(asked=endpoint.asked, found=found, todo=f"check the address, the model's name and {key}")


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait; 0 where it says nothing that we read (dates are not)."""
    try:
        return max(float(value or 0), 0.0)
    except ValueError:
        return 0.0
