"""``write_table``: a table as Markdown, JSON, one self-contained page, and every picture beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrant._version import __version__
from calibrant.files import write_atomically, write_json
from calibrant.ladder import kept, words
from calibrant.ladder.table import Standings, Table
from calibrant.reporting.canvas import AFTER, BEFORE, figure_of, png_bytes
from calibrant.reporting.contest import Contender, accuracy_error_plot, metric_plot
from calibrant.reporting.html import Picture
from calibrant.reporting.templates import render

FOLDER = "table"


def write_table(table: Table, out: str | Path) -> Path:
    """Write ``table.md``, ``table.json``, ``table.html`` and the pictures into ``out/table``; the path of the page.

    Raises
    ------
    OutputError : the folder cannot be written.
    """
    folder = Path(out) / FOLDER
    pictures = _pictures(table)
    for picture in pictures.values():
        write_atomically(folder / f"{picture.file}.svg", picture.source)
        write_atomically(folder / f"{picture.file}.png", png_bytes(picture.figure))
    verdict = words.headline(table)
    page = {
        "title": f"Calibration ladder: {Path(table.run['model']).name}",
        "model": Path(table.run["model"]).name,
        "version": __version__,
        "colours": {"before": BEFORE, "after": AFTER},
        "verdict": verdict,
        "losses": words.losses(table),
        "sets": [_rows(table, one, pictures) for one in table.sets],
        "columns": words.COLUMNS,
        "metrics": [pictures[c.key] for c in words.COLUMNS if c.key in pictures],
        "alignment": kept.section(table),
        "costs": [words.cost(standing) for standing in table.fixes],
        "unfinished": words.unfinished(table),
        "protocol": words.protocol(table),
        "facts": words.facts(table),
        "chance": words.chance(table),
    }
    values = {"verdict": verdict.to_json(), **table.to_json(), "figures": [p.file for p in pictures.values()]}
    write_json(folder / "table.json", values)
    write_atomically(folder / "table.md", render("contest.md.jinja", page))
    return write_atomically(folder / "table.html", render("contest.html.jinja", page))


def _rows(table: Table, one: Standings, pictures: dict[str, Picture]) -> dict[str, Any]:
    ordered = sorted(one.entries.values(), key=lambda entry: entry.estimates["conf_ece"].value)
    return {
        "title": words.title_of(one),
        "key": _key(table, one),
        "picture": pictures[_key(table, one)],
        "rows": [
            {
                "name": entry.name,
                "seeds": len(entry.seeds),
                "cut": words.cut(entry),
                "alignment": kept.word(table.alignment(entry.name)),
                "cells": {column.key: words.cell(entry, column) for column in words.COLUMNS},
            }
            for entry in ordered
        ],
    }


def _pictures(table: Table) -> dict[str, Picture]:
    family = {standing.fix.name: standing.fix.family for standing in table.fixes}
    sets = {
        one.title: [Contender(e.name, family[e.name], e.estimates, e.runs) for e in one.entries.values()]
        for one in table.sets
    }
    out = {}
    for one in table.sets:
        some = sets[one.title]
        said = "; ".join(
            f"{c.name} {c.estimates['accuracy'].value:.1%} and {c.estimates['conf_ece'].value:.3f}" for c in some
        )
        figure = figure_of(accuracy_error_plot(some))
        caption = "A hollow point cannot be told from calibrated. Lower and further right is better."
        alt = f"Accuracy and calibration error of each fix on {one.title}: {said}."
        key = _key(table, one)
        out[key] = Picture(figure, f"accuracy-error-{key}", alt, caption)
    for column in words.COLUMNS if sets else ():
        figure = metric_plot(
            sets,
            column.key,
            label=column.name,
            lower_is_better=words.lower_is_better(column.key),
            percent=column.percent,
        )
        alt = f"{column.name} of each fix on each set of questions, with intervals; the numbers are in the tables."
        out[column.key] = Picture(
            figure, f"metric-{column.key.replace('_', '-')}", alt, f"{column.name}: {column.meaning}."
        )
    return out


def _key(table: Table, one: Standings) -> str:
    """Name of a set's section and file: the set's own, numbered where an earlier one has the same."""
    slugs = ["".join(c if c.isalnum() else "-" for c in other.name.lower())[:40] for other in table.sets]
    at = next(i for i, other in enumerate(table.sets) if other is one)
    return f"set-{slugs[at]}" + (f"-{at + 1}" if slugs[at] in slugs[:at] else "")
