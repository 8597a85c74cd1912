"""``Scores``: what a model thinks of each option of each question. The one artefact between all stages.

The expensive stage (a model) ends in a ``Scores``; everything after it is numpy. Shape suffixes: N questions,
K options (the largest number in the set; a question with fewer has ``-inf`` in the columns it lacks).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from calibrant.errors import ScoresError
from calibrant.files import write_atomically

FORMAT = "calibrant-scores"
FORMAT_VERSION = 1
SUM_TOLERANCE = 1e-3
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Option log-probabilities of one model on one set of questions, with where they came from.

    Parameters
    ----------
    logp_NK : float64 (N, K), natural log, normalised over the options of each row; ``-inf`` where an option is absent
        (or impossible).
    answer_N : int64 (N,), index of the correct option.
    k_N : int64 (N,), number of options of each question, ``2 <= k_N <= K``; columns ``k_N[i]:`` of row i are absent.
    logmass_N : float64 (N,), natural log of the probability that the whole vocabulary put on the options together;
        ``nan`` where unknown.
    ids, hashes : one string a question: the user's id, and the content hash of the question (``""`` where unknown).
    subjects : one string or ``None`` a question.
    columns : further columns, one value a question, kept for slicing.
    split : name of the split, e.g. ``"test"``.
    provenance : JSON-able facts: model, revision, adapter, prompt, reading, dtype, versions, seed, command.

    Raises
    ------
    ScoresError : rows that are not a distribution over their options, labels out of range, NaN, lengths that differ.
    """

    logp_NK: np.ndarray
    answer_N: np.ndarray
    k_N: np.ndarray
    logmass_N: np.ndarray
    ids: tuple[str, ...]
    subjects: tuple[str | None, ...]
    hashes: tuple[str, ...]
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    split: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _validate(self)

    def __repr__(self) -> str:
        """In a line; the rows themselves are in the attributes."""
        split = f", split {self.split!r}" if self.split else ""
        model = f", of {self.provenance['model']}" if self.provenance.get("model") else ""
        return (
            f"<Scores: {self.n} questions of up to {self.k} options{split}{model}, accuracy {self.correct_N.mean():.3f}, "
            f"mean confidence {self.confidence_N.mean():.3f}>"
        )

    # ---- makers -------------------------------------------------------------------------------------------------

    @classmethod
    def from_probs(
        cls,
        p: np.ndarray | Sequence[Sequence[float]],
        answer: np.ndarray | Sequence[int],
        *,
        ids: Sequence[str] | None = None,
        subjects: Sequence[str | None] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        split: str = "",
        provenance: Mapping[str, Any] | None = None,
    ) -> Scores:
        """Scores from an (N, K) array of option probabilities; ``nan`` marks an option that a question does not have.

        Rows must sum to 1 within 1e-3; what is off by more than rounding is renormalised. A probability of 0 is kept (log
        ``-inf``).

        >>> s = Scores.from_probs([[0.7, 0.2, 0.1], [0.5, 0.5, float("nan")]], [0, 1])
        >>> s.n, s.k, s.k_N.tolist(), s.confidence_N.round(2).tolist()
        (2, 3, [3, 2], [0.7, 0.5])
        """
        p_NK = _as_matrix(p, "p")
        absent_NK = np.isnan(p_NK)
        p_NK = np.where(absent_NK, 0.0, p_NK)
        _refuse_rows((p_NK < 0) | (p_NK > 1 + SUM_TOLERANCE), p_NK, "probabilities in [0, 1]")
        total_N = p_NK.sum(1)
        _refuse_rows(np.abs(total_N - 1) > SUM_TOLERANCE, p_NK, f"rows that sum to 1 (within {SUM_TOLERANCE:g})")
        total_N[np.abs(total_N - 1) < ROUNDING] = 1.0  # else equal numbers in a table would differ by their place in it
        with np.errstate(divide="ignore"):
            logp_NK = np.log(p_NK / total_N[:, None])
        return cls._build(logp_NK, absent_NK, answer, ids, subjects, columns, split, provenance)

    @classmethod
    def from_logp(
        cls,
        logp: np.ndarray | Sequence[Sequence[float]],
        answer: np.ndarray | Sequence[int],
        *,
        normalise: bool = True,
        logmass: np.ndarray | Sequence[float] | None = None,
        ids: Sequence[str] | None = None,
        subjects: Sequence[str | None] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        split: str = "",
        provenance: Mapping[str, Any] | None = None,
    ) -> Scores:
        """Scores from an (N, K) array of option log-probabilities (natural log); ``nan`` marks an absent option.

        With ``normalise`` (the default) rows are normalised over the options: a row's log-sum is subtracted. Without it,
        rows that are not yet normalised are refused.

        >>> Scores.from_logp([[-1.0, -2.0], [0.0, 0.0]], [0, 1]).p_NK.round(4).tolist()
        [[0.7311, 0.2689], [0.5, 0.5]]
        """
        logp_NK = _as_matrix(logp, "logp")
        absent_NK = np.isnan(logp_NK)
        logp_NK = np.where(absent_NK, -np.inf, logp_NK)
        _refuse_rows(
            np.isposinf(logp_NK) | np.all(np.isneginf(logp_NK), 1)[:, None], logp_NK, "finite log-probabilities"
        )
        if normalise:
            logp_NK = logp_NK - np.logaddexp.reduce(logp_NK, axis=1, keepdims=True)
        return cls._build(logp_NK, absent_NK, answer, ids, subjects, columns, split, provenance, logmass)

    @classmethod
    def _build(
        cls,
        logp_NK: np.ndarray,
        absent_NK: np.ndarray,
        answer: np.ndarray | Sequence[int],
        ids: Sequence[str] | None,
        subjects: Sequence[str | None] | None,
        columns: Mapping[str, Sequence[Any]] | None,
        split: str,
        provenance: Mapping[str, Any] | None,
        logmass: np.ndarray | Sequence[float] | None = None,
    ) -> Scores:
        n = len(logp_NK)
        _refuse_rows(absent_NK[:, :-1] & ~absent_NK[:, 1:], logp_NK, "absent options (nan) after the present ones")
        try:
            answer_N = np.asarray(answer)
        except ValueError:
            answer_N = np.asarray(answer, dtype=object)
        if answer_N.ndim != 1:
            raise ScoresError(
                asked="one integer answer index a question",
                found=f"answers of shape {answer_N.shape}",
                todo="give a flat list, one index a question",
            )
        if answer_N.dtype.kind == "f" and np.all(answer_N == np.floor(answer_N)):
            answer_N = answer_N.astype(np.int64)
        if answer_N.dtype.kind not in "iu":
            raise ScoresError(
                asked="one integer answer index a question",
                found=f"answers of type {answer_N.dtype}",
                todo="give 0-based integers, e.g. 'ABCD'.index(letter)",
            )
        return cls(
            logp_NK=logp_NK,
            answer_N=answer_N.astype(np.int64),
            k_N=(~absent_NK).sum(1).astype(np.int64),
            logmass_N=np.full(n, np.nan) if logmass is None else np.asarray(logmass, dtype=np.float64),
            ids=tuple(str(i) for i in (range(n) if ids is None else ids)),
            subjects=(None,) * n if subjects is None else tuple(subjects),
            hashes=("",) * n,
            columns={k: tuple(v) for k, v in (columns or {}).items()},
            split=split,
            provenance=dict(provenance or {}),
        )

    # ---- what is derived ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.answer_N)

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(self.answer_N)

    @property
    def k(self) -> int:
        """Largest number of options."""
        return int(self.logp_NK.shape[1])

    @property
    def p_NK(self) -> np.ndarray:
        """Option probabilities, 0 where absent."""
        p_NK: np.ndarray = np.exp(self.logp_NK)
        return p_NK

    @property
    def prediction_N(self) -> np.ndarray:
        """Index of the most probable option; ties go to the first."""
        prediction_N: np.ndarray = np.argmax(self.logp_NK, axis=1)
        return prediction_N

    @property
    def confidence_N(self) -> np.ndarray:
        """Probability of the predicted option."""
        confidence_N: np.ndarray = np.exp(np.max(self.logp_NK, axis=1))
        return confidence_N

    @property
    def correct_N(self) -> np.ndarray:
        """Whether the prediction is the answer (bool)."""
        correct_N: np.ndarray = self.prediction_N == self.answer_N
        return correct_N

    def select(self, index: np.ndarray | Sequence[int]) -> Scores:
        """The scores of some questions, by integer index or boolean mask, in the order given."""
        at = np.arange(self.n)[np.asarray(index)]
        return replace(
            self,
            logp_NK=self.logp_NK[at],
            answer_N=self.answer_N[at],
            k_N=self.k_N[at],
            logmass_N=self.logmass_N[at],
            ids=tuple(self.ids[i] for i in at),
            subjects=tuple(self.subjects[i] for i in at),
            hashes=tuple(self.hashes[i] for i in at),
            columns={name: tuple(values[i] for i in at) for name, values in self.columns.items()},
        )

    # ---- on disk ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: arrays, text columns as UTF-8 JSON bytes, provenance and a checksum.

        Written to a temporary name and renamed, so a file under its final name is always whole.
        """
        path = Path(path)
        text = {"ids": self.ids, "subjects": self.subjects, "hashes": self.hashes, "columns": dict(self.columns)}
        tensors = {
            "logp_NK": np.ascontiguousarray(self.logp_NK),
            "answer_N": np.ascontiguousarray(self.answer_N),
            "k_N": np.ascontiguousarray(self.k_N),
            "logmass_N": np.ascontiguousarray(self.logmass_N),
            "text": np.frombuffer(json.dumps(text, default=_plain).encode(), dtype=np.uint8).copy(),
        }
        head = {"version": FORMAT_VERSION, "split": self.split, "provenance": dict(self.provenance)}
        head["sha256"] = _checksum(tensors, head)
        # one entry, because safetensors writes several in any order: equal scores are equal bytes
        metadata = {FORMAT: json.dumps(head, sort_keys=True)}
        write_atomically(path, safetensors.numpy.save(tensors, metadata=metadata))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read a file that :meth:`save` wrote; a damaged, foreign or newer file is refused."""
        path = Path(path)
        asked = f"scores from {path}"
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise ScoresError(asked=asked, found=found, todo="name a file that `calibrant score` made")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = dict(file.metadata() or {})
                ours = file.keys() if FORMAT in metadata else ()  # of other files, such as a model's, nothing is read
                tensors = {key: file.get_tensor(key) for key in ours}
        except (safetensors.SafetensorError, OSError) as error:
            table = path.suffix in (".csv", ".tsv", ".parquet", ".json", ".jsonl")
            more = f", or read a table by `calibrant score --from-table {path} --out FILE`" if table else ""
            raise ScoresError(
                asked=asked, found=f"not a readable scores file ({error})", todo=f"score again{more}"
            ) from error
        head = _head(metadata, asked)
        if not 0 < head.get("version", 0) <= FORMAT_VERSION:
            raise ScoresError(
                asked=asked,
                found=f"{FORMAT} version {head.get('version')}"
                if head
                else f"metadata {sorted(metadata)}, no {FORMAT}",
                todo=f"give a file that calibrant wrote, of version {FORMAT_VERSION} or older, or upgrade calibrant",
            )
        wanted = head.pop("sha256", "")
        if _checksum(tensors, head) != wanted:
            raise ScoresError(asked=asked, found="its checksum does not fit its content", todo="score again")
        text = json.loads(tensors["text"].tobytes())
        return cls(
            logp_NK=tensors["logp_NK"],
            answer_N=tensors["answer_N"],
            k_N=tensors["k_N"],
            logmass_N=tensors["logmass_N"],
            ids=tuple(text["ids"]),
            subjects=tuple(text["subjects"]),
            hashes=tuple(text["hashes"]),
            columns={name: tuple(values) for name, values in text["columns"].items()},
            split=head["split"],
            provenance=head["provenance"],
        )


def _plain(value: Any) -> Any:
    """A numpy scalar of a column as a number."""
    if isinstance(value, np.generic):
        return value.item()
    raise ScoresError(
        asked="columns that can be kept",
        found=f"{value!r}, a {type(value).__name__}",
        todo="give texts, numbers, truth values or None",
    )


def _head(metadata: Mapping[str, str], asked: str) -> dict[str, Any]:
    try:
        head = json.loads(metadata.get(FORMAT, "{}"))
        if isinstance(head, dict) and isinstance(head.get("version", 0), int):
            return head
    except ValueError:
        pass
    raise ScoresError(asked=asked, found="damaged metadata", todo="score again")


def _checksum(tensors: Mapping[str, np.ndarray], head: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(head), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _as_matrix(values: Any, name: str) -> np.ndarray:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoresError(
            asked=f"{name} as a matrix of numbers, one row a question",
            found=str(error),
            todo="give every row the same length, with nan for options that a question does not have",
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] < 1 or matrix.shape[1] < 2:
        raise ScoresError(
            asked=f"{name} of shape (questions >= 1, options >= 2)",
            found=f"shape {matrix.shape}",
            todo="give one row a question and one column an option",
        )
    return matrix


def _refuse_rows(bad: Any, values: np.ndarray, asked: str) -> None:
    bad_N: np.ndarray = bad if bad.ndim == 1 else bad.any(1)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise ScoresError(
            asked=asked,
            found=f"{int(bad_N.sum())} of {len(bad_N)} rows break that; the first is row {row}: {values[row].tolist()}",
            todo="correct those rows, or leave them out",
        )


def _validate(s: Scores) -> None:
    n = len(s.answer_N)
    lengths = {
        "logp_NK": len(s.logp_NK),
        "k_N": len(s.k_N),
        "logmass_N": len(s.logmass_N),
        "ids": len(s.ids),
        "subjects": len(s.subjects),
        "hashes": len(s.hashes),
        **{f"columns[{name!r}]": len(values) for name, values in s.columns.items()},
    }
    wrong = {name: length for name, length in lengths.items() if length != n}
    if wrong:
        raise ScoresError(
            asked=f"{n} values in every column, as many as answers",
            found=", ".join(f"{length} in {name}" for name, length in wrong.items()),
            todo="give one value a question",
        )
    _as_matrix(s.logp_NK, "logp_NK")
    _refuse_rows(np.isnan(s.logp_NK), s.logp_NK, "log-probabilities that are numbers")
    _refuse_rows(
        s.logmass_N > 1e-6, s.logmass_N, "the log of the options' probability, 0 or less, or nan where unknown"
    )
    _refuse_rows((s.k_N < 2) | (s.k_N > s.k), s.k_N, "at least two options, at most one a column")
    absent_NK = np.arange(s.k) >= s.k_N[:, None]
    _refuse_rows(absent_NK & ~np.isneginf(s.logp_NK), s.logp_NK, "-inf where a question has no such option")
    total_N = np.exp(s.logp_NK).sum(1)
    _refuse_rows(np.abs(total_N - 1) > 1e-6, s.logp_NK, "rows normalised over the options")
    outside_N = (s.answer_N < 0) | (s.answer_N >= s.k_N)
    _refuse_rows(outside_N, s.answer_N, "an answer index between 0 and the question's number of options - 1")
