"""An export is a decision model of transformers: the same prompt, the same probabilities, or a reason why not."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from calibrant.exporting import Export, ServeConfig, Source, export
from calibrant.exporting.decision_model import (
    CONFIG,
    TEMPLATE,
    _refused_by_the_server,
    decided,
    decision_pipeline,
    decision_template,
)
from calibrant.importing.systemone import request_of
from calibrant.prompts import PromptStyle
from calibrant.questions import Question, question_set
from calibrant.scalers import at_temperature
from calibrant.scoring import score
from calibrant.scoring.options import encode

STYLES = [
    PromptStyle(),
    PromptStyle(format="release"),
    PromptStyle(format="chat"),
    PromptStyle(format="chat-prefix", system='Be "brief". {question} {{ x }} é😀\\n'),
]


@pytest.fixture(scope="module")
def questions(make_questions):
    odd = Question("odd", 'What is {{ x }} in "{question}"?', ("{% raw %}", 'a "b" \\ c', "é😀"), 1)
    return [*make_questions("ask", 9, ks=(4, 2, 5)), odd]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model_folder, questions):
    def make(kind="llama", style=None, check=True, tolerance=0.9, **settings):
        settings["tolerance"] = tolerance  # of random weights the two tokens of a letter differ as two letters do
        source = Source(str(model_folder(kind)), style=style or PromptStyle(), loading={"device": "cpu"})
        out = tmp_path_factory.mktemp("out") / "served"
        asked = export(
            source, out=out, config=ServeConfig(**settings), check=question_set(questions, "check") if check else None
        )
        return Export.open(asked.folder)

    return make


def one_token(folder, questions, style, temperature=1.0):
    """Probabilities over the first token of each letter alone, (N, K), by a plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for e in encode(AutoTokenizer.from_pretrained(folder), questions, style):
        with torch.inference_mode():
            logits = model(torch.tensor([e.prompt])).logits[0, -1]
        p = torch.softmax(logits[[option[0][0] for option in e.options]] / temperature, 0).tolist()
        rows.append(p + [0.0] * (5 - len(p)))
    return rows


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.format)
def test_the_pipeline_reads_the_measured_prompt_in_every_format(style, exported, model_folder, questions, temperature):
    made = exported(style=style, scaler=temperature(1.7))
    facts = made.facts["decision_model"]
    assert facts["files"] == [CONFIG, TEMPLATE]
    assert set(facts["files"]) < set(made.facts["files"])
    found = decided(decision_pipeline(made.folder), questions)
    np.testing.assert_allclose(found.p_NK, one_token(model_folder(), questions, style, 1.7), atol=2e-5)
    measured = at_temperature(score(model_folder(), questions, style=style, device="cpu"), 1.7)
    assert facts["drift"]["movement"] == pytest.approx(np.abs(found.p_NK - measured.p_NK).sum(1).mean() / 2, abs=1e-5)
    assert found.hashes == measured.hashes
    assert len({round(float(c), 3) for c in found.confidence_N}) > 2  # the questions are told apart


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "granite", "gpt2"])
def test_so_does_it_for_every_architecture(kind, exported, model_folder, questions):
    found = decided(decision_pipeline(exported(kind).folder), questions)
    np.testing.assert_allclose(found.p_NK, one_token(model_folder(kind), questions, PromptStyle()), atol=2e-5)


def test_where_the_other_token_of_a_letter_matters_it_is_not_left_there(exported):
    made = exported(tolerance=0.02)
    assert "read so, it moves by 0." in made.facts["decision_model"]["why_not"]
    assert not (made.folder / CONFIG).exists()
    assert exported(tolerance=0.02, allow_drift=True).facts["decision_model"]["drift"]["verdict"] == "drifted"


def test_a_folded_temperature_is_not_applied_again(exported, temperature):
    beside, folded = exported(scaler=temperature(2.0)), exported(scaler=temperature(2.0), fold=True)
    assert json.loads((beside.folder / CONFIG).read_text())["temperature"]["choice"] == 2.0
    assert json.loads((folded.folder / CONFIG).read_text())["temperature"] == {}
    movements = [made.facts["decision_model"]["drift"]["movement"] for made in (beside, folded)]
    assert movements[0] == pytest.approx(movements[1], abs=0.02)


def test_the_question_may_be_the_state_and_all_kinds_are_answered(exported):
    folder = exported().folder
    decide = decision_pipeline(folder)
    question = Question("q", "Capital of France?", ("Lyon", "Paris"), 1)
    asked = request_of(question)
    stated = request_of(question, state="{question}", instructions="")
    assert decide(asked) == decide(stated)
    kinds = {
        "level": {"type": "score", "instructions": "How big?", "criteria": ["small", "large"]},
        "true": {"type": "noul", "instructions": "Is it?"},
        "told": {"type": "choice", "instructions": "Which?", "criteria": {"x": "the first", "y": {"z": 1}}},
    }
    found = decide({"state": {"a": 1}, "questions": kinds})
    assert list(found) == ["level", "true", "told"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = decision_template(tokenizer, PromptStyle())
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}],
        chat_template=template,
        tokenize=False,
        state={"a": 1},
        question={
            "type": "choice",
            "instructions": "Which?",
            "options": ["x", "y"],
            "labels": [" A", " B"],
            "descriptions": ["the first", {"z": 1}],
        },
    )
    assert shown.endswith('Question: {"a": 1}\nWhich?\nA. x: the first\nB. y: {"z": 1}\nAnswer:')


def test_what_cannot_be_one_says_why(exported, tmp_path, model_folder, adapter, questions):
    texts = exported(style=PromptStyle(reading="continuation"))
    assert "options' texts are read" in texts.facts["decision_model"]["why_not"]
    alone = export(
        Source(str(model_folder()), str(adapter), loading={"device": "cpu"}),
        out=tmp_path / "alone",
        config=ServeConfig(merge=False),
        check=question_set(questions, "check"),
    )
    assert "the adapter is written alone" in alone.facts["decision_model"]["why_not"]
    for made in (texts, alone):
        assert not (made.folder / CONFIG).exists()
        assert "Not as a decision model: " in (made.folder / "README.md").read_text()


def test_other_tokens_than_the_measured_ones_are_not_left_there(exported, monkeypatch):
    from calibrant.exporting import decision_model

    def other(tokenizer, style):  # a prompt that was not measured, of as many tokens or not
        return decision_template(tokenizer, style).replace("Question: ", "Riddle: ")

    monkeypatch.setattr(decision_model, "decision_template", other)
    made = exported()
    assert "other tokens of the prompt" in made.facts["decision_model"]["why_not"]
    assert not (made.folder / TEMPLATE).exists()


def test_without_questions_it_is_written_unchecked(exported):
    made = exported(check=False)
    facts = made.facts["decision_model"]
    assert (facts["files"], facts["drift"], facts["prompts_that_differ"]) == ([CONFIG, TEMPLATE], None, [])
    assert "Not checked: no questions were given. Calibration was" in (made.folder / "README.md").read_text()


def test_white_space_around_texts_is_left_out_there_too(tmp_path, model_folder):
    spaced = [Question(f"q{i}", f" What is {i} + 1?\n", (f"{i} ", f"\t{i + 1}"), 1) for i in range(6)]
    made = export(
        Source(str(model_folder()), loading={"device": "cpu"}),
        out=tmp_path / "served",
        config=ServeConfig(tolerance=0.9),
        check=question_set(spaced, "check"),
    )
    assert made.facts["decision_model"]["prompts_that_differ"] == []


def test_questions_whose_tokens_differ_are_named(tmp_path, model_folder, make_questions):
    """A special token in a question is one in the measurement and text in the pipeline."""
    odd = Question("odd", "What does </s> mean?", ("end", "start"), 0)
    made = export(
        Source(str(model_folder()), loading={"device": "cpu"}),
        out=tmp_path / "served",
        config=ServeConfig(tolerance=0.9),
        check=question_set([*make_questions("ask", 5), odd], "check"),
    )
    assert made.facts["decision_model"]["prompts_that_differ"] == ["odd"]
    assert "are other tokens there than were measured, 1: odd." in (made.folder / "README.md").read_text()


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None,
                return_dict=None{more}):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache,
        )
"""


@pytest.mark.parametrize(
    ("more", "why"), [(", **kwargs", "reads it at another place"), ("", "transformers refused (TypeError")]
)
@pytest.mark.parametrize("check", [True, False])
def test_a_model_that_gives_no_single_position_is_not_one(
    more, why, check, tmp_path, model_folder, questions, monkeypatch
):
    """The pipeline asks for the last position alone; a model with other ideas is measured and merged all the same."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / f"own{len(more)}{check}"
    shutil.copytree(model_folder(), folder)
    (folder / "modeling_own.py").write_text(OWN_CODE.format(more=more))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    made = export(
        Source(str(folder), loading={"device": "cpu", "trust_remote_code": True}),
        out=tmp_path / "served",
        config=ServeConfig(tolerance=0.9),
        check=question_set(questions, "check") if check else None,
    )
    assert why in made.facts["decision_model"]["why_not"]
    assert not (made.folder / CONFIG).exists()
    assert (made.folder / "model.safetensors").exists()


def test_what_the_server_cannot_load_is_said():
    class Config:
        architectures, model_type = ["OwnForCausalLM"], "own"

    class Pictures:
        architectures, model_type = ["Gemma3ForConditionalGeneration"], "gemma3"

    class Plain:
        architectures, model_type = ["LlamaForCausalLM"], "llama"

    assert _refused_by_the_server(Plain) is None
    assert "OwnForCausalLM is not one of transformers" in _refused_by_the_server(Config)
    assert "with an image processor" in _refused_by_the_server(Pictures)
