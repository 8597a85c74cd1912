"""A model in 4 bits (NF4 by bitsandbytes) is scored, tuned, exported and checked as what it is. Skipped without CUDA."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calibrant import TuneConfig, load_model, restore, score
from calibrant.errors import ModelError
from calibrant.exporting import ServeConfig, Source, check_drift, export
from calibrant.scores import Scores
from calibrant.tuning import TuneResult

bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra [quant]")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WHERE = {"device": "cuda", "dtype": "float32"}


@pytest.fixture(scope="module")
def wide(model_folder, tokenizer, tmp_path_factory):
    """A tiny model whose rows are whole blocks of 64 weights; bitsandbytes warns of others."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(model_folder(), hidden_size=64, intermediate_size=128, head_dim=16)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(8.0 if "embed" in name or "head" in name else 2.0)
    folder = tmp_path_factory.mktemp("wide")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sets(make_questions):
    return {name: make_questions(name, 24, ks=(4, 2, 3)) for name in ("train", "calibration", "test")}


@pytest.fixture(scope="module")
def run(wide, sets, tmp_path_factory):
    """The folder of a finished run that tuned in 4 bits."""
    out = tmp_path_factory.mktemp("four") / "run"
    config = TuneConfig(epochs=2, batch_size=8, learning_rate=3e-3, keep="last", patience=0, quantize_4bit=True)
    restore(wide, sets, out=out, objective="cft", config=config, **WHERE)
    return out


def test_scores_in_four_bits_are_those_of_the_weights_dequantised(wide, sets):
    plain, four = (load_model(wide, **WHERE, quantize_4bit=bits) for bits in (False, True))
    assert four.facts["quantized"] == "nf4"
    before = score(plain, sets["test"])
    kinds = bitsandbytes.nn.Linear4bit
    quantised = {name: module.weight for name, module in four.model.named_modules() if isinstance(module, kinds)}
    assert len(quantised) == 14  # seven projections of two layers
    with torch.no_grad():
        for name, weight in quantised.items():
            by_hand = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            plain.model.get_submodule(name).weight.copy_(by_hand)
    after, by_hand = score(four, sets["test"]), score(plain, sets["test"])
    np.testing.assert_allclose(after.p_NK, by_hand.p_NK, atol=2e-3)
    assert np.abs(before.p_NK - after.p_NK).max() > 2e-2


def test_a_run_in_four_bits_learns_and_is_measured_in_four_bits(run, wide, sets):
    tuning = TuneResult.load(run / "tuning")
    assert tuning.config["quantize_4bit"]
    for when in ("before", "tuned"):
        assert Scores.load(run / "scores" / when / "test.safetensors").provenance["quantized"] == "nf4"
    four, stored = (
        score(load_model(wide, adapter=run / "tuning" / "adapter", **WHERE, quantize_4bit=bits), sets["test"])
        for bits in (True, False)
    )
    kept = Scores.load(run / "scores" / "tuned" / "test.safetensors")
    np.testing.assert_allclose(four.logp_NK, kept.logp_NK, atol=1e-3)
    assert np.abs(stored.p_NK - kept.p_NK).max() > 1e-2
    first, last = tuning.history[0], tuning.history[-1]
    assert abs(first["nll"] - last["nll"]) > 1e-2  # it was trained


def test_its_export_is_checked_against_what_was_measured(run, sets, tmp_path):
    """It holds the stored weights with the adapter: refused where their rounding moves more than is allowed."""
    source = Source.of_run(run)
    with pytest.raises(ModelError, match="Drifted") as raised:
        export(source, out=tmp_path / "no", config=ServeConfig(tolerance=1e-3))
    assert "measured in 4 bits" in raised.value.todo
    for name, merge in (("served", True), ("adapter", False)):
        made = export(source, out=tmp_path / name, config=ServeConfig(merge=merge, allow_drift=True))
        assert made.facts["quantized"] == "nf4"
        assert made.facts["drift"]["movement"] > 1e-3
    again = tmp_path / "served"
    assert check_drift(again, again, sets["test"], device="cuda").movement == 0
    found = check_drift(again, again, sets["test"], device="cuda", quantize_4bit=True)
    four = score(str(again), sets["test"], quantize_4bit=True, **WHERE)
    plain = score(str(again), sets["test"], **WHERE)
    assert found.movement == pytest.approx(np.abs(four.p_NK - plain.p_NK).sum(1).mean() / 2, abs=1e-4)
