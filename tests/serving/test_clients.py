"""Clients that people have work with the server as they are: the scripts of `examples/clients`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "clients"
INSTALLED = ROOT / ".venv-clients" / "bin" / "python"
"""Where `make clients` installs what is too heavy for the environment of the tests."""


def lines_of(script: str, client: OpenAI, python: str | Path = sys.executable) -> dict[str, str]:
    """What a script prints, by what stands before the colon."""
    address = {"OPENAI_BASE_URL": str(client.base_url).rstrip("/"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [python, SCRIPTS / script],
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pairs = [line.partition(": ") for line in done.stdout.splitlines()]
    return {name: value for name, _, value in pairs}


def installed() -> Path:
    if not INSTALLED.exists():
        pytest.skip("LangChain, LlamaIndex and llm are not installed: `make clients` does it")
    return INSTALLED


STATES = [f"find_order {{'state': '{state}'}}" for state in ("sent", "lost")]
MOODS = [f"mood='{mood}' is_sure={sure}" for mood in ("good", "bad") for sure in (True, False)]


def check_openai_package(client: OpenAI, python: str | Path) -> None:
    lines = lines_of("openai_package.py", client, python)
    assert "'production'" in lines["models"]
    assert lines["whole"].startswith("v0001 ")
    assert lines["streamed"].startswith("True ")
    assert lines["async"] == "4 {'v0001'}"
    assert lines["tool call"] in STATES
    assert lines["streamed call"] in STATES
    assert lines["after the tool"] in ("stop", "length")
    assert lines["parsed"] in MOODS


@pytest.mark.slow
def test_the_openai_package(client: OpenAI) -> None:
    check_openai_package(client, sys.executable)


@pytest.mark.slow
def test_the_anthropic_package(client: OpenAI) -> None:
    lines = lines_of("anthropic_package.py", client)
    assert lines["whole"].startswith("v0001 ")
    assert lines["streamed"] == "True True"
    assert lines["tool call"] in STATES
    assert lines["after the tool"] in ("end_turn", "max_tokens")
    assert lines["counted"] == "True"


@pytest.mark.slow
def test_the_calls_of_open_webui(client: OpenAI) -> None:
    lines = lines_of("open_webui_calls.py", client)
    assert lines["models"].startswith("True ")
    assert lines["streamed"].startswith("True ")
    assert lines["second turn"] == "True"
    assert lines["title"].startswith("assistant ")


@pytest.mark.slow
def test_an_older_openai_package(client: OpenAI) -> None:
    check_openai_package(client, installed())


@pytest.mark.slow
def test_langchain(client: OpenAI) -> None:
    lines = lines_of("langchain_chat.py", client, installed())
    assert lines["whole"] == "v0001 True"
    assert lines["streamed"] == "True"
    assert lines["batch"] == "2"
    assert lines["tool call"] in STATES
    assert lines["after the tool"] in ("stop", "length")
    assert lines["parsed"] in MOODS


@pytest.mark.slow
def test_llamaindex(client: OpenAI) -> None:
    lines = lines_of("llamaindex_chat.py", client, installed())
    assert lines["whole"] == "v0001 True"
    assert lines["streamed"] == "True"
    assert lines["async"] == "v0001"
    assert lines["completion"] in ("stop", "length")
    assert lines["tool call"] in STATES


@pytest.mark.slow
def test_the_command_llm(client: OpenAI) -> None:
    lines = lines_of("llm_command.py", client, installed())
    assert lines["whole"] == lines["streamed"] == "True"
    assert lines["schema"] in ("{'is_sure': True}", "{'is_sure': False}")
