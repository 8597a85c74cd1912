"""What the results beside lm-eval's sample files decide: whose they are, whether they are whole, how a row is to be read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrant.errors import ScoresError
from calibrant.importing import import_lm_eval
from calibrant.metrics import measure

DATA = Path(__file__).parent / "data" / "lm_eval"
TIME, LATER = "2026-11-23T14-47-53.311369", "2026-11-24T08-00-00.000001"
OTHERS = "own_easy, own_letters_nature, own_letters_science, own_mutual"


@pytest.fixture
def real(tmp_path):
    """A copy of the folder that lm-eval 0.4.13 wrote: six documents of each task."""
    return shutil.copytree(DATA / "v0.4.13" / "SmolLM2-135M-Instruct", tmp_path / "real")


def results_in(folder, time=TIME):
    return json.loads((folder / f"results_{time}.json").read_text(encoding="utf-8"))


def write_results(folder, results, time=TIME):
    (folder / f"results_{time}.json").write_text(json.dumps(results), encoding="utf-8")


def rerun(folder, config, **results):
    """As if own_gaps had been run a day later than the others, with a results file that differs from theirs."""
    (folder / f"samples_own_gaps_{TIME}.jsonl").rename(folder / f"samples_own_gaps_{LATER}.jsonl")
    known = results_in(folder)
    write_results(folder, {**known, **results, "config": known["config"] | config}, LATER)


def keep_lines(folder, task, chosen):
    path = folder / f"samples_{task}_{TIME}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[i] for i in chosen), encoding="utf-8")
    return [json.loads(lines[i]) for i in chosen]


def refusal(path, **options):
    with pytest.raises(ScoresError) as caught:
        import_lm_eval(path, **options)
    return str(caught.value)


# ---- one model, loaded and asked in one way -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "results", "found"),
    [
        ({"model_revision": "step1000"}, {}, f"2 revisions: main ({OTHERS}), step1000 (own_gaps)"),
        ({"model_dtype": "torch.float16"}, {}, f"2 dtypes: float32 ({OTHERS}), float16 (own_gaps)"),
        ({}, {"chat_template_sha": "0123456789abcdef"}, f"2 chat templates: none ({OTHERS}), 0123456789ab (own_gaps)"),
        ({}, {"system_instruction_sha": "ab"}, f"2 system instructions: none ({OTHERS}), ab (own_gaps)"),
    ],
)
def test_two_runs_that_differ_are_refused_by_their_tasks_and_can_be_read_apart(real, config, results, found):
    rerun(real, config, **results)
    message = refusal(real).replace(f"step1000 (own_gaps), main ({OTHERS})", f"main ({OTHERS}), step1000 (own_gaps)")
    assert found in message
    assert "tasks=" in message
    apart = import_lm_eval(real, tasks="own_gaps")
    assert apart.provenance["dtype"] == {**results_in(real)["config"], **config}["model_dtype"]
    assert import_lm_eval(real, tasks=OTHERS.split(", ")).n == 24


def test_commits_decide_where_all_runs_know_theirs(real):
    """A branch and a tag of one commit are one model; one branch that has moved on is two."""
    known = results_in(real)
    known["config"]["model_sha"] = "a" * 40
    write_results(real, known)
    rerun(real, {"model_revision": "v1"})
    assert import_lm_eval(real).n == 30
    later = results_in(real, LATER)
    later["config"]["model_sha"] = "b" * 40
    write_results(real, later, LATER)
    assert f"2 commits: aaaaaaaaaaaa ({OTHERS}), bbbbbbbbbbbb (own_gaps)" in refusal(real)


def test_what_a_run_does_not_say_contradicts_nothing(real):
    """vLLM keeps no precision and no commit, and ``auto`` names none; the revision stands in its arguments."""
    rerun(
        real, {"model_dtype": None, "model_revision": None, "model_args": "pretrained=SmolLM2-135M-Instruct,dtype=auto"}
    )
    assert import_lm_eval(real).n == 30
    later = results_in(real, LATER)
    later["config"]["model_args"] = {"pretrained": "SmolLM2-135M-Instruct", "revision": "step1000"}
    write_results(real, later, LATER)
    assert "step1000 (own_gaps)" in refusal(real)


# ---- whole files --------------------------------------------------------------------------------------------------------


def test_a_file_cut_at_a_line_end_is_refused(real):
    keep_lines(real, "own_easy", range(3))
    message = refusal(real)
    assert "all documents of lm-eval task own_easy" in message
    assert f"3 in samples_own_easy_{TIME}.jsonl, but 6 by the results" in message
    assert import_lm_eval(real, tasks="own_gaps").n == 6
    (real / f"results_{TIME}.json").unlink()
    assert import_lm_eval(real, tasks="own_easy").n == 3


def test_a_task_of_two_filters_is_counted_by_its_documents(real):
    """Twelve rows, six documents; the first seven rows hold all six of one filter and one of the other."""
    rows = keep_lines(real, "own_mutual", range(12))
    assert [row["filter"] for row in rows].count("none") == 6
    assert import_lm_eval(real, tasks="own_mutual").n == 6
    keep_lines(real, "own_mutual", [i for i, row in enumerate(rows) if row["filter"] != "none" or row["doc_id"] < 4])
    assert "4 in samples_own_mutual" in refusal(real, tasks="own_mutual")


def test_documents_chosen_by_samples_are_whole_where_their_acc_is_the_one_told(real):
    """0.4.9 to 0.4.11 count all 40 where ``--samples`` chose four. Their acc is 3/4; cut after the third it is 2/3."""
    rows = keep_lines(real, "own_easy", range(2, 6))
    assert [row["acc"] for row in rows] == [0, 1, 1, 1]
    results = results_in(real) | {"lm_eval_version": "0.4.11"}
    results["config"]["limit"] = None
    results["n-samples"]["own_easy"] = {"original": 40, "effective": 40}
    results["results"]["own_easy"]["acc,none"] = 0.75
    write_results(real, results)
    assert import_lm_eval(real, tasks="own_easy").n == 4
    keep_lines(real, "own_easy", range(3))
    assert "3 in samples_own_easy" in refusal(real, tasks="own_easy")
    write_results(real, results | {"lm_eval_version": "0.4.12"})
    assert "but 40 by the results" in refusal(real, tasks="own_easy")


# ---- how a row is read --------------------------------------------------------------------------------------------------


@pytest.fixture
def templated(tmp_path):
    """The file of 0.4.8 as a chat template makes it: no delimiter in either half, and ``acc`` of the wrong half."""
    source = DATA / "v0.4.8" / "own-model" / "samples_own_mutual_2024-07-02T10-00-00.000001.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for request in row["arguments"].values():
            request["arg_1"] = request["arg_1"].strip()
    folder = tmp_path / "templated"
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"samples_own_mutual_{TIME}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("told", [None, {}, {"lm_eval_version": "0.4.7"}, {"lm_eval_version": "unknown"}])
def test_acc_of_the_wrong_half_is_not_believed_under_a_chat_template_either(templated, told):
    """Until 0.4.8 the results named no release. Right by the options' own half: moo and spider, not bees."""
    if told is not None:
        write_results(templated, {"configs": {}, "model_name": "own-model", **told})
    s = import_lm_eval(templated)
    assert s.correct_N.tolist() == [True, False, True]
    assert s.provenance["tasks"]["own_mutual"]["answers_checked_by_acc"] == 0


def test_acc_of_a_later_release_is_believed_under_a_chat_template(templated):
    write_results(templated, {"configs": {}, "model_name": "own-model", "lm_eval_version": "0.4.9.1"})
    assert "but acc = 0" in refusal(templated)


def test_per_char_counts_the_space_of_an_option_where_the_delimiter_is_empty(tmp_path):
    """-3 over the 3 characters of " No", -7.6 over the 10 of " Yes it is": -1 and -.76, so p = 1 / (1 + e^.24) = .4403.

    Without their spaces it would be -1.5 and -.8444.
    """
    options, logp = (" No", " Yes it is"), (-3.0, -7.6)
    row = {
        "doc_id": 0,
        "target": "1",
        "arguments": {f"gen_args_{i}": {"arg_0": "Is it so?", "arg_1": text} for i, text in enumerate(options)},
        "resps": [[[str(value), "False"]] for value in logp],
        "acc": 0.0,
        "acc_norm": 1.0,
    }
    (tmp_path / f"samples_neqa_{TIME}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    write_results(tmp_path, {"configs": {"neqa": {"target_delimiter": ""}}, "model_name": "own-model"})
    s = import_lm_eval(tmp_path, variant="per_char")
    np.testing.assert_allclose(s.p_NK, [[0.4403, 0.5597]], atol=1e-4)
    write_results(tmp_path, {"configs": {"neqa": {"target_delimiter": " "}}, "model_name": "own-model"})
    wanted = 1 / (1 + np.exp(1.5 - 7.6 / 9))
    np.testing.assert_allclose(import_lm_eval(tmp_path, variant="per_char").p_NK[0, 0], wanted)


# ---- nothing is dropped unsaid ------------------------------------------------------------------------------------------


def test_a_damaged_row_among_good_ones_is_refused_and_not_taken_for_another_kind_of_task(real):
    path = real / f"samples_own_easy_{TIME}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[2]["resps"] = [["cut"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    message = refusal(real)
    assert "own_easy" in message
    assert f"5 with log-likelihoods of options, and 1 without, first samples_own_easy_{TIME}.jsonl line 3" in message
    assert "own_easy" not in import_lm_eval(real, tasks=["own_gaps", "own_mutual"]).subjects


def test_an_empty_file_is_refused_where_the_results_count_documents(real):
    (real / f"samples_own_easy_{TIME}.jsonl").write_text("")
    assert "0 in samples_own_easy" in refusal(real)


def test_what_repeats_is_a_note_of_every_measurement(real):
    scores = import_lm_eval(real, tasks="own_easy")
    twice = replace(scores, provenance={**scores.provenance, "questions_that_repeat": 6})
    assert not any("several tasks" in note for note in measure(scores, n_boot=50).notes)
    assert any("6 questions are in several tasks" in note for note in measure(twice, n_boot=50).notes)


@pytest.mark.parametrize("acc", [True, False])
def test_a_target_that_is_the_text_of_an_option_is_no_list_of_answers(tmp_path, acc):
    """As in questions on code: the options are [1, 2], [0] and so on."""
    rows = []
    for i, (options, target, right) in enumerate(
        [
            (("[1, 2]", "[2, 3]", "[0]"), "[1, 2]", 1.0),
            (("[2]", "[1]", "[0]"), "[2]", 1.0),
            (("[1]", "[2]"), "[2]", 0.0),
        ]
    ):
        logp = [-1.0, -2.0, -3.0][: len(options)]
        arguments = {f"gen_args_{j}": {"arg_0": f"q{i}", "arg_1": f" {text}"} for j, text in enumerate(options)}
        row = {"doc_id": i, "doc": {}, "target": target, "arguments": arguments, "filter": "none", "doc_hash": f"h{i}"}
        responses = [[[str(value), "False"]] for value in logp]
        rows.append(row | {"resps": responses} | ({"acc": right} if acc else {}))
    path = tmp_path / f"samples_code_{TIME}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert import_lm_eval(path).answer_N.tolist() == [0, 0, 1]
