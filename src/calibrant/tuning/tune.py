"""``tune``: questions in, adapter out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from calibrant.errors import ModelError, OutputError, QuestionError, only_numbers
from calibrant.files import alone, claim_folder, write_json
from calibrant.prompts import PromptStyle, given_style
from calibrant.questions import Question, QuestionSet, question_set, refuse_leakage
from calibrant.scoring.fingerprints import fingerprint
from calibrant.scoring.models import LoadedModel, chat_template_facts, load_model, quiet_peft, refuse_loading
from calibrant.scoring.options import Encoded, encode
from calibrant.scoring.precision import stored_dtypes
from calibrant.scoring.scorer import OptionScorer
from calibrant.tuning.adapting import with_lora
from calibrant.tuning.arguments import refuse_where, training_arguments
from calibrant.tuning.checkpoints import Checkpoint
from calibrant.tuning.collate import Collator, Example
from calibrant.tuning.config import TuneConfig, given_config, refuse_to_load
from calibrant.tuning.rows import choose_rows
from calibrant.tuning.start import with_targets
from calibrant.tuning.trainer import CalibrationTrainer, EmState, HeldOut, ProgressBar, sound_attention

RESULT, CHECKPOINTS = "result.json", "checkpoints"


@dataclass(frozen=True)
class TuneResult:
    """What a tuning run made, and how.

    ``adapter`` is the folder of the peft adapter, or ``None`` after full fine-tuning, when ``weights`` is the model's folder.
    ``history`` has one entry an evaluation of the calibration questions: step, epoch, the numbers of
    :func:`calibrant.diagnosis.checkpoint_point`, and train_accuracy of train_n training questions. ``seconds`` is training
    with its evaluations, over all resumed parts. ``rows`` says which rows were trained on and what
    :func:`calibrant.tuning.rows.choose_rows` saw; ``start`` what the untuned model set: ``known_share`` of cogcalib,
    ``teacher_temperature`` of distill. ``sweep`` tells what else was tried, where it is the best of several settings.
    ``left_out`` names modules, by kind, that ``all-linear`` does not mean, as they give something else than W x + b.
    """

    objective: str
    adapter: Path | None
    weights: Path | None
    seconds: float
    trained_parameters: int
    total_parameters: int
    questions: int
    steps: int
    stopped: str
    best_epoch: float | None
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    rows: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """In a line; settings and history are in the attributes."""
        best = "" if self.best_epoch is None else f", best epoch {self.best_epoch:.3g}"
        return (
            f"<TuneResult: {self.objective} on {self.questions} questions, {self.steps} steps{best}, {self.seconds:.0f} s, "
            f"in {str(self.adapter or self.weights)!r}>"
        )

    @property
    def not_adapted(self) -> str:
        """What ``all-linear`` left out, in words; empty where nothing."""
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in self.left_out.items())
        return f"no adapter on {kinds}, which are no plain linear layers" if kinds else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a report."""
        values = asdict(self)
        for name in ("adapter", "weights"):
            values[name] = None if values[name] is None else str(values[name])
        return values

    @classmethod
    def load(cls, folder: str | Path) -> TuneResult:
        """The result that a finished run left in its folder."""
        folder = Path(folder)
        values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        for name in ("adapter", "weights"):
            values[name] = None if values[name] is None else folder / values[name]
        return cls(**{**values, "history": tuple(values["history"])})


def tune(
    model: str | Path | LoadedModel,
    train: Sequence[Question],
    calibration: Sequence[Question],
    *,
    out: str | Path,
    config: TuneConfig | None = None,
    style: PromptStyle | None = None,
    progress: bool = False,
    batch_tokens: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **loading: Any,
) -> TuneResult:
    """Fine-tune a model on ``train`` by the objective of ``config``, watched on ``calibration`` (docs/objectives.md).

    Writes ``out/adapter`` (or ``out/model``), ``out/result.json`` and, while it runs, ``out/checkpoints``. Called again with
    the same arguments it goes on from the last whole checkpoint, or returns the result if the run was finished; a loaded model
    then takes on what was tuned.

    Parameters
    ----------
    model : hub id, local folder, GGUF file, or a loaded model, which is then the tuned one; untuned again, if tuning breaks
        off, unless all weights were tuned (``lora`` is none): then it must be loaded again.
    train : questions whose answers are learnt.
    calibration : held-out questions: E-step, early stopping, choice of the epoch. Not for the final measurement.
    out : folder of this run.
    config, style : settings; how questions are put. Defaults: CFT, letters.
    progress : draw a bar with the time left.
    batch_tokens : token budget of a scoring pass.
    callbacks : further callbacks of the trainer.
    loading : further arguments of :func:`calibrant.scoring.load_model`.

    Raises
    ------
    LeakageError : a question is in both sets.
    ConfigError : ``out`` holds a run with other settings, or another process is at work there; a setting that the objective has
        no use for.
    ModelError : the model cannot be tuned so, or its loss is not finite.
    OutputError : no space or permission.
    """
    config, style, out = given_config(config), given_style(style, loading), Path(out)
    config.check()
    only_numbers(whole=True, batch_tokens=batch_tokens)
    train, calibration = question_set(train, "train"), question_set(calibration, "calibration")
    refuse_leakage(train=train, calibration=calibration)
    for name, questions in (("train", train), ("calibration", calibration)):
        if not len(questions):
            raise QuestionError(asked=f"questions to {name}", found="none", todo="give at least one")
    if config.e_step == "cross_fitted" and len(train) < 2:
        raise QuestionError(asked="a cross-fitted E-step", found="one training question", todo="give at least two")
    set_seed(config.seed)
    given = isinstance(model, LoadedModel)
    if not isinstance(model, LoadedModel):
        refuse_to_load(config, loading)
        model = load_model(model, quantize_4bit=config.quantize_4bit, **loading)
    else:
        refuse_loading(model, loading)
    refuse_where(model, config)
    if model.facts.get("adapter"):
        raise ModelError(
            asked=f"tune {model.facts['model']!r} with the adapter {model.facts['adapter']!r} on it",
            found="an adapter on an adapter could not be saved alone",
            todo="merge the first one (peft: merge_and_unload, save_pretrained) and tune the merged model",
        )
    identity = _identity(model, style, config, train, calibration)
    claim_folder(out, identity, "tuning run")
    with alone(out, "tuning run"):
        if (out / RESULT).exists():
            result = TuneResult.load(out)
            if given:
                _take_on(model, result)
            return result
        encoded = {
            name: encode(model.tokenizer, list(questions), style, context_length=model.context_length)
            for name, questions in (("train", train), ("calibration", calibration))
        }
        with _prepared(model, config, out) as (tuned, left_out):
            scorer = OptionScorer(tuned, style, batch_tokens)
            scorer.self_test([*encoded["calibration"], *encoded["train"]])
            held_out = HeldOut(list(calibration), encoded["calibration"], scorer)
            run = _Run(out, config, style, model, tuned, train, encoded["train"], held_out, left_out)
            return run.go(progress, callbacks)


@dataclass
class _Run:
    out: Path
    config: TuneConfig
    style: PromptStyle
    loaded: LoadedModel
    tuned: Any
    train: QuestionSet
    encoded: list[Encoded]
    held_out: HeldOut
    left_out: dict[str, list[str]]

    @sound_attention()
    def go(self, progress: bool, callbacks: Sequence[TrainerCallback]) -> TuneResult:
        checkpoint = Checkpoint.last(self.out / CHECKPOINTS)
        em = EmState() if checkpoint is None else checkpoint.em_state()
        scorer = self.held_out.scorer
        seen = HeldOut(list(self.train), self.encoded, scorer, split="train")
        examples, start = self._examples(seen)
        collate, rows = choose_rows(self.tuned, scorer.head, self._plain_rows(), examples)
        shown = ProgressBar(f"tuning ({self.config.objective})") if progress else None
        stop_early = self.config.keep == "best" and self.config.patience > 0
        extra: list[TrainerCallback] = [*callbacks, *([shown] if shown else [])]
        if stop_early:
            patience = self.config.patience
            counting = EarlyStoppingCallback(patience) if checkpoint is None else checkpoint.early_stopping(patience)
            extra.append(counting)
        trainer = CalibrationTrainer(
            self.tuned,
            training_arguments(self.config, self.out / CHECKPOINTS, len(examples), self.loaded),
            config=self.config,
            examples=examples,
            tokenizer=self.loaded.tokenizer,
            held_out=self.held_out,
            train_sample=self._train_sample(),
            em=em,
            collate=collate,
            seen=seen,
            callbacks=extra,
        )
        try:
            if not em.history:
                trainer.evaluate()
            if checkpoint is not None and checkpoint.ended:
                trainer.take(checkpoint.path, checkpoint.best if self.config.keep == "best" else None)
            else:
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.path))
        finally:
            if shown:
                shown.close()
        return self._finish(trainer, em, rows, start)

    def _examples(self, seen: HeldOut) -> tuple[list[Example], dict[str, Any]]:
        """The training questions with what the objective teaches on each; before the first step, from the untuned weights."""
        pairs = zip(self.encoded, self.train, strict=True)
        plain = [Example(e, q.answer, index=i) for i, (e, q) in enumerate(pairs)]
        sets = {"train": seen, "calibration": self.held_out}
        return with_targets(plain, self.config, lambda name: sets[name].score(), self.out)

    def _plain_rows(self) -> Collator:
        return Collator(
            letters=self.style.reading == "letters",
            all_options=self.config.sees_all_options,
            prompt_tokens=self.config.predicts_prompt,
            variant=self.style.variant if self.config.compares_options else "sum",
        )

    def _train_sample(self) -> HeldOut | None:
        """Training questions drawn by the seed, so that a resumed run scores the same."""
        size = min(self.config.train_sample, len(self.train))
        picks = sorted(Random(self.config.seed).sample(range(len(self.train)), size))
        questions, encoded, scorer = list(self.train), self.encoded, self.held_out.scorer
        if not picks:
            return None
        return HeldOut([questions[i] for i in picks], [encoded[i] for i in picks], scorer, split="train")

    def _finish(
        self, trainer: CalibrationTrainer, em: EmState, rows: dict[str, Any], start: dict[str, Any]
    ) -> TuneResult:
        kind = "model" if self.config.lora is None else "adapter"
        self.tuned.eval()
        trainer.accelerator.wait_for_everyone()  # another process may still read the best checkpoint
        if trainer.is_world_process_zero():
            self._save(kind)
        trained = [point for point in em.history if point["step"] > 0]
        best = min(trained, key=lambda point: point["nll"]) if self.config.keep == "best" else None
        early = trainer.state.global_step < trainer.state.max_steps
        result = TuneResult(
            objective=self.config.objective,
            adapter=self.out / kind if kind == "adapter" else None,
            weights=self.out / kind if kind == "model" else None,
            seconds=round(em.seconds, 1),
            trained_parameters=sum(p.numel() for p in self.tuned.parameters() if p.requires_grad),
            total_parameters=sum(p.numel() for p in self.tuned.parameters()),
            questions=len(self.train),
            steps=trainer.state.global_step,
            stopped="held-out NLL no longer fell" if early else "all epochs done",
            best_epoch=None if best is None else best["epoch"],
            config=self.config.model_dump(mode="json"),
            history=tuple(em.history),
            rows=rows,
            start=start,
            left_out=self.left_out,
        )
        if trainer.is_world_process_zero():
            relative = {name: kind if getattr(result, name) else None for name in ("adapter", "weights")}
            write_json(self.out / RESULT, {**result.to_json(), **relative})
            shutil.rmtree(self.out / CHECKPOINTS, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()  # no process returns before the adapter is there
        _rename(self.loaded, result)
        return result

    def _save(self, kind: str) -> None:
        temporary, final = self.out / f".{kind}.partial", self.out / kind
        shutil.rmtree(temporary, ignore_errors=True)
        if kind == "model":
            kinds = stored_dtypes(self.tuned, getattr(torch, self.loaded.facts["dtype"]))
            for name, weight in self.tuned.named_parameters():  # trained in float32, kept as they came
                weight.data = weight.data.to(kinds[name])
        self.tuned.save_pretrained(temporary)
        self.loaded.tokenizer.save_pretrained(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)


def _rename(loaded: LoadedModel, result: TuneResult) -> None:
    """A model that was given loaded is the tuned one now; what is scored with it must not go by the old name."""
    place = result.adapter or result.weights
    assert place is not None
    names = ("model", "weights") if result.adapter is None else ("adapter", "adapter_weights")
    loaded.facts |= dict(zip(names, (str(place), fingerprint(place)), strict=True))


def _take_on(loaded: LoadedModel, result: TuneResult) -> None:
    """Make a loaded model the tuned one of a finished run."""
    if result.adapter is not None:
        with quiet_peft():
            loaded.model = PeftModel.from_pretrained(loaded.model, str(result.adapter)).eval()
    else:
        assert result.weights is not None
        loaded.model = load_model(result.weights, dtype=loaded.facts["dtype"], device=str(loaded.device)).model
    _rename(loaded, result)


@contextmanager
def _prepared(loaded: LoadedModel, config: TuneConfig, out: Path) -> Iterator[tuple[Any, dict[str, list[str]]]]:
    """The model as it is trained, and what its adapter leaves out. Where that breaks off, a model that was given loaded is
    untuned again, or, where all its weights were tuned, says that it is neither
    (:func:`calibrant.scoring.models.refuse_loading`).
    """
    if config.lora is None:
        loaded.facts["unfinished"] = str(out)
    tuned, left_out = _prepare(loaded.model, config)
    try:
        yield tuned.eval(), left_out  # peft leaves its layers, dropout too, in training mode
    except BaseException as error:
        if config.lora is not None:
            tuned.unload()
        if isinstance(error, (OSError, SafetensorError)) and not isinstance(error, OutputError):
            raise OutputError(
                asked=f"keep the tuning run in {out}",
                found=str(error),
                todo="free space there and run the same command again; it goes on from the last whole checkpoint",
            ) from error
        raise
    loaded.facts.pop("unfinished", None)


def _prepare(model: Any, config: TuneConfig) -> tuple[Any, dict[str, list[str]]]:
    if config.lora is None:  # in half precision small steps would be rounded away
        return model.float().requires_grad_(True), {}
    if config.quantize_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    tuned, left_out = with_lora(model, config.lora, config.seed)
    if config.gradient_checkpointing:
        tuned.enable_input_require_grads()
    return tuned, left_out


def _identity(
    model: LoadedModel, style: PromptStyle, config: TuneConfig, train: QuestionSet, calibration: QuestionSet
) -> dict[str, Any]:
    return {
        **chat_template_facts(model, [style.format]),
        "model": {name: model.facts[name] for name in ("model", "revision", "weights", "dtype")},
        "prompt": asdict(style),
        "prompt_digest": style.digest,
        "config": config.identity(),
        "train": {"name": train.name, "n": len(train), "digest": train.digest},
        "calibration": {"name": calibration.name, "n": len(calibration), "digest": calibration.digest},
    }
