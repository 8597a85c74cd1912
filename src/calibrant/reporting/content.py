"""What stands on the page besides numbers: words, facts and code, shared by page, Markdown and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from calibrant.diagnosis.path import checkpoints, signs_of_leaving
from calibrant.diagnosis.result import LABELS, NEEDS_PAIRS
from calibrant.metrics.estimates import Sampling
from calibrant.objectives import OBJECTIVES, settings_of
from calibrant.progress import duration
from calibrant.provenance import is_gguf
from calibrant.reporting.results import Assessed

ACTIONS = {
    "nothing": "Nothing to repair",
    "temperature": "Temperature scaling",
    "cft": "Calibration-aware fine-tuning (CFT)",
    "rcft": "Regularised calibration-aware fine-tuning (RCFT)",
    "other-reading": "Read the options in another way first",
    "score-more": "Score more questions before deciding",
}
SETTING_LABELS = {
    "over": "log loss over",
    "language": "log loss of",
    "lam": "λ",
    "epsilon": "ε",
    "gamma": "γ",
    "soft_bin_temperature": "temperature of the soft bins",
    "e_step": "E-step",
}
SETTING_VALUES = {
    "sft1": "the answer",
    "sft2": "question and answer",
    "options": "the options",
    "vocabulary": "all tokens",
}
SHARPNESS = {
    "entropy": "entropy over the options, nats",
    "entropy_share": "entropy, share of the largest possible",
    "share_near_one": "share of confidences of .99 or more",
    "accuracy_near_one": "accuracy among those",
}
SHIFT = {
    "confidence": "confidence, change from the reference",
    "entropy": "entropy, change from the reference, nats",
    "agreement": "same prediction as the reference",
    "slope": "slope of the log-odds on the reference's",
    "intercept": "intercept of that line, nats",
    "scatter": "scatter about that line, nats",
}
DRIFT = {
    "chosen": "chosen responses, change of log-probability, nats",
    "rejected": "rejected responses, change of log-probability, nats",
    "margin": "margin, change, nats",
    "share_both_fell": "share of pairs in which both fell",
    "share_margin_grew": "share of pairs whose margin grew",
}
LIMITS = (
    "These numbers hold for these questions, put in this prompt and read in this way; another prompt, another order of "
    "the options or another kind of question can give others.",
    "“No more than chance” is not proof of calibration: with few questions a real error can hide in the noise. The "
    "upper end of its interval says how large it may still be.",
    "Confidence here is the probability of the chosen option among the options offered. Nothing is said about free "
    "text, where a fine-tuning of this kind is not known to help.",
    "Intervals take the questions as drawn independently unless clusters are named. They cover chance in the questions, "
    "not chance in the training: another seed gives another adapter.",
)


HOW_TO_READ = (
    "How to read this: on the diagonal the model is right as often as it says, below it is too sure, above too unsure; "
    "a bar that misses the diagonal is off by more than chance, and grey is where a calibrated model would fall."
)
SHARPENING_CAPTION = (
    "What alignment is expected to do (theory, not fitted to this model): where a share p of people prefer a response, its "
    "probability at the optimum of KL-regularised alignment, against β. Past p, confidence exceeds how often it is right."
)
USE_ADAPTER = "The result is an adapter: load the base model, then put the adapter on it."
USE_WEIGHTS = "All weights were tuned: load the result like any model."


def facts(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain facts as (label, text); what is ``None`` or empty is left out.

    >>> facts({"model": "m", "versions": {"torch": "2.9", "calibrant": "1"}, "command": None})
    [('Model', 'm'), ('Versions', 'torch 2.9, calibrant 1')]
    """
    out = []
    for key, value in asked.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            text = ", ".join(str(part) for part in value)
        else:
            text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        if text:
            label = key.replace("_", " ")
            out.append((label if label == "λ" else label[:1].upper() + label[1:], text))
    return out


def fix_words(tuned: Mapping[str, Any]) -> str:
    """What lies between before and after."""
    if not tuned:
        return "the change"
    return "tuning and one temperature" if tuned.get("temperature") else "tuning"


def question(assessed: Sequence[Assessed], model: str, is_tuned: bool) -> str:
    """What was asked, in one sentence."""
    names = [f"{part.before.n:,} from “{part.domain.name}”" for part in assessed]
    sets = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    more = ""
    if assessed[0].after is not None:
        more = ", and does tuning repair it" if is_tuned else ", and what did the change do to it"
    return f"Is {model or 'this model'} as often right as it says{more}? Asked on multiple-choice questions: {sets}."


def table_caption(part: Assessed) -> str:
    """What the table of one domain shows."""
    clusters = part.before.n_clusters
    grouped = "" if clusters is None else f" in {clusters:,} groups, resampled whole"
    shown = (
        f"{part.before.n:,} questions{grouped}; small print: {100 * part.before.level:g}% intervals, and what chance alone "
        "gives a calibrated model (mean, and 95th percentile)."
    )
    return shown if part.after is None else f"{shown} Changes are paired: the same questions before and after."


def terms(part: Assessed) -> list[tuple[str, str]]:
    """Definitions of what is shown beside the numbers."""
    m = part.before
    changes = [
        (
            "Change",
            "after minus before on the same questions, by a paired bootstrap (calibration errors: the joint law of both, "
            "inverted; accuracy: Newcombe's interval for paired shares); better or worse is said only where its interval "
            "leaves 0 out. The number of questions that would settle an undecided one is for 80% power.",
        )
    ]
    alone = "" if m.n_clusters is None else ", questions taken as independent"
    redrawn = f"when labels are drawn anew {m.n_boot:,} times from the model's own probabilities"
    resampled = (
        f"of a model that is calibrated over all {m.n_clusters} clusters, not in each ({m.n_boot:,} draws of them)"
    )
    return [
        (
            "Chance (noise floor)",
            f"the same error {redrawn if m.n_clusters is None else resampled}: its mean and 95th percentile. A perfectly "
            "calibrated model does not score 0.",
        ),
        (
            "Interval",
            f"{100 * m.level:g}%. Calibration errors: by inverting their sampling law, as a plain bootstrap of a quantity that "
            "is biased upward covers too rarely; accuracy: Wilson; the rest: percentile bootstrap (NLL and Brier at "
            "least as wide as accuracy's interval makes them).",
        ),
        *(changes if part.after is not None else []),
        ("Bars in the diagram", f"Clopper-Pearson 95% intervals of each group's accuracy{alone}."),
        (
            "Grey boxes in the diagram",
            f"the middle 95% of Binomial(nₘ, confₘ)/nₘ: accuracies of a group whose confidence is true{alone}.",
        ),
    ]


def diagnosis_words(diagnosis: Mapping[str, Any]) -> dict[str, Any] | None:
    """Verdict, action, evidence and warnings of a diagnosis in words; ``None`` where there is none."""
    if not diagnosis:
        return None
    action = str(diagnosis.get("action") or "")
    collapse: Mapping[str, Any] = diagnosis.get("collapse") or {}
    pairs: Mapping[str, Any] | None = diagnosis.get("preferences")
    untold = [f"without a reference: {', '.join(names)}"] if (names := collapse.get("needs_reference")) else []
    untold += [] if pairs or not collapse else [f"without preference pairs: {NEEDS_PAIRS}"]
    return {
        "verdict": str(diagnosis.get("verdict") or "undecided"),
        "relative_to": str(diagnosis.get("target_name") or ""),
        "action": ACTIONS.get(action, action),
        "reasons": list(diagnosis.get("reasons") or ()),
        "warnings": list(diagnosis.get("warnings") or ()),
        "numbers": [
            *_lines(diagnosis.get("numbers"), LABELS),
            *_lines(collapse, SHARPNESS),
            *_lines(collapse.get("shift"), SHIFT),
            *_lines(pairs, DRIFT),
        ],
        "untold": "; ".join(untold),
        "n": diagnosis.get("n"),
    }


def _lines(numbers: Mapping[str, Any] | None, labels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, value and interval of each number that is known."""
    lines = []
    for name, label in labels.items():
        e = (numbers or {}).get(name)
        e = e if isinstance(e, Mapping) else {"value": e}
        if e.get("value") is not None:
            known = e.get("low") is not None and e.get("high") is not None
            interval = f"{e['low']:.3f} to {e['high']:.3f}" if known else ""
            lines.append((label, f"{e['value']:.3f}".replace("-", "−"), interval.replace("-", "−")))
    return lines


def path_signs(tuning: Mapping[str, Any]) -> list[str] | None:
    """Signs that a tuning run left the calibratable regime on the way to the weights that were kept; ``None`` where its
    points do not tell.
    """
    kept, points = tuning.get("best_epoch"), list(tuning.get("history") or ())
    if kept is not None:
        points = [point for point in points if (point.get("epoch") or 0) <= kept]
    if len(points) < 2 or not all(point.get(name) for point in points for name in ("n", "accuracy")):
        return None
    found = signs_of_leaving(checkpoints(points, Sampling(n_boot=100, level=0.95, seed=0, n_bins=10)))
    return [sign[:1].upper() + sign[1:] + "." for sign in found]


def target_accuracy(diagnosis: Mapping[str, Any]) -> float | None:
    """The critical accuracy A* to draw, or ``None``.

    One that was fitted to the aligned model itself says nothing about the models that tuning makes of it: not drawn.
    """
    value = diagnosis.get("target_accuracy")
    if isinstance(value, Mapping):
        value = value.get("value")
    return None if value is None or diagnosis.get("target_kind") == "self" else float(value)


def map_caption(target: str, *, of_training: bool) -> str:
    """How to read the regime map; ``target`` names what A* is relative to, empty where no bound is drawn."""
    if of_training:
        text = (
            "Each point is one evaluation on the calibration questions. Down is better calibrated, right is more accurate; "
            "the square is the first, the disc the last."
        )
    else:
        text = "The point is the diagnosed model. Down is better calibrated, right is more accurate."
    return f"{text} A model that matches the target, {target}, cannot lie in the shaded area." if target else text


def history_table(tuning: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Evaluations during training as a table, ``None`` where there were none."""
    columns = (
        ("epoch", "Epoch", "{:g}"),
        ("nll", "Log loss", "{:.3f}"),
        ("conf_ece", "conf-ECE", "{:.3f}"),
        ("floor_p95", "Chance, up to", "{:.3f}"),
        ("accuracy", "Accuracy", "{:.1%}"),
        ("mean_confidence", "Confidence", "{:.1%}"),
        ("train_accuracy", "Accuracy, trained on", "{:.1%}"),
    )
    points = list(tuning.get("history") or ())
    shown = [column for column in columns if any(point.get(column[0]) is not None for point in points)]
    if not shown:
        return None
    lines = [["" if p.get(key) is None else form.format(p[key]) for key, _, form in shown] for p in points]
    return {"head": [name for _, name, _ in shown], "lines": lines}


def training_facts(tuning: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained and for how long, as (label, text)."""
    config: Mapping[str, Any] = tuning.get("config") or {}
    objective = str(tuning.get("objective") or "")
    trained, total = tuning.get("trained_parameters"), tuning.get("total_parameters")
    share = f"{trained:,} of {total:,} ({trained / total:.2%})" if trained and total else None
    seconds, best = tuning.get("seconds"), tuning.get("best_epoch")
    start: Mapping[str, Any] = tuning.get("start") or {}
    lora = config.get("lora")
    if isinstance(lora, Mapping):
        targets = lora.get("targets")
        named = targets if isinstance(targets, str) else ", ".join(targets or ())
        lora = f"rank {lora.get('rank')}, alpha {lora.get('alpha'):g}, dropout {lora.get('dropout'):g}, on {named}"
    words: Mapping[str, str] = dict(OBJECTIVES.items())
    known = {
        "objective": words.get(objective, objective),
        "trained parameters": share,
        "LoRA": lora,
        "training questions": tuning.get("questions"),
        "optimiser steps": tuning.get("steps"),
        "training time": None if seconds is None else duration(float(seconds)),
        "ended because": tuning.get("stopped"),
        "weights kept from epoch": None if best is None else f"{best:g}",
        "learning rate": config.get("learning_rate"),
        "batch size": config.get("batch_size"),
        "epochs asked for": config.get("epochs"),
        "chosen among": _sweep_words(tuning),
        **_own_settings(objective, config),
        "teacher temperature": start.get("teacher_temperature"),
        "temperature on top": _temperature_words(tuning),
        "known before tuning": None if start.get("known_share") is None else f"{start['known_share']:.1%}",
        "seed": config.get("seed"),
        "adapter": tuning.get("adapter"),
        "weights": tuning.get("weights"),
    }
    return facts(known)


def _sweep_words(tuning: Mapping[str, Any]) -> str | None:
    tried = (tuning.get("sweep") or {}).get("tried")
    if not tried:
        return None
    losses = [f"{one['setting']} {'failed' if one['nll'] is None else format(one['nll'], '.3f')}" for one in tried]
    return f"{len(tried)} settings, by log loss of the calibration questions: {', '.join(losses)}"


def _temperature_words(tuning: Mapping[str, Any]) -> str | None:
    scaler: Mapping[str, Any] = tuning.get("temperature") or {}
    if not scaler:
        return None
    return f"{scaler['temperature']:.3f}, fitted after the tuning on {scaler['n_fit']:,} calibration questions"


def _own_settings(objective: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this objective alone, or with few others, has a use for."""
    own, shown = settings_of(objective, config.get("language")), {}
    for name, label in SETTING_LABELS.items():
        value = config.get(name)
        if name in own and value is not None:
            shown[label] = SETTING_VALUES.get(value, value.replace("_", " ")) if isinstance(value, str) else value
    return shown


def model_name(asked: Mapping[str, Any]) -> str:
    """The model's name for a title: a hub id as it is, a local path by its last part."""
    model = str(asked.get("model") or "")
    absolute = PurePath(model).is_absolute() or model.startswith((".", "~"))
    return PurePath(model).name if absolute or is_gguf(model) else model


def usage_code(base: str, tuning: Mapping[str, Any], revision: str | None = None) -> str:
    """Python that loads the restored model with transformers (and peft, where it is an adapter).

    >>> print(usage_code("owner/name", {"adapter": "run/adapter"}))
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    <BLANKLINE>
    tokenizer = AutoTokenizer.from_pretrained('owner/name')
    model = AutoModelForCausalLM.from_pretrained('owner/name')
    model = PeftModel.from_pretrained(model, 'run/adapter')
    """
    adapter = tuning.get("adapter")
    if adapter is None:
        base, revision = str(tuning.get("weights")), None
    names, arguments, dense = "AutoModelForCausalLM, AutoTokenizer", repr(base), ""
    if is_gguf(base):
        folder, _, name = base.replace("\\", "/").rpartition("/")
        arguments = f"{folder or '.'!r}, gguf_file={name!r}"
        names, dense = f"{names}, GgufConfig", ", quantization_config=GgufConfig(dequantize=True)"
    if revision is not None:
        arguments += f", revision={revision!r}"
    lines = [f"from transformers import {names}", ""]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({arguments})"]
    lines += [f"model = AutoModelForCausalLM.from_pretrained({arguments}{dense})"]
    if adapter is not None:
        lines = ["from peft import PeftModel", *lines, f"model = PeftModel.from_pretrained(model, {str(adapter)!r})"]
    scaler = tuning.get("temperature")
    if scaler:
        note = "divide the options' log-probabilities by it, then normalise over the options"
        lines += [f"temperature = {scaler['temperature']:.4f}  # {note}"]
    return "\n".join(lines)
