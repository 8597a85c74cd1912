"""Natural mistakes in Python, such as a path in the place of what is loaded from it, are told in three parts."""

import numpy as np
import pytest

from calibrant import Scores, Temperature, compare, diagnose, load_questions, measure, report, split_questions
from calibrant import metrics as m
from calibrant.cli import report as report_command
from calibrant.diagnosis import checkpoint_point, format_sensitivity, order_sensitivity
from calibrant.errors import CalibrantError, ConfigError, LeakageError, QuestionError
from calibrant.importing import import_systemone
from calibrant.metrics import battery, drift, minimum_detectable, slices
from calibrant.orders import cyclic_permutations
from calibrant.prompts import PromptStyle, given_style
from calibrant.reporting import (
    Domain,
    before_after,
    regime_map,
    reliability_diagram,
    risk_coverage_plot,
    sharpening_plot,
    smooth_reliability,
)
from calibrant.scalers import AdaptiveTemperature, Dirichlet, Histogram, at_temperature, cross_validated
from calibrant.sets import checked_sets

S = Scores.from_probs([[0.9, 0.1]] * 20, [0] * 14 + [1] * 6)
QUESTIONS = load_questions([{"question": "2+2?", "choices": ["3", "4"], "answer": 1}], name="sums")


@pytest.mark.parametrize(
    "call",
    [
        lambda: slices("x"),
        lambda: battery("x"),
        lambda: minimum_detectable("x"),
        lambda: Temperature().fit("x"),
        lambda: Temperature().fit(S).apply("x"),
        lambda: cross_validated(Temperature(), "x"),
        lambda: reliability_diagram("x"),
        lambda: before_after(S, "x"),
        lambda: smooth_reliability("x"),
        lambda: risk_coverage_plot("x"),
        lambda: diagnose("x"),
        lambda: diagnose(S, reference="x"),
        lambda: diagnose(S, target="x"),
    ],
)
def test_a_path_in_the_place_of_scores_is_answered_with_what_loads_it(call):
    with pytest.raises(ConfigError, match="found: the path 'x'") as raised:
        call()
    assert raised.value.todo == "load it with calibrant.Scores.load(path)"


@pytest.mark.parametrize(
    ("given", "reader"),
    [
        ({"path": "run"}, "read_path"),
        ({"path": ["run"]}, "read_path"),
        ({"path": S}, "read_path"),
        ({"preferences": "pairs.jsonl"}, "read_preferences"),
    ],
)
def test_files_that_the_command_line_takes_are_read_first_in_python(given, reader):
    with pytest.raises(ConfigError) as raised:
        diagnose(S, **given)
    assert reader in raised.value.todo


@pytest.mark.parametrize("splits", [QUESTIONS, "q.jsonl", list(QUESTIONS)], ids=["a set", "a path", "a list"])
def test_questions_that_are_not_split_yet_are_answered_with_what_splits_them(splits):
    with pytest.raises(ConfigError, match=r'"train": ….+split_questions'):
        checked_sets(splits, {})
    with pytest.raises(ConfigError, match=r'give {"name": questions'):
        checked_sets({"train": QUESTIONS}, splits)


def test_a_style_is_a_prompt_style_and_its_settings_are_given_within_it():
    assert given_style(None, {}) == PromptStyle()
    with pytest.raises(ConfigError, match=r"found: str 'letters'\n.+PromptStyle\(reading="):
        given_style("letters", {})
    with pytest.raises(ConfigError, match=r"give style=PromptStyle\(reading='continuation'\)"):
        given_style(None, {"reading": "continuation", "device": "cpu"})


def test_columns_are_a_mapping(tmp_path):
    with pytest.raises(QuestionError, match=r'found: \'question\'\nto do: give {"question"') as raised:
        load_questions(tmp_path / "q.jsonl", columns="question")
    assert isinstance(raised.value, CalibrantError)


def test_a_report_has_no_empty_name(tmp_path):
    with pytest.raises(ConfigError, match="found: an empty --name"):
        report_command.run([tmp_path / "a.safetensors"], tmp_path / "page", name=[" "])


def test_questions_that_a_scaler_was_fitted_on_are_refused_in_words_that_fit_the_command_too():
    with pytest.raises(LeakageError) as raised:
        Temperature().fit(S).apply(S)
    assert raised.value.todo.startswith("fit on other questions")
    assert "allow_fit_rows" not in raised.value.todo


C, Y = S.confidence_N, S.correct_N
SETTINGS = {"n_bins": 10, "n_boot": 60, "level": 0.9, "seed": 1}
WITH_SETTINGS = {
    "measure": lambda **given: measure(S, **given),
    "compare": lambda **given: compare(S, S, **given),
    "compare_many": lambda **given: m.compare_many(S, {"b": S, "c": S}, **given),
    "Contest": lambda **given: m.Contest({"a": [S], "b": [S]}, **given),
    "battery": lambda **given: battery(S, **given),
    "slices": lambda **given: slices(S, by="answer", **given),
    "drift": lambda **given: drift(S, S, **given),
    "diagnose": lambda **given: diagnose(S, **given),
    "format_sensitivity": lambda **given: format_sensitivity({"raw": S}, **given),
    "order_sensitivity": lambda **given: order_sensitivity([S], **given),
    "report": lambda **given: report([Domain("t", True, S)], out="not-made", **given),
}
NUMBERS = {  # a call with one number, and a number that it takes
    "tolerance of diagnose": (lambda x: diagnose(S, tolerance=x), 0.05),
    "tolerance of drift": (lambda x: drift(S, S, tolerance=x), 0.05),
    "coverage": (lambda x: m.selective_accuracy(C, Y, x), 0.5),
    "target": (lambda x: m.threshold_for(C, Y, x), 0.5),
    "bins": (lambda x: m.conf_ece(C, Y, x), 10),
    "equal mass": (lambda x: m.equal_mass_ece(C, Y, x), 10),
    "share": (lambda x: m.wilson_interval(x, 10), 0.5),
    "floor": (lambda x: m.noise_floor(S, n_draws=x), 60),
    "power": (lambda x: minimum_detectable(S, power=x, n_draws=60), 0.8),
    "n": (lambda x: minimum_detectable(S, n=x, n_draws=60), 100),
    "n to decide": (lambda x: m.n_to_decide(0.1, -0.1, 0.3, x), 100),
    "width": (lambda x: m.n_for_width(m.Estimate(0.5, 0.4, 0.6, 100), x), 0.1),
    "error rate": (lambda x: m.verification_rate(x, 100), 0.3),
    "groups": (lambda x: m.tukey([1.0], x), 3),
    "made questions": (lambda x: m.overconfident(x), 20),
    "bandwidth": (lambda x: m.smooth_ece_at(C, Y, x), 0.1),
    "histogram": (lambda x: Histogram(n_bins=x), 10),
    "adaptive": (lambda x: AdaptiveTemperature(strengths=[x]), 0.1),
    "dirichlet": (lambda x: Dirichlet(strengths=[x]), 0.1),
    "temperature": (lambda x: at_temperature(S, x), 2.0),
    "folds": (lambda x: cross_validated(Temperature(), S, folds=x), 5),
    "limit": (lambda x: load_questions([{"question": "2+2?", "choices": ["3", "4"], "answer": 1}], limit=x), 1),
    "orders": (lambda x: cyclic_permutations(QUESTIONS, x), 2),
    "point": (lambda x: checkpoint_point(S, level=x), 0.9),
    "plot": (lambda x: sharpening_plot([x]), 0.6),
    "map": (lambda x: regime_map([{"accuracy": 0.5, "conf_ece": 0.1}], target_accuracy=x), 0.6),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("call", WITH_SETTINGS.values(), ids=list(WITH_SETTINGS))
def test_a_setting_of_statistics_that_is_no_number_is_told_so(call, setting):
    for wrong in (str(SETTINGS[setting]), True):
        with pytest.raises(ConfigError, match=f"asked: {setting}, .*number\nfound: {type(wrong).__name__} '{wrong}'"):
            call(**{**SETTINGS, setting: wrong})


@pytest.mark.parametrize(("call", "number"), NUMBERS.values(), ids=list(NUMBERS))
def test_a_text_or_a_truth_value_in_the_place_of_a_number_is_told_so_and_numpys_numbers_are_numbers(call, number):
    for wrong in (str(number), True):
        with pytest.raises(ConfigError, match=f"found: {type(wrong).__name__} '{wrong}'\nto do: give a number"):
            call(wrong)
    call((np.float32 if isinstance(number, float) else np.int64)(number))


def test_a_size_of_a_split_that_is_a_text_is_shown_as_one():
    with pytest.raises(QuestionError, match=r"splits of '0\.6', 0\.2, 0\.2"):
        split_questions(QUESTIONS, train="0.6", calibration=0.2, test=0.2)


def test_settings_may_be_numpys_numbers():
    of_numpy = {name: np.float64(x) if name == "level" else np.int32(x) for name, x in SETTINGS.items()}
    assert measure(S, **of_numpy)["conf_ece"] == measure(S, **SETTINGS)["conf_ece"]


@pytest.mark.parametrize("given", [{"concurrency": "4"}, {"timeout": "60"}, {"retries": True}, {"backoff": "1"}])
def test_numbers_of_an_endpoint_are_numbers(given, tmp_path):
    with pytest.raises(ConfigError, match="to do: give a number, without quotes"):
        import_systemone(QUESTIONS, "http://localhost", "m", cache=tmp_path, **given)
