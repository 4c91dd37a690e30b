"""`serve` as a user meets it: the port, the address it prints, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from llama_factory.core.errors import ModelError, ServingError
from llama_factory.model.settings import ModelSettings
from llama_factory.serving import server
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

MISSING = ModelSettings(base_model="/no/such/model")
"""Loading it fails, so an error about the address came first."""

SCRIPT = """
import functools, sys
from pathlib import Path
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.server import serve
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

settings, model = ServingSettings(port=0), ModelSettings(base_model=sys.argv[2])
say = functools.partial(print, flush=True)
serve(Workspace.open(Path(sys.argv[1])), settings, model, api_key=None, say=say)
"""


def start(workspace: Workspace, settings: ServingSettings, said: list[str] | None = None) -> None:
    said = [] if said is None else said
    server.serve(workspace, settings, MISSING, api_key=None, say=said.append)


def test_a_port_in_use_is_told_before_the_model_loads(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = f"port {port} on 127.0.0.1 is in use.*use --port"
        with pytest.raises(ServingError, match=message):
            start(workspace, ServingSettings(port=port))


def test_an_address_of_another_machine_is_told(workspace: Workspace) -> None:
    with pytest.raises(ServingError, match=r"cannot listen on 203.0.113.1 .*Use --host 127.0.0.1"):
        start(workspace, ServingSettings(host="203.0.113.1", port=0))


def test_an_open_server_without_a_key_is_warned_of(workspace: Workspace) -> None:
    said: list[str] = []
    with pytest.raises(ModelError, match="no/such/model"):
        start(workspace, ServingSettings(host="0.0.0.0", port=0), said)
    assert "open to the network and no key is set" in said[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_for_this_machine_alone_is_not_warned_of(workspace: Workspace, host: str) -> None:
    said: list[str] = []
    with pytest.raises(ModelError, match="no/such/model"):
        start(workspace, ServingSettings(host=host, port=0), said)
    assert said == []


@contextmanager
def started(workspace: Workspace, model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own, with the address that it prints."""
    command = [sys.executable, "-c", SCRIPT, str(workspace.folder), str(model)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("my-bot v0001 answers on http://127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(
    workspace: Workspace, tiny_model: Path, number: signal.Signals
) -> None:
    with started(workspace, tiny_model) as (process, address):
        assert httpx.get(f"{address}/models").status_code == 200
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == os.EX_OK
    assert "Traceback" not in complaints
