"""`llama-factory watch`, `journal` and `gc`: the loop that runs by itself."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import print_json
from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.signals import stop_on_signals

if TYPE_CHECKING:
    from llama_factory.rounds.status import LoopStatus
    from llama_factory.versions.journal import Event, What

FOLLOW_SECONDS = 1.0


def watch(
    folder: Folder,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is due now, then leave: for cron and CI.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done, and why not yet.")
    ] = False,
    unpark: Annotated[
        bool, typer.Option("--unpark", help="Try files again whose rounds failed too often.")
    ] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Let no round begin by itself until --resume.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let rounds begin again.")] = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Learn by itself: waits for files, begins rounds as `loop:` in the settings wants them."""
    from llama_factory import oversee

    if sum((once, dry_run, unpark, pause, resume)) > 1:
        raise ConfigError("--once, --dry-run, --unpark, --pause and --resume: give one of them.")
    if pause or resume:
        _pause(folder, pause=pause, as_json=as_json)
        return
    if unpark:
        count = oversee.unpark(folder)
        print_json({"unparked": count}) if as_json else print(f"{count} files are tried again.")
        return
    if dry_run:
        _print_status(oversee.why(folder, changes or []), as_json=as_json)
        return
    watcher = oversee.watcher(folder, changes or [], lambda event: _print_event(event, as_json))
    if once:
        status = watcher.run_once()
        if not as_json:
            print(status.sentence)
        return
    if not as_json:
        print(f"Watching {watcher.workspace.inbox}. Ctrl-C leaves.", flush=True)
    watcher.run(stop_on_signals())


def _pause(folder: Path, *, pause: bool, as_json: bool) -> None:
    from llama_factory import oversee

    changed = oversee.pause(folder) if pause else oversee.resume(folder)
    if as_json:
        print_json({"paused": pause, "changed": changed})
    elif pause:
        print("No round begins by itself until `llama-factory watch --resume`.")
    else:
        print("Rounds begin by themselves again.")


def journal(
    folder: Folder,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what happens next.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Print why nothing happens now.")] = False,
    at: Annotated[
        str | None, typer.Option(help="Which version answered then: 14:05, 2026-11-30T14:05.")
    ] = None,
    what: Annotated[
        list[str] | None, typer.Option(help="Only events of this kind, such as released.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """What happened here: files, rounds, verdicts, releases, rollbacks, alerts; in order."""
    from llama_factory import oversee

    if why:
        _print_status(oversee.why(folder, changes or []), as_json=as_json)
    elif at is not None:
        version, event = oversee.production_at(folder, at)
        _print_production(version, event, as_json=as_json)
    else:
        _print_events(folder, _kinds(what or []), last, as_json=as_json, follow=follow)


def _kinds(named: list[str]) -> "list[What]":
    from llama_factory.versions.journal import What

    known = get_args(What)
    for name in named:
        if name not in known:
            kinds = ", ".join(known)
            raise ConfigError(
                f"--what {name}: there is no such event.{suggest(name, known)} There are: {kinds}."
            )
    return cast("list[What]", named)


def _print_events(
    folder: Path, kinds: "list[What]", last: int | None, *, as_json: bool, follow: bool
) -> None:
    from llama_factory import oversee

    listed = oversee.journal(folder, what=kinds, last=last)
    for event in listed:
        _print_event(event, as_json)
    newest = max((each.number for each in listed), default=0)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        for event in oversee.journal(folder, what=kinds, after=newest):
            _print_event(event, as_json)
            newest = event.number


def _print_event(event: "Event", as_json: bool) -> None:
    from llama_factory.versions.journal_words import about

    if as_json:
        print(json.dumps(event.to_json(), ensure_ascii=False), flush=True)
        return
    parts = [f"{event.number:>5}", event.time, f"{event.who:<7}", f"{event.what:<12}"]
    print("  ".join([*parts, " ".join(filter(None, (event.version, about(event))))]), flush=True)


def _print_production(version: str, event: "Event | None", *, as_json: bool) -> None:
    if as_json:
        print_json({"production": version, "event": event.to_json() if event else None})
    elif event is None:
        print(f"{version}, the base model: nothing had been released.")
    else:
        print(f"{version}, released {event.time} ({event.data['why']}).")


def _print_status(status: "LoopStatus", *, as_json: bool) -> None:
    if as_json:
        print_json(status.to_json())
        return
    print(status.sentence)
    if status.watcher is not None:
        print(f"  watched by process {status.watcher.pid} on {status.watcher.host}")
    for name, why in status.left.items():
        print(f"  {name}: {why}")
    for name in status.parked:
        print(f"  {name}: parked; llama-factory watch --unpark tries it again")


def gc(
    folder: Folder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be removed.")
    ] = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Remove versions that no alias or lineage needs and `loop.keep` does not keep."""
    from llama_factory import upkeep

    removed = upkeep.collect(folder, changes or [], is_dry=dry_run)
    if as_json:
        print_json([asdict(each) for each in removed])
        return
    for each in removed:
        print(f"{each.id}  {each.bytes / 1e6:.1f} MB  {each.why}")
    done = "would be removed" if dry_run else "are removed"
    print(f"{len(removed)} versions {done}; loop.keep says which are kept.")
