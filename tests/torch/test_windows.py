"""Models that see no further back than a window: padding must not use it up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from calibrant.alignment.forward import response_logp
from calibrant.prompts import PromptStyle
from calibrant.scoring.options import Encoded
from calibrant.scoring.scorer import OptionScorer

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


def test_the_self_test_looks_where_padding_is_widest_and_options_are_longest():
    encoded = of_lengths([30, 3, 31, 9, 29, 400])
    encoded[3] = replace(encoded[3], options=tuple(((5,) * 9,) for _ in range(4)))
    scorer = OptionScorer(windowed("mistral"), TEXTS, batch_tokens=600)
    assert [len(encoded[i].prompt) for i in scorer._hardest(encoded)] == [
        3,
        31,
        9,
        400,
    ]  # 400: the longest, its own batch


def test_a_route_that_only_long_options_show_to_be_wrong_is_left():
    """Most options are one token long, so a cache that cannot be copied would not be touched by a question of the middle."""
    encoded = [replace(e, options=tuple((option[0][:1],) for option in e.options)) for e in of_lengths([6, 9, 12, 30])]
    encoded += of_lengths([10])
    scorer = OptionScorer(windowed("mistral"), TEXTS, batch_tokens=100_000)
    own = scorer._shared
    scorer._shared = lambda rows: own(rows).flip(0) if any(e.n_tails for e in rows) else own(rows)
    assert scorer.self_test(encoded)[0] == "plain"


def test_a_route_whose_padding_gives_nan_is_left():
    scorer = OptionScorer(windowed("mistral"), TEXTS, batch_tokens=100_000)
    own = scorer._shared
    scorer._shared = lambda rows: own(rows) * (float("nan") if len(rows) > 1 else 1.0)
    assert scorer.self_test(of_lengths([6, 9, 12, 30]))[0] == "plain"
