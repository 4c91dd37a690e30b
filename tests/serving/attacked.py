"""A real server in a process of its own, what attacks send to it, and what they got.

`python -m tests.serving.attacked FOLDER MODEL` is that process: `serve` with shorter time limits.
SIGUSR1 moves its clock by a day, SIGUSR2 takes away its disk and gives it back.
"""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llama_factory.serving.access import ApiKey
from llama_factory.serving.keys import create_key
from llama_factory.versions.workspace import Workspace
from tests.serving.running import wait_until

SECONDS = 60.0
"""Longest wait for an answer; what takes this long is a fault."""

ASKED = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
SLOW_TOKENS = 333
"""A request for this many tokens is answered slowly."""


@dataclass(frozen=True)
class Attacked:
    """The server under attack.

    Attributes:
        workspace: what it serves.
        port: where it listens.
        key: gets in everywhere.
        process: the server.
    """

    workspace: Workspace
    port: int
    key: str
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def opened(self, sent: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        made.sendall(sent)
        return made

    def raw(self, sent: bytes) -> str:
        """What a connection got that sent these bytes, and then waited for its end."""
        said = b""
        with self.opened() as made:
            try:
                made.sendall(sent)
                while piece := made.recv(65536):
                    said += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
        return got(said)

    def head(self, *lines: str, first: str = f"POST {CHAT} HTTP/1.1") -> bytes:
        """The head of a request with the key, which ends its connection."""
        common = ("Host: test", f"Authorization: Bearer {self.key}", "Connection: close")
        return "\r\n".join([first, *common, *lines, "", ""]).encode("latin-1")

    def post(self, body: Any, path: str = CHAT, **headers: str) -> str:
        """What a body got: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        answer = httpx.post(self.url + path, content=content, headers=sent, timeout=SECONDS)
        return named(answer.status_code, answer.content)

    def chat(self, **fields: Any) -> str:
        """What a request for one token got that has these fields too."""
        return self.post({"model": "production", "max_tokens": 1, "messages": ASKED} | fields)

    def get(self, path: str, **headers: str) -> str:
        answer = httpx.get(self.url + path, headers={**self.headers, **headers}, timeout=SECONDS)
        return named(answer.status_code, answer.content)

    def health(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/health", timeout=SECONDS).json()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def got(said: bytes) -> str:
    """What a server said, in short: the first response's status and error."""
    if not said:
        return "closed without an answer"
    head, _, body = said.partition(b"\r\n\r\n")
    return named(int(head.split()[1]), body)


def named(status: int, body: bytes) -> str:
    """A status, with the code of the error and the field at fault where there are such."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return str(status)
    words = [error["code"] or error["type"], error["param"] and f"({error['param']})"]
    return " ".join([str(status), *filter(None, words)])


@contextmanager
def attacked(workspace: Workspace, model: Path) -> Iterator[Attacked]:
    """Start the process, with a key; end it."""
    key = create_key(workspace.folder / "keys.json", ApiKey("everything"))
    command = [sys.executable, "-m", __name__, str(workspace.folder), str(model)]
    log = (workspace.folder / "server.log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "answers on http://127.0.0.1:" in line, line
            port = int(line.split(":")[-1].split("/")[0])
            server = Attacked(workspace, port, key, process)
            wait_until(lambda: server.get("/v1/models") == "200", "the first answer")
            yield server
        finally:
            process.kill()


def main(folder: str, model: str) -> None:
    """Serve until killed."""
    import asyncio
    import resource
    import time

    from llama_factory.data.settings import DataSettings
    from llama_factory.model.settings import ModelSettings
    from llama_factory.serving import connections, middleware, refusal
    from llama_factory.serving.engines.local import LocalEngine
    from llama_factory.serving.server import serve
    from llama_factory.serving.settings import ServingSettings

    connections.HEADER_SECONDS = middleware.BODY_SECONDS = connections.WRITE_SECONDS = 1.0
    refusal.LINGER_SECONDS = 0.2
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(160, most_files)))

    answer, real_time, moved = LocalEngine.answer, time.time, [0.0]

    async def slowly(engine: Any, version_id: str, prompt: Any, options: Any) -> Any:
        async for event in answer(engine, version_id, prompt, options):
            yield event
            if options.max_tokens == SLOW_TOKENS:
                await asyncio.sleep(0.05)

    def move_clock(*_: object) -> None:
        moved[0] = -86_400.0 if moved[0] > 0 else 86_400.0

    def swap_disk(*_: object) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if soft == 0 else 0, hard))

    LocalEngine.answer = slowly  # type: ignore[method-assign]
    time.time = lambda: real_time() + moved[0]
    signal.signal(signal.SIGUSR1, move_clock)
    signal.signal(signal.SIGUSR2, swap_disk)
    settings = ServingSettings(port=0, max_queue=16, max_tokens=16, poll_seconds=0.1)
    serve(
        Workspace.open(folder),
        settings,
        ModelSettings(base_model=model, dtype="float32"),
        api_key=None,
        data=DataSettings(),
        say=functools.partial(print, flush=True),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
