"""Starts the API server, and stops it."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from llama_factory.core.errors import ServingError
from llama_factory.core.signals import Stopped
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.api import create_app
from llama_factory.serving.engines.transformers import TransformersEngine
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

GRACE_SECONDS = 10.0
"""How long answers in progress may go on once the server was told to stop."""

FORCED_AFTER_SECONDS = 15
"""When connections are closed that even then are not done, such as clients that do not read."""


def serve(
    workspace: Workspace,
    settings: ServingSettings,
    model_settings: ModelSettings,
    *,
    api_key: str | None,
    say: Callable[[str], None],
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        workspace: whose released version answers.
        settings: address and limits.
        model_settings: the base model.
        api_key: what clients must send; None or nothing lets everyone in.
        say: shows one line to the user.

    Raises:
        ServingError: the port is in use, or the address is not this machine's.
        FactoryError: the model or the released version cannot be loaded.
    """
    # The port comes first: loading a model only to find the port taken wastes minutes.
    with _leaving_on_sigterm(), _listen(settings) as listener:
        if not api_key and not _is_loopback(settings.host):
            say(
                f"Warning: {settings.host} is open to the network and no key is set, so anyone can "
                "ask. Set the environment variable API_KEY, or serving.host to 127.0.0.1."
            )
        engine = TransformersEngine(model_settings)
        app = create_app(workspace, settings, engine, api_key=api_key or None)
        released = releases.read(workspace.releases).production
        say(f"{workspace.folder.name} {released} answers on {_address(listener)}/v1")
        _run(app, listener)


class _Server(uvicorn.Server):
    """Lets answers in progress end by themselves for a while, then tells their clients."""

    def __init__(self, config: uvicorn.Config, cut_short: Callable[[], None]) -> None:
        super().__init__(config)
        self._cut_short = cut_short

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._cut_short)
        await super().shutdown(sockets)


def _run(app: FastAPI, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app, log_level="warning", lifespan="on", timeout_graceful_shutdown=FORCED_AFTER_SECONDS
    )
    # Ctrl-C is the usual way to end a server: no error.
    with contextlib.suppress(KeyboardInterrupt, Stopped):
        _Server(config, app.state.cut_short).run(sockets=[listener])


def _listen(settings: ServingSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServingError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"serving.port: port {port} on {host} is in use, perhaps by another server. Stop that "
            "one, or use --port with another number (0 takes any free port)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"serving.port: this user may not listen on port {port} of {host}. Use --port with a "
            "number above 1023."
        )
    return (
        f"serving.host: cannot listen on {host} ({error.strerror or error}). Use --host 127.0.0.1 "
        "for this machine alone, or 0.0.0.0 for the network."
    )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Exit with 0 on SIGTERM, also while the model loads; other handlers are put back after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(os.EX_OK)
