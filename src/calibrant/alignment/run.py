"""``align_check``: aligned and tuned model in, :class:`AlignmentCheck` out; every stage leaves its result on disk.

::

    OUT/run.json            what this run is
    OUT/preferences.jsonl   log-probabilities of every pair's responses under each model
    OUT/answers.jsonl       both models' answers to the prompts
    OUT/divergence.jsonl    sums over each answer's tokens, by contexts
    OUT/instructions.jsonl  both models' answers to the checkable instructions
    OUT/judge/*.json        every reply of the judge
    OUT/alignment.json      the result, and alignment.txt in words
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from calibrant._version import __version__
from calibrant.alignment.before import AlignedSide
from calibrant.alignment.data import Collected, PreferencePair, Prompt
from calibrant.alignment.drift import Answer, DriftCheck, drift_check
from calibrant.alignment.encoding import Encoder, fitting, prompt_codes
from calibrant.alignment.forward import response_logp, token_divergence
from calibrant.alignment.generation import Response, generate
from calibrant.alignment.instructions import InstructionCheck, instruction_check, instruction_set
from calibrant.alignment.judge import Judge
from calibrant.alignment.judging import Judging
from calibrant.alignment.models import WHICH, ModelPair, Which, same_vocabulary
from calibrant.alignment.preferences import PairLogps, PreferenceCheck, preference_check
from calibrant.alignment.result import AlignmentCheck, DivergenceCheck
from calibrant.alignment.routes import SAID
from calibrant.alignment.settings import AlignSettings, refuse_nothing, refuse_other_kinds
from calibrant.alignment.verdict import Thresholds, checks_of
from calibrant.alignment.wins import WinRate, labelled
from calibrant.errors import only_numbers
from calibrant.files import (
    alone,
    claim_folder,
    read_lines,
    refuse_further_process,
    write_atomically,
    write_json,
    write_lines,
)
from calibrant.metrics.estimates import ratio
from calibrant.questions import Skipped
from calibrant.scoring.fingerprints import fingerprints
from calibrant.scoring.models import load_model
from calibrant.scoring.options import Tokens


def align_check(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    tuned: str | Path | None = None,
    preferences: Collected[PreferencePair] | None = None,
    prompts: Collected[Prompt] | None = None,
    reference: str | Path | None = None,
    judge: Judge | None = None,
    aligned_from: str | Path | None = None,
    out: str | Path,
    settings: AlignSettings | None = None,
    thresholds: Thresholds | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
    command: str | None = None,
    **loading: Any,
) -> AlignmentCheck:
    """Compare a tuned model with the aligned model that it came from.

    With preference pairs: how both rank them, and the implicit reward of tuned against aligned. With prompts: KL(tuned ‖
    aligned) a token, length, refusals, endings and repetition of greedy answers, and a judge's win rate where one is
    named. Without either: the checkable instructions alone (asked unless the settings say no).

    Parameters
    ----------
    model : the aligned model: hub id, local folder or GGUF file.
    adapter : the tuned model's adapter, or ``tuned``, its weights.
    preferences, prompts : from :func:`~calibrant.alignment.load_preferences`, :func:`~calibrant.alignment.load_prompts`.
    reference : the model before alignment, of the same vocabulary: adds the accuracy of DPO's implicit reward.
    judge : an endpoint that compares both answers to each prompt; with preference pairs it is checked on some of them.
    aligned_from : folder of another check against the same aligned model on the same pairs and prompts: the aligned model's
        log-probabilities and answers are taken from there instead of being made again.
    out : folder of the run. Called again with the same arguments, a run goes on where it stopped. Thresholds, β,
        intervals and judge may change between calls.
    settings, thresholds : see :class:`AlignSettings` and :class:`~calibrant.alignment.Thresholds`.
    batch_tokens : padded tokens in one pass.
    progress : draw progress bars.
    command : kept in the result.
    loading : further arguments of :func:`calibrant.load_model`.

    Raises
    ------
    ConfigError : nothing to measure, no tuned model, arguments of another kind, ``out`` holds another run or another process is
        at work there, ``aligned_from`` holds another question, or this is a further process of a run of several.
    QuestionError : no pair or prompt fits into the context.
    ModelError : models that cannot be compared; a judge that does not answer.
    """
    refuse_further_process("a check of alignment")
    only_numbers(whole=True, batch_tokens=batch_tokens)
    refuse_other_kinds(preferences, prompts, settings, thresholds, judge)
    settings, thresholds, folder = settings or AlignSettings(), thresholds or Thresholds(), Path(out)
    refuse_nothing(preferences, prompts, reference, judge, settings)
    models = ModelPair(model, adapter=adapter, tuned=tuned, loading=loading)
    identity = _identity(models, preferences, prompts, reference, settings)
    known = None if aligned_from is None else AlignedSide.of(aligned_from, identity)
    claim_folder(folder, identity, "check of alignment")
    with alone(folder, "check of alignment"):
        run = _Run(folder, models, settings, batch_tokens, progress, known)
        logps = None if preferences is None else run.pair_logps(preferences, reference)
        if prompts is not None:
            run.note_skipped("rows of the prompts", prompts.skipped)
        answers = {} if prompts is None else run.answers("answers", prompts.items)
        divergence = () if prompts is None else tuple(run.divergence(prompts.items, c) for c in settings.contexts)
        tasks = instruction_set() if settings.instructions else ()
        followed = run.answers("instructions", [t.prompt for t in tasks]) if tasks else {}
        models.release()
        wins = None
        if prompts is not None and judge is not None:
            wins = run.judge([p for p in prompts.items if p.id in answers], answers, judge, preferences)
        texts: dict[str, list[str]] = {w: [followed[t.id][w].text for t in tasks if t.id in followed] for w in WHICH}
        how = settings.how
        result = _result(
            run,
            thresholds,
            preferences=None if logps is None else preference_check(logps, beta=settings.beta, how=how),
            divergence=divergence,
            drift=_drift(answers, settings) if answers else None,
            instructions=instruction_check([t for t in tasks if t.id in followed], texts, how=how)
            if followed
            else None,
            wins=wins,
            facts=_facts(models, preferences, prompts, reference, settings, command),
        )
        write_json(folder / "alignment.json", result.to_json())
        write_atomically(folder / "alignment.txt", result.to_text())
        return result


@dataclass
class _Run:
    folder: Path
    models: ModelPair
    settings: AlignSettings
    batch_tokens: int | None
    progress: bool
    known: AlignedSide | None = None
    notes: list[str] = field(default_factory=list)

    def pair_logps(self, pairs: Collected[PreferencePair], reference: str | Path | None) -> PairLogps:
        """Log-probabilities of every pair that fits, under both models and the reference; kept on disk."""
        self.note_skipped("rows of the preference pairs", pairs.skipped)
        path, left_out = self.folder / "preferences.jsonl", self.folder / "preferences-left-out.json"
        if not path.exists():
            encoder = Encoder(self.models.tokenizer)
            limit = self.models.context_length
            kept, encoded, skipped = fitting(pairs.items, encoder.pair, lambda e: e.n_tokens, limit, "preference pair")
            logp: dict[str, np.ndarray] = {}
            ids = tuple(p.id for p in kept)
            if self.known is not None and (found := self.known.logp(ids)) is not None:
                logp["aligned"] = found
            for which in (w for w in WHICH if w not in logp):
                with self.models.using(which) as model:
                    logp[which] = response_logp(
                        model, encoded, batch_tokens=self.batch_tokens, progress=self._bar(f"pairs ({which})")
                    )
            if reference is not None:
                self.models.release()
                other = load_model(reference, **{**self.models.loading, "revision": None})
                same_vocabulary(encoder.tokenizer, other, "reference model")
                logp["reference"] = response_logp(
                    other.model, encoded, batch_tokens=self.batch_tokens, progress=self._bar("pairs (reference)")
                )
            tokens_P2 = np.array([[len(option[0]) for option in e.options] for e in encoded])
            codes_P = np.array(prompt_codes([p.prompt for p in kept]))
            write_json(left_out, [asdict(s) for s in skipped])
            PairLogps(ids, codes_P, tokens_P2, logp).save(path)
        self.note_skipped("preference pairs", _skipped(left_out))
        return PairLogps.load(path)

    def answers(self, name: str, prompts: Sequence[Prompt]) -> dict[str, dict[str, Answer]]:
        """Greedy answers of both models by prompt id; kept on disk, with the tokens for the divergence."""
        kept = self._responses(name, prompts, 0.0, WHICH)
        return {
            row["id"]: {w: Answer(row[w]["text"], row[w]["length"], row[w]["ended"]) for w in WHICH} for row in kept
        }

    def divergence(self, prompts: Sequence[Prompt], contexts: Which) -> DivergenceCheck:
        """KL(tuned ‖ aligned) along the answers of one model; sums kept on disk."""
        sampled = self.settings.temperature > 0
        name = f"answers-sampled-{contexts}" if sampled else "answers"
        rows = self._responses(name, prompts, self.settings.temperature, (contexts,) if sampled else WHICH)
        path = self.folder / f"divergence-{contexts}.jsonl"
        if not path.exists():
            encoder = Encoder(self.models.tokenizer)
            by_id = {p.id: p for p in prompts}
            spoken = [row for row in rows if row[contexts]["tokens"]]
            sequences = [(encoder.prompt(by_id[row["id"]]), tuple(row[contexts]["tokens"])) for row in spoken]
            found = token_divergence(
                self.models, sequences, batch_tokens=self.batch_tokens, progress=self._bar(f"KL ({contexts}'s answers)")
            )
            columns = zip(spoken, *(x.tolist() for x in found), strict=True)
            names = ("kl_sum", "agree", "tokens")
            write_lines(path, [{"id": row["id"], **dict(zip(names, x, strict=True))} for row, *x in columns])
        sums = read_lines(path)
        kl_P, agree_P, tokens_P = (np.array([row[n] for row in sums], float) for n in ("kl_sum", "agree", "tokens"))
        how = self.settings.how
        kl, agreement = ratio(kl_P, tokens_P, how), ratio(agree_P, tokens_P, how)
        return DivergenceCheck(contexts, self.settings.temperature, kl, agreement, len(sums), int(tokens_P.sum()))

    def judge(
        self,
        prompts: Sequence[Prompt],
        answers: Mapping[str, Mapping[str, Answer]],
        judge: Judge,
        pairs: Collected[PreferencePair] | None,
    ) -> WinRate:
        """Win rate by the judge, and its agreement with people; every reply kept on disk."""
        aligned, tuned = ([answers[p.id][which].text for p in prompts] for which in WHICH)
        known = labelled(pairs.items, judge.pairs) if pairs is not None else []
        judging = Judging(judge, self.folder / "judge", self.settings.how, self.progress, self.notes)
        return judging.wins(prompts, aligned, tuned, known)

    def _responses(
        self, name: str, prompts: Sequence[Prompt], temperature: float, which: Sequence[Which]
    ) -> list[dict[str, Any]]:
        path, left_out = self.folder / f"{name}.jsonl", self.folder / f"{name}-left-out.json"
        if not path.exists():
            encoder = Encoder(self.models.tokenizer)
            limit = self.models.context_length
            room = None if limit is None else limit - self.settings.max_new_tokens
            kept, encoded, skipped = fitting(prompts, encoder.prompt, len, room, "prompt")
            rows: list[dict[str, Any]] = [{"id": p.id} for p in kept]
            for w in which:
                spoken = self.known.answers(name, [p.id for p in kept]) if self.known and w == "aligned" else None
                if spoken is None:
                    spoken = [
                        {
                            "text": r.text,
                            "tokens": list(r.tokens),
                            "length": r.length,
                            "ended": r.ended,
                            "route": r.route,
                        }
                        for r in self._generated(encoder, encoded, w, temperature, name)
                    ]
                for row, answer in zip(rows, spoken, strict=True):
                    row[w] = answer
            write_json(left_out, [asdict(s) for s in skipped])
            write_lines(path, rows)
        self.note_skipped("prompts", _skipped(left_out))
        found = read_lines(path)
        for w in which:
            for route in sorted({row[w].get("route", "together") for row in found} & SAID.keys()):
                self.note(f"Answers of the {w} model were {SAID[route]}.")
        return found

    def _generated(
        self, encoder: Encoder, prompts: Sequence[Tokens], which: Which, temperature: float, name: str
    ) -> list[Response]:
        with self.models.using(which) as model:
            return generate(
                model,
                encoder.tokenizer,
                prompts,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=temperature,
                seed=self.settings.seed,
                batch_tokens=self.batch_tokens,
                progress=self._bar(f"{name} ({which})"),
            )

    def note_skipped(self, what: str, skipped: Sequence[Skipped]) -> None:
        if skipped:
            self.note(f"{len(skipped)} {what} were left out, e.g. {skipped[0].where}: {skipped[0].reason}.")

    def note(self, text: str) -> None:
        """Say something in the result, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _bar(self, text: str) -> str | None:
        return text if self.progress else None


def _result(
    run: _Run,
    thresholds: Thresholds,
    *,
    preferences: PreferenceCheck | None,
    divergence: tuple[DivergenceCheck, ...],
    drift: DriftCheck | None,
    instructions: InstructionCheck | None,
    wins: WinRate | None,
    facts: Mapping[str, Any],
) -> AlignmentCheck:
    level = run.settings.level
    checks = checks_of(
        thresholds,
        level,
        preferences=preferences,
        divergence=[(d.contexts, d.kl) for d in divergence],
        drift=drift,
        instructions=instructions,
        wins=wins,
    )
    parts = (preferences, divergence, drift, instructions, wins)
    return AlignmentCheck(*parts, checks, thresholds, level, tuple(run.notes), facts)


def _drift(answers: Mapping[str, Mapping[str, Answer]], settings: AlignSettings) -> DriftCheck:
    columns: dict[str, list[Answer]] = {which: [both[which] for both in answers.values()] for which in WHICH}
    return drift_check(columns, max_new_tokens=settings.max_new_tokens, how=settings.how)


def _identity(
    models: ModelPair,
    preferences: Collected[PreferencePair] | None,
    prompts: Collected[Prompt] | None,
    reference: str | Path | None,
    settings: AlignSettings,
) -> dict[str, Any]:
    generation = {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature}
    return {
        **models.identity(),
        "reference": None if reference is None else str(reference),
        "reference_weights": fingerprints(reference=reference),
        "preferences": None if preferences is None else preferences.digest,
        "prompts": None if prompts is None else prompts.digest,
        **generation,
        "seed": settings.seed if settings.temperature > 0 else None,
    }


def _facts(
    models: ModelPair,
    preferences: Collected[PreferencePair] | None,
    prompts: Collected[Prompt] | None,
    reference: str | Path | None,
    settings: AlignSettings,
    command: str | None,
) -> dict[str, Any]:
    known = models.identity()
    versions = {"calibrant": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        **{name: known[name] for name in ("model", "adapter", "tuned", "weights")},
        "reference": None if reference is None else str(reference),
        "reference_weights": fingerprints(reference=reference),
        "preferences": None if preferences is None else f"{preferences.name} ({len(preferences)})",
        "prompts": None if prompts is None else f"{prompts.name} ({len(prompts)})",
        "settings": asdict(settings),
        "versions": versions,
        "command": command,
    }


def _skipped(path: Path) -> list[Skipped]:
    return [Skipped(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
