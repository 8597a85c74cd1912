"""A judge of a known rule behind a real HTTP server on this machine that speaks the chat-completions format."""

import re

import pytest

ANSWERS = re.compile(r"\[Answer A\]\n(.*?)\n\n\[Answer B\]\n(.*?)\n\nExplain", re.DOTALL)


@pytest.fixture
def judge_server(json_server):
    """A function from ``rule(first, second) -> reply`` to a running server, whose ``rule`` may be changed."""

    def start(rule):
        def completion(body):
            first, second = ANSWERS.search(body["messages"][0]["content"]).groups()
            said = server.rule(first, second)
            reply = {"content": said, "finish_reason": "stop"} if isinstance(said, str) else said
            message = {"role": "assistant", "content": reply["content"]}
            return {"choices": [{"message": message, "finish_reason": reply["finish_reason"]}]}

        server = json_server(completion)
        server.rule = rule
        return server

    return start
