"""Starts the API server, writes its log to standard error, and stops it."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from llama_factory.core.errors import ServingError
from llama_factory.core.signals import Stopped
from llama_factory.data.settings import DataSettings, private_data_of
from llama_factory.inference.settings import InferenceSettings
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.api import create_app
from llama_factory.serving.connections import (
    KEEP_ALIVE_SECONDS,
    Complaints,
    Connection,
    raise_file_limit,
)
from llama_factory.serving.engines.worker import ENGINE_THREAD
from llama_factory.serving.keys import KeyRing
from llama_factory.serving.service import Gateway
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long answers in progress may go on once the server was told to stop."""

FORCED_AFTER_SECONDS = 15
"""When connections are closed that even then are not done, such as clients that do not read."""

LOST_AFTER_SECONDS = 25.0
"""When the process ends whatever still runs in it, such as an answer that nothing can stop."""

SIGNAL_SECONDS = 0.1
"""How soon a signal is obeyed while versions are loaded."""

VANISH_SECONDS = 0.2
"""Time for the log's last line."""

BACKLOG = 64
"""Connections accepted at a time, and that wait for it."""


@dataclass(frozen=True)
class Beside:
    """What answers on the same port as the API.

    Attributes:
        wrap: puts it around the API's app.
        stop: is called when the server is asked to end, so that no stream of it goes on.
    """

    wrap: Callable[[ASGIApp], ASGIApp]
    stop: Callable[[], None]


def _nothing() -> None:
    pass


def serve(  # noqa: PLR0913  # one call starts all of it
    workspace: Workspace,
    settings: ServingSettings,
    model_settings: ModelSettings,
    *,
    api_key: str | None,
    say: Callable[[str], None],
    data: DataSettings,
    inference: InferenceSettings | None = None,
    knowledge: KnowledgeSettings | None = None,
    beside: Beside | None = None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        workspace: whose released version answers.
        settings: address and limits.
        model_settings: the base model.
        api_key: a key beside those of the workspace; None or nothing for none.
        say: shows one line to the user.
        data: how versions are asked that nothing was written down for, and what is private.
        inference: how models compute; None for the usual settings.
        knowledge: the documents that answers draw on; None for the usual settings.
        beside: what else answers on the same port.

    Raises:
        ServingError: the port is in use, the address is not this machine's, or the server would be
            open to the network without a key.
        FactoryError: the model or the released version cannot be loaded.
    """
    _require_key(workspace, settings, api_key)
    # The port comes first: loading a model only to find the port taken wastes minutes.
    with log_to_stderr(), leaving_on_sigterm(), listen(settings) as listener:
        usual, how = encode_options(data).format, inference or InferenceSettings()
        engine = settings.engine.open(model_settings, workspace, usual, how)
        private = private_data_of(data)
        app = create_app(
            workspace,
            settings,
            engine,
            api_key=api_key or None,
            private=private,
            knowledge=knowledge,
        )
        gateway: Gateway = app.state.gateway
        together = beside.wrap(app) if beside else app
        run(
            together,
            listener,
            lambda: _announce(gateway, address_of(listener), say),
            gateway=gateway,
            on_stop=beside.stop if beside else _nothing,
        )


def _announce(gateway: Gateway, address: str, say: Callable[[str], None]) -> None:
    health = gateway.health()
    version, released = health["version"], health["released"]
    if version != released:
        say(
            f"Warning: {released} is released and cannot be served (the log says why), so "
            f"{version} answers. Mend {released} or roll back: both are seen while it serves."
        )
    say(f"{gateway.workspace.folder.name} {version} answers on {address}/v1")


class Server(uvicorn.Server):
    """Lets answers in progress end by themselves for a while, then tells their clients."""

    def __init__(
        self,
        app: ASGIApp,
        on_start: Callable[[], None] = _nothing,
        *,
        gateway: Gateway | None = None,
        on_stop: Callable[[], None] = _nothing,
    ) -> None:
        """Serve an app.

        Args:
            app: that answers.
            on_start: is called once its versions are loaded.
            gateway: that loads them; None where there are none.
            on_stop: is called when the server is asked to end.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_level="warning",
                lifespan="on",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=FORCED_AFTER_SECONDS,
            )
        )
        self._gateway = gateway
        self._on_start, self._on_stop = on_start, on_stop
        self.deadline = threading.Timer(LOST_AFTER_SECONDS, _vanish)
        self.deadline.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`.

        Raises:
            FactoryError: no version can be served.
        """
        asyncio.get_running_loop().set_exception_handler(Complaints())
        if self._gateway is not None:
            await self._begin(self._gateway)
        await super().startup(sockets)
        self._on_start()

    async def _begin(self, gateway: Gateway) -> None:
        # Not in the app's lifespan alone: what goes wrong there is a traceback to the user.
        beginning = asyncio.ensure_future(gateway.begin())
        while not beginning.done() and not self.should_exit:
            await asyncio.wait({beginning}, timeout=SIGNAL_SECONDS)
        if self.should_exit:
            raise SystemExit(os.EX_OK)
        await beginning

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`; from here on the process ends, whatever still runs in it."""
        if not self.deadline.is_alive():
            self.deadline.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._on_stop()
        if self._gateway is not None:
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._gateway.cut_short)
        await super().shutdown(sockets)


def run(
    app: ASGIApp,
    listener: socket.socket,
    on_start: Callable[[], None],
    *,
    gateway: Gateway | None = None,
    on_stop: Callable[[], None] = _nothing,
) -> None:
    """Answer on a socket until a signal ends it; the arguments are those of `Server`."""
    Connection.max_connections = raise_file_limit()
    server = Server(app, on_start, gateway=gateway, on_stop=on_stop)
    try:
        # Ctrl-C is the usual way to end a server: no error.
        with contextlib.suppress(KeyboardInterrupt, Stopped):
            server.run(sockets=[listener])
    finally:
        server.deadline.cancel()
        if any(each.name == ENGINE_THREAD for each in threading.enumerate()):
            _vanish()


def listen(settings: ServingSettings) -> socket.socket:
    """A socket on the address of the settings.

    Raises:
        ServingError: the port is in use, or the address is not this machine's.
    """
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServingError(_why_not(host, port, error)) from error
    # asyncio sends small pieces at once only where the protocol is named; else the second piece of
    # an answer waits 40 ms for the client to confirm the first.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, made.detach())


def _require_key(workspace: Workspace, settings: ServingSettings, api_key: str | None) -> None:
    ring = KeyRing(workspace.folder / settings.keys, api_key)
    if ring.is_required or settings.insecure or is_loopback(settings.host):
        return
    raise ServingError(
        f"serving.host: {settings.host} is open to the network and there is no key, so anyone "
        f"could ask. Make one with `llama-factory keys {workspace.folder.name} create NAME`, set "
        "the environment's API_KEY, or take 127.0.0.1; --insecure opens it all the same."
    )


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


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def address_of(listener: socket.socket) -> str:
    """What a browser is given to reach a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Exit with 0 on SIGTERM, also while the model loads; other handlers are put back after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _vanish() -> None:
    """End the process in the middle of an answer that does not end, and with it its thread."""
    logger.error("the server ends in the middle of an answer that does not end")
    time.sleep(VANISH_SECONDS)
    os._exit(os.EX_OK)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(os.EX_OK)


STDERR = 2
MAX_LOG_LINES = 1000
"""Lines that may wait to be written; more are dropped."""

LAST_LINES_SECONDS = 1.0


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show what this package logs meanwhile, unless the program has arranged it otherwise."""
    package = logging.getLogger("llama_factory")
    if package.handlers or logging.getLogger().handlers:
        yield
        return
    lines, level = _LogLines(), package.level
    package.addHandler(lines)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(lines)
        package.setLevel(level)
        lines.end()


class _LogLines(logging.Handler):
    """Writes on a thread of its own: where nobody reads what is written, answers go on.

    The descriptor is written to directly: a stream's lock, held by a thread that waits for a
    reader, would stop the program from ending.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._waiting: queue.Queue[str | None] = queue.Queue(MAX_LOG_LINES)
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self._num_dropped += 1

    def end(self) -> None:
        """Write what waits, as far as anybody reads it."""
        if not self._waiting.full():
            self._waiting.put_nowait(None)
            self._thread.join(LAST_LINES_SECONDS)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            if self._num_dropped:
                line += f"\n({self._num_dropped} lines were dropped: they were not read in time)"
                self._num_dropped = 0
            with contextlib.suppress(OSError):  # closed
                os.write(STDERR, f"{line}\n".encode("utf-8", "backslashreplace"))
