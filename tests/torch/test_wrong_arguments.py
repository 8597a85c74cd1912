"""Natural mistakes with models and settings end in three parts, before anything is loaded or written."""

import pytest

from calibrant import restore, score, tune
from calibrant.alignment import align_check
from calibrant.errors import ConfigError


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
