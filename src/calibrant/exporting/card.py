"""The README of an export, from its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from calibrant._version import __version__
from calibrant.exporting.folding import CHANGES
from calibrant.questions import shown
from calibrant.reporting.content import model_name
from calibrant.reporting.templates import render


def serving_card(facts: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter, as model hubs read it."""
    adapter, base = facts["adapter"], facts["model"]
    alone = adapter is not None and not adapter["merged"]
    front = {
        "library_name": "peft" if alone else "transformers",
        **({"base_model": base["name"]} if base["on_hub"] else {}),
        "pipeline_tag": "text-generation",
        "tags": ["calibration", "calibrant"],
    }
    name = model_name({"model": base["name"]})
    made = "tuned, " if facts["adapter"] else "with a temperature, " if facts["temperature"]["file"] else ""
    return render(
        "serving.md.jinja",
        {
            "front_matter": yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
            "title": f"{name}, {made}to serve",
            "what": _what(facts, alone),
            "adapter_alone": alone,
            "facts": _facts(facts, alone),
            "temperature": temperature_words(facts),
            "abstention": abstention_words(facts),
            "expected": expected_words(facts),
            "drift": drift_words(facts),
            "decides": "files" in facts["decision_model"],
            "decision_model": decision_words(facts),
            "version": __version__,
        },
    )


def temperature_words(facts: Mapping[str, Any]) -> str:
    """Where the temperature is and what that changes."""
    t = facts["temperature"]
    if t["file"] is None:
        return "None: probabilities are served as the model gives them."
    bound = "".join(f" {said[:1].upper()}{said[1:]}." for said in t["cautions"])
    if t["folded"]:
        return f"T = {t['value']:.4g}, folded into the weights ({t['where']}).{bound} {CHANGES}"
    return (
        f"T = {t['value']:.4g}, in `scaler.json`: divide the options' log-probabilities by it and normalise over the options "
        f"again, as `reader.py` does. The weights are not changed by it.{bound}"
    )


def abstention_words(facts: Mapping[str, Any]) -> str:
    """The threshold, its promise, and how it does on the test questions."""
    a = facts["abstention"]
    if a is None:
        return "No threshold was asked for."
    text = (
        f"Answer where the confidence is at least {float(a['threshold'])!r}: accuracy among the answered is then at least "
        f"{a['target']:g}, with probability {100 * a['level']:g}% over the drawing of the {a['n']:,} calibration questions, "
        f"for questions like them. {a['coverage']:.1%} of them are answered."
    )
    seen = a["on_test"]
    if seen is not None:
        text += f" On {seen['n']:,} test questions {seen['coverage']:.1%} are answered"
        if seen["accuracy"] is not None:
            text += (
                f", {seen['accuracy']:.1%} of these rightly [{seen['accuracy_low']:.1%}, {seen['accuracy_high']:.1%}] "
                f"({100 * a['level']:g}% interval)"
            )
        text += "."
    return f"{text} {a['note']}".rstrip()


def expected_words(facts: Mapping[str, Any]) -> str:
    """Accuracy and conf-ECE on the test questions."""
    e = facts["expected"]
    if e is None:
        return "No test scores were given."
    acc, ece = e["accuracy"], e["conf_ece"]
    applied = "" if facts["temperature"]["file"] is None else "temperature applied, "
    if None in (acc["low"], ece["low"]):
        return (
            f"On {e['n']:,} test questions, too few to say: accuracy {acc['value']:.3f}, conf-ECE {ece['value']:.3f}."
        )
    return (
        f"On {e['n']:,} test questions: accuracy {acc['value']:.3f} [{acc['low']:.3f}, {acc['high']:.3f}], conf-ECE "
        f"{ece['value']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}] ({100 * e['level']:g}% intervals, {e['n_bins']} bins; "
        f"chance alone gives a calibrated model up to {ece['floor_p95']:.3f}), {applied}measured before the export."
    )


def drift_words(facts: Mapping[str, Any]) -> str:
    """How far the export is from the model before."""
    d = facts["drift"]
    if d is None:
        return "Not checked: no questions were given."
    return _checked(d)


def decision_words(facts: Mapping[str, Any]) -> str:
    """Whether transformers can serve the folder as a decision model, and how near that is to what was measured."""
    made = facts["decision_model"]
    if "why_not" in made:
        return f"Not as a decision model: {made['why_not']}."
    words = ["Not checked: no questions were given." if made["drift"] is None else _checked(made["drift"])]
    if made["prompts_that_differ"]:
        differ = shown(made["prompts_that_differ"])
        words.append(f"Some of these questions are other tokens there than were measured, {differ}.")
    if made["not_by_the_server"]:
        words.append(f"Not through `transformers serve`: {made['not_by_the_server']}.")
    return " ".join(
        [*words, "Calibration was measured on questions with one right option (`choice`), put by themselves."]
    )


def _checked(d: Mapping[str, Any]) -> str:
    ece = d["conf_ece"]
    largest = "infinite" if d["max_dlogp"] is None else f"{d['max_dlogp']:.2g}"
    mean = "infinite" if d["mean_dlogp"] is None else f"{d['mean_dlogp']:.2g}"
    return (
        f"{d['verdict'].capitalize()} on {d['n']:,} questions against the model before the export: movement "
        f"{d['movement']:.2g} of {d['tolerance']:g} allowed (share of probability that went to other options, on average); "
        f"{d['flips']} predictions changed; largest change of a probability {d['max_dp']:.2g}; |Δ log p| at most {largest}, "
        f"{mean} on average; conf-ECE {ece['value']:+.4f} [{ece['low']:+.4f}, {ece['high']:+.4f}]."
    )


def _what(facts: Mapping[str, Any], alone: bool) -> str:
    if alone:
        return (
            "A tuned adapter alone; its model is named below. It answers multiple-choice questions with probabilities."
        )
    merged = "with a tuned adapter merged into its weights" if facts["adapter"] else "with its weights as they were"
    return f"A causal language model {merged}. It answers multiple-choice questions with probabilities."


def _facts(facts: Mapping[str, Any], alone: bool) -> list[tuple[str, str]]:
    base, prompt = facts["model"], facts["prompt"]
    variant = f", {prompt['variant']}" if prompt["reading"] == "continuation" else ""
    revision = f", revision {base['revision']}" if base["revision"] else ""
    weights = f", weights {base['weights']}" if base["weights"] else ""
    left_out = f"; {facts['adapter']['not_adapted']}" if facts["adapter"] and facts["adapter"]["not_adapted"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        (
            "Model" if alone else "Made from",
            f"{base['name'] if alone else model_name({'model': base['name']})}{revision}{weights}",
        ),
        (
            "Adapter",
            "none"
            if not facts["adapter"]
            else f"{'alone' if alone else 'merged'}, {facts['adapter']['weights']}{left_out}",
        ),
        ("Precision", facts["dtype"] + (f"; measured in {facts['quantized']}" if facts.get("quantized") else "")),
        ("Reading", f"{prompt['reading']}, {prompt['format']}{variant}; prompt digest {prompt['digest']}"),
        ("Versions", versions),
    ]
