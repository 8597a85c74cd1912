"""Pictures: what is drawn is what was measured, and nothing global is touched."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.stats import binom

from calibrant.errors import ConfigError
from calibrant.metrics import Estimate, bin_table, slices
from calibrant.reporting import (
    before_after,
    error_plot,
    regime_map,
    reliability_diagram,
    risk_coverage_plot,
    sharpening_plot,
    smooth_reliability,
)
from calibrant.reporting.canvas import AFTER, BEFORE, SERIES, figure_of, inline_svg, png_bytes, svg_text
from calibrant.reporting.plots import consistency_band
from calibrant.scores import Scores


@pytest.fixture(scope="module")
def scores():
    """Three groups: .95 with 30 of 40 right, .65 with 18 of 30, .35 with 1 of 3 (a thin bin)."""
    rows = [([0.95, 0.05, 0.0], 30, 40), ([0.65, 0.2, 0.15], 18, 30), ([0.35, 0.33, 0.32], 1, 3)]
    p = [row for row, _, n in rows for _ in range(n)]
    answer = [0 if i < hits else 1 for _, hits, n in rows for i in range(n)]
    return Scores.from_probs(p, answer)


def points(ax):
    return np.array(sorted((x, y) for line in ax.lines if line.get_marker() in "os" for x, y in line.get_xydata()))


def test_points_stand_at_mean_confidence_and_accuracy(scores):
    ax = reliability_diagram(scores)
    assert points(ax) == pytest.approx(np.array([[0.35, 1 / 3], [0.65, 0.6], [0.95, 0.75]]))


def test_bars_are_the_exact_binomial_interval(scores):
    table = bin_table(scores.confidence_N, scores.correct_N)
    ax = reliability_diagram(scores)
    drawn = [tuple(s[:, 1]) for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    wanted = [(table.low_M[m], table.high_M[m]) for m in (3, 6, 9)]
    assert sorted(drawn) == [pytest.approx(pair) for pair in sorted(wanted)]


def test_a_table_draws_the_same_as_its_scores(scores):
    table = bin_table(scores.confidence_N, scores.correct_N, 5)
    assert points(reliability_diagram(table)) == pytest.approx(points(reliability_diagram(scores, n_bins=5)))


def test_the_strip_counts_every_question(scores):
    """Mean confidence (40 * .95 + 30 * .65 + 3 * .35) / 73 = 58.55 / 73 = .802; right 49 / 73 = .671."""
    (strip,) = reliability_diagram(scores).child_axes
    assert sum(bar.get_height() for bar in strip.patches) == scores.n
    assert "mean 80.2% (dashed), right 67.1% (solid), n = 73" in strip.get_xlabel()


def test_the_band_is_the_middle_of_the_binomial(scores):
    table = bin_table(scores.confidence_N, scores.correct_N)
    low_M, high_M = consistency_band(table)
    assert (low_M[9], high_M[9]) == (binom.ppf(0.025, 40, 0.95) / 40, binom.ppf(0.975, 40, 0.95) / 40)
    assert np.isnan(low_M[0])


def test_a_calibrated_model_falls_in_the_band_as_often_as_promised():
    """Confidences spread inside each bin; labels drawn from them; at least 95% of the bins' accuracies inside."""
    rng = np.random.default_rng(1)
    c = rng.uniform(0.3, 1, 600)
    inside = [
        (low - 1e-9 <= t.accuracy_M) & (t.accuracy_M <= high + 1e-9)
        for t in (bin_table(c, rng.random(600) < c) for _ in range(300))
        for low, high in [consistency_band(t)]
    ]
    assert 0.94 < np.stack(inside)[:, 3:].mean() < 0.99


def test_thin_bins_are_faint(scores):
    ax = reliability_diagram(scores)
    alphas = {line.get_alpha() for line in ax.lines if line.get_marker() in "os" and len(line.get_xdata())}
    assert alphas == {0.4, 1.0}


def test_the_given_axes_are_used_and_returned(scores):
    ax = Figure().subplots()
    for drawn in (
        reliability_diagram(scores, ax=ax),
        smooth_reliability(scores, ax=ax),
        regime_map([{"accuracy": 0.6, "conf_ece": 0.1}], ax=ax),
        error_plot({"all": [Estimate(0.1, 0.05, 0.15, 73, 0.04, 0.06)]}, ax=ax),
    ):
        assert drawn is ax


def test_before_and_after_share_their_scales_and_differ_in_marker(scores):
    left = before_after(scores, scores)
    one, other = figure_of(left).axes
    assert left is one
    assert one.get_xlim() == other.get_xlim() == one.get_ylim() == other.get_ylim() == (0, 1)
    markers = [{line.get_marker() for line in ax.lines} & {"o", "s"} for ax in (one, other)]
    assert markers == [{"s"}, {"o"}]
    pair = Figure().subplots(1, 2)
    assert before_after(scores, scores, axes=tuple(pair)) is pair[0]


def test_global_style_and_pyplot_are_left_alone(scores):
    before = dict(matplotlib.rcParams)
    save_to = before_after(scores, scores)
    svg_text(figure_of(save_to))
    smooth_reliability(scores)
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_the_smooth_curve_lies_below_the_diagonal_where_the_model_is_too_sure():
    ax = smooth_reliability(Scores.from_probs([[0.9, 0.1]] * 50, [0] * 30 + [1] * 20))
    t, accuracy = ax.lines[0].get_data()
    assert accuracy[np.argmin(np.abs(t - 0.9))] == pytest.approx(0.6, abs=0.01)


def test_the_map_draws_each_checkpoint_the_floor_and_the_bound():
    path = [
        {"accuracy": 0.6, "conf_ece": 0.2, "epoch": 0, "floor_p95": 0.05},
        {"accuracy": 0.7, "conf_ece": 0.1, "epoch": 1},
    ]
    ax = regime_map(path, target_accuracy=0.65)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["reach of chance (95%)", "|A − A*|, A* = 65.0%"]
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["epoch 0", "epoch 1"]
    (bound,) = [line for line in ax.lines if line.get_label().startswith("|A")]
    x, y = bound.get_data()
    assert y == pytest.approx(np.abs(x - 0.65))
    assert ax.get_ylim()[1] > 0.2
    assert regime_map(path[:1]).get_legend() is not None
    assert regime_map([{"accuracy": 0.6, "conf_ece": 0.2}]).get_legend() is None


def test_the_line_of_full_certainty_is_drawn_where_it_is_in_sight():
    ax = regime_map([{"accuracy": 0.6, "conf_ece": 0.4}])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["always certain: 1 − A"]


@pytest.mark.parametrize("path", [[], [{"accuracy": 0.5}], [{"accuracy": 0.5, "conf_ece": None}]])
def test_a_map_without_its_numbers_is_refused(path):
    with pytest.raises(ConfigError, match="asked: "):
        regime_map(path)


def test_several_paths_have_a_colour_and_a_marker_each_and_seeds_share_them():
    def path(shift):
        return [{"accuracy": 0.6 + shift + 0.02 * t, "conf_ece": 0.2 - 0.05 * t, "floor_p95": 0.04} for t in range(3)]

    ax = regime_map({"CFT": [path(0.0), path(0.01)], "RCFT": path(0.1)}, target_accuracy=0.7)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["reach of chance (95%)", "always certain: 1 − A", "|A − A*|, A* = 70.0%", "CFT", "RCFT"]
    lines = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    assert [line.get_color() for line in lines] == [SERIES[0], SERIES[0], SERIES[1]]
    assert lines[1].get_xydata() == pytest.approx(np.array([[0.61, 0.2], [0.63, 0.15], [0.65, 0.1]]))
    filled = [
        (line.get_marker(), line.get_color(), tuple(line.get_xydata()[0]))
        for line in ax.lines
        if line.get_label() in ("CFT", "RCFT")
    ]
    assert filled == [("o", SERIES[0], (0.64, pytest.approx(0.1))), ("s", SERIES[1], (0.74, pytest.approx(0.1)))]
    alone = regime_map({"only": [{"accuracy": 0.6, "conf_ece": 0.1}]})
    assert len([line for line in alone.lines if len(line.get_xdata())]) >= 1


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ({}, "without points"),
        ({"a": []}, "without points"),
        ({"a": [[]]}, "without points"),
        ({"a": [{"accuracy": 0.5}]}, "point 0 of 'a'"),
        ({str(i): [{"accuracy": 0.5, "conf_ece": 0.1}] for i in range(7)}, "colours for 6"),
    ],
)
def test_several_paths_without_their_numbers_are_refused(paths, found):
    with pytest.raises(ConfigError, match=found):
        regime_map(paths)


def test_the_sharpening_curve_is_the_closed_form_and_holds_the_points():
    """p = .6: β = 1 gives .6, .1 gives .9830 (docs/regimes.md)."""
    measured = [
        {"beta": 0.5, "confidence": {"value": 0.7, "low": 0.66, "high": 0.75}, "accuracy": 0.6},
        {"beta": 0.005, "confidence": 0.95, "accuracy": 0.58},
    ]
    ax = sharpening_plot([0.6, 0.4], points=measured)
    beta, up = ax.lines[0].get_data()
    assert (beta[0], up[0]) == (1.0, pytest.approx(0.6))
    assert np.interp(0.1, beta[::-1], up[::-1]) == pytest.approx(0.983, abs=1e-3)
    assert ax.lines[1].get_ydata() == pytest.approx(1 - up)  # who prefers the one does not prefer the other
    assert beta[-1] == pytest.approx(0.005)
    assert ax.get_xlim()[0] > 1 > 0.005 > ax.get_xlim()[1]
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    x, y = handles["mean confidence"].lines[0].get_data()
    assert (list(x), list(y)) == ([0.5, 0.005], [0.7, 0.95])
    (bars,) = handles["mean confidence"].lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.66, 0.75])
    assert list(handles["accuracy"].lines[0].get_ydata()) == [0.6, 0.58]
    assert sharpening_plot().get_legend() is None


def test_the_figure_of_the_docs_is_the_one_that_is_drawn_now():
    figure = Path(__file__).parents[2] / "docs" / "figures" / "sharpening.svg"
    assert figure.read_text(encoding="utf-8") == svg_text(figure_of(sharpening_plot()))


@pytest.mark.parametrize(
    ("shares", "points"),
    [
        ([], []),
        ([1.2], []),
        ([0.6], [{"beta": 0.0, "confidence": 0.5, "accuracy": 0.5}]),
        ([0.6], [{"beta": 0.1, "confidence": 0.5}]),
        ([0.6], [{"beta": 0.1, "confidence": float("nan"), "accuracy": 0.5}]),
    ],
)
def test_a_sharpening_curve_without_meaning_is_refused(shares, points):
    with pytest.raises(ConfigError, match="asked: "):
        sharpening_plot(shares, points=points)


def test_error_plot_draws_slices():
    s = Scores.from_probs([[0.9, 0.1]] * 120, [0] * 100 + [1] * 20, subjects=["a", "b", "c"] * 40)
    parts = slices(s, "subject")
    ax = error_plot(parts)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"{part.name}\nn = 40" for part in parts]
    with pytest.raises(ConfigError, match="rows of one estimate"):
        error_plot([])


def test_error_plot_shows_value_interval_and_floor():
    e, f = Estimate(0.2, 0.15, 0.26, 400, 0.03, 0.05), Estimate(0.04, 0.0, 0.07, 400, 0.03, 0.06)
    ax = error_plot({"a": [e, f], "b": [e, Estimate(0.1, float("nan"), float("nan"), 400)]})
    assert {round(float(x), 3) for line in ax.lines for x in line.get_xdata() if line.get_marker() in "os"} == {
        0.2,
        0.04,
        0.1,
    }
    assert sorted({round(bar.get_width(), 3) for bar in ax.patches if np.isfinite(bar.get_width())}) == [0.05, 0.06]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "reach of chance (95%)", "after"]


def test_risk_coverage_starts_with_the_most_confident_and_ends_with_all(scores):
    """The .95 group alone: 10 of 40 wrong at coverage 40/73; all: 24 of 73 wrong."""
    ax = risk_coverage_plot(scores)
    x, y = ax.lines[0].get_data()
    assert x == pytest.approx([40 / 73, 70 / 73, 1])
    assert y == pytest.approx([10 / 40, 22 / 70, 24 / 73])
    both = risk_coverage_plot({"before": scores, "after": scores})
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["before", "after"]


@pytest.mark.parametrize("count", [0, 3])
def test_risk_coverage_draws_one_or_two(scores, count):
    with pytest.raises(ConfigError, match="one or two"):
        risk_coverage_plot({str(i): scores for i in range(count)})


def test_long_and_foreign_names_and_dollars_are_drawn_as_they_are():
    e = Estimate(0.2, 0.15, 0.26, 400, 0.03, 0.05)
    ax = error_plot({"costs $5 or $6_^{": [e], "東京 " * 40: [e], "x" * 500: [e]})
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "costs $5 or $6_^{\nn = 400"
    assert all(len(line) <= 22 for label in labels for line in label.splitlines())
    svg = svg_text(figure_of(ax))
    assert "costs $5 or $6_^{" in svg
    assert "東京" in svg
    assert png_bytes(figure_of(ax)).startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [{}, {"a": []}, {"a": [1, 2, 3]}, {"a": [1], "b": [1, 2]}])
def test_error_plot_refuses_unequal_rows(rows):
    with pytest.raises(ConfigError, match="rows"):
        error_plot(rows)


def test_the_same_figure_gives_the_same_svg(scores):
    assert svg_text(figure_of(reliability_diagram(scores))) == svg_text(figure_of(reliability_diagram(scores)))


def test_inline_svg_is_described_scales_and_keeps_its_references(scores):
    svg = inline_svg(svg_text(figure_of(reliability_diagram(scores))), "one", 'a "quoted" <name>')
    assert svg.startswith("<svg ")
    assert 'role="img" aria-label="a &quot;quoted&quot; &lt;name&gt;"' in svg
    head = svg[: svg.index(">")]
    assert " width=" not in head
    assert "viewBox" in head
    import re

    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= ids


def luminance(colour):
    """Relative luminance of sRGB (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("colour", sorted({BEFORE, AFTER, *SERIES}))
def test_series_colours_stand_out_from_paper(colour):
    """WCAG asks 3:1 of graphics against their ground."""
    assert 1.05 / (luminance(colour) + 0.05) > 3
