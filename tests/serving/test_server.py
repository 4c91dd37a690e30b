"""`serve` as a user meets it: the port, the address it prints, and how it ends."""

import asyncio
import errno
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
from llama_factory.data.settings import DataSettings
from llama_factory.model.settings import ModelSettings
from llama_factory.serving import server
from llama_factory.serving.access import ApiKey
from llama_factory.serving.connections import Complaints
from llama_factory.serving.keys import KeyRing, create_key
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.running import ask, client_of, health, wait_until

MISSING = ModelSettings(base_model="/no/such/model")
"""Loading it fails, so an error about the address came first."""

SCRIPT = """
import functools, sys
from pathlib import Path
from llama_factory.data.settings import DataSettings
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.server import serve
from llama_factory.serving.access import ApiKey
from llama_factory.serving.keys import KeyRing, create_key
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

exec(sys.argv[3])
settings, model = ServingSettings(port=0), ModelSettings(base_model=sys.argv[2])
say = functools.partial(print, flush=True)
serve(
    Workspace.open(Path(sys.argv[1])), settings, model, api_key=None, say=say, data=DataSettings()
)
"""


def start(workspace: Workspace, settings: ServingSettings, said: list[str] | None = None) -> None:
    said = [] if said is None else said
    server.serve(workspace, settings, MISSING, api_key=None, say=said.append, data=DataSettings())


def test_a_port_in_use_is_told_before_the_model_loads(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = f"port {port} on 127.0.0.1 is in use.*use --port"
        with pytest.raises(ServingError, match=message):
            start(workspace, ServingSettings(port=port))


def test_an_address_of_another_machine_is_told(workspace: Workspace) -> None:
    with pytest.raises(ServingError, match=r"cannot listen on 203.0.113.1 .*Use --host 127.0.0.1"):
        start(workspace, ServingSettings(host="203.0.113.1", port=0, insecure=True))


OPEN = ServingSettings(host="0.0.0.0", port=0)


def test_an_open_server_without_a_key_is_refused(own_workspace: Workspace) -> None:
    with pytest.raises(ServingError, match="open to the network and there is no key.*--insecure"):
        start(own_workspace, OPEN)


def test_an_open_server_with_a_key_starts(own_workspace: Workspace) -> None:
    create_key(own_workspace.folder / "keys.json", ApiKey("web"))
    with pytest.raises(ModelError, match="no/such/model"):
        start(own_workspace, OPEN)


def test_an_open_server_without_a_key_starts_where_that_is_meant(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="no/such/model"):
        start(workspace, OPEN.model_copy(update={"insecure": True}))


def test_damaged_keys_do_not_open_the_server(own_workspace: Workspace) -> None:
    (own_workspace.folder / "keys.json").write_text("{")
    assert KeyRing(own_workspace.folder / "keys.json").is_required
    with pytest.raises(ModelError, match="no/such/model"):
        start(own_workspace, OPEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_for_this_machine_alone_needs_no_key(workspace: Workspace, host: str) -> None:
    said: list[str] = []
    with pytest.raises(ModelError, match="no/such/model"):
        start(workspace, ServingSettings(host=host, port=0), said)
    assert said == []


@contextmanager
def started(
    workspace: Workspace, model: Path, before: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own, with the address that it prints.

    Args:
        workspace: what is served.
        model: its base model.
        before: Python that runs there first.
    """
    command = [sys.executable, "-c", SCRIPT, str(workspace.folder), str(model), before]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("my-bot v0001 answers on http://127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.kill()


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_the_server_cleanly(
    workspace: Workspace, tiny_model: Path, number: signal.Signals
) -> None:
    with started(workspace, tiny_model) as (process, address):
        assert httpx.get(f"{address}/models").status_code == 200
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == os.EX_OK
    assert "Traceback" not in complaints


@pytest.mark.slow
def test_releases_and_requests_are_in_the_log(own_workspace: Workspace, tiny_model: Path) -> None:
    with started(own_workspace, tiny_model) as (process, address):
        client = client_of(address)
        assert ask(client, max_tokens=2).model == "v0001"
        releases.promote(own_workspace.releases, "v0002", "test")
        wait_until(lambda: health(client)["version"] == "v0002", "the release")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert "INFO POST /v1/chat/completions 200 id=req-" in log
    assert "completion_tokens=2 finish=length" in log
    assert "INFO v0002 is released and answers instead of v0001" in log


@pytest.mark.slow
def test_a_released_version_that_cannot_be_served_is_told_at_the_start(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    releases.promote(own_workspace.releases, "v0002", "test")
    (own_workspace.versions / "v0002/adapter/adapter_model.safetensors").unlink()
    command = [sys.executable, "-c", SCRIPT, str(own_workspace.folder), str(tiny_model), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.kill()
    assert lines[0].startswith("Warning: v0002 is released and cannot be served")
    assert lines[1].startswith("my-bot v0001 answers on http://127.0.0.1:")


STUCK = """
from llama_factory.serving import server
from llama_factory.serving.engines import worker
from llama_factory.inference.question import AnswerPiece
from llama_factory.inference.version_engine import VersionEngine

def stuck(self):
    for delivery in self._deliveries.values():
        delivery.deliver(AnswerPiece("*"))
    while self._deliveries:
        pass

VersionEngine.step = stuck
server.GRACE_SECONDS, server.FORCED_AFTER_SECONDS, worker.STOP_SECONDS = 0.2, 0.4, 0.2
"""
"""An engine that nothing stops, and a server that waits less long for it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_a_server_whose_answer_never_ends(
    workspace: Workspace, tiny_model: Path, number: signal.Signals
) -> None:
    with started(workspace, tiny_model, STUCK) as (process, address):
        chunks = ask(client_of(address), stream=True)
        next(chunks)
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    assert process.returncode == os.EX_OK
    assert "in the middle of an answer that does not end" in log


FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 160))
"""


@pytest.mark.slow
def test_more_connections_than_files_shut_nobody_out_and_do_not_fill_the_log(
    workspace: Workspace, tiny_model: Path
) -> None:
    """As many files as a shell allows at first are raised to what it allows at all."""
    with started(workspace, tiny_model, FEW_FILES) as (process, address):
        port = int(address.split(":")[2].split("/")[0])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        assert ask(client_of(address), max_tokens=2).model == "v0001"
        for made in idle:
            made.close()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert len(log.splitlines()) < 5


def test_small_pieces_are_sent_at_once() -> None:
    """Else the second piece of an answer waits 40 ms for the first to be confirmed."""

    async def accept() -> int:
        reading: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_: object, writer: asyncio.StreamWriter) -> None:
            made = writer.get_extra_info("socket")
            reading.set_result(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = server.listen(ServingSettings(port=0))
        async with await asyncio.start_server(accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await reading

    assert asyncio.run(accept()) == 1


def test_the_log_of_accepting_does_not_grow(caplog: pytest.LogCaptureFixture) -> None:
    async def complain() -> None:
        loop, told = asyncio.get_running_loop(), Complaints()
        for _ in range(1000):
            told(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "too many")})
        told(loop, {"message": "another matter"})

    asyncio.run(complain())
    assert len(caplog.records) == 2
