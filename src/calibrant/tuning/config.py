"""What a tuning run may be told: few fields, each with its unit and the paper's symbol."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calibrant.errors import ConfigError

Objective = Literal["cft", "rcft", "sft"]


class Strict(BaseModel):
    """A frozen settings object that refuses unknown keys and says which known one was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def make(cls, values: dict[str, Any]) -> Self:
        """Validate, turning pydantic's findings into one three-part error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(
                asked=f"{cls.__name__} from {values}",
                found="; ".join(_finding(cls, item) for item in error.errors()),
                todo=f"known settings: {', '.join(cls.model_fields)}",
            ) from error


class LoraSettings(Strict):
    """Low-rank adaptation (peft). The paper uses rank 128, alpha 64, dropout .05, all linear layers (method.md section 6)."""

    rank: int = Field(16, ge=1, description="rank r of the update")
    alpha: float = Field(32, gt=0, description="scaling; the update is multiplied by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field("all-linear", description="module names, or 'all-linear' (all but the head)")


class TuneConfig(Strict):
    """Settings of :func:`calibrant.tune`.

    ``objective``: ``cft`` is L_SFT1, the answer only; ``rcft`` is L_SFT2 + λ·L_ECE; ``sft`` is L_SFT2, the control
    (method.md section 4).
    """

    objective: Objective = "cft"
    epochs: float = Field(2, gt=0, description="passes over the training questions")
    batch_size: int = Field(
        16, ge=1, description="questions an optimiser step, over all devices' accumulation on one device"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="questions a forward pass; batch_size must be a multiple"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak, AdamW")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    lora: LoraSettings | None = Field(LoraSettings(), description="none: all weights are tuned")
    quantize_4bit: bool = Field(
        False, description="QLoRA: frozen weights in NF4; needs a CUDA GPU and the extra [quant]"
    )
    lam: float = Field(1.0, ge=0, description="λ, weight of L_ECE in rcft")
    n_bins: int = Field(10, ge=1, description="M, equal-width bins of the E-step and of ECE")
    e_step: Literal["each_evaluation", "once"] = Field(
        "each_evaluation",
        description="rcft: bin accuracies from the calibration questions at each evaluation, or once from the training ones",
    )
    target_map: Literal["tanh", "proportional"] = Field(
        "tanh", description="how 1 − a is shared by the non-top options"
    )
    bin_prior: float = Field(4.0, ge=0, description="strength of each bin's Beta prior, in questions")
    min_bin: int = Field(10, ge=1, description="bins with fewer questions are merged with a neighbour")
    sft2_mean: Literal["token", "question"] = Field(
        "token", description="L_SFT2 averaged over a question's tokens, or summed over them (see docs/decisions)"
    )
    evaluations_per_epoch: int = Field(1, ge=1, description="times an epoch that the calibration questions are scored")
    train_sample: int = Field(
        100, ge=0, description="training questions, drawn once, that are scored beside them; 0: none"
    )
    patience: int = Field(
        2, ge=0, description="evaluations without a better held-out NLL before stopping; 0: never stop"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights kept at the end: lowest held-out NLL, or the last"
    )
    gradient_checkpointing: bool = False
    seed: int = 0
    report_to: str = Field("none", description="a tracker that transformers knows, e.g. wandb, trackio, tensorboard")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulation_unit:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if self.quantize_4bit and self.lora is None:
            raise ValueError("quantize_4bit needs lora: 4-bit weights cannot be tuned themselves")
        return self

    @property
    def accumulation_unit(self) -> int:
        """Questions a forward pass."""
        return self.micro_batch_size or self.batch_size


def load_config(path: str | Path, **overrides: Any) -> TuneConfig:
    """A :class:`TuneConfig` from a YAML file, with ``overrides`` (those that are not ``None``) on top."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(asked=f"settings from {path}", found=str(error), todo="give a readable YAML file") from error
    if not isinstance(values, dict):
        raise ConfigError(
            asked=f"settings from {path}", found=f"a {type(values).__name__}", todo="give `name: value` lines"
        )
    return TuneConfig.make({**values, **{k: v for k, v in overrides.items() if v is not None}})


def _finding(cls: type[BaseModel], item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = LoraSettings.model_fields if item["loc"][0] == "lora" else cls.model_fields
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"unknown setting {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    return f"{name or 'settings'}: {item['msg']}"
