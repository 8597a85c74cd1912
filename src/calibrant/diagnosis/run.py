"""``diagnose``: why a model is miscalibrated, whether it can be mended, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.diagnosis.calibrator import Tempered, remeasure, tempered
from calibrant.diagnosis.collapse import collapse
from calibrant.diagnosis.options import letter_prior, option_mass
from calibrant.diagnosis.path import checkpoints, critical_checkpoint, signs_of_leaving
from calibrant.diagnosis.preference import PreferenceDrift
from calibrant.diagnosis.regime import Target, choose_target, regime_numbers
from calibrant.diagnosis.result import Diagnosis
from calibrant.diagnosis.verdict import TOLERANCE, Facts, action_of, reasons_of, verdict_of, warnings_of
from calibrant.errors import ConfigError, ScoresError, only, only_numbers
from calibrant.metrics.comparison import align
from calibrant.metrics.estimates import Sampling
from calibrant.metrics.measurement import only_scores
from calibrant.metrics.sums import cluster_codes
from calibrant.scores import Scores


def diagnose(
    scores: Scores,
    *,
    reference: Scores | None = None,
    target: Scores | None = None,
    path: Sequence[Scores | Mapping[str, Any]] = (),
    preferences: PreferenceDrift | None = None,
    seed: int = 0,
    n_boot: int = 1000,
    n_bins: int = 10,
    level: float = 0.95,
    tolerance: float = TOLERANCE,
    cluster: str | Sequence[Any] | None = None,
) -> Diagnosis:
    """Explain the calibration of ``scores`` and recommend an action; the rule is in docs/regimes.md.

    Parameters
    ----------
    scores
        Of the aligned model, on held-out questions; two or more.
    reference
        Of the pre-alignment model on the same questions, matched by id or content hash. Without it, what alignment
        changed cannot be told, and the text says so.
    target
        Scores that stand for the target distribution π*, same questions. Without them: the reference with a
        cross-validated calibrator; else the best calibrated checkpoint of ``path``; else the model itself with one.
    path
        Checkpoints of a tuning run in order: ``Scores``, or mappings with accuracy, conf_ece, n and, where known,
        floor_p95, nll, train_accuracy, train_n, step, epoch, signed_gap. :func:`read_path` reads one from files.
    preferences
        What :func:`preference_drift` found on preference pairs under the aligned and the reference model.
    seed, n_boot, n_bins, level, cluster
        As for ``measure``; the checkpoints of ``path`` and the preference pairs are not part of the clusters.
    tolerance
        Excess of accuracy over the critical accuracy, in shares, that is taken as none.

    Raises
    ------
    ScoresError : one question only, or other questions in ``reference`` or ``target``. ConfigError : a setting or a
        checkpoint that has no meaning.

    Source: regimes, target and TCE: Xiao et al. (ICML 2025, arXiv 2505.01997); bounds, intervals and rule: ours.

    >>> s = Scores.from_probs([[0.95, 0.05]] * 1000, [0] * 600 + [1] * 400)
    >>> d = diagnose(s)
    >>> d.verdict, d.action, round(d.numbers["signed_gap"].value, 3)
    ('calibratable', 'cft', 0.35)
    """
    _refuse_files(scores, reference, target, path, preferences)
    if scores.n < 2:
        raise ScoresError(asked="a diagnosis", found="one question", todo="give two or more, at best some thousand")
    only_numbers(tolerance=tolerance)
    if not 0 < tolerance < 1:
        raise ConfigError(
            asked="a tolerance", found=f"{tolerance}", todo=f"give a share in (0, 1), usually {TOLERANCE}"
        )
    codes = cluster_codes(scores, cluster)
    labels = None if codes is None else tuple(f"{code:09d}" for code in codes)  # in the order that measure gives them
    how = Sampling(n_boot, level, seed, n_bins, labels)
    reference = None if reference is None else align(scores, reference)[0]
    target = None if target is None else align(scores, target)[0]
    points = checkpoints(path, how)
    own = tempered(scores, how)
    chosen = choose_target(scores, own, target, reference, points, how)
    facts = _facts(scores, own, reference, chosen, signs_of_leaving(points, level), preferences, tolerance, how)
    verdict = verdict_of(facts)
    action = action_of(facts, verdict)
    return Diagnosis(
        verdict=verdict,
        action=action,
        reasons=reasons_of(facts, verdict, action),
        warnings=warnings_of(facts),
        target_kind=chosen.kind,
        target_name=chosen.name,
        n=facts.n,
        chance=facts.chance,
        at_chance=facts.at_chance,
        collapsed=facts.collapsed,
        numbers=facts.numbers,
        option_mass=facts.mass,
        letter_prior=facts.prior,
        collapse=facts.collapse,
        preferences=preferences,
        path=points,
        critical_checkpoint=critical_checkpoint(points),
        reading=facts.reading,
        n_bins=n_bins,
        n_boot=n_boot,
        level=level,
        seed=seed,
        tolerance=tolerance,
        n_clusters=how.n_clusters,
    )


def _refuse_files(scores: Any, reference: Any, target: Any, path: Any, preferences: Any) -> None:
    """Raise :class:`ConfigError` for what is not loaded yet: the command line takes files, this function what is in them."""
    only_scores("a diagnosis", *(one for one in (scores, reference, target) if one is not None))
    points = [path] if isinstance(path, str | Path | Scores) else path
    if points is not path or any(isinstance(point, str | Path) for point in points):
        raise ConfigError(
            asked="a diagnosis with the path of a training run",
            found=f"{type(points[0]).__name__} {str(points[0])[:80]!r}",
            todo="give its points in a list; calibrant.diagnosis.read_path([file or folder]) reads them",
        )
    if preferences is not None:
        todo = "read the file with calibrant.diagnosis.read_preferences(file), or give what preference_drift returns"
        only(PreferenceDrift, preferences, "a diagnosis with preference pairs", todo)


def _facts(
    scores: Scores,
    own: Tempered | None,
    reference: Scores | None,
    chosen: Target,
    signs: tuple[str, ...],
    preferences: PreferenceDrift | None,
    tolerance: float,
    how: Sampling,
) -> Facts:
    measured = remeasure(scores, how)
    kept = ("accuracy", "mean_confidence", "signed_gap", "conf_ece", "nll")
    prompt = scores.provenance.get("prompt")
    return Facts(
        n=scores.n,
        chance=float((1 / scores.k_N).mean()),
        numbers={name: measured[name] for name in kept} | regime_numbers(scores, measured, chosen, how),
        target=chosen,
        mass=option_mass(scores),
        prior=letter_prior(scores, None if how.cluster is None else np.array(how.cluster)),
        collapse=collapse(scores, measured, own, reference, how),
        reading=prompt.get("reading") if isinstance(prompt, Mapping) else None,
        split=scores.split,
        tuned_since=_has_adapter(scores) and reference is not None and not _has_adapter(reference),
        asked_apart=None if reference is None else _asked_apart(scores, reference),
        path_is_paired=chosen.checkpoint is not None and chosen.checkpoint.scores_of(scores) is not None,
        signs=signs,
        preferences=preferences,
        tolerance=tolerance,
        level=how.level,
    )


def _asked_apart(scores: Scores, reference: Scores) -> str | None:
    """What differs in how the two were asked, as far as their provenance tells."""
    for name, words in (("prompt_digest", "another prompt"), ("chat_template", "another chat template")):
        one, other = scores.provenance.get(name), reference.provenance.get(name)
        if one is not None and other is not None and one != other:
            return words
    return None


def _has_adapter(scores: Scores) -> bool:
    return bool(scores.provenance.get("adapter"))
