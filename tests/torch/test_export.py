"""An export is what it says it is, is checked against the model before, and says no in three parts."""

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from calibrant.errors import ConfigError, LeakageError, ModelError, OutputError
from calibrant.exporting import Export, ServeConfig, Source, check_drift, export
from calibrant.exporting.decisions import abstention, halves
from calibrant.metrics import clopper_pearson, threshold_for
from calibrant.prompts import PromptStyle
from calibrant.scalers import Temperature, question_keys
from calibrant.scores import Scores
from calibrant.scoring import load_model, score

FITTED = Temperature().fit(Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3))


@pytest.fixture(scope="module")
def check(make_questions):
    return make_questions("check", 60, ks=(4, 3))


@pytest.fixture(scope="module")
def source(model_folder, adapter):
    return Source(str(model_folder()), str(adapter), loading={"device": "cpu"})


@pytest.fixture(scope="module")
def before(source, check):
    return score(source.model, check, adapter=source.adapter, device="cpu")


@pytest.fixture(scope="module")
def made(source, check, tmp_path_factory):
    return export(source, out=tmp_path_factory.mktemp("out") / "served", check=check)


# ---- what is written ------------------------------------------------------------------------------------------------


def test_the_merged_model_is_the_tuned_one_in_plain_transformers(made, before, check, source):
    assert made.facts["drift"]["verdict"] == "faithful"
    assert made.facts["drift"]["max_dlogp"] < 1e-4
    assert made.facts["adapter"]["merged"]
    assert not (made.folder / "adapter_config.json").exists()
    again = score(str(made.folder), check, device="cpu")
    np.testing.assert_allclose(again.logp_NK, before.logp_NK, atol=1e-4)
    untuned = score(source.model, check, device="cpu")
    assert np.abs(untuned.p_NK - before.p_NK).max() > 0.05  # the adapter does something
    template = AutoTokenizer.from_pretrained(made.folder).chat_template
    assert template == AutoTokenizer.from_pretrained(source.model).chat_template is not None


def test_the_generation_configuration_is_kept(model_folder, tmp_path, check):
    shutil.copytree(model_folder(), tmp_path / "model")
    GenerationConfig(do_sample=True, temperature=0.4, max_new_tokens=7).save_pretrained(tmp_path / "model")
    found = export(Source(str(tmp_path / "model"), loading={"device": "cpu"}), out=tmp_path / "out")
    kept = GenerationConfig.from_pretrained(found.folder)
    assert (kept.do_sample, kept.temperature, kept.max_new_tokens) == (True, 0.4, 7)
    assert found.facts["drift"] is None  # no questions, no check, and it says so
    assert "Not checked" in (found.folder / "README.md").read_text()


def test_the_adapter_alone_names_its_model(source, check, before, tmp_path):
    found = export(source, out=tmp_path / "alone", config=ServeConfig(merge=False), check=check)
    config = json.loads((found.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == found.facts["model"]["name"] == source.model
    assert not (found.folder / "model.safetensors").exists()
    sent = (load_file(f"{place}/adapter_model.safetensors") for place in (found.folder, source.adapter))
    ours, theirs = sent
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    np.testing.assert_allclose(score(found.load(device="cpu"), check).logp_NK, before.logp_NK, atol=1e-6)
    assert found.facts["drift"]["max_dlogp"] < 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_is_measured_and_passes_or_not_by_its_tolerance(dtype, source, check, tmp_path):
    found = export(source, out=tmp_path / "half", config=ServeConfig(dtype=dtype, tolerance=0.2), check=check)
    weights = load_file(found.folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, dtype)}
    assert json.loads((found.folder / "config.json").read_text())["dtype"] == dtype
    drifted = found.facts["drift"]
    assert 0 < drifted["movement"] < 0.2
    tight = drifted["movement"] / 2
    with pytest.raises(ModelError, match="movement") as raised:
        export(source, out=tmp_path / "no", config=ServeConfig(dtype=dtype, tolerance=tight), check=check)
    assert "--allow-drift" in raised.value.todo
    assert [p.name for p in tmp_path.iterdir()] == ["half"]  # nothing half-written
    loud = ServeConfig(dtype=dtype, tolerance=tight, allow_drift=True)
    assert export(source, out=tmp_path / "loud", config=loud, check=check).facts["drift"]["verdict"] == "drifted"


def test_a_folded_temperature_is_the_temperature_on_the_options_where_each_has_one_token(
    make_model, make_merging_tokenizer, tmp_path, make_questions
):
    """Chat letters of a vocabulary that has no ' A': one token an option, so folding is exact."""
    tokenizer = make_merging_tokenizer([])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}\n"
    make_model("qwen3", tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    style, questions = PromptStyle(format="chat"), make_questions("letters", 40)
    plain = score(str(tmp_path / "model"), questions, style=style, device="cpu")
    scaler = Temperature().fit(score(str(tmp_path / "model"), make_questions("fit", 40), style=style, device="cpu"))
    source = Source(str(tmp_path / "model"), style=style, loading={"device": "cpu"})
    found = export(source, out=tmp_path / "out", config=ServeConfig(scaler=scaler, fold=True), check=questions)
    t = found.facts["temperature"]
    assert (t["folded"], t["apply"], t["value"]) == (True, 1.0, scaler.temperature_)
    served = score(str(found.folder), questions, style=style, device="cpu")
    np.testing.assert_allclose(served.logp_NK, scaler.apply(plain).logp_NK, atol=2e-4)
    assert abs(scaler.temperature_ - 1) > 0.2
    card = (found.folder / "README.md").read_text()
    assert "every prompt" in card
    assert "Greedy decoding" in card
    d = check_drift(tmp_path / "model", found.folder, questions, device="cpu")  # the fold is not a drift
    assert d.max_dlogp < 2e-4
    copied = Path(shutil.copytree(found.folder, tmp_path / "copy"))
    (copied / "serving.json").unlink()  # what a GGUF file of it is: the weights, and no word of the temperature in them
    served.save(tmp_path / "served.scores")
    score(str(tmp_path / "model"), questions, style=style, device="cpu").save(tmp_path / "plain.scores")
    inside = found.folder / "check"
    for a, b in (
        (found.folder, copied),
        (copied, found.folder),
        (tmp_path / "served.scores", found.folder),
        (found.folder, tmp_path / "served.scores"),
        (inside / "after.safetensors", found.folder),
        (inside / "before.safetensors", found.folder),
        (tmp_path / "plain.scores", found.folder),
    ):
        assert check_drift(a, b, questions, device="cpu").max_dlogp < 4e-4, (a, b)
    assert check_drift(copied, tmp_path / "model", questions, device="cpu").max_dlogp > 0.1  # neither is an export


def test_scores_of_an_exports_check_say_that_they_hold_its_temperature(source, check, before, temperature, tmp_path):
    """Beside weights that do not hold it they are brought to them; they are not a source of another temperature."""
    found = export(source, out=tmp_path / "out", config=ServeConfig(scaler=temperature(3.0)), check=check)
    held = found.folder / "check" / "before.safetensors"
    assert Scores.load(held).provenance["served_temperature"] == 3.0
    assert check_drift(held, found.folder, check, device="cpu").max_dlogp < 1e-4
    assert check_drift(found.folder, held, check, device="cpu").max_dlogp < 1e-4
    with pytest.raises(ConfigError, match="hold its temperature of 3"):
        export(source, out=tmp_path / "again", config=ServeConfig(temperature_from=Scores.load(held)), check=check)


def test_where_an_option_has_two_tokens_the_check_sees_what_folding_costs(source, check, tmp_path):
    """Two tokens of an option, both likely: Σ p^(1/T) is not (Σ p)^(1/T), and the check says by how much."""
    plain = {"name": "temperature", "temperature": 3.0, "at_bound": False, "n_fit": 9, "n_left_out": 0}
    scaler = Temperature.from_json({**plain, "fit_keys": []})
    config = ServeConfig(scaler=scaler, fold=True, tolerance=1e-4)
    with pytest.raises(ModelError, match="Drifted"):
        export(source, out=tmp_path / "out", config=config, check=check)
    found = export(source, out=tmp_path / "out", config=dataclasses.replace(config, allow_drift=True), check=check)
    assert found.facts["drift"]["max_dp"] > 0.005


# ---- temperature, threshold, expectation ----------------------------------------------------------------------------


def world(n, seed, *, prefix):
    """Overconfident three-option scores: the truth is drawn from p^(1/2), normalised."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.4] * 3, n)
    truth = np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)
    answer = [rng.choice(3, p=row) for row in truth]
    return Scores.from_probs(p, answer, ids=[f"{prefix}{i}" for i in range(n)])


def test_one_set_of_scores_is_halved_between_temperature_and_threshold():
    s = world(801, 0, prefix="q")
    one, two = halves(s)
    assert abs(one.n - two.n) <= 1
    assert not set(one.ids) & set(two.ids)
    again, _ = halves(s.select(np.random.default_rng(1).permutation(s.n)))
    assert set(again.ids) == set(one.ids)  # whatever the order
    scaler = Temperature().fit(one)
    assert scaler.temperature_ == pytest.approx(2, rel=0.3)
    found = abstention(two, scaler, 0.7, 0.9, test=world(2000, 5, prefix="t"))
    served = scaler.apply(two)
    assert found.decision == threshold_for(served.confidence_N, served.correct_N, 0.7, 0.9)
    assert sorted(found.fit_keys) == sorted(question_keys(two))
    assert found.on_test["accuracy_low"] <= found.on_test["accuracy"] <= found.on_test["accuracy_high"]
    assert found.on_test["accuracy"] > 0.65
    answered = found.on_test["answered"]
    ends = clopper_pearson(round(found.on_test["accuracy"] * answered), answered, 0.9)
    assert (found.on_test["accuracy_low"], found.on_test["accuracy_high"]) == pytest.approx(tuple(map(float, ends)))
    with pytest.raises(LeakageError):
        abstention(s, scaler, 0.7, 0.9)


def test_a_threshold_that_cannot_be_promised_is_refused():
    with pytest.raises(ConfigError, match="at least"):
        abstention(world(50, 0, prefix="q"), None, 0.99, 0.95)


def test_scores_of_another_model_or_prompt_are_refused(source, check, before, tmp_path):
    other = score(source.model, check, device="cpu")
    chat = score(source.model, check, adapter=source.adapter, style=PromptStyle(format="chat"), device="cpu")
    for foreign, named in ((other, "adapter weights"), (chat, "prompt digest")):
        config = ServeConfig(temperature_from=foreign)
        with pytest.raises(ConfigError, match=named):
            export(source, out=tmp_path / "out", config=config, check=check)
        with pytest.raises(ConfigError, match=named):
            export(dataclasses.replace(source, test=foreign), out=tmp_path / "out", check=check)
    rescaled = Temperature().fit(before).apply(before, allow_fit_rows=True)
    with pytest.raises(ConfigError, match=r"rescaled already \(temperature\)"):
        export(source, out=tmp_path / "out", config=ServeConfig(temperature_from=rescaled), check=check)
    found = export(source, out=tmp_path / "out", config=ServeConfig(temperature_from=before), check=check)
    assert found.scaler.temperature_ == Temperature().fit(before).temperature_
    assert check_keys(before) <= set(json.loads((found.folder / "scaler.json").read_text())["fit_keys"])


def check_keys(scores):
    return set(question_keys(scores))


def test_a_temperature_fitted_on_the_test_questions_is_refused(source, check, before, tmp_path):
    config = ServeConfig(temperature_from=before)
    with pytest.raises(LeakageError):
        export(dataclasses.replace(source, test=before), out=tmp_path / "out", config=config, check=check)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"fold": True}, "no temperature"),
        ({"dtype": "int8"}, "known are"),
        ({"temperature_from": "calibration"}, "without a run"),
        ({"target_accuracy": 0.9}, "without a run"),
        ({"scaler": Temperature()}, "none fitted"),
        ({"fold": True, "merge": False, "scaler": FITTED}, "alone"),
        ({"scaler": FITTED, "temperature_from": "calibration"}, "one is given"),
    ],
)
def test_settings_that_contradict_each_other(settings, found, source, check, tmp_path):
    with pytest.raises(ConfigError, match=found):
        export(source, out=tmp_path / "out", config=ServeConfig(**settings), check=check)


def test_folding_needs_questions_and_letters(source, check, before, tmp_path):
    config = ServeConfig(temperature_from=before, fold=True)
    with pytest.raises(ConfigError, match="no questions"):
        export(source, out=tmp_path / "out", config=config)
    read = dataclasses.replace(source, style=PromptStyle(reading="continuation"))
    with pytest.raises(ConfigError, match="sum over its tokens"):
        export(read, out=tmp_path / "out", config=config, check=check)


def test_no_adapter_cannot_be_written_alone(source, check, tmp_path):
    with pytest.raises(ConfigError, match="no adapter"):
        export(dataclasses.replace(source, adapter=None), out=tmp_path / "o", config=ServeConfig(merge=False))


# ---- the folder as a whole ------------------------------------------------------------------------------------------


def damaged(made, folder, change):
    shutil.copytree(made.folder, folder)
    change(folder)
    return folder


def test_every_file_has_its_checksum_and_a_changed_one_is_found(made, tmp_path):
    listed = set(made.facts["files"])
    there = {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()}
    assert listed == there - {"serving.json"}
    assert {"model.safetensors", "reader.py", "README.md", "tokenizer.json", "check/before.safetensors"} <= listed
    assert Export.open(made.folder).facts == made.facts

    def flip(folder):
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)

    def other_threshold(folder):
        text = (folder / "serving.json").read_text()
        (folder / "serving.json").write_text(text.replace('"dtype": "float32"', '"dtype": "float16"'))

    changes = {
        "model.safetensors was changed": flip,
        "serving.json was changed": other_threshold,
        "reader.py is missing": lambda folder: (folder / "reader.py").unlink(),
    }
    for i, (found, change) in enumerate(changes.items()):
        with pytest.raises(ModelError, match=found):
            Export.open(damaged(made, tmp_path / str(i), change))
    with pytest.raises(ModelError, match="no readable"):
        Export.open(tmp_path)


def test_the_drift_check_sees_a_damaged_model(made, before, check, tmp_path):
    """One projection of one layer is zeroed: the files load, and only the probabilities tell."""

    def zero(folder):
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"].zero_()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "serving.json").unlink()  # else the checksum tells

    folder = damaged(made, tmp_path / "bad", zero)
    found = check_drift(made.folder, folder, check, device="cpu")
    assert found.verdict == "drifted"
    assert found.movement > 0.05
    assert check_drift(made.folder, made.folder, check, device="cpu").movement == 0
    before.save(tmp_path / "before.safetensors")
    mixed = check_drift(tmp_path / "before.safetensors", made.folder, check, device="cpu")
    assert mixed.max_dlogp < 1e-4


def test_drift_of_models_needs_questions_and_one_way_of_asking(made, check):
    with pytest.raises(ConfigError, match="no questions"):
        check_drift(made.folder, made.folder)
    with pytest.raises(ConfigError, match="different ways"):
        check_drift(made.folder, made.folder, check, style=PromptStyle(format="chat"))


def test_drift_from_scores_asks_as_they_were_asked(model_folder, check, tmp_path):
    """The same model on both sides: whatever the scores' prompt was, nothing has drifted."""
    chat = PromptStyle(format="chat")
    kept = score(str(model_folder()), check, style=chat, device="cpu")
    kept.save(tmp_path / "chat.scores")
    assert check_drift(tmp_path / "chat.scores", model_folder(), check, device="cpu").max_dlogp < 1e-4
    with pytest.raises(ConfigError, match="different ways"):
        check_drift(tmp_path / "chat.scores", model_folder(), check, style=PromptStyle(), device="cpu")
    FITTED.apply(kept).save(tmp_path / "cooled.scores")
    with pytest.raises(ConfigError, match=r"cooled.scores was rescaled after scoring"):
        check_drift(tmp_path / "cooled.scores", model_folder(), check, device="cpu")
    assert check_drift(tmp_path / "cooled.scores", tmp_path / "cooled.scores").max_dlogp == 0


def test_the_same_export_again_is_found_and_another_one_is_refused(made, source, check):
    when = (made.folder / "model.safetensors").stat().st_mtime_ns
    assert export(source, out=made.folder, check=check).facts == made.facts
    assert (made.folder / "model.safetensors").stat().st_mtime_ns == when
    with pytest.raises(ConfigError, match="another one, with a different dtype"):
        export(source, out=made.folder, config=ServeConfig(dtype="bfloat16"), check=check)


def test_an_adapter_that_was_trained_again_in_its_place_is_not_the_one_exported(model_folder, adapter, check, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    source = Source(str(model_folder()), str(tmp_path / "adapter"), loading={"device": "cpu"})
    export(source, out=tmp_path / "served", check=check)
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    save_file({name: 2 * w for name, w in weights.items()}, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ConfigError, match="another one, with a different weights"):
        export(source, out=tmp_path / "served", check=check)


def test_a_folder_with_something_else_is_refused_and_an_empty_one_is_used(source, check, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not an export"):
        export(source, out=tmp_path / "full", check=check)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert export(source, out=tmp_path / "empty", check=check).folder == tmp_path / "empty"


@pytest.mark.parametrize("limit", [1_000, 20_000])
def test_full_disk_is_an_error_and_leaves_nothing(limit, source, check, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError) as raised:
            export(source, out=tmp_path / "served", check=check)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free space" in raised.value.todo
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_none_or_not_finished_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no restore run"):
        Source.of_run(tmp_path)
    run = {"model": "m", "loading": {}, "prompt": {}, "questions": {}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match="not finished"):
        Source.of_run(tmp_path)


def test_load_model_takes_the_export_as_any_model(made):
    assert load_model(made.folder, device="cpu").context_length == 512
