"""Filling the templates. HTML is escaped, Markdown is made harmless by its filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from calibrant.reporting.tables import markdown, markdown_number


def render(template: str, page: Mapping[str, Any]) -> str:
    """A template of this package, filled; a name that the page lacks is our bug and raises."""
    environment = Environment(
        loader=PackageLoader("calibrant", "reporting"),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": markdown, "number": markdown_number}
    return environment.get_template(template).render(page)
