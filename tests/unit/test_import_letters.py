"""Probabilities by option letters, as an API tells them, and tables whose fault has a known way out."""

import json

import numpy as np
import pytest

from calibrant.errors import ScoresError
from calibrant.importing import import_table


def refusal(table, **options):
    with pytest.raises(ScoresError) as caught:
        import_table(table, **options)
    return str(caught.value)


def rows(column, *cells):
    return [{"id": str(i), "answer": "B", column: cell} for i, cell in enumerate(cells)]


@pytest.mark.parametrize("column", ["logprobs", "top_logprobs", "logprob"])
def test_logarithms_by_letter_are_those_of_the_options(tmp_path, column):
    path = tmp_path / "t.jsonl"
    cells = {"A": -0.1, "B": -2.4}, {"C": -2.0, " a": -1.0, "b": -3.0}
    path.write_text("\n".join(map(json.dumps, rows(column, *cells))))
    scores = import_table(path)
    wanted = import_table({"logprobs": [[-0.1, -2.4], [-1.0, -3.0, -2.0]], "answer": [1, 1]})
    assert scores.k_N.tolist() == [2, 3]
    np.testing.assert_array_equal(scores.logp_NK, wanted.logp_NK)


def test_probabilities_by_letter_are_those_of_the_options():
    found = import_table(rows("probs", {"B": 0.3, "A": 0.7}, {"A": 0.2, "B": 0.8, "C": None}))  # C: a struct of Parquet
    assert found.k_N.tolist() == [2, 2]
    assert found.p_NK[:, :2].round(6).tolist() == [[0.7, 0.3], [0.2, 0.8]]
    beside = {"probs": [[0.7, 0.3]], "top_logprobs": [[{"token": "A"}]], "p": [{"x": 1}], "answer": [0]}
    assert import_table(beside).provenance["columns"] == ["probs[0]", "probs[1]"]
    assert import_table(rows("mine", {"B": 0.3, "A": 0.7}), probabilities="mine").answer_N.tolist() == [1]


@pytest.mark.parametrize(
    "cell",
    [{"A": 0.7, "C": 0.3}, {"A": 0.6, " A": 0.1, "B": 0.3}, {"Paris": 0.7, "Rome": 0.3}, {"B": 0.7, "C": 0.3}, {}],
)
def test_a_mapping_without_all_letters_is_refused(cell):
    told = refusal(rows("probs", {"A": 0.5, "B": 0.5}, cell))
    assert "in row 2" in told
    assert "with all from A on" in told or cell == {}
    assert "calibrant.metrics has" not in told


def test_the_advice_on_confidences_alone_is_for_single_numbers():
    assert "calibrant.metrics has" in refusal({"prob": [0.8], "answer": [0]})
    assert "calibrant.metrics has" not in refusal({"prob_text": ["likely"], "answer": [0]})


def test_a_column_of_another_name_is_told_how_to_be_named():
    table = {"p_a": [0.7], "p_b": [0.3], "label": [0]}
    assert "answer=…, on the command line --columns 'answer: NAME'" in refusal(table)
    assert "--columns 'probabilities: [FIRST, SECOND]'" in refusal(table, answer="label", probabilities=["p_a", "p_c"])
    assert "--columns 'id: NAME'" in refusal(table, answer="label", id="nr")


def test_percentages_and_logits_are_told_what_makes_probabilities_of_them():
    assert "divide percentages by 100" in refusal({"p_a": ["70%"], "p_b": ["30%"], "answer": [0]})
    for cells in ({"p_a": [70], "p_b": [30]}, {"probs": ["[70, 30]"]}):
        assert "percentages divided by 100" in refusal({**cells, "answer": [0]})
    assert "divide percentages" not in refusal({"p_a": ["half"], "p_b": [0.5], "answer": [0]})
    for cells in ({"logit_a": [2.0], "logit_b": [-1.0]}, {"logits": [[2.0, -1.0]]}):
        assert "logits must go through a softmax first" in refusal({**cells, "answer": [0]})
    assert "logits after a softmax" in refusal({"x": [2.0], "y": [-1.0], "answer": [0]}, probabilities=["x", "y"])
