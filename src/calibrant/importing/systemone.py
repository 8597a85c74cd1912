"""``import_systemone``: what a served decision model answers to multiple-choice questions, as ``Scores``.

A System One endpoint takes a state and typed questions and gives a probability for every option (``choice``), as
``transformers serve``, llama.cpp's server and hosted decision models do. What is measured here is what its callers get.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant._version import __version__
from calibrant.endpoint import Endpoint, ask_all, kept_replies
from calibrant.errors import ConfigError, ModelError, QuestionError, only_numbers
from calibrant.questions import Question, question_set
from calibrant.scores import Scores

ROUTE = "/systemone"
SOURCE = "systemone endpoint"
NAME = "answer"

_FIELD = re.compile(r"\{([^{}]+)\}")


def import_systemone(
    questions: Sequence[Question],
    base_url: str,
    model: str,
    *,
    cache: str | Path,
    state: str = "",
    instructions: str = "{question}",
    key_env: str | None = None,
    concurrency: int = 4,
    timeout: float = 60.0,
    retries: int = 5,
    backoff: float = 1.0,
    split: str = "",
    progress: bool = False,
    command: str | None = None,
) -> Scores:
    """Ask a System One endpoint each question as one ``choice`` over its options, and keep the probabilities it gives.

    ``p_k`` is what the endpoint says of option k, divided by the row's sum, which must be within max(.01, .005 K) of 1:
    servers round, K options to two places. A probability of 0 is kept. The ``confidence`` that such endpoints give beside is
    a rescaled one and is not read. Questions go one a request, so that none sees another.

    Parameters
    ----------
    questions : two or more, with unique ids.
    base_url : address without ``/systemone``, e.g. ``https://host/v1``.
    model : its name there.
    cache : folder of the replies, for a run that is broken off: what is there is not asked for again, whatever the
        endpoint has become since. ``provenance["replies_kept_before"]`` counts these.
    state, instructions : templates of the request's two texts: ``{question}``, ``{subject}`` or a column of the questions.
    key_env, concurrency, timeout, retries, backoff : as :class:`calibrant.endpoint.Endpoint`.
    split, command : kept with the scores.
    progress : draw a bar with the time left.

    Raises
    ------
    ConfigError : an address that is none; a template without a text, or with a field that a question lacks.
    ModelError : the endpoint refuses, stays busy, or gives no distribution over the options.
    QuestionError : no questions.
    MissingExtraError : no HTTP client.
    """
    questions = question_set(questions)
    if not len(questions):
        raise QuestionError(asked="scores of an endpoint", found="no questions", todo="give at least one")
    base_url = base_url.rstrip("/").removesuffix(ROUTE)
    only_numbers(whole=True, concurrency=concurrency, retries=retries)
    only_numbers(timeout=timeout, backoff=backoff)
    if not base_url.startswith(("http://", "https://")) or concurrency < 1:
        raise ConfigError(
            asked=f"a System One endpoint at {base_url!r}, {concurrency} requests at once",
            found="no http address" if concurrency > 0 else "none at once",
            todo="give an address such as https://host/v1, and a concurrency of 1 or more",
        )
    endpoint = Endpoint(
        base_url,
        ROUTE,
        asked=f"the probabilities of {model!r} at {base_url}",
        reads=_kept,
        reply="System One answer to the choice",
        key_env=key_env,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
        concurrency=concurrency,
    )
    bodies = [{"model": model, **request_of(q, state=state, instructions=instructions)} for q in questions]
    names = [f"for question {q.id!r}" for q in questions]
    kept = len(kept_replies(endpoint, bodies, Path(cache)))
    told = f"asking {model}" if progress else None
    replies = ask_all(endpoint, bodies, cache=Path(cache), names=names, progress=told)
    provenance = {
        "source": SOURCE,
        "model": model,
        "url": base_url,
        "replies_kept_before": kept,
        "answered_by": sorted({str(reply["model"]) for reply in replies}),
        "state": state,
        "instructions": instructions,
        "versions": {"calibrant": __version__},
        "command": command,
    }
    given = [reply["probabilities"] for reply in replies]
    return answered(questions, given, asked=endpoint.asked, split=split, provenance=provenance)


def request_of(question: Question, *, state: str = "", instructions: str = "{question}") -> dict[str, Any]:
    """A System One request with one ``choice``: the options are the keys of its ``criteria``, without descriptions.

    >>> q = Question("q", "Capital of France?", ("Lyon", "Paris"), 1)
    >>> request_of(q)["questions"]
    {'answer': {'type': 'choice', 'instructions': 'Capital of France?', 'criteria': {'Lyon': None, 'Paris': None}}}
    """
    texts = [_filled(template, question) for template in (state, instructions)]
    if not any(texts):
        raise ConfigError(
            asked=f"question {question.id!r} as a request",
            found="neither its state nor its instructions hold a text",
            todo="put {question} into one of them",
        )
    criteria = dict.fromkeys(_options(question))
    return {
        "state": texts[0],
        "questions": {NAME: {"type": "choice", "instructions": texts[1] or None, "criteria": criteria}},
    }


def answered(
    questions: Sequence[Question],
    given: Sequence[Mapping[str, float]],
    *,
    asked: str,
    split: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Scores:
    """Scores from the probabilities that were given to each question, by option text."""
    k = max(len(q.choices) for q in questions)
    rows = []
    for question, by_option in zip(questions, given, strict=True):
        fault = _fault(by_option, _options(question))
        if fault is not None:
            raise ModelError(
                asked=f"{asked} for question {question.id!r}",
                found=fault,
                todo="check that choices are answered with a probability for each option",
            )
        row = [by_option[option] for option in _options(question)]
        rows.append([p / sum(row) for p in row] + [float("nan")] * (k - len(row)))
    names = sorted({name for q in questions for name in q.columns})
    scores = Scores.from_probs(
        rows,
        [q.answer for q in questions],
        ids=[q.id for q in questions],
        subjects=[q.subject for q in questions],
        columns={name: [q.columns.get(name) for q in questions] for name in names},
        split=split,
        provenance=provenance,
    )
    return replace(scores, hashes=tuple(q.content_hash for q in questions))


def _options(question: Question) -> list[str]:
    """The options' texts, without white space around them."""
    return [choice.strip() for choice in question.choices]


def _filled(template: str, question: Question) -> str:
    known = {**question.columns, "question": question.text.strip(), "subject": question.subject}

    def field(match: re.Match[str]) -> str:
        value = known.get(match[1])
        if isinstance(value, list | dict | tuple):
            return json.dumps(value, ensure_ascii=False)
        if value is None:
            raise ConfigError(
                asked=f"{match[0]} of question {question.id!r}",
                found=f"it has {', '.join(sorted(name for name, value in known.items() if value is not None))}",
                todo="name one of these, or give the questions such a column",
            )
        return str(value)

    return _FIELD.sub(field, template)


def _kept(reply: Any, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The distribution of an answer, and who gave it; ``None`` where it is not an answer to the choice that was asked."""
    given = reply["answers"][NAME]["probabilities"]
    kept = {str(option): float(p) for option, p in given.items()} if isinstance(given, dict) else {}
    fault = _fault(kept, list(body["questions"][NAME]["criteria"]))
    return {"probabilities": kept, "model": reply.get("model")} if fault is None else None


def _fault(given: Mapping[str, float], choices: Sequence[str]) -> str | None:
    """Why probabilities by option are not a distribution over these options."""
    if set(given) != set(choices):
        odd = sorted(set(given) ^ set(choices))[:3]
        return f"other options than were asked, such as {', '.join(map(repr, odd))}"
    slack = max(0.01, 0.005 * len(choices)) + 1e-9
    values = list(given.values())
    if not all(0 <= p <= 1 + slack for p in values) or abs(sum(values) - 1) > slack:
        return f"probabilities {values}"
    return None
