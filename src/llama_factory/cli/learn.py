"""`llama-factory learn`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli.options import Changes, Folder, Json

if TYPE_CHECKING:
    from llama_factory.rounds.finishing import Round


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
    as_json: Json = False,
) -> None:
    """One round on what is in the inbox: train, test, and release the result if it is better."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    done = run.learn(folder, changes or [], TerminalProgress(), again=again)
    if as_json:
        print(json.dumps({"round": _plain(done) if done else None}))
    elif done is None:
        print(f"Nothing new to learn: {folder}/inbox holds no row that was not taught before.")
    else:
        _print(done, folder)


def _plain(done: "Round") -> dict[str, Any]:
    return {
        "version": done.version.id,
        "verdict": done.verdict.to_json(),
        "released": done.is_released,
        "new": done.is_new,
    }


def _print(done: "Round", folder: Path) -> None:
    from llama_factory.cli.tables import print_verdict

    version, verdict = done.version, done.verdict
    if not done.is_new:
        print(
            f"{version.id} was made from the same files, settings and released version "
            f"({version.parent}), and was {verdict.word}. Nothing changed since, so it is not "
            "trained again (--again does)."
        )
    print_verdict(verdict)
    if done.is_released:
        print(f"{version.id} is promoted: it answers from now on.")
        return
    if done.is_new and verdict.is_promoted:
        print(
            f"{version.id} passed and is held as candidate: it was made from {version.parent}, and "
            "another version was released meanwhile. Its files stay in the inbox."
        )
    elif done.is_new:
        print(f"{version.id} is {verdict.word} and kept as candidate; its files stay in the inbox.")
    print(f"  look:    llama-factory show {folder} {version.id}")
    print(f"  accept:  llama-factory promote {folder} {version.id}")
    if verdict.has_forgotten:
        print(f"  again, forgetting less:  llama-factory learn {folder} --set strategies=safe")
    elif verdict.word == "refused":
        print(f"  again, learning more:  llama-factory learn {folder} --set training.epochs=NUMBER")
