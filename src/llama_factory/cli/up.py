"""`llama-factory up`: everything of a bot on this machine by one command."""

import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Folder


def up(
    folder: Folder,
    port: Annotated[int | None, typer.Option(help="Of the server; 0 takes any free one.")] = None,
    changes: Changes = None,
) -> None:
    """Serve, watch the inbox and learn, until Ctrl-C; what dies is started again."""
    from llama_factory import operate

    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    operate.up(folder, changes or [], port, lambda line: print(line, flush=True), stop)
