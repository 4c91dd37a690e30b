"""How reports on rows are printed for people."""

from rich.markup import escape
from rich.table import Table

from llama_factory.cli.tables import console
from llama_factory.data.prepare import DataReport
from llama_factory.data.reading import Refused

MOST_REFUSED = 20


def print_data_report(report: DataReport) -> None:
    """A table of all sets, then what was changed, dropped and refused, with examples."""
    console.print(_sets(report))
    for step, count in report.changed.items():
        console.print(f"[yellow]changed[/] {count} rows by {step}")
        _print_samples(report, step, "")
    for told in report.told_unread:
        console.print(f"[yellow]unread[/]  {escape(told)}", soft_wrap=True)
    for reason, count in report.dropped.items():
        console.print(f"[yellow]dropped[/] {count} rows: {escape(reason)}")
        _print_samples(report, None, reason)
    if report.num_refused:
        console.print(f"[red]refused[/] {report.num_refused} rows or files:")
        for refused in report.refused[:MOST_REFUSED]:
            print_refused(refused)
        if report.num_refused > MOST_REFUSED:
            console.print(f"  ... and {report.num_refused - MOST_REFUSED} more")


def print_refused(refused: Refused) -> None:
    """One line: where, and why."""
    console.print(f"  {refused}", markup=False, soft_wrap=True)


def _sets(report: DataReport) -> Table:
    table = Table("set", "file", show_footer=len(report.sets) > 1)
    numbers = ("rows", "kept", "dropped", "refused")
    rows = [
        (each.num_rows, each.num_kept, each.num_dropped, each.num_refused) for each in report.sets
    ]
    for number, name in enumerate(numbers):
        total = sum(row[number] for row in rows)
        table.add_column(name, justify="right", footer=str(total))
    for each, row in zip(report.sets, rows, strict=True):
        table.add_row(escape(each.name), escape(each.file), *map(str, row))
    return table


def _print_samples(report: DataReport, step: str | None, reason: str) -> None:
    for sample in report.samples:
        if sample.reason != reason or step not in (None, sample.step):
            continue
        console.print(f"  {sample.file}:{sample.line}", style="dim", markup=False)
        before = sample.before.replace("\n", "⏎")
        console.print(f"    - {before}", markup=False, soft_wrap=True, style="red")
        if sample.after:
            after = sample.after.replace("\n", "⏎")
            console.print(f"    + {after}", markup=False, soft_wrap=True, style="green")
