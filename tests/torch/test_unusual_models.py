"""Models, adapters and tokenizers that do what others do not: read as they are, or refused, never read otherwise unsaid."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Glm4MoeConfig,
    Llama4TextConfig,
    PhimoeConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from calibrant.alignment.models import leaves_weights_alone
from calibrant.errors import ConfigError, ModelError
from calibrant.exporting import ServeConfig, Source, export, merge_adapter
from calibrant.ladder import ladder
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.head import Head
from calibrant.scoring.models import quiet_peft
from calibrant.scoring.options import encode
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult, scale_adapter, tune
from calibrant.tuning.adapting import with_lora

TEXTS = PromptStyle(reading="continuation")
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
LORA = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")


def adapted(model, settings):
    with quiet_peft():
        return get_peft_model(model, settings).eval()


@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
def test_rows_that_a_model_cuts_from_its_logits_count_for_nothing(style, tokenizer, make_model, make_questions):
    """A head padded to a round number: its last rows would take part in the normalisation."""
    model, rows = make_model("llama", tokenizer), len(tokenizer)
    wanted = score(LoadedModel(model, tokenizer, {"model": "whole"}), make_questions("few", 6), style=style)
    padded = make_model("llama", tokenizer)
    padded.resize_token_embeddings(rows + 40, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[rows:] = 3 * torch.randn(40, 32)
    own = padded.forward

    def cut(**inputs):
        out = own(**inputs)
        out.logits = out.logits[..., :rows]
        return out

    padded.forward = cut
    assert Head.of(padded).rows == rows
    assert Head.of(model).rows is None
    found = score(LoadedModel(padded, tokenizer, {"model": "padded"}), make_questions("few", 6), style=style)
    torch.testing.assert_close(torch.tensor(found.logp_NK), torch.tensor(wanted.logp_NK), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.logmass_N), torch.tensor(wanted.logmass_N), rtol=0, atol=1e-5)


def test_a_model_whose_positions_do_not_begin_at_0_is_refused(tokenizer, make_questions):
    torch.manual_seed(0)
    kind = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=514, pad_token_id=2, is_decoder=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(kind).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    with pytest.raises(ModelError, match="not what the model itself says there"):
        score(LoadedModel(model, tokenizer, {"model": "in memory"}), make_questions("few", 4))


@pytest.fixture
def experts(tmp_path, tokenizer):
    """A mixture of experts in bfloat16 whose routing biases transformers keeps in float32."""
    torch.manual_seed(0)
    kind = Glm4MoeConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, moe_intermediate_size=32, num_hidden_layers=2, **HEADS,
        n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(kind).eval().to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if "e_score" in name:
            buffer.data = 6 + 0.01 * torch.randn_like(buffer, dtype=torch.float32)
    model.save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


def kinds_in(folder, part):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {str(file.get_tensor(name).dtype) for name in file.keys() if part in name}  # noqa: SIM118 (not a dict)


def test_what_transformers_keeps_in_float32_stays_so_in_an_export_and_in_tuned_weights(
    experts, tmp_path, make_questions
):
    asked = make_questions("check", 8)
    source = Source(str(experts), loading={"device": "cpu", "dtype": "bfloat16"})
    made = export(source, out=tmp_path / "out", check=asked, config=ServeConfig())
    assert kinds_in(made.folder, "e_score") == kinds_in(experts, "e_score") == {"torch.float32"}
    assert kinds_in(made.folder, "q_proj") == {"torch.bfloat16"}
    assert made.facts["drift"]["movement"] == 0
    config = TuneConfig(objective="cft", epochs=1, batch_size=4, lora=None, train_sample=0)
    sets = make_questions("train", 4), make_questions("calibration", 4, seed=1)
    tuned = tune(str(experts), *sets, out=tmp_path / "run", config=config, device="cpu", dtype="bfloat16")
    assert kinds_in(tuned.weights, "e_score") == {"torch.float32"}
    assert kinds_in(tuned.weights, "q_proj") == {"torch.bfloat16"}


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path, model_folder):
    deep = load_model(model_folder(), device="cpu").model
    deep.model.layers.append(deepcopy(deep.model.layers[0]))
    adapted(deep, LORA).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="weights for layer 2, and on this model its last layer is 1"):
        load_model(model_folder(), adapter=tmp_path, device="cpu")


def test_an_adapter_that_repeats_layers_is_not_switched_off_nor_scaled(tmp_path, model_folder):
    settings = LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[(0, 2), (1, 2)], task_type="CAUSAL_LM")
    assert not leaves_weights_alone(settings)
    assert leaves_weights_alone(LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted(load_model(model_folder(), device="cpu").model, settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="layer_replication in its settings"):
        scale_adapter(tmp_path / "adapter", 0.5, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_an_adapter_that_cannot_be_merged_is_refused_in_three_parts(tokenizer, make_model):
    settings = LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True, task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="lora_bias"):
        merge_adapter(adapted(make_model("llama", tokenizer), settings), "an adapter")


@pytest.mark.parametrize("eos", ["[SEP]", "[PAD]", None])
@pytest.mark.parametrize("style", [PromptStyle(), TEXTS], ids=["letters", "continuation"])
def test_what_a_tokenizer_closes_a_text_with_is_not_put_before_the_answer(eos, style):
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "Question", ":", "Answer", ".", "A", "B", "2", "3", "4", "+", "=", "?"]
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = BertPreTokenizer()
    plain.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": eos}
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, **{name: token for name, token in named.items() if token})
    (e,) = encode(fast, [Question("1", "2 + 2 = ?", ("3", "4"), 1)], style)
    assert fast.convert_ids_to_tokens(list(e.prompt))[-2:] == ["Answer", ":"]
    assert e.prompt[0] == 1
    wanted = [["A"], ["B"]] if style.reading == "letters" else [["3"], ["4"]]
    assert [fast.convert_ids_to_tokens(list(option[0])) for option in e.options] == wanted


def test_chat_templates_by_name_without_a_default_are_refused_in_three_parts(make_tokenizer):
    named = make_tokenizer(chat=True)
    named.chat_template = {"tool_use": named.chat_template, "rag": named.chat_template}
    with pytest.raises(ModelError, match="takes no such messages"):
        encode(named, [Question("1", "2 + 2 = ?", ("3", "4"), 1)], PromptStyle(format="chat"))


def test_a_rate_that_no_tuning_can_have_is_refused():
    with pytest.raises(ConfigError, match="learning_rate"):
        TuneConfig.make({"learning_rate": 1e38, "lora": LoraSettings()})


ROUTED = {
    "Llama4Router": lambda n: Llama4TextConfig(
        vocab_size=n, hidden_size=32, intermediate_size=48, intermediate_size_mlp=64, num_hidden_layers=2, **HEADS,
        num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=1, max_position_embeddings=512,
        attention_chunk_size=512, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    ),
    "PhimoeTopKRouter": lambda n: PhimoeConfig(
        vocab_size=n, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    ),
}  # fmt: skip


def routed(kind, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ROUTED[kind](len(tokenizer))).eval()
    return LoadedModel(model, tokenizer, {"model": "in memory", "revision": None, "weights": "", "dtype": "float32"})


@pytest.mark.parametrize("kind", list(ROUTED))
def test_an_adapter_on_all_linear_layers_leaves_out_and_names_routers_that_choose(
    kind, tokenizer, make_questions, tmp_path
):
    """They are made from ``nn.Linear``, and give chosen experts besides: peft would add the adapter's output to a tuple."""
    sets = make_questions("train", 8), make_questions("calibration", 6)
    model = routed(kind, tokenizer)
    before = score(model, sets[1])
    config = TuneConfig(objective="sft", epochs=1, batch_size=4, learning_rate=0.05, keep="last", train_sample=0)
    made = tune(model, *sets, out=tmp_path, config=config)
    routers = [name for name, module in model.model.named_modules() if type(module).__name__ == kind]
    assert made.left_out == {kind: [name.removeprefix("base_model.model.") for name in routers]}
    assert made.not_adapted == f"no adapter on 2 {kind}, which are no plain linear layers"
    assert TuneResult.load(tmp_path) == made
    with safe_open(made.adapter / "adapter_model.safetensors", "pt") as file:
        names = " ".join(file.keys())
    assert all(part in names for part in ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert "router" not in names
    assert "lm_head" not in names
    after = score(model, sets[1])
    assert abs(after.p_NK - before.p_NK).max() > 0.01
    again = routed(kind, tokenizer)
    with quiet_peft():
        again.model = PeftModel.from_pretrained(again.model, made.adapter).eval()
    torch.testing.assert_close(torch.tensor(score(again, sets[1]).logp_NK), torch.tensor(after.logp_NK))


def test_a_ladder_and_an_export_name_what_an_adapter_leaves_out(tokenizer, make_questions, tmp_path):
    folder = tmp_path / "model"
    routed("PhimoeTopKRouter", tokenizer).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    config = TuneConfig(epochs=1, batch_size=4, learning_rate=0.01, train_sample=0, lora=LoraSettings(rank=2, alpha=4))
    asked = {"fixes": ["cft", "sft"], "budget": "quick", "seeds": 1, "config": config, "loading": {"device": "cpu"}}
    ladder(folder, splits, out=tmp_path / "ladder", table={"n_boot": 50}, **asked)
    said = "no adapter on 2 PhimoeTopKRouter, which are no plain linear layers"
    lines = (tmp_path / "ladder/table/table.md").read_text().splitlines()
    assert [line for line in lines if said in line] == [f"* sft, cft: {said}."]
    tuned = tmp_path / "ladder/cells/cft/default/seed-0/tuning/adapter"
    made = export(Source(str(folder), str(tuned), loading={"device": "cpu"}), out=tmp_path / "out")
    assert made.facts["adapter"]["not_adapted"] == said
    assert (made.folder / "README.md").read_text().count(f"; {said}") == 1
    (tmp_path / "result.json").write_text('{"adapter": "adapter"}')  # none of ours
    assert not Source(str(folder), str(tmp_path / "adapter")).not_adapted


@pytest.mark.parametrize("kind", list(ROUTED))
def test_a_router_that_is_named_for_an_adapter_is_refused_in_three_parts(kind, tokenizer, make_questions, tmp_path):
    model = routed(kind, tokenizer)
    config = TuneConfig(lora=LoraSettings(targets=("q_proj", "router")))
    with pytest.raises(ModelError, match=rf"found: 2 modules, .+router \({kind}\) for one"):
        tune(model, make_questions("train", 8), make_questions("calibration", 6), out=tmp_path, config=config)
    assert not [name for name, _ in model.model.named_modules() if "lora" in name]


def test_a_layer_of_a_kind_of_its_own_that_is_linear_takes_an_adapter(tokenizer):
    """Falcon's multiplies and adds by itself."""
    kind = FalconConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    model = AutoModelForCausalLM.from_config(kind).eval()
    tuned, left_out = with_lora(model, LoraSettings(), 0)
    assert left_out == {}
    assert {name.split(".")[-4] for name, _ in tuned.named_parameters() if "lora_A" in name} == {
        "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h",
    }  # fmt: skip
