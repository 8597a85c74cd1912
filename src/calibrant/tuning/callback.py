"""``CalibrationCallback``: calibration on held-out questions, watched while any Hugging Face trainer trains."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calibrant.diagnosis import checkpoint_point
from calibrant.diagnosis.collapse import entropies
from calibrant.errors import ConfigError, ModelError, QuestionError, only_numbers
from calibrant.metrics.comparison import align
from calibrant.metrics.measurement import only_scores
from calibrant.prompts import PromptStyle, given_style
from calibrant.questions import Question, QuestionSet, question_set
from calibrant.scores import Scores
from calibrant.scoring.models import LoadedModel
from calibrant.scoring.options import Encoded, encode
from calibrant.scoring.precision import DTYPES
from calibrant.scoring.run import scores_of
from calibrant.scoring.scorer import OptionScorer, evaluating
from calibrant.tuning.schedule import WARM_STEPS, Budget

AUTOCAST = {"bf16": DTYPES["bfloat16"], "fp16": DTYPES["float16"]}


class CalibrationCallback(TrainerCallback):
    """Scores held-out questions with the model as it is, every so often, and logs how calibrated it is.

    For any ``transformers.Trainer`` of a causal language model, TRL's ``SFTTrainer`` and ``DPOTrainer`` included::

        watch = CalibrationCallback(questions)
        trainer = DPOTrainer(model, ..., callbacks=[watch])
        trainer.train()
        calibrant.diagnose(scores, path=watch.history)

    The numbers of :func:`calibrant.diagnosis.checkpoint_point` go through the trainer's own ``log``, so they are in
    its ``log_history``, on the console and in whatever ``report_to`` names: accuracy, conf_ece with floor_mean and
    floor_p95, nll, entropy, mean_confidence, signed_gap with its interval, option_mass, n. Beside them ``seconds``, what
    this evaluation took, ``seconds_spent``, what all so far took, and ``share``, their part of all the time so far. With
    a ``reference`` also entropy_shift and confidence_shift (means, now minus reference) and agreement (share of equal
    predictions). A number that is unknown or infinite is left out. Training goes on exactly as it would without this.

    **When.** Before the first step and after the last one, always. In between, with ``every=None``, as often and as
    evenly as ``budget`` allows: the evaluations of the whole run, the first and the last included, are to take at most
    this share of its time. Both sides are measured in the run: after three steps, and again at each evaluation, the rest
    of the run is planned from the seconds that a step and an evaluation took (:class:`calibrant.tuning.schedule.Budget`).
    In a run so short that its first and last evaluation alone take more, there are only these two; give fewer questions.

    **Several processes** score in step, each all the questions, and the first process decides when, so none waits for
    another; weights that are split over processes (FSDP, ZeRO-3) are refused. **After a break**, ``history`` is read
    back from the trainer's log, which its checkpoints hold, up to the checkpoint's step.

    Parameters
    ----------
    questions
        Held out: none of them, nor their like, trained on.
    tokenizer
        ``None``: the trainer's ``processing_class``.
    style
        How questions are put; letters in a raw prompt by default.
    every
        Optimiser steps between two evaluations; ``None``: by the budget.
    budget
        Share of the run's time, in (0, 1), that evaluations may take where ``every`` is ``None``.
    reference
        Scores of the same questions by a reference model, e.g. the one before alignment.
    prefix
        Of the names in the log; two callbacks of one trainer need two.
    n_bins, batch_tokens
        Bins of conf-ECE; token budget of a scoring pass, as for :func:`calibrant.score`.

    Attributes
    ----------
    history
        One flat mapping an evaluation, in order, with step and epoch: a path that ``diagnose`` and ``regime_map`` take.
    trainer
        Set it where the trainer cannot be found by itself (a loop of your own that calls the events).

    Raises
    ------
    QuestionError, ConfigError : no questions, or a setting without meaning. ModelError, when training begins: a model
        that predicts no next token or is split over processes, or a tokenizer without the letters.

    A model whose output is no longer finite is warned of and leaves no point; training is never ended from here.
    """

    def __init__(
        self,
        questions: QuestionSet | Sequence[Question],
        *,
        tokenizer: Any = None,
        style: PromptStyle | None = None,
        every: int | None = None,
        budget: float = 0.05,
        reference: Scores | None = None,
        prefix: str = "calibration/",
        n_bins: int = 10,
        batch_tokens: int | None = None,
    ) -> None:
        self.questions = list(question_set(questions, "held out"))
        if not self.questions:
            raise QuestionError(asked="a CalibrationCallback", found="no questions", todo="give held-out questions")
        if reference is not None:
            only_scores("a CalibrationCallback with a reference", reference)
        only_numbers(budget=budget)
        only_numbers(whole=True, every=every, n_bins=n_bins, batch_tokens=batch_tokens)
        if not 0 < budget < 1 or (every is not None and every < 1):
            raise ConfigError(
                asked="a CalibrationCallback",
                found=f"budget {budget}, every {every}",
                todo="give a budget in (0, 1), usually .05, or every: 1 step or more",
            )
        self.tokenizer, self.style, self.every, self.budget = tokenizer, given_style(style, {}), every, budget
        self.reference, self.prefix, self.n_bins, self.batch_tokens = reference, prefix, n_bins, batch_tokens
        self.history: list[dict[str, Any]] = []
        self.trainer: Trainer | None = None
        self._live: _Live | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Get ready, read back what a resumed run had logged, and score the model before its first step."""
        trainer = self.trainer or _calling_trainer(self)
        if trainer is None:
            raise ConfigError(
                asked="the trainer that a CalibrationCallback watches",
                found="none on the call stack has it among its callbacks",
                todo="set callback.trainer before training begins",
            )
        self.history = _logged(state.log_history, self.prefix)
        started = time.monotonic()
        self._live = _Live.of(self, trainer, state)
        self._live.budget.spent += time.monotonic() - started
        if not self.history:
            self._evaluate(state)
        self._live.budget.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score where it is due: the last step, each ``every`` steps, or where the budget put it."""
        live = self._live
        if live is None:
            return
        live.budget.stepped(state.global_step)
        if state.global_step >= state.max_steps:
            self._evaluate(state)
        elif self.every is not None:
            if state.global_step % self.every == 0:
                self._evaluate(state)
        elif state.global_step == live.act_at:
            if live.agreed(live.budget.affords(state.global_step, state.max_steps)):
                self._evaluate(state)
            live.act_at = live.agreed(live.budget.next_step(state.global_step, state.max_steps))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score a model whose training is being ended early."""
        if control.should_training_stop:
            self._evaluate(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the last weights where that is still to be done and they are still there; let go of the trainer."""
        if not args.load_best_model_at_end:
            self._evaluate(state)
        self._live = None

    def _evaluate(self, state: TrainerState) -> None:
        live = self._live
        if live is None or (self.history and self.history[-1]["step"] == state.global_step):
            return
        with evaluating(
            live.model
        ):  # while it logs, too: TRL's trainers mix their own training metrics into the log else
            started = live.clock()
            try:
                scores = live.score()
            except ModelError as error:
                if state.global_step == 0:
                    raise
                warnings.warn(f"no calibration at step {state.global_step}: {error.found}", stacklevel=2)
                live.budget.spend(live.clock() - started)
                return
            point = checkpoint_point(scores, n_bins=self.n_bins) | _shifts(scores, live.reference)
            seconds = live.clock() - started
            live.budget.spend(seconds)
            point |= {"seconds": seconds, "seconds_spent": live.budget.spent, "share": live.budget.share}
            self.history.append({"step": state.global_step, "epoch": state.epoch or 0.0, **point})
            live.log({self.prefix + name: value for name, value in point.items()})


@dataclass
class _Live:
    """What the callback needs while a trainer runs, and lets go of when it ends."""

    trainer: Trainer
    model: Any
    questions: Sequence[Question]
    encoded: Sequence[Encoded]
    scorer: OptionScorer
    reference: Scores | None
    budget: Budget
    act_at: int

    @classmethod
    def of(cls, callback: CalibrationCallback, trainer: Trainer, state: TrainerState) -> _Live:
        model = trainer.model
        tokenizer = callback.tokenizer or trainer.processing_class or getattr(trainer, "tokenizer", None)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of several kinds of input has one inside
        if tokenizer is None:
            raise ConfigError(
                asked="calibration while training",
                found="the trainer has no processing_class",
                todo="give the callback tokenizer=",
            )
        _refuse_split_weights(model)
        context = LoadedModel(model, tokenizer, {}).context_length
        encoded = encode(tokenizer, callback.questions, callback.style, context_length=context)
        with evaluating(model):
            scorer = OptionScorer(model, callback.style, callback.batch_tokens)
            scorer.self_test(encoded, AUTOCAST.get(trainer.accelerator.mixed_precision))
        reference = callback.reference
        if reference is not None:
            reference = align(_blank(callback.questions), reference)[0]
        budget = Budget.resumed(callback.budget, callback.history)
        act_at = state.global_step + WARM_STEPS
        return cls(trainer, model, callback.questions, encoded, scorer, reference, budget, act_at)

    def score(self) -> Scores:
        logp_NK, logmass_N = self.scorer.run(self.encoded)
        return scores_of(self.questions, logp_NK, logmass_N)

    def clock(self) -> float:
        """Seconds, once the device has done what was asked of it."""
        if self.scorer.device.type != "cpu":
            torch.accelerator.synchronize(self.scorer.device)
        return time.monotonic()

    def log(self, values: dict[str, float]) -> None:
        """Through the trainer; a log that is due at the same step is still due afterwards."""
        due = self.trainer.control.should_log
        self.trainer.log(values)
        self.trainer.control.should_log = due

    def agreed(self, value: Any) -> Any:
        """The first process's value, on all of them."""
        if self.trainer.accelerator.num_processes == 1:
            return value
        return broadcast_object_list([value])[0]


def _calling_trainer(callback: TrainerCallback) -> Trainer | None:
    """The trainer whose event is being handled. The library tells a callback everything but that, and only the trainer
    can log, so it is looked for where it must be: further up the call stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back
    return None


def _logged(log: Sequence[Mapping[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """The points in a trainer's log."""
    return [
        {"step": entry["step"], "epoch": entry.get("epoch", 0.0)}
        | {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
        for entry in log
        if f"{prefix}conf_ece" in entry
    ]


def _shifts(scores: Scores, reference: Scores | None) -> dict[str, float]:
    if reference is None:
        return {}
    return {
        "entropy_shift": float((entropies(scores) - entropies(reference)).mean()),
        "confidence_shift": float((scores.confidence_N - reference.confidence_N).mean()),
        "agreement": float((scores.prediction_N == reference.prediction_N).mean()),
    }


def _blank(questions: Sequence[Question]) -> Scores:
    """Scores that say nothing, to line a reference up with the questions."""
    k_N = np.array([len(q.choices) for q in questions])
    logp_NK = np.where(np.arange(k_N.max()) < k_N[:, None], -np.log(k_N)[:, None], -np.inf)
    return scores_of(questions, logp_NK, np.full(len(k_N), np.nan))


def _refuse_split_weights(model: Any) -> None:
    weights = [p for p in model.parameters() if isinstance(p, DTensor) or p.numel() == 0]
    if weights:
        raise ModelError(
            asked="calibration while training",
            found="the model's weights are split over processes (FSDP or ZeRO-3)",
            todo="train with data parallelism, or score the checkpoints afterwards with calibrant score",
        )
