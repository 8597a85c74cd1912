"""``score``: a model and questions in, ``Scores`` out. Shape suffixes: N questions, K options."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from calibrant._version import __version__
from calibrant.errors import QuestionError, only_numbers
from calibrant.prompts import PromptStyle, Variant, given_style
from calibrant.questions import Question, QuestionSet, question_set
from calibrant.scores import Scores
from calibrant.scoring.models import LoadedModel, chat_template_facts, load_model, refuse_loading
from calibrant.scoring.options import encode
from calibrant.scoring.scorer import OptionScorer, evaluating


def score(
    model: str | Path | LoadedModel,
    questions: QuestionSet | Sequence[Question],
    *,
    style: PromptStyle | None = None,
    adapter: str | Path | None = None,
    batch_tokens: int | None = None,
    split: str = "",
    progress: bool = False,
    command: str | None = None,
    seed: int | None = None,
    **loading: Any,
) -> Scores:
    """Option log-probabilities of a causal language model (docs/decisions/001-option-probabilities.md).

    Letters: ``logp_k = log Σ_{alias of letter k} p(alias | prompt)``. Continuation: ``Σ_t log p(token_t of option k | …)``,
    or its variant. Both are then normalised over the options; ``logmass`` keeps what they had together before that.
    Logits are float32 whatever the model's precision, also where an adapter lies on the output head; an output head that is
    itself quantised computes as it does in use. Provenance names the model, the prompt and, for the chat formats, the chat
    template.

    Parameters
    ----------
    model : hub id, local folder, GGUF file, or a model already loaded with :func:`load_model`.
    questions : with unique ids; 2 to 26 options each, mixed as they come.
    style : reading, prompt format and variant; letters in a raw prompt by default.
    adapter : a peft adapter to put on the model.
    batch_tokens : budget of padded tokens in one forward pass; default 1,024 on a CPU, 16,384 on a GPU.
    split : name that the scores will carry.
    progress : draw a progress bar with the time left.
    command, seed : kept in the provenance.
    loading : further arguments of :func:`load_model` (``revision``, ``dtype``, ``device`` …).

    Raises
    ------
    ModelError : the model or tokenizer cannot do this; numbers that are not finite.
    QuestionError : no questions, an id twice, a question longer than the context.
    ConfigError : arguments of :func:`load_model` for a model that is already loaded; what is no model, style or
        number.
    """
    style = given_style(style, loading)
    return score_variants(
        model,
        questions,
        style=style,
        variants=(style.variant,),
        adapter=adapter,
        batch_tokens=batch_tokens,
        split=split,
        progress=progress,
        command=command,
        seed=seed,
        **loading,
    )[style.variant]


def score_variants(
    model: str | Path | LoadedModel,
    questions: QuestionSet | Sequence[Question],
    *,
    style: PromptStyle,
    variants: Sequence[Variant],
    adapter: str | Path | None = None,
    batch_tokens: int | None = None,
    split: str = "",
    progress: bool = False,
    command: str | None = None,
    seed: int | None = None,
    **loading: Any,
) -> dict[Variant, Scores]:
    """Scores in several variants of ``style``, by variant: each equals :func:`score` with it.

    The options' texts are scored once for all of them, and once more without the question for ``pmi``.

    Parameters
    ----------
    style : its own variant does not matter.
    variants : of :class:`calibrant.PromptStyle`.
    Others, and errors : as for :func:`score`.
    """
    only_numbers(whole=True, batch_tokens=batch_tokens)
    styles = {variant: replace(style, variant=variant) for variant in variants}
    questions = list(question_set(questions))
    if not questions:
        raise QuestionError(asked="scores", found="no questions", todo="give at least one")
    if not isinstance(model, LoadedModel):
        model = load_model(model, adapter=adapter, **loading)
    else:
        refuse_loading(model, {"adapter": adapter, **loading})
    encoded = encode(model.tokenizer, questions, style, context_length=model.context_length)
    scorer = OptionScorer(model.model, style, batch_tokens)
    with evaluating(model.model):
        route, deviation = scorer.self_test(encoded)
        joint_NK = scorer.joint(encoded, progress="scoring" if progress else None)
        read = {variant: scorer.read(joint_NK, encoded, variant) for variant in styles}
    facts = {
        **model.facts,
        "route": route,
        "batch_deviation": deviation,
        "versions": {
            "calibrant": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "command": command,
        "seed": seed,
    }
    found = {}
    for variant, one in styles.items():
        own = {**facts, "prompt": asdict(one), "prompt_digest": one.digest}
        own |= chat_template_facts(model, [one.format])
        found[variant] = scores_of(questions, *read[variant], split=split, provenance=own)
    return found


def with_questions(scores: Scores, questions: Sequence[Question]) -> Scores:
    """Earlier scores of these questions, with ids, subjects and columns as they have them now; of others, or of these with
    another answer, as they are. The content hash knows no order of options: the caller's digest of the questions does.
    """
    asked = [(q.content_hash, q.answer, len(q.choices)) for q in questions]
    if asked != list(zip(scores.hashes, scores.answer_N.tolist(), scores.k_N.tolist(), strict=True)):
        return scores
    return scores_of(
        questions, scores.logp_NK, scores.logmass_N, split=scores.split, provenance=dict(scores.provenance)
    )


def scores_of(
    questions: Sequence[Question],
    logp_NK: np.ndarray,
    logmass_N: np.ndarray,
    *,
    split: str = "",
    provenance: dict[str, Any] | None = None,
) -> Scores:
    """Put option log-probabilities together with what the questions know of themselves."""
    names = {name for q in questions for name in q.columns}
    columns = {name: tuple(q.columns.get(name) for q in questions) for name in sorted(names)}
    columns.setdefault("question_length", tuple(len(q.text) for q in questions))  # a column of the user's stays
    return Scores(
        logp_NK=logp_NK,
        answer_N=np.array([q.answer for q in questions], dtype=np.int64),
        k_N=np.array([len(q.choices) for q in questions], dtype=np.int64),
        logmass_N=logmass_N,
        ids=tuple(q.id for q in questions),
        subjects=tuple(q.subject for q in questions),
        hashes=tuple(q.content_hash for q in questions),
        columns=columns,
        split=split,
        provenance=provenance or {},
    )
