"""An export as a decision model: ``transformers`` answers typed questions with its probabilities, the temperature included.

``decision.json`` holds the letters' tokens and the temperature, ``decision_template.jinja`` the measured prompt. With them
``pipeline("decision", FOLDER)`` and ``transformers serve`` (POST /v1/systemone) read what ``reader.py`` reads, but for two
things, which the check against the measured probabilities contains: of a letter's tokens (``" A"``, ``"A"``) they read one,
and logits come in the precision of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.decision import DecisionConfig
from transformers.pipelines import pipeline

from calibrant.errors import ModelError
from calibrant.exporting.portable import OPTION_LINE
from calibrant.files import write_atomically, write_json
from calibrant.importing.systemone import NAME, answered, request_of
from calibrant.progress import track
from calibrant.prompts import LETTERS, PromptStyle
from calibrant.questions import Question
from calibrant.scores import Scores
from calibrant.scoring.options import chat_template_of, encode, tokens_of

CONFIG, TEMPLATE = "decision.json", "decision_template.jinja"
KINDS = ("choice", "score", "noul")
PROBE = Question("probe", "THE QUESTION ITSELF", tuple(f"OPTION {letter}" for letter in LETTERS), 0)

_TEMPLATE = """\
{{%- macro text(x) %}}{{{{ "" if x is none else x if x is string else x|tojson }}}}{{% endmacro -%}}
{{%- set ns = namespace(lines=[]) -%}}
{{%- for option in question.options -%}}
{{%- set said = text(question.descriptions[loop.index0]) -%}}
{{%- set shown = said if question.type == "score" else option ~ ": " ~ said if said else option -%}}
{{%- set ns.lines = ns.lines + [question.labels[loop.index0]|trim ~ {between} ~ shown] -%}}
{{%- endfor -%}}
{{{{- {before} ~ [text(state), text(question.instructions)]|select|join("\\n") ~ {middle} ~ ns.lines|join("\\n") ~ {after} -}}}}
"""


def write_decision_model(
    folder: Path, style: PromptStyle, temperature: float, *, trust_remote_code: bool = False
) -> str | None:
    """Write both files into an export of merged weights; or say why it cannot be one.

    Parameters
    ----------
    folder : with the tokenizer.
    style : how questions were put and read when the model was measured.
    temperature : what the reader applies; 1 where it is folded into the weights.
    """
    if style.reading != "letters":
        return "a decision server reads one token an option, and here the options' texts are read"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    template = decision_template(tokenizer, style)
    if template is None:
        return "the tokenizer's chat template changes the text that it is given"
    try:
        (encoded,) = encode(tokenizer, [PROBE], style)
    except ModelError as error:
        return f"{error.found}, of {error.asked}"
    texts = style.render(PROBE, chat_template_of(tokenizer)).options
    labels = [_label(tokenizer, options[0][0], text) for options, text in zip(encoded.options, texts, strict=True)]
    if not all(labels):
        letter = LETTERS[labels.index(None)]
        return f"the token of the letter {letter} after the prompt is not what the tokenizer makes of it alone"
    write_json(
        folder / CONFIG,
        {
            "labels": dict.fromkeys(KINDS, labels),
            "temperature": {} if temperature == 1 else dict.fromkeys(KINDS, temperature),
        },
    )
    write_atomically(folder / TEMPLATE, template)
    prompts = DecisionConfig.from_pretrained(folder).prepare_inputs(request_of(PROBE), tokenizer)
    if tuple(prompts[0][0]["input_ids"][0].tolist()) != encoded.prompt:
        remove_decision_model(folder)
        return "transformers makes other tokens of the prompt than were measured"
    return None


def remove_decision_model(folder: Path) -> None:
    """Take both files away again."""
    for name in (CONFIG, TEMPLATE):
        (folder / name).unlink(missing_ok=True)


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


def decided(
    folder: Path, questions: Sequence[Question], *, progress: bool = False, trust_remote_code: bool = False, device: Any
) -> Scores:
    """What ``pipeline("decision", folder)`` says to the questions, each asked as one choice."""
    decide = pipeline("decision", model=str(folder), device=device, trust_remote_code=trust_remote_code)
    asked = track(questions, "asking as a decision model" if progress else None, total=len(questions), size=lambda _: 1)
    given = [decide(request_of(question))[NAME]["probabilities"] for question in asked]
    return answered(questions, given, asked=f"the decisions of {folder}")


def _label(tokenizer: Any, token: int, texts: Sequence[str]) -> str | None:
    """The text that the tokenizer, given it alone, makes that one token of."""
    return next((text for text in texts if tokens_of(tokenizer, [text], False)[0] == (token,)), None)
