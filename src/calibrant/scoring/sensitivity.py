"""One model, one set of questions: other orders of the options, prompt formats, readings of option texts. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from calibrant.diagnosis.formats import FormatSensitivity, format_sensitivity
from calibrant.diagnosis.sensitivity import OrderSensitivity, order_sensitivity
from calibrant.errors import ConfigError, ModelError, QuestionError, only_numbers
from calibrant.files import alone, claim_folder, refuse_further_process, write_json
from calibrant.metrics.bins import check_settings
from calibrant.orders import cyclic_permutations
from calibrant.prompts import PromptStyle, Variant, given_style
from calibrant.questions import QuestionSet
from calibrant.scores import Scores
from calibrant.scoring.models import LoadedModel, load_model, refuse_loading, run_identity
from calibrant.scoring.run import score, score_variants, scores_of

FORMATS = ("raw", "chat", "chat-prefix")
VARIANTS: tuple[Variant, ...] = get_args(Variant)


class FormatScores(NamedTuple):
    """Scores by format, and the formats left out with the reason."""

    scores: dict[str, Scores]
    left_out: dict[str, str]


class Sensitivity(NamedTuple):
    """What :func:`sensitivity` found; ``None`` for a part that was not asked."""

    orders: OrderSensitivity | None
    formats: FormatSensitivity | None
    variants: FormatSensitivity | None


def score_orders(
    model: str | Path | LoadedModel,
    questions: QuestionSet,
    *,
    style: PromptStyle | None = None,
    shifts: int | None = None,
    **settings: Any,
) -> tuple[Scores, ...]:
    """Scores of the questions with their options in cyclic orders, for ``order_sensitivity``; item s is shift s.

    Parameters
    ----------
    model : as for :func:`calibrant.score`; loaded once.
    questions : two or more options each.
    style : letters only; the options of a continuation are not shown.
    shifts : number of orders, 2 or more. By default the largest number of options, so that every option of every question
        stands at every position. An order that a question with fewer options had already is copied, not scored again, so
        the cost is at most ``sum_i K_i`` prompts.
    settings : further arguments of :func:`calibrant.score`.

    Raises
    ------
    ConfigError : a continuation, or fewer than two orders. Otherwise as :func:`calibrant.score`.
    """
    style = given_style(style, settings)
    n_orders = _n_orders(style, questions, shifts)
    return _Scorer(model, style, None, settings).orders(questions, n_orders)


def score_formats(
    model: str | Path | LoadedModel,
    questions: QuestionSet,
    *,
    style: PromptStyle | None = None,
    formats: Sequence[str] = FORMATS,
    **settings: Any,
) -> FormatScores:
    """Scores of the questions in several prompt formats, for ``format_sensitivity``.

    Chat formats are left out, with the reason, where the tokenizer has no chat template. A system message of ``style`` is
    used in the chat formats alone.

    Parameters
    ----------
    model, questions, settings : as for :func:`score_orders`.
    style : reading, variant and system message; its own format does not matter.
    formats : of :class:`calibrant.PromptStyle`, in the order in which they are shown.

    Raises
    ------
    ConfigError : a format that does not exist or does not fit the reading. ModelError : no format is left.
    """
    return _Scorer(model, given_style(style, settings), None, settings).formats(questions, formats)


def sensitivity(
    model: str | Path,
    questions: QuestionSet,
    *,
    out: str | Path,
    style: PromptStyle | None = None,
    shifts: int | None = None,
    formats: Sequence[str] = FORMATS,
    variants: Sequence[Variant] | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
    command: str | None = None,
    split: str = "",
    analysis: Mapping[str, Any] | None = None,
    **loading: Any,
) -> Sensitivity:
    """How much the way of asking does to a model's numbers, in a folder; called again with the same arguments, it goes on.

    ::

        OUT/run.json                       what this run is
        OUT/FORMAT-shift-S.safetensors     scores of one format and one order
        OUT/FORMAT-VARIANT.safetensors     scores of another reading of the options' texts
        OUT/averaged.safetensors           probabilities averaged over the orders
        OUT/sensitivity.json               the numbers

    Parameters
    ----------
    model : hub id, local folder or GGUF file.
    questions, style : as for :func:`score_orders`; the orders are asked in the format of ``style``.
    out : folder of the run.
    shifts : number of orders; 1 leaves the orders out, ``None`` is the rule of :func:`score_orders`, and none for a
        continuation, whose options are not shown.
    formats : a single one leaves the comparison of formats out.
    variants : readings of a continuation, in the format of ``style``; a single one leaves their comparison out. All by default,
        from one pass and another without the question; letters have none, nor has a chat format without a template.
    batch_tokens, progress, command, split : as for :func:`calibrant.score`.
    analysis : ``n_bins``, ``n_boot``, ``level``, ``seed`` of the analyses.
    loading : further arguments of :func:`calibrant.load_model`.

    Raises
    ------
    ConfigError : nothing to compare, or ``out`` holds another run, or another process is at work there, or this is a further
    process of a run of several. Otherwise as the two functions above.
    """
    refuse_further_process("a sensitivity run")
    style, folder, analysis = given_style(style, loading), Path(out), dict(analysis or {})
    check_settings(**{"n_bins": 10, "n_boot": 1000, "level": 0.95, **analysis})  # before anything is scored
    texts = style.reading == "continuation"
    named = variants is not None
    variants = variants if variants is not None else VARIANTS if texts else ()
    by_order, by_format = shifts != 1 and not (texts and shifts is None), len(set(formats)) > 1
    by_variant = len(set(variants)) > 1
    if not (by_order or by_format or by_variant):
        raise ConfigError(
            asked="sensitivity",
            found="one order, one format and one variant",
            todo="give two orders, formats or variants to compare",
        )
    n_orders = _n_orders(style, questions, shifts) if by_order else 1
    _styles(style, formats)
    for variant in variants:
        replace(style, variant=variant)
    identity = {
        **run_identity(model, style, loading, formats=formats),
        "orders": n_orders,
        "formats": list(dict.fromkeys(formats)),
        "questions": {"n": len(questions), "digest": questions.digest, "ids": [q.id for q in questions]},
    }
    claim_folder(folder, identity, "sensitivity run")
    settings = {**loading, "batch_tokens": batch_tokens, "progress": progress, "command": command, "split": split}
    with alone(folder, "sensitivity run"):
        scorer = _Scorer(model, style, folder, settings)
        orders = order_sensitivity(scorer.orders(questions, n_orders), **analysis) if by_order else None
        asked = read = None
        if by_variant and (named or not by_format or scorer.can_ask(style)):
            read = format_sensitivity(scorer.variants(questions, variants), aspect="variant", **analysis)
        if by_format:
            scores, left_out = scorer.formats(questions, formats)
            asked = format_sensitivity(scores, left_out=left_out, **analysis)
        if orders is not None:
            orders.averaged.save(folder / "averaged.safetensors")
        found = Sensitivity(orders, asked, read)
        write_json(folder / "sensitivity.json", to_json(found))
        return found


def to_json(found: Sensitivity) -> dict[str, Any]:
    """One JSON object, ``None`` for a part that was not asked."""
    return {name: None if part is None else part.to_json() for name, part in found._asdict().items()}


@dataclass
class _Scorer:
    """Scores with one model, loaded when it is first needed, and keeps each result in ``folder``."""

    model: str | Path | LoadedModel
    style: PromptStyle
    folder: Path | None
    settings: dict[str, Any]
    scoring: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        own = ("batch_tokens", "split", "progress", "command", "seed")
        self.scoring = {name: self.settings.pop(name) for name in own if name in self.settings}
        if isinstance(self.model, LoadedModel):
            refuse_loading(self.model, self.settings)

    def orders(self, questions: QuestionSet, n_orders: int) -> tuple[Scores, ...]:
        done: list[Scores] = []
        for shift, turned in enumerate(cyclic_permutations(questions, n_orders)):
            done.append(self._kept(self.style, shift, lambda t=turned, s=shift: self._order(t, s, done)))  # type: ignore[misc]
        return tuple(done)

    def formats(self, questions: QuestionSet, formats: Sequence[str]) -> FormatScores:
        scores: dict[str, Scores] = {}
        left_out: dict[str, str] = {}
        for style in _styles(self.style, formats):
            if not self.can_ask(style):
                left_out[style.format] = "the tokenizer has no chat template"
            else:
                scores[style.format] = self._kept(style, 0, lambda s=style: self._score(questions, s))  # type: ignore[misc]
        if not scores:
            raise ModelError(
                asked=f"scores in the formats {', '.join(formats)}",
                found="the tokenizer has no chat template",
                todo="add the format raw, or use a tokenizer with a chat template",
            )
        return FormatScores(scores, left_out)

    def can_ask(self, style: PromptStyle) -> bool:
        """Whether the scores are there, or the tokenizer has what the format needs."""
        known = self.folder is not None and self._path(style, 0).exists()
        return known or not style.format.startswith("chat") or self._has_template()

    def variants(self, questions: QuestionSet, variants: Sequence[Variant]) -> dict[str, Scores]:
        assert self.folder is not None
        paths = {variant: self.folder / f"{self.style.format}-{variant}.safetensors" for variant in variants}
        if self.style.variant in paths:  # what the comparison of formats reads too
            paths[self.style.variant] = self._path(self.style, 0)
        lacking = [variant for variant, path in paths.items() if not path.exists()]
        if lacking:
            made = score_variants(self._loaded(), questions, style=self.style, variants=lacking, **self.scoring)
            for variant, scores in made.items():
                scores.save(paths[variant])
        return {str(variant): Scores.load(path) for variant, path in paths.items()}

    def _order(self, turned: QuestionSet, shift: int, done: Sequence[Scores]) -> Scores:
        """Scores of one shift: new orders by the model, orders that a question had from the shift that had them."""
        k_N = np.array([len(q.choices) for q in turned])
        fresh_N = np.flatnonzero(k_N > shift)
        new = self._score(turned.subset(fresh_N), self.style)
        logp_NK, logmass_N = np.full((len(turned), int(k_N.max())), -np.inf), np.empty(len(turned))
        logp_NK[fresh_N, : new.k], logmass_N[fresh_N] = new.logp_NK, new.logmass_N
        for i in np.flatnonzero(k_N <= shift):
            before = done[shift % k_N[i]]
            logp_NK[i], logmass_N[i] = before.logp_NK[i], before.logmass_N[i]
        facts = {**new.provenance, "option_shift": shift}
        return scores_of(list(turned), logp_NK, logmass_N, split=new.split, provenance=facts)

    def _score(self, questions: QuestionSet, style: PromptStyle) -> Scores:
        return score(self._loaded(), questions, style=style, **self.scoring)

    def _loaded(self) -> LoadedModel:
        if not isinstance(self.model, LoadedModel):
            self.model = load_model(self.model, **self.settings)
        return self.model

    def _has_template(self) -> bool:
        return bool(getattr(self._loaded().tokenizer, "chat_template", None))

    def _path(self, style: PromptStyle, shift: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{style.format}-shift-{shift}.safetensors"

    def _kept(self, style: PromptStyle, shift: int, make: Callable[[], Scores]) -> Scores:
        if self.folder is None:
            return make()
        path = self._path(style, shift)
        if not path.exists():
            make().save(path)
        return Scores.load(path)


def _n_orders(style: PromptStyle, questions: QuestionSet, shifts: int | None) -> int:
    """The number of orders asked, or by default the largest number of options."""
    asked = "sensitivity to the order of the options"
    if not len(questions):
        raise QuestionError(asked=asked, found="no questions", todo="give at least one")
    if style.reading == "continuation":
        raise ConfigError(
            asked=asked,
            found="reading 'continuation' does not show the options, so their order cannot matter",
            todo="read letters, or give one permutation to compare formats alone",
        )
    only_numbers(whole=True, shifts=shifts)
    most = max(len(q.choices) for q in questions)
    if shifts is not None and not 2 <= shifts <= most:
        raise ConfigError(
            asked=f"{asked} from {shifts} orders",
            found=f"questions of up to {most} options have 2 to {most} cyclic orders",
            todo="give a number in between, or none for all",
        )
    return shifts or most


def _styles(style: PromptStyle, formats: Sequence[str]) -> list[PromptStyle]:
    return [
        replace(style, format=name, system=style.system if name.startswith("chat") else None)  # type: ignore[arg-type]
        for name in dict.fromkeys(formats)
    ]
