"""Two processes over gloo, watched by ``CalibrationCallback``: nobody waits for ever, and both see the same."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from calibrant.intake import load_questions
from calibrant.tuning import CalibrationCallback

torch.set_num_threads(1)
folder, model_folder = sys.argv[1:3]
tokenizer = AutoTokenizer.from_pretrained(model_folder)
texts = [f"{i:03d} plus one is {i + 1:03d}" for i in range(64)]
rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
width = max(len(row["labels"]) for row in rows)

def collate(batch):
    return {
        key: torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in batch])
        for key, fill in (("input_ids", 2), ("labels", -100))
    }

class Uneven(TrainerCallback):  # clocks that disagree: each process alone would evaluate at other steps
    def on_step_begin(self, args, state, control, **_):
        time.sleep(0.05 if args.process_index else 0.01)

found = {}
for name, settings in {"every": {"every": 5}, "budget": {"budget": 0.4}}.items():
    watch = CalibrationCallback(load_questions(f"{folder}/held-out.jsonl"), **settings)
    arguments = TrainingArguments(
        output_dir=f"{folder}/{name}", use_cpu=True, max_steps=12, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, learning_rate=1e-3, save_strategy="no", disable_tqdm=True, report_to="none",
    )
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(model_folder), arguments, train_dataset=rows, data_collator=collate,
        processing_class=tokenizer, callbacks=[Uneven(), watch],
    )
    trainer.train()
    assert trainer.accelerator.num_processes == 2
    found[name] = watch.history
with open(f"{folder}/{trainer.args.process_index}.json", "w") as file:
    json.dump(found, file)
torch.distributed.destroy_process_group()
"""
TIMES = {"seconds", "seconds_spent", "share"}


@pytest.mark.slow
def test_two_processes_score_in_step(tmp_path, model_folder, make_questions):
    make_questions("held-out", 12, ks=(4, 3)).save(tmp_path / "held-out.jsonl")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path), str(model_folder())],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert [point["step"] for point in first["every"]] == [0, 5, 10, 12]
    assert len(first["budget"]) > 2
    for name in ("every", "budget"):
        for a, b in zip(first[name], second[name], strict=True):
            assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}
    assert first["every"][0]["nll"] != first["every"][-1]["nll"]
