"""The two models that are compared: the aligned one, and the tuned one that was made from it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from calibrant.errors import ConfigError, ModelError
from calibrant.scoring.fingerprints import fingerprints
from calibrant.scoring.models import LoadedModel, chat_template_facts, load_model, only_by_name
from calibrant.scoring.precision import precision

Which = Literal["aligned", "tuned"]
WHICH: tuple[Which, ...] = ("aligned", "tuned")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""peft's ``init_lora_weights`` that leave the model's own weights as they are; PiSSA, OLoRA and others move a part of them
into the adapter."""


class ModelPair:
    """Aligned and tuned model, loaded when first needed.

    With an adapter the weights are loaded once: the aligned model is the tuned one with its adapter switched off. With tuned
    weights both models are in memory together, and so they are with an adapter that changes the model's own weights, which
    switching it off does not give back (tuned biases; PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, KaSA).

    Parameters
    ----------
    model : the aligned model: hub id, local folder or GGUF file.
    adapter : the tuned model's adapter; or ``tuned``, its weights.
    loading : further arguments of :func:`calibrant.load_model`, for both.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        tuned: str | Path | None = None,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        if (adapter is None) == (tuned is None):
            raise ConfigError(
                asked="an alignment check of a tuned model",
                found="neither an adapter nor tuned weights" if adapter is None else "an adapter and tuned weights",
                todo="give one of the two",
            )
        only_by_name(model, "an alignment check of a model")
        self.model, self.adapter, self.tuned = model, adapter, tuned
        self.loading = dict(loading or {})
        self._aligned: LoadedModel | None = None
        self._tuned: LoadedModel | None = None
        self._template: dict[str, str | None] | None = None

    @property
    def tokenizer(self) -> Any:
        """The aligned model's tokenizer."""
        return self._load().tokenizer

    @property
    def context_length(self) -> int | None:
        """Longest input in tokens that both take, where it is known."""
        self._load()
        known = [m.context_length for m in (self._aligned, self._tuned) if m is not None and m.context_length]
        return min(known) if known else None

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self._load().device

    @contextmanager
    def using(self, which: Which) -> Iterator[Any]:
        """The model itself, aligned or tuned, as long as the block lasts."""
        self._load()
        assert self._tuned is not None
        if which == "tuned":
            yield self._tuned.model
        elif self._aligned is not None:
            yield self._aligned.model
        else:
            with self._tuned.model.disable_adapter():
                yield self._tuned.model

    def release(self) -> None:
        """Let go of the weights; they are loaded again when needed."""
        self._aligned = self._tuned = None
        gc.collect()

    def identity(self) -> dict[str, Any]:
        """Names and weight fingerprints of the models, the aligned one's chat template, and in what precision they are, for
        the folder of a run.
        """
        if self._template is None:
            self._template = chat_template_facts(self.model, ["chat"], **self.loading)
        named = {"model": self.model, "adapter": self.adapter, "tuned": self.tuned}
        return {
            **{name: None if at is None else str(at) for name, at in named.items()},
            "weights": fingerprints(**named),
            **self._template,
            "loading": {name: str(value) for name, value in self.loading.items()},
            **precision(self.loading),
        }

    def _load(self) -> LoadedModel:
        if self._tuned is None:
            if self.tuned is None:
                with_adapter = load_model(self.model, adapter=self.adapter, **self.loading)
                if not all(map(leaves_weights_alone, with_adapter.model.peft_config.values())):
                    self._aligned = load_model(self.model, **self.loading)
                self._tuned = with_adapter
            else:
                self._aligned = load_model(self.model, **self.loading)
                self._tuned = load_model(self.tuned, **{**self.loading, "revision": None})
                same_vocabulary(self._aligned.tokenizer, self._tuned, "tuned model")
        return self._aligned or self._tuned


def leaves_weights_alone(config: Any) -> bool:
    """Whether a model whose adapter has this peft configuration is the one without it once the adapter is switched off."""
    biases, start = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", None)
    further = any(getattr(config, name, None) for name in ("kasa_config", "layer_replication"))
    return biases == "none" and start in PLAIN_STARTS and not further


def same_vocabulary(tokenizer: Any, other: LoadedModel, what: str) -> None:
    """Refuse a model whose tokens are others than those of ``tokenizer``: its log-probabilities would be of other texts.

    Further tokens that only one of the two knows are allowed, as long as the other model has a row for them.
    """
    mine, theirs = tokenizer.get_vocab(), other.tokenizer.get_vocab()
    differ = [token for token, i in mine.items() if theirs.get(token, i) != i]
    rows = other.model.get_input_embeddings().weight.shape[0]
    if differ or max(mine.values()) >= rows:
        found = (
            f"{len(differ)} tokens with other numbers" if differ else f"{rows} rows for {max(mine.values()) + 1} tokens"
        )
        raise ModelError(
            asked=f"log-probabilities of the same tokens under the {what}",
            found=f"another vocabulary: {found}",
            todo=f"give a {what} with the aligned model's tokenizer",
        )
