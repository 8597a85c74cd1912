"""Sample files of lm-eval: which there are, and what each row holds. Facts of the formats, by release:

==============  ======================================  =======================================================
release         file                                    row
==============  ======================================  =======================================================
0.4.0 - 0.4.2   ``<model args>_<task>.jsonl``, in fact  ``arguments`` a list, numbers as numbers, ``target`` raw
                one JSON array; ``results.json``
mid 2024        ``samples_<task>_<time>.json``, an      the same, later as in 0.4.3
                array, later a row a line
0.4.3           ``samples_<task>_<time>.jsonl``,        ``arguments`` as ``gen_args_0`` ..., numbers as text,
                ``results_<time>.json``                 hashes of document, prompt and target
0.4.4           the same                                ``target`` as text
0.4.7 - 0.4.13  the same                                also the name of the ``filter``
==============  ======================================  =======================================================

Since 0.4.3 the results count a task's documents (``n-samples``); from 0.4.9 to 0.4.11 they count all of them where
``--samples`` chose some. Since 0.4.9 they name the release.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calibrant.errors import ScoresError
from calibrant.importing.content import Content, content_of
from calibrant.questions import clean

SAMPLE_FILE = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\d(?:T[\d.:-]*\d)?)\.jsonl?(\.gz)?")
OLD_FILE = re.compile(r"(?P<stem>.+)\.jsonl(\.gz)?")
GREEDY = (True, False, "True", "False", "true", "false")  # 1 and 0, which other harnesses write, equal the first two
NAMES_SHOWN = 8
TEXTS = "the responses are texts, or log-likelihoods of whole texts"
NO_OPTIONS = "one response a document, so no options"
NAMED, COUNTED = (0, 4, 9), (0, 4, 12)
"""The first release that the results name, and the first that counts the documents which ``--samples`` chose."""


class SampleFile(NamedTuple):
    """One file of samples: its task, when it was written (``""`` where the name does not say), and what ``results`` say."""

    path: Path
    task: str
    time: str
    results: Mapping[str, Any]


class Sample(NamedTuple):
    """One question as lm-eval scored it; option texts are ``()`` and ``acc`` is ``None`` where the row does not say."""

    where: str
    doc_id: str
    own_id: str | None
    doc_hash: str
    filter: str
    target: Any
    options: tuple[str, ...]
    one_context: bool
    logp: tuple[float, ...]
    unconditional: tuple[float, ...] | None
    acc: int | None
    acc_norm: int | None
    content: Content


def find_files(path: Path) -> tuple[list[SampleFile], list[str]]:
    """The newest file of each task, and the names of the files that were left aside, with the reason.

    Raises
    ------
    ScoresError : no such place, no sample files, sample files of several folders (models).
    """
    asked = f"sample files of lm-eval from {path}"
    if path.is_file():
        return [_described(path)], []
    if not path.is_dir():
        raise ScoresError(asked=asked, found="no such file or folder", todo="name what lm_eval --output_path was given")
    dated = sorted(p for p in path.rglob("samples_*") if SAMPLE_FILE.fullmatch(p.name))
    folders = sorted({p.parent for p in dated})
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders[:NAMES_SHOWN])
        raise ScoresError(asked=asked, found=f"{len(folders)} folders with samples: {names}", todo="name one of them")
    folder = folders[0] if folders else path
    undated = sorted(p for p in folder.iterdir() if OLD_FILE.fullmatch(p.name) and p not in dated)
    if not dated and not undated:
        names = ", ".join(sorted(p.name for p in path.iterdir())[:NAMES_SHOWN])
        raise ScoresError(
            asked=asked, found=f"none but {names or 'an empty folder'}", todo="run lm_eval with --log_samples"
        )
    if not dated:
        return [_described(p) for p in undated], []
    aside = [f"{p.name}: not named samples_<task>_<time>" for p in undated]
    newest: dict[str, SampleFile] = {}
    for file in sorted(map(_described, dated), key=lambda f: f.time):
        if file.task in newest:
            aside.append(f"{newest[file.task].path.name}: older than {file.path.name}")
        newest[file.task] = file
    return sorted(newest.values(), key=lambda f: f.task), aside


def _described(path: Path) -> SampleFile:
    """The file with its task and the results that were written with it."""
    if match := SAMPLE_FILE.fullmatch(path.name):
        beside = sorted(p for p in path.parent.glob(f"*_{match['time']}.json") if not SAMPLE_FILE.fullmatch(p.name))
        return SampleFile(path, match["task"], match["time"], next(filter(None, map(_results, beside)), {}))
    match = OLD_FILE.fullmatch(path.name)
    stem = match["stem"] if match else path.stem
    results = _results(path.parent / "results.json")
    known = [task for task in results.get("configs", {}) if stem == task or stem.endswith(f"_{task}")]
    return SampleFile(path, max(known, key=len, default=stem), "", results)


def _results(path: Path) -> Mapping[str, Any]:
    """The results file as a mapping, empty where there is none: scores can be read without it."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, Mapping) and "configs" in loaded else {}


def read_task(file: SampleFile) -> list[Sample] | str:
    """The samples of one task, each document once, or the reason why it is not multiple choice.

    Where a task has several filters every document is logged once a filter; ``none`` is read, else the first.

    Raises
    ------
    ScoresError : a file that cannot be read, a row that is not a sample or unlike the others, a document twice with other
        numbers, fewer documents than the results beside the file count.
    """
    samples: list[Sample] = []
    odd: list[tuple[str, str]] = []
    release = _release(file.results)
    for where, row in _rows(file.path):
        sample = _sample(where, row, release)
        if not isinstance(sample, str):
            samples.append(sample)
        elif sample in (TEXTS, NO_OPTIONS):
            odd.append((sample, where))
        else:
            return f"not multiple choice: {sample} ({where})"
    if odd and not samples:
        return f"not multiple choice: {odd[0][0]} ({odd[0][1]})"
    if odd:
        raise ScoresError(
            asked=f"all documents of lm-eval task {file.task}",
            found=f"{len(samples)} with log-likelihoods of options, and {len(odd)} without, first {odd[0][1]}: {odd[0][0]}",
            todo="copy the file again, or run lm_eval again; or leave the task out with tasks=, on the command line --tasks",
        )
    if not samples:
        _refuse_part(file, [])
        return "no samples in the file"
    names = [s.filter for s in samples]
    wanted = "none" if "none" in names else names[0]
    first: dict[str, Sample] = {}
    for s in samples:
        if s.filter != wanted:
            continue
        if s.logp != first.setdefault(s.doc_id, s).logp:
            raise ScoresError(
                asked=f"one row a document from {file.path.name}",
                found=f"document {s.doc_id} with other log-probabilities in {first[s.doc_id].where} and {s.where}",
                todo="give the file of one run",
            )
    _refuse_part(file, list(first.values()))
    return list(first.values())


def _refuse_part(file: SampleFile, samples: Sequence[Sample]) -> None:
    """Refuse fewer documents than the results count; where that may be all of which ``--samples`` chose some, with another
    mean of ``acc`` than theirs.
    """
    whole = ((file.results.get("n-samples") or {}).get(file.task) or {}).get("effective")
    if not isinstance(whole, (int, float)) or len(samples) >= whole:
        return
    release = _release(file.results)
    limit = (file.results.get("config") or {}).get("limit")
    if samples and release is not None and NAMED <= release < COUNTED and limit is None:
        told = ((file.results.get("results") or {}).get(file.task) or {}).get(f"acc,{samples[0].filter or 'none'}")
        hits = [s.acc for s in samples if s.acc is not None]
        if not isinstance(told, float) or len(hits) < len(samples) or abs(sum(hits) / len(hits) - told) < 1e-9:
            return
    raise ScoresError(
        asked=f"all documents of lm-eval task {file.task}",
        found=f"{len(samples)} in {file.path.name}, but {whole:g} by the results beside it",
        todo="copy the file again, or run lm_eval again, if it was cut off; a part is read where no results lie beside it",
    )


def _release(results: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The release that wrote the results, at most 0.4.8 where they name none; ``None`` where nothing is known."""
    if not results:
        return None
    found = re.match(r"\d+(\.\d+)+", str(results.get("lm_eval_version", "0.4.8")))
    return tuple(map(int, found[0].split("."))) if found else None


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ScoresError(asked=f"samples from {path}", found=str(error), todo="make the file again") from error
    if content.lstrip().startswith(b"["):
        rows = _parsed(path.name, content)
        for number, row in enumerate(rows, 1):
            yield f"{path.name} item {number}", _checked(f"{path.name} item {number}", row)
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            where = f"{path.name} line {number}"
            yield where, _checked(where, _parsed(where, line))


def _parsed(where: str, content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ScoresError(
            asked=f"a sample of lm-eval from {where}",
            found=f"not JSON ({error})",
            todo="copy the file again, or run lm_eval again, if it was cut off",
        ) from error


def _checked(where: str, row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping) and ("resps" in row or "filtered_resps" in row):
        return row
    found = f"columns {', '.join(row)}" if isinstance(row, Mapping) else type(row).__name__
    raise ScoresError(
        asked=f"a sample of lm-eval from {where}",
        found=f"{found}, without resps",
        todo="give a file that lm_eval --log_samples wrote; a table of probabilities is read by import_table",
    )


def _sample(where: str, row: Mapping[str, Any], release: tuple[int, ...] | None) -> Sample | str:
    """The row as a sample, or why it is not a question with one correct option."""
    responses = row.get("resps", row.get("filtered_resps"))
    values = [_log_likelihood(r) for r in responses] if isinstance(responses, list) else []
    logp = [value for value in values if value is not None]
    if not values or len(logp) < len(values):
        return TEXTS
    pairs = _arguments(row.get("arguments"))
    pairs = pairs if len(pairs) == len(logp) else []
    halves = _halves(row, pairs, len(logp), release)
    if halves is None:
        return "it has acc_mutual_info, but no arguments that tell options with the question from those without"
    with_question, without, acc_is_right = halves
    pairs, logp, unconditional = pairs[with_question], logp[with_question], logp[without]
    k = len(logp)
    if k < 2:
        return NO_OPTIONS
    target = _single(row.get("target"), [text for _, text in pairs])
    if isinstance(target, list):
        return f"{len(target)} correct options"
    acc = _number(row.get("acc"))
    if acc not in (None, 0.0, 1.0):
        return f"its acc is {acc:g}, so several options may be correct"
    acc_norm = _number(row.get("acc_norm"))
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    return Sample(
        where=where,
        doc_id=str(row.get("doc_id", where)),
        own_id=None if doc.get("id") in (None, "") else str(doc["id"]),
        doc_hash=str(row.get("doc_hash", "")),
        filter=str(row.get("filter", "")),
        target=target,
        options=tuple(text for _, text in pairs),
        one_context=len({context for context, _ in pairs}) == 1,
        logp=tuple(logp),
        unconditional=tuple(unconditional) or None,
        acc=int(acc) if acc is not None and acc_is_right else None,
        acc_norm=int(acc_norm) if acc_norm in (0.0, 1.0) and acc_is_right else None,
        content=content_of(doc, k),
    )


def _log_likelihood(response: Any) -> float | None:
    """The first repeat's number of ``[[log-likelihood, is greedy], ...]``, or of the pair alone."""
    while isinstance(response, list) and response and isinstance(response[0], list):
        response = response[0]
    if not isinstance(response, list) or len(response) != 2:
        return None
    return _number(response[0]) if response[1] in GREEDY else None


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _arguments(arguments: Any) -> list[tuple[str, str]]:
    """``(context, continuation)`` of each request; empty where the row has none."""
    if isinstance(arguments, Mapping):
        numbered = [(int(at[0]), value) for key, value in arguments.items() if (at := re.findall(r"\d+$", key))]
        ordered = [value for _, value in sorted(numbered, key=lambda item: item[0])]
        requests = [list(value.values()) for value in ordered if isinstance(value, Mapping)]
    else:
        requests = list(arguments) if isinstance(arguments, list) else []
    return [(r[0], r[1]) for r in requests if isinstance(r, list) and len(r) > 1 and all(type(x) is str for x in r[:2])]


def _halves(
    row: Mapping[str, Any], pairs: list[tuple[str, str]], n: int, release: tuple[int, ...] | None
) -> tuple[slice, slice, bool] | None:
    """Where the options stand, where they stand again without the question, and whether the row's ``acc`` is right.

    A task with the metric ``acc_mutual_info`` asks for each option twice: in turn until 0.4.4, one half after the other
    since 0.4.5. From 0.4.5 to 0.4.8 lm-eval still read them in turn, so that its ``acc`` is wrong. Where the release is not
    known, a delimiter in both halves shows a later one: those had none in the second half, and under a chat template, from
    0.4.6 on, there is none at all. ``None``: the row says that it is doubled, but not how.
    """
    whole = slice(0, n), slice(0, 0), True
    layouts = ((slice(0, n // 2), slice(n // 2, n)), (slice(0, n, 2), slice(1, n, 2)))
    for with_question, without in layouts if n % 2 == 0 and n >= 4 else ():
        first, second = pairs[with_question], pairs[without]
        bare = bool(pairs) and all(context for context, _ in first) and not any(context for context, _ in second)
        if bare and [text.strip() for _, text in first] == [text.strip() for _, text in second]:
            same = [text for _, text in first] == [text for _, text in second]
            later = all(text[:1].isspace() for _, text in first) if release is None else release >= NAMED
            return with_question, without, (same and later) or with_question.step == 2
    return None if "acc_mutual_info" in row else whole


def _single(target: Any, options: Sequence[str]) -> Any:
    """A list of targets as a list, or as its only member. Anything else, or a text that is itself an option, is left alone."""
    written = isinstance(target, str) and target[:1] == "[" and target[-1:] == "]"
    if written and clean(target) not in map(clean, options):
        try:
            parsed = ast.literal_eval(target)
        except (ValueError, SyntaxError):
            return target
        target = parsed if isinstance(parsed, list) else target
    return target[0] if isinstance(target, list) and len(target) == 1 else target
