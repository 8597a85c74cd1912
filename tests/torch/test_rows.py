"""Packed rows: one row a question with all its options, equal to one row an option in every number that matters."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import log_softmax

from calibrant.prompts import PromptStyle
from calibrant.scoring import load_model
from calibrant.scoring.head import Head
from calibrant.scoring.options import Encoded, encode
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult, tune
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.objective import batch_loss
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.start import smoothed

TEXTS = PromptStyle(reading="continuation")
PLAIN = Collator(letters=False, all_options=True, prompt_tokens=True)
KINDS = ("llama", "qwen3", "gemma2", "cohere", "granite", "gpt2")


def examples_of(tokenizer, questions):
    pairs = zip(encode(tokenizer, list(questions), TEXTS), questions, strict=True)
    return [Example(e, q.answer, smoothed(q.answer, len(q.choices), 0.3)) for e, q in pairs]


@pytest.fixture(scope="module")
def examples(tokenizer, make_questions):
    return examples_of(tokenizer, make_questions("x", 6, ks=(4, 2, 3)))


def test_packed_row_written_out():
    """Prompt 5 6 7; options 1 2 3 and 4 and 8 9. The row: 5 6 7 | 1 2 | 8; positions 0 1 2 | 3 4 | 3."""
    encoded = Encoded("q", (5, 6, 7), (((1, 2, 3),), ((4,),), ((8, 9),)), (5,), (1, 1, 1))
    batch = replace(PLAIN, packed=True)([Example(encoded, 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 2, 8]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch["attention_mask"].int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0],
                [1, 1, 1, 1, 1, 0],
                [1, 1, 1, 0, 0, 1],
            ]
        ]
    ]
    read = list(zip(batch["read_row_S"].tolist(), batch["read_step_S"].tolist(), strict=True))
    seen = [(read[at][1], token) for at, token in zip(batch["at_A"].tolist(), batch["token_A"].tolist(), strict=True)]
    assert seen == [(2, 1), (3, 2), (4, 3), (2, 4), (2, 8), (5, 9)]
    assert len(read) == 4  # the prompt's last token is read once for all options
    assert batch["prompt_token_L"].tolist() == [6, 7]


def test_padding_is_seen_by_none_and_no_token_sees_nothing(examples):
    batch = replace(PLAIN, packed=True)(examples)
    seen_RTT = batch["attention_mask"][:, 0]
    assert seen_RTT.any(2).all()
    for row, example in zip(seen_RTT, examples, strict=True):
        e = example.encoded
        length = len(e.prompt) + sum(len(option[0]) - 1 for option in e.options)
        assert not row[:length, length:].any()


@pytest.mark.parametrize(
    ("kind", "attention"), [*((k, "eager") for k in KINDS), *((k, "sdpa") for k in KINDS if k != "gemma2")]
)
def test_loss_and_full_gradient_equal_those_of_plain_rows_in_float64(tokenizer, make_model, examples, kind, attention):
    model = make_model(kind, tokenizer).double()
    model.set_attn_implementation(attention)
    model.requires_grad_(True)
    head = Head.of(model)
    collate, facts = choose_rows(model, head, PLAIN, examples)
    assert facts["route"] == "packed", facts
    exact = (
        1e-12 if kind == "gpt2" else 1e-6
    )  # the others take square means and softmax in float32, whatever their precision
    assert facts["logp_deviation"] < exact
    assert facts["gradient_deviation"] < exact
    found = []
    for rows in (PLAIN, collate):
        loss, joint_BK = batch_loss(model, head, rows(examples), TuneConfig(objective="rcft"))
        loss.value.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        found.append((loss.value.detach(), joint_BK.detach(), gradients))
    (loss_a, joint_a, gradients_a), (loss_b, joint_b, gradients_b) = found
    assert loss_a.dtype == torch.float64
    torch.testing.assert_close(loss_a, loss_b, rtol=exact, atol=0)
    torch.testing.assert_close(joint_a, joint_b, rtol=exact, atol=exact)
    largest = max(float(g.abs().max()) for g in gradients_a.values())
    assert largest > 1e-3
    for name in gradients_a:
        torch.testing.assert_close(gradients_a[name], gradients_b[name], rtol=0, atol=exact * largest)


def test_packed_rows_read_what_whole_sequences_say(tokenizer, make_model, examples):
    """Against the library's own logits, one sequence at a time, with no mask of ours at all."""
    model = make_model("llama", tokenizer).double()
    head = Head.of(model)
    collate, _ = choose_rows(model, head, PLAIN, examples)
    _, joint_BK = batch_loss(model, head, collate(examples), TuneConfig(objective="rcft"))
    for b, example in enumerate(examples):
        for k, (option,) in enumerate(example.encoded.options):
            with torch.no_grad():
                logits_TV = model(input_ids=torch.tensor([[*example.encoded.prompt, *option]])).logits[0]
            logp_TV = log_softmax(logits_TV[len(example.encoded.prompt) - 1 : -1], 1)
            wanted = logp_TV[torch.arange(len(option)), torch.tensor(option)].sum()
            assert joint_BK[b, k].item() == pytest.approx(wanted.item(), rel=1e-6)


def other_model(kind, tokenizer):
    import transformers as t

    n = len(tokenizer)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": n, "bos_token_id": 0, "eos_token_id": 1}
    makers = {
        "alibi": lambda: t.BloomConfig(vocab_size=n, hidden_size=32, n_layer=2, n_head=4, pad_token_id=2),
        "recurrent": lambda: t.MambaConfig(**small, state_size=4, pad_token_id=2),
        "window": lambda: t.MistralConfig(
            **small,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=8,
            pad_token_id=2,
        ),
    }
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(makers[kind]()).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return model.eval().requires_grad_(True)


@pytest.mark.filterwarnings("ignore:.*mamba.*")
@pytest.mark.parametrize("kind", ["alibi", "recurrent", "window"])
def test_models_for_which_packing_is_not_the_same_keep_plain_rows(tokenizer, examples, kind):
    """ALiBi counts steps, a recurrence passes through all options, and a window shorter than the row is not in the mask."""
    model = other_model(kind, tokenizer)
    collate, facts = choose_rows(model, Head.of(model), PLAIN, examples)
    assert collate == PLAIN
    assert facts["route"] == "plain"
    assert facts["reason"]
    assert all(p.grad is None for p in model.parameters())


def test_window_longer_than_the_longest_row_does_not_stand_in_the_way(tokenizer, examples):
    model = other_model("window", tokenizer)
    model.config.sliding_window = max(e.encoded.n_tokens for e in examples)
    _, facts = choose_rows(model, Head.of(model), PLAIN, examples)
    assert facts["route"] == "packed"


def test_one_long_question_among_short_ones_is_what_a_window_is_tested_on(tokenizer, make_questions, examples):
    model = other_model("window", tokenizer)
    (question,) = make_questions("long", 1)
    long = replace(question, text=f"{question.text} " * 6)
    model.config.sliding_window = max(e.encoded.n_tokens for e in examples) + 5
    assert choose_rows(model, Head.of(model), PLAIN, examples)[1]["route"] == "packed"
    _, facts = choose_rows(
        model, Head.of(model), PLAIN, [*examples[:3], *examples_of(tokenizer, [long]), *examples[3:]]
    )
    assert facts["route"] == "plain"


@pytest.mark.parametrize("collate", [replace(PLAIN, letters=True), replace(PLAIN, all_options=False)])
def test_where_one_row_a_question_is_enough_nothing_is_packed(loaded, examples, collate):
    chosen, facts = choose_rows(loaded().model, Head.of(loaded().model), collate, examples)
    assert (chosen, facts["route"]) == (collate, "plain")


def test_bfloat16_is_packed_within_its_own_precision(tokenizer, make_model, examples):
    model = make_model("llama", tokenizer).bfloat16().requires_grad_(True)
    _, facts = choose_rows(model, Head.of(model), PLAIN, examples)
    assert facts["route"] == "packed"
    assert 0 < facts["gradient_deviation"] < 0.1


# ---- through tune ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, model_folder, make_questions):
    def go(name, **settings):
        config = TuneConfig(
            objective="rcft", epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8, dropout=0.0), **settings
        )
        model = load_model(model_folder(), device="cpu")
        widths = []
        model.model.model.register_forward_pre_hook(
            lambda module, _args, more: widths.append(tuple(more["attention_mask"].shape)) if module.training else None,
            with_kwargs=True,
        )
        sets = make_questions("train", 16, ks=(4, 2, 3)), make_questions("calibration", 12)
        return tune(model, *sets, out=tmp_path / name, config=config, style=TEXTS), widths

    return go


def test_run_packs_says_so_and_learns_what_plain_rows_learn(run, monkeypatch):
    import importlib

    from safetensors.torch import load_file

    packed, shapes = run("packed")
    assert packed.rows["route"] == "packed"
    assert TuneResult.load(packed.adapter.parent).rows == packed.rows
    assert [shape[:2] for shape in shapes] == [(8, 1), (8, 1)]  # one row a question
    module = importlib.import_module("calibrant.tuning.tune")
    monkeypatch.setattr(module, "choose_rows", lambda _m, _h, collate, _e: (collate, {"route": "plain"}))
    plain, shapes = run("plain")
    assert {len(shape) for shape in shapes} == {2}
    assert sum(shape[0] for shape in shapes) == sum((4, 2, 3)[i % 3] for i in range(16))  # one row an option
    a, b = (load_file(r.adapter / "adapter_model.safetensors") for r in (packed, plain))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-6, rtol=0)
    assert max(float(w.abs().max()) for name, w in a.items() if "lora_B" in name) > 1e-5
