"""Alignment checks on tiny models: parity with the model's own forward, known answers, and what must not matter."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from calibrant.alignment import AlignSettings, align_check, load_preferences, load_prompts
from calibrant.alignment.data import Prompt, Turn
from calibrant.alignment.encoding import Encoder
from calibrant.alignment.forward import _divergence, batches_of, response_logp, token_divergence
from calibrant.alignment.generation import generate
from calibrant.alignment.models import ModelPair
from calibrant.alignment.preferences import PairLogps
from calibrant.errors import ConfigError, ModelError, QuestionError
from calibrant.scoring.models import load_model, quiet_peft
from calibrant.tuning import tune

KINDS = ("llama", "qwen3", "gemma2", "gpt2")
ROWS = [
    {"prompt": "Capital of France?", "chosen": "Paris", "rejected": "Lima, or Oslo"},
    {"prompt": "Capital of Peru?", "chosen": "It is Lima.", "rejected": "Rome"},
    {
        "prompt": "Human: Hi\n\nAssistant: Hello\n\nHuman: Capital of Italy?\n\nAssistant:",
        "chosen": "Rome",
        "rejected": "no",
    },
    {"prompt": "Capital of Cuba?", "chosen": "Havana, the capital of Cuba", "rejected": "Havana"},
    {"prompt": "Capital of Cuba?", "chosen": "Havana!", "rejected": "Question: Capital of Chile?"},
]
PROMPTS = [
    {"prompt": f"Capital of {name}?"} for name in ("France", "Peru, please", "Italy", "Japan", "Ghana and Nepal")
]
SHORT = AlignSettings(max_new_tokens=6, instructions=False, n_boot=100)


@pytest.fixture
def pairs():
    return load_preferences(ROWS)


@pytest.fixture
def prompts():
    return load_prompts(PROMPTS)


@pytest.fixture
def make_adapter(model_folder, tmp_path):
    """A function from a size to the folder of an adapter; size 0 leaves the model as it is."""

    def make(size, kind="llama"):
        model = load_model(model_folder(kind), device="cpu").model
        torch.manual_seed(1)
        with quiet_peft():
            tuned = get_peft_model(
                model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
            )
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 1).mul_(size)
        folder = tmp_path / f"adapter-{kind}-{size}"
        tuned.save_pretrained(folder)
        return folder

    return make


def pair_of(model_folder, adapter, kind="llama"):
    return ModelPair(model_folder(kind), adapter=adapter, loading={"device": "cpu"})


def own_logp(model, prompt, response):
    """Sum of the response's log-probabilities by the model's own forward, one sequence, no padding, no cache."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logp_TV = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return sum(logp_TV[len(prompt) - 1 + t, token].item() for t, token in enumerate(response))


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
def test_log_probabilities_are_those_of_the_models_own_forward(loaded, pairs, kind):
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


@pytest.fixture
def scaled(model_folder, tmp_path):
    """The tiny llama with twice the logits: its distribution is the aligned one's square, normalised."""
    folder = tmp_path / "scaled"
    shutil.copytree(model_folder("llama"), folder)
    model = load_model(folder, device="cpu").model
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0)
    model.save_pretrained(folder)
    return folder


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


def test_sampling_repeats_with_its_seed_and_leaves_the_generator_alone(loaded):
    m, prompts = loaded(), [(0, 40, 41), (0, 9, 8)]
    state = torch.random.get_rng_state()
    settings = {"max_new_tokens": 8, "temperature": 1.0}
    one, again, other = (generate(m.model, m.tokenizer, prompts, seed=s, **settings) for s in (0, 0, 1))
    assert one == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_an_adapter_of_zeros_changes_nothing(model_folder, make_adapter, pairs, prompts, tmp_path):
    settings = AlignSettings(max_new_tokens=6, contexts=("aligned", "tuned"), n_boot=100)
    found = align_check(
        model_folder(),
        adapter=make_adapter(0.0),
        preferences=pairs,
        prompts=prompts,
        settings=settings,
        out=tmp_path / "run",
        device="cpu",
    )
    p, d = found.preferences, found.drift
    assert (p.margin.value, p.margin.low, p.margin.high, p.share_against.value) == (0, 0, 0, 0)
    assert p.ranking.aligned == p.ranking.tuned
    assert (p.n, p.n_prompts) == (5, 4)
    assert [(k.contexts, k.kl.value, k.kl.high, k.agreement.value) for k in found.divergence] == [
        ("aligned", 0, 0, 1),
        ("tuned", 0, 0, 1),
    ]
    assert (d.identical.value, d.relative_length.value) == (1, 0)
    assert found.instructions.followed.change.value == 0
    assert found.verdict == "undecided"  # five pairs decide nothing
    by_name = {c.name: c for c in found.checks}
    assert by_name["margin"].n_needed == 30
    assert by_name["kl_aligned"].change.n == 5


def test_adapter_switched_off_merged_and_loaded_apart_agree(model_folder, make_adapter, pairs, prompts, tmp_path):
    """Base and adapter from the same weights, against two models in memory, one with the adapter merged."""
    adapter, merged = make_adapter(0.2), tmp_path / "merged"
    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        PeftModel.from_pretrained(base.model, adapter).merge_and_unload().save_pretrained(merged)
    base.tokenizer.save_pretrained(merged)
    common = {"preferences": pairs, "prompts": prompts, "settings": SHORT, "device": "cpu"}
    one = align_check(model_folder(), adapter=adapter, out=tmp_path / "a", **common)
    two = align_check(model_folder(), tuned=merged, out=tmp_path / "b", **common)
    a, b = (PairLogps.load(tmp_path / name / "preferences.jsonl").logp_P2 for name in "ab")
    np.testing.assert_allclose(a["aligned"], b["aligned"], atol=1e-3)
    np.testing.assert_allclose(a["tuned"], b["tuned"], atol=1e-3)
    assert np.abs(a["tuned"] - a["aligned"]).max() > 0.1
    assert one.divergence[0].kl.value == pytest.approx(two.divergence[0].kl.value, rel=1e-3)
    assert one.divergence[0].kl.value > 0.01
    encoded = [Encoder(base.tokenizer).pair(p) for p in pairs.items]
    fresh = load_model(model_folder(), device="cpu").model
    assert a["aligned"][3, 1] == pytest.approx(own_logp(fresh, encoded[3].prompt, encoded[3].options[1][0]), abs=2e-3)


def test_a_reference_adds_the_reward_of_dpo(model_folder, make_adapter, pairs, scaled, tmp_path):
    """With the aligned model itself as reference, tuned's reward is the margin; aligned's is nowhere above 0."""
    common = {"adapter": make_adapter(0.2), "preferences": pairs, "settings": SHORT, "device": "cpu"}
    found = align_check(model_folder(), reference=model_folder(), out=tmp_path / "a", **common).preferences
    assert found.reward.tuned.value == pytest.approx(1 - found.share_against.value)
    assert found.reward.aligned.value == 0
    align_check(model_folder(), reference=scaled, out=tmp_path / "b", **common)
    logp = PairLogps.load(tmp_path / "b" / "preferences.jsonl").logp_P2
    encoder = Encoder(load_model(scaled, device="cpu").tokenizer)
    e = encoder.pair(pairs.items[0])
    expected = own_logp(load_model(scaled, device="cpu").model, e.prompt, e.options[0][0])
    assert logp["reference"][0, 0] == pytest.approx(expected, abs=2e-3)


def test_a_run_goes_on_where_it_stopped_and_refuses_another(
    model_folder, make_adapter, pairs, prompts, tmp_path, monkeypatch
):
    adapter, out = make_adapter(0.2), tmp_path / "run"
    common = {"adapter": adapter, "preferences": pairs, "prompts": prompts, "out": out, "device": "cpu"}
    first = align_check(model_folder(), settings=SHORT, **common)
    kept = {p.name for p in out.iterdir()}
    assert {"preferences.jsonl", "answers.jsonl", "divergence-aligned.jsonl", "alignment.json", "alignment.txt"} <= kept
    assert json.loads((out / "alignment.json").read_text()) == json.loads(json.dumps(first.to_json()))
    (out / "divergence-aligned.jsonl").unlink()
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return load_model(*args, **kwargs)

    monkeypatch.setattr("calibrant.alignment.models.load_model", counted)
    assert align_check(model_folder(), settings=SHORT, **common).to_json() == first.to_json()
    assert len(calls) == 1  # one part was missing
    assert align_check(model_folder(), settings=SHORT, **common).to_json() == first.to_json()
    assert len(calls) == 1  # nothing was
    doubled = AlignSettings(beta=0.2, max_new_tokens=6, instructions=False, n_boot=100)
    again = align_check(model_folder(), settings=doubled, **common)
    assert again.preferences.margin.value == pytest.approx(2 * first.preferences.margin.value)
    with pytest.raises(ConfigError, match="different max_new_tokens"):
        align_check(model_folder(), settings=AlignSettings(max_new_tokens=7), **common)


def test_what_does_not_fit_is_left_out_by_name(model_folder, make_adapter, tmp_path):
    long = {"id": "long", "prompt": "word " * 600, "chosen": "a", "rejected": "b"}
    found = align_check(
        model_folder(),
        adapter=make_adapter(0.1),
        preferences=load_preferences([*ROWS, long]),
        prompts=load_prompts([*PROMPTS, {"id": "far", "prompt": "word " * 600}]),
        settings=SHORT,
        out=tmp_path / "run",
        device="cpu",
    )
    assert found.preferences.n == 5
    assert [note for note in found.notes if "'long'" in note and "512 fit" in note]
    assert [note for note in found.notes if "'far'" in note and "506 fit" in note]
    with pytest.raises(QuestionError, match="none of 1"):
        align_check(
            model_folder(),
            adapter=make_adapter(0.1),
            preferences=load_preferences([long]),
            settings=SHORT,
            out=tmp_path / "other",
            device="cpu",
        )


def test_models_of_other_words_are_refused(model_folder, make_tokenizer, make_model, pairs, tmp_path, make_questions):
    other = make_tokenizer()
    other.add_tokens(["[new]"])
    stranger = tmp_path / "stranger"
    vocabulary = {**other.get_vocab()}
    assert max(vocabulary.values()) >= 320
    make_model("llama", other).save_pretrained(stranger)
    other.save_pretrained(stranger)
    with pytest.raises(ModelError, match="rows for"):
        align_check(stranger, tuned=model_folder(), preferences=pairs, settings=SHORT, out=tmp_path / "a", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({}, "neither an adapter nor tuned weights"),
        ({"adapter": "a", "tuned": "b"}, "an adapter and tuned weights"),
        ({"adapter": "a", "settings": AlignSettings(instructions=False)}, "nothing to measure"),
        ({"adapter": "a", "reference": "r"}, "reference model without preference pairs"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(arguments, found, tmp_path):
    with pytest.raises(ConfigError, match=found):
        align_check("no-model-is-read", out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"contexts": ("base",)}, {"beta": 0}, {"max_new_tokens": 0}, {"temperature": -1}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ConfigError):
        AlignSettings(**settings)


def test_sampled_contexts_are_another_distribution(model_folder, make_adapter, prompts, tmp_path):
    common = {"adapter": make_adapter(0.2), "prompts": prompts, "device": "cpu"}
    greedy = align_check(model_folder(), settings=SHORT, out=tmp_path / "a", **common)
    settings = AlignSettings(max_new_tokens=6, temperature=1.0, instructions=False, n_boot=100)
    sampled = align_check(model_folder(), settings=settings, out=tmp_path / "b", **common)
    assert sampled.divergence[0].temperature == 1.0
    assert sampled.divergence[0].kl.value != greedy.divergence[0].kl.value
    assert sampled.drift == greedy.drift


def test_tuning_then_checking(model_folder, make_questions, prompts, pairs, tmp_path):
    """A real adapter of the package's own tuning."""
    from calibrant.tuning import LoraSettings, TuneConfig

    config = TuneConfig(epochs=2, learning_rate=1e-2, lora=LoraSettings(rank=4, alpha=8), batch_size=8, patience=0)
    done = tune(
        model_folder(),
        make_questions("train", 24),
        make_questions("held", 8),
        out=tmp_path / "tuned",
        config=config,
        device="cpu",
    )
    found = align_check(
        model_folder(),
        adapter=done.adapter,
        preferences=pairs,
        prompts=prompts,
        settings=SHORT,
        out=tmp_path / "run",
        device="cpu",
    )
    assert found.divergence[0].kl.low > 0
    assert found.preferences.movement.chosen.value != 0
