"""What a table says, in plain words: one branch for each way that a contest can end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from calibrant.ladder import kept
from calibrant.ladder.cells import NAMED
from calibrant.ladder.fixes import ALIGNED
from calibrant.ladder.standing import COMPLETE, Standing
from calibrant.ladder.table import Contrast, Entry, Standings, Table
from calibrant.metrics import Estimate
from calibrant.metrics.comparison import HIGHER_IS_BETTER
from calibrant.metrics.measurement import INDISTINGUISHABLE
from calibrant.progress import duration
from calibrant.reporting.tables import Metric, number, span
from calibrant.reporting.words import BAD, GOOD, MIXED, NEUTRAL, Verdict

COLUMNS = (
    Metric("conf_ece", "conf-ECE", "Σₘ (nₘ/N)·|accₘ − confₘ|", "distance between how sure and how right"),
    Metric("accuracy", "accuracy", "(1/N) Σᵢ 1[ŷᵢ = yᵢ]", "share of questions answered right", True),
    Metric("cw_ece", "cw-ECE", "(1/K) Σₖ Σₘ (nₖₘ/Nₖ)·|freq(y = k | bin) − mean pₖ|", "the same for every option"),
    Metric(
        "smooth_ece", "smooth ECE", "∫ |E[(y − c) K_σ(t, c)]| dt, σ equal to its own error", "the same without bins"
    ),
    Metric("nll", "NLL", "−(1/N) Σᵢ ln pᵢ(yᵢ)", "punishes confident mistakes hardest"),
    Metric("brier", "Brier", "(1/N) Σᵢ Σₖ (pᵢₖ − 1[yᵢ = k])²", "calibration and sharpness in one"),
    Metric(
        "auroc", "AUROC", "P(c of a right answer > c of a wrong one)", "how well confidence ranks right above wrong"
    ),
)
LISTED = 6
PAPER = ("cft", "rcft", "rcft-once")
SIGNS = {"better": "+", "worse": "−", "undecided": "·"}
UNKNOWN = "?"


def lower_is_better(metric: str) -> bool:
    """Whether less is better."""
    return metric not in HIGHER_IS_BETTER


def headline(table: Table) -> Verdict:
    """Who is best calibrated in domain, by how much, who cannot be told from it, and whether it kept alignment."""
    main = table.sets[0] if table.sets else None
    winner = None if main is None else main.best.get("conf_ece")
    if main is None or winner is None or ALIGNED not in main.entries:
        return Verdict(
            "No fix has been measured yet",
            NEUTRAL,
            ("The ladder has not come so far.", "Run the same command again to go on."),
        )
    best, start = main.entries[winner], main.entries[ALIGNED]
    rivals = [name for name in main.entries if _is_rival(table, name) and name != winner]
    level = [name for name in rivals if _tied(main.entries[name], main.entries[winner], winner)]
    e, before = best.estimates["conf_ece"], start.estimates["conf_ece"]
    cut = "" if best.cut is None else f", {best.cut.value:.0f} % of the excess over the noise floor cut"
    first = (
        f"On {main.n:,} questions of {main.title} (in domain), {winner} has the lowest calibration error of the fixes: "
        f"{_said(e)}, against {_said(before)} of the aligned model{cut}; its accuracy is "
        f"{_said(best.estimates['accuracy'], COLUMNS[1])} against {_said(start.estimates['accuracy'], COLUMNS[1])}."
    )
    if not rivals:
        second = "It is the only fix that has been measured."
    elif level:
        second = f"It cannot be told from {_listed(level)} with so many questions and seeds."
    else:
        second = f"Every other fix that was measured ({len(rivals)}) is worse, beyond chance."
    moved = best.against_aligned["conf_ece"].verdict
    proven = [name for name in rivals if main.entries[name].against_aligned["conf_ece"].verdict == "better"]
    words = {
        "better": f"{winner} is best calibrated",
        "worse": f"No fix helps; {winner} harms least",
        "undecided": f"{winner} has the lowest calibration error, but not detectably below the aligned model's"
        if e.value < before.value
        else "No fix is detectably better calibrated than the aligned model",
    }[moved]
    if moved == "better" and level:
        words += ", level with others"
    if moved != "better" and proven:
        words += f"; {_listed(proven)} {'is' if len(proven) == 1 else 'are'}"
    whole = e.verdict == INDISTINGUISHABLE
    tone = {"better": GOOD if whole else MIXED, "worse": BAD, "undecided": MIXED if proven else NEUTRAL}[moved]
    if tone == GOOD and table.alignment(winner).verdict == "not kept":
        tone = MIXED
    return Verdict(words, tone, (first, f"{second} {kept.sentence_of(table, winner)}".rstrip()))


def losses(table: Table) -> list[str]:
    """Where the paper's methods lose: to the aligned model, and to the best other fix; or that they do not."""
    out = []
    for name in PAPER:
        found = []
        for one in table.sets:
            entry = one.entries.get(name)
            if entry is None:
                continue
            for contrasts, to in ((entry.against_aligned, "the aligned model"), (entry.against_best, "")):
                worse = {metric: c for metric, c in contrasts.items() if c.verdict == "worse"}
                if worse:
                    rivals = to or _listed(sorted({c.other for c in worse.values()}))
                    numbers = "; ".join(_loss(metric, c) for metric, c in worse.items())
                    found.append(f"worse than {rivals} on {one.title}: {numbers}")
        if any(name in one.entries for one in table.sets):
            said = ". ".join(f"{text[0].upper()}{text[1:]}" for text in found) if found else "Nowhere detectably worse"
            out.append(f"{name}: {said}.")
    return out


def chance(table: Table) -> str:
    """What the column *chance* is the 95th percentile of."""
    if table.settings["cluster"] is None:
        return "when labels are drawn from the model's own probabilities"
    return "of a model that is calibrated over all clusters, though not in each, under the noise of whole clusters"


def cost(standing: Standing) -> dict[str, str]:
    """Cost, choice and what to ship, as text."""
    choice = standing.choice or {}
    tried = list(choice.get("candidates", ()))
    failed = [one["setting"] for one in tried if one["error"]]
    how = "named" if choice.get("criterion") == NAMED else f"of {len(tried)}"
    settings = f"{choice['setting']} ({how})" if choice else ""
    if failed:
        settings += f"; failed: {', '.join(failed)}"
    return {
        "name": standing.fix.name,
        "about": standing.fix.about,
        "setting": settings,
        "seconds": "" if standing.seconds is None else f"{standing.seconds:,.1f}",
        "seconds_all": f"{standing.seconds_all:,.1f}",
        "parameters": "" if standing.parameters is None else f"{standing.parameters:,}",
        "steps": "" if standing.steps is None else f"{standing.steps:,}",
        "ships": standing.fix.ships,
        "state": standing.state + (f": {standing.reason}" if standing.reason else ""),
    }


def cell(entry: Entry, column: Metric) -> dict[str, str]:
    """One number of the table: value, interval, spread between seeds, floor and the two verdicts."""
    e, spread = entry.estimates[column.key], entry.spread(column.key)
    scale = 100 if column.percent else 1
    digits = 1 if column.percent else 3
    aligned, best = entry.against_aligned.get(column.key), entry.against_best.get(column.key)
    return {
        "value": number(e.value, column),
        "interval": span(e.low, e.high, column),
        "spread": "" if spread is None else f"± {spread * scale:.{digits}f}",
        "floor": "" if e.floor_p95 is None else f"chance to {number(e.floor_p95, column)}",
        "within": "within chance" if e.verdict == INDISTINGUISHABLE else "",
        "signs": "".join(map(_sign, (aligned, best))),
        "aligned": _verdict(aligned, column),
        "best": _verdict(best, column),
    }


def cut(entry: Entry) -> dict[str, str]:
    """The cut of the excess over the floor."""
    if entry.cut is None:
        return {"value": "", "interval": ""}
    c = entry.cut
    return {"value": f"{c.value:.0f} %".replace("-", "−"), "interval": f"{c.low:.0f} to {c.high:.0f}".replace("-", "−")}


def protocol(table: Table) -> list[str]:
    """How it was done, sentence by sentence."""
    run, sets = table.run, table.run["questions"]
    trained = [s for s in table.fixes if s.fix.family == "tuning" and s.steps is not None]
    steps = sorted({s.steps for s in trained if s.steps is not None})
    tried = max((len((s.choice or {}).get("candidates", ())) for s in table.fixes), default=0)
    named = [s.fix.name for s in table.fixes if (s.choice or {}).get("criterion") == NAMED]
    fit = f"{sets['train']['n']:,} training and {sets['calibration']['n']:,} calibration questions"
    out = [
        f"All fixes saw the same {fit}; none saw a test question. No question is in two sets (checked by content hash).",
        "Post-hoc maps are fitted on the aligned model's scores of the calibration questions (temperature-all: of the training "
        "questions too); trained fixes learn from the training questions and use the calibration questions for choosing "
        "the evaluation that is kept, and for the E-step.",
        f"Budget {run['budget']!r}: a sweep tried up to {tried} settings, with the first seed, and took the one with the "
        "least held-out log loss on the calibration questions. Only then were test questions scored, by the chosen "
        "setting alone."
        + (f" Named beforehand, with no sweep here: the setting of {', '.join(named)}." if named else ""),
        f"{100 * table.settings['level']:g}% intervals, {table.settings['n_bins']} bins, {table.settings['n_boot']} draws. "
        + (
            f"Whole clusters ({table.settings['cluster']}) were resampled. "
            if table.settings["cluster"]
            else "Questions were resampled as independent. "
        )
        + "With several seeds, the value is their mean, ± their standard deviation, and the interval carries both "
        "uncertainties; with one seed it speaks of questions only.",
        "Verdicts are paired. Against the aligned model they are corrected by Holm for the number of fixes; against the best "
        "other fix by Tukey for all pairs of fixes, as which one is best is seen on the same questions.",
    ]
    if steps:
        same = (
            f"Every trained fix took {steps[0]:,} optimiser steps"
            if len(steps) == 1
            else f"Trained fixes took {steps} steps"
        )
        out.insert(2, f"{same}, without early stopping.")
    if too_few_draws(table):
        out.append(
            f"With {table.settings['n_boot']} draws and so many fixes no corrected verdict against the aligned model can be "
            "reached: read the table again with more --draws."
        )
    if table.asked is not None:
        out.append(f"Alignment: {kept.how(table.asked)}")
    out += table.shared
    out += [f"{s.fix.name}: {s.fix.note}" for s in table.fixes if s.fix.note and s.state != "not run"]
    notes = dict.fromkeys(note for s in table.fixes for note in s.notes)
    out += [f"{', '.join(s.fix.name for s in table.fixes if note in s.notes)}: {note}." for note in notes]
    return out


def too_few_draws(table: Table) -> bool:
    """Whether the least p-value that the draws can give, times the number of fixes, is above ``1 - level``."""
    rivals = max((sum(_is_rival(table, name) for name in one.entries) for one in table.sets), default=0)
    return rivals / (int(table.settings["n_boot"]) + 1) > 1 - table.level


def unfinished(table: Table) -> list[str]:
    """Fixes that were not run, failed, or are under way."""
    return [
        f"{s.fix.name}: {s.state}{': ' + s.reason if s.reason else ''}"
        for s in table.fixes
        if s.state != COMPLETE or s.reason
    ]


def facts(table: Table) -> list[tuple[str, str]]:
    """What was asked, and with what."""
    run: Mapping[str, Any] = table.run
    prompt, known = run["prompt"], table.facts
    variant = f", {prompt['variant']}" if prompt["reading"] == "continuation" else ""
    out = [
        ("model", run["model"]),
        ("questions", ", ".join(f"{name}: {q['name']} ({q['n']:,})" for name, q in run["questions"].items())),
        ("reading", f"{prompt['reading']} ({prompt['format']}{variant})"),
        ("precision, device", f"{known.get('dtype')}, {known.get('device')}"),
        ("weights fingerprint", known.get("weights") or known.get("revision")),
        ("time of all fits", duration(sum(s.seconds_own for s in table.fixes))),
        ("versions", ", ".join(f"{name} {version}" for name, version in (known.get("versions") or {}).items())),
        ("command", known.get("command")),
    ]
    return [(name, str(value)) for name, value in out if value]


def _is_rival(table: Table, name: str) -> bool:
    return any(s.fix.name == name and s.fix.family != "none" for s in table.fixes)


def _tied(entry: Entry, winner: Entry, name: str) -> bool:
    """Whether a fix cannot be told from the winner; the runner-up's contrast with it is the winner's own as well."""
    contrast = entry.against_best.get("conf_ece")
    return contrast is not None and contrast.other == name and contrast.verdict == "undecided"


def _loss(metric: str, c: Contrast) -> str:
    column = next(column for column in COLUMNS if column.key == metric)
    d = c.difference
    return f"{column.name} {number(d.b, column)} against {number(d.a, column)}{_p(c)}"


def _sign(c: Contrast | None) -> str:
    """Of a fix's contrast; nothing for the aligned model and the one before it, whose contrasts are not corrected."""
    if c is None or c.p_corrected is None:
        return ""
    return SIGNS[c.verdict] if _is_known(c) else UNKNOWN


def _verdict(c: Contrast | None, column: Metric) -> str:
    if c is None:
        return ""
    d = c.difference
    if not _is_known(c):
        reason = "answers all right or all wrong have none" if column.key == "auroc" else "an answer has probability 0"
        return f"no comparison with {c.other}: {reason}"
    interval = span(d.low, d.high, column, sign=True)
    return f"{c.verdict}: {number(d.value, column, sign=True)} ({interval}) against {c.other}{_p(c)}"


def _is_known(c: Contrast) -> bool:
    """Whether there is a difference: an infinite log loss has none, nor has an AUROC that does not exist."""
    return not math.isnan(c.difference.value)


def _p(c: Contrast) -> str:
    if c.p_corrected is None:
        return ""
    return ", p < .001" if c.p_corrected < 0.001 else f", p = {c.p_corrected:.3f}"


def _said(e: Estimate, column: Metric = COLUMNS[0]) -> str:
    interval = span(e.low, e.high, column)
    return number(e.value, column) + (f" ({interval})" if interval else "")


def _listed(names: list[str]) -> str:
    if len(names) > LISTED:
        names = [*names[:LISTED], f"{len(names) - LISTED} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def title_of(one: Standings) -> str:
    """The set, how many questions, and whether the fixes saw such questions."""
    clusters = "" if one.n_clusters is None else f" in {one.n_clusters:,} clusters"
    return f"{one.title} ({'in domain' if one.in_domain else 'out of domain'}, {one.n:,} questions{clusters})"
