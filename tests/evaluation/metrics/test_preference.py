import json
import logging
import math
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llama_factory.core.errors import ConfigError
from llama_factory.evaluation.metrics import preference
from llama_factory.evaluation.metrics.preference import Preference, read_verdict
from tests.evaluation.metrics.rows import answered

PARTS = re.compile(
    r"\[Question\]\n(.*)\n\n\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nEnd", re.DOTALL
)


@contextmanager
def judge(answer):
    """A judge on this machine; `answer(question, first, second)` gives its text or a status."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers["Authorization"], **body})
            found = answer(*PARTS.search(body["messages"][0]["content"]).groups())
            status, text = (found, "busy") if isinstance(found, int) else (200, found)
            message = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            self.send_response(status)
            with suppress(BrokenPipeError, ConnectionResetError):  # the asker waits no longer
                self.end_headers()
                self.wfile.write(json.dumps(message).encode())

        def log_message(self, *args):
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # seconds of a poll
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def longer(question, first, second):
    if len(first) == len(second):
        return "Both are fine. [[tie]]"
    return f"I think so.\n[[{'A' if len(first) > len(second) else 'B'}]]"


ROWS = [answered("短", "更长的回答"), answered("a long one", "no"), answered("one", "two")]


def scores(url, rows=ROWS, **settings):
    metric = Preference(url=url, model="judge", retries=1, **settings)
    scored = metric.score_rows(rows)
    return [each.score for each in scored], metric.total(scored)


def test_answers_win_lose_and_tie(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    with judge(longer) as (url, seen):
        assert scores(url, api_key_env="JUDGE_KEY") == ([1, 0, 0.5], 0.5)
    assert len(seen) == 6
    assert {each["path"] for each in seen} == {"/v1/chat/completions"}
    assert {each["key"] for each in seen} == {"Bearer k"}
    assert seen[0]["model"] == "judge"
    assert seen[0]["temperature"] == 0


def test_a_judge_that_likes_the_first_place_finds_only_ties(caplog):
    caplog.set_level(logging.INFO)
    with judge(lambda *_: "[[A]]") as (url, _):
        assert scores(url) == ([0.5, 0.5, 0.5], 0.5)
    assert "in 3 of 3 rows the verdict changed with the order" in caplog.text


def test_nonsense_is_counted_and_never_guessed(caplog):
    def answer(question, first, second):
        return "Both [[A]] and [[B]]!" if "two" in (first, second) else longer("", first, second)

    with judge(answer) as (url, _):
        found, total = scores(url)
    assert found[:2] == [1, 0]
    assert math.isnan(found[2])
    assert total == 0.5
    assert "1 of 3 rows were not judged and are left out: 2 x no verdict." in caplog.text


@pytest.mark.slow
def test_a_judge_that_times_out_is_counted(caplog, monkeypatch):
    monkeypatch.setattr(preference, "MAX_WAIT", 0.0)

    is_over = threading.Event()

    def slow(question, first, second):
        if "two" in (first, second):
            is_over.wait(30)
        return longer(question, first, second)

    with judge(slow) as (url, seen):
        found, total = scores(url, timeout=0.5)
        is_over.set()
    assert math.isnan(found[2])
    assert total == 0.5
    assert len(seen) == 2 + 2 + 4, "each of the two questions of the slow row is asked again once"
    assert "1 of 3 rows were not judged and are left out: 2 x timed out." in caplog.text


def test_a_busy_judge_is_asked_again(monkeypatch):
    monkeypatch.setattr(preference, "MAX_WAIT", 0.0)
    asked = set()

    def busy(question, first, second):
        if (first, second) in asked:
            return longer(question, first, second)
        asked.add((first, second))
        return 429

    with judge(busy) as (url, seen):
        assert scores(url)[0] == [1, 0, 0.5]
    assert len(seen) == 12


def test_a_judge_that_stays_busy_is_counted(monkeypatch, caplog):
    monkeypatch.setattr(preference, "MAX_WAIT", 0.0)
    with judge(lambda *_: 503) as (url, _):
        found, total = scores(url)
    assert all(map(math.isnan, [*found, total]))
    assert "3 of 3 rows were not judged and are left out: 6 x server error." in caplog.text


def test_a_wrong_address_key_or_model_ends_the_run():
    with judge(lambda *_: 401) as (url, _), pytest.raises(ConfigError, match="answered 401: .*key"):
        scores(url)
    with pytest.raises(ConfigError, match=r"nothing answers at http://127\.0\.0\.1:1/"):
        scores("http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="'preference' needs `url` of the judge"):
        Preference().check()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "A"),
        ("So [[ b ]].", "B"),
        ("[[Tie]]", "tie"),
        ("[[A]] ... finally [[A]]", "A"),
        ("[[A]] or [[tie]]", "no verdict"),
        ("A", "no verdict"),
        ("", "no verdict"),
        ("我认为[[B]]更好", "B"),
    ],
)
def test_verdicts_are_read_only_in_their_form(text, verdict):
    assert read_verdict(text) == verdict
