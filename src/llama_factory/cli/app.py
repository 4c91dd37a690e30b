"""The command itself: collects the commands; an error is one clear message and exit code 2."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import typer

from llama_factory.cli import (
    canary,
    data,
    data_views,
    demo,
    evaluate,
    feedback,
    forget,
    gate,
    jobs,
    keys,
    knowledge,
    monitor,
    peer,
    planning,
    review,
    rounds,
    up,
    versions,
    votes,
    watch,
    web,
)
from llama_factory.core import __version__
from llama_factory.core.errors import FactoryError
from llama_factory.core.files import READ_ONLY
from llama_factory.core.openmp import choose_spin_count, sharing_cores
from llama_factory.core.signals import Stopped, raise_on_signals

app = typer.Typer(
    help="Keeps a language model learning, round after round, without losing what it knew.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    demo.demo,
    rounds.init,
    peer.adopt,
    rounds.learn,
    watch.watch,
    watch.journal,
    watch.gc,
    rounds.consolidate,
    rounds.versions,
    rounds.show,
    versions.verify,
    versions.note,
    versions.tag,
    versions.diff,
    versions.pack,
    versions.unpack,
    versions.publish,
    evaluate.compare,
    evaluate.evaluate,
    rounds.report,
    rounds.promote,
    rounds.rollback,
    rounds.serve,
    up.up,
    web.web,
    keys.keys,
    feedback.feedback,
    votes.votes,
    knowledge.knowledge,
    canary.canary,
    monitor.monitor,
    jobs.predict,
    jobs.runs,
):
    app.command()(command)


@app.command()
def version() -> None:
    """The version of this program."""
    print(__version__)


for free in (jobs.train, jobs.export, rounds.chat, peer.api, planning.plan):
    app.command(context_settings=jobs.WORDS)(free)
app.command()(peer.env)
app.command("eval", context_settings=jobs.WORDS, hidden=True)(peer.evaluate_tasks)
app.command("help", hidden=True)(peer.help_page)
app.command("webui", hidden=True)(web.web)  # LLaMA-Factory's names
app.command("webchat", context_settings=jobs.WORDS, hidden=True)(peer.webchat)

rows = typer.Typer(
    help="Look at rows, clean them, decide about them. No model is loaded.", no_args_is_help=True
)
for data_command in (
    data.check,
    data_views.stats,
    data_views.preview,
    data.clean,
    data.augment,
    review.review,
    forget.forget,
):
    rows.command()(data_command)
app.add_typer(rows, name="data")

app.add_typer(gate.gate, name="gate")

TALKATIVE = ("bitsandbytes", "torch.utils._pytree", "torchao")
"""Libraries that tell, as PEFT imports them, of things that nobody who trains can change."""


def main() -> None:
    """Run the command line."""
    guarded(app)


def guarded(command: Callable[[], object]) -> None:
    """Run a command; what a user can mend is one message without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shares = sharing_cores() if choose_spin_count(os.environ) else nullcontext()
    warnings.filterwarnings("ignore", category=FutureWarning)  # between our libraries
    for library in TALKATIVE:
        logging.getLogger(library).setLevel(logging.ERROR)
    raise_on_signals()
    try:
        with shares:
            command()
    except FactoryError as error:
        print(f"llama-factory: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (*READ_ONLY, errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"llama-factory: {error.filename}: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(
            f"\nStopped by {stopped}. Nothing half-made was left as a version; `learn` and `train` "
            "go on from here when started again.",
            file=sys.stderr,
        )
        sys.exit(stopped.exit_code)
