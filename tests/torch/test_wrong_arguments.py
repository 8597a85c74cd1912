"""Natural mistakes with models and settings end in three parts, before anything is loaded or written."""

import pytest

from calibrant import restore, score, tune
from calibrant.alignment import align_check
from calibrant.errors import ConfigError, QuestionError
from calibrant.exporting import ServeConfig, Source, export
from calibrant.ladder import Ladder
from calibrant.tuning import CalibrationCallback, TuneConfig, sweep


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
