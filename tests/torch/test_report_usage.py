"""The lines of code that a report and a card show: run as they stand, they load the tuned model."""

import pytest
import torch

from calibrant.reporting.content import usage_code

# peft still asks transformers by an old name; not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def adapter(tmp_path_factory, model_folder):
    """A LoRA adapter that changes the model, saved by peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


def logits(names):
    inputs = names["tokenizer"]("Question: Capital of Peru?\nAnswer:", return_tensors="pt")
    with torch.no_grad():
        return names["model"].eval()(**inputs).logits


def test_the_code_loads_base_and_adapter(model_folder, adapter):
    base, tuned = {}, {}
    exec(usage_code(str(model_folder()), {"weights": str(model_folder())}), base)
    exec(usage_code(str(model_folder()), {"adapter": str(adapter)}), tuned)
    assert isinstance(tuned["model"], tuned["PeftModel"])
    assert logits(tuned).shape == logits(base).shape
    assert not torch.allclose(logits(tuned), logits(base))
