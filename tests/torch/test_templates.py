"""Chat templates: the same text on any day, the answer where the template writes it, a reference asked as the aligned."""

import datetime
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from calibrant.diagnosis import diagnose
from calibrant.errors import ModelError
from calibrant.exporting import reader
from calibrant.exporting.portable import portable_prompt
from calibrant.ladder.bench import Bench
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.scoring import load_model, score
from calibrant.scoring.models import chat_template_facts, quiet_peft
from calibrant.scoring.options import encode
from calibrant.scoring.templates import answer_slot, chat_template_of, dated, template_digest
from calibrant.tuning import TuneConfig, interpolate

CAPITAL = Question("q", "Capital of France?", ("Lyon", "Paris"), 1)
CHAT, TEXTS = PromptStyle(format="chat"), PromptStyle(reading="continuation", format="chat")
SPACED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} ASSISTANT:"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: {{ date_string }}\n"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OTHER = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"


@pytest.fixture
def with_template(make_tokenizer):
    def make(template):
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        return tokenizer

    return make


# ---- where the answer stands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [TEXTS, CHAT], ids=["continuation", "letters"])
def test_prompt_and_answer_have_the_tokens_of_the_templates_own_turn(with_template, style):
    tokenizer = with_template(SPACED)
    assert answer_slot(tokenizer) == " "
    (e,) = encode(tokenizer, [CAPITAL], style)
    user = style.render(CAPITAL, chat_template_of(tokenizer)).prompt.removeprefix("USER: ").removesuffix(" ASSISTANT:")
    said = "Paris" if style is TEXTS else "B"
    turn = [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    whole = tuple(tokenizer.apply_chat_template(turn, tokenize=True)["input_ids"])
    mine = e.prompt + e.options[1][0]
    assert whole[: len(mine)] == mine
    assert tokenizer.decode(whole[len(mine) :]) == "</s>"


def test_a_template_without_a_space_has_none_and_keeps_its_digest(tokenizer):
    assert answer_slot(tokenizer) == ""
    assert encode(tokenizer, [CAPITAL], TEXTS)[0].options[1] == (tuple(tokenizer("Paris")["input_ids"][1:]),)


def test_the_cue_of_a_prefixed_turn_follows_the_templates_space(with_template):
    style = replace(TEXTS, format="chat-prefix")
    rendered = style.render(CAPITAL, chat_template_of(with_template(SPACED)))
    assert rendered.prompt.endswith(" ASSISTANT: Answer:")
    assert rendered.options == ((" Lyon",), (" Paris",))
    assert portable_prompt(style, " ")["suffix"] == " Answer:"
    assert portable_prompt(TEXTS, " ")["option_texts"] == [" {choice}"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('none of this') }}",
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<think>{% endif %}{{ m['content'] }}{% endfor %}",
    ],
    ids=["refuses", "thinks first"],
)
def test_a_template_that_cannot_be_asked_or_writes_more_there_has_no_slot(with_template, template):
    assert answer_slot(with_template(template)) == ""


# ---- the day --------------------------------------------------------------------------------------------------------


def test_a_prompt_with_the_date_is_the_same_on_any_day(with_template, monkeypatch):
    tokenizer = with_template(DATED)
    today = encode(tokenizer, [CAPITAL], CHAT)
    assert "Today: 26 Jul 2024" in tokenizer.decode(today[0].prompt)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1, tzinfo=tz)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert "01 Jan 2031" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert encode(tokenizer, [CAPITAL], CHAT) == today


def test_the_reader_of_an_export_writes_the_same_day():
    """It stands alone and so has the rule a second time."""
    for template in (DATED, '{{ strftime_now( "%Y" ) }}', SPACED):
        assert reader.DATE.sub(reader._day, template) == dated(template)


def test_the_digest_knows_what_is_put_into_the_template(with_template, tokenizer):
    def plain(text):
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    assert template_digest(tokenizer) == plain(tokenizer.chat_template)
    for template in (SPACED, DATED):
        assert template_digest(with_template(template)) != plain(template)


# ---- another model's template ---------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path, make_model, with_template):
    """The model before alignment, with a template of its own."""
    folder = tmp_path / "base"
    make_model("llama", with_template(OTHER)).save_pretrained(folder)
    with_template(OTHER).save_pretrained(folder)
    return folder


@pytest.fixture
def aligned(tmp_path, base, adapter, tokenizer):
    """The base with the adapter merged, under the usual template."""
    with quiet_peft():
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "aligned")
    tokenizer.save_pretrained(tmp_path / "aligned")
    return tmp_path / "aligned"


def test_a_model_may_be_asked_under_the_template_of_another(base, aligned, make_questions, tmp_path):
    questions = make_questions("test", 8)
    file = tmp_path / "own.jinja"
    file.write_text(load_model(aligned, device="cpu").tokenizer.chat_template)
    asked = [
        score(base, questions, style=TEXTS, device="cpu", chat_template=source)
        for source in (aligned, str(aligned), file)
    ]
    own = score(base, questions, style=TEXTS, device="cpu")
    digests = {s.provenance["chat_template"] for s in asked}
    assert digests == {chat_template_facts(aligned, ["chat"])["chat_template"]}
    assert chat_template_facts(base, ["chat"], chat_template=aligned)["chat_template"] in digests
    assert own.provenance["chat_template"] not in digests
    assert np.array_equal(asked[0].logp_NK, asked[2].logp_NK)
    assert not np.allclose(asked[0].logp_NK, own.logp_NK)


def test_a_template_that_is_not_there_is_refused(base, tmp_path, make_tokenizer):
    bare = make_tokenizer(chat=False)
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for source, found in ((tmp_path / "bare", "has none"), (tmp_path / "no.jinja", "No such file")):
        with pytest.raises(ModelError, match=found):
            load_model(base, device="cpu", chat_template=source)


def test_a_scaled_alignment_adapter_is_the_interpolation_also_in_a_chat(
    base, aligned, adapter, make_questions, tmp_path
):
    """The base's own template would be another question: what scaling says would be the template's doing."""
    questions = make_questions("test", 8)
    bench = Bench(
        tmp_path / "ladder", aligned, questions, questions, TEXTS, TuneConfig(), reference=base,
        alignment_adapter=adapter, loading={"device": "cpu"},
    )  # fmt: skip
    whole = bench.score(questions, "test")
    scaled = bench.score(questions, "test", model=base, adapter=adapter)
    mixed = bench.score(questions, "test", model=interpolate(base, aligned, 1.0, tmp_path / "mixed"))
    for other in (scaled, mixed):
        np.testing.assert_allclose(other.p_NK, whole.p_NK, atol=1e-5)


def test_a_reference_asked_in_another_way_is_said(base, aligned, make_questions):
    questions = make_questions("test", 40)
    one = score(aligned, questions, style=TEXTS, device="cpu")
    apart, alike = (score(base, questions, style=TEXTS, device="cpu", chat_template=t) for t in (None, aligned))
    words = "asked in another way (another chat template)"
    assert any(words in w for w in diagnose(one, reference=apart, n_boot=50).warnings)
    assert not any("asked in another way" in w for w in diagnose(one, reference=alike, n_boot=50).warnings)
    raw = score(base, questions, device="cpu")
    assert any("(another prompt)" in w for w in diagnose(one, reference=raw, n_boot=50).warnings)


def test_a_head_takes_states_that_a_norm_left_in_float32(make_model, tokenizer):
    """Under CUDA's autocast a last LayerNorm gives float32 to a head in bfloat16."""
    from calibrant.scoring.head import Head

    model = make_model("gpt2", tokenizer).to(torch.bfloat16)
    h_SD = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    head = Head.of(model)
    assert torch.equal(head.logits(h_SD.float(), exact=False), head.logits(h_SD, exact=False))


def test_a_template_that_takes_no_system_message_is_told_in_three_parts(with_template):
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + SPACED
    )
    with pytest.raises(ModelError, match="System role not supported") as raised:
        encode(with_template(refusing), [CAPITAL], replace(CHAT, system="Be brief."))
    assert "leave the system message out" in raised.value.todo
    assert encode(with_template(refusing), [CAPITAL], CHAT)
