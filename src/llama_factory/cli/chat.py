"""`llama-factory chat`."""

import sys
from typing import Annotated

import typer

from llama_factory.cli.options import Folder


def chat(
    folder: Folder,
    name: Annotated[str, typer.Option("--version", help="Version id or alias.")] = "production",
) -> None:
    """Talk to the released version. /new begins again, /exit (or Ctrl-D) leaves."""
    from llama_factory import run

    session = run.chat(folder, name)
    print(f"{session.version_id}. /new begins again, /exit leaves.")
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
