"""`llama-factory web`: the page, and who may log in to it."""

import getpass
import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Changes, Json
from llama_factory.cli.terminal import print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.web.server import WebOptions


class WebSubject(StrEnum):
    """What the words after the folder are about."""

    USERS = "users"


class UserAction(StrEnum):
    """What is done with users."""

    LIST = "list"
    ADD = "add"
    REMOVE = "remove"


def web(
    folder: Annotated[
        Path, typer.Argument(help="A workspace, or a folder with workspaces below it.")
    ] = Path(),
    subject: Annotated[
        WebSubject | None, typer.Argument(help="users: who may log in, in place of the page.")
    ] = None,
    action: Annotated[UserAction, typer.Argument(help="What to do with users.")] = UserAction.LIST,
    name: Annotated[str | None, typer.Argument(help="The user's name.")] = None,
    role: Annotated[str, typer.Option(help="viewer, reviewer or operator.")] = "viewer",
    server_name: Annotated[
        str | None,
        typer.Option(
            "--server_name", "--host", help="0.0.0.0: to the network. Else as in the settings."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="0: any free one. Else as in the settings.")
    ] = None,
    no_api: Annotated[
        bool, typer.Option("--no-api", help="The page alone: no model is loaded.")
    ] = False,
    changes: Changes = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            "--host_name", help="A name by which it may be asked without a log-in, behind a proxy."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The page of a workspace in a browser: see, decide, undo; with the API under /v1.

    Asks for a password on the terminal, or reads it from standard input.
    """
    if subject is not None:
        _users(folder, action, name, role, as_json=as_json)
        return
    from llama_factory.web.server import WebOptions

    given = WebOptions(server_name, port, not no_api, tuple(host_name or ()), tuple(changes or ()))
    show(folder, given)


def show(folder: Path, options: "WebOptions") -> None:
    """The page, where LLaMA-Factory's variables say if the options do not."""
    from llama_factory.web.server import gradio_address, serve_web

    known, notes = gradio_address(os.environ)
    for note in notes:
        print(note, file=sys.stderr)
    port = int(known["port"]) if options.port is None and "port" in known else options.port
    options = replace(options, host=options.host or known.get("host"), port=port)
    serve_web(folder, options, lambda text: print(text, flush=True))


def _users(folder: Path, action: UserAction, name: str | None, role: str, *, as_json: bool) -> None:
    from llama_factory import operate

    if action is UserAction.LIST:
        listed = [
            {"name": u.name, "role": u.role, "created": u.created} for u in operate.users(folder)
        ]
        if as_json:
            print_json(listed)
            return
        for each in listed:
            print(f"{each['name']}  {each['role']}  since {each['created']}")
        if not listed:
            print(f"Nobody yet. Add one with `llama-factory web {folder} users add NAME`.")
        return
    if name is None:
        raise ConfigError(
            f"users {action} needs a name: llama-factory web {folder} users {action} NAME"
        )
    if action is UserAction.REMOVE:
        operate.remove_user(folder, name)
        print(f"{name} may log in no more.")
        return
    added = operate.add_user(folder, name, role, _password(name))
    print(f"{added.name} may log in as {added.role}.")


def _password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass(f"Password of {name}: ")
    if getpass.getpass("The same again: ") != first:
        raise ConfigError("the two passwords differ. Nothing was changed.")
    return first
