"""The head in float32, one position only, for whatever a model does to its logits. V = vocabulary, D = hidden."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from calibrant.errors import ModelError
from calibrant.scoring.head import Head

KINDS = ("llama", "qwen3", "gemma2", "cohere", "granite", "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_float32_logits_equal_the_models_own_forward(loaded, kind):
    model = loaded(kind).model
    head = Head.of(model)
    ids_BT = torch.randint(3, 300, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own_BTV = model(input_ids=ids_BT).logits
        with head.capture() as kept:
            model(input_ids=ids_BT)
        ours_BTV = head.logits(kept.take().flatten(0, 1)).view_as(own_BTV)
    assert own_BTV.abs().max() > 0.9  # logits that a cap or a scale visibly changes
    torch.testing.assert_close(ours_BTV, own_BTV, rtol=1e-5, atol=1e-5)


def test_scale_and_soft_cap_are_found_by_probing(loaded):
    """Cohere multiplies by .25, granite divides by 3, gemma2 caps at 5: 5·tanh(x/5)."""
    found = {kind: (Head.of(loaded(kind).model).scale, Head.of(loaded(kind).model).cap) for kind in KINDS}
    assert found["llama"] == found["qwen3"] == found["gpt2"] == (1.0, None)
    assert found["cohere"] == (pytest.approx(0.25), None)
    assert found["granite"] == (pytest.approx(1 / 3), None)
    assert found["gemma2"] == (1.0, 5.0)


def test_scale_and_cap_together_are_both_found(tokenizer, make_model):
    model = make_model("gemma2", tokenizer)
    own = model.forward

    def doubled(**inputs):
        out = own(**inputs)
        raw = torch.atanh((out.logits.double() / 5.0).clamp(-1 + 1e-15, 1 - 1e-15)) * 5.0
        out.logits = (5.0 * torch.tanh(0.5 * raw / 5.0)).float()
        return out

    model.forward = doubled
    head = Head.of(model)
    assert head.cap == pytest.approx(5.0, rel=1e-3)
    assert head.scale == pytest.approx(0.5, rel=1e-3)


def test_map_that_is_neither_scale_nor_cap_is_refused(tokenizer, make_model):
    model = make_model("llama", tokenizer)
    own = model.forward

    def shifted(**inputs):
        out = own(**inputs)
        out.logits = out.logits.clamp(-1.0, 1.0)
        return out

    model.forward = shifted
    with pytest.raises(ModelError, match="neither a scale nor a soft cap"):
        Head.of(model)


def test_bfloat16_model_gets_the_float32_product(tokenizer, make_model):
    model = make_model("llama", tokenizer).to(torch.bfloat16)
    head = Head.of(model)
    h_SD = torch.randn(5, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    exact_SV = h_SD.float() @ model.lm_head.weight.float().T
    assert torch.equal(head.logits(h_SD), exact_SV)
    own_SV = model.lm_head(h_SD).float()
    assert (own_SV - exact_SV).abs().max() > 1e-4  # bfloat16 would have lost something


def test_frozen_bfloat16_head_that_scored_can_still_train(tokenizer, make_model):
    model = make_model("llama", tokenizer).to(torch.bfloat16).requires_grad_(False)
    head = Head.of(model)
    with torch.inference_mode():
        head.logits(torch.ones(1, 32, dtype=torch.bfloat16))
    h_SD = torch.ones(1, 32, dtype=torch.bfloat16, requires_grad=True)
    head.token_logp(h_SD, torch.tensor([7])).sum().backward()
    assert torch.isfinite(h_SD.grad).all()
    assert h_SD.grad.abs().sum() > 0


LORA = {"target_modules": ["lm_head"], "init_lora_weights": False, "r": 4}
COPY = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
TOKENS = {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 7]}}
ON_THE_HEAD = pytest.mark.parametrize("settings", [LORA, {**LORA, "use_dora": True}, COPY, TOKENS], ids=str)


def adapted(model, settings, dtype):
    """A model in ``dtype`` with an adapter on its head that differs from what it started as."""
    from peft import LoraConfig, get_peft_model

    from calibrant.scoring.models import quiet_peft

    torch.manual_seed(4)
    with quiet_peft():
        tuned = get_peft_model(model.to(dtype), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, weight in tuned.get_output_embeddings().named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.3 if "lora" in name else 1.0))
    return tuned


@ON_THE_HEAD
def test_adapter_on_a_bfloat16_head_is_computed_in_float32_and_learns_the_same(settings, tokenizer, make_model):
    """Against the same weights in a float32 model: logits and gradients are those of its own head."""
    half = adapted(make_model("llama", tokenizer), settings, torch.bfloat16)
    full = adapted(make_model("llama", tokenizer), settings, torch.bfloat16).float()
    heads = [Head.of(half), Head.of(full)]
    h_SD = torch.randn(6, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    wanted_SV = full.get_output_embeddings()(h_SD.float())
    with torch.inference_mode():
        scored_SV = heads[0].logits(h_SD)
    assert scored_SV.dtype == torch.float32
    torch.testing.assert_close(scored_SV, wanted_SV, rtol=1e-5, atol=1e-5)
    rounded_SV = half.get_output_embeddings()(h_SD).float()
    assert (rounded_SV - wanted_SV).abs().max() > 1e-3  # what 16 bits would have lost
    plain_SV = make_model("llama", tokenizer).to(torch.bfloat16).lm_head(h_SD).float()
    assert (plain_SV - wanted_SV).abs().max() > 0.5  # the adapter does something
    gradients = []
    for head, rows in zip(heads, (h_SD, h_SD.float()), strict=True):
        rows = rows.clone().requires_grad_()
        head.token_logp(rows, torch.tensor([7, 5, 3, 7, 9, 5]), chunk=4).sum().backward()
        trained = {name: w.grad for name, w in head.module.named_parameters() if w.grad is not None}
        gradients.append({"rows": rows.grad, **trained})
    assert gradients[0].keys() == gradients[1].keys() > {"rows"}
    for name, gradient in gradients[0].items():
        assert gradient.dtype == dict(heads[0].module.named_parameters()).get(name, h_SD).dtype
        torch.testing.assert_close(gradient.float(), gradients[1][name], rtol=1e-2, atol=1e-3)


def test_adapter_on_the_head_that_is_switched_off_leaves_the_plain_head(tokenizer, make_model):
    plain = make_model("llama", tokenizer).to(torch.bfloat16)
    h_SD = torch.randn(3, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    wanted_SV = h_SD.float() @ plain.lm_head.weight.float().T
    tuned = adapted(plain, LORA, torch.bfloat16)
    head = Head.of(tuned)
    assert (head.logits(h_SD) - wanted_SV).abs().max() > 0.5
    with tuned.disable_adapter():
        torch.testing.assert_close(head.logits(h_SD), wanted_SV)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_adapter_on_the_head_that_changes_nothing_moves_no_probability(tmp_path, model_folder, make_questions):
    """B = 0. A bfloat16 head would round logits of up to 6 to steps of 1/32, and the probabilities with them."""
    from peft import LoraConfig, get_peft_model

    from calibrant.scoring import load_model, score
    from calibrant.scoring.models import quiet_peft

    model = load_model(model_folder(), device="cpu").model
    with quiet_peft():
        get_peft_model(model, LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    questions, half = make_questions("half", 8), {"device": "cpu", "dtype": "bfloat16"}
    plain = score(model_folder(), questions, **half)
    adapted = score(model_folder(), questions, adapter=tmp_path, **half)
    assert abs(adapted.p_NK - plain.p_NK).max() < 1e-6


def test_capture_lets_one_position_through_the_head(loaded):
    model = loaded("llama").model
    head = Head.of(model)
    shapes = []
    handle = model.lm_head.register_forward_hook(lambda _m, _a, out: shapes.append(tuple(out.shape)))
    try:
        with torch.no_grad(), head.capture() as kept:
            model(input_ids=torch.ones(3, 11, dtype=torch.long))
    finally:
        handle.remove()
    assert shapes == [(3, 1, model.config.vocab_size)]
    assert kept.take().shape == (3, 11, 32)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives, views too."""

    numel = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(part.numel() for part in tree_leaves(found) if isinstance(part, torch.Tensor))])
        return found


@pytest.mark.parametrize("frozen", [False, True])
def test_capture_never_repeats_the_head_for_each_row(tokenizer, make_model, frozen):
    """Where the head is frozen, as under an adapter, torch multiplies rows that lie apart with a head for each of them."""
    model = make_model("llama", tokenizer).requires_grad_(not frozen)
    head, weight = Head.of(model), model.lm_head.weight
    with torch.no_grad(), head.capture() as kept, Largest() as seen:
        model(input_ids=torch.full((16, 7), 5))
    assert kept.take().shape == (16, 7, 32)
    assert seen.numel <= weight.numel()


def test_model_is_whole_again_after_capture_even_when_it_fails(loaded):
    model = loaded("llama").model
    head = Head.of(model)
    with pytest.raises(RuntimeError, match="stop"), head.capture():
        raise RuntimeError("stop")
    assert model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.shape[1] == 4


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_token_logp_in_chunks_equals_one_block_in_value_and_gradient(loaded, chunk):
    head = Head.of(loaded("gemma2").model)
    draw = torch.Generator().manual_seed(3)
    start_SD = torch.randn(7, 32, generator=draw)
    token_A = torch.randint(0, 300, (9,), generator=draw)
    row_A = torch.tensor([6, 0, 3, 3, 1, 2, 5, 4, 0])  # out of order, one row read twice
    results = []
    for size in (chunk, 100):
        h_SD = start_SD.clone().requires_grad_()
        logp_A = head.token_logp(h_SD, token_A, row_A, chunk=size)
        (logp_A * torch.arange(1.0, 10.0)).sum().backward()
        results.append((logp_A.detach(), h_SD.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    direct_A = torch.log_softmax(head.logits(start_SD), 1)[row_A, token_A]
    torch.testing.assert_close(results[0][0], direct_A, rtol=1e-5, atol=1e-6)


def test_token_logp_never_holds_more_than_a_chunk_of_logits(loaded):
    head = Head.of(loaded("llama").model)
    rows = []
    own = head.logits
    head.logits = lambda h_SD, **more: rows.append(len(h_SD)) or own(h_SD, **more)
    h_SD = torch.randn(10, 32, requires_grad=True)
    head.token_logp(h_SD, torch.zeros(10, dtype=torch.long), chunk=4).sum().backward()
    assert max(rows) == 4
    assert sum(rows) == 20  # forward, and again in backward


def test_model_without_a_head_is_an_error_in_three_parts():
    with pytest.raises(ModelError, match="predicts the next token"):
        Head.of(nn.Linear(2, 2))


def test_encoder_is_refused_before_it_is_loaded(tmp_path, tokenizer):
    from transformers import BertConfig, BertForMaskedLM

    from calibrant.scoring.models import load_model

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForMaskedLM") as raised:
        load_model(tmp_path, device="cpu")
    assert "causal" in raised.value.todo
