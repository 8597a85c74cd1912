"""A real HTTP server on this machine that speaks the chat-completions format, with a judge of a known rule."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ANSWERS = re.compile(r"\[Answer A\]\n(.*?)\n\n\[Answer B\]\n(.*?)\n\nExplain", re.DOTALL)


class JudgeServer:
    """``rule(first, second) -> reply``; ``failures`` holds (status, headers, body) that are sent first, one a request."""

    def __init__(self, rule):
        self.rule, self.failures, self.requests, self.lock = rule, [], [], threading.Lock()
        self.running = self.most_at_once = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                owner.answer(self)

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://localhost:{self.server.server_address[1]}/v1"

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append((handler.path, dict(handler.headers), body))
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            failure = self.failures.pop(0) if self.failures else None
        first, second = ANSWERS.search(body["messages"][0]["content"]).groups()
        status, headers, text = failure or (200, {}, None)
        if text is None:
            text = json.dumps({"choices": [{"message": {"role": "assistant", "content": self.rule(first, second)}}]})
        with self.lock:
            self.running -= 1
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def judge_server(monkeypatch):
    """A function from a rule to a running server; all are closed at the end of the test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    running = []

    def start(rule):
        running.append(JudgeServer(rule))
        return running[-1]

    yield start
    for server in running:
        server.close()
