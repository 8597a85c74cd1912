"""The library's training settings that a :class:`TuneConfig` stands for."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from calibrant.errors import ConfigError
from calibrant.scoring.models import LoadedModel
from calibrant.tuning.config import BATCH_STATISTICS, TuneConfig, refuse_other_gpu


def refuse_where(loaded: LoadedModel, config: TuneConfig) -> None:
    """Raise :class:`ConfigError` where the model that was given cannot be tuned as it lies, or the tracker is not there."""
    refuse_other_gpu(str(loaded.device))
    if config.quantize_4bit != (loaded.facts.get("quantized") == "nf4"):
        raise ConfigError(
            asked=f"a tuning with quantize_4bit {config.quantize_4bit}",
            found=f"a model that was loaded with {loaded.facts.get('quantized') or 'whole weights'}",
            todo="give the model's name, or load_model(name, quantize_4bit=True) for quantize_4bit",
        )
    there = ["all", "none", *get_available_reporting_integrations()]
    if config.report_to not in there:
        raise ConfigError(
            asked=f"a report to {config.report_to!r}",
            found=f"trackers that are installed: {', '.join(there[2:]) or 'none'}",
            todo="install it, or leave report_to out",
        )


def training_arguments(config: TuneConfig, folder: Path, n_questions: int, loaded: LoadedModel) -> TrainingArguments:
    """The :class:`TrainingArguments` of a :class:`TuneConfig`."""
    device = loaded.device.type
    steps_an_epoch = math.ceil(n_questions / config.batch_size)
    every = max(1, math.ceil(steps_an_epoch / config.evaluations_per_epoch))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.accumulation_unit,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        data_seed=config.seed,
        ddp_broadcast_buffers=False,  # they are constants; copied in place between two passes they would break the backward
        bf16=device == "cuda" and loaded.facts["dtype"] == "bfloat16",
        use_cpu=device == "cpu",
        **({"activation_checkpointing": True} if config.gradient_checkpointing else {}),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=config.keep == "best",
        metric_for_best_model="nll",
        greater_is_better=False,
        logging_steps=max(1, every // 5),
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        report_to=config.report_to,
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        disable_tqdm=True,
        log_level="error",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs are driven by accelerate launch or torchrun, one process each
    processes = arguments.world_size  # known only now: the library joins the process group when it makes its settings
    if config.batch_size % (config.accumulation_unit * processes):
        smaller = "set micro_batch_size so that batch_size is a multiple of micro_batch_size × processes"
        raise ConfigError(
            asked=f"{config.objective} with batch_size {config.batch_size} over {processes} processes",
            found=f"a forward pass takes {config.accumulation_unit} questions on each",
            todo="start one process, which sees the whole batch" if config.objective in BATCH_STATISTICS else smaller,
        )
    arguments.gradient_accumulation_steps = config.batch_size // (config.accumulation_unit * processes)
    return arguments
