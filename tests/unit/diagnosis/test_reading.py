"""Paths and preference pairs from files."""

import json

import numpy as np
import pytest

from calibrant.diagnosis import diagnose, read_path, read_preferences
from calibrant.diagnosis.preference import preference_drift
from calibrant.errors import ScoresError

HISTORY = [
    {"step": 0, "epoch": 0.0, "n": 500, "accuracy": 0.6, "conf_ece": 0.2, "floor_p95": 0.05},
    {"step": 9, "epoch": 1.0, "n": 500, "accuracy": 0.62, "conf_ece": 0.04, "floor_p95": 0.06},
]


def write(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def log(prefix, points=HISTORY):
    """What a trainer's state holds: other entries in between."""
    entries = []
    for point in points:
        named = {f"{prefix}{name}": value for name, value in point.items() if name not in ("step", "epoch")}
        entries += [{"loss": 1.0, "step": point["step"]}, {**named, "step": point["step"], "epoch": point["epoch"]}]
    return entries


@pytest.mark.parametrize("state", [[1, 2], {"log_history": [5]}, {"log_history": "x"}])
def test_a_trainers_state_that_is_none_is_told(tmp_path, state):
    write(tmp_path / "checkpoint-1" / "trainer_state.json", state)
    with pytest.raises(ScoresError, match="path of a training run"):
        read_path([tmp_path])


def test_a_tuning_run_a_restore_run_and_a_saved_history_give_the_same(tmp_path):
    write(tmp_path / "run" / "tuning" / "result.json", {"objective": "cft", "history": HISTORY})
    write(tmp_path / "points.json", HISTORY)
    (tmp_path / "points.jsonl").write_text("\n".join(map(json.dumps, HISTORY)) + "\n")
    for place in ("run", "run/tuning", "run/tuning/result.json", "points.json", "points.jsonl"):
        assert read_path([tmp_path / place]) == HISTORY, place


@pytest.mark.parametrize("folder", ["checkpoint-9", "checkpoints/checkpoint-9"])
def test_a_run_that_was_broken_off_is_read_from_its_newest_checkpoint(tmp_path, folder):
    write(
        tmp_path / folder.replace("9", "7") / "trainer_state.json",
        {"global_step": 7, "log_history": log("eval_", HISTORY[:1])},
    )
    write(tmp_path / folder / "trainer_state.json", {"global_step": 9, "log_history": log("eval_")})
    assert read_path([tmp_path]) == read_path([tmp_path / folder]) == HISTORY


def test_a_callback_goes_before_a_trainers_own_evaluations_and_prefixes_of_ones_own_are_found(tmp_path):
    other = [{**point, "accuracy": 0.1} for point in HISTORY]
    both = write(tmp_path / "a" / "trainer_state.json", {"log_history": log("eval_", other) + log("calibration/")})
    assert read_path([both]) == HISTORY
    assert read_path([write(tmp_path / "b.json", {"log_history": log("far/")})]) == HISTORY
    two = write(tmp_path / "c.json", {"log_history": log("far/") + log("near/")})
    with pytest.raises(ScoresError, match="several prefixes: far/, near/"):
        read_path([two])


def test_scores_are_points_and_places_follow_one_another(tmp_path, draw):
    scores = draw(300, power=4.0)
    scores.save(tmp_path / "late.safetensors")
    write(tmp_path / "early.json", HISTORY)
    path = read_path([tmp_path / "early.json", tmp_path / "late.safetensors"])
    assert path[:2] == HISTORY
    found = diagnose(scores, path=path, n_boot=50)
    assert [p.n for p in found.path] == [500, 500, 300]
    assert found.target_kind == "path"
    assert found.critical_checkpoint.accuracy == 0.62


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", "{", "no JSON"),
        ("a.json", "[]", "no points"),
        ("a.json", '{"log_history": [{"loss": 1}]}', "no points"),
        ("a.json", "[1, 2]", "no points"),
        ("empty/x.txt", "", "neither result.json nor a checkpoint"),
        ("a.jsonl", '{"n": 1}\n{', "line 2"),
    ],
)
def test_what_is_no_path_is_refused(tmp_path, name, text, found):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    with pytest.raises(ScoresError, match=found):
        read_path([file.parent if "/" in name else file])
    with pytest.raises(ScoresError, match="No such file"):
        read_path([tmp_path / "missing.json"])


PAIRS = [(-12.0, -10.0, -15.0, -11.0), (-9.0, -10.0, -11.0, -10.0), (-13.0, -10.0, -16.0, -12.0)]
COLUMNS = ("chosen_logp_aligned", "chosen_logp_reference", "rejected_logp_aligned", "rejected_logp_reference")


def test_pairs_from_a_file(tmp_path, draw):
    lines = [json.dumps({"note": "x", **dict(zip(COLUMNS, pair, strict=True))}) for pair in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n\n")
    drift = read_preferences(tmp_path / "pairs.jsonl", n_boot=100, seed=3)
    assert drift == preference_drift(*zip(*PAIRS, strict=True), n_boot=100, seed=3)
    found = diagnose(draw(300, power=3.0), preferences=drift, n_boot=50)
    (sentence,) = [reason for reason in found.reasons if "preference pairs" in reason]
    assert "chosen response by -1.333" in sentence
    assert found.to_json()["preferences"]["n"] == 3
    assert "both fell on 67% of the pairs" in found.to_text()
    without = diagnose(draw(300, power=3.0), n_boot=50)
    assert without.to_json()["preferences"] is None
    assert "needs preference pairs" in without.to_text()


def test_lines_end_with_a_line_feed_alone(tmp_path):
    lines = [
        json.dumps({"prompt": "x\u2028y", **dict(zip(COLUMNS, p, strict=True))}, ensure_ascii=False) for p in PAIRS
    ]
    (tmp_path / "pairs.jsonl").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert read_preferences(tmp_path / "pairs.jsonl", n_boot=50).n == len(PAIRS)


def test_that_both_fell_is_said_where_both_intervals_are_below_zero(draw):
    down = preference_drift([-12.0] * 20, [-10.0] * 20, [-15.0] * 20, [-11.0] * 20, n_boot=100)
    apart = preference_drift([-9.0] * 20, [-10.0] * 20, [-15.0] * 20, [-11.0] * 20, n_boot=100)
    texts = [" ".join(diagnose(draw(200), preferences=drift, n_boot=50).reasons) for drift in (down, apart)]
    assert ["probability left the pairs" in text for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("line", "found"), [('{"chosen_logp_aligned": 1}', "line 2"), ("[1]", "line 2"), ("{", "line 2")]
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line, found):
    good = json.dumps(dict(zip(COLUMNS, PAIRS[0], strict=True)))
    (tmp_path / "pairs.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ScoresError, match=found):
        read_preferences(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(ScoresError, match="two or more pairs"):
        read_preferences(tmp_path / "pairs.jsonl")


def test_pairs_of_one_prompt_are_resampled_together(tmp_path):
    """As align-check writes them; 15 prompts of 20 pairs that move together."""
    rng = np.random.default_rng(0)
    moved = np.repeat(rng.normal(size=15), 20) - 0.5
    columns = ("chosen_logp_aligned", "chosen_logp_reference", "rejected_logp_aligned", "rejected_logp_reference")
    rows = [dict(zip(columns, (m, 0.0, m, 0.0), strict=True)) for m in moved.tolist()]
    plain, told = tmp_path / "plain.jsonl", tmp_path / "told.jsonl"
    plain.write_text("\n".join(map(json.dumps, rows)))
    told.write_text("\n".join(json.dumps({**row, "prompt": i // 20}) for i, row in enumerate(rows)))
    alone, together = read_preferences(plain).chosen, read_preferences(told).chosen
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)
    partly = "\n".join(json.dumps({**row, **({"prompt": 0} if i else {})}) for i, row in enumerate(rows))
    told.write_text(partly)  # a line without one: taken as pairs of their own
    assert read_preferences(told).chosen == alone
