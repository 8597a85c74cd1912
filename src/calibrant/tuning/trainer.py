"""A thin ``transformers.Trainer``: our loss, our evaluation, and the E-step's state. Everything else is the library's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, PrinterCallback

from calibrant.diagnosis import checkpoint_point
from calibrant.errors import ModelError
from calibrant.progress import bar
from calibrant.questions import Question
from calibrant.scores import Scores
from calibrant.scoring.options import Encoded
from calibrant.scoring.run import scores_of
from calibrant.scoring.scorer import OptionScorer, evaluating
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.config import BATCH_STATISTICS, TuneConfig
from calibrant.tuning.objective import batch_loss
from calibrant.tuning.targets import BinAccuracy, Targets, cross_fitted, folds_of

PASS_TOKENS = {"cpu": 512}  # docs/decisions/009
PASS_TOKENS_ELSEWHERE = 8192


class EmState(TrainerCallback, ExportableState):
    """What a checkpoint must remember besides the library's own state: the E-step in force, the path and time so far."""

    def __init__(
        self,
        targets: Targets | None = None,
        history: Sequence[dict[str, Any]] = (),
        seconds: float = 0.0,
    ) -> None:
        self.targets = targets
        self.history = list(history)
        self._started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Time since the run began, without the time between a break and its resumption."""
        return time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """For ``trainer_state.json``, where the library keeps it with the checkpoint."""
        targets = None if self.targets is None else self.targets.to_json()
        return {"args": {}, "attributes": {"targets": targets, "history": self.history, "seconds": self.seconds}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EmState:
        """The inverse of :meth:`state`."""
        kept = state["attributes"]
        targets = None if kept["targets"] is None else Targets.from_json(kept["targets"])
        return cls(targets, kept["history"], kept["seconds"])


class FiniteGradients(TrainerCallback):
    """Stops before a step whose gradient is not finite: it would spoil all weights, and be seen only at the next evaluation."""

    def __init__(self, objective: str) -> None:
        self.objective = objective

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Raise :class:`ModelError` with the step."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            raise diverged(self.objective, state.global_step + 1, "the gradient is NaN or infinite")


@contextmanager
def sound_attention() -> Iterator[None]:
    """While active, attention does not run through cuDNN, whose backward pass gives NaN for some lengths.

    With torch 2.11 to 2.13 on an H100 or H200, in half precision and with a mask, the gradient of the queries is NaN where a
    sequence has 64 tokens more than a multiple of 128 and a head attends to nothing much (pytorch issue 196678; Qwen2.5 has
    such heads). The memory-efficient kernel, torch's choice before 2.11, is used instead.
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


class HeldOut:
    """Questions, usually the calibration ones, ready to be scored again and again."""

    def __init__(
        self,
        questions: Sequence[Question],
        encoded: Sequence[Encoded],
        scorer: OptionScorer,
        split: str = "calibration",
    ) -> None:
        self.questions, self.encoded, self.scorer, self.split = list(questions), list(encoded), scorer, split

    def score(self) -> Scores:
        """Scores with the weights as they are now; the model's mode is put back afterwards."""
        with evaluating(self.scorer.model):
            logp_NK, logmass_N = self.scorer.run(self.encoded)
        return scores_of(self.questions, logp_NK, logmass_N, split=self.split)


class CalibrationTrainer(Trainer):
    """Trains one objective of :class:`TuneConfig`; evaluates by scoring the held-out calibration questions.

    ``evaluate`` returns ``eval_nll``, ``eval_conf_ece``, ``eval_accuracy`` …, so the library's own best-model and
    early-stopping logic runs on held-out NLL. For rcft it is also the E-step, unless ``e_step`` is ``once``: that scores
    ``seen``, the training questions, too.
    """

    # compute_loss divides by the questions of the whole optimiser step, so the library must not divide again.
    loss_is_scaled_for_ga = True
    control: TrainerControl

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        config: TuneConfig,
        examples: Sequence[Example],
        tokenizer: Any,
        held_out: HeldOut,
        train_sample: HeldOut | None,
        em: EmState,
        collate: Collator,
        seen: HeldOut,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.config, self.held_out, self.train_sample, self.em, self.seen = config, held_out, train_sample, em, seen
        self.tokenizer = tokenizer  # for callbacks; as processing_class it would be saved with every checkpoint
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(examples),
            eval_dataset=held_out.encoded,  # evaluate() reads held_out itself; the library asks for it
            data_collator=_places,
            callbacks=[em, FiniteGradients(config.objective), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self._collate = collate
        cut = config.micro_batch_size is None and config.objective not in BATCH_STATISTICS
        tokens = PASS_TOKENS.get(self.args.device.type, PASS_TOKENS_ELSEWHERE)
        self._pass_tokens = tokens if cut and self.accelerator.num_processes == 1 else None
        self._sums: dict[str, Tensor] = {}

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The library's batches of one optimiser step, with the number of *questions* in it, over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.accelerator.num_processes > 1:
            samples = self._without_repeats(samples)
        mine = sum(len(sample["index_B"]) for sample in samples if not sample.get("repeated"))
        return samples, self.accelerator.gather(torch.tensor(mine, device=device)).sum()

    def _without_repeats(self, samples: list[Any]) -> list[Any]:
        """Batches without questions that the epoch has had: to give each process as many, the library fills up the last ones.

        Batch j of m questions goes to process j mod P, so of n questions those at place n or later are repeats. A batch that
        holds no other stays, as the processes go in step, but is ``repeated``: its loss counts 0.
        """
        n, m = len(self.train_dataset), self.args.per_device_train_batch_size
        processes, each = self.accelerator.num_processes, self.args.gradient_accumulation_steps
        steps = math.ceil(math.ceil(math.ceil(n / m) / processes) / each)  # of an epoch
        first, kept = self.state.global_step % steps * each, []
        for i, sample in enumerate(samples, start=first):
            size = len(sample["index_B"])
            own = n - (i * processes + self.accelerator.process_index) * m
            if 0 < own < size:
                sample = {"index_B": sample["index_B"][:own]}
            kept.append({**sample, "repeated": True} if own <= 0 else sample)
        return kept

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of the questions that ``inputs`` names, in as few passes as their tokens allow."""
        examples = [self.train_dataset[i] for i in inputs.pop("index_B").tolist()]
        passes = [examples] if self._pass_tokens is None else self._collate.passes(examples, self._pass_tokens)
        losses = [
            super(CalibrationTrainer, self).training_step(model, {**self._collate(one), **inputs}, num_items_in_batch)
            for one in passes
        ]
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's mean over the questions of the optimiser step (this micro-batch's part of it)."""
        if self.em.targets is not None:
            inputs["target_BK"] = self.em.targets.of_batch(inputs["index_B"], int(inputs["k_B"].max()))
        loss, joint_BK = batch_loss(model, self.held_out.scorer.head, inputs, self.config)
        questions = num_items_in_batch if num_items_in_batch is not None else len(inputs["answer_B"])
        # Data parallelism averages gradients over processes; the mean here is over the questions of all of them.
        value = loss.value * self.accelerator.num_processes / questions
        if inputs.get("repeated"):
            value = value * 0
        else:
            self._tally({**loss.metrics, "questions": torch.tensor(float(len(joint_BK)), device=value.device)})
        return (value, {"joint_BK": joint_BK}) if return_outputs else value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss's parts since the last log."""
        if "loss" in logs and self._sums:
            questions = float(self._sums.pop("questions"))
            logs = {**logs, **{name: float(total) / questions for name, total in self._sums.items()}}
            self._sums = {}
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the calibration questions and the sample of the training ones; the E-step of rcft; a point of the path."""
        try:
            scores = self.held_out.score()
            sample = None if self.train_sample is None else self.train_sample.score()
        except ModelError as error:
            if self.state.global_step == 0:
                raise
            raise diverged(self.config.objective, self.state.global_step, error.found) from error
        if self.config.objective == "rcft":
            self._e_step(scores)
        point = checkpoint_point(scores, n_bins=self.config.n_bins)
        if sample is not None:
            point |= {"train_accuracy": float(sample.correct_N.mean()), "train_n": sample.n}
        self.em.history.append({"step": self.state.global_step, "epoch": self.state.epoch or 0.0, **point})
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in point.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def take(self, last: Path, best: Path | None) -> None:
        """State and weights of a run that had ended: those of its ``best`` checkpoint or, without one, of its ``last``."""
        self.state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME))
        if best is None:
            self._load_from_checkpoint(str(last))
        else:
            self.state.best_model_checkpoint = str(best)
            self._load_best_model()

    def _e_step(self, held_out: Scores) -> None:
        last = 0 < self.state.max_steps <= self.state.global_step  # no step follows that it would be for
        if last or (self.config.e_step == "once" and self.em.targets is not None):
            return
        self.em.targets = e_step(self.seen.score(), held_out, self.config)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:  # what torch's writer raises when the disk is full
            raise OSError(str(error)) from error

    def _tally(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value


def _places(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch as the library sees it: where its questions stand. What they become is cut and padded at the step."""
    return {"index_B": torch.tensor([e.index for e in examples])}


def diverged(objective: str, step: int, found: str) -> ModelError:
    """The error of a run whose numbers are no longer finite."""
    return ModelError(
        asked=f"tuning by {objective}, step {step}",
        found=found,
        todo="use a lower learning_rate, or dtype float32 / bfloat16 instead of float16",
    )


def e_step(seen: Scores, held_out: Scores, config: TuneConfig) -> Targets:
    """Targets of the training questions ``seen`` under the settings of ``config``, with the weights that scored both sets.

    The bins' accuracies are those of ``held_out`` (``each_evaluation``), of ``seen`` (``once``), or for each fold of ``seen``
    those of the other folds (``cross_fitted``).
    """
    settings: dict[str, Any] = {"n_bins": config.n_bins, "prior": config.bin_prior, "min_bin": config.min_bin}
    if config.e_step == "cross_fitted":
        accuracy_N = cross_fitted(seen, folds_of(seen.n, config.seed), **settings)
    else:
        judged = held_out if config.e_step == "each_evaluation" else seen
        accuracy_N = BinAccuracy.of(judged, **settings).of_confidence(seen.confidence_N)
    return Targets.of(seen, accuracy_N, target_map=config.target_map)


class ProgressBar(TrainerCallback):
    """Steps done, time left, and the last held-out numbers."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Draw the bar."""
        self._progress = bar()
        self._progress.start()
        self._task = self._progress.add_task(self.label, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show what the calibration questions say."""
        if self._progress is not None and metrics and not math.isnan(metrics.get("eval_nll", math.nan)):
            self._progress.console.print(
                f"  epoch {state.epoch or 0:.2f}: held-out NLL {metrics['eval_nll']:.4f}, "
                f"ECE {metrics['eval_conf_ece']:.4f} (floor {metrics['eval_floor_p95']:.4f}), "
                f"accuracy {metrics['eval_accuracy']:.3f}, confidence {metrics['eval_mean_confidence']:.3f}"
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Stop drawing, also when training broke off."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
