"""``report``: results to one page that a stranger understands, with Markdown, JSON and every picture beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from calibrant._version import __version__
from calibrant.diagnosis.result import CAVEAT
from calibrant.errors import ConfigError, OutputError
from calibrant.files import read_json, write_atomically, write_json
from calibrant.metrics.measurement import finite
from calibrant.reporting import content
from calibrant.reporting.abstention import Abstention, abstention, caption
from calibrant.reporting.canvas import AFTER, BEFORE, figure_of, inline_svg, png_bytes, svg_text
from calibrant.reporting.curves import error_plot, regime_map
from calibrant.reporting.kept import alignment_words
from calibrant.reporting.plots import before_after, reliability_diagram
from calibrant.reporting.results import Assessed, Domain, Plain, assess, plain
from calibrant.reporting.sharpening import sharpening_plot
from calibrant.reporting.tables import METRICS, Cell, estimate_cell, number, rows
from calibrant.reporting.templates import render

FORMAT, FORMAT_VERSION = "calibrant-report", 1
BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the page: ``svg`` to stand in it, ``file`` (without suffix) to stand beside it."""

    figure: Figure
    file: str
    alt: str
    caption: str = ""

    @cached_property
    def source(self) -> str:
        """The picture as SVG."""
        return svg_text(self.figure)

    @property
    def svg(self) -> Markup:
        """The picture in a page; our own markup, so not escaped."""
        return Markup(inline_svg(self.source, self.file, self.alt))


def report(
    domains: Sequence[Domain],
    *,
    diagnosis: Plain = None,
    tuning: Plain = None,
    alignment: Plain = None,
    asked: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    target_accuracy: float | None = 0.9,
    out: str | Path,
    n_bins: int = 10,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cluster: str | None = None,
) -> Path:
    """Write the report of one model on one or more sets of questions into a folder; the path of ``index.html``.

    The folder gets ``index.html`` (self-contained: no script, no network), ``report.md``, ``report.json``, and each
    picture as ``.svg`` and ``.png``; pictures of an earlier report there that this one has not are removed. Every number
    is made by ``measure`` and ``compare`` with the settings given here.

    Parameters
    ----------
    domains
        What was scored, before and, where there was a fix, after. The verdict is that of the first in domain.
    diagnosis
        The :class:`~calibrant.diagnosis.Diagnosis`, or its ``to_json()``.
    tuning
        The result of a tuning run, or its ``to_json()``: what was trained, how long, and the evaluations on the way.
    alignment
        What :func:`~calibrant.alignment.align_check` found, or its ``to_json()``: whether alignment survived the fix.
    asked
        Plain facts to show: model, questions, command, seed, date, versions. ``model`` names the base model.
    notes
        Sentences that a reader must not miss.
    target_accuracy
        Draw risk against coverage, and say above which confidence this accuracy is promised; ``None`` leaves it out.
    out
        Folder, made where needed.
    n_bins, n_boot, level, seed, cluster
        As for ``measure``.

    Raises
    ------
    ConfigError : no domain, a name twice, scores after the fix for some domains only, or a target outside (0, 1).
    OutputError : the folder cannot be written, or holds pages that are no report of ours.
    """
    out, asked = Path(out), dict(asked or {})
    earlier = _earlier(out)
    diagnosed, tuned, kept = plain(diagnosis), plain(tuning), plain(alignment)
    fix = content.fix_words(tuned)
    settings: dict[str, Any] = {"n_bins": n_bins, "n_boot": n_boot, "level": level, "seed": seed, "cluster": cluster}
    assessed = assess(domains, fix=fix, **settings)
    selective = [
        None
        if target_accuracy is None
        else abstention(p.domain, target_accuracy, n_boot=n_boot, level=level, seed=seed, cluster=cluster)
        for p in assessed
    ]
    page, pictures = _page(assessed, selective, diagnosed, tuned, asked, notes, n_bins)
    page["alignment"] = alignment_words(kept)
    outdated = _pictures_of(earlier) - {picture.file for picture in pictures}
    for picture in pictures:
        write_atomically(out / f"{picture.file}.svg", picture.source)
        write_atomically(out / f"{picture.file}.png", png_bytes(picture.figure))
    values = {
        **_head(assessed, selective, settings, pictures),
        "diagnosis": diagnosed or None,
        "tuning": tuned or None,
        "alignment": kept or None,
        "asked": asked,
        "notes": list(notes),
    }
    write_json(out / "report.json", _json_able(values))
    write_atomically(out / "report.md", render("template.md.jinja", page))
    written = write_atomically(out / "index.html", render("template.html.jinja", page))
    for name, suffix in product(outdated, (".svg", ".png")):
        (out / f"{name}{suffix}").unlink(missing_ok=True)
    return written


def _earlier(folder: Path) -> Mapping[str, Any]:
    """The ``report.json`` of an earlier report in this folder; :class:`OutputError` where a page there is none of ours."""
    known = folder / "report.json"
    try:
        found = read_json(known) if known.exists() else None
    except ConfigError:  # damaged
        found = {"format": FORMAT}
    if isinstance(found, dict) and found.get("format") == FORMAT:
        return found
    if pages := [name for name in ("index.html", "report.md", "report.json") if (folder / name).exists()]:
        raise OutputError(
            asked=f"a report in {folder}",
            found=f"it holds {' and '.join(pages)} that no report of ours has written",
            todo="choose another folder",
        )
    return {}


def _pictures_of(earlier: Mapping[str, Any]) -> set[str]:
    """Names of the pictures that an earlier report says are its own."""
    named = earlier.get("figures")
    return {name for name in named if re.fullmatch(r"[\w-]+", str(name))} if isinstance(named, list) else set()


def _head(
    assessed: Sequence[Assessed],
    selective: Sequence[Abstention | None],
    settings: dict[str, Any],
    pictures: Sequence[Picture],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "calibrant": __version__,
        "settings": settings,
        "verdict": assessed[0].verdict.to_json(),
        "domains": [
            {**part.to_json(), "abstention": None if a is None else a.to_json()}
            for part, a in zip(assessed, selective, strict=True)
        ],
        "figures": [picture.file for picture in pictures],
    }


def _page(
    assessed: Sequence[Assessed],
    selective: Sequence[Abstention | None],
    diagnosis: Mapping[str, Any],
    tuning: Mapping[str, Any],
    asked: Mapping[str, Any],
    notes: Sequence[str],
    n_bins: int,
) -> tuple[dict[str, Any], list[Picture]]:
    is_tuned, model = assessed[0].after is not None, content.model_name(asked)
    parts, pictures = [], []
    for index, part in enumerate(assessed):
        drawn, both = _reliability(part, n_bins)
        found = selective[index]
        abstain = None if found is None else _risk_coverage(part, found)
        pictures += [*drawn, *([both] if both is not drawn[0] else []), *([abstain["figure"]] if abstain else [])]
        parts.append(
            {
                "key": part.key,
                "title": part.title,
                "figures": drawn,
                "file": both.file,
                "alt": both.alt,
                "caption": content.table_caption(part),
                "rows": rows(part, index),
                "abstain": abstain,
                "notes": part.before.notes
                if part.after is None
                else list(dict.fromkeys([*part.before.notes, *part.after.notes])),
            }
        )
    overview, path, sharpening = _overview(assessed), _path(tuning, diagnosis), _sharpening(diagnosis)
    pictures += [picture for picture in (overview, sharpening, path) if picture is not None]
    page = {
        "title": f"Calibration report: {model}" if model else "Calibration report",
        "model": model,
        "version": __version__,
        "colours": {"before": BEFORE, "after": AFTER},
        "question": content.question(assessed, model, bool(tuning)),
        "main": assessed[0],
        "others": assessed[1:],
        "tiles": _tiles(assessed[0]),
        "overview": overview,
        "parts": parts,
        "tuned": is_tuned,
        "how_to_read": content.HOW_TO_READ,
        "diagnosis": content.diagnosis_words(diagnosis),
        "caveat": CAVEAT,
        "training": content.training_facts(tuning) if tuning else [],
        "sharpening": sharpening,
        "regime_map": path,
        "signs": content.path_signs(tuning),
        "history": content.history_table(tuning),
        "use": content.USE_ADAPTER if tuning.get("adapter") else content.USE_WEIGHTS,
        "code": content.usage_code(str(asked.get("model") or "BASE MODEL"), tuning, asked.get("revision"))
        if tuning.get("adapter") or tuning.get("weights")
        else "",
        "asked": content.facts(asked),
        "notes": list(notes),
        "metrics": METRICS,
        "terms": content.terms(assessed[0]),
        "limits": content.LIMITS,
    }
    return page, pictures


def _reliability(part: Assessed, n_bins: int) -> tuple[list[Picture], Picture]:
    """The diagrams of a domain one by one, for the page, and the two side by side, for a paper."""
    scored = [("before", part.domain.before, part.before, BEFORE)]
    if part.domain.after is not None and part.after is not None:
        scored.append(("after", part.domain.after, part.after, AFTER))
    drawn = []
    for when, scores, m, colour in scored:
        name = f"reliability-{part.key}" if len(scored) == 1 else f"reliability-{part.key}-{when}"
        alt = (
            f"Reliability diagram of {part.domain.name}{'' if len(scored) == 1 else f', {when}'}: mean confidence "
            f"{m['mean_confidence'].value:.1%}, accuracy {m['accuracy'].value:.1%}, calibration error "
            f"{m['conf_ece'].value:.3f}, {m.n} questions."
        )
        title = "" if len(scored) == 1 else when.capitalize()
        ax = reliability_diagram(scores, n_bins=n_bins, title=title, colour=colour)
        drawn.append(Picture(figure_of(ax), name, alt))
    if part.domain.after is None:
        return drawn, drawn[0]
    pair = figure_of(before_after(part.domain.before, part.domain.after, n_bins=n_bins))
    return drawn, Picture(pair, f"reliability-{part.key}", " ".join(picture.alt for picture in drawn))


def _risk_coverage(part: Assessed, found: Abstention) -> dict[str, Any]:
    """Picture and sentences of what abstaining brings."""
    alt = f"Error rate against share answered, {part.domain.name}. {' '.join(found.sentences)}"
    picture = Picture(figure_of(found.plot()), f"risk-coverage-{part.key}", alt, caption(found))
    return {"figure": picture, "sentences": found.sentences}


def _overview(assessed: Sequence[Assessed]) -> Picture | None:
    if len(assessed) < 2:
        return None
    shown, said = {}, []
    for part in assessed:
        row = [part.before["conf_ece"], *([part.after["conf_ece"]] if part.after is not None else [])]
        shown[part.title.replace(" (", "\n(")] = row
        said.append(f"{part.domain.name} {' to '.join(f'{estimate.value:.3f}' for estimate in row)}")
    caption = "Calibration error of each set of questions. A point inside its grey bar cannot be told from calibrated."
    return Picture(figure_of(error_plot(shown)), "calibration-error", f"Calibration error: {'; '.join(said)}.", caption)


def _path(tuning: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Picture | None:
    """The regime map: of the evaluations of a tuning run, or else of the diagnosed model alone."""
    points = [p for p in tuning.get("history") or () if p.get("accuracy") is not None and p.get("conf_ece") is not None]
    numbers = diagnosis.get("numbers") or {}
    of_training = bool(points)
    if not points and numbers.get("accuracy") and numbers.get("conf_ece"):
        accuracy, error = numbers["accuracy"]["value"], numbers["conf_ece"]
        points = [{"accuracy": accuracy, "conf_ece": error["value"], "floor_p95": error.get("floor_p95")}]
    if not points:
        return None
    kept = tuning.get("best_epoch")
    if kept is not None:
        points = [{**p, "label": f"epoch {kept:g}, kept"} if p.get("epoch") == kept else p for p in points]
    target = content.target_accuracy(diagnosis)
    first, last = points[0], points[-1]
    alt = f"Regime map: accuracy {first['accuracy']:.1%}, calibration error {first['conf_ece']:.3f}."
    if len(points) > 1:
        alt = (
            f"Regime map: from accuracy {first['accuracy']:.1%} and calibration error {first['conf_ece']:.3f} to accuracy "
            f"{last['accuracy']:.1%} and calibration error {last['conf_ece']:.3f}."
        )
    figure = figure_of(regime_map(points, target_accuracy=target))
    named = "" if target is None else str(diagnosis.get("target_name") or "whatever A* was taken from")
    return Picture(figure, "regime-map", alt, content.map_caption(named, of_training=of_training))


def _sharpening(diagnosis: Mapping[str, Any]) -> Picture | None:
    """What alignment is expected to do to a preference, where a diagnosis has named it as the cause."""
    if not diagnosis.get("collapsed"):
        return None
    alt = (
        "Probability of the preferred of two responses against β of the alignment, one line a share p of people who "
        "prefer it: at β = 1 it is p, and the smaller β, the nearer to 1."
    )
    return Picture(figure_of(sharpening_plot()), "expected-sharpening", alt, content.SHARPENING_CAPTION)


def _tiles(part: Assessed) -> list[dict[str, Any]]:
    labels = (
        ("mean_confidence", "It said it was right", "mean confidence"),
        ("accuracy", "It was right", "accuracy"),
        ("conf_ece", "Calibration error", ""),
    )
    tiles = []
    for key, label, note in labels:
        last = part.after or part.before
        if not note:
            note = f"conf-ECE; chance alone reaches {number(last[key].floor_p95, BY_KEY[key])}"
        before = estimate_cell(part.before[key], BY_KEY[key])
        after: Cell | None = None if part.after is None else estimate_cell(part.after[key], BY_KEY[key])
        tiles.append({"label": label, "before": before, "after": after, "note": note})
    return tiles


def _json_able(value: Any) -> Any:
    """The same with plain types only: numbers that are not finite become ``None``, paths and dates text."""
    if isinstance(value, Mapping):
        return {str(key): _json_able(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_able(item) for item in value]
    if isinstance(value, float):
        return finite(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
