"""The commands that answer: `chat` and `serve`."""

import sys
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Folder


def chat(
    folder: Folder,
    name: Annotated[str, typer.Option("--version", help="Version id or alias.")] = "production",
) -> None:
    """Talk to the released version. /new begins again, /exit (or Ctrl-D) leaves."""
    from llama_factory import run

    session = run.chat(folder, name)
    print(f"{session.model.version_id}. /new begins again, /exit leaves.")
    while True:
        try:
            text = input("\nyou> ").strip()
        except EOFError:
            return
        if text == "/exit":
            return
        if text == "/new":
            session.reset()
        elif text:
            session.answer(text, _print_piece)
            print()


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def serve(
    folder: Folder,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 opens it to the network.")] = None,
    changes: Changes = None,
) -> None:
    """OpenAI-style API for the released version. The key is the environment's API_KEY."""
    from llama_factory import run

    chosen = [f"serving.port={port}"] if port is not None else []
    chosen += [f"serving.host={host}"] if host is not None else []
    run.serve(folder, [*(changes or []), *chosen], lambda text: print(text, flush=True))
