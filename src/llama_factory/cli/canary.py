"""`llama-factory canary`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import console, print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.evaluation.statistics import Estimate
    from llama_factory.serving.canary_status import CanaryStatus


def canary(
    folder: Folder,
    status: Annotated[bool, typer.Option("--status", help="Show how it stands (the usual).")] = (
        False
    ),
    abort: Annotated[bool, typer.Option("--abort", help="Take the candidate back.")] = False,
    start: Annotated[
        str | None, typer.Option(help="Try this version on a few callers; id or `candidate`.")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Of callers, with --start; empty: serving.canary.fraction.")
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """A candidate that answers a few callers first: how it does; begin one, or end it."""
    from llama_factory import operate

    if sum((status, abort, start is not None)) > 1:
        raise ConfigError("--status, --abort and --start: give one of them.")
    if fraction is not None and (start is None or not 0 < fraction < 1):
        raise ConfigError(
            f"--fraction {fraction:g}: must be a number between 0 and 1, together with --start."
        )
    if abort:
        version = operate.abort_canary(folder)
        print_json({"aborted": version}) if as_json else print(f"{version} is taken back.")
    elif start is not None:
        version = operate.start_canary(folder, start, fraction, changes or [])
        told = f"{version} is the candidate: running servers try it within two seconds."
        print_json({"started": version}) if as_json else print(told)
    else:
        shown = operate.canary(folder, changes or [])
        print_json(shown.to_json()) if as_json else _print(shown)


def _print(status: "CanaryStatus") -> None:
    if status.state == "none":
        print("No canary ran here." + _held(status.candidate))
        return
    beside = (
        f"{status.candidate} beside {status.production}, {100 * status.fraction:g} % of callers"
    )
    console.print(f"[bold]{status.state.replace('_', ' ')}[/]: {beside}", highlight=False)
    if status.why:
        console.print(f"  {status.why}", markup=False, highlight=False, soft_wrap=True)
    if status.kinds:
        _print_kinds(status)
    if status.shadow is not None:
        console.print(f"Shadow: {status.shadow.sentence}", markup=False, soft_wrap=True)
    for each in status.earlier[-5:]:
        line = f"{each['ended']}  {each['candidate']} {each['state']}: {each['why']}"
        console.print(f"earlier  {line}", markup=False, highlight=False, soft_wrap=True)


def _held(candidate: str) -> str:
    if not candidate:
        return " Begin one with --start VERSION, or set gate.release to canary."
    return f" {candidate} is held as candidate; --start {candidate} tries it on a few callers."


def _print_kinds(status: "CanaryStatus") -> None:
    table = Table("bad conversations", "production", "candidate", "difference (interval)")
    table.add_column("e worse", justify="right")
    table.add_column("e not worse", justify="right")
    for each in status.kinds:
        rates = (_rate(*counts) for counts in (each.production, each.candidate))
        evidence = (f"{e:.3g}" for e in (each.e_worse, each.e_not_worse))
        table.add_row(each.kind, *rates, _interval(each.difference), *evidence)
    console.print(table)
    console.print(
        f"All kinds: worse e = {status.e_worse:.3g}, not worse e = {status.e_not_worse:.3g}; above "
        f"{status.threshold:g} decides. {status.hours:.2f} of {status.max_hours:g} hours.",
        highlight=False,
        soft_wrap=True,
    )
    if status.outcomes_needed is not None:
        print(f"About {status.outcomes_needed} more conversations of the candidate to a decision.")


def _rate(count: int, bad: int) -> str:
    return f"{bad} of {count} ({100 * bad / count:.1f} %)" if count else "none yet"


def _interval(difference: "Estimate") -> str:
    value = f"{100 * difference.value:+.1f} %"
    if difference.low is None or difference.high is None:
        return f"{value} (too few)"
    return f"{value} ({100 * difference.low:+.1f} – {100 * difference.high:+.1f})"
