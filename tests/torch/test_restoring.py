"""How the sets of a run are put together, and what the report must admit."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from calibrant import PromptStyle, Question, QuestionSet, Scores, Temperature, diagnose
from calibrant.cli.tune import settings
from calibrant.errors import ConfigError, LeakageError, QuestionError
from calibrant.restoring import restore
from calibrant.restoring.run import Restored, _chosen, _chosen_once, last_temperature
from calibrant.restoring.words import better_than_start, left_aside, no_temperature, notes
from calibrant.scoring import score
from calibrant.scoring.run import scores_of, with_questions
from calibrant.sets import assemble, shared_groups
from calibrant.tuning import LoraSettings, TuneConfig, TuneResult


def some(name, numbers):
    return QuestionSet(name, tuple(Question(f"{name}-{i}", f"what is {i}?", (str(i), str(i + 1)), 0) for i in numbers))


def test_a_fifth_each_is_held_out_where_nothing_is_given():
    splits, ood = assemble(some("all", range(200)))
    assert [len(splits[name]) for name in ("train", "calibration", "test")] == [120, 40, 40]
    assert ood == {}
    assert len({q.content_hash for part in splits.values() for q in part}) == 200


def test_with_a_test_set_the_rest_is_split_three_to_one():
    test = some("exam", range(1000, 1010))
    splits, _ = assemble(some("all", range(200)), test=test)
    assert [len(splits[name]) for name in ("train", "calibration")] == [150, 50]
    assert splits["test"] is test


def test_leaked_questions_stay_in_the_set_that_measures_and_are_listed():
    splits, ood = assemble(
        some("all", range(100)),
        test=some("exam", [5, 500]),
        calibration=some("held", [6, 500, 600]),
        ood={"far": some("far", [7, 600, 700])},
        drop=True,
    )
    assert [q.text for q in splits["test"]] == ["what is 5?", "what is 500?"]
    assert [q.text for q in ood["far"]] == ["what is 7?", "what is 600?", "what is 700?"]
    assert [q.text for q in splits["calibration"]] == ["what is 6?"]
    assert len(splits["calibration"].skipped) == 2
    assert len(splits["train"]) == 97
    assert len(splits["train"].skipped) == 3


def test_without_dropping_a_leak_stops_the_run(tmp_path):
    splits, _ = assemble(some("all", range(100)), test=some("exam", [5, 500]))
    with pytest.raises(LeakageError, match=r"all-5|exam-5"):
        restore("no-model-is-read", splits, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_groups_are_held_out_together():
    rows = [Question(f"{i}", f"what is {i}?", (str(i), str(i + 1)), 0, columns={"country": i % 20}) for i in range(200)]
    splits, _ = assemble(QuestionSet("all", tuple(rows)), group="country")
    groups = {name: {q.columns["country"] for q in part} for name, part in splits.items()}
    assert {name: len(found) for name, found in groups.items()} == {"train": 12, "calibration": 4, "test": 4}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    sets = {**splits, "far": QuestionSet("far", (*splits["train"].questions[:5], *splits["test"].questions[:5]))}
    shared = {q.columns["country"] for q in splits["train"].questions[:5]}
    every = shared | {q.columns["country"] for q in splits["test"].questions[:5]}
    assert shared_groups(sets, None) == []
    (note,) = shared_groups(sets, "country")
    assert note.startswith(f"Of the {len(every)} groups of 'far' (by country), {len(shared)} in the training questions")


def test_an_empty_split_is_named(tmp_path):
    splits = {"train": some("a", [1]), "calibration": some("b", [2])}
    with pytest.raises(QuestionError, match="none for test"):
        restore("no-model-is-read", splits, out=tmp_path / "run")


def test_a_question_without_its_group_stops_the_run_before_a_model_is_read(tmp_path):
    splits, _ = assemble(some("all", range(100)))
    with pytest.raises(ConfigError, match=r"20 of 20 questions of 'calibration' name none"):
        restore("no-model-is-read", splits, out=tmp_path / "run", cluster="country")
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_never_beat_the_start_is_admitted():
    def path(*losses):
        return tuple({"step": i, "nll": nll} for i, nll in enumerate(losses))

    worse = TuneResult("cft", None, None, 0, 0, 0, 0, 0, "", None, {"keep": "best"}, path(1.0, 1.1))
    assert not better_than_start(worse)
    assert better_than_start(dataclasses.replace(worse, history=path(1.0, 1.2, 0.9)))
    last = dataclasses.replace(worse, config={"keep": "last"}, history=path(1.0, 0.9, 1.2))
    assert not better_than_start(last)  # what was kept is the last, whatever was better on the way


def test_what_the_adapter_was_not_put_on_is_admitted():
    history = ({"step": 0, "nll": 1.0}, {"step": 1, "nll": 0.5})
    made = TuneResult("cft", None, None, 0, 0, 0, 0, 0, "", None, {"keep": "best"}, history)
    assert notes({}, made, {}, None) == []
    made = dataclasses.replace(made, left_out={"Router": ["layers.0.router", "layers.1.router"]})
    assert notes({}, made, {}, None) == ["The tuning put no adapter on 2 Router, which are no plain linear layers."]


def test_a_reference_scores_the_calibration_questions_and_is_the_target(
    tmp_path, model_folder, make_model, tokenizer, make_questions
):
    """The reference is the tiny model with a head of half the weight, so the aligned one is it to the power two."""
    make_base = make_model("llama", tokenizer)
    with torch.no_grad():
        make_base.lm_head.weight.mul_(0.5)
    make_base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 40), ("test", 12))}
    config = TuneConfig(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8))
    settings = {"objective": "cft", "config": config, "device": "cpu"}
    made = restore(model_folder(), splits, out=tmp_path / "run", reference=tmp_path / "base", **settings)
    kept = Scores.load(tmp_path / "run" / "scores" / "reference" / "calibration.safetensors")
    assert kept.ids == made.before["calibration"].ids
    assert kept.provenance["model"] == str(tmp_path / "base")
    assert made.diagnosis.target_kind == "reference"
    shift = made.diagnosis.collapse.shift
    assert shift.confidence.value > 0
    assert shift.agreement.value > 0.9
    assert 1.5 < shift.slope.value < 2.2  # not 2: a letter has more than one token, and their probabilities are summed
    base = score(tmp_path / "base", splits["calibration"], device="cpu")
    by_hand = diagnose(made.before["calibration"], reference=base, seed=config.seed)
    assert {**by_hand.to_json(), "target_name": ""} == {**made.diagnosis.to_json(), "target_name": ""}
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["asked"]["reference"] == str(tmp_path / "base")
    again = restore(model_folder(), splits, out=tmp_path / "run", reference=tmp_path / "base", **settings)
    assert again.diagnosis.to_json() == made.diagnosis.to_json()
    with pytest.raises(ConfigError, match="reference"):
        restore(model_folder(), splits, out=tmp_path / "run", **settings)


def test_a_budget_tries_several_settings_and_the_report_says_so(tmp_path, model_folder, make_questions):
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 20), ("test", 12))}
    config = TuneConfig(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8))
    settings = {"objective": "cft", "config": config, "device": "cpu"}
    made = restore(model_folder(), splits, out=tmp_path / "run", budget="standard", **settings)
    assert [one["setting"] for one in made.tuning.sweep["tried"]] == ["default", "lr-x3", "lr-x0.33"]
    page = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "3 settings, by log loss of the calibration questions: default" in page
    for budget, word in (("thorough", "budget"), ("endless", "quick, standard, thorough")):
        with pytest.raises(ConfigError, match=word):
            restore(model_folder(), splits, out=tmp_path / "run", budget=budget, **settings)


def test_groups_that_were_named_since_a_run_are_those_of_its_report(tmp_path, model_folder, make_questions):
    """Ids, subjects and columns are not part of what was scored: a run goes on, with those that the questions have now."""
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 20), ("test", 12))}
    config = TuneConfig(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8))
    settings = {"objective": "cft", "config": config, "device": "cpu", "out": tmp_path / "run"}
    restore(model_folder(), splits, **settings)
    named = {
        name: QuestionSet(
            name, tuple(dataclasses.replace(q, id=f"new-{i}", subject=f"s{i % 4}") for i, q in enumerate(questions))
        )
        for name, questions in splits.items()
    }
    again = restore(model_folder(), named, cluster="subject", **settings)
    assert set(again.before["test"].subjects) == {"s0", "s1", "s2", "s3"}
    assert again.before["test"].ids[0] == "new-0"
    for when in ("before", "tuned", "after"):
        kept = Scores.load(tmp_path / "run" / "scores" / when / "test.safetensors")
        assert kept.subjects == again.before["test"].subjects, when
    assert "in 4 groups" in (tmp_path / "run" / "report" / "report.md").read_text()


def test_scores_of_questions_with_another_answer_are_not_theirs():
    """A content hash knows no order of options, so it is not enough to give scores another key."""
    questions = some("q", range(6))
    old = scores_of(questions, np.log([[0.7, 0.3]] * 6), np.zeros(6))
    named = [dataclasses.replace(q, subject="s") for q in questions]
    assert with_questions(old, named).subjects == ("s",) * 6
    turned = [dataclasses.replace(q, choices=q.choices[::-1], answer=1) for q in named]
    assert [q.content_hash for q in turned] == list(old.hashes)
    for other in (turned, named[:5], named[::-1]):
        assert with_questions(old, other) is old


def too_sure(n, seed=0):
    """Answers drawn at half the log-odds that the scores say: T = 2 is the truth."""
    draw = np.random.default_rng(seed)
    logits_NK = draw.normal(0, 3, (n, 4))
    p_NK = np.exp(logits_NK / 2) / np.exp(logits_NK / 2).sum(1, keepdims=True)
    answers = [int(draw.choice(4, p=p)) for p in p_NK]
    return Scores.from_logp(logits_NK - np.logaddexp.reduce(logits_NK, axis=1, keepdims=True), answers)


def test_a_temperature_is_put_on_top_where_the_model_is_too_sure():
    scaler = last_temperature(too_sure(1000))
    assert scaler.temperature_ == pytest.approx(2, abs=0.2)


def test_no_temperature_where_none_is_needed():
    scores = too_sure(1000)
    calibrated = Temperature().fit(scores).apply(scores, allow_fit_rows=True)
    assert last_temperature(calibrated) is None
    assert last_temperature(scores.select(np.arange(1))) is None


def test_no_temperature_at_the_end_of_its_range():
    """Confidence that says the opposite of the truth: the flatter the better, without end."""
    wrong = Scores.from_probs([[0.9, 0.1]] * 100, [0] * 40 + [1] * 60)
    assert Temperature().fit(wrong).at_bound_
    assert last_temperature(wrong) is None


def test_training_questions_that_are_too_long_are_all_named_before_anything_is_scored(
    tmp_path, model_folder, make_questions
):
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 8), ("test", 8))}
    long = [dataclasses.replace(q, text="word " * 900 + q.text) for q in splits["train"][:3]]
    splits["train"] = QuestionSet("train", (*long, *splits["train"][3:]))
    with pytest.raises(
        QuestionError, match=r"question 'train-0' within(.|\n)*too long as well, 2: 'train-1'; 'train-2'\n"
    ):
        restore(model_folder(), splits, out=tmp_path / "run", objective="cft", device="cpu")
    assert not (tmp_path / "run" / "scores").exists()


def test_why_there_is_no_temperature_is_said(tmp_path, model_folder, make_questions):
    scores = too_sure(1000)
    calibrated = Temperature().fit(scores).apply(scores, allow_fit_rows=True)
    assert "in cross-validation none lowers the log loss" in no_temperature(calibrated)[0]
    assert "too many have probability 0" in no_temperature(Scores.from_probs([[1, 0]] * 9, [1] * 9))[0]
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 40), ("test", 12))}
    least = score(model_folder(), splits["calibration"], device="cpu").logp_NK.argmin(1)
    wrong = [dataclasses.replace(q, answer=int(k)) for q, k in zip(splits["calibration"], least, strict=True)]
    splits["calibration"] = QuestionSet("calibration", tuple(wrong))
    config = TuneConfig(epochs=1, batch_size=8, learning_rate=1e-6, lora=LoraSettings(rank=4, alpha=8))
    made = restore(model_folder(), splits, out=tmp_path / "run", objective="cft", config=config, device="cpu")
    assert made.temperature is None
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "No temperature was put on the tuned model: the temperature stopped at 100" in report


def mostly_right(model, questions, style):
    """These questions, but right is what the model chooses, every fourth apart: at chance nothing would be tuned."""
    chosen = score(model, questions, style=style, device="cpu").logp_NK.argmax(1)
    answers = [(int(k) + (i % 4 == 0)) % len(q.choices) for i, (q, k) in enumerate(zip(questions, chosen, strict=True))]
    rows = (dataclasses.replace(q, answer=answer) for q, answer in zip(questions, answers, strict=True))
    return QuestionSet(questions.name, tuple(rows))


@pytest.mark.parametrize(
    ("objective", "reading", "given", "over"),
    [
        ("auto", "continuation", {}, "options"),
        ("auto", "continuation", {"over": "vocabulary"}, "vocabulary"),
        ("auto", "letters", {}, "vocabulary"),
        ("cft", "continuation", {}, "vocabulary"),
    ],
)
def test_the_log_loss_is_over_the_options_where_option_texts_are_read_and_nothing_else_is_asked(
    tmp_path, model_folder, make_questions, objective, reading, given, over
):
    model, style = model_folder(), PromptStyle(reading=reading)
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 40), ("test", 12))}
    splits["calibration"] = mostly_right(model, splits["calibration"], style)
    config = TuneConfig(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8), **given)
    made = restore(model, splits, out=tmp_path / "run", objective=objective, config=config, style=style, device="cpu")
    assert (made.tuning.objective, made.tuning.config["over"]) == ("cft", over)
    said = {"options": "the options", "vocabulary": "all tokens"}[over]
    assert f"Log loss over: {said}" in (tmp_path / "run" / "report" / "report.md").read_text()


def test_what_the_command_line_and_a_file_leave_out_counts_as_not_set(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 3\nlora: {rank: 4}\n")
    assert settings(None, epochs=None, seed=1).model_fields_set == {"seed"}
    both = settings(file, learning_rate=1e-4)
    assert both.model_fields_set == {"epochs", "lora", "learning_rate"}
    assert (both.epochs, both.lora, both.over) == (3, LoraSettings(rank=4), "vocabulary")
    assert "over" in settings(file, over="vocabulary").model_fields_set


def test_what_may_be_calibrated_is_not_tuned_unasked():
    """Within its floor, whatever the gap's interval says. A few questions are no such evidence; what is asked is done."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 400)
    right = (rng.random(400) > p - 0.05).astype(int)
    off = diagnose(Scores.from_probs(np.column_stack([p, 1 - p]), right), n_boot=100)
    few = diagnose(Scores.from_probs([[0.99, 0.01]] * 20, [0, 1] * 10), n_boot=100)
    tiny = diagnose(Scores.from_probs([[0.6, 0.4]] * 20, [0, 1] * 10), n_boot=100)
    assert tiny.numbers["conf_ece"].verdict == "not distinguishable from calibrated"
    assert [found.action for found in (off, few, tiny)] == ["score-more"] * 3
    assert [_chosen("auto", found) for found in (off, few, tiny)] == [None, "cft", "cft"]
    assert _chosen("rcft", off) == "rcft"


def test_the_objective_of_the_first_call_stays(tmp_path):
    """A later one may resample groups, and its diagnosis ask for something else; what was tuned by then stands."""
    sure, fair = (diagnose(Scores.from_probs([[p, 1 - p]] * 600, [0] * 420 + [1] * 180)) for p in (0.99, 0.7))
    assert [_chosen("auto", d) for d in (sure, fair)] == ["cft", None]
    kept = tmp_path / "objective.json"
    assert _chosen_once(kept, "auto", sure, None) == ("cft", [])
    chosen, said = _chosen_once(kept, "auto", fair, "subject")
    assert chosen == "cft"
    assert "resampled questions; this call's would have been none" in said[0]
    assert _chosen_once(kept, "auto", sure, "subject") == ("cft", [])


def test_settings_that_the_chosen_objective_has_no_use_for_are_named():
    asked = TuneConfig(lam=5, language="sft1", epochs=1)
    (said,) = left_aside(asked, asked.for_objective("cft"))
    assert "since cft has no use for it: lam 5.0, language sft1" in said
    assert left_aside(asked, asked.for_objective("rcft")) == []
    assert left_aside(TuneConfig(), TuneConfig(over="options").for_objective("rcft")) == []  # nobody asked


def test_results_are_told_in_a_line(tmp_path):
    path = tmp_path / "adapter"
    tuned = TuneResult("cft", path, None, 12.3, 0, 0, 40, 6, "", 1.5, {"keep": "best"}, ({"step": 1, "nll": 1.0},) * 9)
    assert repr(tuned) == f"<TuneResult: cft on 40 questions, 6 steps, best epoch 1.5, 12 s, in {str(path)!r}>"
    s = too_sure(60)
    made = Restored(diagnose(s), tuned, {"test": s}, {"test": s}, tmp_path, Temperature().fit(s))
    assert re.fullmatch(r"<Restored: \S+, tuned by cft, temperature [\d.]+; report '.+'>", repr(made))
    assert "not tuned; report" in repr(dataclasses.replace(made, tuning=None, temperature=None))
