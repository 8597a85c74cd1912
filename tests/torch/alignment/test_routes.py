"""Answers generated many at a time are those of single prompts, or they are generated one at a time, and that is said."""

import json
import shutil

import pytest
import torch
import transformers as t

from calibrant.alignment import AlignSettings, align_check
from calibrant.alignment.generation import _tried, generate
from calibrant.alignment.routes import EXACT, choose_route
from calibrant.scoring.models import load_model

PROMPTS = [(0, 40, 41), (0, *range(30, 60)), (0, 77, 9, 8), (0, 9, 8, 7, 6, 5, 4, 3)]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512}
KINDS = {
    "llama": lambda n: t.LlamaConfig(**n, **SMALL, **HEADS),
    "mamba": lambda n: t.MambaConfig(**n, **SMALL, state_size=4),
    "falcon_mamba": lambda n: t.FalconMambaConfig(**n, **SMALL, state_size=4),
    "lfm2": lambda n: t.Lfm2Config(**n, **SMALL, **HEADS, layer_types=["conv", "full_attention"]),
    "rwkv": lambda n: t.RwkvConfig(**n, **SMALL, attention_hidden_size=32, intermediate_size=64, context_length=512),
    "minimax": lambda n: t.MiniMaxConfig(
        **n, **SMALL, **HEADS, num_local_experts=2, num_experts_per_tok=1, layer_types=["linear_attention", "full_attention"]
    ),
    "xlstm": lambda n: t.xLSTMConfig(
        **n, **SMALL, num_heads=2, chunkwise_kernel="chunkwise--native_autograd", sequence_kernel="native_sequence__native",
        step_kernel="native",
    ),
}  # fmt: skip


def other_model(kind, tokenizer):
    torch.manual_seed(0)
    names = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = t.AutoModelForCausalLM.from_config(KINDS[kind](names)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0 if weight.dim() > 1 else 1.0)
    return model


def by_hand(model, prompt, n):
    """The most probable tokens one by one, by the model's own forward on whole texts."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) - len(prompt) < n and (len(ids) == len(prompt) or ids[-1] != 1):
            ids.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize(
    ("kind", "route"),
    [
        ("llama", "together"),
        ("mamba", "together"),
        ("falcon_mamba", "together"),
        ("lfm2", "together"),
        ("rwkv", "single"),  # mixes up the states of a batch
        ("minimax", "single"),  # from the second token on
        ("xlstm", "uncached"),  # breaks off with a cache of this size
    ],
)
def test_greedy_answers_of_a_batch_are_those_of_each_prompt_alone(kind, route, tokenizer):
    model = other_model(kind, tokenizer)
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=10)
    assert [answer.tokens for answer in found] == [by_hand(model, prompt, 10) for prompt in PROMPTS]
    assert {answer.route for answer in found} == {route}


def test_rounding_does_not_make_a_model_slow_but_another_answer_does(tokenizer):
    """Log-probabilities of a batch are moved; a fault that is on every route too is no reason to take another."""
    model = other_model("llama", tokenizer)

    def moved(by, routes):
        def trial(prompts, route):
            torch.manual_seed(0)
            said = _tried(model, prompts, 10, route)
            return [
                (ids, logp + by * torch.randn(logp.shape)) if route in routes else (ids, logp) for ids, logp in said
            ]

        with torch.inference_mode():
            return choose_route(model, PROMPTS, trial)

    assert moved(0.0, ()) == moved(EXACT / 2, ("together",)) == "together"
    assert moved(5 * EXACT, ("together",)) == moved(float("nan"), ("together",)) == "single"
    assert moved(5 * EXACT, ("together", "single")) == "uncached"
    assert moved(5 * EXACT, ("together", "single", "uncached")) == "together"
    model = model.bfloat16()
    assert moved(5 * EXACT, ("together",)) == "together"
    assert moved(0.5, ("together",)) == "single"


def test_a_check_says_that_answers_were_generated_one_at_a_time(tokenizer, prompts, tmp_path):
    other_model("rwkv", tokenizer).save_pretrained(tmp_path / "aligned")
    tokenizer.save_pretrained(tmp_path / "aligned")
    shutil.copytree(tmp_path / "aligned", tmp_path / "tuned")
    asked = {"tuned": tmp_path / "tuned", "prompts": prompts, "device": "cpu"}
    settings = AlignSettings(max_new_tokens=4, instructions=False, n_boot=50)
    for _ in range(2):  # the second call finds the answers made
        found = align_check(tmp_path / "aligned", out=tmp_path / "run", settings=settings, **asked)
        said = [note for note in found.notes if "one prompt at a time" in note]
        assert [note.partition(" were")[0] for note in said] == [
            "Answers of the aligned model",
            "Answers of the tuned model",
        ]
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    model = load_model(tmp_path / "aligned", device="cpu").model
    for row, prompt in zip(rows, prompts.items, strict=True):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}], add_generation_prompt=True)
        assert tuple(row["aligned"]["tokens"]) == by_hand(model, tuple(ids["input_ids"]), 4)
    assert found.divergence[0].kl.value == pytest.approx(0, abs=1e-6)
