"""The GPU gives what the CPU gives. Skipped where there is none."""

import json

import numpy as np
import pytest
import torch

from calibrant import PromptStyle, TuneConfig, load_model, score, tune
from calibrant.alignment import align_check, load_preferences, load_prompts
from calibrant.alignment.settings import AlignSettings
from calibrant.ladder import ladder
from calibrant.tuning.trainer import sound_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

STYLES = [PromptStyle(), PromptStyle(reading="continuation"), PromptStyle(reading="continuation", variant="pmi")]
BY_STYLE = pytest.mark.parametrize("style", STYLES, ids=["letters", "continuation", "pmi"])
OBJECTIVES = ["sft", "cft", "rcft", "label_smoothing", "focal", "brier", "mmce", "soft_ece", "cogcalib", "distill"]


@pytest.fixture(scope="module")
def sets(make_questions):
    return {name: make_questions(name, 24, ks=(4, 2, 3)) for name in ("train", "calibration", "test")}


@BY_STYLE
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_scores_in_float32_are_those_of_the_cpu(model_folder, sets, style, kind):
    cpu, gpu = (
        score(model_folder(kind), sets["test"], style=style, device=device, dtype="float32")
        for device in ("cpu", "cuda")
    )
    assert gpu.provenance["device"] == "cuda"
    np.testing.assert_allclose(gpu.logp_NK, cpu.logp_NK, atol=1e-3)
    np.testing.assert_allclose(gpu.logmass_N, cpu.logmass_N, atol=1e-3)


@BY_STYLE
def test_bfloat16_is_the_default_and_near(model_folder, sets, style):
    cpu = score(model_folder(), sets["test"], style=style, device="cpu", dtype="float32")
    gpu = score(model_folder(), sets["test"], style=style)
    assert (gpu.provenance["device"], gpu.provenance["dtype"]) == ("cuda", "bfloat16")
    known = np.isfinite(cpu.logp_NK)
    assert np.abs(gpu.logp_NK[known] - cpu.logp_NK[known]).max() < 1.0  # this model's logits are spread eightfold


@pytest.mark.parametrize("objective", OBJECTIVES)
@BY_STYLE
def test_training_takes_the_steps_of_the_cpu(model_folder, sets, tmp_path, style, objective):
    own = {"teacher_temperature": 2.0} if objective == "distill" else {}  # at chance none can be fitted
    config = TuneConfig(
        objective=objective, epochs=1, batch_size=8, lora={"rank": 4, "alpha": 8, "dropout": 0.0}, **own
    )
    losses = []
    for device in ("cpu", "cuda"):
        made = tune(
            model_folder(),
            sets["train"],
            sets["calibration"],
            out=tmp_path / device,
            config=config,
            style=style,
            device=device,
            dtype="float32",
        )
        losses.append([point["nll"] for point in made.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2)


def test_adapter_trained_in_bfloat16_scores_on_the_cpu(model_folder, sets, tmp_path):
    config = TuneConfig(epochs=2, batch_size=8, learning_rate=3e-3, keep="last", patience=0)
    made = tune(model_folder(), sets["train"], sets["calibration"], out=tmp_path, config=config)
    cpu, gpu = (
        score(load_model(model_folder(), adapter=made.adapter, dtype="float32", device=device), sets["test"])
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(gpu.logp_NK, cpu.logp_NK, atol=1e-3)
    assert np.abs(cpu.logp_NK[:, 0] - score(model_folder(), sets["test"], device="cpu").logp_NK[:, 0]).max() > 1e-2


@pytest.mark.parametrize("objective", ["sft", "rcft"])
def test_a_model_with_a_layer_norm_learns_its_prompt_in_bfloat16(model_folder, sets, tmp_path, objective):
    """Autocast leaves the last norm's states in float32, and the head is in bfloat16."""
    config = TuneConfig(objective=objective, epochs=1, batch_size=8)
    made = tune(model_folder("gpt2"), sets["train"], sets["calibration"], out=tmp_path, config=config, dtype="bfloat16")
    assert made.history[-1]["nll"] < made.history[0]["nll"] + 0.5


def test_ladder_with_alignment_runs_to_its_table(model_folder, sets, tmp_path):
    pairs = load_preferences([{"prompt": f"{i}?", "chosen": f"Yes {i}.", "rejected": "No."} for i in range(4)])
    prompts = load_prompts([{"id": str(i), "prompt": f"Name {i}."} for i in range(3)])
    table = ladder(
        model_folder(),
        sets,
        out=tmp_path,
        fixes=["temperature", "temperature-all", "cft", "cft+temperature", "rcft"],
        budget="quick",
        seeds=1,
        config=TuneConfig(epochs=1, batch_size=8),
        preferences=pairs,
        prompts=prompts,
        align=AlignSettings(max_new_tokens=8, instructions=False),
        table={"n_boot": 50},
    )
    states = {fix["name"]: (fix["state"], fix["reason"]) for fix in json.loads(json.dumps(table.to_json()))["fixes"]}
    assert {state for state, _ in states.values()} == {"complete"}, states


def test_generation_leaves_the_random_state_of_the_gpu_alone(model_folder, tmp_path):
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    prompts = load_prompts([{"id": str(i), "prompt": f"Name {i}."} for i in range(3)])
    settings = AlignSettings(max_new_tokens=6, instructions=False, temperature=1.0)
    align_check(model_folder(), tuned=model_folder(), prompts=prompts, out=tmp_path, settings=settings)
    torch.testing.assert_close(torch.rand(3, device="cuda"), expected)


def test_attention_has_finite_gradients_at_every_length():
    """A head whose scores are all low, as Qwen2.5 has them: through cuDNN some lengths gave NaN (torch 2.11 to 2.13)."""
    for length in (63, 64, 65, 128, 192, 320, 321):
        q, k, v = (torch.randn(1, 1, length, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        q[..., 0], k[..., 0] = 1.0, -960.0
        mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()
        with sound_attention():
            out = torch.nn.functional.scaled_dot_product_attention(
                q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), attn_mask=mask
            )
            out.sum().backward()
        assert all(torch.isfinite(x.grad).all() for x in (q, k, v)), length
