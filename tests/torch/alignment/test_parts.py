"""Alignment checks on tiny models: parity with the model's own forward, known answers, and what must not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from calibrant.alignment.data import Prompt, Turn
from calibrant.alignment.encoding import Encoder
from calibrant.alignment.forward import _divergence, batches_of, response_logp, token_divergence
from calibrant.alignment.generation import generate
from calibrant.alignment.models import ModelPair
from calibrant.errors import QuestionError
from calibrant.scoring.models import LoadedModel, load_model, quiet_peft

KINDS = ("llama", "qwen3", "gemma2", "gpt2")


def pair_of(model_folder, adapter, kind="llama"):
    return ModelPair(model_folder(kind), adapter=adapter, loading={"device": "cpu"})


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_a_chat_response_is_what_the_template_writes_after_the_prompt(tokenizer, pairs):
    e = Encoder(tokenizer).pair(pairs.items[2])
    assert tokenizer.decode(e.prompt).endswith("<|user|>\nCapital of Italy?\n<|assistant|>\n")
    assert tokenizer.decode(e.prompt).count("<s>") == 1
    assert [tokenizer.decode(option[0]) for option in e.options] == ["Rome\n", "no\n"]


def test_white_space_after_a_templates_end_marker_is_no_part_of_the_response(make_tokenizer, pairs):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}\n", "{{ m['content'] }}{{ eos_token }}\n"
    )
    e = Encoder(tokenizer).pair(pairs.items[0])
    assert e.options[0][0][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(e.options[0][0]) == "Paris</s>"
    inside = Encoder(tokenizer).pair(replace(pairs.items[0], chosen="s"))  # which stands in the end marker too
    assert tokenizer.decode(inside.options[0][0]) == "s</s>"


@pytest.mark.parametrize("eos_at_end", [False, True])
def test_a_raw_response_begins_with_one_space_and_ends_with_the_end_token(make_tokenizer, pairs, eos_at_end):
    tokenizer = make_tokenizer(chat=False, eos_at_end=eos_at_end)
    e = Encoder(tokenizer).pair(pairs.items[0])
    assert tokenizer.decode(e.prompt) == "<s>Capital of France?"
    assert tokenizer.decode(e.options[0][0]) == " Paris</s>"


def test_a_template_that_rewrites_answered_turns_leaves_the_bare_response(make_tokenizer, pairs):
    tokenizer = make_tokenizer()
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    e = Encoder(tokenizer).pair(pairs.items[0])
    assert tokenizer.decode(e.prompt).endswith("<think>")
    assert tokenizer.decode(e.options[0][0]) == "Paris</s>"


def test_turns_that_a_template_refuses_are_told(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(QuestionError, match="no system here"):
        Encoder(tokenizer).prompt(Prompt("p", (Turn("system", "x"),), "x"))


# ---- log-probabilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_models_own_forward(loaded, pairs, own_logp, kind):
    m = loaded(kind)
    encoded = [Encoder(m.tokenizer).pair(p) for p in pairs.items]
    found_P2 = response_logp(m.model, encoded)
    for i, e in enumerate(encoded):
        for j, option in enumerate(e.options):
            assert found_P2[i, j] == pytest.approx(own_logp(m.model, e.prompt, option[0]), abs=2e-3)


def test_batches_and_padding_do_not_matter(loaded, pairs):
    m = loaded()
    encoded = [Encoder(m.tokenizer).pair(p) for p in pairs.items]
    alone, together = (response_logp(m.model, encoded, batch_tokens=n) for n in (1, 10_000))
    np.testing.assert_allclose(alone, together, atol=1e-3)
    turned = response_logp(m.model, encoded[::-1])[::-1]
    np.testing.assert_allclose(turned, together, atol=1e-3)


def test_batches_cover_everything_within_the_budget():
    lengths = [5, 9, 2, 7, 7, 1, 30]
    found = list(batches_of(lengths, 20))
    assert sorted(i for batch in found for i in batch) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 20 for b in found)


# ---- divergence -----------------------------------------------------------------------------------------------------


def test_divergence_by_hand():
    """KL((.5, .5) ‖ (.9, .1)) = .5 ln(.5/.9) + .5 ln(.5/.1); a constant added to all logits changes nothing."""
    tuned, aligned = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log(), torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    kl_S, agree_S = _divergence(tuned + 3.0, aligned - 1.0)
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    np.testing.assert_allclose(kl_S, [expected, 0.0], atol=1e-6)
    assert agree_S.tolist() == [True, True]
    ruled_out = torch.tensor([[0.0, float("-inf")]])
    np.testing.assert_allclose(_divergence(ruled_out, torch.zeros(1, 2))[0], [np.log(2)], atol=1e-6)
    assert torch.isinf(_divergence(torch.zeros(1, 2), ruled_out)[0]).all()


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_known_change_of_the_logits_gives_its_own_divergence(model_folder, scaled, loaded, rows):
    m = loaded()
    sequences = [((0, 9, 8, 7), (6, 5, 4)), ((0, 9), (3, 30, 31, 32, 33)), ((0,), (50,))]
    models = ModelPair(model_folder(), tuned=scaled, loading={"device": "cpu"})
    found = token_divergence(models, sequences, rows=rows)
    for i, (prompt, response) in enumerate(sequences):
        with torch.no_grad():
            z_TV = m.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double()[len(prompt) - 1 : -1]
        p_TV, q_TV = (2 * z_TV).log_softmax(-1), z_TV.log_softmax(-1)
        assert found.kl[i] == pytest.approx((p_TV.exp() * (p_TV - q_TV)).sum().item(), rel=1e-4)
    assert found.agree.tolist() == found.tokens.tolist() == [3, 5, 1]


def test_divergence_does_not_depend_on_batches(model_folder, make_adapter):
    models = pair_of(model_folder, make_adapter(0.2))
    sequences = [((0, 9, 8, 7), (6, 5, 4)), ((0, 9), (3, 30, 31, 32, 33)), ((0,), (50,))]
    one, all_ = (token_divergence(models, sequences, batch_tokens=n) for n in (1, 10_000))
    np.testing.assert_allclose(one.kl, all_.kl, rtol=1e-3)
    assert (one.kl > 0.01).all()


@pytest.mark.parametrize(
    "on", [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}]
)
def test_divergence_sees_an_adapter_on_the_output_head(model_folder, tmp_path, on):
    model = load_model(model_folder(), device="cpu").model
    torch.manual_seed(1)
    with quiet_peft():
        tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **on)).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.add_(0.2 * torch.randn_like(weight))
    pair = ModelPair("in memory", adapter="in memory")
    pair._tuned = LoadedModel(tuned, None, {})
    sequences = [((0, 9, 8, 7), (6, 5, 4)), ((0, 9), (3, 30, 31))]
    found = token_divergence(pair, sequences)
    for i, (prompt, response) in enumerate(sequences):
        ids, start = torch.tensor([[*prompt, *response][:-1]]), len(prompt) - 1
        with torch.no_grad():
            p_TV = tuned(input_ids=ids).logits[0, start:].double().log_softmax(-1)
            with tuned.disable_adapter():
                q_TV = tuned(input_ids=ids).logits[0, start:].double().log_softmax(-1)
        assert found.kl[i] == pytest.approx((p_TV.exp() * (p_TV - q_TV)).sum().item(), rel=1e-3)
        assert found.kl[i] > 0.01


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("gpt2", {"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("gpt2", {"bias": "lora_only", "target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("llama", {"init_lora_weights": "pissa", "target_modules": ["q_proj", "o_proj"]}),
        ("llama", {"init_lora_weights": "olora", "target_modules": ["q_proj", "o_proj"]}),
    ],
)
def test_the_aligned_model_is_as_it_was_where_an_adapter_changed_its_own_weights(
    model_folder, loaded, tmp_path, kind, how
):
    """Tuned biases, and weights that moved into the adapter: peft leaves them changed when the adapter is switched off."""
    model = load_model(model_folder(kind), device="cpu").model
    torch.manual_seed(1)
    with quiet_peft():
        tuned = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **how)).eval()
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    tuned.save_pretrained(tmp_path / "adapter")
    ids, pair = torch.tensor([[0, 9, 8, 7, 30, 31]]), pair_of(model_folder, tmp_path / "adapter", kind)

    def logp(of):
        with torch.no_grad():
            return of(input_ids=ids).logits.log_softmax(-1)

    with pair.using("aligned") as aligned:
        torch.testing.assert_close(logp(aligned), logp(loaded(kind).model))
    with pair.using("tuned") as there:
        torch.testing.assert_close(logp(there), logp(tuned), atol=1e-3, rtol=1e-3)
    assert (logp(tuned) - logp(loaded(kind).model)).abs().max() > 0.1


# ---- answers --------------------------------------------------------------------------------------------------------


def test_greedy_answers_are_the_most_probable_tokens_one_by_one(loaded):
    """Against a loop over the model's own forward, on prompts of different length in one batch."""
    m = loaded()
    prompts = [(0, 40, 41), (0, 9, 8, 7, 6, 5, 4, 3), (0, 77)]
    found = generate(m.model, m.tokenizer, prompts, max_new_tokens=12)
    for prompt, response in zip(prompts, found, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) - len(prompt) < 12 and (len(ids) == len(prompt) or ids[-1] != 1):
                ids.append(m.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        assert response.tokens == tuple(ids[len(prompt) :])
        assert response.ended == (ids[-1] == 1)
        assert response.length == len(response.tokens) - response.ended


def test_an_answer_ends_at_any_end_token_of_the_model_or_the_tokenizer(make_model, make_tokenizer):
    """The third token that the model wants anyway is declared an end token: the answer stops there."""
    tokenizer = make_tokenizer()
    model = make_model("llama", tokenizer)
    prompts = [(0, 40, 41), (0, 9, 8, 7, 6)]
    whole = generate(model, tokenizer, prompts, max_new_tokens=9)
    assert not any(answer.ended for answer in whole)
    end = whole[0].tokens[2]
    model.generation_config.eos_token_id = [1, end]
    cut = generate(model, tokenizer, prompts, max_new_tokens=9)
    at = whole[0].tokens.index(end)
    assert (cut[0].tokens, cut[0].ended, cut[0].length) == (whole[0].tokens[: at + 1], True, at)
    assert cut[0].text == tokenizer.decode(whole[0].tokens[: at + 1], skip_special_tokens=True).strip()


@pytest.mark.parametrize("adapted", [False, True])
def test_a_models_own_generation_settings_shape_nothing(model_folder, make_adapter, adapted):
    adapter = make_adapter(0.2) if adapted else None
    m = load_model(model_folder(), adapter=adapter, device="cpu")
    prompts = [(0, 40, 41), (0, 9, 8, 7, 6)]
    greedy = {"max_new_tokens": 9}
    sampled = {"max_new_tokens": 9, "temperature": 1.0, "seed": 3}
    plain = [generate(m.model, m.tokenizer, prompts, **how) for how in (greedy, sampled)]
    inner = m.model.get_base_model() if adapted else m.model
    first = plain[0][0].tokens[0]
    own = {
        "suppress_tokens": [first],
        "bad_words_ids": [[first]],
        "min_p": 0.9,
        "typical_p": 0.01,
        "epsilon_cutoff": 0.3,
    }
    settings = GenerationConfig(**inner.generation_config.to_diff_dict() | own)
    inner.generation_config = settings
    assert [generate(m.model, m.tokenizer, prompts, **how) for how in (greedy, sampled)] == plain
    assert inner.generation_config is settings


def test_sampling_repeats_with_its_seed_and_leaves_the_generator_alone(loaded):
    m, prompts = loaded(), [(0, 40, 41), (0, 9, 8)]
    state = torch.random.get_rng_state()
    settings = {"max_new_tokens": 8, "temperature": 1.0}
    one, again, other = (generate(m.model, m.tokenizer, prompts, seed=s, **settings) for s in (0, 0, 1))
    assert one == again != other
    assert torch.equal(torch.random.get_rng_state(), state)
