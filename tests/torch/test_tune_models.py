"""What tuning does to the model it is given: precision, mode, name; models and settings that it refuses or takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig

from calibrant.errors import ConfigError, ModelError
from calibrant.ladder import Ladder
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.restoring import restore
from calibrant.scoring import load_model, score
from calibrant.scoring.options import encode
from calibrant.tuning import TuneConfig, tune
from calibrant.tuning.collate import Example
from calibrant.tuning.rows import _probe

CPU = {"device": "cpu"}
SMALL = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}}


@pytest.fixture
def sets(make_questions):
    return make_questions("train", 32), make_questions("calibration", 20)


def test_all_weights_of_a_half_precision_model_learn_as_in_float32(model_folder, make_questions, tmp_path):
    """At this rate most steps are smaller than a bfloat16 weight's rounding, which would swallow them."""
    settings = {"epochs": 10, "batch_size": 4, "learning_rate": 5e-5, "evaluations_per_epoch": 1, "keep": "last"}
    config = TuneConfig.make({**settings, "lora": None, "patience": 0})
    train, calibration = make_questions("train", 32), make_questions("calibration", 20)
    moved = {}
    for dtype in ("float32", "bfloat16"):
        model = load_model(model_folder(), dtype=dtype, **CPU)
        before = {name: w.detach().clone().float() for name, w in model.model.named_parameters()}
        found = tune(model, train, calibration, out=tmp_path / dtype, config=config)
        changes = [(w.detach().float() - before[name]).flatten() for name, w in model.model.named_parameters()]
        moved[dtype] = torch.cat(changes)
        kept = load_file(found.weights / "model.safetensors")
        assert {w.dtype for w in kept.values()} == {getattr(torch, dtype)}
        again = score(str(found.weights), calibration, dtype=dtype, **CPU)
        assert again.logp_NK == pytest.approx(score(model, calibration).logp_NK, abs=1e-5)
    assert torch.cosine_similarity(moved["float32"], moved["bfloat16"], 0) > 0.95


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_transposed_layers_and_a_layer_norm_is_tuned(model_folder, sets, tmp_path, dtype):
    """GPT-2: its layers are Conv1D, which peft finds out by itself and warns of; its norm has a bias."""
    model = load_model(model_folder("gpt2"), dtype=dtype, **CPU)
    before = score(model, sets[1])
    found = tune(model, *sets, out=tmp_path, config=TuneConfig.make({**SMALL, "objective": "sft", "keep": "last"}))
    after = score(model, sets[1])
    assert np.abs(after.p_NK - before.p_NK).max() > 0.01
    again = score(load_model(model_folder("gpt2"), adapter=found.adapter, dtype=dtype, **CPU), sets[1])
    np.testing.assert_allclose(again.logp_NK, after.logp_NK, atol=1e-3)


@pytest.mark.parametrize("lora", [{"rank": 2, "alpha": 4}, None], ids=["adapter", "all weights"])
def test_a_loaded_model_takes_on_a_run_that_was_finished_before(model_folder, sets, tmp_path, lora):
    """As in a notebook that was started anew: the same cells must leave the same model."""
    config = TuneConfig.make({**SMALL, "lora": lora})
    first, second = (load_model(model_folder(), **CPU) for _ in range(2))
    untuned = score(second, sets[1])
    found = tune(first, *sets, out=tmp_path / "run", config=config)
    assert tune(second, *sets, out=tmp_path / "run", config=config) == found
    one, other = score(first, sets[1]), score(second, sets[1])
    assert np.array_equal(one.logp_NK, other.logp_NK)
    assert not np.allclose(one.logp_NK, untuned.logp_NK)
    names = ("model", "weights", "adapter", "adapter_weights")
    assert [one.provenance[name] for name in names] == [other.provenance[name] for name in names]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_loaded_model_is_ready_for_scoring_afterwards_and_goes_by_its_new_name(model_folder, sets, tmp_path, keep):
    model = load_model(model_folder(), **CPU)
    config = TuneConfig.make({**SMALL, "keep": keep, "lora": {"rank": 2, "alpha": 4, "dropout": 0.3}})
    found = tune(model, *sets, out=tmp_path / "run", config=config)
    assert not any(module.training for module in model.model.modules())
    one, again = score(model, sets[1]), score(model, sets[1])
    assert np.array_equal(one.logp_NK, again.logp_NK)
    assert one.provenance["adapter"] == str(found.adapter)
    loaded = score(str(model_folder()), sets[1], adapter=found.adapter, **CPU)
    assert one.provenance["adapter_weights"] == loaded.provenance["adapter_weights"]
    assert one.logp_NK == pytest.approx(loaded.logp_NK, abs=1e-5)
    with pytest.raises(ModelError, match="an adapter on an adapter"):
        tune(model, *sets, out=tmp_path / "second", config=config)


def test_scoring_leaves_a_model_in_the_mode_it_was_in(model_folder, sets):
    model = load_model(model_folder(), **CPU)
    model.model.train()
    trained = [module.training for module in model.model.modules()]
    assert np.array_equal(score(model, sets[1]).logp_NK, score(str(model_folder()), sets[1], **CPU).logp_NK)
    assert [module.training for module in model.model.modules()] == trained


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_a_model_of_fused_experts_says_what_its_adapter_needs(tokenizer, sets, tmp_path):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    with pytest.raises(ModelError, match="set dropout of the lora settings to 0"):
        tune(str(tmp_path / "moe"), *sets, out=tmp_path / "run", config=TuneConfig.make(SMALL), **CPU)
    plain = TuneConfig.make({**SMALL, "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}})
    found = tune(str(tmp_path / "moe"), *sets, out=tmp_path / "run-0", config=plain, **CPU)
    assert found.trained_parameters > 0


def test_four_bits_are_a_setting_of_the_tuning_not_of_the_loading(model_folder, sets, tmp_path, make_questions):
    train, calibration = sets
    splits = {"train": train, "calibration": calibration, "test": make_questions("test", 20)}
    where = {"quantize_4bit": True, **CPU}
    for call in (
        lambda: tune(model_folder(), train, calibration, out=tmp_path / "a", **where),
        lambda: restore(model_folder(), splits, out=tmp_path / "b", **where),
        lambda: Ladder(model_folder(), splits, tmp_path / "c", loading=where),
    ):
        with pytest.raises(ConfigError, match="set quantize_4bit in the TuneConfig"):
            call()
    assert not any((tmp_path / name).exists() for name in "abc")


def test_a_set_of_one_question_is_refused_before_a_model_is_read(sets, tmp_path, make_questions):
    splits = {"train": sets[0], "calibration": sets[1], "test": make_questions("test", 20)}
    for name, one in (("ood", {"far": make_questions("far", 1)}), ("test", {})):
        given = splits if name == "ood" else {**splits, "test": make_questions("test", 1)}
        with pytest.raises(Exception, match=r"1 for (far|test)"):
            restore("no-model-is-read", given, ood=one, out=tmp_path / "run")


def test_rows_are_judged_by_options_that_go_on(loaded, sets):
    """Of questions whose options are one token each no row branches: they would let any architecture pack its rows."""
    yes = [
        Question(f"y{i}", f"Is {i} even, or is it that {i} is odd, as some say?", ("A", "B"), i % 2) for i in range(30)
    ]
    encoded = encode(loaded().tokenizer, [*yes, *list(sets[0])[:4]], PromptStyle(reading="continuation"))
    encoded = [replace(e, options=tuple((o[0][:1],) for o in e.options)) if e.id[0] == "y" else e for e in encoded]
    probed = _probe([Example(e, 0) for e in encoded])
    assert max(e.encoded.n_tails for e in probed) == max(e.n_tails for e in encoded) > 0
    assert max(e.encoded.n_tokens for e in probed) == max(e.n_tokens for e in encoded)
