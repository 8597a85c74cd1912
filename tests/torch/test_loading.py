"""Loading: safe by default, and every failure in three parts."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration

from calibrant.errors import ModelError
from calibrant.prompts import PromptStyle
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.fingerprints import fingerprint
from calibrant.scoring.models import quiet_peft
from calibrant.scoring.precision import pick_device


@pytest.fixture
def copy(tmp_path, model_folder):
    shutil.copytree(model_folder(), tmp_path / "model")
    return tmp_path / "model"


def pickled(folder, model_folder):
    weights = load_model(model_folder(), device="cpu").model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_refused_unless_asked_for(copy, model_folder):
    pickled(copy, model_folder)
    with pytest.raises(ModelError) as raised:
        load_model(copy, device="cpu")
    assert "--allow-pickle" in raised.value.todo
    assert load_model(copy, device="cpu", allow_pickle=True).facts["dtype"] == "float32"


def test_pickled_adapter_is_refused_unless_asked_for(tmp_path, model_folder):
    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        tuned = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(weights, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin") as raised:
        load_model(model_folder(), adapter=tmp_path, device="cpu")
    assert "--allow-pickle" in raised.value.todo
    assert load_model(model_folder(), adapter=tmp_path, device="cpu", allow_pickle=True).facts["adapter_weights"]


def test_a_models_own_code_is_not_run_unless_asked_for(copy, tmp_path):
    proof = tmp_path / "it-ran"
    (copy / "modeling_own.py").write_text(f"open({str(proof)!r}, 'w').write('ran')\n")
    config = json.loads((copy / "config.json").read_text())
    config.update(
        model_type="own-kind",
        auto_map={"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"},
    )
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as raised:
        load_model(copy, device="cpu")
    assert "trust_remote_code" in raised.value.todo
    assert not proof.exists()


def test_weights_that_the_files_lack_are_not_made_up(copy):
    """Loaded, they would be random, and other ones each time."""
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no lm_head\.weight, which would be random"):
        load_model(copy, device="cpu")
    weights = {name.replace("model.", "_orig_mod.model."): w for name, w in weights.items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"and \d+ more, which would be random"):
        load_model(copy, device="cpu")


def test_a_model_with_an_encoder_is_refused(tmp_path, tokenizer):
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = BartConfig(vocab_size=len(tokenizer), decoder_attention_heads=2, max_position_embeddings=256, **small)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'bart', with an encoder"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_of_another_model_is_refused(tmp_path, model_folder):
    """peft only warns that it finds no weights for the model's layers, and the adapter would change nothing."""
    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        tuned = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    other = {name.replace("layers.", "blocks."): weight for name, weight in weights.items()}
    save_file(other, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="missing adapter keys"):
        load_model(model_folder(), adapter=tmp_path, device="cpu")


def test_missing_hub_model_offline_is_an_error_in_three_parts():
    with pytest.raises(ModelError) as raised:
        load_model("no-such-owner/no-such-model", device="cpu")
    assert "no-such-owner/no-such-model" in raised.value.asked
    assert "check the name and the connection" in raised.value.todo


def test_a_gguf_file_is_not_quantised_to_four_bits_unseen(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="dequantised when it is read"):
        load_model(tmp_path / "model.gguf", device="cpu", quantize_4bit=True)


@pytest.mark.parametrize("name", ["nowhere/at/all.gguf", "/nowhere/model.gguf", "a model with spaces"])
def test_name_that_can_be_no_model_is_an_error(name):
    with pytest.raises(ModelError):
        load_model(name, device="cpu")


def test_damaged_weights_are_an_error(copy):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError) as raised:
        load_model(copy, device="cpu")
    assert "safetensors" in raised.value.todo


def test_folder_without_a_tokenizer_is_an_error(copy):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="model"):
        load_model(copy, device="cpu")


def test_adapter_that_is_none_is_an_error_naming_it(copy, tmp_path):
    with pytest.raises(ModelError, match=r"the adapter '.*nothing'") as raised:
        load_model(copy, adapter=tmp_path / "nothing", device="cpu")
    assert "config.json" not in raised.value.todo
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelError, match=r"no adapter_config\.json in it") as raised:
        load_model(copy, adapter=tmp_path / "run", device="cpu")
    assert "tuning/adapter of a restore run" in raised.value.todo


def test_an_adapter_alone_in_the_place_of_a_model_asks_for_its_model(model_folder, tmp_path):
    with_adapter(model_folder, LORA, tmp_path)
    with pytest.raises(ModelError, match="would be put on the model unsaid") as raised:
        load_model(tmp_path, device="cpu")
    assert raised.value.todo == "give the model that the adapter is for, and this folder as --adapter"


@pytest.mark.parametrize("device", ["teapot", "cuda:99", "mps"])
def test_device_that_is_not_there_is_an_error(device):
    with pytest.raises(ModelError, match=f"device '{device}'"):
        pick_device(device)


def test_unknown_dtype_is_an_error(copy):
    with pytest.raises(ModelError, match="dtype 'int3'"):
        load_model(copy, dtype="int3", device="cpu")


def test_fingerprint_follows_the_weights_not_the_place(copy, model_folder, tmp_path):
    assert fingerprint(copy) == fingerprint(model_folder())
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fingerprint(copy) != fingerprint(model_folder())


def test_fingerprint_sees_a_small_tensor_between_the_blocks_it_reads(tmp_path):
    """24 MB: the 64 blocks lie 380 KB apart. The last normalisation, 16 KiB, lies at 12.1 MB, between the 32nd, which
    ends at 11.84 MB, and the 33rd, which starts at 12.16 MB; one temperature folded into the model changes it alone.
    """
    weights = {"a": torch.zeros(3_025_000), "b.norm": torch.ones(4096), "c": torch.zeros(2_971_000)}
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    size, at = file.stat().st_size, file.read_bytes().index(b"\x00\x00\x80\x3f")
    assert not any(start - 16384 < at < start + 65536 for start in ((size - 65536) * i // 63 for i in range(64)))
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    save_file({**weights, "b.norm": torch.full((4096,), 1 / 1.7)}, file)
    assert file.stat().st_size == size
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 8, (4).to_bytes(8, "little") + b"[{}]", (9).to_bytes(8, "little") + b"{}"]
)
def test_fingerprint_of_a_file_that_is_no_safetensors_is_one_all_the_same(header, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(header + b"1")
    one = fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(header + b"2")
    assert len(one) == 16
    assert fingerprint(tmp_path) != one


# ---- adapters that would be read wrongly or taken unsaid ------------------------------------------------------------


def with_adapter(model_folder, settings, place=None):
    torch.manual_seed(1)
    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        tuned = get_peft_model(base.model, settings).eval()
    if place is not None:
        tuned.save_pretrained(place)
    return LoadedModel(tuned, base.tokenizer, {"model": "in memory"})


VIRTUAL = [
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
]


@pytest.mark.parametrize("settings", VIRTUAL, ids=lambda settings: settings.peft_type.value)
def test_adapter_with_virtual_tokens_is_refused_because_answers_would_be_read_too_early(
    settings, model_folder, make_questions, tmp_path
):
    in_memory = with_adapter(model_folder, settings, tmp_path)
    with pytest.raises(ModelError, match="virtual tokens") as raised:
        load_model(model_folder(), adapter=tmp_path, device="cpu")
    assert raised.value.asked == f"the adapter {str(tmp_path)!r} on {str(model_folder())!r}"
    assert settings.peft_type.value in raised.value.found
    assert "LoRA" in raised.value.todo
    with pytest.raises(ModelError, match="virtual tokens"):
        score(in_memory, make_questions("few", 2))


def test_prefix_tuning_is_read_at_the_answer(model_folder, make_questions, tmp_path):
    """Keys and values in front are not rows: the letters have the probabilities of the model's own forward."""
    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = with_adapter(model_folder, settings, tmp_path).model
    with torch.no_grad():
        for weight in model.prompt_encoder.parameters():
            weight.normal_(std=5)
    model.save_pretrained(tmp_path)
    (question,) = make_questions("one", 1)
    loaded = load_model(model_folder(), adapter=tmp_path, device="cpu")
    found = score(loaded, [question])
    assert abs(found.p_NK - score(model_folder(), [question], device="cpu").p_NK).max() > 0.01
    ids = loaded.tokenizer(PromptStyle().render(question).prompt)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1].double()
    letters = [[loaded.tokenizer.convert_tokens_to_ids(text) for text in (f"Ġ{x}", x)] for x in "ABCD"]
    p_K = torch.softmax(logits, 0)[torch.tensor(letters)].sum(1)
    torch.testing.assert_close(torch.tensor(found.p_NK[0]), p_K / p_K.sum(), rtol=1e-4, atol=1e-5)


LORA = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def test_adapter_in_the_models_own_folder_is_refused_not_applied_unsaid(copy, model_folder):
    with_adapter(model_folder, LORA, copy)
    assert (copy / "adapter_config.json").exists()
    assert (copy / "config.json").exists()
    with pytest.raises(ModelError, match=r"adapter_config\.json") as raised:
        load_model(copy, device="cpu")
    assert raised.value.asked == f"the causal language model {str(copy)!r}"
    assert "--adapter" in raised.value.todo
    (copy / "adapter_config.json").unlink()
    assert load_model(copy, device="cpu").facts["adapter"] is None


def test_adapter_in_the_models_own_repository_is_refused_too(copy, hub, model_folder):
    with_adapter(model_folder, LORA, copy)
    hub("owner/both", {"a" * 40: ("main", copy)})
    with pytest.raises(ModelError, match=r"adapter_config\.json") as raised:
        load_model("owner/both", device="cpu")
    assert "as --adapter" in raised.value.todo


# ---- the hub, as far as its cache on disk ---------------------------------------------------------------------------


def adapters(model_folder, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = load_model(model_folder(), device="cpu")
        settings = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        with quiet_peft():
            get_peft_model(base.model, settings).save_pretrained(tmp_path / f"adapter{seed}")
    return tmp_path / "adapter1", tmp_path / "adapter2"


def test_adapter_of_a_hub_has_its_own_revision_in_what_is_loaded_and_in_the_facts(hub, model_folder, tmp_path):
    old, new = adapters(model_folder, tmp_path)
    hub("owner/adapter", {"a" * 40: ("v1", old), "b" * 40: ("main", new)})
    for revision, folder, commit in ((None, new, "b"), ("v1", old, "a"), ("a" * 40, old, "a")):
        loaded = load_model(model_folder(), adapter="owner/adapter", adapter_revision=revision, device="cpu")
        weights = load_file(folder / "adapter_model.safetensors")
        name = next(n for n in weights if "lora_B" in n)
        there = dict(loaded.model.named_parameters())[name.replace(".weight", ".default.weight")]
        assert torch.equal(there, weights[name])
        assert loaded.facts["adapter"] == "owner/adapter"
        assert loaded.facts["adapter_revision"] == commit * 40
        assert loaded.facts["adapter_weights"] == fingerprint(folder)
    with pytest.raises(ModelError, match="the adapter 'owner/adapter'"):
        load_model(model_folder(), adapter="owner/adapter", adapter_revision="v9", device="cpu")


def test_pickled_adapter_of_a_hub_is_refused_too(hub, model_folder, tmp_path):
    folder, _ = adapters(model_folder, tmp_path)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    hub("owner/pickled", {"a" * 40: ("main", folder)})
    with pytest.raises(ModelError, match=r"adapter_model\.bin") as raised:
        load_model(model_folder(), adapter="owner/pickled", device="cpu")
    assert "--allow-pickle" in raised.value.todo


def test_model_of_a_hub_by_revision(hub, model_folder):
    hub("owner/model", {"a" * 40: ("v1", model_folder("llama")), "b" * 40: ("main", model_folder("qwen3"))})
    facts = {name: load_model("owner/model", revision=name, device="cpu").facts for name in (None, "v1")}
    assert [facts[name]["revision"] for name in (None, "v1")] == ["b" * 40, "a" * 40]
    with pytest.raises(ModelError) as raised:
        load_model("owner/other", device="cpu")
    assert "HF_HUB_OFFLINE is set" in raised.value.todo
