"""``recipes/few_labels.py`` on questions whose right temperature is known."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from calibrant import Scores
from calibrant.metrics import overconfident

FILE = Path(__file__).resolve().parents[2] / "recipes" / "few_labels.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("few_labels", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sharpened(n, power, seed, name):
    """Calibrated scores to a power: the temperature that mends them is the power."""
    scores = overconfident(n, epsilon=0.0, seed=seed)
    columns = {"group": [f"{name} {i // 4}" for i in range(n)]}
    ids = [f"{name}-{i}" for i in range(n)]
    return Scores.from_logp(power * scores.logp_NK, scores.answer_N, ids=ids, columns=columns)


def test_new_questions_mend_what_the_old_temperature_does_not(recipe):
    far, calibration = sharpened(2000, 3.0, 1, "far"), sharpened(500, 1.5, 2, "near")
    found = recipe.mended({0: far}, {0: calibration}, sizes=[20, 900], draws=5, seed=0, cluster="group")
    assert (found["n"], found["clusters"], found["seeds"]) == (2000, 500, [0])
    assert list(found["by_size"]) == ["0", "20", "900"]
    assert set(found["by_size"]["900"]) == {"new questions", "both"}
    excess = {(size, way): row["excess"][0] for size, ways in found["by_size"].items() for way, row in ways.items()}
    assert excess["0", "none"] > excess["0", "calibration questions"] > 0.1
    assert abs(excess["900", "new questions"]) < 0.01
    assert excess["0", "calibration questions"] > excess["20", "both"] > excess["900", "both"]
    assert excess["900", "both"] > excess["900", "new questions"]
    twice = recipe.mended(
        {0: far, 1: far}, {0: calibration, 1: calibration}, sizes=[], draws=5, seed=0, cluster="group"
    )
    for way, row in twice["by_size"]["0"].items():  # an equal seed changes no mean
        assert {name: v[0] for name, v in row.items()} == {name: v[0] for name, v in found["by_size"]["0"][way].items()}


def test_without_a_temperature_the_halves_are_the_whole_on_average(recipe):
    far = sharpened(400, 2.0, 3, "far")
    calibration = sharpened(100, 2.0, 4, "near")
    found = recipe.mended({0: far}, {0: calibration}, sizes=[5], draws=100, seed=0, cluster=None)
    whole = -far.logp_NK[np.arange(far.n), far.answer_N].mean()
    mean, low, high = found["by_size"]["0"]["none"]["nll"]
    assert mean == pytest.approx(whole, abs=0.03)
    assert low < whole < high
    assert found["clusters"] == 400
