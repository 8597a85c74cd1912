"""The page on the callback runs, and its table names what is logged."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "callback.md").read_text(encoding="utf-8")


@pytest.fixture
def room(tmp_path, monkeypatch, make_questions):
    monkeypatch.chdir(tmp_path)
    make_questions("held-out", 12, ks=(4, 3)).save(tmp_path / "held_out.jsonl")
    return tmp_path


# trl asks transformers by a name that is to be retired
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_example_runs_and_the_table_has_its_names(room, make_model, tokenizer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    pairs = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " No."} for i in range(8)]
    arguments = trl.DPOConfig(
        output_dir="out",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        max_steps=3,
        per_device_train_batch_size=2,
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
    )
    model = make_model("llama", tokenizer)
    model.save_pretrained(room / "model")  # the trainer loads its reference from where the model came from
    model.name_or_path = model.config._name_or_path = str(room / "model")
    names = {"model": model, "arguments": arguments, "pairs": datasets.Dataset.from_list(pairs), "tokenizer": tokenizer}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, names)
    watch = names["watch"]
    assert [point["step"] for point in watch.history] == [0, 3]
    assert (room / "path.pdf").stat().st_size > 1000
    table = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")))
    optional = {"entropy_shift", "confidence_shift", "agreement"}
    assert set(table) - optional == watch.history[0].keys() - {"step", "epoch"}


def test_the_budget_of_the_page_is_the_default():
    import inspect

    from calibrant.diagnosis.path import FLOOR_DRAWS
    from calibrant.tuning import CalibrationCallback
    from calibrant.tuning.schedule import MOST, WARM_STEPS

    assert inspect.signature(CalibrationCallback).parameters["budget"].default == 0.05
    assert "`budget=.05`" in PAGE
    assert (MOST, WARM_STEPS, FLOOR_DRAWS) == (50, 3, 200)
    assert "At most 50 evaluations" in PAGE
    assert "after three steps" in PAGE
