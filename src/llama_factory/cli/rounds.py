"""The commands of a workspace: rounds, versions and their release, and answers of a version."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.peer import is_theirs, read_model, reference
from llama_factory.cli.terminal import TerminalProgress, print_json

if TYPE_CHECKING:
    from llama_factory.rounds.finishing import Round


def init(
    folder: Annotated[Path, typer.Argument(help="The new folder.")],
    model: Annotated[str, typer.Option(help="Short name, folder or hub id.")] = "smollm2",
) -> None:
    """Make a workspace: settings that explain themselves, an inbox, and version v0000."""
    from llama_factory import run

    workspace = run.init(folder, model)
    print(f"Made {workspace.folder}")
    print(f"  1. put .jsonl files into {folder}/inbox/")
    print(f"  2. llama-factory learn {folder}")


def learn(
    folder: Folder,
    changes: Changes = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Train also what the same files, settings and released version made before.",
        ),
    ] = False,
    intent: Annotated[
        int | None,
        typer.Option(help="Take only the files that this event of the journal names (`watch`)."),
    ] = None,
    on: Annotated[
        str, typer.Option(help="A Ray cluster to run on: ray, or ray://HOST:PORT; in one process.")
    ] = "",
    as_json: Json = False,
) -> None:
    """One round on what is in the inbox: train, test, and release the result if it is better."""
    asked = {
        "folder": str(folder),
        "changes": changes or [],
        "again": again,
        "intent": intent,
        "as_json": as_json,
    }
    if on:
        print(_learn_on_ray(folder, asked, on), end="")
        return
    _print_learnt(asked)


def _learn_on_ray(folder: Path, asked: dict[str, Any], place: str) -> str:
    """Run `learn` in one process of a Ray cluster; returns what it prints.

    Args:
        folder: the workspace, which the machine that makes the round must see.
        asked: see `_print_learnt`.
        place: `ray`, or `ray://HOST:PORT`.
    """
    from llama_factory.config.loading import load_config
    from llama_factory.jobs.on_ray import in_processes
    from llama_factory.versions.workspace import Workspace

    config = load_config(Workspace.open(folder).settings, asked["changes"])
    wanted = config.ray.model_copy(update={"workers": 1})
    here = {**asked, "folder": str(folder.absolute()), "cwd": str(Path.cwd())}
    shared = folder.absolute().parent
    return str(in_processes(_learn_in_one, here, place, wanted, shared=shared)["printed"])


def _learn_in_one(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The round, on the machine that Ray has chosen."""
    os.chdir(asked["cwd"])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _print_learnt(asked)
    return {"printed": printed.getvalue()}


def _print_learnt(asked: Mapping[str, Any]) -> None:
    """Make a round, as `learn` was asked for it, and print what came of it."""
    from llama_factory import run

    folder = Path(asked["folder"])
    done = run.learn(
        folder, asked["changes"], TerminalProgress(), again=asked["again"], intent=asked["intent"]
    )
    if asked["as_json"]:
        print(json.dumps({"round": _round_json(done) if done else None}))
    elif done is None:
        print(f"Nothing new to learn: {folder}/inbox holds no row that was not taught before.")
    else:
        _print_round(done, folder)


def _round_json(done: "Round") -> dict[str, Any]:
    return {
        "version": done.version.id,
        "verdict": done.verdict.to_json(),
        "released": done.is_released,
        "tried": done.is_tried,
        "problem": done.problem,
        "new": done.is_new,
        "complaints": done.version.report.get("complaints", {}).get("sentence", ""),
    }


def _print_round(done: "Round", folder: Path) -> None:
    from llama_factory.cli.tables import print_complaints, print_verdict

    version, verdict = done.version, done.verdict
    if not done.is_new:
        print(
            f"{version.id} was made from the same files, settings and released version "
            f"({version.parent}), and was {verdict.word}. Nothing changed since, so it is not "
            "trained again (--again does)."
        )
    print_verdict(verdict)
    print_complaints(version.report)
    if done.is_released:
        print(f"{version.id} is promoted: it answers from now on.")
        return
    if done.is_tried:
        how = "passed as far as its rows tell" if verdict.undecided else "passed"
        print(f"{version.id} {how} and is the candidate: a server tries it on a few callers first.")
        print(f"  look:    llama-factory canary {folder}")
        return
    _print_held(done)
    print(f"  look:    llama-factory show {folder} {version.id}")
    print(f"  accept:  llama-factory promote {folder} {version.id}")
    if verdict.has_forgotten:
        print(f"  again, forgetting less:  llama-factory learn {folder} --set strategies=safe")
    elif verdict.word == "refused" and not verdict.undecided:
        print(f"  again, learning more:  llama-factory learn {folder} --set training.epochs=NUMBER")


def _print_held(done: "Round") -> None:
    version, verdict = done.version, done.verdict
    if done.problem:
        print(f"{version.id} passed and is held as candidate: {done.problem}")
    elif done.is_new and verdict.is_promoted:
        print(
            f"{version.id} passed and is held as candidate: it was made from {version.parent}, and "
            "another version was released meanwhile. Its files stay in the inbox."
        )
    elif done.is_new:
        print(f"{version.id} is {verdict.word} and kept as candidate; its files stay in the inbox.")


def consolidate(folder: Folder, changes: Changes = None, as_json: Json = False) -> None:
    """Put the updates of all rounds into the weights and begin a fresh adapter; tested as a round.

    Do so now and then, such as monthly: an adapter has room for a few rounds. The updates are kept,
    and `rollback` undoes it.
    """
    from llama_factory import run

    done = run.consolidate(folder, changes or [], TerminalProgress())
    if as_json:
        print(json.dumps(_round_json(done)))
        return
    from llama_factory.cli.tables import print_verdict

    print_verdict(done.verdict)
    if done.is_released:
        print(f"{done.version.id} is promoted: rounds go on from it with a fresh adapter.")
    elif done.is_tried:
        print(f"{done.version.id} is the candidate: a server tries it on a few callers first.")
    elif done.problem:
        print(f"{done.version.id} is held as candidate: {done.problem}")
    elif done.verdict.is_promoted:
        print(f"{done.version.id} is held as candidate: another version was released meanwhile.")
    else:
        print(f"{done.version.id} is refused and kept as candidate; nothing else changed.")


def versions(folder: Folder, as_json: Json = False) -> None:
    """All versions of a workspace: parent, time, rows, mean scores over tasks, aliases."""
    from llama_factory import run

    rows = run.versions(folder)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    from llama_factory.cli.tables import print_versions

    print_versions(rows)


def show(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Version id or alias.")] = "production",
    picture: Annotated[Path | None, typer.Option(help="Draw the matrix as PNG here.")] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw the scores from version to version as PNG here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One version: what was learned, what was forgotten, which rows were kept and dropped."""
    from llama_factory import run

    story = run.show(folder, name, picture, curves=curves)
    if as_json:
        print_json(story.to_json())
        return
    from llama_factory.cli.tables import print_story
    from llama_factory.rounds.gate import read_verdict

    print_story(story, read_verdict(story.report))
    for path in (picture, curves):
        if path and story.matrices:
            print(f"Picture: {path}")
        elif path:
            print(f"No picture {path}: {story.version.id} was taught nothing that has a score.")


def report(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Version id or alias.")] = "production",
    output: Annotated[
        Path | None, typer.Option(help="The HTML file; empty: reports/ in the workspace.")
    ] = None,
) -> None:
    """One version as an HTML page with pictures: verdict, scores, forgetting, changed answers."""
    from llama_factory import run

    print(run.report(folder, name, output))


def promote(
    folder: Folder, name: Annotated[str, typer.Argument(help="Version id or `candidate`.")]
) -> None:
    """Release a version by hand, whatever the gate said."""
    from llama_factory import run

    print(f"{run.promote(folder, name)} is released.")


def rollback(
    folder: Folder,
    to: Annotated[str | None, typer.Option(help="Version id; empty: the one before.")] = None,
) -> None:
    """Release an earlier version again; a running server follows within two seconds."""
    from llama_factory import run

    before, now = run.rollback(folder, to)
    print(f"Rolled back from {before} to {now}.")


def chat(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORKSPACE | [FILE] [KEY=VALUE]... [--KEY VALUE]...",
            help="A workspace, or a model as LLaMA-Factory names it.",
        ),
    ],
    name: Annotated[str, typer.Option("--version", help="Version id or alias.")] = "production",
) -> None:
    """Talk to the released version. /new begins again, /exit (or Ctrl-D) leaves."""
    from llama_factory import use

    if is_theirs(words):
        asked = read_model(words)
        session = use.chat(reference(asked))
        drawn = replace(session.model.options, **asked.sampling)
        session.model = replace(session.model, options=drawn)
    else:
        session = use.chat(words[0], name)
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
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Open it to the network without any key.")
    ] = False,
    changes: Changes = None,
) -> None:
    """OpenAI-style API for the released version. Keys: `llama-factory keys`, or API_KEY."""
    from llama_factory import operate

    chosen = [f"serving.port={port}"] if port is not None else []
    chosen += [f"serving.host={host}"] if host is not None else []
    chosen += ["serving.insecure=true"] if insecure else []
    operate.serve(folder, [*(changes or []), *chosen], lambda text: print(text, flush=True))
