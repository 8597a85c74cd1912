"""A model in 4 bits (NF4 by bitsandbytes) is scored, tuned, exported and checked as what it is.

Skipped without the extra ``[quant]``.
"""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calibrant import TuneConfig, load_model, restore, score, tune
from calibrant.errors import ModelError
from calibrant.exporting import ServeConfig, Source, check_drift, export
from calibrant.scores import Scores
from calibrant.tuning import TuneResult

bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra [quant]")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WHERE = {"device": DEVICE, "dtype": "float32"}
ROUNDING = 1e-3 if DEVICE == "cuda" else 1e-6  # its CUDA kernel multiplies in another order
TUNING = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "keep": "last", "patience": 0}


@pytest.fixture(scope="module")
def wide(model_folder, tokenizer, tmp_path_factory):
    """A tiny model whose rows are whole blocks of 64 weights."""
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
def adapter(wide, sets, tmp_path_factory):
    """Tuned on the weights as they are stored."""
    out = tmp_path_factory.mktemp("whole")
    return tune(wide, sets["train"], sets["calibration"], out=out, config=TuneConfig(**TUNING), **WHERE).adapter


def test_scores_in_four_bits_are_those_of_the_weights_dequantised(wide, sets):
    plain, four = (load_model(wide, **WHERE, quantize_4bit=bits) for bits in (False, True))
    assert four.facts["quantized"] == "nf4"
    before = score(plain, sets["test"])
    kind = bitsandbytes.nn.Linear4bit
    quantised = {name: module.weight for name, module in four.model.named_modules() if isinstance(module, kind)}
    assert len(quantised) == 14  # seven projections of two layers
    with torch.no_grad():
        for name, weight in quantised.items():
            by_hand = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            plain.model.get_submodule(name).weight.copy_(by_hand)
    after, by_hand = score(four, sets["test"]), score(plain, sets["test"])
    np.testing.assert_allclose(after.p_NK, by_hand.p_NK, atol=ROUNDING)
    assert np.abs(before.p_NK - after.p_NK).max() > 5e-3


def test_an_export_of_a_model_in_four_bits_is_checked_against_what_was_measured(wide, adapter, sets, tmp_path):
    """It holds the stored weights with the adapter: refused where their rounding moves more than is allowed."""
    loading = {**WHERE, "quantize_4bit": True}
    kept = score(load_model(wide, adapter=adapter, **loading), sets["test"])
    source = Source(str(wide), str(adapter), loading=loading, calibration=sets["calibration"], test=kept)
    with pytest.raises(ModelError, match="Drifted") as raised:
        export(source, out=tmp_path / "no", config=ServeConfig(tolerance=1e-3))
    assert "measured in 4 bits" in raised.value.todo
    for name, merge in (("served", True), ("adapter", False)):
        made = export(source, out=tmp_path / name, config=ServeConfig(merge=merge, allow_drift=True))
        assert made.facts["quantized"] == "nf4"
        assert made.facts["drift"]["movement"] > 1e-3
    served = tmp_path / "served"
    assert check_drift(served, served, sets["test"], device=DEVICE).movement == 0
    found = check_drift(served, served, sets["test"], quantize_4bit=True, **WHERE)
    four, plain = (score(str(served), sets["test"], quantize_4bit=bits, **WHERE) for bits in (True, False))
    assert found.movement == pytest.approx(np.abs(four.p_NK - plain.p_NK).sum(1).mean() / 2, abs=1e-4)
    assert found.movement > 1e-3


def test_a_run_in_four_bits_learns_and_is_measured_in_four_bits(wide, sets, tmp_path):
    run, config = tmp_path / "run", TuneConfig(**TUNING, quantize_4bit=True)
    restore(wide, sets, out=run, objective="cft", config=config, **WHERE)
    tuning = TuneResult.load(run / "tuning")
    assert tuning.config["quantize_4bit"]
    for when in ("before", "tuned"):
        assert Scores.load(run / "scores" / when / "test.safetensors").provenance["quantized"] == "nf4"
    four, stored = (
        score(load_model(wide, adapter=run / "tuning" / "adapter", **WHERE, quantize_4bit=bits), sets["test"])
        for bits in (True, False)
    )
    kept = Scores.load(run / "scores" / "tuned" / "test.safetensors")
    np.testing.assert_allclose(four.logp_NK, kept.logp_NK, atol=ROUNDING)
    assert np.abs(stored.p_NK - kept.p_NK).max() > 5e-3
    assert abs(tuning.history[0]["nll"] - tuning.history[-1]["nll"]) > 1e-2  # it was trained
    assert Source.of_run(run).loading["quantize_4bit"]
