"""What every scaler is: fitted on some questions, applied to others, kept as JSON."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, final

import numpy as np
from scipy.special import bdtrc

from calibrant.errors import ConfigError, LeakageError
from calibrant.metrics.comparison import align
from calibrant.metrics.measurement import only_scores
from calibrant.provenance import told_apart
from calibrant.scores import Scores


class Scaler(ABC):
    """A map ``Scores -> Scores`` that remembers its fit questions and refuses them, as results on them would be optimistic.

    Attributes
    ----------
    name : its name in JSON, in the provenance and on the command line.
    needs_reference : whether ``fit`` needs another model's scores of the same questions.
    uses_answers : whether ``fit`` looks at the answers.
    n_fit_ : questions fitted on; 0 before.
    fitted_on_ : facts of the scores fitted on, as far as their provenance tells: whose they are and how they were read.
    """

    name: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    uses_answers: ClassVar[bool] = True

    def __init__(self) -> None:
        self.n_fit_ = 0
        self.fitted_on_: dict[str, Any] = {}
        self._fit_keys: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """In a line: what was learned, as far as it is single numbers; :meth:`described` has the rest."""
        if not self.n_fit_:
            return f"<{type(self).__name__}: not fitted>"
        numbers = {name: value for name, value in self._learned().items() if isinstance(value, int | float) and value}
        learned = (
            name if value is True else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in numbers.items()
        )
        return f"<{type(self).__name__}: {', '.join([*learned, f'fitted on {self.n_fit_} questions'])}>"

    @final
    def fit(self, scores: Scores, *, reference: Scores | None = None) -> Self:
        """Learn from ``scores``; returns itself.

        Parameters
        ----------
        scores : questions to learn from.
        reference : another model's scores of the same questions, in any order; for scalers that need it, and only them.

        Raises
        ------
        ConfigError : a reference that is missing, or one that would not be used.
        ScoresError : nothing can be learned from these scores, or the reference is of other questions.
        """
        only_scores("a fit", *(one for one in (scores, reference) if one is not None))
        if self.needs_reference != (reference is not None):
            raise ConfigError(
                asked=f"the scaler {self.name!r} fitted",
                found="no reference scores" if reference is None else "reference scores, which it does not use",
                todo="give reference=, the base model's scores of the same questions"
                if reference is None
                else "leave out",
            )
        self._learn(scores, None if reference is None else align(scores, reference)[0])
        self.n_fit_, self._fit_keys = scores.n, frozenset([*question_keys(scores), *_id_keys(scores)])
        self.fitted_on_ = {name: scores.provenance[name] for name in FACTS if name in scores.provenance}
        return self

    @final
    def apply(self, scores: Scores, *, allow_fit_rows: bool = False) -> Scores:
        """A rescaled copy of other scores; what the scaler is goes into the provenance, with what was applied before it.
        Warns where these are of another model than those fitted on, were read in another way, or rescaled before.

        Raises
        ------
        ConfigError : not fitted yet.
        LeakageError : some questions were fitted on, unless ``allow_fit_rows`` (for use, never for evaluation).
        ScoresError : scores of a kind that nothing was learned about.
        """
        only_scores("a rescaling", scores)
        if not self.n_fit_:
            raise ConfigError(
                asked=f"the scaler {self.name!r} applied", found="none fitted", todo="call fit(scores) first"
            )
        seen = [] if allow_fit_rows else self._seen(scores)
        if any(seen):
            todo = "fit on other questions, such as a calibration split, or cross-validate (Python: cross_validated)"
            raise LeakageError(
                asked=f"{scores.n} questions rescaled",
                found=f"{sum(seen)} of them were used to fit the scaler, first {scores.ids[seen.index(True)]!r}",
                todo=todo
                + (", or give the tables an id column where these are others" if _may_count_rows(scores) else ""),
            )
        if apart := self._unlike(scores.provenance):
            warnings.warn(
                f"what a scaler learned holds for scores like those that it was fitted on; {'; '.join(apart)}",
                stacklevel=2,
            )
        earlier = scores.provenance.get("scaler")
        described = self.described() if earlier is None else {**self.described(), "after": earlier}
        provenance = {**scores.provenance, "scaler": described}
        return replace(scores, logp_NK=self._rescaled(scores), provenance=provenance)

    def _unlike(self, provenance: Mapping[str, Any]) -> list[str]:
        """In words, how these scores differ from those fitted on, where both record it. Of a model's scores, no word on
        quantisation means that it is not quantised, and none on a temperature of an export that there is none.
        """
        fitted, here = (
            {"quantized": None, "served_temperature": 1.0, **facts} if "adapter_weights" in facts else facts
            for facts in (self.fitted_on_, provenance)
        )
        apart = told_apart(fitted, here, HOLDS_FOR, ("where it was fitted", "here"))
        earlier = fitted.get("scaler"), here.get("scaler")
        if fitted and earlier[0] != earlier[1]:
            where = "where it was fitted" if earlier[1] is None else "where it is applied"
            apart.append(f"rescaled already {where}" if None in earlier else "rescaled already, in another way")
        return apart

    def _seen(self, scores: Scores) -> list[bool]:
        """Which questions were fitted on: by their texts where both sides know these; else by ids, which tell also under other
        scores; else by equal rows.
        """
        alike = [key in self._fit_keys for key in question_keys(scores)]
        if any(scores.hashes) and any(len(key) == HASH_DIGITS for key in self._fit_keys):
            return alike
        shared = self._seen_by_ids(scores)
        return shared if any(shared) else self._seen_by_rows(scores, alike)

    def _seen_by_ids(self, scores: Scores) -> list[bool]:
        """Shared ids, where each has the same answer, and that is as unlikely by chance as :data:`SURE` says."""
        ids = _id_keys(scores)
        shared = [key in self._fit_keys for key in ids[::2]]
        agree = [key in self._fit_keys for key in ids[1::2]]
        sure = shared == agree and _chance_of_answers(scores, np.array(shared, dtype=bool)) <= SURE
        return shared if sure else [False] * scores.n

    def _seen_by_rows(self, scores: Scores, alike: list[bool]) -> list[bool]:
        """Rows equal in id, answer and scores. Where ids are numbers, and so say little, only if all that can be equal are, or
        more than chance explains in rows without an order.
        """
        equal, most = sum(alike), min(scores.n, self.n_fit_)
        if _may_count_rows(scores) and equal < most and bdtrc(equal - 1, most, _chance_of_equal_rows(scores)) > SURE**2:
            return [False] * scores.n
        return alike

    @final
    def described(self) -> dict[str, Any]:
        """Plain JSON of what was learned, without the digests of the fit questions."""
        return {"name": self.name, **self._learned(), "n_fit": self.n_fit_}

    def cautions(self) -> tuple[str, ...]:
        """What a user of the fitted scaler must know, in words: questions left out of the fit, an end of its range."""
        left_out = getattr(self, "n_left_out_", 0)
        if not left_out:
            return ()
        return (
            f"{left_out} of the {self.n_fit_} questions fitted on were left out: their answer has probability 0, which "
            f"the scaler {self.name!r} cannot mend",
        )

    @final
    def to_json(self) -> dict[str, Any]:
        """Plain JSON: what was learned, facts of the scores fitted on, and digests of the fit questions, which a loaded scaler
        still refuses.
        """
        return {**self.described(), "fitted_on": self.fitted_on_, "fit_keys": sorted(self._fit_keys)}

    @final
    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The scaler that :meth:`to_json` wrote.

        Raises
        ------
        ConfigError : another kind of scaler, a missing key, or a value out of its range.
        """
        try:
            if values["name"] != cls.name:
                raise ValueError(f"it is named {values['name']!r}")
            scaler = cls._restored(values)
            scaler.n_fit_ = int(number(values["n_fit"], 1, np.inf))
            scaler.fitted_on_ = dict(values.get("fitted_on") or {})
            if not isinstance(scaler.fitted_on_.get("scaler", {}), Mapping):
                raise TypeError(f"{scaler.fitted_on_['scaler']!r} is not a scaler")
            scaler._fit_keys = frozenset(str(key) for key in values["fit_keys"])
        except (KeyError, TypeError, ValueError) as error:
            missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigError(
                asked=f"the scaler {cls.name!r} from JSON",
                found=missing,
                todo=f"give what {cls.__name__}.to_json() wrote",
            ) from error
        return scaler

    @abstractmethod
    def _learn(self, scores: Scores, reference: Scores | None) -> None:
        """Set the learned attributes; ``reference`` is in the order of ``scores``."""

    @abstractmethod
    def _rescaled(self, scores: Scores) -> np.ndarray:
        """New log-probabilities, normalised over the options of each row, (N, K)."""

    @abstractmethod
    def _learned(self) -> dict[str, Any]:
        """The learned attributes as plain JSON."""

    @classmethod
    @abstractmethod
    def _restored(cls, values: Mapping[str, Any]) -> Self:
        """A scaler with the learned attributes of ``values``; KeyError, TypeError or ValueError where they are bad."""


HOLDS_FOR = (
    *("model", "revision", "weights", "adapter", "adapter_weights", "quantized", "prompt", "chat_template"),
    "served_temperature",
)
"""Facts of scores that a scaler holds for."""
FACTS = (*HOLDS_FOR, "prompt_digest", "source", "url", "scaler")
"""Keys of a provenance that name the model, how it was read, and an earlier rescaling."""
SURE = 0.001
"""Chance below which answers that agree under the same ids are taken for the same questions: ten of two even options."""
HASH_DIGITS = 16  # of a content hash; the digests made here have more


def question_keys(scores: Scores) -> list[str]:
    """What tells one question from another: its content hash; where that is unknown, a digest of id, answer and
    scores to six decimals, beyond which they depend on the processor.
    """
    rounded_NK = np.round(scores.logp_NK, 6) + 0.0  # no -0
    return [
        known or hashlib.sha256(f"{name}\0{answer}\0".encode(errors="surrogatepass") + row_K.tobytes()).hexdigest()[:24]
        for known, name, answer, row_K in zip(scores.hashes, scores.ids, scores.answer_N, rounded_NK, strict=True)
    ]


def _id_keys(scores: Scores) -> list[str]:
    """Digests of the ids, each followed by that of id, answer and number of options; none where the ids are row numbers."""
    if _counts_rows(scores.ids):
        return []
    rows = zip(scores.ids, scores.answer_N, scores.k_N, strict=True)
    texts = [text for name, y, k in rows for text in (f"id\0{name}", f"id\0{name}\0{y}\0{k}")]
    return [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24] for text in texts]


def _counts_rows(ids: tuple[str, ...]) -> bool:
    """Whether the ids count the rows, from 0 or 1."""
    return any(ids == tuple(map(str, range(start, start + len(ids)))) for start in (0, 1))


def _may_count_rows(scores: Scores) -> bool:
    """Whether the ids may be numbers of rows, or of some of them."""
    return not any(scores.hashes) and all(name.isdecimal() for name in scores.ids)


def _chance_of_answers(scores: Scores, shared_N: np.ndarray) -> float:
    """How likely answers drawn as often as they are right here would agree with all the shared ones; 1 where none is shared."""
    if not shared_N.any():
        return 1.0
    answers = list(zip(scores.answer_N[shared_N], scores.k_N[shared_N], strict=True))
    of_k = Counter(k for _, k in answers)
    return float(np.prod([count / of_k[k] for (_, k), count in Counter(answers).items() for _ in range(count)]))


def _chance_of_equal_rows(scores: Scores) -> float:
    """How often two of these rows are equal in answer and scores to six decimals; never 0, as few rows cannot tell."""
    rows_N = np.column_stack([np.round(scores.logp_NK, 6) + 0.0, scores.answer_N])
    _, count_U = np.unique(rows_N, axis=0, return_counts=True)
    return float(((count_U * (count_U - 1)).sum() / 2 + 1) / (scores.n * (scores.n - 1) / 2 + 1))


def normalised(logit_NK: np.ndarray) -> np.ndarray:
    """Log-softmax of each row, (N, K); ``-inf`` stays."""
    return np.asarray(logit_NK - np.logaddexp.reduce(logit_NK, axis=1, keepdims=True))


def number(value: Any, low: float, high: float) -> float:
    """A number from JSON, ``low <= value <= high``; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not low <= value <= high:
        raise ValueError(f"{value!r} is outside [{low:g}, {high:g}]")
    return float(value)


def array(values: Any, *shape: int) -> np.ndarray:
    """A finite array from JSON, of this shape (-1 for any length); else TypeError or ValueError."""
    found = np.asarray(values, dtype=np.float64)
    fits = found.ndim == len(shape) and all(s in (-1, f) for s, f in zip(shape, found.shape, strict=False))
    if not fits or not np.isfinite(found).all():
        raise ValueError(f"finite numbers of shape {shape} are wanted, found shape {found.shape}: {values!r}"[:200])
    return found


def strings(values: Any) -> tuple[str, ...]:
    """A list of strings from JSON; else TypeError."""
    if not isinstance(values, Sequence) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} is not a list of strings")
    return tuple(values)
