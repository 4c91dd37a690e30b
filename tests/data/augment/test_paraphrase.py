"""Paraphrase, against a real small server that speaks the chat completions protocol."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from typer.testing import CliRunner

import llama_factory as lf
from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.data.augment import parse_methods
from llama_factory.data.augment.augmenter import DataAugmenter
from llama_factory.data.augment.paraphrase import Paraphrase


class Endpoint(BaseHTTPRequestHandler):
    """Answers with what the test laid down, in order, the last answer again and again."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            answers = self.server.answers
            status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
            self.server.asked.append((self.path, dict(self.headers), asked))
        if callable(body):
            body = body(asked)
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        with contextlib.suppress(BrokenPipeError):  # whoever asked waits no longer
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args):
        """Silent."""


def said(text, finish="stop"):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    return json.dumps({"object": "chat.completion", "choices": [choice]})


def in_other_words(asked):
    return said("换句话说：" + asked["messages"][-1]["content"])


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.lock, server.answers, server.asked = threading.Lock(), [(200, in_other_words, {})], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def method(server):
    def build(**settings):
        address = f"http://127.0.0.1:{server.server_port}/v1/"
        return Paraphrase(base_url=address, model="small", wait_seconds=0.01, **settings)

    return build


def test_the_model_is_asked_as_openai_would_be(server, method):
    result = method(temperature=0.3).change("请说明一个问题", Random(0))
    assert result == "换句话说：请说明一个问题"
    path, _, asked = server.asked[0]
    assert path == "/v1/chat/completions"
    assert asked["model"] == "small"
    assert asked["temperature"] == 0.3
    assert [turn["role"] for turn in asked["messages"]] == ["system", "user"]
    assert isinstance(asked["seed"], int)


def test_the_same_seed_asks_the_same(server, method):
    for _ in range(2):
        method().change("请说明一个问题", Random(5))
    assert server.asked[0][2] == server.asked[1][2]


def test_the_key_comes_from_the_environment(server, method, monkeypatch):
    monkeypatch.setenv("THE_KEY", "sk-123")
    method(api_key_env="THE_KEY").change("请说明", Random(0))
    headers = {name.lower(): value for name, value in server.asked[0][1].items()}
    assert headers["authorization"] == "Bearer sk-123"


def test_a_missing_key_is_reported_before_anything_is_sent(server, method, monkeypatch):
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(
        ConfigError, match="the environment has no THE_KEY, which api_key_env names"
    ):
        method(api_key_env="THE_KEY").change("请说明", Random(0))
    assert server.asked == []


def test_a_busy_endpoint_is_asked_again(server, method):
    server.answers[:0] = [(503, "busy", {}), (429, "slow down", {"retry-after": "0"})]
    assert method().change("请说明", Random(0)) == "换句话说：请说明"
    assert len(server.asked) == 3


def test_an_endpoint_that_stays_busy_is_reported(server, method):
    server.answers[:] = [(503, "over capacity", {})]
    with pytest.raises(
        DataError, match=r"failed 3 times, at last: status 503: over capacity\. Check"
    ):
        method(attempts=3).change("请说明", Random(0))
    assert len(server.asked) == 3


def test_an_endpoint_out_of_reach_is_reported():
    dead = Paraphrase(base_url="http://127.0.0.1:9/v1", model="m", attempts=2, wait_seconds=0)
    with pytest.raises(
        DataError, match=r"http://127\.0\.0\.1:9/v1/chat/completions failed 2 times"
    ):
        dead.change("请说明", Random(0))


def test_an_endpoint_that_does_not_answer_in_time_is_reported(server, method):
    stop = threading.Event()
    server.answers[:] = [(200, lambda asked: (stop.wait(5), said("x"))[1], {})]
    with pytest.raises(DataError, match=r"no answer within 0\.1 s"):
        method(attempts=1, timeout_seconds=0.1).change("请说明", Random(0))
    stop.set()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            401,
            "status 401: no. Name the environment variable with its key in api_key_env",
        ),
        (404, "Check base_url .it usually ends in /v1. and the model 'small'"),
        (400, "refused with status 400: no. Check base_url, model and the other settings"),
    ],
)
def test_a_refusal_is_reported_at_once(server, method, status, told):
    server.answers[:] = [(status, "no", {})]
    with pytest.raises(ConfigError, match=told):
        method().change("请说明", Random(0))
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', "[]"])
def test_an_answer_that_is_no_completion_is_reported(server, method, body):
    server.answers[:] = [(200, body, {})]
    with pytest.raises(DataError, match="answered something that is no chat completion"):
        method().change("请说明", Random(0))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "empty"),
        ("付费多少？", "a number is lost"),
        ("付 4 元和 {{name}} 与 12 元", "a number is added"),
        ("<think>hm</think>", "nothing but thoughts"),
    ],
)
def test_what_loses_numbers_or_placeholders_is_not_taken(server, method, answer, why):
    server.answers[:] = [(200, said(answer), {})]
    text = "{{name}} 要付 12 元吗？"
    assert method().change(text, Random(0)) == text, why


def test_an_answer_cut_off_is_not_taken(server, method):
    server.answers[:] = [(200, said("请说", finish="length"), {})]
    assert method().change("请说明", Random(0)) == "请说明"


def test_thoughts_are_left_out(server, method):
    server.answers[:] = [(200, said("<think>\nhm\n</think>\n\n烦请解释"), {})]
    assert method().change("请说明", Random(0)) == "烦请解释"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_is_not_sent(server, method, text):
    assert method().change(text, Random(0)) == text
    assert server.asked == []


def test_rate_zero_sends_nothing(server, method):
    assert method(rate=0).change("请说明", Random(0)) == "请说明"
    assert server.asked == []


def test_the_address_must_be_one():
    with pytest.raises(ValueError, match="'localhost:8000' is no address"):
        Paraphrase(base_url="localhost:8000", model="m")


def test_rows_are_paraphrased_together_and_keep_their_order(server, method):
    rows = [{"instruction": f"第 {i} 个问题", "output": str(i)} for i in range(20)]
    made = DataAugmenter(methods=[method()], keep_original=False).process(rows)
    assert [row["instruction"] for row in made] == [f"换句话说：第 {i} 个问题" for i in range(20)]
    assert [row["output"] for row in made] == [str(i) for i in range(20)]
    assert {row["augmented_by"] for row in made} == {"paraphrase"}


def test_a_version_of_a_workspace_writes_in_this_process(tiny_model, tmp_path):
    bot = lf.init(tmp_path / "bot", tiny_model)
    methods = parse_methods(
        [{"type": "paraphrase", "writer": f"{bot.folder}@v0000", "temperature": 0, "max_tokens": 8}]
    )
    rows = [{"instruction": "How are you?", "output": "Fine."}]
    with pytest.raises(ConfigError, match=r"writer: .*@v0000 is not open.*local_writers"):
        DataAugmenter(methods).process(rows)
    with lf.local_writers(methods):
        assert methods[0].change("Order 7 is late.", Random(0)) == "Order 7 is late."  # 7 is lost
        request = methods[0]._request("How are you?", 0)
        assert set(request) >= {"messages", "temperature", "max_tokens", "seed"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"base_url": "http://127.0.0.1:1/v1"},
        {"model": "gpt"},
        {"writer": "my-bot", "model": "gpt"},
        {"writer": "my-bot", "base_url": "http://127.0.0.1:1/v1"},
    ],
)
def test_there_is_one_writer(settings):
    with pytest.raises(ConfigError, match="Give base_url and model .* or writer alone"):
        parse_methods([{"type": "paraphrase", **settings}])


@pytest.mark.slow
def test_the_command_paraphrases_with_a_local_model(tiny_model, tmp_path):
    asked = tmp_path / "rows.jsonl"
    asked.write_text('{"instruction": "How are you?", "output": "Fine."}\n', "utf-8")
    made = tmp_path / "more.jsonl"
    sets = [f"writer={tiny_model}", "temperature=1.5", "max_tokens=100", "max_concurrent=2"]
    changes = [word for each in sets for word in ("--set", f"paraphrase.{each}")]
    words = ["data", "augment", str(asked), str(made), "--method", "paraphrase", *changes]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(made.read_text("utf-8").splitlines()[0])["messages"]
