"""``CalibrationCallback`` in the trainers that people use: what it logs, what it costs, and that it changes nothing."""

import json

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from calibrant import diagnose
from calibrant.errors import ConfigError, ModelError, QuestionError, ScoresError
from calibrant.metrics import conf_ece, nll
from calibrant.prompts import PromptStyle
from calibrant.reporting import regime_map
from calibrant.scoring import LoadedModel, score
from calibrant.tuning import CalibrationCallback

NAMES = {
    "n", "accuracy", "mean_confidence", "conf_ece", "floor_mean", "floor_p95", "nll", "entropy", "signed_gap",
    "signed_gap_low", "signed_gap_high", "option_mass", "seconds", "seconds_spent", "share",
}  # fmt: skip
FACTS = {"model": "tiny", "adapter": None}


@pytest.fixture(scope="module")
def questions(make_questions):
    return make_questions("held-out", 20, ks=(4, 3))


@pytest.fixture
def model(make_model, tokenizer):
    return make_model("llama", tokenizer)


def rows(tokenizer, n=24):
    texts = [f"Question: what is {i} plus {i}?\nAnswer: {2 * i}" for i in range(n)]
    return [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]


def collate(batch):
    width = max(len(row["input_ids"]) for row in batch)
    padded = {key: [row[key] + [fill] * (width - len(row[key])) for row in batch] for key, fill in PAD.items()}
    return {key: torch.tensor(value) for key, value in padded.items()}


PAD = {"input_ids": 2, "labels": -100}


def arguments(folder, **more):
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "logging_steps": 2}
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
        **{**settings, **more},
    )


def plain(folder, model, tokenizer, callbacks, **more):
    return Trainer(
        model=model,
        args=arguments(folder, **more),
        train_dataset=rows(tokenizer),
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


class Tracker(TrainerCallback):
    """Stands where W&B's and trackio's callbacks stand: before the user's, and gets what they get."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **_):
        self.seen.append((state.global_step, dict(logs)))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- a plain trainer ------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_model_as_it_is(tmp_path, model, tokenizer, questions):
    watch, before = CalibrationCallback(questions, every=3), score(LoadedModel(model, tokenizer, FACTS), questions)
    plain(tmp_path, model, tokenizer, [watch]).train()
    after = score(LoadedModel(model.eval(), tokenizer, FACTS), questions)
    assert [point["step"] for point in watch.history] == [0, 3, 6]
    for point, scores in ((watch.history[0], before), (watch.history[-1], after)):
        assert point.keys() == NAMES | {"step", "epoch"}
        assert point["accuracy"] == scores.correct_N.mean()
        assert point["conf_ece"] == pytest.approx(conf_ece(scores.confidence_N, scores.correct_N), abs=1e-6)
        assert point["nll"] == pytest.approx(nll(scores.logp_NK, scores.answer_N), abs=1e-5)
        assert point["option_mass"] == pytest.approx(float(np.exp(scores.logmass_N).mean()), abs=1e-6)
        assert point["entropy"] == pytest.approx(float(-(scores.p_NK * np.log(scores.p_NK + 1e-300)).sum(1).mean()))
    assert watch.history[0]["nll"] != watch.history[-1]["nll"]


def test_the_log_the_trackers_and_the_history_say_the_same(tmp_path, model, tokenizer, questions):
    watch, tracker = CalibrationCallback(questions, every=2), Tracker()
    trainer = plain(tmp_path, model, tokenizer, [tracker, watch])
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "calibration/conf_ece" in entry]
    tracked = [(step, logs) for step, logs in tracker.seen if "calibration/conf_ece" in logs]
    assert [e["step"] for e in logged] == [step for step, _ in tracked] == [p["step"] for p in watch.history]
    for entry, (_, logs), point in zip(logged, tracked, watch.history, strict=True):
        assert {name.removeprefix("calibration/") for name in logs if "/" in name} == NAMES
        assert all(entry[f"calibration/{name}"] == logs[f"calibration/{name}"] == point[name] for name in NAMES)


def test_the_trainers_own_log_keeps_every_entry(tmp_path, make_model, tokenizer, questions):
    """A log inside a step takes back the flag that another is due; both are there, and the losses are the same."""
    logs = []
    for callbacks in ([], [CalibrationCallback(questions, every=2)]):
        trainer = plain(tmp_path, make_model("llama", tokenizer), tokenizer, callbacks)
        trainer.train()
        logs.append([(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e])
    assert [step for step, _ in logs[0]] == [2, 4, 6]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_training_goes_on_to_the_same_bits(tmp_path, make_model, tokenizer, questions, accumulation):
    """With dropout, so that a random number drawn by an evaluation would show."""
    ends = []
    for callbacks in ([], [CalibrationCallback(questions, every=1)]):
        own = make_model("gpt2", tokenizer)
        trainer = plain(
            tmp_path, own, tokenizer, callbacks, gradient_accumulation_steps=accumulation, max_steps=4, seed=1
        )
        trainer.train()
        ends.append(weights(own))
    assert own.config.resid_pdrop > 0
    assert same(*ends)


def test_each_module_is_in_its_own_mode_again(tmp_path, model, tokenizer, questions):
    modes = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            modes.append((model.training, model.model.layers[0].training, model.model.layers[1].training))

    class Freeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            model.model.layers[0].eval()

    plain(tmp_path, model, tokenizer, [Freeze(), CalibrationCallback(questions, every=1), Watch()]).train()
    assert set(modes) == {(True, False, True)}


@pytest.mark.parametrize(("steps", "every", "at"), [(7, 3, [0, 3, 6, 7]), (2, 5, [0, 2]), (1, None, [0, 1])])
def test_first_and_last_are_always_there(tmp_path, model, tokenizer, questions, steps, every, at):
    watch = CalibrationCallback(questions, every=every)
    plain(tmp_path, model, tokenizer, [watch], max_steps=steps).train()
    assert [point["step"] for point in watch.history] == at


def test_a_run_that_is_stopped_early_is_scored_where_it_stops(tmp_path, model, tokenizer, questions):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    watch = CalibrationCallback(questions, every=50)
    plain(tmp_path, model, tokenizer, [watch, Stop()], max_steps=20).train()
    assert [point["step"] for point in watch.history] == [0, 4]


def test_by_default_the_measured_share_is_within_the_budget(tmp_path, model, tokenizer, questions):
    import time

    class Slow(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            time.sleep(0.15)

    few = questions.subset(range(4), "few")
    watch = CalibrationCallback(few, budget=0.15)
    plain(tmp_path, model, tokenizer, [watch, Slow()], max_steps=40).train()
    inner = [point["step"] for point in watch.history[1:-1]]
    assert inner
    assert watch.history[-1]["share"] < 0.15 * 1.5  # seconds on a shared machine
    assert watch.history[-1]["seconds_spent"] >= sum(point["seconds"] for point in watch.history)


def test_history_is_a_path(tmp_path, model, tokenizer, questions):
    watch = CalibrationCallback(questions, every=2)
    plain(tmp_path, model, tokenizer, [watch]).train()
    found = diagnose(score(LoadedModel(model.eval(), tokenizer, FACTS), questions), path=watch.history, n_boot=50)
    assert [point.step for point in found.path] == [0, 2, 4, 6]
    assert all(point.floor_p95 and point.gap and point.nll for point in found.path)
    assert len(regime_map(watch.history).texts) >= 4
    json.dumps(watch.history, allow_nan=False)


def test_shifts_against_a_reference(tmp_path, model, tokenizer, questions):
    start = score(LoadedModel(model, tokenizer, FACTS), questions)
    order = np.random.default_rng(0).permutation(start.n)
    watch = CalibrationCallback(questions, reference=start.select(order), every=6)
    plain(tmp_path, model, tokenizer, [watch]).train()
    first, last = watch.history
    assert first["agreement"] == 1
    assert abs(first["entropy_shift"]) < 1e-6
    assert abs(first["confidence_shift"]) < 1e-6
    assert last["confidence_shift"] == pytest.approx(last["mean_confidence"] - first["mean_confidence"], abs=1e-6)
    assert last["entropy_shift"] == pytest.approx(last["entropy"] - first["entropy"], abs=1e-6)


def test_a_reference_of_other_questions_is_refused_before_the_first_step(tmp_path, model, tokenizer, questions):
    other = score(LoadedModel(model, tokenizer, FACTS), questions.subset(range(9), "some"))
    with pytest.raises(ScoresError, match="only in"):
        plain(tmp_path, model, tokenizer, [CalibrationCallback(questions, reference=other)]).train()


def test_in_mixed_precision_it_scores_in_mixed_precision(tmp_path, make_model, tokenizer, questions):
    """The quick route stays: its self-test knows that the arithmetic is bfloat16 though the weights are float32."""
    routes, ends = [], []
    for bf16 in (False, True):
        watch = CalibrationCallback(questions, every=50)

        class Route(TrainerCallback):
            def on_step_end(self, args, state, control, watch=watch, **_):
                routes.append(watch._live.scorer.route)

        own = make_model("llama", tokenizer)
        plain(tmp_path, own, tokenizer, [watch, Route()], bf16=bf16, max_steps=2).train()
        ends.append(watch.history[0]["nll"])
    assert set(routes) == {"shared"}
    assert ends[0] != ends[1]
    assert ends[0] == pytest.approx(ends[1], rel=0.1)


def test_two_callbacks_with_two_prefixes_and_readings(tmp_path, model, tokenizer, questions, make_questions):
    far = make_questions("far", 6)
    near = CalibrationCallback(questions, every=3)
    texts = CalibrationCallback(far, every=3, prefix="far/", style=PromptStyle(reading="continuation"))
    trainer = plain(tmp_path, model, tokenizer, [near, texts])
    trainer.train()
    assert [(p["n"], q["n"]) for p, q in zip(near.history, texts.history, strict=True)] == [(20, 6)] * 3
    assert sum("far/nll" in entry for entry in trainer.state.log_history) == 3


# ---- a break --------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What a test throws into a run."""


class BreakAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            raise Broken


@pytest.mark.parametrize("restore", [False, True], ids=["plain", "restore_callback_states"])
def test_history_survives_a_break(tmp_path, make_model, tokenizer, questions, restore):
    saving = {
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 8,
        "restore_callback_states_from_checkpoint": restore,
    }

    def trainer(folder, callbacks):
        given = {key: value for key, value in saving.items() if key != "save_strategy"}
        made = plain(folder, make_model("llama", tokenizer), tokenizer, callbacks, **given)
        made.args.save_strategy = type(made.args.save_strategy)("steps")
        return made

    broken = CalibrationCallback(questions, every=2)
    with pytest.raises(Broken):
        trainer(tmp_path / "a", [broken, BreakAt()]).train()
    watch = CalibrationCallback(questions, every=2)
    trainer(tmp_path / "a", [watch]).train(resume_from_checkpoint=True)
    whole = CalibrationCallback(questions, every=2)
    trainer(tmp_path / "b", [whole]).train()
    assert [point["step"] for point in watch.history] == [0, 2, 4, 6, 8]
    assert watch.history[:3] == broken.history[:3]
    timed = {"seconds", "seconds_spent", "share"}
    for point, other in zip(watch.history, whole.history, strict=True):
        assert {k: v for k, v in point.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert watch.history[3]["seconds_spent"] > watch.history[2]["seconds_spent"]


def test_a_second_training_begins_a_new_history(tmp_path, model, tokenizer, questions):
    watch = CalibrationCallback(questions, every=6)
    trainer = plain(tmp_path, model, tokenizer, [watch])
    trainer.train()
    first = list(watch.history)
    trainer.train()
    assert [point["step"] for point in watch.history] == [0, 6]
    assert watch.history[0]["nll"] == pytest.approx(first[-1]["nll"], abs=1e-6)


# ---- what cannot be done --------------------------------------------------------------------------------------------


def test_settings_without_meaning_are_refused(questions):
    for wrong in ({"budget": 0.0}, {"budget": 1.5}, {"every": 0}):
        with pytest.raises(ConfigError, match="budget"):
            CalibrationCallback(questions, **wrong)
    with pytest.raises(QuestionError, match="no questions"):
        CalibrationCallback([])


def test_without_a_tokenizer_it_says_so(tmp_path, model, tokenizer, questions):
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=rows(tokenizer),
        data_collator=collate,
        callbacks=[CalibrationCallback(questions)],
    )
    with pytest.raises(ConfigError, match="tokenizer="):
        trainer.train()
    watch = CalibrationCallback(questions, tokenizer=tokenizer, every=6)
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=rows(tokenizer), data_collator=collate, callbacks=[watch]
    )
    trainer.train()
    assert len(watch.history) == 2


def test_a_model_that_predicts_no_next_token_is_refused_before_the_first_step(tmp_path, model, tokenizer, questions):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(model.config)
    with pytest.raises(ModelError, match="output head"):
        plain(tmp_path, model, tokenizer, [CalibrationCallback(questions)]).train()


def test_a_model_that_breaks_is_warned_of_and_training_ends_by_itself(tmp_path, model, tokenizer, questions):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step == 3:
                with torch.no_grad():
                    model.lm_head.weight.fill_(float("nan"))

    watch = CalibrationCallback(questions, every=2)
    with pytest.warns(UserWarning, match="no calibration at step 4: .*not finite"):
        plain(tmp_path, model, tokenizer, [watch, Poison()], max_grad_norm=0.0, max_steps=4).train()
    assert [point["step"] for point in watch.history] == [0, 2]


def test_events_of_no_trainer_are_refused(questions):
    from transformers import TrainerControl, TrainerState

    with pytest.raises(ConfigError, match=r"callback\.trainer"):
        CalibrationCallback(questions).on_train_begin(None, TrainerState(), TrainerControl())
