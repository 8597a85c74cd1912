"""``export``: a tuned model as a folder that a server needs, checked against the model that was measured."""

from __future__ import annotations

import gc
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import SafetensorError

from calibrant._version import __version__
from calibrant.errors import ConfigError, ModelError, OutputError, one_line
from calibrant.exporting import reader
from calibrant.exporting.card import drift_words, serving_card
from calibrant.exporting.decision_model import Measured, make_decision_model
from calibrant.exporting.decisions import SERVED, Abstention, abstention, expected, halves, refuse_foreign
from calibrant.exporting.folding import Folded, fold_temperature
from calibrant.exporting.manifest import CARD, READER, SCALER, THRESHOLD, Export, write_manifest
from calibrant.exporting.merging import merge_adapter
from calibrant.exporting.portable import portable_prompt
from calibrant.exporting.settings import ServeConfig, already_there, asked_for, refuse_other_kinds, refuse_settings
from calibrant.exporting.source import Source
from calibrant.files import refuse_further_process, write_atomically, write_json
from calibrant.metrics import Drift, drift
from calibrant.provenance import is_gguf
from calibrant.questions import QuestionSet, question_set
from calibrant.scalers import Temperature, at_temperature, question_keys
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.scoring.models import chat_template_facts, quiet_peft
from calibrant.scoring.precision import DTYPES, stored_dtypes
from calibrant.scoring.templates import answer_slot

UNQUANTISED = "; the model was measured in 4 bits, and the export holds the weights and the adapter as they are stored"


def export(
    source: Source,
    *,
    out: str | Path,
    config: ServeConfig | None = None,
    check: QuestionSet | None = None,
    progress: bool = False,
    command: str | None = None,
    batch_tokens: int | None = None,
) -> Export:
    """Write a folder with weights, tokenizer, manifest, reader and card, and measure it against the model before.

    Merging and folding are done in float32 (4 bytes of memory a parameter) and cast once. The folder appears whole, by
    a rename. Asked again for the same export, it verifies the one that is there and returns it.

    Parameters
    ----------
    source : a run (:meth:`Source.of_run`) or a model with an adapter.
    out : folder to make.
    config : what to write.
    check : questions of the drift check; by default the source's calibration questions. Without any, the export is
        written unchecked, and folding is refused.
    progress, command, batch_tokens : as for :func:`calibrant.score`.

    Raises
    ------
    ConfigError : ``out`` holds something else; arguments of another kind; settings that contradict each other; no threshold
        can be promised; scores of another model; a further process of a run of several. ModelError : the adapter cannot be
        merged, the temperature not folded, or the export drifted. LeakageError : a temperature fitted on the
        questions it is to be judged by. OutputError : no space.
    """
    refuse_further_process("an export")
    config, out = ServeConfig() if config is None else config, Path(out)
    refuse_other_kinds(source, config)
    if out.is_symlink() or not out.name:
        out = out.resolve()  # neither a link nor "." can be put in place by a rename
    check = source.calibration if check is None else question_set(check, "check")
    refuse_settings(source, config, check)
    asked = asked_for(source, config, check)
    if (known := already_there(out, asked)) is not None:
        return known
    scoring: dict[str, Any] = {"progress": progress, "batch_tokens": batch_tokens, "command": command}
    work = _Work(source, config, asked, scoring)
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # before anything is scored
    try:
        work.measure(check)
        with _writing(out):
            work.write(temporary)
            temporary.chmod(0o755)
            if out.is_dir():
                out.rmdir()  # it is empty
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Export.open(out, verify=False)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """While active, what keeps an export from being written is an :class:`OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        todo = "free space there, or choose another place, then run again"
        raise OutputError(asked=f"an export in {out}", found=str(error), todo=todo) from error


@dataclass
class _Work:
    source: Source
    config: ServeConfig
    asked: dict[str, Any]
    scoring: dict[str, Any]
    loaded: LoadedModel | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    slot: str = ""
    check: QuestionSet | None = None
    before: Scores | None = None
    scaler: Temperature | None = None
    abstention: Abstention | None = None

    # ---- before anything is written ---------------------------------------------------------------------------------

    def measure(self, check: QuestionSet | None) -> None:
        source, config = self.source, self.config
        self.loaded = load_model(source.model, adapter=source.adapter, **source.loading)
        self.facts = {**self.loaded.facts, **chat_template_facts(self.loaded, [source.style.format])}
        self.slot = answer_slot(self.loaded.tokenizer)
        self.check = check
        if not config.merge and (source.adapter is None or is_gguf(source.model)):
            found = "there is no adapter" if source.adapter is None else "its model is a GGUF file"
            raise ConfigError(asked="the adapter alone (--no-merge)", found=found, todo="leave --no-merge out")
        scored: dict[str, Scores] = {}

        def on(questions: QuestionSet) -> Scores:
            if questions.digest not in scored:
                assert self.loaded is not None
                scored[questions.digest] = score(self.loaded, questions, style=source.style, **self.scoring)
            return scored[questions.digest]

        self.before = None if check is None else on(check)
        self._decide(lambda: on(source.calibration) if source.calibration is not None else None)

    def _decide(self, own_scores: Callable[[], Scores | None]) -> None:
        config, style = self.config, self.source.style
        fit, held = config.temperature_from, config.calibration if config.target_accuracy is not None else None
        own = None if config.scaler is not None or fit is not None else self.source.temperature
        if own is not None and held == "calibration":  # it was fitted on the questions of the threshold
            own, fit = None, "calibration"
        named = {"a temperature": fit, "a threshold": held, "what to expect": self.source.test}
        for name, scores in named.items():
            if isinstance(scores, Scores):
                refuse_foreign(scores.provenance, self.facts, style, name)
        if config.scaler is not None:
            refuse_foreign(config.scaler.fitted_on_, self.facts, style, "a temperature to ship")
        fit, held = (own_scores() if isinstance(x, str) else x for x in (fit, held))
        if fit is not None and held is not None and set(question_keys(fit)) == set(question_keys(held)):
            fit, held = halves(fit)
        self.scaler = (config.scaler or own) if fit is None else Temperature().fit(fit)
        if held is not None:
            assert config.target_accuracy is not None
            steered = self.source.steered and self._chosen_by(held)
            self.abstention = abstention(
                held, self.scaler, config.target_accuracy, config.level, test=self.source.test, steered=steered
            )

    def _chosen_by(self, held: Scores) -> bool:
        """Whether these are questions that the run steered its tuning by."""
        own = {q.content_hash for q in self.source.calibration or ()}
        return not own.isdisjoint(question_keys(held))

    # ---- the folder -------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        dtype = self.facts["dtype"] if self.config.dtype == "auto" else self.config.dtype
        folded = self._weights(folder, dtype) if self.config.merge else self._adapter(folder)
        if self.scaler is not None:
            write_json(folder / SCALER, _without_places(self.scaler))
        if self.abstention is not None:
            write_json(folder / THRESHOLD, self.abstention.to_json())
        write_atomically(folder / READER, Path(reader.__file__).read_text(encoding="utf-8"))
        facts = self._manifest(dtype, folded)
        facts["drift"] = None if (found := self._drift(folder, facts)) is None else found.to_json()
        if found is not None and not found.is_faithful and not self.config.allow_drift:
            raise ModelError(
                asked=f"an export that stays within {found.tolerance:g} of the model before",
                found=drift_words(facts),
                todo="use a wider --dtype, leave folding off, raise --tolerance, or accept it with --allow-drift"
                + (UNQUANTISED if "quantized" in self.facts else ""),
            )
        facts["decision_model"] = self._decision_model(folder, facts)
        write_atomically(folder / CARD, serving_card(facts))
        write_manifest(folder, facts)

    def _weights(self, folder: Path, dtype: str) -> Folded | None:
        loaded = self._in_float32()
        model = loaded.model
        if self.source.adapter is not None:
            with quiet_peft():
                model = merge_adapter(model, self.source.adapter)
        folded = None
        if self.config.fold:
            assert self.scaler is not None
            assert self.scaler.temperature_ is not None
            folded = fold_temperature(model, self.scaler.temperature_)
        kinds = stored_dtypes(model, DTYPES[dtype])
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.data = tensor.data.to(kinds.get(name, tensor.dtype))
        model.config.dtype = DTYPES[dtype]
        _save(model, loaded.tokenizer, folder)
        return folded

    def _adapter(self, folder: Path) -> Folded | None:
        assert self.loaded is not None
        config = self.loaded.model.active_peft_config
        config.base_model_name_or_path, config.revision = self._base_name(), self.facts["revision"]
        _save(self.loaded.model, self.loaded.tokenizer, folder)
        self._release()
        return None

    def _in_float32(self) -> LoadedModel:
        """The model with its weights as they are stored, also where it was measured in 4 bits."""
        assert self.loaded is not None
        as_stored = self.facts["dtype"] == "float32" and "quantized" not in self.facts
        if as_stored and self.facts["device"] == "cpu":
            kept = self.loaded
        else:
            self._release()
            plain = {**self.source.loading, "dtype": "float32", "device": "cpu"}
            plain.pop("quantize_4bit", None)
            kept = load_model(self.source.model, adapter=self.source.adapter, **plain)
        self._release()
        return kept

    def _release(self) -> None:
        self.loaded = None
        gc.collect()

    def _base_name(self) -> str:
        """Of an adapter alone the model must be found again: a local one by its full path."""
        local = Path(self.source.model).exists() and not self.config.merge
        return str(Path(self.source.model).resolve()) if local else str(self.source.model)

    def _drift(self, folder: Path, facts: Mapping[str, Any]) -> Drift | None:
        if self.check is None or self.before is None:
            return None
        names = ("device", "trust_remote_code", "allow_pickle")
        loading = {name: value for name, value in self.source.loading.items() if name in names}
        written = Export(folder, facts).load(**loading)
        after = score(written, self.check, style=self.source.style, **self.scoring)
        temperature = float(facts["temperature"]["value"])
        before = at_temperature(self.before, temperature)
        if not facts["temperature"]["folded"]:
            after = at_temperature(after, temperature)
        for name, scores in (("before", before), ("after", after)):
            marked = {**scores.provenance, SERVED: temperature}
            replace(scores, provenance=marked).save(folder / "check" / f"{name}.safetensors")
        return drift(before, after, tolerance=self.config.tolerance)

    def _decision_model(self, folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What is needed to serve the folder as a decision model, checked; or why it is not there."""
        if not self.config.merge:
            return {"why_not": "the adapter is written alone, and transformers looks for both files beside the weights"}
        measured = None
        if self.check is not None and self.before is not None:
            at_served = at_temperature(self.before, float(facts["temperature"]["value"]))
            measured = Measured(self.check, at_served)
        return make_decision_model(
            folder,
            self.source.style,
            facts["temperature"]["apply"],
            measured=measured,
            tolerance=self.config.tolerance,
            allow_drift=self.config.allow_drift,
            trust_remote_code=bool(self.source.loading.get("trust_remote_code", False)),
            device=self.facts["device"],
            progress=self.scoring["progress"],
        )

    def _manifest(self, dtype: str, folded: Folded | None) -> dict[str, Any]:
        facts, scaler = self.facts, self.scaler
        value = 1.0 if scaler is None else scaler.temperature_
        local = Path(self.source.model).exists()
        promise = None if self.abstention is None else self.abstention.to_json()
        return {
            "asked": self.asked,
            "model": {
                "name": self._base_name(),
                "on_hub": not local and not is_gguf(self.source.model),
                "revision": facts["revision"],
                "weights": facts["weights"],
            },
            "adapter": None
            if self.source.adapter is None
            else {
                "name": self.source.adapter,
                "revision": facts["adapter_revision"],
                "weights": facts["adapter_weights"],
                "merged": self.config.merge,
                "not_adapted": self.source.not_adapted or None,
            },
            "dtype": dtype,
            "quantized": facts.get("quantized"),
            "prompt": portable_prompt(self.source.style, self.slot),
            "temperature": {
                "value": value,
                "folded": folded is not None,
                "where": None if folded is None else folded.where,
                "apply": 1.0 if folded is not None else value,
                "file": None if scaler is None else SCALER,
                "cautions": [] if scaler is None else list(scaler.cautions()),
            },
            "abstention": None
            if promise is None
            else {**{k: v for k, v in promise.items() if k != "fit_keys"}, "file": THRESHOLD},
            "expected": None if self.source.test is None else expected(self.source.test, scaler),
            "drift": None,
            "decision_model": None,
            "versions": {
                "calibrant": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
                "python": platform.python_version(),
            },
            "command": self.scoring["command"],
        }


def _without_places(scaler: Temperature) -> dict[str, Any]:
    """The scaler without the folders of this machine."""
    values = scaler.to_json()
    facts = values["fitted_on"]
    here = {name for name in ("model", "adapter") if facts.get(name) and Path(facts[name]).exists()}
    told = {name: fact for name, fact in facts.items() if name not in here}
    return values | {"fitted_on": told}


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except ValueError as error:
        raise ModelError(
            asked=f"{type(model).__name__} written to disk",
            found=one_line(error),
            todo="correct the model's generation or other configuration files, then export again",
        ) from error
