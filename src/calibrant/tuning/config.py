"""What a tuning run may be told: few fields, each with its unit and the paper's symbol."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from calibrant.errors import ConfigError, only
from calibrant.objectives import SETTINGS, Objective, settings_of

BATCH_STATISTICS = ("mmce", "soft_ece")
OTHER_NAMES = {"lr": "learning_rate", "r": "rank", "rank": "lora: {rank: …}"}
"""Settings as the command line, peft or transformers call them, by our names."""


class Strict(BaseModel):
    """A frozen settings object that refuses unknown keys and says which known one was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    if not TYPE_CHECKING:  # type checkers take the arguments from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _refused(type(self), error, f"{type(self).__name__} from {values}") from error

        __init__.__pydantic_base_init__ = True  # pydantic's own validation goes on without it

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("it takes no true or false")
        return value

    @classmethod
    def make(cls, values: dict[str, Any], *, source: str = "") -> Self:
        """Validate, turning pydantic's findings into one three-part error that names the source, if there is one."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _refused(cls, error, source or f"{cls.__name__} from {values}") from error


class LoraSettings(Strict):
    """Low-rank adaptation (peft). The paper uses rank 128, alpha 64, dropout .05, all linear layers."""

    rank: int = Field(16, ge=1, description="rank r of the update")
    alpha: float = Field(32, gt=0, description="scaling; the update is multiplied by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="of the input to the update, in training")
    targets: str | tuple[str, ...] = Field(
        "all-linear",
        description="module names, or 'all-linear' (all but the head and layers that give something else than W x + b)",
    )


class TuneConfig(Strict):
    """Settings of :func:`calibrant.tune`.

    ``objective`` says what is minimised (docs/objectives.md; the paper's are ``cft``, L_SFT1, and ``rcft``, L_SFT2 + λ·L_ECE;
    ``sft``, L_SFT2, is their control). Settings that an objective has no use for must keep their defaults, or :meth:`check`
    refuses them.
    """

    objective: Objective = Field("cft", description="what is minimised (docs/objectives.md)")
    epochs: float = Field(2, gt=0, description="passes over the training questions")
    batch_size: int = Field(16, ge=1, description="questions an optimiser step, over all forward passes and devices")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="questions a forward pass; batch_size must be a multiple. None: as many as 512 padded tokens hold on a "
        "CPU, 8,192 on a GPU; but the whole share of the batch where processes share it, or the objective is a statistic of it",
    )
    learning_rate: float = Field(3e-4, gt=0, le=1e37, description="peak, AdamW")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="of the rate, after the warmup"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are cut to this norm")
    lora: LoraSettings | None = Field(
        LoraSettings(), description="none: all weights are tuned, kept in float32 meanwhile"
    )
    quantize_4bit: bool = Field(
        False, description="QLoRA: frozen weights in NF4, on CUDA or a CPU; needs the extra [quant]"
    )
    over: Literal["vocabulary", "options"] = Field(
        "vocabulary",
        description="what the answer's log loss is normalised over: all tokens (paper), or the options alone (ours)",
    )
    language: Literal["sft2", "sft1"] = Field(
        "sft2", description="rcft: log loss of question and answer (paper), or of the answer alone (ours)"
    )
    lam: float = Field(1.0, ge=0, description="λ, weight of the calibration term in rcft, brier, mmce, soft_ece")
    epsilon: float = Field(
        0.1, ge=0, lt=1, description="ε of label_smoothing and cogcalib: share spread over all options"
    )
    gamma: float = Field(3.0, ge=0, description="γ of focal; 0 is plain log loss over the options")
    teacher_temperature: float | None = Field(
        None, gt=0, description="T of distill's teacher; none: fitted on the calibration questions"
    )
    soft_bin_temperature: float = Field(0.01, gt=0, description="T of soft_ece's bins; towards 0 they become hard")
    n_bins: int = Field(
        10, ge=1, description="M, equal-width bins of the E-step, of soft_ece, and of the ECE that is watched"
    )
    e_step: Literal["each_evaluation", "once", "cross_fitted"] = Field(
        "each_evaluation",
        description="rcft: bin accuracies from the calibration questions at each evaluation, from the training ones once, or "
        "from the training ones at each evaluation, for each fold from the other folds",
    )
    target_map: Literal["tanh", "proportional"] = Field(
        "tanh", description="how 1 − a is shared by the non-top options"
    )
    bin_prior: float = Field(4.0, ge=0, description="strength of each bin's Beta prior, in questions")
    min_bin: int = Field(10, ge=1, description="bins with fewer questions are merged with a neighbour")
    sft2_mean: Literal["question", "token"] = Field(
        "question", description="L_SFT2 summed over a question's tokens, or their average (see docs/decisions)"
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
    gradient_checkpointing: bool = Field(False, description="less memory, for the time of one more forward pass")
    seed: int = Field(
        0, ge=0, lt=2**32, description="of the adapter's first weights, the order of questions and dropout"
    )
    report_to: str = Field("none", description="a tracker that transformers knows, e.g. wandb, trackio, tensorboard")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulation_unit:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.quantize_4bit and self.lora is None:
            raise ValueError("quantize_4bit needs lora: 4-bit weights cannot be tuned themselves")
        if self.objective in BATCH_STATISTICS and self.accumulation_unit != self.batch_size:
            raise ValueError(
                f"{self.objective} is a statistic of the whole batch, so micro_batch_size must be batch_size or left out"
            )
        return self

    @property
    def accumulation_unit(self) -> int:
        """Questions a forward pass."""
        return self.micro_batch_size or self.batch_size

    @property
    def predicts_prompt(self) -> bool:
        """Whether the question's own tokens are learnt too (L_SFT2)."""
        return self.objective == "sft" or (self.objective == "rcft" and self.language == "sft2")

    @property
    def sees_all_options(self) -> bool:
        """Whether a step needs the probability of every option, not the answer's alone."""
        return self.objective not in ("cft", "sft") or (self.objective == "cft" and self.over == "options")

    @property
    def compares_options(self) -> bool:
        """Whether the loss reads probabilities over the options, as the reading's variant has them, besides or in the place
        of those over the vocabulary.
        """
        labels_alone = self.objective in ("label_smoothing", "cogcalib") and self.over == "vocabulary"
        return self.sees_all_options and not labels_alone

    @property
    def foreign(self) -> list[str]:
        """Settings that differ from their defaults although this objective has no use for them."""
        own = settings_of(self.objective, self.language)
        default = type(self)()
        return [name for name in SETTINGS if name not in own and getattr(self, name) != getattr(default, name)]

    def check(self) -> None:
        """Refuse settings of another objective.

        Raises
        ------
        ConfigError : names each, and the objectives that it belongs to.
        """
        if self.foreign:
            variant = f" with language {self.language!r}" if self.objective == "rcft" else ""
            raise ConfigError(
                asked=f"objective {self.objective!r}{variant} with {_named(self, self.foreign)}",
                found="; ".join(f"{name} belongs to {', '.join(SETTINGS[name])}" for name in self.foreign),
                todo="leave these settings out, or choose an objective that uses them"
                + (" (over needs language sft1, sft2_mean needs sft2)" if self.objective == "rcft" else ""),
            )

    def identity(self) -> dict[str, Any]:
        """What tells one tuning from another, as plain JSON: all settings but those of memory and tracking, others of which a
        run that broke off may go on with.
        """
        return self.model_dump(mode="json", exclude={"micro_batch_size", "gradient_checkpointing", "report_to"})

    def for_objective(self, objective: Objective) -> Self:
        """These settings for another objective; what it has no use for goes back to its default."""
        changed = self.make({**self.model_dump(exclude_unset=True), "objective": objective})
        given = changed.model_dump(exclude_unset=True)
        kept = {name: value for name, value in given.items() if name not in changed.foreign}
        return self.make(kept)


def given_config(config: TuneConfig | None) -> TuneConfig:
    """The settings that were given, or the defaults; :class:`ConfigError` for anything else."""
    if config is None:
        return TuneConfig()
    todo = "give TuneConfig(...), such as TuneConfig(epochs=1); calibrant.tuning.load_config(path) reads a file"
    only(TuneConfig, config, "settings of a tuning", todo)
    return config


class _EachOnce(yaml.SafeLoader):
    """YAML in which a key that is given twice is a fault, where plain YAML takes the last one unsaid."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, *, auto: bool = False) -> TuneConfig:
    """A :class:`TuneConfig` from a YAML file. With ``auto``, ``objective: auto`` in it counts as not set."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _EachOnce) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(asked=f"settings from {path}", found=str(error), todo="give a readable YAML file") from error
    if not isinstance(values, dict):
        raise ConfigError(
            asked=f"settings from {path}", found=f"a {type(values).__name__}", todo="give `name: value` lines"
        )
    if auto and values.get("objective") == "auto":
        del values["objective"]
    return TuneConfig.make(values, source=f"settings from {path}")


def _named(config: TuneConfig, names: list[str]) -> str:
    return ", ".join(f"{name} {getattr(config, name)!r}" for name in names)


def _refused(cls: type[BaseModel], error: ValidationError, asked: str) -> ConfigError:
    """What pydantic found, in three parts."""
    items = error.errors()
    inner = all(map(_of_lora, items))
    return ConfigError(
        asked=asked,
        found="; ".join(_finding(cls, item) for item in items),
        todo=f"known settings{' of lora' if inner else ''}: {', '.join((LoraSettings if inner else cls).model_fields)}",
    )


def _of_lora(item: Any) -> bool:
    """Whether a finding is about a setting within ``lora``."""
    return len(item["loc"]) > 1 and item["loc"][0] == "lora"


def _finding(cls: type[BaseModel], item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = LoraSettings.model_fields if _of_lora(item) else cls.model_fields
        last = str(item["loc"][-1])
        other = OTHER_NAMES.get(last, "")
        close = [other] if other.split(":")[0] in known else difflib.get_close_matches(last, known, n=1)
        return f"unknown setting {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    return f"{name or 'settings'}: {item['msg']}"


def refuse_to_load(config: TuneConfig, loading: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where 4 bits or other settings of the tuning are asked of the loading; or for a GPU that the
    trainer would not take.
    """
    refuse_other_gpu(str(loading.get("device", "auto")))
    if "quantize_4bit" in loading:
        raise ConfigError(
            asked="a model loaded with quantize_4bit to be tuned",
            found="that is a setting of the tuning, since only an adapter can be tuned on such weights",
            todo="set quantize_4bit in the TuneConfig; the model is then scored in 4 bits too",
        )
    if own := [name for name in loading if name in TuneConfig.model_fields]:
        raise ConfigError(
            asked=f"a model loaded with {', '.join(own)}",
            found="settings of the tuning",
            todo=f"give them in config=TuneConfig({own[0]}=…)",
        )


def refuse_other_gpu(device: str) -> None:
    """Raise :class:`ConfigError` for a GPU by a number that is not the trainer's: it takes the first that it sees, of several
    processes each its own.
    """
    own = os.environ.get("LOCAL_RANK", "0")
    kind, _, index = device.partition(":")
    if kind == "cuda" and index not in ("", own):
        raise ConfigError(
            asked=f"a tuning on {device}",
            found=f"the trainer takes cuda:{own} of the GPUs that it sees",
            todo=f"set CUDA_VISIBLE_DEVICES={index} and ask for device cuda",
        )


def for_scoring(config: TuneConfig, loading: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``load_model`` for the models around a tuning: in 4 bits where it tunes so."""
    return {**loading, "quantize_4bit": True} if config.quantize_4bit else dict(loading)
