"""The judge through a real HTTP server: known rules give known win rates; faults are retried, told, and never lost."""

import json
import socket
import sys

import pytest

from calibrant.alignment.data import load_preferences
from calibrant.alignment.judge import Comparison, Judge, ask, read_vote
from calibrant.alignment.judging import Judging
from calibrant.alignment.wins import both_orders, labelled, win_rate
from calibrant.errors import ConfigError, MissingExtraError, ModelError
from calibrant.metrics.estimates import Sampling

pytest.importorskip("httpx2")
HOW = Sampling(n_boot=200)
PROMPTS = [f"request {i}" for i in range(12)]
IDS = [f"p{i}" for i in range(12)]
SHORT = [f"answer {i}" for i in range(12)]
LONG = [f"answer {i}, at length" for i in range(12)]


def longer(first, second):
    return "Because of its length.\nVerdict: " + ("A" if len(first) > len(second) else "B")


def always_first(_first, _second):
    return "Verdict: A"


def asked(server, **settings):
    return Judge(server.url, "rule", **{"key_env": None, "backoff": 0.01, **settings})


def judged(server, aligned, tuned, folder, **settings):
    judge = asked(server, **settings)
    replies = ask(judge, both_orders(PROMPTS, aligned, tuned), cache=folder)
    return win_rate(IDS, aligned, tuned, replies, judge=judge, how=HOW)


@pytest.mark.parametrize(("aligned", "tuned", "wins", "losses"), [(SHORT, LONG, 12, 0), (LONG, SHORT, 0, 12)])
def test_a_judge_that_prefers_the_longer_answer(judge_server, tmp_path, aligned, tuned, wins, losses):
    w = judged(judge_server(longer), aligned, tuned, tmp_path)
    assert (w.wins, w.losses, w.ties) == (wins, losses, 0)
    assert w.win_rate.value == w.decisive.value == wins / 12
    assert (w.position_bias.value, w.consistent.value) == (0.5, 1.0)
    assert w.decisive.low < w.decisive.high  # Wilson: 12 of 12 is not certainty


def test_a_judge_that_always_takes_the_first_place_says_nothing(judge_server, tmp_path):
    w = judged(judge_server(always_first), SHORT, LONG, tmp_path)
    assert (w.wins, w.losses, w.ties, w.win_rate.value) == (0, 0, 12, 0.5)
    assert (w.position_bias.value, w.consistent.value, w.decisive) == (1.0, 0.0, None)


def test_identical_answers_are_ties_that_cost_nothing(judge_server, tmp_path):
    server = judge_server(longer)
    w = judged(server, SHORT, [*SHORT[:6], *LONG[6:]], tmp_path)
    assert (w.wins, w.ties, w.identical, w.win_rate.value) == (6, 6, 6, 0.75)
    assert len(server.requests) == 12


def test_ties_and_unreadable_replies_are_counted_apart(judge_server, tmp_path):
    def rule(first, _second):
        return {"0": "Verdict: tie", "1": "no idea", "2": ""}.get(first.split()[1].strip(","), longer(first, _second))

    w = judged(judge_server(rule), SHORT, LONG, tmp_path)
    assert w.unreadable == ("p1", "p2")
    assert (w.n, w.wins, w.ties, w.losses) == (10, 9, 1, 0)
    assert w.to_json()["judge"]["prompt"].startswith("Two assistants")


def pairs(n, chosen="the longer answer", rejected="short"):
    return load_preferences([{"prompt": f"request {i}", "chosen": chosen, "rejected": rejected} for i in range(n)])


def judging(server, folder):
    return Judging(asked(server), folder, HOW, progress=False, notes=[])


@pytest.mark.parametrize(
    ("rule", "rejected", "agrees", "low"),
    [
        (longer, "short", 1.0, 0.839),  # Wilson, 20 of 20
        (longer, "a rejected answer that is longer", 0.0, 0.0),
        (always_first, "short", 0.5, 0.299),  # Wilson, 10 of 20: whichever stands first is not an opinion
    ],
)
def test_a_judge_is_checked_on_what_people_preferred(judge_server, tmp_path, rule, rejected, agrees, low):
    judge = judging(judge_server(rule), tmp_path)
    prompts = [p.prompt for p in pairs(12).items]
    found = judge.wins(prompts, SHORT, LONG, pairs(20, rejected=rejected).items)
    assert (found.agreement.value, found.agreement.n) == (agrees, 20)
    assert found.agreement.low == pytest.approx(low, abs=5e-4)
    assert found.to_json()["agreement"]["value"] == agrees
    assert f"preferred what people preferred in {agrees:.0%} [" in judge.notes[0]


def test_without_pairs_the_reader_is_told_that_nobody_checked_the_judge(judge_server, tmp_path):
    judge = judging(judge_server(longer), tmp_path)
    found = judge.wins([p.prompt for p in pairs(12).items], SHORT, LONG, [])
    assert (found.agreement, found.wins) == (None, 12)
    assert "was not asked" in judge.notes[0]


def test_a_judge_that_says_nothing_of_the_pairs_keeps_its_win_rate_and_is_told(judge_server, tmp_path):
    rule = lambda first, second: "hm" if "short" in (first, second) else longer(first, second)  # noqa: E731
    judge = judging(judge_server(rule), tmp_path)
    found = judge.wins([p.prompt for p in pairs(12).items], SHORT, LONG, pairs(5).items)
    assert (found.agreement, found.wins) == (None, 12)
    assert judge.notes == ["No reply of the judge on the labelled pairs held a verdict that could be read."]


def test_labelled_pairs_are_one_a_prompt_and_a_smaller_choice_is_part_of_a_larger():
    many = pairs(40).items + pairs(40, chosen="another answer").items
    ten, thirty = labelled(many, 10), labelled(many, 30)
    assert thirty[:10] == ten
    assert len({p.prompt.text for p in labelled(many, 100)}) == len(labelled(many, 100)) == 40
    assert [p.id for p in ten] != [p.id for p in many[:10]]
    assert labelled(tuple(reversed(pairs(40).items)), 10) == ten
    assert labelled(many, 0) == []


def test_no_readable_reply_at_all_gives_no_win_rate(judge_server, tmp_path):
    w = judged(judge_server(lambda *_: "hm"), SHORT, LONG, tmp_path)
    assert (w.n, w.asked, w.unreadable, w.to_json()["win_rate"]["value"]) == (0, 12, tuple(IDS), None)
    half = [*SHORT[:6], *LONG[6:]]  # six are the same, and count as ties
    w = judged(judge_server(lambda *_: "hm"), half, LONG, tmp_path)
    assert (w.n, w.asked, w.ties, w.win_rate.value) == (6, 6, 6, 0.5)


def test_what_is_sent(judge_server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-words")
    server = judge_server(always_first)
    options = {"max_completion_tokens": 9, "max_tokens": None}
    judge = asked(server, key_env="A_KEY", options=options)
    ask(judge, [Comparison("braces {first} {0}", "one", "{second}")], cache=tmp_path)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization" if "authorization" in headers else "Authorization"] == "Bearer secret-words"
    assert body["max_completion_tokens"] == 9
    assert (body["model"], body["temperature"], "max_tokens" in body) == ("rule", 0, False)
    text = body["messages"][0]["content"]
    assert "[Request]\nbraces {first} {0}\n" in text
    assert "[Answer B]\n{second}\n" in text
    assert "secret-words" not in "".join(p.read_text() for p in tmp_path.iterdir())


def test_every_reply_is_kept_and_none_is_asked_for_twice(judge_server, tmp_path):
    server = judge_server(longer)
    first = judged(server, SHORT, LONG, tmp_path)
    assert len(server.requests) == 24
    assert len(list(tmp_path.glob("*.json"))) == 24
    server.rule = always_first
    assert judged(server, SHORT, LONG, tmp_path) == first
    assert len(server.requests) == 24


def test_never_more_requests_at_once_than_allowed(judge_server, tmp_path):
    server = judge_server(longer)
    judged(server, SHORT, LONG, tmp_path, concurrency=2)
    assert 1 <= server.most_at_once <= 2


def test_a_busy_and_a_broken_server_are_asked_again(judge_server, tmp_path):
    server = judge_server(longer)
    server.failures = [(429, {"Retry-After": "0.02"}, "slow down"), (500, {}, "oops"), (503, {}, "")]
    w = judged(server, SHORT, LONG, tmp_path, concurrency=1)
    assert w.wins == 12
    assert len(server.requests) == 27


def test_a_server_that_stays_busy_is_given_up_and_what_it_answered_is_kept(judge_server, tmp_path):
    server = judge_server(longer)
    comparisons = both_orders(PROMPTS, SHORT, LONG)
    judge = asked(server, retries=2, concurrency=1)
    ask(judge, comparisons[:4], cache=tmp_path)
    server.failures = [(500, {}, "down")] * 3
    with pytest.raises(ModelError, match="3 tries failed, the last with status 500: down") as caught:
        ask(judge, comparisons, cache=tmp_path)
    assert "kept" in caught.value.todo
    assert len(list(tmp_path.glob("*.json"))) >= 4
    assert len(ask(judge, comparisons, cache=tmp_path)) == 24


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [(401, "bad key", "status 401: bad key"), (404, "", "status 404"), (200, "<html>", "no chat completion")],
)
def test_a_refusal_is_told_at_once(judge_server, tmp_path, status, body, found):
    server = judge_server(longer)
    server.failures = [(status, {}, body)] * 24
    with pytest.raises(ModelError, match=found) as caught:
        judged(server, SHORT, LONG, tmp_path, concurrency=1, key_env="MY_KEY")
    assert "MY_KEY" in caught.value.todo
    assert len(server.requests) == 1


def test_a_dead_server_is_a_three_part_error(tmp_path, judge_server):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    judge = Judge(f"http://localhost:{port}/v1", "gone", key_env=None, retries=1, backoff=0.01)
    with pytest.raises(ModelError) as caught:
        ask(judge, [Comparison("p", "a", "b")], cache=tmp_path)
    asked, found, todo = str(caught.value).split("\n")
    assert "'gone'" in asked
    assert "2 tries failed, the last with ConnectError" in found
    assert "run the same command again" in todo
    assert not list(tmp_path.glob("*.json"))


def test_a_missing_client_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'httpx2>=2'"):
        ask(Judge("http://host/v1", "m"), [Comparison("p", "a", "b")], cache=tmp_path)


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ("Verdict: A", "first"),
        ("A is better at first sight.\n\n**Verdict: B**", "second"),
        ("Verdict: A. On second thought, verdict: tie", "tie"),
        ("verdict = [[B]]", "second"),
        ("Verdict: **A**", "first"),
        ("Verdict: Answer B", "second"),
        ("B", "second"),
        ("`tie`.", "tie"),
        ("Verdict: a tie.", "tie"),
        ("Verdict: A tie", "tie"),
        ("**Verdict**: B", "second"),
        ("**Final Verdict**: A", "first"),
        ("*Verdict*: tie", "tie"),
        ("Verdict: A (the more complete one)", "first"),
        ("Verdict: B, as it answers the question", "second"),
        ("Verdict: A\nThank you.", "first"),
        ("It is hard to give a verdict: a lot depends on taste.", None),
        ("Verdict: A and B are equal, tie", None),
        ("Verdict: A, B are equal", None),
        ("A better answer would be longer.", None),
        ("Verdict: Apple", None),
        ("<think>One of:\nVerdict: A\nVerdict: B\nVerdict: tie\nAnswer A says", None),  # cut while thinking
        ("I must write Verdict: A, Verdict: B, or Verdict: tie. First, the", None),
        ("One of Verdict: A, Verdict: B, Verdict: tie.\nVerdict: B", "second"),
        ("<think>Verdict: A?</think>\nVerdict: B", "second"),
        ("", None),
    ],
)
def test_reading_a_verdict(reply, vote):
    assert read_vote(reply) == vote


@pytest.mark.parametrize(
    "settings",
    [{"base_url": "host/v1"}, {"prompt": "{prompt} {first}"}, {"concurrency": 0}, {"pairs": -1}],
)
def test_a_judge_that_cannot_work_is_refused(settings):
    with pytest.raises(ConfigError):
        Judge(**{"base_url": "http://host/v1", "model": "m", **settings})


def test_a_file_of_the_cache_says_what_was_asked(judge_server, tmp_path):
    ask(asked(judge_server(longer)), [Comparison("Why?", "a", "bb")], cache=tmp_path)
    (kept,) = tmp_path.glob("*.json")
    value = json.loads(kept.read_text())
    assert value["reply"].endswith("Verdict: B")
    assert "Why?" in value["request"]["messages"][0]["content"]


def test_a_reply_that_was_cut_holds_no_verdict(judge_server, tmp_path):
    """However it ends: max_tokens ended it, not the judge."""
    server = judge_server(lambda *_: {"content": "So far Verdict: A", "finish_reason": "length"})
    assert judged(server, SHORT, LONG, tmp_path).n == 0
    replies = ask(asked(server), [Comparison("p", "a", "b")], cache=tmp_path)
    assert replies == [(None, "(cut off: raise max_tokens)")]
