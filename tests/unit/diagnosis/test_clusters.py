"""diagnose with whole clusters resampled: the numbers of measure, and copies that are one question."""

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.metrics import measure


def test_with_clusters_the_diagnosis_is_that_of_measure(draw):
    scores = draw(600, power=1.3)
    label = [f"c{i % 12}" for i in range(600)]
    found, plain = diagnose(scores, cluster=label, n_boot=200), diagnose(scores, n_boot=200)
    wanted = measure(scores, cluster=label, n_boot=200)
    for name in ("conf_ece", "accuracy", "signed_gap"):
        assert found.numbers[name] == wanted[name]
        assert found.numbers[name] != plain.numbers[name]
    assert "(n = 600 in 12 clusters" in found.to_text()
    assert (found.to_json()["n_clusters"], plain.to_json()["n_clusters"]) == (12, None)
    copies = scores.select(np.repeat(np.arange(600), 4))
    each = np.repeat(np.arange(600), 4).tolist()
    for name in ("critical_accuracy", "tce", "bound_1"):  # four copies of a question are one question
        alone, four = plain.numbers[name], diagnose(copies, cluster=each, n_boot=200).numbers[name]
        assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.35, abs=0.004)
