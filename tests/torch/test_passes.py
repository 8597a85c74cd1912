"""A step cut into forward passes by tokens: every question once, little padding, and the same adapter as one pass gives."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from calibrant.prompts import PromptStyle
from calibrant.scoring import load_model
from calibrant.scoring.options import Encoded, encode
from calibrant.tuning import LoraSettings, TuneConfig, trainer, tune
from calibrant.tuning.collate import Collator, Example

TEXTS = PromptStyle(reading="continuation")
PLAIN = Collator(letters=False, all_options=True, prompt_tokens=False)
KINDS = {
    "letters": (PromptStyle(), Collator(letters=True, all_options=True, prompt_tokens=False)),
    "answers": (TEXTS, replace(PLAIN, all_options=False)),
    "plain": (TEXTS, PLAIN),
    "packed": (TEXTS, replace(PLAIN, packed=True)),
}


def example(prompt, *options, answer=0):
    tokens = tuple(range(1, prompt + 1))
    encoded = Encoded("q", tokens, tuple((tuple(range(n)),) for n in options), (1,), (1,) * len(options))
    return Example(encoded, answer)


def test_passes_worked_by_hand():
    """Rows of 12, 5, 4, 4 tokens (prompt and all of the answer but its last token), 10 a pass."""
    wide, five, four, other = examples = [example(11, 2), example(4, 2), example(3, 2), example(4, 1)]
    answers = KINDS["answers"][1]
    assert answers.passes(examples, 10) == [[wide], [five, four], [other]]
    assert answers.passes(examples, 12) == [[wide], [five, four], [other]]
    assert answers.passes(examples, 15) == [[wide], [five, four, other]]
    assert answers.passes(examples[::-1], 48) == [examples[::-1]]  # 4 rows of 12: whole, and in the order given
    assert answers.passes([wide], 1) == [[wide]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 30, 90, 200, 10**6])
def test_every_question_is_in_one_pass_and_none_holds_more_than_allowed(tokenizer, make_questions, kind, tokens):
    style, collate = KINDS[kind]
    questions = make_questions("x", 20, ks=(4, 2, 3))
    pairs = zip(encode(tokenizer, list(questions), style), questions, strict=True)
    examples = [Example(e, q.answer, index=i) for i, (e, q) in enumerate(pairs)]
    passes = collate.passes(examples, tokens)
    assert sorted(e.index for one in passes for e in one) == list(range(20))
    for one in passes:
        assert len(one) == 1 or collate(one)["input_ids"].numel() <= tokens
    whole = collate(examples)["input_ids"].numel()
    assert (len(passes) == 1) == (whole <= tokens)
    assert sum(collate(one)["input_ids"].numel() for one in passes) <= whole


@pytest.fixture
def run(tmp_path, model_folder, make_questions, monkeypatch):
    """A function that tunes the tiny model in float64, so many tokens a pass, and returns the adapter and the passes made."""
    train, calibration = make_questions("train", 19, ks=(4, 2, 3)), make_questions("calibration", 12, ks=(4, 3))

    def go(tokens, style, **settings):
        monkeypatch.setattr(trainer, "PASS_TOKENS", {"cpu": tokens})
        own, passes = load_model(model_folder(), device="cpu"), []
        own.model.double()
        own.model.model.register_forward_pre_hook(lambda m, _: passes.append(1) if m.training else None)
        lora = LoraSettings(rank=4, alpha=8, dropout=0.0)
        config = TuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, lora=lora, **settings)
        result = tune(own, train, calibration, out=tmp_path / str(tokens), style=style, config=config)
        return load_file(result.adapter / "adapter_model.safetensors"), len(passes)

    return go


@pytest.mark.parametrize(
    ("style", "settings"),
    [
        (PromptStyle(), {"objective": "sft"}),
        (TEXTS, {"objective": "rcft"}),
        (replace(TEXTS, variant="pmi"), {"over": "options"}),
    ],
    ids=["letters-sft", "rcft", "pmi"],
)
def test_the_adapter_does_not_depend_on_how_a_step_is_cut(run, style, settings):
    whole, few = run(10**6, style, **settings)
    cut, many = run(60, style, **settings)
    assert many > few
    assert max(float(w.abs().max()) for name, w in whole.items() if "lora_B" in name) > 1e-4
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{"objective": "mmce"}, {"micro_batch_size": 8}], ids=["mmce", "by-questions"])
def test_what_must_stay_whole_is_not_cut(run, settings):
    assert run(1, TEXTS, **settings)[1] == 3
