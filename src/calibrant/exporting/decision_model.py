"""An export as a decision model: ``transformers`` answers typed questions with its probabilities, the temperature included.

``decision.json`` holds the letters' tokens and the temperature, ``decision_template.jinja`` the measured prompt. With them
``pipeline("decision", …)`` and ``transformers serve`` (POST /v1/systemone) read what ``reader.py`` reads, but for what
docs/serving.md lists: above all, of a letter's tokens (``" A"``, ``"A"``) they read one, and logits come in the precision
of the weights. The check against the measured probabilities contains that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.pipelines import pipeline

from calibrant.errors import ModelError
from calibrant.exporting.portable import OPTION_LINE
from calibrant.files import write_atomically, write_json
from calibrant.importing.systemone import NAME, answered, request_of
from calibrant.metrics import drift
from calibrant.progress import track
from calibrant.prompts import LETTERS, PromptStyle
from calibrant.questions import Question, QuestionSet
from calibrant.scores import Scores
from calibrant.scoring.options import encode, tokens_of
from calibrant.scoring.templates import chat_template_of

CONFIG, TEMPLATE = "decision.json", "decision_template.jinja"
KINDS = ("choice", "score", "noul")
PROBE = Question("probe", "THE QUESTION ITSELF", tuple(f"OPTION {letter}" for letter in LETTERS), 0)
MISREAD = 0.05
"""Movement between two readings of the same tokens that is more than the rounding of 16-bit logits."""
REFUSALS = (
    *(TemplateError, ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError),
    ValueError,
)

_TEMPLATE = """\
{{%- macro text(x) %}}{{{{ "" if x is none else x|trim if x is string else x|tojson }}}}{{% endmacro -%}}
{{%- set ns = namespace(lines=[]) -%}}
{{%- for given in question.options -%}}
{{%- set option = given|trim -%}}
{{%- set said = text(question.descriptions[loop.index0]) -%}}
{{%- set shown = said if question.type == "score" else option ~ ": " ~ said if said else option -%}}
{{%- set ns.lines = ns.lines + [question.labels[loop.index0]|trim ~ {between} ~ shown] -%}}
{{%- endfor -%}}
{{{{- {before} ~ [text(state), text(question.instructions)]|select|join("\\n") ~ {middle} ~ ns.lines|join("\\n") ~ {after} -}}}}
"""


@dataclass(frozen=True)
class Measured:
    """What was measured: the questions, and the scores of the model before the export at the temperature that is served."""

    questions: QuestionSet
    scores: Scores


def make_decision_model(
    folder: Path,
    style: PromptStyle,
    temperature: float,
    *,
    measured: Measured | None = None,
    tolerance: float,
    allow_drift: bool = False,
    trust_remote_code: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Write both files into an export of merged weights and try them; without them, say why: ``{"why_not": …}``.

    Tried are one made-up question, against a plain forward pass over the same tokens, and the measured questions, against
    their scores (:func:`calibrant.metrics.drift`).

    Parameters
    ----------
    folder : with weights and tokenizer.
    style : how questions were put and read when the model was measured.
    temperature : what the reader applies; 1 where it is folded into the weights.
    measured, tolerance, allow_drift : as for the drift check of an export.
    """
    why_not = found = server = None
    differ: list[str] = []
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    try:
        why_not = _write(folder, tokenizer, style, temperature)
        if why_not is None:
            decide = decision_pipeline(folder, device=device, trust_remote_code=trust_remote_code)
            server = _refused_by_the_server(decide.model.config)
            why_not = _misread(decide, tokenizer, style, temperature)
        if why_not is None and measured is not None:
            differ = _prompts_that_differ(decide, tokenizer, measured.questions, style)
            after = decided(decide, measured.questions, progress=progress)
            found = drift(measured.scores, after, tolerance=tolerance)
            if not found.is_faithful and not allow_drift:
                why_not = f"read so, it moves by {found.movement:.2g}, and {tolerance:g} is allowed"
    except ModelError as error:  # an export does without this step
        why_not = error.found
    if why_not is not None:
        for name in (CONFIG, TEMPLATE):
            (folder / name).unlink(missing_ok=True)
        return {"why_not": why_not}
    return {
        "files": [CONFIG, TEMPLATE],
        "drift": None if found is None else found.to_json(),
        "prompts_that_differ": differ,
        "not_by_the_server": server,
    }


def decision_pipeline(folder: Path, *, device: str = "cpu", trust_remote_code: bool = False) -> Any:
    """The folder's model behind ``pipeline("decision")``.

    The model is loaded first: by name alone transformers takes some architectures (Qwen2, Gemma 4) for models with a
    decision head of their own and makes one up, with new weights.
    """
    loading: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with _refusals():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **loading).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, **loading)
        return pipeline("decision", model=model, tokenizer=tokenizer, device=model.device)


def decided(decide: Any, questions: Sequence[Question], *, progress: bool = False) -> Scores:
    """What a decision pipeline says to the questions, each asked as one choice."""
    asked = track(questions, "asking as a decision model" if progress else None, total=len(questions), size=lambda _: 1)
    requests = map(request_of, asked)
    with _refusals():
        given = [decide(request)[NAME]["probabilities"] for request in requests]
    return answered(questions, given, asked="the decisions of the export")


@contextmanager
def _refusals() -> Iterator[None]:
    """Around code of transformers or of the model alone: what it raises becomes a :class:`ModelError`."""
    try:
        yield
    except REFUSALS as error:
        raise ModelError(
            asked="the export as a decision model",
            found=f"transformers refused ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
            todo="read its probabilities with reader.py",
        ) from error


def _write(folder: Path, tokenizer: Any, style: PromptStyle, temperature: float) -> str | None:
    if style.reading != "letters":
        return "a decision server reads one token an option, and here the options' texts are read"
    template = decision_template(tokenizer, style)
    if template is None:
        return "the tokenizer's chat template changes the text that it is given"
    (encoded,) = encode(tokenizer, [PROBE], style)
    texts = style.render(PROBE, chat_template_of(tokenizer)).options
    labels = [_label(tokenizer, options[0][0], text) for options, text in zip(encoded.options, texts, strict=True)]
    if not all(labels):
        letter = LETTERS[labels.index(None)]
        return f"the token of the letter {letter} after the prompt is not what the tokenizer makes of it alone"
    served = {} if temperature == 1 else dict.fromkeys(KINDS, temperature)
    write_json(folder / CONFIG, {"labels": dict.fromkeys(KINDS, labels), "temperature": served})
    write_atomically(folder / TEMPLATE, template)
    return None


def _misread(decide: Any, tokenizer: Any, style: PromptStyle, temperature: float) -> str | None:
    """Why the pipeline's answer to one question is not that of a plain forward pass over the measured tokens."""
    (encoded,) = encode(tokenizer, [PROBE], style)
    if _prompts_that_differ(decide, tokenizer, [PROBE], style):
        return "transformers makes other tokens of the prompt than were measured"
    with torch.inference_mode(), _refusals():
        ids = torch.tensor([encoded.prompt], device=decide.model.device)
        logits_V = decide.model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()
    wanted_K = torch.softmax(logits_V[[option[0][0] for option in encoded.options]] / temperature, 0).numpy()
    moved = 0.5 * float(np.abs(decided(decide, [PROBE]).p_NK[0] - wanted_K).sum())
    return (
        None if moved <= MISREAD else f"transformers reads it at another place (movement {moved:.2g} on one question)"
    )


def _prompts_that_differ(decide: Any, tokenizer: Any, questions: Sequence[Question], style: PromptStyle) -> list[str]:
    """Ids of the questions whose prompt has other tokens in the pipeline, which adds to its tokenizer, than when measured."""
    prepare, processor = decide.decision_config.prepare_inputs, decide.processor or decide.tokenizer
    requests = [request_of(question) for question in questions]
    with _refusals():
        prompts = [prepare(request, processor)[0][0]["input_ids"][0].tolist() for request in requests]
    measured = encode(tokenizer, questions, style)
    return [e.id for prompt, e in zip(prompts, measured, strict=True) if tuple(prompt) != e.prompt]


def _refused_by_the_server(config: Any) -> str | None:
    """Why ``transformers serve`` cannot load what the pipeline can, if so."""
    architecture = (config.architectures or [""])[0]
    if not hasattr(transformers, architecture):
        return f"its class {architecture} is not one of transformers"
    if config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return f"it takes models of this kind ({config.model_type}) with an image processor, and here is none"
    return None


def decision_template(tokenizer: Any, style: PromptStyle) -> str | None:
    """The measured prompt as a template of ``state``, ``question.instructions`` and ``question.options``, special tokens
    at its start included; ``None`` where the chat template does not keep the text as it is given.
    """
    rendered = style.render(PROBE, chat_template_of(tokenizer))
    lines = "\n".join(OPTION_LINE.format(letter=x, choice=c) for x, c in zip(LETTERS, PROBE.choices, strict=True))
    before, found, rest = rendered.prompt.partition(PROBE.text)
    middle, shown, after = rest.partition(lines)
    if not found or not shown or PROBE.text in rest:
        return None
    with_start, alone = (tokens_of(tokenizer, ["x"], special)[0] for special in (rendered.special_tokens, False))
    start = "".join(tokenizer.convert_ids_to_tokens(list(with_start[: len(with_start) - len(alone)])))
    between = OPTION_LINE.partition("{choice}")[0].partition("{letter}")[2]
    parts = {"between": between, "before": start + before, "middle": middle, "after": after}
    return _TEMPLATE.format(**{name: json.dumps(text, ensure_ascii=False) for name, text in parts.items()})


def _label(tokenizer: Any, token: int, texts: Sequence[str]) -> str | None:
    """The text that the tokenizer, given it alone, makes that one token of."""
    return next((text for text in texts if tokens_of(tokenizer, [text], False)[0] == (token,)), None)
