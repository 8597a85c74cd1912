"""``Scores``: what is refused, what is derived, and a file that can be trusted."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from calibrant import Scores
from calibrant.errors import ScoresError

NAN = float("nan")


def some():
    return Scores.from_probs(
        [[0.7, 0.2, 0.1], [0.5, 0.5, NAN], [0.0, 1.0, 0.0]],
        [0, 1, 1],
        ids=["a", "b", "ü"],
        subjects=["x", None, "y"],
        columns={"length": [3, 4, 5]},
        split="test",
        provenance={"model": "m", "seed": 0},
    )


def test_what_is_derived():
    s = some()
    assert (s.n, s.k, s.k_N.tolist()) == (3, 3, [3, 2, 3])
    assert s.prediction_N.tolist() == [0, 0, 1]  # ties go to the first option
    assert s.correct_N.tolist() == [True, False, True]
    assert np.allclose(s.confidence_N, [0.7, 0.5, 1.0])
    assert np.isneginf(s.logp_NK[1, 2])
    assert np.isneginf(s.logp_NK[2, 0])  # impossible, not absent
    assert np.isnan(s.logmass_N).all()


def test_a_saved_file_gives_the_same_back_and_equal_scores_are_equal_bytes(tmp_path):
    s = some()
    first, second = s.save(tmp_path / "a.scores"), some().save(tmp_path / "deep" / "b.scores")
    assert first.read_bytes() == second.read_bytes()
    t = Scores.load(first)
    for name in ("logp_NK", "answer_N", "k_N", "logmass_N"):
        assert np.array_equal(getattr(s, name), getattr(t, name), equal_nan=True)
    assert (t.ids, t.subjects, t.hashes, t.columns, t.split) == (s.ids, s.subjects, s.hashes, s.columns, s.split)
    assert t.provenance == s.provenance
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.scores"]  # nothing temporary is left


def test_a_flipped_bit_is_noticed(tmp_path):
    path = some().save(tmp_path / "a.scores")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ScoresError, match="checksum"):
        Scores.load(path)


def test_columns_of_numpy_values_and_broken_text_are_kept_and_what_cannot_be_is_named(tmp_path):
    p, answer = [[0.6, 0.4]] * 3, [0, 1, 0]
    kept = Scores.from_probs(p, answer, columns={"x": np.arange(3), "y": ["a", "\ud83d", None]})
    again = Scores.load(kept.save(tmp_path / "kept"))
    assert again.columns == {"x": (0, 1, 2), "y": ("a", "\ud83d", None)}
    with pytest.raises(ScoresError, match="a set"):
        Scores.from_probs(p, answer, columns={"x": [{1}, {2}, {3}]}).save(tmp_path / "set")


def test_damaged_metadata_is_refused_in_words(tmp_path):
    content = Scores.from_probs([[0.6, 0.4]] * 3, [0, 1, 0]).save(tmp_path / "whole").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    refused = 0
    for place in range(8, 8 + len(header)):
        damaged = bytearray(content)
        damaged[place] ^= 2
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            Scores.load(tmp_path / "damaged")
        except ScoresError:
            refused += 1
    assert refused > 0.9 * len(header)


def test_a_logmass_that_is_a_probability_is_refused():
    with pytest.raises(ScoresError, match="0 or less"):
        Scores.from_logp([[-0.7, -0.7]], [0], logmass=[0.9])


def test_a_cut_file_a_foreign_file_and_no_file_are_refused(tmp_path):
    path = some().save(tmp_path / "a.scores")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-40])
    (tmp_path / "foreign").write_bytes(safetensors.numpy.save({"x": np.zeros(2)}))
    (tmp_path / "text").write_text("hello")
    for name in ("cut", "foreign", "text", "none"):
        with pytest.raises(ScoresError, match="to do:"):
            Scores.load(tmp_path / name)


@pytest.mark.parametrize(
    ("p", "answer", "message"),
    [
        ([[0.5, 0.4]], [0], "sum to 1"),
        ([[1.2, -0.2]], [0], r"probabilities in \[0, 1\]"),
        ([[0.5, 0.5]], [2], "answer index"),
        ([[0.5, 0.5, NAN]], [2], "answer index"),
        ([[0.5, 0.5]], [-1], "answer index"),
        ([[0.5, NAN, 0.5]], [0], "after the present ones"),
        ([[1.0, NAN]], [0], "two options"),
        ([[0.5, 0.5]], [0, 1], "as many as answers"),
        ([[0.5, 0.5]], ["A"], "0-based"),
        ([[0.5, 0.5]], [0.5], "0-based"),
        ([[1.0]], [0], "options >= 2"),
        (np.zeros((0, 4)), [], "questions >= 1"),
        ([[0.5, 0.5], [1.0]], [0, 0], "same length"),
    ],
)
def test_wrong_probabilities_are_refused(p, answer, message):
    with pytest.raises(ScoresError, match=message):
        Scores.from_probs(p, answer)


def test_log_probabilities_minus_infinity_everywhere_or_unnormalised_are_refused():
    with pytest.raises(ScoresError, match="finite"):
        Scores.from_logp([[-np.inf, -np.inf]], [0])
    with pytest.raises(ScoresError, match="normalised"):
        Scores.from_logp([[-1.0, -1.0]], [0], normalise=False)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=2, max_size=5), min_size=1, max_size=6), st.floats(-20, 20))
def test_a_constant_added_to_a_row_changes_nothing(rows, shift):
    width = max(map(len, rows))
    matrix = np.array([row + [NAN] * (width - len(row)) for row in rows])
    a, b = (Scores.from_logp(m, [0] * len(rows)) for m in (matrix, matrix + shift))
    assert np.allclose(a.p_NK, b.p_NK, atol=1e-9)
    assert np.allclose(a.p_NK.sum(1), 1)
    assert a.k_N.tolist() == [len(row) for row in rows]


def test_selection_keeps_rows_together():
    s = some().select([2, 0])
    assert (s.ids, s.columns["length"], s.answer_N.tolist()) == (("ü", "a"), (5, 3), [1, 0])
    assert some().select(np.array([False, True, False])).ids == ("b",)


@pytest.mark.parametrize("answer", [[[0], [1]], 0, [[0], [0, 1]]])
def test_answers_are_one_flat_list(answer):
    with pytest.raises(ScoresError, match=r"answers of (shape|type)"):
        Scores.from_probs([[0.9, 0.1], [0.1, 0.9]], answer)


def test_the_weights_of_a_model_are_refused_without_being_read(tmp_path):
    """In bfloat16, which numpy does not know."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    with pytest.raises(ScoresError, match="no calibrant"):
        Scores.load(tmp_path / "model.safetensors")
