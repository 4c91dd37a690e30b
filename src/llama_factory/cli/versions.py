"""The commands about versions that load no model: from `verify` to `publish`."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from llama_factory.cli.options import Folder, Json
from llama_factory.cli.terminal import TerminalProgress, console, print_json

if TYPE_CHECKING:
    from llama_factory.versions.difference import Difference, ValueChange

Name = Annotated[str, typer.Argument(help="Version id, alias or tag.")]


def verify(
    folder: Folder,
    names: Annotated[list[str] | None, typer.Argument(help="Versions; none for all.")] = None,
    as_json: Json = False,
) -> None:
    """Compare every file of the versions with its checksum. Exit code 1 where one is damaged."""
    from llama_factory import upkeep

    checked = []
    for each in upkeep.verify(folder, tuple(names or ())):
        checked.append(each)
        if not as_json:
            what = f"[red]damaged[/] {escape(each.problem)}" if each.problem else "[green]whole[/]"
            console.print(f"{each.name}  {what}", soft_wrap=True)
    if as_json:
        print_json([{"name": each.name, "problem": each.problem} for each in checked])
    if any(each.problem for each in checked):
        raise typer.Exit(1)


def note(
    folder: Folder,
    name: Name,
    text: Annotated[str, typer.Argument(help="What to remember; empty: show the notes.")] = "",
    who: Annotated[str, typer.Option(help="Who writes; empty: the user's name here.")] = "",
    as_json: Json = False,
) -> None:
    """Write a note about a version, or read its notes. The version itself never changes."""
    from llama_factory import upkeep

    notes = upkeep.note(folder, name, text, who or _user())
    if as_json:
        print_json([vars(each) for each in notes])
        return
    for each in notes:
        console.print(f"{each.time}  {escape(each.who)}: {escape(each.text)}", soft_wrap=True)
    if not notes:
        print("Nobody wrote a note about it.")


def tag(
    folder: Folder,
    tag_name: Annotated[str, typer.Argument(metavar="TAG", help="As `stable`.")],
    name: Annotated[str | None, typer.Argument(help="The version that gets it.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it off.")] = False,
) -> None:
    """Give a version a name of its own, which commands take like an id."""
    from llama_factory import upkeep

    print(upkeep.tag(folder, tag_name, None if remove else name or "production"))


def diff(
    folder: Folder,
    before: Name,
    after: Annotated[str, typer.Argument(help="The other one.")] = "production",
    as_json: Json = False,
) -> None:
    """What two versions differ in: rows taught, settings, scores. `compare` asks them anew."""
    from llama_factory import upkeep

    found = upkeep.diff(folder, before, after)
    if as_json:
        print_json(found.to_json())
    else:
        _print_difference(found)


def pack(
    folder: Folder,
    name: Name,
    output: Annotated[Path, typer.Argument(help="The new file, as bot-v0007.tar.zst.")],
) -> None:
    """A version and all it was made from as one file, for another machine or a backup."""
    from llama_factory import upkeep

    packed = upkeep.pack(folder, name, output, TerminalProgress())
    size = output.stat().st_size / 1e6
    print(f"{output}: {', '.join(packed)} ({size:.1f} MB).")
    print(f"Take it in elsewhere: llama-factory unpack NEW {output.name}")


def unpack(
    folder: Folder,
    archive: Annotated[Path, typer.Argument(help="A file that `pack` wrote.")],
    as_json: Json = False,
) -> None:
    """Take the versions of such a file in; none is released. A new folder becomes a workspace."""
    from llama_factory import upkeep

    taken = upkeep.unpack(folder, archive, TerminalProgress())
    if as_json:
        print_json(vars(taken))
        return
    print(
        f"New: {', '.join(taken.added) or 'nothing'}. Here before: {', '.join(taken.known) or '-'}."
    )
    print(f"Release it: llama-factory promote {folder} {taken.version}")


def publish(
    folder: Folder,
    name: Name,
    to: Annotated[str, typer.Option("--to", help="hf:OWNER/NAME or mlflow:NAME.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is public.")] = False,
    as_json: Json = False,
) -> None:
    """Put a version into a model hub or MLflow's registry, with its scores and aliases."""
    from llama_factory import upkeep

    done = upkeep.publish(folder, name, to, is_private=not public)
    if as_json:
        print_json(vars(done))
        return
    aliases = f" ({', '.join(done.aliases)})" if done.aliases else ""
    console.print(f"{done.version}{aliases} is {escape(done.place)}.", soft_wrap=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "somebody"


def _print_difference(found: "Difference") -> None:
    console.print(f"Both come from {found.common}.")
    sides = ((found.before, found.only_before), (found.after, found.only_after))
    for version_id, taught in sides:
        for each in taught:
            rows = ", ".join(f"{escape(name)} {count}" for name, count in each.rows.items())
            console.print(f"  only {version_id}: {each.version} taught {rows}", soft_wrap=True)
    _print_changes("settings", found, found.settings)
    _print_changes("scores", found, (*found.scores, found.perplexity))


def _print_changes(title: str, found: "Difference", changes: "tuple[ValueChange, ...]") -> None:
    different = [each for each in changes if each.before != each.after]
    if not different:
        console.print(f"No {title} differ.")
        return
    table = Table(title, found.before, found.after)
    for each in different:
        table.add_row(escape(each.name), _shown(each.before), _shown(each.after))
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
