"""What the report says of a diagnosis: bounds and target, the cause where it was found, signs along the path."""

import re
from html import unescape

import numpy as np
import pytest

from calibrant.diagnosis import diagnose, preference_drift
from calibrant.diagnosis.result import CAVEAT, LABELS
from calibrant.reporting import Domain, report
from calibrant.reporting.content import path_signs
from calibrant.reporting.tables import markdown as as_markdown
from calibrant.scores import Scores

BOOT = 100
HISTORY = [
    {"epoch": 0.0, "step": 0, "nll": 1.3, "accuracy": 0.60, "conf_ece": 0.18, "floor_p95": 0.06, "n": 600},
    {"epoch": 1.0, "step": 9, "nll": 1.0, "accuracy": 0.63, "conf_ece": 0.05, "floor_p95": 0.07, "n": 600},
    {"epoch": 2.0, "step": 18, "nll": 1.1, "accuracy": 0.64, "conf_ece": 0.07, "floor_p95": 0.07, "n": 600},
]
TUNING = {"objective": "rcft", "best_epoch": 2.0, "history": HISTORY, "config": {}}


def world(n, sharpen, seed=0):
    """Overconfident scores and calibrated ones, of the same questions."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(n, 4)) * 1.3
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
    return Scores.from_logp(sharpen * logit, answer), Scores.from_logp(logit, answer)


def words_of(html):
    """The text of a page, one space between words."""
    bare = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A report on a collapsed model with its reference, preference pairs and a path that leaves the regime."""
    out = tmp_path_factory.mktemp("explained")
    sick, cured = world(600, 3.0)
    drift = preference_drift([-12.0] * 9, [-10.0] * 9, [-15.0] * 9, [-11.0] * 9, n_boot=BOOT)
    diagnosis = diagnose(sick, reference=cured, preferences=drift, n_boot=BOOT)
    assert diagnosis.collapsed
    history = [{**p, "train_accuracy": a} for p, a in zip(HISTORY, (0.6, 0.62, 0.9), strict=True)]
    tuning = {**TUNING, "history": history}
    path = report([Domain("quiz", True, sick, cured)], diagnosis=diagnosis, tuning=tuning, out=out, n_boot=BOOT)
    return diagnosis, path.read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8"), out


def test_the_bounds_stand_on_the_page_with_their_intervals_and_their_target(explained):
    diagnosis, html, markdown, _ = explained
    text = words_of(html)
    for name in ("bound_1", "bound_2_low", "bound_2_high", "bound_3", "critical_accuracy"):
        e = diagnosis.numbers[name]
        shown = f"{e.value:.3f} {e.low:.3f} to {e.high:.3f}"
        assert f"{LABELS[name]} {shown}" in text, name
        assert f"| {as_markdown(LABELS[name])} | **{e.value:.3f}** ({e.low:.3f} to {e.high:.3f}) |" in markdown
    for page in (text, markdown):
        assert f"Relative to {diagnosis.target_name}" in page
        assert CAVEAT in page
    assert f"A model that matches the target, {diagnosis.target_name}, cannot lie" in text


def test_collapse_is_explained_where_it_was_found(explained):
    diagnosis, html, markdown, out = explained
    text = words_of(html)
    slope = diagnosis.collapse.shift.slope
    assert f"slope of the log-odds on the reference's {slope.value:.3f} {slope.low:.3f} to {slope.high:.3f}" in text
    assert "rejected responses, change of log-probability, nats −4.000" in text
    assert (out / "expected-sharpening.svg").exists()
    assert "](expected-sharpening.svg)" in markdown
    assert "Not told" not in text


def test_signs_of_leaving_are_told_up_to_the_weights_that_were_kept(explained):
    _, html, markdown, _ = explained
    for page in (html, markdown):
        assert "Training minus held-out accuracy grew from +0.000 to +0.260." in page
        assert "Held-out NLL turned up from 1.000 to 1.100" in page
    assert path_signs({**TUNING, "best_epoch": 1.0}) == []
    assert path_signs({**TUNING, "history": [{**p, "n": None} for p in HISTORY]}) is None
