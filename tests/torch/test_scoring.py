"""``score`` on tiny models: routes, batches, padding, variants and mass against direct computations."""

import hashlib
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from calibrant.errors import ConfigError, LeakageError, ModelError, QuestionError
from calibrant.prompts import PromptStyle
from calibrant.questions import Question
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.models import chat_template_facts, quiet_peft
from calibrant.scoring.options import encode
from calibrant.scoring.scorer import OptionScorer
from calibrant.scoring.templates import template_digest

TEXTS = PromptStyle(reading="continuation")
STYLES = [PromptStyle(), TEXTS]
BY_READING = pytest.mark.parametrize("style", STYLES, ids=["letters", "continuation"])
KINDS = ("llama", "qwen3", "gemma2", "cohere", "granite", "gpt2")


@pytest.fixture(scope="module")
def questions(make_questions):
    return make_questions("mixed", 13, ks=(4, 2, 5, 3))


def own_logp(loaded, tokens):
    """Log-probabilities (T, V) of the next token, by the model's own forward, one sequence."""
    with torch.no_grad():
        return torch.log_softmax(loaded.model(input_ids=torch.tensor([tokens])).logits[0].double(), -1)


def direct(loaded, questions, style):
    """Joint log-probability of each option, and its parts, without any of the package's scoring."""
    joints = []
    for e in encode(loaded.tokenizer, list(questions), style):
        row = []
        for aliases in e.options:
            total = -math.inf
            for alias in aliases:
                logp = own_logp(loaded, [*e.prompt, *alias])
                one = sum(float(logp[len(e.prompt) - 1 + t, token]) for t, token in enumerate(alias))
                total = float(np.logaddexp(total, one))
            row.append(total)
        joints.append(row)
    return joints


def normalised(row):
    return np.array(row) - np.logaddexp.reduce(row)


@BY_READING
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_a_direct_computation_by_the_models_own_forward(loaded, questions, kind, style):
    some = questions[:5]
    scores = score(loaded(kind), some, style=style)
    for i, row in enumerate(direct(loaded(kind), some, style)):
        np.testing.assert_allclose(scores.logp_NK[i, : len(row)], normalised(row), atol=1e-4)
        assert scores.logmass_N[i] == pytest.approx(np.logaddexp.reduce(row), abs=1e-4)


@BY_READING
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_shared_plain_and_single_routes_agree(loaded, questions, kind, style):
    encoded = encode(loaded(kind).tokenizer, list(questions), style)
    found = {}
    for route in ("shared", "plain", "single"):
        found[route] = OptionScorer(loaded(kind).model, style, 300, route).run(encoded)
    for route in ("plain", "single"):
        np.testing.assert_allclose(found[route][0], found["shared"][0], atol=1e-4)
        np.testing.assert_allclose(found[route][1], found["shared"][1], atol=1e-4)


@BY_READING
def test_batch_composition_and_padding_change_nothing(loaded, questions, style):
    alone = score(loaded(), questions, style=style, batch_tokens=1)
    together = score(loaded(), questions, style=style, batch_tokens=100_000)
    np.testing.assert_allclose(together.logp_NK, alone.logp_NK, atol=1e-4)
    np.testing.assert_allclose(together.logmass_N, alone.logmass_N, atol=1e-4)


@BY_READING
def test_order_of_questions_changes_nothing(loaded, questions, style):
    order = list(range(len(questions)))
    random.Random(5).shuffle(order)
    straight = score(loaded(), questions, style=style, batch_tokens=400)
    shuffled = score(loaded(), questions.subset(order), style=style, batch_tokens=400)
    assert shuffled.ids == tuple(straight.ids[i] for i in order)
    np.testing.assert_allclose(shuffled.logp_NK, straight.logp_NK[order], atol=1e-4)


def test_permuting_the_options_of_a_continuation_permutes_its_scores(loaded, questions):
    turned = [replace(q, choices=q.choices[::-1], answer=len(q.choices) - 1 - q.answer) for q in questions]
    straight, reverse = score(loaded(), questions, style=TEXTS), score(loaded(), turned, style=TEXTS)
    for i, k in enumerate(straight.k_N):
        np.testing.assert_allclose(reverse.logp_NK[i, :k], straight.logp_NK[i, :k][::-1], atol=1e-4)
    np.testing.assert_array_equal(reverse.correct_N, straight.correct_N)


def test_mixed_numbers_of_options_are_minus_infinity_beyond_their_own(loaded, questions):
    scores = score(loaded(), questions)
    assert scores.k_N.tolist() == [4, 2, 5, 3, 4, 2, 5, 3, 4, 2, 5, 3, 4]
    absent_NK = np.arange(5) >= scores.k_N[:, None]
    assert np.isneginf(scores.logp_NK[absent_NK]).all()
    assert np.isfinite(scores.logp_NK[~absent_NK]).all()
    np.testing.assert_allclose(np.exp(scores.logp_NK).sum(1), 1.0, atol=1e-12)


def test_logmass_is_the_whole_vocabularys_share_of_the_letters(loaded, questions):
    """All aliases of the letters, summed as probabilities at the token after the prompt; the rest is what is missing."""
    scores = score(loaded(), questions)
    for i, e in enumerate(encode(loaded().tokenizer, list(questions), PromptStyle())):
        p_V = own_logp(loaded(), list(e.prompt))[-1].exp()
        letters = [alias[0] for aliases in e.options for alias in aliases]
        assert math.exp(scores.logmass_N[i]) == pytest.approx(float(p_V[letters].sum()), rel=1e-4)
        others = torch.ones_like(p_V, dtype=torch.bool)
        others[letters] = False
        assert 1 - math.exp(scores.logmass_N[i]) == pytest.approx(float(p_V[others].sum()), rel=1e-4)


@pytest.mark.parametrize("variant", ["per_token", "per_char", "pmi"])
def test_variant_of_a_continuations_score_equals_its_definition(loaded, questions, variant):
    some = questions[:4]
    style = PromptStyle(reading="continuation", variant=variant)
    scores = score(loaded(), some, style=style)
    joints = direct(loaded(), some, TEXTS)
    encoded = encode(loaded().tokenizer, list(some), TEXTS)
    for i, (q, e, row) in enumerate(zip(some, encoded, joints, strict=True)):
        if variant == "per_token":
            wanted = [s / len(aliases[0]) for s, aliases in zip(row, e.options, strict=True)]
        elif variant == "per_char":
            wanted = [s / len(choice) for s, choice in zip(row, q.choices, strict=True)]
        else:
            bare = loaded().tokenizer("Answer:")["input_ids"]
            wanted = []
            for s, (alias,) in zip(row, e.options, strict=True):
                logp = own_logp(loaded(), [*bare, *alias])
                wanted.append(s - sum(float(logp[len(bare) - 1 + t, token]) for t, token in enumerate(alias)))
        np.testing.assert_allclose(scores.logp_NK[i, : len(row)], normalised(wanted), atol=1e-4)
        assert scores.logmass_N[i] == pytest.approx(min(np.logaddexp.reduce(row), 0.0), abs=1e-4)


@BY_READING
def test_no_forward_pass_puts_more_than_one_position_through_the_head(loaded, questions, style):
    shapes = []
    handle = loaded().model.lm_head.register_forward_hook(lambda _m, _a, out: shapes.append(tuple(out.shape)))
    try:
        score(loaded(), questions, style=style)
    finally:
        handle.remove()
    in_passes = [shape for shape in shapes if len(shape) == 3]
    assert len(in_passes) > 2
    assert {shape[1] for shape in in_passes} == {1}


def test_self_test_of_one_question_is_a_test(loaded, questions):
    encoded = encode(loaded().tokenizer, list(questions)[:1], TEXTS)
    scorer = OptionScorer(loaded().model, TEXTS)
    assert scorer.self_test(encoded)[0] == "shared"
    own = scorer._shared
    scorer._shared = lambda rows: own(rows).flip(0)
    assert scorer.self_test(encoded)[0] == "plain"


def test_self_test_leaves_a_route_that_disagrees_with_single_sequences(loaded, questions):
    """A cache whose copies are shuffled gives wrong continuations; the plain way is right, and is taken."""
    encoded = encode(loaded().tokenizer, list(questions), TEXTS)
    scorer = OptionScorer(loaded().model, TEXTS)
    own = scorer._shared
    scorer._shared = lambda rows: own(rows).flip(0)
    route, deviation = scorer.self_test(encoded)
    assert route == "plain"
    assert deviation < 1e-4


def test_nan_weights_are_an_error_and_nothing_is_written(tmp_path, tokenizer, make_model, questions):
    model = make_model("llama", tokenizer)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    broken = LoadedModel(model, tokenizer, {"model": "broken"})
    with pytest.raises(ModelError, match="not finite"):
        score(broken, questions).save(tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_provenance_names_everything_that_made_the_scores(tmp_path, model_folder, questions):
    scores = score(
        model_folder(), questions, style=TEXTS, device="cpu", command="calibrant score x", seed=3, split="test"
    )
    scores.save(tmp_path / "s.safetensors")
    kept = Scores.load(tmp_path / "s.safetensors")
    p = kept.provenance
    assert p["model"] == str(model_folder())
    assert len(p["weights"]) == 16
    assert (p["adapter"], p["revision"], p["dtype"], p["device"]) == (None, None, "float32", "cpu")
    assert p["prompt"]["reading"] == "continuation"
    assert p["prompt_digest"] == TEXTS.digest
    assert p["route"] == "shared"
    assert p["batch_deviation"] < 1e-4
    assert set(p["versions"]) == {"calibrant", "torch", "transformers", "python"}
    assert (p["command"], p["seed"], kept.split) == ("calibrant score x", 3, "test")
    assert kept.hashes == tuple(q.content_hash for q in questions)
    assert kept.subjects == tuple(q.subject for q in questions)
    json.dumps(dict(p), allow_nan=False)


def test_chat_formats_name_their_chat_template_and_others_none(loaded, questions):
    """sha256 of the template as it is written, first 16 digits: ``printf %s TEMPLATE | sha256sum``."""
    digest = hashlib.sha256(loaded().tokenizer.chat_template.encode()).hexdigest()[:16]
    for format in ("chat", "chat-prefix"):
        assert score(loaded(), questions[:2], style=PromptStyle(format=format)).provenance["chat_template"] == digest
        assert chat_template_facts(loaded().facts["model"], ["raw", format]) == {"chat_template": digest}
        assert chat_template_facts(loaded(), [format], dtype="float32") == {"chat_template": digest}
    for format in ("raw", "release"):
        assert "chat_template" not in score(loaded(), questions[:2], style=PromptStyle(format=format)).provenance
    assert chat_template_facts("no/such-model", ["raw", "release"]) == {}
    with pytest.raises(ModelError, match="the tokenizer of 'no/such-model'"):
        chat_template_facts("no/such-model", ["chat"])


def test_a_template_digest_follows_the_template_alone(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "abc"
    assert template_digest(tokenizer) == "ba7816bf8f01cfea"  # FIPS 180-2, appendix B.1
    tokenizer.chat_template = "abc\n"
    assert template_digest(tokenizer) != "ba7816bf8f01cfea"
    tokenizer.chat_template = {"default": "abc", "tools": "xyz"}
    several = template_digest(tokenizer)
    tokenizer.chat_template = {"tools": "xyz", "default": "abc"}
    assert template_digest(tokenizer) == several
    assert template_digest(make_tokenizer(chat=False)) is None


def test_adapter_changes_the_scores_and_is_named_in_the_provenance(tmp_path, model_folder, questions):
    from peft import LoraConfig, get_peft_model

    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        tuned = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    tuned.save_pretrained(tmp_path / "adapter")
    plain = score(model_folder(), questions, device="cpu")
    adapted = score(model_folder(), questions, adapter=tmp_path / "adapter", device="cpu")
    in_memory = score(LoadedModel(tuned.eval(), base.tokenizer, {"model": "x"}), questions)
    assert np.abs(adapted.p_NK - plain.p_NK).max() > 0.01
    np.testing.assert_allclose(adapted.p_NK, in_memory.p_NK, atol=1e-6)
    assert adapted.provenance["adapter"] == str(tmp_path / "adapter")
    assert len(adapted.provenance["adapter_weights"]) == 16
    assert plain.provenance["adapter"] is None


def test_loading_arguments_for_a_loaded_model_are_refused_not_dropped(loaded, questions):
    with pytest.raises(ConfigError, match="loaded already"):
        score(loaded(), questions, adapter="somewhere")
    with pytest.raises(ConfigError, match="dtype"):
        score(loaded(), questions, dtype="float16")


def test_no_questions_and_an_id_twice_are_refused(loaded):
    q = Question("q", "Up?", ("yes", "no"), 0)
    with pytest.raises(QuestionError, match="no questions"):
        score(loaded(), [])
    with pytest.raises(LeakageError, match="'q' at positions 0 and 1"):
        score(loaded(), [q, q])


def test_question_beyond_the_models_context_is_an_error(loaded):
    long = Question("long", "word " * 2000, ("yes", "no"), 0)
    with pytest.raises(QuestionError, match="context of 512 tokens"):
        score(loaded(), [long])


def test_single_question_is_scored(loaded, questions):
    one = score(loaded(), questions[:1])
    many = score(loaded(), questions)
    np.testing.assert_allclose(one.logp_NK[0], many.logp_NK[0, :4], atol=1e-4)


def test_a_column_of_the_users_own_is_never_replaced(loaded):
    asked = [
        Question(str(i), "Of cities?", ("a", "b"), 0, columns={"question_length": x})
        for i, x in enumerate(("long", "short"))
    ]
    assert score(loaded(), asked).columns["question_length"] == ("long", "short")
    assert score(loaded(), [replace(q, columns={}) for q in asked]).columns["question_length"] == (10, 10)
