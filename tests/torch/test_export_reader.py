"""reader.py stands alone and reads the probabilities that calibrant reads, in every style."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from calibrant.errors import QuestionError
from calibrant.exporting import Export, ServeConfig, Source, export, reader
from calibrant.exporting.portable import portable_prompt
from calibrant.prompts import ChatTemplate, PromptStyle
from calibrant.questions import Question
from calibrant.scoring import score
from calibrant.scoring.models import quiet_peft
from calibrant.scoring.options import encode

STYLES = [
    PromptStyle(),
    PromptStyle(format="release"),
    PromptStyle(format="chat"),
    PromptStyle(format="chat-prefix", system="Be brief. {question} {nothing}"),
    *(PromptStyle(reading="continuation", variant=variant) for variant in ("sum", "per_token", "per_char", "pmi")),
    PromptStyle(reading="continuation", format="chat", variant="pmi", system="Be brief."),
    PromptStyle(reading="continuation", format="chat-prefix"),
]


@pytest.fixture(scope="module")
def questions(make_questions):
    braces = Question("braces", "What is {x} in {question}?", ("{letter}", "a {choice}", "{}"), 1)
    return [*make_questions("ask", 5, ks=(4, 2, 5)), braces]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model_folder, make_questions):
    def make(kind="llama", style=None, **settings):
        source = Source(str(model_folder(kind)), style=style or PromptStyle(), loading={"device": "cpu"})
        out = tmp_path_factory.mktemp("out") / "served"
        return export(source, out=out, config=ServeConfig(**settings), check=make_questions("check", 6))

    return make


def read(made, questions):
    own = reader.Reader(made.folder)
    return [own.probabilities(q.text, list(q.choices)) for q in questions]


def assert_same(found, scores, atol=2e-5):
    for row, (wanted_K, k) in zip(found, zip(scores.p_NK, scores.k_N, strict=True), strict=True):
        np.testing.assert_allclose(row, wanted_K[:k], atol=atol)


@pytest.mark.parametrize("style", STYLES, ids=lambda s: f"{s.reading}-{s.format}-{s.variant}")
def test_same_probabilities_in_every_style(style, exported, model_folder, questions):
    made = exported(style=style)
    scores = score(model_folder(), questions, style=style, device="cpu")
    assert len({round(float(c), 3) for c in scores.confidence_N}) > 2  # the questions are told apart
    assert_same(read(made, questions), scores)
    assert made.style == style


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "cohere", "granite", "gpt2"])
def test_same_probabilities_of_every_architecture(kind, exported, model_folder, questions):
    assert_same(read(exported(kind), questions), score(model_folder(kind), questions, device="cpu"))


def test_the_temperature_and_the_threshold_are_applied(exported, model_folder, questions, temperature):
    made = exported(scaler=temperature(2.5))
    scores = temperature(2.5).apply(score(model_folder(), questions, device="cpu"))
    assert_same(read(made, questions), scores)
    own = reader.Reader(made.folder)
    assert not own.answer(questions[0].text, list(questions[0].choices))["abstain"]  # none was asked for
    for limit, abstains in ((scores.confidence_N[0] + 1e-3, True), (scores.confidence_N[0] - 1e-3, False)):
        own.facts["abstention"] = {"threshold": float(limit)}
        found = own.answer(questions[0].text, list(questions[0].choices))
        assert found["abstain"] is abstains
        assert found["answer"] == scores.prediction_N[0]
        assert found["choice"] == questions[0].choices[found["answer"]]
        assert found["confidence"] == max(found["probabilities"])


def test_what_is_no_question_is_refused(exported, questions):
    own = reader.Reader(exported().folder)
    q, choices = questions[0].text, list(questions[0].choices)
    assert own.probabilities(f" {q}\n", [f" {choice} " for choice in choices]) == own.probabilities(q, choices)
    for wrong in ("Paris", ["Paris"], ["Paris", " "], ["Paris", "Paris "]):
        with pytest.raises(ValueError, match="choice"):
            own.answer("Capital of France?", wrong)


def test_a_model_without_numbers_does_not_answer(exported, questions):
    """As float16 may overflow: nan is below no threshold."""
    own = reader.Reader(exported().folder)
    own.facts["abstention"] = {"threshold": 0.9}
    next(own.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="gives no number"):
        own.answer(questions[0].text, list(questions[0].choices))


def test_half_precision_is_read_with_float32_logits(exported, questions):
    """The same export scored by calibrant: equal, though a bfloat16 head would round logits to three digits."""
    made = exported(dtype="bfloat16", tolerance=0.5)
    scores = score(made.load(device="cpu"), questions)
    assert scores.provenance["dtype"] == "bfloat16"
    assert_same(read(made, questions), scores, atol=5e-3)


@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:`is_gradient_checkpointing` is deprecated"
)
def test_an_adapter_on_the_head_is_read_with_it(model_folder, make_questions, questions, tmp_path):
    torch.manual_seed(3)
    settings = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_peft():
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder()), settings)
    tuned.save_pretrained(tmp_path / "adapter")
    source = Source(str(model_folder()), str(tmp_path / "adapter"), loading={"device": "cpu"})
    config = ServeConfig(merge=False)
    made = export(source, out=tmp_path / "out", config=config, check=make_questions("check", 6))
    scores = score(model_folder(), questions, adapter=tmp_path / "adapter", device="cpu")
    plain = score(model_folder(), questions, device="cpu")
    assert np.abs(scores.p_NK - plain.p_NK).max() > 0.01
    assert_same(read(made, questions), scores)


@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:`is_gradient_checkpointing` is deprecated"
)
def test_a_half_precision_adapter_on_the_head_is_read_with_float32_logits(model_folder, questions, tmp_path):
    """Hidden states are the same to the bit, one text at a time: what is left is the head."""
    torch.manual_seed(3)
    settings = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_peft():
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder()), settings)
    tuned.save_pretrained(tmp_path / "adapter")
    source = Source(str(model_folder()), str(tmp_path / "adapter"), loading={"device": "cpu", "dtype": "bfloat16"})
    made = export(source, out=tmp_path / "out", config=ServeConfig(merge=False))
    assert_same(read(made, questions), score(made.load(device="cpu"), questions, batch_tokens=1), atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 27, 30])
def test_a_number_of_choices_that_the_package_refuses_is_refused(exported, n):
    own = reader.Reader(exported().folder)
    with pytest.raises(ValueError, match=f"2 to 26 choices, not {n}"):
        own.answer("Which?", [f"c{i}" for i in range(n)])
    assert len(own.probabilities("Which?", [f"c{i}" for i in range(26)])) == 26


@pytest.mark.parametrize(
    "choices",
    [
        [{"text": "Rome"}, {"text": "Paris"}],
        ["Rome", None],
        [["a"], ["b"]],
        [True, False],
        {"text": ["a"], "label": ["A"]},
    ],
)
def test_choices_that_are_no_texts_are_refused_and_not_read_as_they_print(exported, choices):
    with pytest.raises(ValueError, match="choices"):
        reader.Reader(exported().folder).answer("Which?", choices)


def test_numbers_are_choices_as_they_are_written(exported):
    own = reader.Reader(exported().folder)
    assert own.probabilities("Which?", [3, np.float64(4.5)]) == own.probabilities("Which?", ["3", "4.5"])


@pytest.mark.parametrize(
    ("kind", "style"), [("llama", PromptStyle()), ("gpt2", PromptStyle(reading="continuation"))], ids=["llama", "gpt2"]
)
def test_a_question_is_answered_up_to_the_length_that_the_package_takes(kind, style, exported, loaded):
    """One more token each time, across the 512 of the context: 511 and 512 are answered by both, 513 and 514 by neither."""
    own, tokenizer = reader.Reader(exported(kind, style).folder), loaded(kind).tokenizer
    frame = encode(tokenizer, [Question("one", "a", ("x", "of z"), 0)], style)[0].n_tokens - 1
    for total in (511, 512, 513, 514):
        question = Question("long", "a" * (total - frame), ("x", "of z"), 0)
        assert encode(tokenizer, [question], style)[0].n_tokens == total
        if total <= 512:
            wanted = score(loaded(kind), [question], style=style)
            assert_same([own.probabilities(question.text, list(question.choices))], wanted)
        else:
            with pytest.raises(QuestionError, match=f"take {total} tokens"):
                score(loaded(kind), [question], style=style)
            with pytest.raises(ValueError, match=f"take {total} tokens, and the context has 512"):
                own.probabilities(question.text, list(question.choices))


def test_the_file_runs_alone_without_calibrant(exported, model_folder, questions, tmp_path):
    made = exported()
    own = made.folder / "reader.py"
    tree = ast.parse(own.read_text(encoding="utf-8"))
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "torch", "transformers", "peft"}
    rows = "".join(json.dumps({"question": q.text, "choices": q.choices}) + "\n" for q in questions)
    code = "import sys, runpy; sys.modules['calibrant'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(own)],
        input=rows, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    found = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
    assert_same(found, score(model_folder(), questions, device="cpu"))
    assert own.read_text(encoding="utf-8") == Path(reader.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("style", STYLES, ids=lambda s: f"{s.reading}-{s.format}-{s.variant}")
def test_the_portable_prompt_says_what_the_style_does(style, questions):
    plain = portable_prompt(style)
    for q in questions:
        lines = "\n".join(
            plain["option_line"].format(letter=x, choice=c) for x, c in zip("ABCDE", q.choices, strict=False)
        )
        text = plain["template"].format(question=q.text, options=lines)
        system = [] if plain["system"] is None else [plain["system"]]
        wanted = style.render(
            q, ChatTemplate(lambda messages: " | ".join(m["content"] for m in messages) + " >")
        ).prompt
        assert wanted == (" | ".join([*system, text]) + " >" + plain["suffix"] if plain["chat"] else text)


def test_an_export_names_its_style(exported):
    assert Export.open(exported().folder).facts["prompt"]["digest"] == PromptStyle().digest
