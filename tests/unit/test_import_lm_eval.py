"""Sample files of lm-eval become Scores: every release's format, kinds of answer, what is refused and what is skipped.

The files are described in data/lm_eval/README.md. Log-likelihoods of the files written by hand: moo -1 -2 -3 -4 (answer 0);
bees -1.5 -2.5 -3.5 -0.5 (answer 1); spider -3 -1 -2 (answer 1).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibrant.errors import ConfigError, ScoresError
from calibrant.importing import import_lm_eval
from calibrant.intake import load_questions
from calibrant.scores import Scores

DATA = Path(__file__).parent / "data" / "lm_eval"
REAL = DATA / "v0.4.13"
TIME = "2026-11-23T14-47-53.311369"
EASY = REAL / "SmolLM2-135M-Instruct" / f"samples_own_easy_{TIME}.jsonl"
BY_HAND = [[-1.0, -2.0, -3.0, -4.0], [-1.5, -2.5, -3.5, -0.5], [-3.0, -1.0, -2.0]]


def rows_of(path=EASY):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(folder, rows, task="own_easy", time="2026-01-01T00-00-00.5"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_{time}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed(folder, **changes):
    """The real file with fields of its second row replaced."""
    rows = rows_of()
    rows[1] |= changes
    return written(folder, rows)


def refusal(path, **options):
    with pytest.raises(ScoresError) as caught:
        import_lm_eval(path, **options)
    return str(caught.value)


# ---- formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["v0.4.0", "mid-2024", "v0.4.3", "v0.4.4", "v0.4.8"])
def test_every_older_format_gives_the_same_scores(release):
    """p(moo) = 1 / (1 + e^-1 + e^-2 + e^-3) = .6439; mass = log(e^-1 + e^-2 + e^-3 + e^-4) = -1 + log 1.5530 = -.5598."""
    s = import_lm_eval(DATA / release)
    assert s.k_N.tolist() == [4, 4, 3]
    assert s.answer_N.tolist() == [0, 1, 1]
    for row, given in zip(s.logp_NK, BY_HAND, strict=True):
        assert row[: len(given)] == pytest.approx(np.array(given) - np.logaddexp.reduce(given), abs=1e-12)
    assert s.confidence_N[0] == pytest.approx(0.6439, abs=1e-4)
    assert s.logmass_N[0] == pytest.approx(-0.5598, abs=1e-4)
    assert s.ids == ("own-01", "own-02", "own-03")


def test_file_as_lm_eval_0_4_13_wrote_it():
    s = import_lm_eval(EASY)
    rows = rows_of()
    told = [[float(request[0][0]) for request in row["resps"]] for row in rows]
    joint = s.logp_NK + s.logmass_N[:, None]
    assert [joint[i, : len(t)].tolist() for i, t in enumerate(told)] == [pytest.approx(t, abs=1e-9) for t in told]
    assert s.correct_N.tolist() == [row["acc"] == 1 for row in rows]
    assert s.k_N.tolist() == [4, 4, 3, 5, 4, 4]
    assert s.columns["doc_hash"] == tuple(row["doc_hash"] for row in rows)


def test_hashes_and_ids_are_those_of_our_own_questions():
    questions = load_questions(DATA / "tasks" / "questions.jsonl", limit=6)
    s = import_lm_eval(EASY)
    assert s.hashes == tuple(q.content_hash for q in questions)
    assert s.ids == tuple(q.id for q in questions)
    assert s.answer_N.tolist() == [q.answer for q in questions]
    assert s.columns["question_length"] == tuple(len(q.text) for q in questions)


def test_task_name_of_an_old_file_is_the_longest_that_the_results_know():
    """results.json knows both ``own_easy`` and ``easy``; the file is pretrained__own-model_own_easy.jsonl."""
    s = import_lm_eval(DATA / "v0.4.0")
    assert s.subjects == ("own_easy",) * 3
    assert s.provenance["model"] == "own-model"
    assert s.provenance["git_hash"] == "abc1234"


def test_renamed_or_compressed_file_takes_its_task_from_its_name(tmp_path):
    import gzip

    path = tmp_path / "my scores.jsonl.gz"
    path.write_bytes(gzip.compress(EASY.read_bytes()))
    s = import_lm_eval(path)
    assert set(s.subjects) == {"my scores"}
    assert s.logp_NK.tobytes() == import_lm_eval(EASY).logp_NK.tobytes()


# ---- a whole folder -----------------------------------------------------------------------------------------------------


def test_folder_has_one_subject_a_task_and_names_what_it_skipped():
    s = import_lm_eval(REAL, split="test")
    tasks = ["own_easy", "own_gaps", "own_letters_nature", "own_letters_science", "own_mutual"]
    assert s.subjects == tuple(task for task in tasks for _ in range(6))
    assert list(s.provenance["tasks"]) == tasks
    reasons = s.provenance["skipped"]
    assert sorted(reasons) == ["own_last_word", "own_partial", "own_rolling", "own_two_right", "own_words"]
    assert "one response" in reasons["own_last_word"]
    assert "acc is 0.75" in reasons["own_partial"]
    assert "2 correct options" in reasons["own_two_right"]
    assert all("texts" in reasons[task] for task in ("own_rolling", "own_words"))
    assert s.split == "test"


def test_ids_of_tasks_that_share_documents_are_kept_apart_and_counted():
    """own_mutual asks own_easy's six questions again, own_letters_nature four of them and two of its own: 10 repeats."""
    s = import_lm_eval(REAL)
    assert len(set(s.ids)) == s.n == 30
    assert s.ids[0] == "own_easy/own-01"
    assert s.provenance["questions_that_repeat"] == 10


def test_provenance_tells_model_and_versions_and_survives_saving(tmp_path):
    s = import_lm_eval(REAL)
    p = s.provenance
    assert (p["model"], p["lm_eval_version"], p["backend"]) == ("SmolLM2-135M-Instruct", "0.4.13", "hf")
    assert p["tasks"]["own_easy"]["hash"] == "2150a7eeb0b7c51ebe82f3a404c5bcfa0ff51e1bcf2c3dcea8aefaf64cd44f94"
    assert p["tasks"]["own_easy"]["n_shot"] == 0
    assert Scores.load(s.save(tmp_path / "s.safetensors")).provenance == p


def test_tasks_can_be_chosen_by_pattern():
    s = import_lm_eval(REAL, tasks=["own_letters_*"])
    assert set(s.subjects) == {"own_letters_nature", "own_letters_science"}
    assert s.provenance["skipped"] == {}
    assert "did you mean 'own_easy'" in refusal(REAL, tasks="own_esy")


def test_newest_file_of_a_task_is_read_and_the_older_is_named(tmp_path):
    rows = rows_of()
    old = written(tmp_path, rows[:2], time="2025-12-31T23-59-59.9")
    new = written(tmp_path, rows, time="2026-01-01T00-00-00.1")
    (tmp_path / "notes.jsonl").write_text("{}\n")
    s = import_lm_eval(tmp_path)
    assert s.n == 6
    assert s.provenance["tasks"]["own_easy"]["file"] == new.name
    assert s.provenance["files_left_aside"] == [
        "notes.jsonl: not named samples_<task>_<time>",
        f"{old.name}: older than {new.name}",
    ]


def test_two_models_are_refused(tmp_path):
    """In folders of their own, and in one folder, where only the results files tell."""
    shutil.copytree(DATA / "v0.4.3", tmp_path / "both")
    shutil.copytree(REAL, tmp_path / "both", dirs_exist_ok=True)
    assert "2 folders with samples: SmolLM2-135M-Instruct, own-model" in refusal(tmp_path / "both")
    one = tmp_path / "one"
    shutil.copytree(DATA / "v0.4.3" / "own-model", one)
    for path in (REAL / "SmolLM2-135M-Instruct").glob("*"):
        if "own_gaps" in path.name or path.name.startswith("results"):
            shutil.copy(path, one)
    assert "samples of 2 models: own-model (own_easy), SmolLM2-135M-Instruct (own_gaps)" in refusal(one)


def test_places_without_samples_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere")
    assert "an empty folder" in refusal(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    message = refusal(tmp_path)
    assert "none but readme.txt" in message
    assert "--log_samples" in message


@pytest.mark.parametrize("task", ["own_last_word", "own_partial", "own_rolling", "own_two_right", "own_words"])
def test_a_task_that_is_not_multiple_choice_is_refused_by_name_when_alone(task):
    message = refusal(REAL, tasks=task)
    assert f"task {task}: not multiple choice" in message
    assert "output_type is multiple_choice" in message


# ---- the answer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "reading"),
    [
        ((0, 1, 1, 2, 2, 0), "an index"),
        (("0", "1", "1", "2", "2", "0"), "an index"),
        (("[0]", "[1]", "[1]", "[2]", "[2]", "[0]"), "an index"),
        (("A", "b", "B", "C", "C", "A"), "a letter"),
        (("cow", "honey", "eight", "ice", " Mars", "sunlight"), "an option's text"),
    ],
)
def test_targets_of_every_kind(tmp_path, targets, reading):
    rows = [row | {"target": target} for row, target in zip(rows_of(), targets, strict=True)]
    s = import_lm_eval(written(tmp_path, rows))
    assert s.answer_N.tolist() == [0, 1, 1, 2, 2, 0]
    assert s.provenance["tasks"]["own_easy"]["answers_read_as"] == reading


def test_numerals_as_options_are_settled_by_acc(tmp_path):
    """Options 1, 0 with target "1": option 1 as an index, option 0 as a text. The best is option 0 and acc = 1: a text."""
    row = rows_of()[0]
    arguments = {f"gen_args_{i}": {"arg_0": "Q", "arg_1": f" {text}"} for i, text in enumerate("10")}
    row |= {"target": "1", "arguments": arguments, "resps": [[["-1.0", "True"]], [["-2.0", "False"]]], "acc": 1.0}
    del row["acc_norm"]
    assert import_lm_eval(written(tmp_path, [row])).answer_N.tolist() == [0]
    row["acc"] = 0.0
    assert import_lm_eval(written(tmp_path, [row])).answer_N.tolist() == [1]
    del row["acc"]
    message = refusal(written(tmp_path, [row]))
    assert "option 1 as an index but option 0 as an option's text" in message


def test_options_in_the_context_take_the_answer_from_acc():
    """Laid out as winogrande: one continuation, two contexts; so there is no mass of the options together."""
    s = import_lm_eval(REAL, tasks="own_gaps")
    gaps = rows_of(DATA / "tasks" / "gaps.jsonl")
    assert s.answer_N.tolist() == [int(row["answer"]) - 1 for row in gaps]
    assert np.isnan(s.logmass_N).all()
    assert s.hashes == ("",) * 6
    assert s.ids[0] == "own_gaps-0"


def test_options_in_the_context_without_acc_are_refused(tmp_path):
    rows = rows_of(REAL / "SmolLM2-135M-Instruct" / f"samples_own_gaps_{TIME}.jsonl")
    del rows[2]["acc"]
    assert "acc does not tell which is correct" in refusal(written(tmp_path, rows, task="own_gaps"))


def test_target_that_contradicts_acc_is_refused_with_its_line(tmp_path):
    """Row 2 is right (target 1, best 1, acc 1); with target 0 its acc should be 0."""
    message = refusal(changed(tmp_path, target="0"))
    assert "line 2: target '0' is option 0 as an index" in message
    assert "but acc = 1" in message


@pytest.mark.parametrize("target", ["9", "-1", "blue", None, 1.5])
def test_target_that_fits_no_option_is_refused(tmp_path, target):
    message = refusal(changed(tmp_path, target=target))
    assert f"line 2: target {target!r} for the options" in message


def test_wrong_acc_of_0_4_8_is_not_believed():
    """Its acc of the spider is 0, from the best of -3, -2, -1.5: the wrong half. By its options' -3, -1, -2 it is right."""
    rows = rows_of(DATA / "v0.4.8" / "own-model" / "samples_own_mutual_2024-07-02T10-00-00.000001.jsonl")
    s = import_lm_eval(DATA / "v0.4.8")
    assert rows[2]["acc"] == 0
    assert s.correct_N.tolist() == [True, False, True]
    assert s.provenance["tasks"]["own_mutual"]["answers_checked_by_acc"] == 0


# ---- variants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["v0.4.4", "v0.4.8"])
def test_pmi_subtracts_the_option_without_its_question(release):
    """moo: -1+2, -2+2.5, -3+1, -4+3 = 1, .5, -2, -1."""
    s = import_lm_eval(DATA / release, variant="pmi")
    wanted = np.array([1.0, 0.5, -2.0, -1.0])
    assert s.logp_NK[0] == pytest.approx(wanted - np.logaddexp.reduce(wanted))
    assert s.logmass_N[0] == pytest.approx(-0.5598, abs=1e-4)


def test_pmi_is_right_where_lm_eval_says_so():
    rows = [
        r for r in rows_of(REAL / "SmolLM2-135M-Instruct" / f"samples_own_mutual_{TIME}.jsonl") if r["filter"] == "none"
    ]
    s = import_lm_eval(REAL, variant="pmi", tasks="own_mutual")
    assert s.correct_N.tolist() == [row["acc_mutual_info"] == 1 for row in rows]
    assert s.n == 6  # two filters, twelve rows
    assert "without the question" in refusal(EASY, variant="pmi")


@pytest.mark.parametrize("release", ["v0.4.0", "mid-2024", "v0.4.3"])
def test_per_char_divides_by_the_option_without_its_delimiter(release):
    """spider: -3/3, -1/5, -2/3 = -1, -.2, -.6667."""
    s = import_lm_eval(DATA / release, variant="per_char")
    wanted = np.array([-1, -0.2, -2 / 3])
    assert s.logp_NK[2, :3] == pytest.approx(wanted - np.logaddexp.reduce(wanted))


def test_per_char_is_right_where_acc_norm_is_and_contradictions_are_refused(tmp_path):
    assert import_lm_eval(EASY, variant="per_char").correct_N.tolist() == [row["acc_norm"] == 1 for row in rows_of()]
    assert "acc_norm = 0" in refusal(changed(tmp_path, acc_norm=0.0), variant="per_char")


def test_other_variants_are_refused():
    with pytest.raises(ConfigError, match="sum, per_char, pmi"):
        import_lm_eval(EASY, variant="per_token")


# ---- rows ---------------------------------------------------------------------------------------------------------------


def test_a_document_counts_once_whatever_the_filters_and_repeats(tmp_path):
    """Each row twice, under no filter's name (as before 0.4.7), and each request answered twice."""
    rows = rows_of()
    for row in rows:
        del row["filter"]
        row["resps"] = [[r[0], ["-99.0", "False"]] for r in row["resps"]]
    s = import_lm_eval(written(tmp_path, rows + rows))
    assert s.logp_NK.tobytes() == import_lm_eval(EASY).logp_NK.tobytes()


def test_a_document_twice_with_other_numbers_is_refused(tmp_path):
    rows = rows_of()
    rows[3] |= {"doc_id": 0}
    assert "document 0 with other log-probabilities" in refusal(written(tmp_path, rows))


def test_samples_without_arguments_keep_the_sum_but_know_no_mass(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "arguments"} for row in rows_of()]
    path = written(tmp_path, rows)
    s = import_lm_eval(path)
    assert s.logp_NK.tobytes() == import_lm_eval(EASY).logp_NK.tobytes()
    assert np.isnan(s.logmass_N).all()
    assert "without a length" in refusal(path, variant="per_char")


@pytest.mark.parametrize("greedy", [False, 0, 0.0, "False", "false"])
def test_greedy_marks_of_every_spelling(tmp_path, greedy):
    rows = rows_of()
    for row in rows:
        row["resps"] = [[[float(r[0][0]), greedy]] for r in row["resps"]]
    assert import_lm_eval(written(tmp_path, rows)).logp_NK.tobytes() == import_lm_eval(EASY).logp_NK.tobytes()


def test_pairs_of_log_likelihoods_are_not_taken_for_one_with_its_mark(tmp_path):
    """Whole texts, scored twice each: [[-50.1, -50.1]]; the second number is not a mark."""
    assert "log-likelihoods of whole texts" in refusal(
        changed(tmp_path, resps=[["-50.1", "-50.1"], ["-40.1", "-40.1"]])
    )


def test_filtered_responses_serve_where_there_are_no_others(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "resps"} for row in rows_of()]
    assert import_lm_eval(written(tmp_path, rows)).logp_NK.tobytes() == import_lm_eval(EASY).logp_NK.tobytes()


@pytest.mark.parametrize("numbers", [("nan", "-1"), ("-inf", "-inf"), ("0.5", "-1"), ("inf", "-1")])
def test_numbers_that_are_no_log_likelihoods_are_refused(tmp_path, numbers):
    message = refusal(changed(tmp_path, resps=[[[n, "False"]] for n in numbers]))
    assert "line 2" in message
    assert "at most 0" in message


def test_impossible_option_keeps_minus_infinity(tmp_path):
    row = rows_of()[0]
    row["resps"][3] = [["-inf", "False"]]
    s = import_lm_eval(written(tmp_path, [row]))
    assert np.isneginf(s.logp_NK[0, 3])
    assert s.k_N.tolist() == [4]


def test_file_that_was_cut_off_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "samples_own_easy_2026-01-01T00-00-00.1.jsonl"
    path.write_text(EASY.read_text()[:-50])
    assert "line 6" in refusal(path)
    assert "not JSON" in refusal(path)
    path.write_text('{"question": "2+2?", "p": 0.5}\n')
    assert "columns question, p, without resps" in refusal(path)
    path.write_text("[1, 2]")
    assert "item 1" in refusal(path)
    path.write_text("\n")
    assert "no samples in the file" in refusal(path)


def test_reading_imports_neither_torch_nor_lm_eval():
    code = (
        "import sys\n"
        "from calibrant.importing import import_lm_eval\n"
        f"import_lm_eval({str(REAL)!r})\n"
        "assert not {'torch', 'lm_eval', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
