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
    OUT/alignment.json        whether alignment survived, where it was asked; the parts of it in OUT/alignment/
    OUT/report/index.html     and report.md, report.json, figures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calibrant.alignment import AlignmentCheck, AlignSettings, Collected, PreferencePair, Prompt
from calibrant.alignment.settings import refuse_other_kinds
from calibrant.diagnosis import Diagnosis, diagnose
from calibrant.diagnosis.verdict import LEAST_N
from calibrant.errors import only_numbers
from calibrant.files import alone, claim_folder, read_json, refuse_further_process, write_atomically, write_json
from calibrant.metrics import nll
from calibrant.metrics.measurement import INDISTINGUISHABLE
from calibrant.objectives import Objective
from calibrant.prompts import PromptStyle, given_style
from calibrant.questions import Question, QuestionSet, check_cluster
from calibrant.reporting import Domain, model_card, report
from calibrant.restoring import words
from calibrant.restoring.stages import Stage
from calibrant.scalers import Temperature, cross_validated, temperature_is_possible
from calibrant.scores import Scores
from calibrant.scoring.models import only_by_name
from calibrant.sets import checked_sets
from calibrant.tuning import TuneConfig, TuneResult
from calibrant.tuning.config import given_config, refuse_to_load
from calibrant.tuning.sweep import Budget, settings_for

Choice = Literal["auto"] | Objective
CHOICE = "objective.json"


@dataclass(frozen=True)
class Restored:
    """What :func:`restore` made. ``tuning`` and ``after`` are ``None`` / empty where the diagnosis asked for no tuning;
    ``temperature`` is ``None`` where none was needed, and else in ``after`` already; ``alignment`` is ``None`` where it was not
    asked or nothing was tuned.
    """

    diagnosis: Diagnosis
    tuning: TuneResult | None
    before: Mapping[str, Scores]
    after: Mapping[str, Scores]
    report: Path
    temperature: Temperature | None = None
    alignment: AlignmentCheck | None = None

    def __repr__(self) -> str:
        """In a line; each part has more to say."""
        tuned = "not tuned" if self.tuning is None else f"tuned by {self.tuning.objective}"
        last = "" if self.temperature is None else f", temperature {self.temperature.temperature_:.4g}"
        kept = "" if self.alignment is None else f", alignment {self.alignment.verdict}"
        return f"<Restored: {self.diagnosis.verdict}, {tuned}{last}{kept}; report {str(self.report)!r}>"


def restore(
    model: str | Path,
    splits: Mapping[str, Sequence[Question]],
    *,
    out: str | Path,
    ood: Mapping[str, Sequence[Question]] | None = None,
    objective: Choice = "auto",
    config: TuneConfig | None = None,
    budget: Budget = "quick",
    style: PromptStyle | None = None,
    reference: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
    batch_tokens: int | None = None,
    cluster: str | None = None,
    temperature: bool = True,
    preferences: Collected[PreferencePair] | None = None,
    prompts: Collected[Prompt] | None = None,
    align: AlignSettings | None = None,
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
    objective : ``"auto"`` follows the diagnosis, to ``"cft"`` or ``"rcft"``, and takes the answer's log loss over the
        options where they are read as continuations (docs/decisions/007); any other name of docs/objectives.md is done
        whatever the diagnosis says, in the form that ``config`` has.
    config : settings of the tuning; its ``objective`` gives way to the one chosen here. Under ``"auto"`` an ``over`` that it
        was given stands, and settings that the chosen objective has no use for are left aside.
    budget : settings of the objective that are tried, the best by log loss of the calibration questions being kept:
        ``"quick"`` 1, ``"standard"`` 3, ``"thorough"`` 5 (:func:`calibrant.tuning.sweep`).
    style : how questions are put; letters in a raw prompt by default.
    reference : the model before its alignment: it scores the calibration questions too, with ``loading`` but its own
        revision, so that the diagnosis can tell what alignment changed and has a target of its own.
    progress : draw progress bars and say what happens.
    command : kept in the provenance.
    batch_tokens : token budget of a scoring pass.
    cluster : a column of the questions, or ``"subject"``, whose groups the intervals of the report resample whole;
        name it where questions of one group are alike, else the intervals are too narrow. It may be named, or changed, at a
        later call; the objective stays the first call's.
    temperature : whether the tuned model may be given a temperature at last: fitted on its calibration scores, and kept
        if it lowers their log loss in cross-validation (docs/decisions/005).
    preferences, prompts : pairs and prompts on which the tuned model is compared with the aligned one
        (:func:`calibrant.alignment.align_check`); the page then says whether alignment was kept.
    align : settings of that check; by default the checkable instructions are asked where there are prompts.
    loading : further arguments of :func:`calibrant.load_model`.

    Raises
    ------
    LeakageError : a question is in two splits.
    ConfigError : ``out`` holds another run, or another process is at work there; a model that is loaded already, for it is
        loaded more than once; a setting that the named objective has no use for; a check of alignment in a further process of
        a run of several (do without, then call it again with the pairs and prompts in one process).
    """
    _refuse(model, preferences, prompts, align, batch_tokens)
    style, out = given_style(style, loading), Path(out)
    given = given_config(config)
    config = _settings(given, objective, style)
    settings_for(config.objective, budget)
    refuse_to_load(config, loading)
    splits, ood = checked_sets(splits, ood or {})
    sets = {**splits, **ood}
    held_out = {name: questions for name, questions in sets.items() if name != "train"}
    check_cluster(cluster, held_out)
    identity = words.identity(model, style, config, objective, sets, reference, temperature, budget, loading)
    claim_folder(out, identity, "restore run")
    with alone(out, "restore run"):
        for name, questions in sets.items():
            questions.save(out / "questions" / f"{name}.jsonl")
        stage = Stage(out, model, style, progress, command, config, batch_tokens, loading)
        base = None if reference is None else stage.reference(reference, splits["calibration"])
        stage.refuse_too_long(splits["train"])
        before = stage.scores("before", held_out)
        diagnosis = diagnose(before["calibration"], reference=base, seed=config.seed, cluster=cluster)
        write_json(out / "diagnosis.json", diagnosis.to_json())
        stage.say(diagnosis.to_text())
        chosen, said = _chosen_once(out / CHOICE, objective, diagnosis, cluster)
        tuning, tuned, after, scaler, kept = None, {}, {}, None, None
        if chosen is None:
            stage.say(
                f"No tuning: the diagnosis asks for {diagnosis.action!r}. Choose an objective to tune all the same."
            )
        else:
            said += words.left_aside(given, config.for_objective(chosen))
            stage.say(*said)
            tuning = stage.tune(config.for_objective(chosen), splits, budget)
            tuned = stage.scores("tuned", held_out, adapter=tuning.adapter, weights=tuning.weights)
            scaler = last_temperature(tuned["calibration"], seed=config.seed) if temperature else None
            after = _rescaled(_measured(tuned), scaler)
            said += words.no_temperature(tuned["calibration"]) if temperature and scaler is None else []
            stage.keep("after", after, scaler)
            kept = stage.alignment(tuning, preferences, prompts, align)
        domains = _domains(sets, before, after)
        asked = words.asked(
            model, reference, style, config, objective, chosen, diagnosis.action, sets, before["test"], command
        )
        found: dict[str, Any] = {}
        if tuning is not None:
            found = {**tuning.to_json(), "temperature": None if scaler is None else scaler.described()}
            card = model_card(domains, tuning=found, alignment=kept, asked=asked, cluster=cluster)
            write_atomically((tuning.adapter or tuning.weights or out) / "README.md", card)
        page = report(
            domains,
            diagnosis=diagnosis,
            tuning=found,
            alignment=kept,
            asked=asked,
            notes=[*words.notes(sets, tuning, {} if scaler is None else _measured(tuned), cluster), *said],
            out=out / "report",
            cluster=cluster,
        )
        stage.say(words.closing(domains, page, cluster))
        return Restored(diagnosis, tuning, before, after, page, scaler, kept)


def _refuse(model: object, preferences: object, prompts: object, align: object, batch_tokens: object) -> None:
    """Raise :class:`ConfigError` for arguments of another kind, and for a check of alignment in a further process."""
    if preferences is not None or prompts is not None:
        refuse_further_process("a restore run with a check of alignment")
    only_by_name(model, "a model to restore")
    only_numbers(whole=True, batch_tokens=batch_tokens)
    refuse_other_kinds(preferences, prompts, align)


def _domains(
    sets: Mapping[str, QuestionSet], before: Mapping[str, Scores], after: Mapping[str, Scores]
) -> list[Domain]:
    """What the report shows of each set."""
    return [
        Domain(words.label(name, sets[name]), name == "test", scores, after.get(name))
        for name, scores in _measured(before).items()
    ]


def _measured(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """Those that are reported: all but the calibration split, on which everything was chosen."""
    return {name: s for name, s in scores.items() if name != "calibration"}


def _rescaled(tuned: Mapping[str, Scores], scaler: Temperature | None) -> dict[str, Scores]:
    return {name: scores if scaler is None else scaler.apply(scores) for name, scores in tuned.items()}


def _settings(config: TuneConfig, objective: Choice, style: PromptStyle) -> TuneConfig:
    """``config`` for the objective that was named; or, where the diagnosis is to choose, for this reading."""
    if objective != "auto":
        config = TuneConfig.make({**config.model_dump(), "objective": objective})
        config.check()
    elif style.reading == "continuation" and "over" not in config.model_fields_set:
        config = config.model_copy(update={"over": "options"})
    return config


def _chosen_once(
    kept: Path, objective: Choice, diagnosis: Diagnosis, cluster: str | None
) -> tuple[Objective | None, list[str]]:
    """The objective, and what to say of it: the first call's, for a later one may resample other groups, and what was tuned by
    then stands.
    """
    chosen = _chosen(objective, diagnosis)
    if not kept.exists():
        write_json(kept, {"objective": chosen, "cluster": cluster})
        return chosen, []
    first = read_json(kept)
    if first["objective"] == chosen:
        return chosen, []
    by = "questions" if first["cluster"] is None else f"groups of one {first['cluster']}"
    return first["objective"], [
        f"The objective, {first['objective'] or 'none'}, is that of this run's first call, whose diagnosis resampled {by}; "
        f"this call's would have been {chosen or 'none'}."
    ]


def _chosen(objective: Choice, diagnosis: Diagnosis) -> Objective | None:
    if objective != "auto":
        return objective
    within = diagnosis.n >= LEAST_N and diagnosis.numbers["conf_ece"].verdict == INDISTINGUISHABLE
    if diagnosis.action in ("nothing", "other-reading") or (diagnosis.action == "score-more" and within):
        return None
    return "rcft" if diagnosis.action == "rcft" else "cft"


def last_temperature(calibration: Scores, *, seed: int = 0) -> Temperature | None:
    """A temperature for a tuned model from its scores of the calibration questions; ``None`` where none is needed.

    Needed is one that lowers the log loss of those questions when each is rescaled by a temperature that was fitted on
    other folds (docs/decisions/005). One at an end of its range is none: there the scores tell nothing, or all but
    everything, and no finite temperature is best. Predictions never change. Ours.
    """
    if calibration.n < 2 or not temperature_is_possible(calibration):
        return None
    rescaled = cross_validated(Temperature(), calibration, seed=seed)
    before, after = (nll(scores.logp_NK, scores.answer_N) for scores in (calibration, rescaled))
    scaler = Temperature().fit(calibration)
    return scaler if after < before and not scaler.at_bound_ else None
