"""conf-ECE, cw-ECE, signed gap, NLL, Brier: worked by hand."""

import math

import numpy as np
import pytest

from calibrant.errors import ScoresError
from calibrant.metrics import brier, conf_ece, cw_ece, nll, signed_gap
from calibrant.metrics.calibration import check_matrix


def test_conf_ece_by_hand():
    """Bin 9: .91 hit, .99 miss -> acc .5, conf .95, gap .45, share 2/5. Bin 5: .52 .54 .56, two hits ->
    |2/3 - .54| = .1267, share 3/5. Sum: .18 + .076 = .256."""
    assert conf_ece([0.91, 0.99, 0.52, 0.54, 0.56], [1, 0, 1, 1, 0]) == pytest.approx(0.256)


def test_opposite_errors_cancel_inside_a_bin_and_add_across_bins():
    assert conf_ece([0.51, 0.59], [1, 0]) == pytest.approx(0.05)  # |.5 - .55|, one bin
    assert conf_ece([0.41, 0.59], [1, 0]) == pytest.approx((0.59 + 0.59) / 2)  # |1 - .41| and |0 - .59|


def test_constant_confidence_has_the_error_of_its_mean():
    assert conf_ece([0.8] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.3)
    assert signed_gap([0.8] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.3)


def test_cw_ece_by_hand():
    """Three options, two questions, answers 0 and 2.
    k=0: .6 hit, .2 miss -> .5(.4) + .5(.2) = .3;  k=1: .3, .2 both miss -> .15 + .1 = .25;
    k=2: .1 miss, .6 hit -> .05 + .2 = .25.  Mean (.3 + .25 + .25)/3 = .26667."""
    assert cw_ece([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], [0, 2]) == pytest.approx(0.8 / 3)


def test_cw_ece_leaves_a_question_out_of_the_class_that_it_lacks():
    """Row 1 has two options. k=0: .5|1-.6| + .5|0-.3| = .35; k=1: .5|0-.3| + .5|1-.7| = .3;
    k=2: only row 0, N_2 = 1: |0 - .1| = .1.  Mean .25. Counting the absent option as a 0 would give .05 for k=2."""
    p = [[0.6, 0.3, 0.1], [0.3, 0.7, 0.0]]
    assert cw_ece(p, [0, 1], k_N=[3, 2]) == pytest.approx(0.25)
    assert cw_ece(p, [0, 1]) == pytest.approx((0.35 + 0.3 + 0.05) / 3)


def test_cw_ece_divides_by_the_classes_that_exist():
    p = np.array([[0.6, 0.4], [0.3, 0.7]])
    wide = np.hstack([p, np.zeros((2, 3))])
    assert cw_ece(wide, [0, 1], k_N=[2, 2]) == pytest.approx(cw_ece(p, [0, 1]))


def test_nll_by_hand_and_infinite_where_the_answer_was_impossible():
    logp = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    assert nll(logp, [0, 2]) == pytest.approx((math.log(2) - math.log(0.8)) / 2)
    assert nll([[0.0, -math.inf]], [1]) == math.inf


def test_brier_by_hand_is_two_for_certain_error_and_zero_for_certain_truth():
    assert brier([[1.0, 0.0], [1.0, 0.0]], [0, 1]) == pytest.approx(1.0)
    assert brier([[0.5, 0.3, 0.2]], [1]) == pytest.approx(0.25 + 0.49 + 0.04)


@pytest.mark.parametrize(
    ("p", "answer", "k"),
    [
        ([[0.5, 0.6]], [0], None),
        ([[math.nan, 1.0]], [0], None),
        ([[1.2, -0.2]], [0], None),
        ([[0.5, 0.5]], [2], None),
        ([[0.5, 0.5]], [-1], None),
        ([[0.5, 0.5]], [0.0], None),
        ([[0.5, 0.5]], [0, 1], None),
        ([[1.0]], [0], None),
        ([[0.5, 0.5, 0.0]], [2], [2]),
        ([[0.5, 0.3, 0.2]], [0], [2]),
        ([[0.5, 0.5]], [0], [1]),
    ],
)
def test_unusable_matrices_are_refused(p, answer, k):
    with pytest.raises(ScoresError):
        check_matrix(p, answer, k)
    if k is None:
        with pytest.raises(ScoresError):
            brier(p, answer)


def test_nll_refuses_nan_and_rows_of_minus_infinity():
    for row in ([math.nan, 0.0], [-math.inf, -math.inf]):
        with pytest.raises(ScoresError):
            nll([row], [0])
