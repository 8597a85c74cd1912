"""An export is of the model that was measured: in 4 bits where it was so, with its chat template, with no foreign files."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from calibrant.errors import ConfigError, MissingExtraError, ModelError, OutputError, ScoresError
from calibrant.exporting import Export, ServeConfig, Source, check_drift, export, reader
from calibrant.exporting import run as exporting
from calibrant.exporting.card import expected_words
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet
from calibrant.scalers import Temperature
from calibrant.scoring import load_model, score
from calibrant.scoring.templates import template_digest

CHAT = PromptStyle(format="chat")
TEXTS = PromptStyle(reading="continuation")


@pytest.fixture(scope="module")
def check(make_questions):
    return make_questions("check", 40, ks=(4, 3))


@pytest.fixture(scope="module")
def source(model_folder, adapter):
    return Source(str(model_folder()), str(adapter), loading={"device": "cpu"})


@pytest.fixture(scope="module")
def made(source, check, tmp_path_factory):
    return export(source, out=tmp_path_factory.mktemp("out") / "served", check=check)


# ---- a model that was measured in 4 bits ----------------------------------------------------------------------------


@pytest.fixture
def four_bits():
    """The argument of ``load_model`` for weights in 4 bits."""
    pytest.importorskip("bitsandbytes", reason="needs the extra [quant]")
    return {"quantize_4bit": True}


def write_run(folder, model, check, scores, *, quantize_4bit):
    """What ``restore`` leaves of a run whose diagnosis asked for no tuning, as far as an export reads it."""
    run = {
        "model": str(model),
        "loading": {"device": "cpu", "revision": "None"},
        "prompt": {"reading": "letters", "format": "raw", "variant": "sum", "system": None},
        "config": {"quantize_4bit": quantize_4bit},
        "questions": {},
    }
    (folder / "report").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "report" / "report.json").write_text("{}")
    check.save(folder / "questions" / "calibration.jsonl")
    scores.save(folder / "scores" / "before" / "test.safetensors")
    return folder


def test_a_run_in_4_bits_is_exported_as_a_model_in_4_bits(tmp_path, model_folder, check, make_questions, four_bits):
    test = score(load_model(model_folder(), device="cpu", **four_bits), make_questions("test", 20))
    for bits, wanted in ((True, four_bits), (False, {})):
        found = Source.of_run(write_run(tmp_path / str(bits), model_folder(), check, test, quantize_4bit=bits))
        assert found.loading == {"device": "cpu", "revision": None, "dtype": "float32", **wanted}  # as it was measured
    with pytest.raises(ConfigError, match="quantized 'nf4' in the scores, None here"):
        export(Source.of_run(tmp_path / "False"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = export(Source.of_run(tmp_path / "True"), out=tmp_path / "out", config=ServeConfig(allow_drift=True))
    assert made.facts["quantized"] == "nf4"


def test_scores_of_the_unquantised_model_are_no_scores_of_the_quantised_one(
    source, check, make_questions, tmp_path, four_bits
):
    plain = score(source.model, make_questions("test", 20), adapter=source.adapter, device="cpu")
    four = replace(source, loading={**source.loading, **four_bits}, test=plain)
    with pytest.raises(ConfigError, match="quantized None in the scores, 'nf4' here") as raised:
        export(four, out=tmp_path / "out", check=check)
    assert "quantised or not as it is here" in raised.value.todo


def test_the_check_sees_what_the_weights_as_stored_do_to_a_model_measured_in_4_bits(
    source, made, check, tmp_path, four_bits
):
    """The export holds the stored weights with the adapter: the same tensors as an export that was measured unquantised.

    So its probabilities are not those that were measured in 4 bits, and the check, which compares these, says so.
    """
    loading = {**source.loading, **four_bits}
    measured = score(load_model(source.model, adapter=source.adapter, **loading), check)
    four = replace(source, loading=loading, test=measured)
    with pytest.raises(ModelError, match="Drifted") as raised:
        export(four, out=tmp_path / "no", check=check, config=ServeConfig(tolerance=1e-3))
    assert "measured in 4 bits" in raised.value.todo
    found = export(four, out=tmp_path / "out", check=check, config=ServeConfig(allow_drift=True))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found.folder, made.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    served = score(found.load(device="cpu"), check)
    movement = np.abs(served.p_NK - measured.p_NK).sum(1).mean() / 2
    assert found.facts["drift"]["movement"] == pytest.approx(movement, abs=1e-4)
    assert movement > 1e-3
    assert (found.facts["quantized"], made.facts["quantized"]) == ("nf4", None)
    assert "measured in nf4" in (found.folder / "README.md").read_text()


def test_four_bits_without_their_package_are_an_error_in_three_parts(made, check, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *package: None if name == "bitsandbytes" else found(name, *package)
    )
    with pytest.raises(MissingExtraError, match="4 bits"):
        check_drift(made.folder, made.folder, check, device="cpu", quantize_4bit=True)


# ---- the chat template ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_template(tmp_path_factory, model_folder):
    """The same weights, with another header of the assistant's turn in the tokenizer's chat template."""
    folder = tmp_path_factory.mktemp("template") / "model"
    shutil.copytree(model_folder(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "[[ASSISTANT]]:")
    tokenizer.save_pretrained(folder)
    return folder


def test_scores_under_another_chat_template_are_refused(model_folder, other_template, check, tmp_path):
    foreign = score(other_template, check, style=CHAT, device="cpu")
    own = score(model_folder(), check, style=CHAT, device="cpu")
    assert np.abs(foreign.p_NK - own.p_NK).max() > 0.01  # another prompt, whatever the style's digest says
    assert foreign.provenance["prompt_digest"] == own.provenance["prompt_digest"]
    asked = Source(str(model_folder()), style=CHAT, loading={"device": "cpu"})
    with pytest.raises(ConfigError, match="chat template '"):
        export(asked, out=tmp_path / "out", config=ServeConfig(temperature_from=foreign))
    older = replace(own, provenance={k: v for k, v in own.provenance.items() if k != "chat_template"})
    for scores in (own, older):  # scores that say nothing of it are taken
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        export(asked, out=tmp_path / "out", config=ServeConfig(temperature_from=scores))


def test_a_temperature_that_was_fitted_on_other_scores_is_refused(source, check, tmp_path):
    own = score(source.model, check, adapter=source.adapter, device="cpu")
    letters, texts = (Temperature().fit(s) for s in (own, score(source.model, check, style=TEXTS, device="cpu")))
    kept = Temperature.from_json(json.loads(json.dumps(texts.to_json())))
    with pytest.warns(UserWarning, match="prompt continuation, raw, sum where it was fitted, letters, raw, sum here"):
        twice = Temperature().fit(texts.apply(own, allow_fit_rows=True))
    served = replace(own, provenance={**own.provenance, "served_temperature": 1.5})
    wrong = {"prompt digest": texts, r"prompt digest '": kept, "rescaled already": twice}
    wrong["temperature of 1.5"] = Temperature().fit(served)
    for found, scaler in wrong.items():
        with pytest.raises(ConfigError, match=f"asked: a temperature to ship.*\n.*{found}"):
            export(source, out=tmp_path / "out", config=ServeConfig(scaler=scaler))
    made = export(source, out=tmp_path / "out", config=ServeConfig(scaler=letters))
    shipped = json.loads((made.folder / "scaler.json").read_text())["fitted_on"]
    assert letters.fitted_on_["model"] == source.model
    assert shipped["weights"] == letters.fitted_on_["weights"]
    assert not {"model", "adapter"} & shipped.keys()  # folders of this machine


def test_a_card_calls_calibrated_what_was(source, tmp_path):
    bare = export(Source(source.model, loading={"device": "cpu"}), out=tmp_path / "bare")
    card = (bare.folder / "README.md").read_text()
    assert ", to serve" in card
    assert "calibrated" not in card.split("## ")[0].split("---")[2]
    tuned = export(source, out=tmp_path / "tuned")
    assert ", tuned, to serve" in (tuned.folder / "README.md").read_text()
    assert "| Reading | letters, raw; prompt digest" in card  # "sum" is a way to read option texts


def test_a_card_speaks_of_a_temperature_that_is_there():
    value = {"value": 0.3, "low": 0.2, "high": 0.4, "floor_p95": 0.1}
    facts = {"expected": {"n": 60, "level": 0.95, "n_bins": 10, "accuracy": value, "conf_ece": value}}
    assert "temperature applied" in expected_words({**facts, "temperature": {"file": "scaler.json"}})
    bare = expected_words({**facts, "temperature": {"file": None, "folded": False}})
    assert bare.endswith("up to 0.100), measured before the export.")


def test_an_export_from_before_the_template_was_changed_is_not_this_one(model_folder, check, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_folder(), model)
    asked = Source(str(model), style=CHAT, loading={"device": "cpu"})
    first = export(asked, out=tmp_path / "out", check=check)
    assert export(asked, out=tmp_path / "out", check=check).facts == first.facts
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template += " "
    tokenizer.save_pretrained(model)
    with pytest.raises(ConfigError, match="a different chat_template"):
        export(asked, out=tmp_path / "out", check=check)


def test_drift_between_two_chat_templates_is_refused(model_folder, other_template, check, tmp_path):
    with pytest.raises(ConfigError, match="different chat templates") as raised:
        check_drift(model_folder(), other_template, check, style=CHAT, device="cpu")
    for folder in (model_folder(), other_template):
        assert template_digest(AutoTokenizer.from_pretrained(folder)) in raised.value.found
    assert check_drift(model_folder(), other_template, check, device="cpu").max_dlogp < 1e-6  # a raw prompt has none
    made = export(Source(str(model_folder()), style=CHAT, loading={"device": "cpu"}), out=tmp_path / "out")
    assert check_drift(model_folder(), made.folder, check, device="cpu").max_dlogp < 1e-4


def test_drift_on_some_of_the_questions_that_scores_hold(made, source, check, make_questions, tmp_path):
    stored = made.folder / "check" / "before.safetensors"
    some = check[5:15]
    found = check_drift(stored, made.folder, some, device="cpu")
    assert found.n == 10
    assert found.max_dlogp < 1e-4
    other = QuestionSet("more", (*some, *make_questions("other", 3)))
    with pytest.raises(ScoresError, match=r"30 only in a .*3 only in b"):
        check_drift(stored, made.folder, other, device="cpu")


# ---- files that are not of the export -------------------------------------------------------------------------------


def test_an_adapter_or_weights_that_came_into_the_folder_are_faults(made, source, check, tmp_path):
    """A merged export copied over an adapter alone: transformers would put the adapter on a second time."""
    alone = export(source, out=tmp_path / "both", config=ServeConfig(merge=False))
    shutil.copytree(made.folder, alone.folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match=r"adapter_config\.json is not of this export") as raised:
        Export.open(alone.folder)
    assert "adapter_model.safetensors is not of this export" in raised.value.found
    with pytest.raises(ModelError, match="would be put on the model unsaid"):
        load_model(alone.folder, device="cpu")
    with pytest.raises(ValueError, match="unsaid"):
        reader.Reader(alone.folder)
    (alone.folder / "adapter_config.json").unlink()
    (alone.folder / "adapter_model.safetensors").unlink()
    (alone.folder / "model.gguf").write_bytes(b"GGUF")  # made from the export, and loaded by nothing unasked
    assert Export.open(alone.folder).facts == made.facts
    (alone.folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is not of this export"):
        Export.open(alone.folder)


def test_the_temperature_of_scores_in_4_bits_is_no_temperature_of_the_stored_weights(
    source, check, tmp_path, four_bits
):
    cal = score(load_model(source.model, adapter=source.adapter, device="cpu", **four_bits), check)
    assert Temperature().fit(cal).temperature_
    with pytest.raises(ConfigError, match="a temperature from scores of the exported model"):
        export(source, out=tmp_path / "out", config=ServeConfig(temperature_from=cal))


def test_a_run_whose_calibration_questions_repeat_one_can_be_exported(tmp_path, model_folder, check, make_questions):
    """``restore`` takes such a set."""
    twice = QuestionSet("check", (*check.questions, replace(check[0], id="again")))
    test = score(str(model_folder()), make_questions("test", 20), device="cpu")
    source = Source.of_run(write_run(tmp_path, model_folder(), twice, test, quantize_4bit=False))
    assert source.calibration.digest == twice.digest


def test_what_can_never_be_exported_is_refused_before_anything_is_scored(source, check, tmp_path, monkeypatch):
    def read(*_, **__):
        pytest.fail("a model was read")

    monkeypatch.setattr(exporting, "load_model", read)
    for settings in ({"tolerance": 2.0}, {"target_accuracy": 1.5}, {"target_accuracy": 0.9, "level": 95}):
        with pytest.raises(ConfigError, match=r"not in \(0, 1\)"):
            export(source, out=tmp_path / "out", config=ServeConfig(**settings), check=check)
    with pytest.raises(ConfigError, match="no question"):
        export(source, out=tmp_path / "out", check=[])
    with pytest.raises(ConfigError, match="one question"):
        export(source, out=tmp_path / "out", check=check.subset([0]))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="an export in"):
        export(source, out=tmp_path / "file" / "out", check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("how", ["here", "link"])
def test_an_empty_folder_is_filled_by_whatever_name(source, check, tmp_path, monkeypatch, how):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    made = export(source, out="." if how == "here" else tmp_path / "link", check=check)
    assert Export.open(tmp_path / "empty").facts == made.facts
