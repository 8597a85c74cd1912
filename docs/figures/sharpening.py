"""Draws docs/figures/sharpening.svg: how far alignment is expected to push a preference, against β."""

from pathlib import Path

from calibrant.reporting import sharpening_plot
from calibrant.reporting.canvas import figure_of, svg_text

if __name__ == "__main__":
    Path(__file__).with_name("sharpening.svg").write_text(svg_text(figure_of(sharpening_plot())), encoding="utf-8")
