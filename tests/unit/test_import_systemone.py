"""Served decision models: known probabilities through a real HTTP server; what is not a distribution is refused by name."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from calibrant.cli import app
from calibrant.errors import ConfigError, ModelError, QuestionError
from calibrant.importing import import_systemone
from calibrant.importing.systemone import answered, request_of
from calibrant.orders import cyclic_permutations
from calibrant.questions import Question, QuestionSet
from calibrant.scores import Scores

pytest.importorskip("httpx2")
QUESTIONS = QuestionSet(
    "some",
    (
        Question("a", "Capital of France?", ("Lyon", "Paris", "Nice"), 1, "france", {"passage": "Of cities."}),
        Question("b", "2 + 2?", ("3", "4"), 1, None, {"passage": "Of sums."}),
    ),
)


def shares(body):
    """The i-th option of K gets (i + 1) / (1 + … + K); confidence as such servers rescale it."""
    ((name, question),) = body["questions"].items()
    options = list(question["criteria"])
    p = {option: (i + 1) / (len(options) * (len(options) + 1) / 2) for i, option in enumerate(options)}
    return {"model": "decider-2", "answers": {name: {"type": "choice", "confidence": 0.0, "probabilities": p}}}


def asked(server, folder, questions=QUESTIONS, **settings):
    return import_systemone(questions, server.url, "decider", cache=folder, **{"backoff": 0.01, **settings})


def test_probabilities_and_answers_are_those_of_the_questions(json_server, tmp_path):
    server = json_server(shares)
    scores = asked(server, tmp_path, split="test")
    np.testing.assert_allclose(scores.p_NK, [[1 / 6, 2 / 6, 3 / 6], [1 / 3, 2 / 3, 0]])
    assert scores.answer_N.tolist() == [1, 1]
    assert scores.k_N.tolist() == [3, 2]
    assert scores.hashes == tuple(q.content_hash for q in QUESTIONS)
    assert (scores.ids, scores.subjects, scores.split) == (("a", "b"), ("france", None), "test")
    assert scores.columns["passage"] == ("Of cities.", "Of sums.")
    assert scores.provenance["answered_by"] == ["decider-2"]
    assert np.isnan(scores.logmass_N).all()


def test_what_is_sent(json_server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-words")
    server = json_server(shares)
    asked(server, tmp_path, key_env="A_KEY")
    paths, headers, bodies = zip(*server.requests, strict=True)
    assert set(paths) == {"/v1/systemone"}
    assert {h["Authorization"] for h in headers} == {"Bearer secret-words"}
    wanted = {"type": "choice", "instructions": "2 + 2?", "criteria": {"3": None, "4": None}}
    assert {"model": "decider", "state": "", "questions": {"answer": wanted}} in bodies
    assert not any("secret-words" in path.read_text() for path in tmp_path.rglob("*.json"))


def test_templates_fill_both_texts_and_name_what_is_missing(json_server, tmp_path):
    told = request_of(QUESTIONS[1], state="{passage}", instructions="Which is right: {question}")
    assert (told["state"], told["questions"]["answer"]["instructions"]) == ("Of sums.", "Which is right: 2 + 2?")
    alone = request_of(QUESTIONS[1], state="{question}", instructions="")
    assert (alone["state"], alone["questions"]["answer"]["instructions"]) == ("2 + 2?", None)
    braces = Question("c", "What is {passage}?", ("{question}", "x"), 0)  # what is filled in is not filled in again
    assert request_of(braces)["questions"]["answer"]["instructions"] == "What is {passage}?"
    with pytest.raises(ConfigError, match=r"(?s)\{subject\} of question 'b'.*passage, question"):
        asked(json_server(shares), tmp_path, state="{subject}")
    with pytest.raises(ConfigError, match="neither its state nor its instructions"):
        asked(json_server(shares), tmp_path, instructions="")


def test_every_reply_is_kept_and_none_is_asked_for_twice(json_server, tmp_path):
    server = json_server(shares)
    first = asked(server, tmp_path, QUESTIONS[:1])
    both = asked(server, tmp_path)
    assert len(server.requests) == 2
    np.testing.assert_array_equal(first.p_NK[0], both.p_NK[0])


def test_a_busy_server_is_asked_again(json_server, tmp_path):
    server = json_server(shares)
    server.failures = [(503, {}, "loading"), (429, {"Retry-After": "0"}, "busy")]
    assert asked(server, tmp_path).n == 2
    assert len(server.requests) == 4


def test_rounded_rows_are_made_whole_and_zeros_kept(json_server, tmp_path):
    def rounded(body):
        reply = shares(body)
        options = list(body["questions"]["answer"]["criteria"])
        reply["answers"]["answer"]["probabilities"] = dict.fromkeys(options, 0) | {options[0]: 0.996}
        return reply

    scores = asked(json_server(rounded), tmp_path)
    assert scores.p_NK.tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "given",
    [
        {"3": 0.5, "5": 0.5},
        {"3": 1.0},
        {"3": 0.5, "4": 0.4},
        {"3": 1.5, "4": -0.5},
        {"3": float("nan"), "4": 0.5},
        {"3": "much", "4": 0.5},
        [0.5, 0.5],
        None,
    ],
)
def test_what_is_no_distribution_is_refused_by_name_and_not_kept(json_server, tmp_path, given):
    server = json_server(lambda _body: {"answers": {"answer": {"probabilities": given}}})
    with pytest.raises(ModelError, match=r"(?s)for question 'b'.*no System One answer to the choice"):
        asked(server, tmp_path, QUESTIONS[1:])
    server.answer = shares
    np.testing.assert_allclose(asked(server, tmp_path, QUESTIONS[1:]).p_NK, [[1 / 3, 2 / 3]])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"3": 0.5, "5": 0.5}, "other options than were asked, such as '4', '5'"),
        ({"3": 0.5, "4": 0.4}, r"probabilities \[0.5, 0.4\]"),
    ],
)
def test_probabilities_of_a_pipeline_are_judged_alike(given, found):
    with pytest.raises(ModelError, match=rf"(?s)those for question 'b'.*{found}"):
        answered(QUESTIONS[1:], [given], asked="those")


def test_orders_of_one_question_are_other_questions(json_server, tmp_path):
    server = json_server(shares)
    turned = [asked(server, tmp_path, order) for order in cyclic_permutations(QUESTIONS, 2)]
    assert len(server.requests) == 4
    np.testing.assert_array_equal(turned[0].p_NK, turned[1].p_NK)  # by place, not by option
    assert turned[0].answer_N.tolist() != turned[1].answer_N.tolist()


def test_damaged_replies_are_asked_for_again_and_kept_ones_counted(json_server, tmp_path):
    server = json_server(shares)
    assert asked(server, tmp_path).provenance["replies_kept_before"] == 0
    one, other = sorted(tmp_path.glob("*.json"))
    one.write_text("")
    other.write_text("[]")
    assert asked(server, tmp_path).provenance["replies_kept_before"] == 0
    assert len(server.requests) == 4
    assert asked(server, tmp_path).provenance["replies_kept_before"] == 2


def test_two_places_are_rounding(json_server, tmp_path):
    given = {"Lyon": 0.33, "Paris": 0.33, "Nice": 0.33}
    server = json_server(lambda _body: {"answers": {"answer": {"probabilities": given}}})
    assert asked(server, tmp_path, QUESTIONS[:1]).p_NK == pytest.approx(np.full((1, 3), 1 / 3))


def test_columns_of_any_name_and_kind_fill_in():
    q = Question("d", "Up?", ("yes", "no"), 0, columns={"my-col": 7, "the passage": ["a", "é"]})
    assert request_of(q, state="{my-col} {the passage}")["state"] == '7 ["a", "é"]'
    with pytest.raises(ConfigError, match=r"\{my col\} of question 'd'"):
        request_of(q, state="{my col}")


def test_a_key_of_a_file_is_sent_without_its_white_space(json_server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", " secret-words\r\n")
    server = json_server(shares)
    asked(server, tmp_path, key_env="A_KEY")
    assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer secret-words"}


@pytest.mark.parametrize("key", ["secret\r\nwords", "secret words", "secret\x07words"])
def test_a_key_is_never_told(json_server, tmp_path, monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    server = json_server(shares)
    with pytest.raises(ConfigError, match="A_KEY with spaces") as told:
        asked(server, tmp_path, key_env="A_KEY")
    assert "secret" not in str(told.value)
    assert not server.requests


def test_a_reply_that_was_kept_empty_is_asked_for_again(json_server, tmp_path):
    server = json_server(shares)
    first = asked(server, tmp_path)
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"reply": null}')
    assert asked(server, tmp_path).p_NK.tolist() == first.p_NK.tolist()


def test_a_probability_that_no_float_holds_is_no_answer(json_server, tmp_path):
    given = {"Lyon": 10**400, "Paris": 0, "Nice": 0}
    with pytest.raises(ModelError, match="a reply that is no System One answer"):
        asked(json_server(lambda _body: {"answers": {"answer": {"probabilities": given}}}), tmp_path, QUESTIONS[:1])


def test_a_key_that_no_header_holds_is_told(json_server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="A_KEY with spaces or other than ASCII"):
        asked(json_server(shares), tmp_path, key_env="A_KEY")


def test_what_a_server_refuses_names_the_question(json_server, tmp_path):
    server = json_server(shares)
    server.failures = [(422, {}, "too long")]
    with pytest.raises(ModelError, match=r"(?s)for question '[ab]'.*422: too long"):
        asked(server, tmp_path, concurrency=1)


def test_bad_addresses_and_sets_are_told(tmp_path):
    for url in ("localhost/v1", "ftp://host/v1"):
        with pytest.raises(ConfigError, match="no http address"):
            import_systemone(QUESTIONS, url, "m", cache=tmp_path)
    with pytest.raises(QuestionError, match="no questions"):
        import_systemone([], "http://host/v1", "m", cache=tmp_path)
    with pytest.raises(QuestionError, match="load_questions"):
        import_systemone("questions.jsonl", "http://host/v1", "m", cache=tmp_path)


def test_the_command_writes_scores(json_server, tmp_path):
    server = json_server(shares)
    file, out = QUESTIONS.save(tmp_path / "questions.jsonl"), tmp_path / "served.safetensors"
    asked_for = ["score-served", f"{server.url}/systemone", "--model", "decider", "--questions", str(file)]
    done = CliRunner().invoke(app, [*asked_for, "--out", str(out), "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "2 questions, accuracy 0.500" in done.stdout
    assert Scores.load(out).provenance["url"] == server.url
    assert not (tmp_path / "served.safetensors.replies").exists()  # it is for runs that are broken off


def test_a_command_that_broke_off_goes_on(json_server, tmp_path):
    server = json_server(shares)
    file, out = QUESTIONS.save(tmp_path / "questions.jsonl"), tmp_path / "served.safetensors"
    command = ["score-served", server.url, "--model", "decider", "--questions", str(file), "--out", str(out), "--quiet"]
    first = shares({"questions": {"answer": {"criteria": dict.fromkeys(QUESTIONS[0].choices)}}})
    server.failures = [(200, {}, json.dumps(first)), (400, {}, "no")]
    assert isinstance(CliRunner().invoke(app, [*command, "--concurrency", "1"]).exception, ModelError)
    assert not out.exists()
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "1 of 2 replies were kept from a run that was broken off" in done.stderr
    assert len(server.requests) == 3


def test_replies_of_other_requests_are_not_deleted(json_server, tmp_path):
    server = json_server(shares)
    file, out = QUESTIONS.save(tmp_path / "questions.jsonl"), tmp_path / "served.safetensors"
    command = ["score-served", server.url, "--model", "decider", "--questions", str(file), "--out", str(out), "--quiet"]
    replies = tmp_path / "served.safetensors.replies"
    replies.mkdir()
    (replies / "paid-for.json").write_text("{}")
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "replies is kept: it holds 1 replies to other requests" in done.stderr
    assert (replies / "paid-for.json").exists()


def test_white_space_around_texts_is_not_sent(json_server, tmp_path):
    spaced = QuestionSet("cities", (Question("a", " Capital of France?\n", ("Lyon ", "\tParis"), 1),))
    server = json_server(shares)
    assert asked(server, tmp_path, spaced).p_NK.tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3)]]
    ((_, _, body),) = server.requests
    question = body["questions"]["answer"]
    assert (question["instructions"], list(question["criteria"])) == ("Capital of France?", ["Lyon", "Paris"])
