"""The one binning rule and the reliability table."""

import math

import numpy as np
import pytest

from calibrant.errors import ConfigError, ScoresError
from calibrant.metrics import bin_edges, bin_index, bin_table, clopper_pearson
from calibrant.scores import Scores


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 20, 100])
def test_every_edge_opens_its_own_bin_and_one_closes_the_last(n_bins):
    edges = bin_edges(n_bins)
    assert bin_index(edges, n_bins).tolist() == [*range(n_bins), n_bins - 1]
    assert bin_index(edges[1:] - 1e-9, n_bins).tolist() == list(range(n_bins))


def test_a_tenth_that_lost_its_last_bit_in_a_logarithm_stays_in_its_bin():
    p = np.arange(1, 10) / 10
    assert bin_index(np.exp(np.log(p))).tolist() == list(range(1, 10))
    assert bin_index(np.nextafter(p, 0)).tolist() == list(range(1, 10))


def test_scores_given_as_probabilities_on_edges_are_binned_on_those_edges():
    s = Scores.from_probs([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1]], [0, 0, 0])
    assert bin_index(s.confidence_N).tolist() == [7, 4, 8]
    assert bin_index(s.p_NK).tolist() == [[7, 2, 1], [3, 3, 4], [8, 1, 1]]


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ScoresError, match="between 0 and 1"):
        bin_index([0.5, bad])


def test_no_bins_are_refused():
    with pytest.raises(ConfigError, match="n_bins"):
        bin_index([0.5], 0)


def test_bin_table_by_hand():
    """Bin 5 holds .55 (hit) and .58 (miss): mean .565, accuracy .5. Bin 9 holds .95 (hit). All others are empty."""
    t = bin_table([0.55, 0.58, 0.95], [1, 0, 1])
    assert t.count_M.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert t.mean_confidence_M[5] == pytest.approx(0.565)
    assert t.accuracy_M[[5, 9]].tolist() == [0.5, 1.0]
    assert np.isnan(t.accuracy_M[:5]).all()
    assert np.isnan(t.low_M[:5]).all()
    assert t.low_M[9] == pytest.approx(0.025)  # one hit of one: low = Beta^-1(.025; 1, 1)
    assert t.high_M[9] == 1.0


def test_clopper_pearson_covers_at_least_its_level_for_every_share():
    n = 30
    low, high = clopper_pearson(np.arange(n + 1), n)
    for share in np.linspace(0.01, 0.99, 99):
        inside = (low <= share) & (share <= high)
        weights = np.array([math.comb(n, h) * share**h * (1 - share) ** (n - h) for h in range(n + 1)])
        assert weights[inside].sum() >= 0.95


@pytest.mark.parametrize(
    ("confidence", "correct"), [([], []), ([0.5], [2]), ([0.5, 0.5], [1]), ([math.nan], [1]), ([[0.5]], [[1]])]
)
def test_unusable_pairs_are_refused(confidence, correct):
    with pytest.raises(ScoresError):
        bin_table(confidence, correct)
