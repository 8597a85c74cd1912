"""Weights between base and aligned: the ends, linearity, files, refusals; an adapter at part of its strength."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from calibrant.errors import ConfigError, ModelError, OutputError
from calibrant.scoring.models import load_model, quiet_peft
from calibrant.tuning import interpolate, scale_adapter

IDS = torch.tensor([[5, 17, 33, 90, 41, 7]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def logits_in(folder, **loading):
    return logits(load_model(folder, device="cpu", **loading).model)


def weights_in(folder):
    return {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}


@pytest.fixture
def two(tmp_path, tokenizer, make_model):
    """A function from a kind of model to the folders of a base and an aligned one."""

    def make(kind="llama", **saving):
        folders = tmp_path / f"{kind}-base", tmp_path / f"{kind}-aligned"
        for seed, folder in enumerate(folders):
            make_model(kind, tokenizer, seed=seed).save_pretrained(folder, **saving)
            tokenizer.save_pretrained(folder)
        return folders

    return make


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])  # qwen3 and gpt2: output head tied to the embedding
def test_the_ends_are_the_two_models_and_between_them_weights_are_linear(two, tmp_path, kind):
    base, aligned = two(kind)
    ends = interpolate(base, aligned, 0.0, tmp_path / "zero"), interpolate(base, aligned, 1.0, tmp_path / "one")
    for end, model in zip(ends, (base, aligned), strict=True):
        assert torch.equal(logits_in(end), logits_in(model))
    assert not torch.allclose(logits_in(ends[0]), logits_in(ends[1]))
    assert (ends[1] / "model.safetensors").read_bytes() == (aligned / "model.safetensors").read_bytes()
    middle = weights_in(interpolate(base, aligned, 0.3, tmp_path / "middle"))
    first, last = weights_in(base), weights_in(aligned)
    assert middle.keys() == last.keys()
    for name, value in middle.items():
        assert torch.allclose(value, 0.7 * first[name] + 0.3 * last[name], atol=1e-6), name
    model = load_model(tmp_path / "middle", device="cpu").model
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (kind != "llama")


def test_the_folder_is_complete_and_says_what_it_is(two, tmp_path):
    base, aligned = two()
    (aligned / "pytorch_model.bin").write_bytes(b"old")
    (aligned / "additional_chat_templates").mkdir()
    (aligned / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    out = interpolate(base, aligned, 0.25, tmp_path / "deep" / "out")
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in aligned.iterdir()} - {"pytorch_model.bin"} | {"calibrant.json"}
    note = json.loads((out / "calibrant.json").read_text())
    assert (note["kind"], note["alpha"], note["aligned"]) == ("interpolation", 0.25, str(aligned))
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "{{ messages }}"
    loaded = load_model(out, device="cpu")
    assert loaded.tokenizer.chat_template == load_model(aligned, device="cpu").tokenizer.chat_template
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}


def test_again_it_returns_what_is_finished_and_something_else_is_not_overwritten(two, tmp_path):
    base, aligned = two()
    out = interpolate(base, aligned, 0.5, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert interpolate(base, aligned, 0.5, out) == out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    for other in ((base, aligned, 0.6, out), (base, aligned, 0.5, aligned)):
        with pytest.raises(ConfigError, match="it holds something else"):
            interpolate(*other)


def test_weights_that_transformers_does_not_load_are_left_alone(two, tmp_path):
    """The same model once more beside it, in its maker's format or another precision, in one of the two."""
    base, aligned = two()
    (aligned / "consolidated.safetensors").write_bytes(b"not looked at")
    out = interpolate(base, aligned, 1.0, tmp_path / "out")
    assert torch.equal(logits_in(out), logits_in(aligned))
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["model.safetensors"]
    (aligned / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no folder with model"):
        interpolate(base, aligned, 0.5, tmp_path / "none")


def test_files_in_parts_and_in_half_precision(two, tmp_path, tokenizer, make_model):
    """The base in one float32 file, the aligned model in bfloat16 parts: parts and dtype are those of the aligned one."""
    base, _ = two()
    aligned = tmp_path / "parts"
    make_model("llama", tokenizer, seed=5).to(torch.bfloat16).save_pretrained(aligned, max_shard_size="30KB")
    tokenizer.save_pretrained(aligned)
    assert len(list(aligned.glob("*.safetensors"))) > 2
    out = interpolate(base, aligned, 0.5, tmp_path / "out")
    assert sorted(p.name for p in out.glob("*.safetensors")) == sorted(p.name for p in aligned.glob("*.safetensors"))
    first, last, found = weights_in(base), weights_in(aligned), weights_in(out)
    for name, value in found.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, (0.5 * first[name] + 0.5 * last[name].float()).to(torch.bfloat16)), name
    assert logits_in(out).isfinite().all()


def test_a_tied_head_that_only_one_file_stores(two, tmp_path):
    """Some savers write the output head although it is the embedding."""
    from safetensors.torch import save_file

    base, aligned = two("qwen3")
    for stores, name in ((aligned, "a"), (base, "b")):
        weights = load_file(stores / "model.safetensors")
        assert "lm_head.weight" not in weights
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, stores / "model.safetensors", metadata={"format": "pt"})
        out = interpolate(base, aligned, 0.0, tmp_path / name)
        assert torch.equal(logits_in(out), logits_in(base))


def test_models_that_do_not_belong_together_are_refused_and_nothing_is_left(two, tmp_path, make_model, make_tokenizer):
    base, aligned = two()
    _, other = two("qwen3")
    wider = tmp_path / "wider"
    model = make_model("llama", make_tokenizer(), seed=1)
    model.resize_token_embeddings(400)
    model.save_pretrained(wider)
    with pytest.raises(ModelError, match=r"differ in .*model_type"):
        interpolate(base, other, 0.5, tmp_path / "out")
    trained = json.loads((aligned / "config.json").read_text()) | {"attention_dropout": 0.1, "unsloth_version": "x"}
    (aligned / "config.json").write_text(json.dumps(trained))
    interpolate(base, aligned, 0.5, tmp_path / "tuned elsewhere")  # matters in training alone
    with pytest.raises(ModelError, match="differ in vocab_size"):
        interpolate(base, wider, 0.5, tmp_path / "out")
    config = json.loads((wider / "config.json").read_text()) | {"vocab_size": 320}
    (wider / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="another shape"):
        interpolate(base, wider, 0.5, tmp_path / "out")
    (aligned / "model.safetensors").write_bytes((aligned / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="weights in"):
        interpolate(base, aligned, 0.5, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_is_no_model_or_no_alpha_is_refused(two, tmp_path):
    base, aligned = two()
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="outside"):
            interpolate(base, aligned, alpha, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no folder with model"):
        interpolate(tmp_path / "empty", aligned, 0.5, tmp_path / "out")
    with pytest.raises(ModelError, match="connection to the hub"):
        interpolate("no-such/model", aligned, 0.5, tmp_path / "out")
    config = json.loads((base / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "gptq", "bits": 4}
    }
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised"):
        interpolate(base, aligned, 0.5, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_an_output_error(two, tmp_path):
    base, aligned = two()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        interpolate(base, aligned, 0.5, tmp_path / "file" / "out")


# ---- adapters -------------------------------------------------------------------------------------------------------


def adapted(folder, place, **settings):
    """A LoRA adapter with random B on a model, saved alone."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    with quiet_peft():
        torch.manual_seed(3)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM", **settings)
        )
    model.save_pretrained(place)
    return place


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 32}, "rank_pattern": {"v_proj": 2}}]
)
def test_factor_0_is_the_base_1_the_adapter_and_between_them_its_change_is_linear(two, tokenizer, tmp_path, settings):
    base, _ = two()
    adapter = adapted(base, tmp_path / "adapter", **settings)
    parts = {f: scale_adapter(adapter, f, tmp_path / f"by-{f}") for f in (0.0, 0.4, 1.0)}
    assert torch.equal(logits_in(base, adapter=parts[0.0]), logits_in(base))
    assert torch.equal(logits_in(base, adapter=parts[1.0]), logits_in(base, adapter=adapter))
    assert not torch.allclose(logits_in(base, adapter=adapter), logits_in(base))
    # the same as weights interpolated between the base and the merged model
    with quiet_peft():
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    between = interpolate(base, tmp_path / "merged", 0.4, tmp_path / "between")
    assert torch.allclose(logits_in(base, adapter=parts[0.4]), logits_in(between), atol=1e-4)


def test_the_scaled_adapter_keeps_its_weights_and_says_what_it_is(two, tmp_path):
    base, _ = two()
    adapter = adapted(base, tmp_path / "adapter")
    out = scale_adapter(adapter, 0.5, tmp_path / "out")
    assert (out / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    before, after = (json.loads((p / "adapter_config.json").read_text()) for p in (adapter, out))
    assert after == before | {"lora_alpha": 4.0}
    assert json.loads((out / "calibrant.json").read_text())["factor"] == 0.5
    assert scale_adapter(adapter, 0.5, out) == out
    with pytest.raises(ConfigError, match="something else"):
        scale_adapter(adapter, 0.6, out)
    with pytest.raises(ConfigError, match="below 0"):
        scale_adapter(adapter, -1.0, tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, "not LoRA matrices"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "changed the base weights"),
    ],
)
def test_adapters_from_which_no_factor_leads_to_the_base_are_refused(two, tmp_path, settings, found):
    base, _ = two()
    adapter = adapted(base, tmp_path / "adapter", **settings)
    with pytest.raises(ModelError, match=found):
        scale_adapter(adapter, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_adapter_is_refused(two, tmp_path):
    base, _ = two()
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        scale_adapter(base, 0.5, tmp_path / "out")
    adapter = adapted(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="IA3"):
        scale_adapter(adapter, 0.5, tmp_path / "out")
    shutil.move(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        scale_adapter(adapter, 0.5, tmp_path / "out")
