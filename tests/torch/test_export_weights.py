"""Merging and folding change the weights and not what they should keep: measured on logits, per architecture."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GemmaConfig, OPTConfig, PhiConfig

from calibrant.errors import ConfigError, ModelError
from calibrant.exporting import ServeConfig, Source, export, fold_temperature, merge_adapter
from calibrant.exporting.folding import refuse_folding
from calibrant.exporting.merging import is_tied, probe_logits
from calibrant.prompts import PromptStyle
from calibrant.scoring.models import quiet_peft

KINDS = ("llama", "qwen3", "gemma2", "cohere", "granite", "gpt2")
TIED = {"qwen3", "gemma2", "cohere", "gpt2"}
T = 1.7


def adapted(model, **settings):
    torch.manual_seed(1)
    target = {"target_modules": "all-linear", **settings}
    with quiet_peft():
        tuned = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **target))
    return tuned.eval()


def of_config(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # not the ones and zeros they start with
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def common(tokenizer):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **heads}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # gpt2's layers are transposed; peft says so
@pytest.mark.parametrize("kind", KINDS)
def test_merged_logits_are_the_adapters(kind, make_model, tokenizer, tmp_path):
    model = make_model(kind, tokenizer)
    plain = probe_logits(model)
    tuned = adapted(model)
    wanted = probe_logits(tuned)
    assert not torch.allclose(plain, wanted, atol=1e-2)  # the adapter does something
    merged = merge_adapter(tuned, "an adapter")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(probe_logits(merged), wanted, rtol=1e-4, atol=1e-4)
    assert is_tied(merged) == merged.config.tie_word_embeddings == (kind in TIED)
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(probe_logits(again), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_a_head_that_was_tuned_apart_from_the_embedding_stays_apart_when_loaded_again(make_model, tokenizer, tmp_path):
    model = make_model("qwen3", tokenizer)
    tuned = adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        tuned.get_output_embeddings().weight.mul_(1.5)
    wanted = probe_logits(tuned)
    merged = merge_adapter(tuned, "an adapter")
    assert not merged.config.tie_word_embeddings
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(probe_logits(again), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_an_adapter_on_tied_embeddings_is_refused_because_its_merge_moves_the_logits(make_model, tokenizer):
    tuned = adapted(make_model("qwen3", tokenizer), target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match="tied") as raised:
        merge_adapter(tuned, "an adapter")
    assert "--no-merge" in raised.value.todo


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gemma2"])
@pytest.mark.parametrize("temperature", [T, 0.6])
def test_folded_logits_are_the_logits_divided_by_the_temperature(kind, temperature, make_model, tokenizer, tmp_path):
    model = make_model(kind, tokenizer)
    before, tied = probe_logits(model), is_tied(model)
    folded = fold_temperature(model, temperature)
    assert folded.where.startswith("last normalisation")
    torch.testing.assert_close(probe_logits(model), before / temperature, rtol=1e-4, atol=1e-4)
    assert is_tied(model) == tied
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(probe_logits(again), before / temperature, rtol=1e-4, atol=1e-4)
    assert torch.equal(probe_logits(again).argmax(-1), before.argmax(-1))  # greedy decoding as before


def test_where_the_norm_adds_one_to_its_weight(tokenizer):
    model = of_config(GemmaConfig(**common(tokenizer), head_dim=8))
    before = probe_logits(model)
    assert fold_temperature(model, T).where.endswith("1 + weight")
    torch.testing.assert_close(probe_logits(model), before / T, rtol=1e-4, atol=1e-4)


def test_a_head_with_a_bias_is_scaled_itself(tokenizer):
    model = of_config(PhiConfig(**common(tokenizer)))
    before = probe_logits(model)
    assert fold_temperature(model, T).where == "output head"
    torch.testing.assert_close(probe_logits(model), before / T, rtol=1e-4, atol=1e-4)


def test_a_soft_capped_model_is_refused_and_left_as_it_was(make_model, tokenizer):
    model = make_model("gemma2", tokenizer)
    before = probe_logits(model)
    with pytest.raises(ModelError, match="caps its logits at 5"):
        fold_temperature(model, T)
    assert torch.equal(probe_logits(model), before)


def test_no_norm_before_a_tied_head_is_refused_and_left_as_it_was(tokenizer):
    narrow = {"word_embed_proj_dim": 16, "ffn_dim": 64, "num_attention_heads": 4}
    model = of_config(OPTConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, **narrow))
    before = probe_logits(model)
    with pytest.raises(ModelError, match="no normalisation"):
        fold_temperature(model, T)
    assert torch.equal(probe_logits(model), before)


def test_attempts_that_fail_are_undone(tokenizer):
    """A tied head with a bias: the norm alone does not divide the bias, and the head is not its own."""
    model = of_config(PhiConfig(**common(tokenizer), tie_word_embeddings=True))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(ModelError, match="off by"):
        fold_temperature(model, T)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_a_continuation_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="sum over its tokens"):
        refuse_folding(PromptStyle(reading="continuation"))
    refuse_folding(PromptStyle(format="chat"))


def test_an_adapter_beside_pickled_weights_is_checked_where_they_were_allowed(
    model_folder, adapter, make_questions, tmp_path
):
    """The check loads the model once more, and must be told so too."""
    shutil.copytree(model_folder(), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    source = Source(str(tmp_path / "model"), str(adapter), loading={"device": "cpu", "allow_pickle": True})
    made = export(source, out=tmp_path / "out", config=ServeConfig(merge=False), check=make_questions("check", 20))
    assert made.facts["drift"]["verdict"] == "faithful"
