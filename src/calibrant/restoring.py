"""``restore``: the main job. Score the aligned model, diagnose it, tune it, score it again, report.

Every stage leaves its result in the run's folder, so an interrupted run goes on where it stopped::

    OUT/run.json              what this run is: model, prompt, settings, digests of the questions
    OUT/questions/*.jsonl     the splits, as used
    OUT/scores/before/{calibration,test,<ood>}.safetensors, and the same in OUT/scores/tuned
    OUT/scores/reference/calibration.safetensors, where a reference model was given
    OUT/diagnosis.json
    OUT/tuning/adapter/       the restored model's adapter, with a model card
    OUT/temperature.json      the temperature that the tuned model's options are divided by, where it needs one
    OUT/scores/after/{test,<ood>}.safetensors, the tuned scores with that temperature
    OUT/report/index.html     and report.md, report.json, figures
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from calibrant._version import __version__
from calibrant.diagnosis import Diagnosis, diagnose
from calibrant.errors import ConfigError, QuestionError
from calibrant.files import claim_folder, write_atomically, write_json
from calibrant.metrics import compare, measure
from calibrant.objectives import Objective
from calibrant.prompts import PromptStyle
from calibrant.questions import QuestionSet, drop_leaked, refuse_leakage, split_questions
from calibrant.reporting import Domain, model_card, report
from calibrant.scalers import Temperature, cross_validated, temperature_is_possible
from calibrant.scores import Scores
from calibrant.scoring import LoadedModel, load_model, score
from calibrant.tuning import TuneConfig, TuneResult, tune

SHARES = {"train": 0.6, "calibration": 0.2, "test": 0.2}
SPLITS = tuple(SHARES)
Choice = Literal["auto"] | Objective


@dataclass(frozen=True)
class Restored:
    """What :func:`restore` made. ``tuning`` and ``after`` are ``None`` / empty where the diagnosis asked for no tuning;
    ``temperature`` is ``None`` where none was needed, and else in ``after`` already.
    """

    diagnosis: Diagnosis
    tuning: TuneResult | None
    before: Mapping[str, Scores]
    after: Mapping[str, Scores]
    report: Path
    temperature: Temperature | None = None


def restore(
    model: str | Path,
    splits: Mapping[str, QuestionSet],
    *,
    out: str | Path,
    ood: Mapping[str, QuestionSet] | None = None,
    objective: Choice = "auto",
    config: TuneConfig | None = None,
    style: PromptStyle | None = None,
    reference: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
    batch_tokens: int | None = None,
    cluster: str | None = None,
    temperature: bool = True,
    **loading: Any,
) -> Restored:
    """Restore the calibration of an aligned model, and show by how much, in and out of domain.

    The objective is chosen on the calibration split alone (:func:`calibrant.diagnose`); the test splits are only measured.

    Parameters
    ----------
    model : hub id, local folder or GGUF file.
    splits : ``train``, ``calibration`` and ``test``, disjoint by content (:func:`calibrant.split_questions` makes them).
    out : folder of the run. Called again with the same arguments, a run goes on where it stopped.
    ood : out-of-domain test sets by name.
    objective : ``"auto"`` follows the diagnosis, to ``"cft"`` or ``"rcft"``; any other name of docs/objectives.md is done
        whatever it says.
    config : settings of the tuning; its ``objective`` gives way to the one chosen here, and under ``"auto"`` settings that
        the chosen one has no use for are left aside.
    style : how questions are put; letters in a raw prompt by default.
    reference : the model before its alignment: it scores the calibration questions too, with ``loading`` but its own
        revision, so that the diagnosis can tell what alignment changed and has a target of its own.
    progress : draw progress bars and say what happens.
    command : kept in the provenance.
    batch_tokens : token budget of a scoring pass.
    cluster : a column of the questions, or ``"subject"``, whose groups the intervals of the report resample whole;
        name it where questions of one group are alike, else the intervals are too narrow.
    temperature : whether the tuned model may be given a temperature at last: fitted on its calibration scores, and kept
        only if it lowers their log loss in cross-validation, beyond the paired interval (docs/decisions/005).
    loading : further arguments of :func:`calibrant.load_model`.

    Raises
    ------
    LeakageError : a question stands in two splits.
    ConfigError : ``out`` holds another run; a setting that the named objective has no use for.
    """
    style, config, out, ood = style or PromptStyle(), config or TuneConfig(), Path(out), dict(ood or {})
    if objective != "auto":
        config = TuneConfig.make({**config.model_dump(), "objective": objective})
        config.check()
    _check_splits(splits, ood)
    _check_cluster(cluster, {"calibration": splits["calibration"], "test": splits["test"], **ood})
    sets = {**{name: splits[name] for name in SPLITS}, **ood}
    refuse_leakage(**sets)
    claim_folder(out, _identity(model, style, config, objective, sets, reference, loading), "restore run")
    for name, questions in sets.items():
        questions.save(out / "questions" / f"{name}.jsonl")
    stage = _Stage(Path(out), model, style, progress, command, config.seed, batch_tokens, loading)
    held_out = {name: questions for name, questions in sets.items() if name != "train"}
    measured = {name: questions for name, questions in held_out.items() if name != "calibration"}

    base = None if reference is None else stage.reference(reference, splits["calibration"])
    before = stage.scores("before", held_out)
    diagnosis = diagnose(before["calibration"], reference=base, seed=config.seed)
    write_json(out / "diagnosis.json", diagnosis.to_json())
    stage.say(diagnosis.to_text())
    chosen = _chosen(objective, diagnosis)
    tuning, after, scaler, found = None, {}, None, {}
    if chosen is None:
        stage.say(f"No tuning: the diagnosis asks for {diagnosis.action!r}. Choose an objective to tune all the same.")
    else:
        tuning = stage.tune(config.for_objective(chosen), splits)
        tuned = stage.scores("tuned", held_out, adapter=tuning.adapter, weights=tuning.weights)
        scaler = last_temperature(tuned["calibration"], seed=config.seed, cluster=cluster) if temperature else None
        after = {name: tuned[name] if scaler is None else scaler.apply(tuned[name]) for name in measured}
        stage.keep("after", after, scaler)
        found = {**tuning.to_json(), "temperature": None if scaler is None else scaler.described()}
    domains = [
        Domain(_label(name, questions), name == "test", before[name], after.get(name))
        for name, questions in measured.items()
    ]
    asked = _asked(model, reference, style, config, objective, chosen, sets, before["test"], command)
    notes = [f"{len(q.skipped)} rows of {name!r} were left out by name." for name, q in sets.items() if q.skipped]
    if tuning is not None and not _better_than_start(tuning):
        notes.append(
            "No evaluation had a lower held-out log loss than the untuned model: the adapter is no improvement."
        )
    if scaler is not None:
        notes += _without_temperature({name: tuned[name] for name in measured}, cluster)
    page = report(
        domains,
        diagnosis=diagnosis,
        tuning=found,
        asked=asked,
        notes=notes,
        out=out / "report",
        cluster=cluster,
    )
    if tuning is not None:
        card = model_card(domains, tuning=found, asked=asked, cluster=cluster)
        write_atomically((tuning.adapter or tuning.weights or out) / "README.md", card)
    stage.say(_closing(domains, page, cluster))
    return Restored(diagnosis, tuning, before, after, page, scaler)


def last_temperature(calibration: Scores, *, seed: int = 0, cluster: str | None = None) -> Temperature | None:
    """A temperature for a tuned model from its scores of the calibration questions; ``None`` where none is needed.

    Needed is one that lowers the log loss of those questions when each is rescaled by a temperature fitted on other folds,
    with a paired 95 % interval that leaves out 0. Predictions never change. Ours.
    """
    if calibration.n < 2 or not temperature_is_possible(calibration):
        return None
    rescaled = cross_validated(Temperature(), calibration, seed=seed)
    change = compare(calibration, rescaled, seed=seed, cluster=cluster)["nll"]
    return Temperature().fit(calibration) if change.verdict == "b is better" else None


def assemble(
    questions: QuestionSet,
    *,
    test: QuestionSet | None = None,
    calibration: QuestionSet | None = None,
    ood: Mapping[str, QuestionSet] | None = None,
    seed: int = 0,
    drop: bool = False,
) -> tuple[dict[str, QuestionSet], dict[str, QuestionSet]]:
    """The splits and out-of-domain sets that :func:`restore` takes, from what is at hand.

    What is not given is held out of ``questions``: a fifth each for calibration and test, three fifths to train, in these
    proportions. With ``drop``, a question that stands in two sets stays in the first of test, out-of-domain sets,
    calibration, training, and the others list it as skipped; without, :func:`restore` refuses it.
    """
    ood = dict(ood or {})
    given = {name: q for name, q in (("test", test), *ood.items(), ("calibration", calibration)) if q is not None}
    if drop:
        for name in given:
            for earlier in given:
                if earlier == name:
                    break
                given[name] = drop_leaked(given[earlier], given[name])
        for kept in given.values():
            questions = drop_leaked(kept, questions)
    wanted = {name: share for name, share in SHARES.items() if name not in given}
    share = {name: wanted.get(name, 0.0) / sum(wanted.values()) for name in SHARES}
    parts = split_questions(
        questions, train=share["train"], calibration=share["calibration"], test=share["test"], seed=seed
    )
    splits = {name: given.get(name, parts[name]) for name in SPLITS}
    splits["train"] = replace(splits["train"], skipped=questions.skipped)
    return splits, {name: given[name] for name in ood}


@dataclass
class _Stage:
    out: Path
    model: str | Path
    style: PromptStyle
    progress: bool
    command: str | None
    seed: int
    batch_tokens: int | None
    loading: dict[str, Any]
    _loaded: LoadedModel | None = None

    def say(self, text: str) -> None:
        if self.progress:
            Console(stderr=True).print(text, highlight=False, markup=False)

    def scores(
        self,
        when: str,
        sets: Mapping[str, QuestionSet],
        *,
        adapter: Path | None = None,
        weights: str | Path | None = None,
    ) -> dict[str, Scores]:
        found = {}
        for name, questions in sets.items():
            path = self.out / "scores" / when / f"{name}.safetensors"
            if not path.exists():
                by = {"reference": "with the reference", "before": "before tuning", "tuned": "after tuning"}[when]
                self.say(f"Scoring {name!r} {by}: {len(questions)} questions")
                score(
                    self._load(weights or self.model, adapter),
                    questions,
                    style=self.style,
                    split=name,
                    progress=self.progress,
                    command=self.command,
                    seed=self.seed,
                    batch_tokens=self.batch_tokens,
                ).save(path)
            found[name] = Scores.load(path)
        self._release()
        return found

    def keep(self, when: str, scores: Mapping[str, Scores], scaler: Temperature | None) -> None:
        for name, kept in scores.items():
            kept.save(self.out / "scores" / when / f"{name}.safetensors")
        if scaler is not None:
            write_json(self.out / "temperature.json", scaler.to_json())
            self.say(f"One temperature on top, T = {scaler.temperature_:.3f}, from the calibration questions")

    def reference(self, model: str | Path, calibration: QuestionSet) -> Scores:
        other = replace(self, loading={**self.loading, "revision": None})
        return other.scores("reference", {"calibration": calibration}, weights=model)["calibration"]

    def tune(self, config: TuneConfig, splits: Mapping[str, QuestionSet]) -> TuneResult:
        self.say(f"Tuning by {config.objective.upper()} on {len(splits['train'])} questions")
        return tune(
            self.model,
            splits["train"],
            splits["calibration"],
            out=self.out / "tuning",
            config=config,
            style=self.style,
            progress=self.progress,
            batch_tokens=self.batch_tokens,
            **self.loading,
        )

    def _load(self, model: str | Path, adapter: Path | None) -> LoadedModel:
        if self._loaded is None:
            self._loaded = load_model(model, adapter=adapter, **self.loading)
        return self._loaded

    def _release(self) -> None:
        self._loaded = None
        gc.collect()


def _check_splits(splits: Mapping[str, QuestionSet], ood: Mapping[str, QuestionSet]) -> None:
    missing = [name for name in SPLITS if not splits.get(name)]
    if missing:
        raise QuestionError(
            asked=f"questions to {', '.join(SPLITS)}",
            found=f"none for {', '.join(missing)}",
            todo="give each split at least one question; split_questions makes three of one set",
        )
    clash = [name for name in ood if name in SPLITS]
    if clash:
        raise ConfigError(
            asked=f"out-of-domain sets named {', '.join(ood)}",
            found=f"{', '.join(clash)} is the name of a split",
            todo="give them names of their own",
        )


def _check_cluster(cluster: str | None, measured: Mapping[str, QuestionSet]) -> None:
    """Before hours are spent: each question must name its group."""
    if cluster is None:
        return
    for name, questions in measured.items():
        unnamed = [q.id for q in questions if (q.subject if cluster == "subject" else q.columns.get(cluster)) is None]
        if unnamed:
            raise ConfigError(
                asked=f"intervals that resample whole groups by {cluster!r}",
                found=f"{len(unnamed)} of {len(questions)} questions of {name!r} name none, first {unnamed[0]!r}",
                todo="give each question that column, or leave cluster out",
            )


def _better_than_start(tuning: TuneResult) -> bool:
    start, *path = (point["nll"] for point in tuning.history)
    return any(nll < start for nll in path)


def _without_temperature(tuned: Mapping[str, Scores], cluster: str | None) -> list[str]:
    """What the tuning did by itself, so that the temperature's part can be told apart."""
    notes = []
    for name, scores in tuned.items():
        e = measure(scores, cluster=cluster)["conf_ece"]
        notes.append(
            f"Of {name!r}, the tuned model without the temperature has a conf-ECE of {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]."
        )
    return notes


def _label(name: str, questions: QuestionSet) -> str:
    return name if questions.name == name else f"{questions.name}, {name}"


def _chosen(objective: Choice, diagnosis: Diagnosis) -> Objective | None:
    if objective != "auto":
        return objective
    if diagnosis.action in ("nothing", "other-reading"):
        return None
    return "rcft" if diagnosis.action == "rcft" else "cft"


def _identity(
    model: str | Path,
    style: PromptStyle,
    config: TuneConfig,
    objective: str,
    sets: Mapping[str, QuestionSet],
    reference: str | Path | None,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "reference": None if reference is None else str(reference),
        "model": str(model),
        "loading": {name: str(value) for name, value in loading.items()},
        "prompt": asdict(style),
        "prompt_digest": style.digest,
        "objective": objective,
        "config": config.model_dump(mode="json"),
        "questions": {name: {"n": len(q), "digest": q.digest} for name, q in sets.items()},
    }


def _asked(
    model: str | Path,
    reference: str | Path | None,
    style: PromptStyle,
    config: TuneConfig,
    objective: str,
    chosen: str | None,
    sets: Mapping[str, QuestionSet],
    before: Scores,
    command: str | None,
) -> dict[str, Any]:
    variant = f", {style.variant}" if style.reading == "continuation" else ""
    facts = before.provenance
    return {
        "model": str(model),
        "revision": facts.get("revision"),
        "weights fingerprint": facts.get("weights"),
        "reference": None if reference is None else str(reference),
        "questions": {name: f"{q.name} ({len(q)})" for name, q in sets.items()},
        "reading": f"{style.reading} ({style.format}{variant})",
        "objective": f"{chosen or 'none'} ({'asked for' if objective != 'auto' else 'chosen by the diagnosis'})",
        "precision": facts.get("dtype"),
        "device": facts.get("device"),
        "seed": config.seed,
        "versions": {**facts.get("versions", {}), "calibrant": __version__},
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
    }


def _closing(domains: list[Domain], page: Path, cluster: str | None) -> str:
    lines = []
    for domain in domains:
        if domain.after is None:
            continue
        a, b = (measure(scores, cluster=cluster) for scores in (domain.before, domain.after))
        parts = [
            f"{label} {a[name].value:.3f} [{a[name].low:.3f}, {a[name].high:.3f}] -> "
            f"{b[name].value:.3f} [{b[name].low:.3f}, {b[name].high:.3f}]"
            for label, name in (("conf-ECE", "conf_ece"), ("accuracy", "accuracy"))
        ]
        lines.append(f"{domain.name} (n={a.n}): {'; '.join(parts)}; floor {b['conf_ece'].floor_p95:.3f}")
    return "\n".join([*lines, f"Report: {page}"])
