"""The command itself: collects the commands; an error is one clear message and exit code 2."""

import os
import sys

import typer

from llama_factory.cli import chat, init, learn, promote, rollback, serve, show, train, version
from llama_factory.cli import versions as versions_command
from llama_factory.core.errors import FactoryError
from llama_factory.core.signals import Stopped

app = typer.Typer(
    help="Keeps a language model learning, round after round, without losing what it knew.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    init.init,
    learn.learn,
    versions_command.versions,
    show.show,
    promote.promote,
    rollback.rollback,
    chat.chat,
    serve.serve,
    train.train,
    version.version,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except FactoryError as error:
        sys.exit(_refuse(str(error)))
    except Stopped as stopped:
        print(f"\n{stopped}: stopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("\nStopped. Nothing was changed; the same command goes on.", file=sys.stderr)
        sys.exit(130)


def _refuse(message: str) -> int:
    print(f"llama-factory: {message}", file=sys.stderr)
    return 2
