"""Pairs, prompts, adapters and a model of a known change, for the alignment checks."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from calibrant.alignment import load_preferences, load_prompts
from calibrant.scoring.models import load_model, quiet_peft

ROWS = [
    {"prompt": "Capital of France?", "chosen": "Paris", "rejected": "Lima, or Oslo"},
    {"prompt": "Capital of Peru?", "chosen": "It is Lima.", "rejected": "Rome"},
    {
        "prompt": "Human: Hi\n\nAssistant: Hello\n\nHuman: Capital of Italy?\n\nAssistant:",
        "chosen": "Rome",
        "rejected": "no",
    },
    {"prompt": "Capital of Cuba?", "chosen": "Havana, the capital of Cuba", "rejected": "Havana"},
    {"prompt": "Capital of Cuba?", "chosen": "Havana!", "rejected": "Question: Capital of Chile?"},
]
PROMPTS = [
    {"prompt": f"Capital of {name}?"} for name in ("France", "Peru, please", "Italy", "Japan", "Ghana and Nepal")
]


@pytest.fixture
def pairs():
    return load_preferences(ROWS)


@pytest.fixture
def prompts():
    return load_prompts(PROMPTS)


@pytest.fixture
def make_adapter(model_folder, tmp_path):
    """A function from a size to the folder of an adapter; size 0 leaves the model as it is."""

    def make(size, kind="llama"):
        model = load_model(model_folder(kind), device="cpu").model
        torch.manual_seed(1)
        with quiet_peft():
            tuned = get_peft_model(
                model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
            )
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 1).mul_(size)
        folder = tmp_path / f"adapter-{kind}-{size}"
        tuned.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def own_logp():
    """Sum of a response's log-probabilities by the model's own forward, one sequence, no padding, no cache."""

    def logp(model, prompt, response):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            logp_TV = model(input_ids=ids).logits[0].float().log_softmax(-1)
        return sum(logp_TV[len(prompt) - 1 + t, token].item() for t, token in enumerate(response))

    return logp


@pytest.fixture
def scaled(model_folder, tmp_path):
    """The tiny llama with twice the logits: its distribution is the aligned one's square, normalised."""
    folder = tmp_path / "scaled"
    shutil.copytree(model_folder("llama"), folder)
    model = load_model(folder, device="cpu").model
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0)
    model.save_pretrained(folder)
    return folder
