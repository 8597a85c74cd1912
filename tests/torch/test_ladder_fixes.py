"""The table of fixes: each well formed, with a sweep, and trained as its name says."""

import json

import pytest

from calibrant.errors import ConfigError
from calibrant.ladder import FIXES
from calibrant.ladder.fixes import SETTINGS, by_name, missing, select
from calibrant.tuning import TuneConfig

CONFIG = TuneConfig.make({"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}})


def test_every_fix_is_well_formed_and_every_trained_one_has_a_sweep_of_every_budget():
    names = [fix.name for fix in FIXES]
    assert len(set(names)) == len(names)
    assert {"temperature", "vector", "dirichlet", "isotonic", "histogram", "adaptive", "daca", "interpolation"} <= set(
        names
    )
    assert {
        "sft",
        "cft",
        "rcft",
        "label-smoothing",
        "focal",
        "mmce",
        "soft-ece",
        "brier",
        "cogcalib",
        "distill",
    } <= set(names)
    given = {"reference": "r", "alignment_adapter": "a"}
    for fix in FIXES:
        assert missing(fix, given, TuneConfig()) is None, fix.name
        settings = [setting.name for setting in fix.candidates]
        assert len(set(settings)) == len(settings)
        assert type(fix).from_json(json.loads(json.dumps(fix.to_json()))) == fix
        if fix.family == "tuning":
            assert [len(fix.sweep(budget)) for budget in SETTINGS] == [1, 3, 5]
            configs = [fix.config(CONFIG, setting, 7) for setting in fix.candidates]
            assert len({c.model_dump_json() for c in configs}) == 5
            assert {(c.epochs, c.batch_size, c.patience, c.keep, c.seed) for c in configs} == {(1, 8, 0, "best", 7)}
    assert by_name("cft").config(CONFIG, by_name("cft").candidates[1], 0).learning_rate == pytest.approx(0.03)


def test_a_fix_that_the_settings_rule_out_is_named_with_its_reason():
    small = TuneConfig.make({**CONFIG.model_dump(), "micro_batch_size": 4})
    assert "whole batch" in missing(by_name("mmce"), {}, small)
    assert missing(by_name("cft"), {}, small) is None


def test_choosing_fixes_brings_what_they_build_on():
    assert [fix.name for fix in select(["rcft+temperature", "daca"])] == [
        "aligned", "pre-alignment", "daca", "rcft", "rcft+temperature",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        select(["temprature"])


def test_fixes_named_after_the_paper_train_its_losses_whatever_the_settings_say():
    moved = TuneConfig.make({**CONFIG.model_dump(), "over": "options", "language": "sft1", "lam": 2.0})

    def config(name):
        return by_name(name).config(moved, by_name(name).candidates[0], 0)

    assert (config("cft").over, config("cft-options").over) == ("vocabulary", "options")
    for name, e_step in (("rcft", "each_evaluation"), ("rcft-once", "once"), ("rcft-crossfit", "cross_fitted")):
        made = config(name)
        assert (made.language, made.over, made.e_step, made.lam) == ("sft2", "vocabulary", e_step, 2.0)
    assert config("rcft-answer").language == "sft1"
    assert config("cft").lam == 1.0  # that it has no use for


def test_what_one_fix_has_no_use_for_rules_it_not_out():
    averaged = TuneConfig.make({**CONFIG.model_dump(), "sft2_mean": "token"})
    assert missing(by_name("rcft-answer"), {}, averaged) is None
    assert by_name("rcft").config(averaged, by_name("rcft").candidates[0], 0).sft2_mean == "token"
