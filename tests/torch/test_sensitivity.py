"""Other orders and other formats through tiny models, and the real command."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from calibrant.cli import main
from calibrant.diagnosis.sensitivity import order_sensitivity
from calibrant.errors import ConfigError, ModelError, QuestionError
from calibrant.orders import cyclic_permutations
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scores import Scores
from calibrant.scoring import load_model, score
from calibrant.scoring import sensitivity as module
from calibrant.scoring.scorer import OptionScorer
from calibrant.scoring.sensitivity import score_formats, score_orders, sensitivity

TEXTS = PromptStyle(reading="continuation")
FEW = {"n_boot": 50}


@pytest.fixture(scope="module")
def questions(make_questions):
    return make_questions("mixed", 12, ks=(4, 2, 3))


@pytest.fixture(scope="module")
def bare_folder(tmp_path_factory, make_tokenizer, make_model):
    """A model whose tokenizer has no chat template."""
    folder = tmp_path_factory.mktemp("bare")
    tokenizer = make_tokenizer(chat=False)
    make_model("llama", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- orders -------------------------------------------------------------------------------------------------------


def test_each_order_equals_scoring_the_permuted_questions(loaded, questions):
    """Also where a question's order is a copy of one that it had: two options in order 2 are those in order 0."""
    found = score_orders(loaded(), questions)
    assert len(found) == 4
    for shift, (scores, turned) in enumerate(zip(found, cyclic_permutations(questions, 4), strict=True)):
        direct = score(loaded(), turned)
        np.testing.assert_allclose(scores.logp_NK, direct.logp_NK, atol=1e-4)
        np.testing.assert_allclose(scores.logmass_N, direct.logmass_N, atol=1e-4)
        np.testing.assert_array_equal(scores.answer_N, direct.answer_N)
        assert (scores.ids, scores.hashes, scores.subjects) == (direct.ids, direct.hashes, direct.subjects)
        assert scores.provenance["option_shift"] == shift
    assert order_sensitivity(found, **FEW).complete


def test_an_order_that_a_question_had_is_not_scored_again(loaded, questions, monkeypatch):
    """Four questions each of 4, 2 and 3 options: 12, 12, 8 and 4 prompts, 36 = sum of K."""
    sizes = []

    def counting(model, some, **more):
        sizes.append(len(some))
        return score(model, some, **more)

    monkeypatch.setattr(module, "score", counting)
    score_orders(loaded(), questions)
    assert sizes == [12, 12, 8, 4]


def test_fewer_orders_may_be_asked(loaded, questions):
    found = score_orders(loaded(), questions, shifts=2, split="test", seed=3, batch_tokens=500)
    assert [s.split for s in found] == ["test"] * 2
    assert found[1].provenance["seed"] == 3
    assert not order_sensitivity(found, **FEW).complete


@pytest.mark.parametrize("shifts", [0, 1, 5])
def test_a_number_of_orders_that_makes_no_sense_is_refused(loaded, questions, shifts):
    with pytest.raises(ConfigError, match="2 to 4 cyclic orders"):
        score_orders(loaded(), questions, shifts=shifts)


def test_orders_of_a_continuation_and_of_no_questions_are_refused(loaded, questions):
    with pytest.raises(ConfigError, match="does not show the options"):
        score_orders(loaded(), questions, style=TEXTS)
    with pytest.raises(QuestionError, match="no questions"):
        score_orders(loaded(), QuestionSet("none", ()))
    with pytest.raises(ConfigError, match="is loaded already"):
        score_orders(loaded(), questions, dtype="float32")


# ---- formats ------------------------------------------------------------------------------------------------------


def test_each_format_equals_scoring_with_it(loaded, questions):
    found = score_formats(loaded(), questions, style=PromptStyle(format="chat", system="Be brief."))
    assert not found.left_out
    assert list(found.scores) == ["raw", "chat", "chat-prefix"]
    for name, scores in found.scores.items():
        system = None if name == "raw" else "Be brief."
        direct = score(loaded(), questions, style=PromptStyle(format=name, system=system))
        np.testing.assert_allclose(scores.logp_NK, direct.logp_NK, atol=1e-6)
        assert scores.provenance["prompt_digest"] == direct.provenance["prompt_digest"]
    raw, chat = (found.scores[name].logp_NK for name in ("raw", "chat"))
    assert np.abs(np.exp(raw) - np.exp(chat)).max() > 1e-3


def test_chat_formats_are_left_out_by_name_without_a_template(bare_folder, questions):
    model = load_model(bare_folder, device="cpu")
    found = score_formats(model, questions, style=TEXTS)
    assert list(found.scores) == ["raw"]
    assert found.left_out == dict.fromkeys(["chat", "chat-prefix"], "the tokenizer has no chat template")
    with pytest.raises(ModelError, match="no chat template"):
        score_formats(model, questions, formats=["chat", "chat-prefix"])


def test_formats_that_do_not_exist_or_do_not_fit_are_refused_before_a_model_is_loaded(questions, tmp_path):
    for style, formats in ((PromptStyle(), ["raw", "chta"]), (TEXTS, ["raw", "release"])):
        with pytest.raises(ConfigError):
            sensitivity("no/such-model", questions, out=tmp_path / "run", shifts=1, style=style, formats=formats)
    with pytest.raises(ConfigError, match="one order, one format and one variant"):
        sensitivity("no/such-model", questions, out=tmp_path / "run", shifts=1, formats=["raw"])
    with pytest.raises(ConfigError, match="one permutation to compare formats alone"):
        sensitivity("no/such-model", questions, out=tmp_path / "run", shifts=2, style=TEXTS)
    for style, variants in ((PromptStyle(), ["sum", "pmi"]), (TEXTS, ["sum", "per_word"])):
        with pytest.raises(ConfigError):
            sensitivity("no/such-model", questions, out=tmp_path / "run", shifts=1, style=style, variants=variants)
    with pytest.raises(ConfigError, match="95"):
        sensitivity("no/such-model", questions, out=tmp_path / "run", analysis={"level": 95})
    assert not (tmp_path / "run").exists()


# ---- readings of option texts ---------------------------------------------------------------------------------------


def test_each_variant_equals_scoring_with_it_and_costs_two_passes(model_folder, questions, tmp_path, monkeypatch):
    joints = []
    own = OptionScorer._joint

    def counting(scorer, encoded, *rest):
        joints.append(len(encoded))
        return own(scorer, encoded, *rest)

    monkeypatch.setattr(OptionScorer, "_joint", counting)
    found = sensitivity(
        model_folder(), questions, out=tmp_path, style=TEXTS, formats=["raw"], analysis=FEW, device="cpu"
    )
    assert joints.count(12) == 2  # the texts after the question, and after none
    assert found.orders is None
    assert found.formats is None
    assert list(found.variants.numbers) == ["sum", "per_token", "per_char", "pmi"]
    model = load_model(model_folder(), device="cpu")
    for variant in found.variants.numbers:
        kept = Scores.load(tmp_path / f"raw-{'shift-0' if variant == 'sum' else variant}.safetensors")
        direct = score(model, questions, style=replace(TEXTS, variant=variant))
        np.testing.assert_allclose(kept.logp_NK, direct.logp_NK, atol=1e-6)
        assert kept.provenance["prompt_digest"] == direct.provenance["prompt_digest"]
        assert found.variants.numbers[variant]["accuracy"].value == direct.correct_N.mean()
    assert "Reading of the options' texts: 12 questions" in found.variants.to_text()
    assert "of it is the reading's" in found.variants.to_text()
    joints.clear()
    (tmp_path / "raw-per_char.safetensors").unlink()
    again = sensitivity(
        model_folder(), questions, out=tmp_path, style=TEXTS, formats=["raw"], analysis=FEW, device="cpu"
    )
    assert joints.count(12) == 1
    assert again.variants.to_json() == found.variants.to_json()


def test_formats_take_what_the_variants_scored(model_folder, questions, tmp_path, monkeypatch):
    scored = []

    def counting(model, some, *, style, **more):
        scored.append(style.format)
        return score(model, some, style=style, **more)

    monkeypatch.setattr(module, "score", counting)
    found = sensitivity(model_folder(), questions, out=tmp_path, style=TEXTS, analysis=FEW, device="cpu")
    assert scored == ["chat", "chat-prefix"]
    assert found.formats.numbers["raw"].to_json() == found.variants.numbers["sum"].to_json()


def test_a_chat_format_without_a_template_has_no_variants_unless_they_are_named(bare_folder, questions, tmp_path):
    asked = {"style": replace(TEXTS, format="chat"), "analysis": FEW, "device": "cpu"}
    found = sensitivity(bare_folder, questions, out=tmp_path / "a", **asked)
    assert found.variants is None
    assert set(found.formats.left_out) == {"chat", "chat-prefix"}
    for named in ({"variants": ["sum", "pmi"]}, {"formats": ["chat"]}):
        with pytest.raises(ModelError, match="no chat template"):
            sensitivity(bare_folder, questions, out=tmp_path / f"b{len(named)}{next(iter(named))}", **asked, **named)


def test_two_named_variants_and_no_formats_through_the_command(model_folder, questions, tmp_path, command):
    file = questions.save(tmp_path / "questions.jsonl")
    words = ["sensitivity", model_folder(), "--questions", file, "--out", tmp_path / "run", "--draws", 50, "--quiet"]
    status, out, err = command(
        *words, "--reading", "continuation", "--formats", "raw", "--variants", "sum,per_char", "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert (found["orders"], found["formats"]) == (None, None)
    assert list(found["variants"]["numbers"]) == ["sum", "per_char"]
    assert found["variants"]["aspect"] == "variant"


# ---- the run in a folder ------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped_and_takes_what_is_there(model_folder, questions, tmp_path, monkeypatch):
    asked = {"out": tmp_path, "formats": ["raw", "chat"], "analysis": FEW, "device": "cpu"}
    first = sensitivity(model_folder(), questions, **asked)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [
        "averaged.safetensors",
        "chat-shift-0.safetensors",
        *(f"raw-shift-{s}.safetensors" for s in range(4)),
    ]
    kept = [tmp_path / name for name in names if name not in ("averaged.safetensors", "raw-shift-2.safetensors")]
    before = [path.stat().st_mtime_ns for path in kept]
    (tmp_path / "raw-shift-2.safetensors").unlink()
    sizes = []

    def counting(model, some, **more):
        sizes.append(len(some))
        return score(model, some, **more)

    monkeypatch.setattr(module, "score", counting)
    again = sensitivity(model_folder(), questions, **asked)
    assert sizes == [8]
    assert again.orders.to_json() == first.orders.to_json()
    monkeypatch.setattr(module, "load_model", lambda *_, **__: pytest.fail("loaded for nothing"))
    third = sensitivity(model_folder(), questions, **asked)
    assert third.formats.to_json() == first.formats.to_json()
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_another_run_in_the_same_folder_is_refused(model_folder, questions, tmp_path):
    asked = {"out": tmp_path, "formats": ["raw"], "shifts": 2, "analysis": FEW, "device": "cpu"}
    sensitivity(model_folder(), questions, **asked)
    turned = QuestionSet("other", tuple(replace(q, text=q.text + " Really?") for q in questions))
    with pytest.raises(ConfigError, match="different questions"):
        sensitivity(model_folder(), turned, **asked)
    with pytest.raises(ConfigError, match="different orders"):
        sensitivity(model_folder(), questions, **{**asked, "shifts": 3})
    with pytest.raises(ConfigError, match="different model, weights"):
        sensitivity(model_folder("gpt2"), questions, **asked)


def test_a_run_of_another_chat_template_is_refused_where_it_asks_in_a_chat_format(model_folder, questions, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_folder(), model)
    kinds = {"chat": {"formats": ["raw", "chat"], "shifts": 1}, "raw": {"formats": ["raw"], "shifts": 2}}
    asked = {name: {"out": tmp_path / name, "analysis": FEW, "device": "cpu", **more} for name, more in kinds.items()}
    before = {name: sensitivity(model, questions, **more) for name, more in asked.items()}
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "[[ASSISTANT]]:")
    tokenizer.save_pretrained(model)
    with pytest.raises(ConfigError, match="different chat_template"):
        sensitivity(model, questions, **asked["chat"])
    assert sensitivity(model, questions, **asked["raw"]).orders.to_json() == before["raw"].orders.to_json()
    elsewhere = sensitivity(model, questions, **{**asked["chat"], "out": tmp_path / "again"})
    raw, chat = ([f.formats.numbers[name].to_json() for f in (before["chat"], elsewhere)] for name in ("raw", "chat"))
    assert raw[0] == raw[1]
    assert chat[0] != chat[1]


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["calibrant", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return run


def test_the_command_writes_scores_and_prints_both_parts(model_folder, questions, tmp_path, command):
    file = questions.save(tmp_path / "questions.jsonl")
    words = ["sensitivity", model_folder(), "--questions", file, "--out", tmp_path / "run", "--draws", 50, "--quiet"]
    code = "from calibrant.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Order of the options: 12 questions in 4 orders" in done.stdout
    assert "Format of the prompt: 12 questions" in done.stdout
    assert "chat-prefix against chat" in done.stdout
    assert "After one temperature each" in done.stdout
    assert Scores.load(tmp_path / "run" / "raw-shift-3.safetensors").n == 12
    status, out, _ = command(*words, "--json")
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "sensitivity.json").read_text())


def test_the_command_compares_formats_alone_and_says_what_it_left_out(bare_folder, questions, tmp_path, command):
    file = questions.save(tmp_path / "questions.jsonl")
    words = ["sensitivity", bare_folder, "--questions", file, "--out", tmp_path / "run", "--permutations", 1, "--quiet"]
    status, out, _ = command(*words, "--reading", "continuation", "--draws", 50, "--formats", "raw, chat")
    assert status == 0
    assert "Order of the options" not in out
    assert "left out: chat: the tokenizer has no chat template" in out


def test_the_command_refuses_orders_of_a_continuation_in_three_lines(model_folder, questions, tmp_path, command):
    file = questions.save(tmp_path / "questions.jsonl")
    words = ["sensitivity", model_folder(), "--questions", file, "--out", tmp_path / "run", "--reading", "continuation"]
    status, _, err = command(*words, "--permutations", 2)
    assert status == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == ["asked", "found", "to do"]
