"""``CalibrationCallback`` in TRL's trainers, with and without LoRA, and in our own tuning: seen, and nothing changed."""

import warnings

import pytest
import torch

from calibrant.metrics import nll
from calibrant.scoring import LoadedModel, score
from calibrant.tuning import CalibrationCallback, LoraSettings, TuneConfig, tune

FACTS = {"model": "tiny", "adapter": None}


@pytest.fixture(scope="module")
def questions(make_questions):
    return make_questions("held-out", 20, ks=(4, 3))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trl_settings(folder, **more):
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "activation_checkpointing": False,
        **more,
    }


@pytest.fixture
def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@pytest.fixture
def trl_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl")


def sft(trl, folder, model, tokenizer, callbacks, **more):
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": f"What is {i}?", "completion": f" It is {i}."} for i in range(24)])
    return trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=trl.SFTConfig(**trl_settings(folder)),
        train_dataset=data,
        callbacks=callbacks,
        **more,
    )


def dpo(trl, folder, model, tokenizer, callbacks, **more):
    from datasets import Dataset

    data = Dataset.from_list(
        [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " I do not know."} for i in range(24)]
    )
    return trl.DPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=trl.DPOConfig(**trl_settings(folder), beta=0.1),
        train_dataset=data,
        callbacks=callbacks,
        **more,
    )


# peft and trl ask transformers by a name that is to be retired
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [sft, dpo])
@pytest.mark.parametrize("with_lora", [True, False], ids=["lora", "full"])
def test_trl_trainers(tmp_path, trl_module, make_model, tokenizer, questions, lora, make, with_lora):
    ends, logs = [], []
    watch = CalibrationCallback(questions, every=2)
    for callbacks in ([], [watch]):
        more = {"peft_config": lora} if with_lora else {}
        if make is dpo and not with_lora:
            more["ref_model"] = make_model("llama", tokenizer)
        torch.manual_seed(0)
        trainer = make(trl_module, tmp_path, make_model("llama", tokenizer), tokenizer, callbacks, **more)
        trainer.train()
        ends.append(weights(trainer.model))
        logs.append([e for e in trainer.state.log_history if "loss" in e])
    assert same(*ends)
    timed = ("runtime", "second", "time")
    kept = [[{k: v for k, v in e.items() if not any(t in k for t in timed)} for e in log] for log in logs]
    assert len(kept[0]) == 4
    assert kept[0] == kept[1]  # TRL's own metrics stay in TRL's own entries, each with its mean
    assert [point["step"] for point in watch.history] == [0, 2, 4]
    assert all(
        {"accuracy", "conf_ece", "floor_p95", "nll", "entropy", "option_mass"} <= p.keys() for p in watch.history
    )
    after = score(LoadedModel(trainer.model.eval(), tokenizer, FACTS), questions)
    assert watch.history[-1]["nll"] == pytest.approx(nll(after.logp_NK, after.answer_N), abs=1e-5)
    assert watch.history[0]["nll"] != watch.history[-1]["nll"]


def test_inside_our_own_tuning(tmp_path, model_folder, make_questions, questions):
    far = CalibrationCallback(make_questions("far", 8), prefix="far/", every=2)
    config = TuneConfig(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8))
    train = make_questions("train", 24)
    result = tune(model_folder(), train, questions, out=tmp_path / "with", config=config, callbacks=[far], device="cpu")
    alone = tune(model_folder(), train, questions, out=tmp_path / "without", config=config, device="cpu")
    assert [point["step"] for point in far.history] == [0, 2, 3]
    assert result.history == alone.history
    assert (result.adapter / "adapter_model.safetensors").read_bytes() == (
        alone.adapter / "adapter_model.safetensors"
    ).read_bytes()
