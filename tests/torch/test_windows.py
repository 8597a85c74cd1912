"""Models that see no further back than a window: padding must not use it up."""

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from calibrant.alignment.forward import response_logp
from calibrant.prompts import PromptStyle
from calibrant.scoring.options import Encoded
from calibrant.scoring.run import OptionScorer

WINDOW, VOCABULARY = 16, 100
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": WINDOW,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
TEXTS = PromptStyle(reading="continuation")


def windowed(kind):
    torch.manual_seed(0)
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**SIZES)).eval()
    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, layer_types=layers)).eval()


def of_lengths(lengths, options=4):
    """Questions of random tokens, options of one to six."""
    rng = np.random.default_rng(0)

    def tokens(n):
        return tuple(int(x) for x in rng.integers(3, VOCABULARY, n))

    made = []
    for i, n in enumerate(lengths):
        texts = tuple((tokens(1 + (i + k) % 6),) for k in range(options))
        made.append(Encoded(str(i), tokens(n), texts, (1,), (3,) * options))
    return made


def own_logp(model, e):
    """Joint log-probability of each option by the model's own forward, one whole sequence at a time."""
    row = []
    for (option,) in e.options:
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=torch.tensor([[*e.prompt, *option]])).logits[0].double(), -1)
        row.append(sum(float(logp[len(e.prompt) - 1 + t, token]) for t, token in enumerate(option)))
    return row


@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
@pytest.mark.parametrize("longest", [WINDOW - 4, WINDOW + 1, 4 * WINDOW])
def test_short_prompts_beside_long_ones_keep_their_window(kind, longest):
    model, encoded = windowed(kind), of_lengths([6, 7, 7, 8, 9, 10, longest - 2, longest])
    scorer = OptionScorer(model, TEXTS, batch_tokens=100_000)
    route, deviation = scorer.self_test(encoded)
    assert (route, deviation < 1e-4) == ("shared", True)
    truth = [own_logp(model, e) for e in encoded]
    np.testing.assert_allclose(scorer.joint(encoded), truth, atol=1e-4)
    scorer.route = "plain"
    np.testing.assert_allclose(scorer.joint(encoded), truth, atol=1e-4)


def test_responses_of_an_alignment_check_keep_their_window():
    model, encoded = windowed("mistral"), of_lengths([5, 9, 40], options=2)
    np.testing.assert_allclose(response_logp(model, encoded), [own_logp(model, e) for e in encoded], atol=1e-4)


def test_the_self_test_looks_where_padding_is_widest():
    encoded = of_lengths([30, 3, 31, 9, 29, 400])
    scorer = OptionScorer(windowed("mistral"), TEXTS, batch_tokens=500)
    assert [len(encoded[i].prompt) for i in scorer._most_padded(encoded)] == [3, 31]  # 400 is a batch of its own
