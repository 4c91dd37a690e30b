"""`llama-factory keys`."""

import re
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import console, print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_factory.serving.access import ApiKey, Scope

_RATE = re.compile(r"([1-9][0-9]{0,8})(?:/min)?")


class KeyAction(StrEnum):
    """What is done with keys."""

    LIST = "list"
    CREATE = "create"
    REVOKE = "revoke"


def keys(
    folder: Folder,
    action: Annotated[KeyAction, typer.Argument(help="What to do.")] = KeyAction.LIST,
    key: Annotated[str | None, typer.Argument(help="The key's name.")] = None,
    name: Annotated[str | None, typer.Option(help="The key's name, as above.")] = None,
    scopes: Annotated[
        str, typer.Option(help="What may be asked: chat, feedback, admin, metrics; with commas.")
    ] = "chat,feedback",
    rate: Annotated[
        str | None, typer.Option(help="Requests a minute, such as 60/min; empty: no limit.")
    ] = None,
    tokens_a_day: Annotated[
        int | None, typer.Option(min=1, help="Prompts and answers together; empty: no limit.")
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Keys of the API: list, create, revoke. A running server follows within two seconds."""
    from llama_factory import operate

    if action is KeyAction.LIST:
        _list(operate.keys(folder, changes or []), as_json=as_json)
        return
    named = _only_name(action, key, name)
    if action is KeyAction.REVOKE:
        revoked = operate.revoke_key(folder, named, changes or [])
        print_json(_shown(revoked)) if as_json else print(f"{named} is revoked.")
        return
    from llama_factory.serving.access import ApiKey

    wanted = ApiKey(named, _scopes(scopes), _rate(rate), tokens_a_day)
    secret = operate.create_key(folder, wanted, changes or [])
    if as_json:
        print_json({"name": named, "key": secret, "scopes": list(wanted.scopes)})
        return
    print(secret)
    print(f"This is the key '{named}' ({', '.join(wanted.scopes)}). It is shown only now.")


def _only_name(action: KeyAction, key: str | None, name: str | None) -> str:
    if key and name and key != name:
        raise ConfigError(f"which key is meant, '{key}' or '{name}'? Give one name.")
    if not (named := key or name):
        raise ConfigError(
            f"{action} needs the name of the key: llama-factory keys ... {action} NAME"
        )
    return named


def _scopes(text: str) -> "tuple[Scope, ...]":
    from llama_factory.core.errors import suggest
    from llama_factory.serving.access import SCOPES

    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in SCOPES:
            raise ConfigError(
                f"--scopes: there is no scope '{word}'.{suggest(word, SCOPES)} "
                f"There are: {', '.join(SCOPES)}."
            )
    if not words:
        raise ConfigError(f"--scopes: name at least one of {', '.join(SCOPES)}.")
    return tuple(scope for scope in SCOPES if scope in words)


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    if not (match := _RATE.fullmatch(text)):
        raise ConfigError(f"--rate: '{text}' is no number of requests a minute, such as 60/min.")
    return int(match[1])


def _shown(key: "ApiKey") -> dict[str, Any]:
    """A key for people and programs; its hash helps nobody."""
    return {name: value for name, value in asdict(key).items() if name != "sha256"}


def _list(keys: "Sequence[ApiKey]", *, as_json: bool) -> None:
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    if not keys:
        print("There are no keys. Make one with `llama-factory keys WORKSPACE create NAME`.")
        return
    from rich.table import Table

    table = Table("name", "scopes", "a minute", "tokens a day", "created", "revoked")
    for key in keys:
        limits = [str(each or "-") for each in (key.requests_a_minute, key.tokens_a_day)]
        table.add_row(key.name, ", ".join(key.scopes), *limits, key.created, key.revoked or "-")
    console.print(table)
