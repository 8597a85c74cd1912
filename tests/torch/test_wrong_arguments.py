"""Natural mistakes with models and settings end in three parts, before anything is loaded or written."""

import numpy as np
import pytest

from calibrant import restore, score, tune
from calibrant.alignment import AlignSettings, Judge, Thresholds, align_check, load_preferences, load_prompts
from calibrant.demo import demo_questions
from calibrant.errors import ConfigError, QuestionError
from calibrant.exporting import ServeConfig, Source, export
from calibrant.ladder import Ladder
from calibrant.scoring.sensitivity import sensitivity
from calibrant.tuning import CalibrationCallback, LoraSettings, TuneConfig, interpolate, scale_adapter, sweep


def test_a_model_of_transformers_is_not_taken_for_a_name(loaded, make_questions):
    with pytest.raises(ConfigError, match=r"found: \w+ForCausalLM .+\n.+LoadedModel that load_model returns"):
        score(loaded().model, make_questions("test", 4))


def test_a_model_that_is_loaded_more_than_once_is_given_by_its_name(loaded, make_questions, tmp_path):
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    with pytest.raises(ConfigError, match="loaded more than once"):
        restore(loaded(), splits, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="loaded more than once"):
        align_check(loaded(), tuned=tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_style_and_splits_of_another_kind_are_named(make_questions, tmp_path):
    sets = [make_questions(name, 8) for name in ("train", "calibration")]
    with pytest.raises(ConfigError, match=r"found: dict .+\n.+TuneConfig\(epochs=1\)"):
        restore("no-model-is-read", {}, out=tmp_path / "run", config={"epochs": 1})
    with pytest.raises(ConfigError, match=r"found: dict .+\n.+TuneConfig\(epochs=1\)"):
        tune("no-model-is-read", *sets, out=tmp_path / "run", config={"epochs": 1})
    with pytest.raises(ConfigError, match=r"PromptStyle\(reading='continuation'\)"):
        score("no-model-is-read", sets[0], reading="continuation")
    with pytest.raises(ConfigError, match="found: str 'letters'"):
        tune("no-model-is-read", *sets, out=tmp_path / "run", style="letters")
    with pytest.raises(ConfigError, match="split_questions"):
        restore("no-model-is-read", sets[0], out=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "todo"),
    [
        ({"config": {"epochs": 1}}, r"TuneConfig\(epochs=1\)"),
        ({"style": {"reading": "letters"}}, r"PromptStyle\(reading="),
        ({"align": {"beta": 0.1}}, r"AlignSettings\(beta=0.1\)"),
        ({"preferences": "pairs.jsonl"}, "load_preferences"),
        ({"prompts": [{"prompt": "Hi"}]}, "load_prompts"),
        ({"settings": ["lr-x3"]}, '{"cft": "lr-x3"}'),
        ({"loading": "cpu"}, '{"device": "cpu"}'),
        ({"fixes": "cft"}, r'\["cft"\]'),
        ({"seeds": [0, 1]}, "seeds=3"),
    ],
)
def test_arguments_of_a_ladder_of_another_kind_are_answered_with_what_to_give(given, todo, make_questions, tmp_path):
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    with pytest.raises(ConfigError, match=rf"found: (dict|str|list) .+\nto do: .*({todo})"):
        Ladder("no-model-is-read", splits, tmp_path / "run", **given)


def test_a_ladder_without_settings_has_the_defaults_and_no_loaded_model(loaded, make_questions, tmp_path):
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    assert Ladder("no-model-is-read", splits, tmp_path / "run", config=None).config == TuneConfig()
    with pytest.raises(ConfigError, match="loaded more than once"):
        Ladder(loaded(), splits, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "todo"),
    [
        ({"settings": {"beta": 0.1}}, r"AlignSettings\(beta=0.1\)"),
        ({"thresholds": {"kl": 0.05}}, r"Thresholds\(kl=0.05\)"),
        ({"preferences": "pairs.jsonl"}, "load_preferences"),
        ({"prompts": ["Hi"]}, "load_prompts"),
        ({"judge": "http://localhost"}, r"Judge\(base_url, model\)"),
    ],
)
def test_arguments_of_alignment_checks_of_another_kind_are_answered_with_what_to_give(
    given, todo, make_questions, tmp_path
):
    with pytest.raises(ConfigError, match=rf"found: (dict|str|list) .+\nto do: .*{todo}"):
        align_check("no-model-is-read", tuned="no-model-either", out=tmp_path / "run", **given)
    if {"thresholds", "judge"} & given.keys():
        return
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    of_restore = {"align" if name == "settings" else name: value for name, value in given.items()}
    with pytest.raises(ConfigError, match=rf"to do: .*{todo}"):
        restore("no-model-is-read", splits, out=tmp_path / "run", **of_restore)


@pytest.mark.parametrize(
    ("source", "given", "todo"),
    [
        ("run", {}, r"Source.of_run\(folder\)"),
        (Source("m", style="letters"), {}, r"PromptStyle\(reading="),
        (Source("m"), {"config": {"merge": True}}, r"ServeConfig\(merge=False\)"),
        (Source("m"), {"config": ServeConfig(scaler="t.json")}, "load_scaler"),
        (Source("m"), {"config": ServeConfig(temperature_from="t.safetensors")}, "Scores.load"),
        (Source("m"), {"config": ServeConfig(calibration="t.safetensors")}, "Scores.load"),
    ],
)
def test_arguments_of_an_export_of_another_kind_are_answered_with_what_to_give(source, given, todo, tmp_path):
    with pytest.raises(ConfigError, match=rf"to do: .*{todo}"):
        export(source, out=tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_questions_and_scores_by_their_path_are_answered_with_what_loads_them(make_questions, tmp_path):
    with pytest.raises(QuestionError, match="load_questions"):
        export(Source("m"), out=tmp_path / "out", check="q.jsonl")
    with pytest.raises(ConfigError, match=r"Scores\.load"):
        CalibrationCallback(make_questions("test", 4), reference="base.safetensors")
    with pytest.raises(ConfigError, match=r"TuneConfig\(epochs=1\)"):
        sweep("m", make_questions("train", 4), make_questions("test", 4), out=tmp_path, config={"epochs": 1})


@pytest.mark.parametrize(
    "call",
    [
        lambda x: AlignSettings(beta=x),
        lambda x: AlignSettings(max_new_tokens=x),
        lambda x: AlignSettings(seed=x),
        lambda x: Thresholds(kl=x),
        lambda x: Judge("http://localhost", "m", max_tokens=x),
        lambda x: Judge("http://localhost", "m", timeout=x),
        lambda x: load_preferences([], limit=x),
        lambda x: load_prompts([], limit=x),
        lambda x: interpolate("a", "b", x, "out"),
        lambda x: scale_adapter("a", x, "out"),
        lambda x: demo_questions(train=x),
        lambda x: align_check("m", tuned="t", out="out", batch_tokens=x),
        lambda x: export(Source("m"), out="out", config=ServeConfig(tolerance=x)),
        lambda x: export(Source("m"), out="out", config=ServeConfig(target_accuracy=x)),
    ],
)
def test_a_number_given_as_a_text_or_a_truth_value_is_told_so(call):
    for wrong in ("1", True):
        with pytest.raises(ConfigError, match=f"found: {type(wrong).__name__} '{wrong}'\nto do: give a number"):
            call(wrong)


def test_numbers_beside_questions_are_numbers(make_questions, tmp_path):
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    one, out = splits["test"], tmp_path / "run"
    calls = (
        lambda: score("no-model-is-read", one, batch_tokens="64"),
        lambda: tune("no-model-is-read", splits["train"], one, out=out, batch_tokens="64"),
        lambda: restore("no-model-is-read", splits, out=out, batch_tokens="64"),
        lambda: Ladder("no-model-is-read", splits, out, batch_tokens="64"),
        lambda: Ladder("no-model-is-read", splits, out, seeds=True),
        lambda: sensitivity("no-model-is-read", one, out=out, shifts="2"),
        lambda: CalibrationCallback(one, every="2"),
        lambda: CalibrationCallback(one, n_bins="10"),
        lambda: CalibrationCallback(one, budget="0.1"),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="to do: give a number, without quotes"):
            call()
    assert not out.exists()


@pytest.mark.parametrize("setting", ["batch_size", "learning_rate"])
def test_a_setting_of_the_tuning_that_is_given_beside_it_is_told_its_place(setting, make_questions, tmp_path):
    splits = {name: make_questions(name, 8) for name in ("train", "calibration", "test")}
    with pytest.raises(ConfigError, match=rf"asked: a model loaded with {setting}\n.*\n.*TuneConfig\({setting}="):
        restore("no-model-is-read", splits, out=tmp_path / "run", **{setting: "8"})
    with pytest.raises(ConfigError, match=rf"TuneConfig\({setting}="):
        tune("no-model-is-read", splits["train"], splits["test"], out=tmp_path / "run", **{setting: 8})


def test_settings_of_a_tuning_are_numbers_as_texts_too_but_no_truth_values():
    """YAML reads 1e-4 as a text."""
    assert TuneConfig(learning_rate="1e-4", batch_size=np.int64(8)) == TuneConfig(learning_rate=1e-4, batch_size=8)
    assert TuneConfig(gradient_checkpointing=True).gradient_checkpointing
    for call in (lambda: TuneConfig(epochs=True), lambda: LoraSettings(rank=True)):
        with pytest.raises(ConfigError, match=r"(epochs|rank): .+it takes no true or false"):
            call()
