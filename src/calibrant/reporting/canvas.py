"""Colours, type and files of every picture. Nothing here touches global style or pyplot.

The colours are Okabe and Ito's (2008), some darker so that they stand out from white, told apart by people with any
colour vision; every series has a marker of its own as well, so a grey print reads the same.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEFORE, AFTER = "#D55E00", "#0072B2"
SERIES = (AFTER, BEFORE, "#007A59", "#9C4577", "#7A5C00", "#3B3B3B")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, FAINT = "#1f2933", "#5f6b76", "#d5dae0"
BAND, FORBIDDEN = "#c9d3dc", "#f3dcc9"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "calibrant",
}


@contextmanager
def style() -> Iterator[None]:
    """The style of our pictures, inside a ``with`` block only."""
    with matplotlib.rc_context(STYLE):
        yield


def new_axes(width: float = 4.4, height: float = 5.6) -> Axes:
    """Axes of a figure of their own (sizes in inches); ``axes.figure`` is the figure, unknown to pyplot."""
    axes: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    return axes


def figure_of(ax: Axes) -> Figure:
    """The figure that axes stand on."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def svg_text(figure: Figure) -> str:
    """The figure as SVG with real text; the same figure gives the same text."""
    svg = _saved(figure, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))).decode()
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, 180 dots an inch; the same figure gives the same bytes."""
    return _saved(figure, format="png", dpi=180, metadata={"Software": None})


def _saved(figure: Figure, **how: Any) -> bytes:
    """Rendered in our style; a letter that the font lacks is not a warning (a browser finds it in another font)."""
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, bbox_inches="tight", pad_inches=0.06, **how)
    return buffer.getvalue()


def inline_svg(svg: str, name: str, description: str) -> str:
    """SVG text as an element of a page: it scales with its container and is described for those who cannot see it.

    Ids are prefixed with ``name``, so that several pictures can stand in one page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height|version|xmlns(:xlink)?)="[^"]*"', "", head)
    rest = re.sub(r"\s*<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace("xlink:href", "href")
    label = escape(description, quote=True)
    return f'{head} role="img" aria-label="{label}"><title>{escape(description)}</title>{rest}'
