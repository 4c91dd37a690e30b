"""Arguments and options that several commands share, and how free words are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llama_factory.core.errors import ConfigError

Folder = Annotated[Path, typer.Argument(help="The workspace, a folder made by `init`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: --set training.learning_rate=1e-4"),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="A settings file or workspace whose `data:` section holds."),
]
SettingsWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [KEY=VALUE]... [--KEY VALUE]...",
        help="Settings file (YAML), ours or LLaMA-Factory's, and changes to it.",
        show_default=False,
    ),
]
ModelSource = Annotated[
    str,
    typer.Argument(
        help="A workspace, adapter folders with commas between them, or LLaMA-Factory's YAML."
    ),
]
Version = Annotated[str | None, typer.Option(help="Version id or alias, of a workspace.")]
Base = Annotated[str | None, typer.Option(help="Base model; empty: the one the adapter names.")]


@dataclass(frozen=True)
class Words:
    """A command line, understood.

    Attributes:
        path: the settings file; None where flags alone are given.
        changes: `key=value`.
    """

    path: Path | None
    changes: list[str]


def read_words(words: Sequence[str]) -> Words:
    """Understand the words.

    Raises:
        ConfigError: one is neither the file nor a setting.
    """
    path, changes, rest = None, [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            changes.append(_flag(word, rest))
        elif "=" in word and not Path(word).is_file():
            changes.append(word)
        elif path is None:
            path = Path(word)
        else:
            raise ConfigError(
                f"'{word}' is neither a setting (key=value, --key value) nor the settings file, "
                f"which is {path}."
            )
    files = [change.partition("=")[2] for change in changes if change.startswith("config=")]
    changes = [change for change in changes if not change.startswith("config=")]
    return Words(Path(files[0]) if files else path, changes)


def _flag(word: str, rest: list[str]) -> str:
    """`--key=value`, `--key value`, or `--key` alone, which is `true`; shortens `rest`."""
    name, sign, value = word[2:].partition("=")
    if not sign:
        has_value = rest and not rest[0].startswith("--")
        value = rest.pop(0) if has_value else "true"
    section, dot, key = name.rpartition(".")
    return f"{section}{dot}{key.replace('-', '_')}={value}"
