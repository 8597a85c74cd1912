"""Implicit rewards against TRL's DPO trainer, which computes them by itself."""

import warnings

import numpy as np
import pytest
import torch

from calibrant.alignment import AlignSettings, align_check, load_preferences
from calibrant.alignment.preferences import PairLogps
from calibrant.scoring.models import load_model

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "Capital of France?", "chosen": " Paris", "rejected": " Lima, or Oslo"},
    {"prompt": "Capital of Peru?", "chosen": " It is Lima.", "rejected": " Rome"},
    {"prompt": "Capital of Cuba?", "chosen": " Havana, the capital", "rejected": " Havana"},
    {"prompt": "Capital of Japan?", "chosen": " Tokyo", "rejected": " Cairo or Accra, who knows"},
]


@pytest.fixture
def folders(tmp_path, make_model, make_tokenizer):
    """An aligned model and one tuned away from it, without a chat template: TRL and we then join the same texts."""
    tokenizer = make_tokenizer(chat=False)
    for name in ("aligned", "tuned"):
        model = make_model("llama", tokenizer)
        if name == "tuned":
            torch.manual_seed(5)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(0.5 * weight.abs().mean() * torch.randn_like(weight))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path / "aligned", tmp_path / "tuned"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_margin_and_reward_accuracy_are_those_of_trls_dpo(folders, tmp_path):
    aligned, tuned = folders
    found = align_check(
        aligned,
        tuned=tuned,
        preferences=load_preferences(ROWS),
        settings=AlignSettings(beta=0.3, instructions=False, n_boot=100),
        out=tmp_path / "run",
        device="cpu",
    ).preferences
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "dpo"),
        beta=0.3,
        use_cpu=True,
        bf16=False,
        per_device_eval_batch_size=2,
        report_to="none",
        disable_tqdm=True,
    )
    models = [load_model(folder, device="cpu") for folder in (tuned, aligned)]
    data = datasets.Dataset.from_list(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.DPOTrainer(
            model=models[0].model,
            ref_model=models[1].model,
            args=arguments,
            train_dataset=data,
            eval_dataset=data,
            processing_class=models[0].tokenizer,
        )
        theirs = trainer.evaluate()
    assert found.margin.value == pytest.approx(theirs["eval_rewards/margins"], abs=2e-3)
    assert 1 - found.share_against.value == pytest.approx(theirs["eval_rewards/accuracies"])
    assert found.movement.chosen.value * 0.3 == pytest.approx(theirs["eval_rewards/chosen"], abs=2e-3)
    logp_P2 = PairLogps.load(tmp_path / "run" / "preferences.jsonl").logp_P2["tuned"]
    assert np.mean(logp_P2[:, 1]) == pytest.approx(theirs["eval_logps/rejected"], abs=2e-2)
    assert abs(found.margin.value) > 0.05
