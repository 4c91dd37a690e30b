"""A server answers while a round trains in another process, and follows its release."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from openai import AuthenticationError, OpenAI

from llama_factory import run
from tests.cli.taught import command

COMMAND = [sys.executable, "-m", "llama_factory"]
FOLLOWS_WITHIN_SECONDS = 2.0


@pytest.fixture(scope="module")
def bot(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("serving") / "bot"
    run.init(folder, str(tiny_model))
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(12)]
    (folder / "inbox/faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def address(bot):
    process = subprocess.Popen(
        [*COMMAND, "serve", bot, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"API_KEY": "secret"},
    )
    line = process.stdout.readline()
    assert "answers on http://127.0.0.1:" in line, process.stderr.read()
    yield line.split(" on ")[1].strip()
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(30) == 0
    finally:
        process.kill()


def ask(client):
    answer = client.chat.completions.create(
        model="production", messages=[{"role": "user", "content": "Question 1?"}], max_tokens=4
    )
    return answer.model


@pytest.mark.slow
def test_it_answers_all_along_and_follows_the_release(bot, address):
    with pytest.raises(AuthenticationError):
        ask(OpenAI(base_url=address, api_key="wrong", max_retries=0))
    client = OpenAI(base_url=address, api_key="secret", max_retries=0)
    options = ["--set", "training.max_steps=10", "--set", "gate.max_guard_ratio=99"]
    learning = subprocess.Popen(
        [*COMMAND, "learn", bot, *options], stdout=subprocess.PIPE, text=True
    )
    answered = []
    while learning.poll() is None:
        answered.append(ask(client))
    released = time.monotonic()
    assert "v0001 is promoted" in learning.stdout.read()
    assert len(answered) > 5
    assert answered[0] == "v0000"
    while ask(client) != "v0001":
        assert time.monotonic() - released < FOLLOWS_WITHIN_SECONDS


@pytest.mark.slow
def test_a_port_in_use_is_one_message(bot, address):
    port = address.rsplit(":", 1)[1].split("/")[0]
    second = command("serve", bot, "--port", port)
    assert second.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in second.stderr
    assert "Traceback" not in second.stderr
