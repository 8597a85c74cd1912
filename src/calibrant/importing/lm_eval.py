"""``import_lm_eval``: sample files of lm-eval in, ``Scores`` out. Shape suffixes: N questions, K options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from calibrant.errors import ConfigError, ScoresError
from calibrant.importing.runs import run_facts
from calibrant.importing.samples import NAMES_SHOWN, Sample, SampleFile, find_files, read_task
from calibrant.questions import clean, did_you_mean
from calibrant.scores import Scores
from calibrant.sources import numeral

ImportVariant = Literal["sum", "per_char", "pmi"]


def import_lm_eval(
    path: str | Path,
    *,
    variant: ImportVariant = "sum",
    tasks: str | Sequence[str] | None = None,
    split: str = "",
) -> Scores:
    """Scores from the files that ``lm_eval --log_samples`` wrote: any multiple-choice task, any backend, 0.4.0 to 0.4.13.

    Option k of a question has the log-likelihood l_k that lm-eval logged for its continuation, and the score
    ``l_k`` (``sum``, behind lm-eval's ``acc``), ``l_k / characters of the option`` (``per_char``, behind ``acc_norm``), or
    ``l_k - l_k without the question`` (``pmi``, behind ``acc_mutual_info``, where the task has that metric); scores are then
    normalised over the options. ``logmass = log min(1, sum_k exp l_k)``, nan where the options have several contexts.

    The answer is the ``target``: an index, a letter, or an option's text, whichever one reading fits all rows of a task and
    its ``acc``. Where the options are contexts of one continuation, as in winogrande, the target is that continuation, and
    the answer follows from ``acc``.

    Parameters
    ----------
    path : a sample file, or a folder with those of one model; the newest file of each task is read.
    variant : ``"sum"``, ``"per_char"`` or ``"pmi"``; lm-eval logs no tokens, so there is no ``per_token``.
    tasks : names or patterns (``"mmlu_*"``) of the tasks to read, by default all.
    split : name that the scores will carry.

    Returns
    -------
    Scores : one task after the other; ``subjects`` are the tasks, ``ids`` those of the documents (``<task>-<doc_id>`` where
        they have none, ``<task>/<id>`` where two tasks share one), ``hashes`` as of our own questions where the document
        shows question and options, else ``""``. Column ``doc_hash`` is lm-eval's own. Tasks of a folder that are not
        multiple choice with one correct option are named in ``provenance["skipped"]``, files that were not read in
        ``provenance["files_left_aside"]``; ``provenance["questions_that_repeat"]`` counts those of several tasks.

    Raises
    ------
    ScoresError : no sample file, a damaged one or a part of one, no task with one correct option, a target that fits no
        option or contradicts ``acc``, files of several models, or of several revisions, precisions, chat templates or
        system instructions of one, numbers that the variant needs and the file has not.
    ConfigError : a variant that does not exist.
    """
    if variant not in get_args(ImportVariant):
        raise ConfigError(
            asked=f"variant = {variant!r} of lm-eval's samples",
            found=f"they hold what is needed for {', '.join(get_args(ImportVariant))}",
            todo="choose one of these, or score the questions with calibrant",
        )
    files, aside = find_files(Path(path))
    files = _wanted(files, [tasks] if isinstance(tasks, str) else tasks, path)
    read, skipped = {}, {}
    for file in files:
        samples = read_task(file)
        if isinstance(samples, str):
            skipped[file.task] = samples
        elif file.task in read:
            raise ScoresError(
                asked=f"one file a task from {path}", found=f"two of {file.task}", todo="name one of the files"
            )
        else:
            read[file.task] = (file, samples)
    if not read:
        reasons = "; ".join(f"task {task}: {reason}" for task, reason in list(skipped.items())[:NAMES_SHOWN])
        raise ScoresError(
            asked=f"scores of multiple-choice questions from {path}",
            found=reasons,
            todo="give samples of a task whose output_type is multiple_choice, with one correct option a document",
        )
    facts = run_facts([file for file, _ in read.values()], path)
    parts = {task: _task_scores(task, file, samples, variant) for task, (file, samples) in read.items()}
    provenance = {
        "source": "lm-eval samples",
        **facts,
        "variant": variant,
        "tasks": {task: told for task, (_, told) in parts.items()},
        "skipped": skipped,
        "files_left_aside": aside,
    }
    scores = _joined([part for part, _ in parts.values()], split, provenance)
    repeats = scores.n - len({h or i for h, i in zip(scores.hashes, scores.ids, strict=True)})
    return replace(scores, provenance={**provenance, "questions_that_repeat": repeats})


def _wanted(files: list[SampleFile], patterns: Sequence[str] | None, path: str | Path) -> list[SampleFile]:
    if patterns is None:
        return files
    names = [file.task for file in files]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ScoresError(
                asked=f"samples of task {pattern!r} from {path}",
                found=f"the tasks {', '.join(names[:NAMES_SHOWN])}{did_you_mean(pattern, names)}",
                todo="name tasks that are there",
            )
    return [file for file in files if any(fnmatchcase(file.task, pattern) for pattern in patterns)]


# ---- the answer ---------------------------------------------------------------------------------------------------------


def _answers(task: str, samples: Sequence[Sample]) -> tuple[str, list[int]]:
    """How the targets are to be read, and the answers: the one reading that fits every row and its ``acc``."""
    fitting: dict[str, list[int]] = {}
    contradiction: tuple[str, Sample, int] | None = None
    for name, read in READINGS.items():
        answers = [read(s) for s in samples]
        known = [a for a in answers if a is not None]
        if len(known) < len(samples):
            continue
        wrong = [i for i, s in enumerate(samples) if not _agrees(s.acc, s.logp, known[i])]
        if not wrong:
            fitting[name] = known
        elif contradiction is None:
            contradiction = (name, samples[wrong[0]], known[wrong[0]])
    if len({tuple(answers) for answers in fitting.values()}) == 1:
        return next(iter(fitting.items()))
    asked = f"the correct options of lm-eval task {task}"
    if fitting:
        row = next(i for i in range(len(samples)) if len({answers[i] for answers in fitting.values()}) > 1)
        told = " but ".join(f"option {answers[row]} as {name}" for name, answers in fitting.items())
        found, todo = f"target {samples[row].target!r} is {told}, and acc is not there to decide", "log acc as well"
    elif contradiction:
        name, s, answer = contradiction
        found = (
            f"{s.where}: target {s.target!r} is option {answer} as {name}, the log-likelihoods {list(s.logp)} are highest "
            f"for option {int(np.argmax(s.logp))}, but acc = {s.acc}"
        )
        todo = (
            "look whether the file was changed, or the task has a metric of its own named acc; leave it out with tasks="
        )
    else:
        s = next((s for s in samples if READINGS["an index"](s) is None), samples[0])
        found = f"{s.where}: target {s.target!r} for the options {list(s.options) or len(s.logp)}"
        todo = "the target must be an index, a letter or the text of an option; leave the task out with tasks="
    raise ScoresError(asked=asked, found=found, todo=todo)


def _agrees(hit: int | None, score: Sequence[float], answer: int) -> bool:
    return hit is None or (int(np.argmax(score)) == answer) == bool(hit)


def _index(s: Sample) -> int | None:
    truth = {"True": 1, "False": 0}.get(str(s.target))
    number = numeral(s.target) if truth is None else truth
    return number if number is not None and _are_options(s) and 0 <= number < len(s.logp) else None


def _option_text(s: Sample) -> int | None:
    texts = [clean(text) for text in s.options]
    wanted = clean(str(s.target))
    return texts.index(wanted) if wanted in texts and _are_options(s) else None


def _letter(s: Sample) -> int | None:
    wanted = str(s.target).strip().upper()
    place = ord(wanted) - ord("A") if len(wanted) == 1 and wanted.isascii() else -1
    return place if 0 <= place < len(s.logp) and _are_options(s) else None


def _from_acc(s: Sample) -> int | None:
    best = int(np.argmax(s.logp))
    if s.acc == 1:
        return best
    return 1 - best if s.acc == 0 and len(s.logp) == 2 else None


def _are_options(s: Sample) -> bool:
    """Whether the continuations are the options; in winogrande the contexts are, and the target is the continuation."""
    return len(set(s.options)) != 1


READINGS: Mapping[str, Callable[[Sample], int | None]] = {
    "an index": _index,
    "an option's text": _option_text,
    "a letter": _letter,
}


# ---- the scores ---------------------------------------------------------------------------------------------------------


def _task_scores(
    task: str, file: SampleFile, samples: Sequence[Sample], variant: ImportVariant
) -> tuple[Scores, dict[str, Any]]:
    """The scores of one task, and what the provenance tells of it."""
    for s in samples:
        if not all(value < 1e-3 for value in s.logp) or max(s.logp) == -np.inf:
            raise ScoresError(
                asked=f"log-likelihoods of lm-eval task {task}, at most 0 and not all -inf",
                found=f"{s.where}: {list(s.logp)}",
                todo="run lm_eval again; a backend that gives such numbers is at fault",
            )
    if all(not _are_options(s) for s in samples):
        reading, answers = _answers_from_acc(task, samples)
    else:
        reading, answers = _answers(task, samples)
    config = file.results.get("configs", {}).get(task, {})
    score = [_score(task, s, variant, config.get("target_delimiter")) for s in samples]
    if variant == "per_char":
        _check_acc_norm(task, samples, score, answers)
    k = max(map(len, score))
    own_ids = [s.own_id for s in samples]
    has_ids = None not in own_ids and len(set(own_ids)) == len(own_ids)
    columns: dict[str, list[Any]] = {"doc_hash": [s.doc_hash for s in samples]}
    columns["question_length"] = [s.content.length for s in samples]
    columns["doc_subject"] = [s.content.subject for s in samples]
    scores = Scores.from_logp(
        [[*row, *[np.nan] * (k - len(row))] for row in score],
        answers,
        logmass=[_logmass(s) for s in samples],
        ids=[str(s.own_id) if has_ids else f"{task}-{s.doc_id}" for s in samples],
        subjects=[task] * len(samples),
        columns=columns,
    )
    told = {
        "file": file.path.name,
        "time": file.time,
        "n": len(samples),
        "filter": samples[0].filter,
        "answers_read_as": reading,
        "answers_checked_by_acc": sum(s.acc is not None for s in samples),
        "n_shot": file.results.get("n-shot", {}).get(task),
        "version": file.results.get("versions", {}).get(task),
        "hash": file.results.get("task_hashes", {}).get(task),
    }
    return replace(scores, hashes=tuple(s.content.hash for s in samples)), told


def _answers_from_acc(task: str, samples: Sequence[Sample]) -> tuple[str, list[int]]:
    answers = [_from_acc(s) for s in samples]
    known = [a for a in answers if a is not None]
    if len(known) < len(samples):
        s = samples[answers.index(None)]
        raise ScoresError(
            asked=f"the correct options of lm-eval task {task}",
            found=f"{s.where}: the options share the continuation {s.options[0]!r}, and acc does not tell which is correct",
            todo="leave the task out with tasks=, or log acc and have two options",
        )
    return "acc", known


def _score(task: str, s: Sample, variant: ImportVariant, delimiter: Any) -> list[float]:
    if variant == "sum":
        return list(s.logp)
    asked = f"variant {variant!r} of lm-eval task {task}"
    if variant == "pmi":
        if s.unconditional is None or not np.isfinite(s.unconditional).all():
            raise ScoresError(
                asked=asked,
                found=f"{s.where}: no log-likelihoods of the options without the question",
                todo="use variant 'sum', or run lm_eval with the metric acc_mutual_info",
            )
        return [a - b for a, b in zip(s.logp, s.unconditional, strict=True)]
    lengths = [_length(text, delimiter) for text in s.options]
    if not lengths or min(lengths) == 0 or not _are_options(s):
        raise ScoresError(
            asked=asked, found=f"{s.where}: options {list(s.options)} without a length", todo="use variant 'sum'"
        )
    return [value / length for value, length in zip(s.logp, lengths, strict=True)]


def _length(text: str, delimiter: Any) -> int:
    """Characters of the option without the delimiter that lm-eval put before it; white space where the file names none."""
    return len(text.removeprefix(delimiter) if isinstance(delimiter, str) else text.lstrip())


def _check_acc_norm(task: str, samples: Sequence[Sample], score: list[list[float]], answers: list[int]) -> None:
    for s, row, answer in zip(samples, score, answers, strict=True):
        if not _agrees(s.acc_norm, row, answer):
            raise ScoresError(
                asked=f"variant 'per_char' of lm-eval task {task}",
                found=f"{s.where}: acc_norm = {s.acc_norm} does not follow from the lengths of the options {list(s.options)}",
                todo="use variant 'sum'",
            )


def _logmass(s: Sample) -> float:
    return min(0.0, float(np.logaddexp.reduce(s.logp))) if s.one_context else float("nan")


# ---- joining ------------------------------------------------------------------------------------------------------------


def _joined(parts: Sequence[Scores], split: str, provenance: dict[str, Any]) -> Scores:
    """One after the other; a column that no row knows is left out."""
    k, repeated = max(s.k for s in parts), Counter(i for s in parts for i in s.ids)
    shared = max(repeated.values()) > 1
    columns = {name: tuple(v for s in parts for v in s.columns[name]) for name in parts[0].columns}
    return Scores(
        logp_NK=np.concatenate([np.pad(s.logp_NK, ((0, 0), (0, k - s.k)), constant_values=-np.inf) for s in parts]),
        answer_N=np.concatenate([s.answer_N for s in parts]),
        k_N=np.concatenate([s.k_N for s in parts]),
        logmass_N=np.concatenate([s.logmass_N for s in parts]),
        ids=tuple(f"{s.subjects[0]}/{i}" if shared else i for s in parts for i in s.ids),
        subjects=tuple(subject for s in parts for subject in s.subjects),
        hashes=tuple(h for s in parts for h in s.hashes),
        columns={name: values for name, values in columns.items() if any(v not in (None, "") for v in values)},
        split=split,
        provenance=provenance,
    )
