"""`llama-factory up`: everything of a bot on this machine by one command."""

from functools import partial
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Folder
from llama_factory.core.signals import stop_on_signals


def up(
    folder: Folder,
    port: Annotated[int | None, typer.Option(help="Of the server; 0 takes any free one.")] = None,
    changes: Changes = None,
) -> None:
    """Serve API and page, watch the inbox and learn, until Ctrl-C; what dies is started again."""
    from llama_factory import operate

    say = partial(print, flush=True)
    operate.up(folder, changes or [], port, say, stop_on_signals())
