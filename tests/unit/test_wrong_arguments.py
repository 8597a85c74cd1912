"""Natural mistakes in Python, such as a path in the place of what is loaded from it, are told in three parts."""

import pytest

from calibrant import Scores, Temperature, diagnose, load_questions
from calibrant.cli import report
from calibrant.errors import CalibrantError, ConfigError, LeakageError, QuestionError
from calibrant.metrics import battery, minimum_detectable, slices
from calibrant.prompts import PromptStyle, given_style
from calibrant.reporting import before_after, reliability_diagram, risk_coverage_plot, smooth_reliability
from calibrant.scalers import cross_validated
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
        report.run([tmp_path / "a.safetensors"], tmp_path / "page", name=[" "])


def test_questions_that_a_scaler_was_fitted_on_are_refused_in_words_that_fit_the_command_too():
    with pytest.raises(LeakageError) as raised:
        Temperature().fit(S).apply(S)
    assert raised.value.todo.startswith("fit on other questions")
    assert "allow_fit_rows" not in raised.value.todo
