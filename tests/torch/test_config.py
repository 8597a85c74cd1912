"""Settings: unknown ones are refused with the one that was probably meant; what has no meaning is refused."""

import pickle

import pytest
from pydantic import ValidationError

from calibrant.cli.restore import _objective
from calibrant.cli.tune import settings
from calibrant.errors import ConfigError
from calibrant.tuning import LoraSettings, TuneConfig, load_config, tune
from calibrant.tuning.config import refuse_other_gpu


def test_unknown_setting_names_the_one_that_was_probably_meant():
    with pytest.raises(ConfigError, match=r"unknown setting 'epoch' .did you mean 'epochs'") as raised:
        TuneConfig.make({"epoch": 3})
    assert "learning_rate" in raised.value.todo


def test_unknown_setting_within_lora_names_the_one_that_was_probably_meant():
    with pytest.raises(ConfigError, match=r"unknown setting 'lora\.rnk' .did you mean 'rank'"):
        TuneConfig.make({"lora": {"rnk": 4}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"objective": "dpo"},
        {"learning_rate": -1},
        {"batch_size": 6, "micro_batch_size": 4},
        {"quantize_4bit": True, "lora": None},
        {"lora": {"dropout": 1.0}},
        {"lam": "much"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_setting_without_meaning_is_refused_in_three_parts(wrong):
    with pytest.raises(ConfigError):
        TuneConfig.make(wrong)


def test_settings_given_from_python_are_refused_in_three_parts_too():
    with pytest.raises(ConfigError, match=r"asked: TuneConfig from {'lr': 3}\nfound: .+did you mean 'learning_rate'"):
        TuneConfig(lr=3)
    with pytest.raises(ConfigError, match="greater than 0"):
        TuneConfig(epochs=0)
    with pytest.raises(ConfigError, match=r"did you mean 'rank'.+\n.+known settings: rank, alpha, dropout, targets"):
        LoraSettings(r=3)


def test_settings_are_still_pydantic_models():
    config = TuneConfig(epochs=3, lora=LoraSettings(rank=4))
    assert pickle.loads(pickle.dumps(config)) == config == TuneConfig.model_validate(config.model_dump())
    assert config.model_copy(update={"epochs": 1}).model_fields_set == {"epochs", "lora"}
    assert TuneConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match=r"lora\.r\n"):
        TuneConfig.model_validate({"lora": {"r": 3}})


@pytest.mark.parametrize(
    ("content", "found", "todo"),
    [
        ("lr: 0.001", "unknown setting 'lr' (did you mean 'learning_rate'?)", "known settings: objective, epochs"),
        ("lora: {r: 3}", "unknown setting 'lora.r' (did you mean 'rank'?)", "known settings of lora: rank, alpha"),
        ("rank: 3", "unknown setting 'rank' (did you mean 'lora: {rank: …}'?)", "known settings: objective"),
        ("epochs: 1\nlam: 2\nepochs: 3", "'epochs' is given twice", "give a readable YAML file"),
        ("lora: {rank: 1, rank: 2}", "'rank' is given twice", "give a readable YAML file"),
        ("objective: auto", "objective: Input should be", "known settings: objective"),
    ],
)
def test_a_fault_in_a_file_is_told_with_the_file_and_what_was_meant(tmp_path, content, found, todo):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert raised.value.asked == f"settings from {path}"
    assert raised.value.found.startswith(found)
    assert raised.value.todo.startswith(todo)


def test_auto_in_a_file_is_what_the_command_restore_takes(tmp_path):
    (tmp_path / "c.yaml").write_text("objective: auto\nepochs: 3\n")
    chosen = settings(tmp_path / "c.yaml", auto=True)
    assert (_objective(None, chosen), chosen.epochs) == ("auto", 3.0)
    with pytest.raises(ConfigError, match="objective"):
        settings(tmp_path / "c.yaml")


def test_what_was_not_set_stays_unset_in_settings_for_another_objective():
    config = TuneConfig(objective="rcft", lam=2.0, epochs=3).for_objective("cft")
    assert (config.model_fields_set, config.epochs, config.lam) == ({"objective", "epochs"}, 3, 1.0)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TuneConfig().epochs = 9


def test_file_of_settings(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\nobjective: rcft\nlora: {rank: 4, targets: [q_proj, v_proj]}\n")
    config = load_config(path)
    assert (config.epochs, config.objective, config.lam) == (3.0, "rcft", 1.0)
    assert config.lora == LoraSettings(rank=4, targets=("q_proj", "v_proj"))
    path.write_text("lora: null\n")
    assert load_config(path).lora is None
    path.write_text("")
    assert load_config(path) == TuneConfig()


@pytest.mark.parametrize(
    "content", ["- a\n- b\n", "a: [1\n", "lam: 1  # é\n", None], ids=["a list", "no YAML", "not UTF-8", "no file"]
)
def test_file_that_holds_no_settings_is_an_error(tmp_path, content):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="settings from"):
        load_config(path)


def test_resolved_settings_survive_json():
    config = TuneConfig(objective="rcft", lora=LoraSettings(targets=("q_proj",)), micro_batch_size=4)
    assert TuneConfig.make(config.model_dump(mode="json")) == config


def test_a_rank_keeps_the_alpha_that_a_file_names(tmp_path):
    (tmp_path / "named.yaml").write_text("lora: {rank: 128, alpha: 64}\n")
    (tmp_path / "silent.yaml").write_text("lora: {rank: 128}\n")
    assert settings(tmp_path / "named.yaml", rank=32).lora == LoraSettings(rank=32, alpha=64)
    assert settings(tmp_path / "silent.yaml", rank=32).lora == LoraSettings(rank=32, alpha=64)
    assert (
        settings(tmp_path / "silent.yaml", rank=64).lora
        == settings(None, rank=64).lora
        == LoraSettings(rank=64, alpha=128)
    )
    assert settings(tmp_path / "named.yaml", rank=64).lora.alpha == 64


def test_memory_and_tracking_do_not_tell_one_tuning_from_another():
    plain = TuneConfig()
    other = TuneConfig(micro_batch_size=4, gradient_checkpointing=True, report_to="wandb")
    assert other.identity() == plain.identity() != TuneConfig(epochs=3).identity()


def test_four_bits_asked_of_a_model_that_was_loaded_whole_are_refused(loaded, make_questions, tmp_path):
    sets = make_questions("train", 8), make_questions("calibration", 8)
    with pytest.raises(ConfigError, match="loaded with whole weights"):
        tune(loaded(), *sets, out=tmp_path / "run", config=TuneConfig(quantize_4bit=True))


def test_a_gpu_that_the_trainer_would_not_take_is_refused_at_once(make_questions, tmp_path, monkeypatch):
    sets = make_questions("train", 8), make_questions("calibration", 8)
    with pytest.raises(ConfigError, match="takes cuda:0") as raised:
        tune("no-model-is-read", *sets, out=tmp_path / "run", device="cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1" in raised.value.todo
    monkeypatch.setenv("LOCAL_RANK", "1")  # one of two processes, each with a GPU of its own
    refuse_other_gpu("cuda:1")
