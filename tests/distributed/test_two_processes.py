"""Two processes over gloo tune the adapter that one process tunes."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from calibrant.prompts import PromptStyle
from calibrant.tuning import LoraSettings, TuneConfig, tune

SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
from calibrant.intake import load_questions
from calibrant.prompts import PromptStyle
from calibrant.tuning import TuneConfig, tune
from transformers import Trainer

torch.set_num_threads(1)
folder, model = sys.argv[1:3]
slow, load_best = float(sys.argv[4]), Trainer._load_best_model


def late(trainer):
    if trainer.args.process_index == 1:
        time.sleep(slow)
    assert Path(trainer.state.best_model_checkpoint, "adapter_model.safetensors").exists()  # else it is left out with a warning
    load_best(trainer)


Trainer._load_best_model = late
for name, (settings, style) in json.loads(sys.argv[3]).items():
    sets = [load_questions(f"{folder}/{part}.jsonl") for part in ("train", "calibration")]
    result = tune(model, *sets, out=f"{folder}/two-{name}", config=TuneConfig.make(settings),
                  style=PromptStyle(**style), device="cpu")
    assert (result.adapter / "adapter_model.safetensors").exists()  # on every process, once tune returns
torch.distributed.destroy_process_group()
"""
COMMON = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "patience": 0,
    "lora": LoraSettings(rank=4, alpha=8, dropout=0.0).model_dump(),
}
RUNS = {
    "cft": ({**COMMON, "micro_batch_size": 2}, {}),  # two forward passes a step on each process
    "rcft": ({**COMMON, "objective": "rcft", "micro_batch_size": 4}, {}),
    "pmi": (  # a forward pass more for each backward one
        {**COMMON, "over": "options", "micro_batch_size": 4},
        {"reading": "continuation", "variant": "pmi"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "slow"), [(24, 2), (25, 0), (22, 0)])
def test_two_processes_give_the_adapter_of_one(tmp_path, model_folder, make_questions, n, slow):
    """Three steps an epoch. The last has 8 questions; or 1, which only one process has; or 6, which end within a batch. Where
    the second process is slow to read the best checkpoint, the first one must not have deleted it.
    """
    sets = make_questions("train", n, ks=(4, 2, 3)), make_questions("calibration", 12, ks=(4, 3))
    for questions in sets:
        questions.save(tmp_path / f"{questions.name}.jsonl")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path), str(model_folder()), json.dumps(RUNS), str(slow)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-12000:]
    for name, (settings, style) in RUNS.items():
        asked = {"config": TuneConfig.make(settings), "style": PromptStyle(**style)}
        one = tune(model_folder(), *sets, out=tmp_path / name, **asked, device="cpu")
        result = json.loads((tmp_path / f"two-{name}" / "result.json").read_text())
        assert result["steps"] == one.steps == 2 * -(-n // 8)
        for point, other in zip(result["history"], one.history, strict=True):
            assert point["nll"] == pytest.approx(other["nll"], abs=1e-5)
        other = tmp_path / f"two-{name}" / "adapter"
        first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one.adapter, other))
        assert first.keys() == second.keys()
        assert max(float(w.abs().max()) for key, w in first.items() if "lora_B" in key) > 1e-4
        for key in first:
            torch.testing.assert_close(first[key], second[key], atol=1e-6, rtol=0)
