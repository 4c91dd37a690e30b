"""How versions, reports and verdicts are printed for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from llama_factory.cli.terminal import console
from llama_factory.data.cleaning_report import SetReport
from llama_factory.evaluation.drift import Drift
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.wording import (
    IN_BRACKETS,
    MEANINGS,
    cell,
    number,
    outcome,
    row_name,
    with_interval,
)
from llama_factory.reports.listing import VersionRow
from llama_factory.rounds.gate import Verdict

if TYPE_CHECKING:
    from llama_factory.evaluation.lineage_scores import LineageScores
    from llama_factory.evaluation.scoring import Intervals
    from llama_factory.evaluation.statistics import Estimate


MOST_COMPLAINTS = 10
"""Complaints that `show` lists; the page has more of them."""


def print_verdict(verdict: Verdict) -> None:
    """Every check of the gate with its numbers."""
    for check in verdict.checks:
        color = "green" if check.passed else "yellow" if check.undecided else "red"
        mark = f"[{color}]{outcome(check.outcome, passed=check.passed)}[/]"
        console.print(f"  {mark}  {check.reason}", soft_wrap=True)


def print_versions(rows: list[VersionRow]) -> None:
    """One line a version."""
    table = Table("version", "parent", "created (UTC)", "rows")
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("gate")
    table.add_column("alias")
    for row in rows:
        table.add_row(*_version_cells(row, names))
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(row.problem, style="yellow", markup=False, soft_wrap=True)


def _version_cells(row: VersionRow, names: list[str]) -> list[str]:
    """A line of the table of versions, with the scores of these names."""
    if row.problem:
        return [row.id, "", "", "", *[""] * len(names), "[red]damaged[/]", ""]
    scores = [number(row.scores.get(name)) for name in names]
    parent = "-" if row.parent == row.id else row.parent
    when = row.created.replace("T", " ").removesuffix("+00:00")
    aliases = "[bold]" + ", ".join(row.aliases) + "[/]"
    return [row.id, parent, when, str(row.num_rows), *scores, _verdict(row.gate), aliases]


def _verdict(word: str) -> str:
    color = {"promoted": "green", "held": "yellow", "refused": "red"}.get(word)
    return f"[{color}]{word}[/]" if color else "-"


def print_story(story: "LineageScores", verdict: Verdict | None) -> None:
    """The whole report of a version."""
    version, report = story.version, story.report
    console.print(f"[bold]{version.id}[/] from {version.parent}, {version.created}")
    for problem in story.left_out:
        console.print(f"Left out: {problem}", style="yellow", markup=False)
    if verdict is None:
        console.print(f"The untouched base model {version.base_model}.")
        return
    if consolidated := report.get("consolidated"):
        console.print(
            f"Consolidated: {consolidated['updates']} update(s) are in the weights, and a fresh "
            "adapter begins. Nothing was taught."
        )
    else:
        _print_data(report["data"])
        _print_training(report["training"])
    for name, cost in report.get("strategies", {}).items():
        kept = f"keeps {cost['bytes'] / 1e6:.2f} MB"
        console.print(f"Strategy {name}: {cost['hook_seconds']:.1f} s in its hooks, {kept}")
    _print_learned(report, story.own_intervals)
    print_complaints(report, most=MOST_COMPLAINTS)
    for matrix in story.matrices:
        print_matrix(matrix)
    _print_drift(story.drift)
    console.print(f"Gate: {_verdict(verdict.word)}")
    print_verdict(verdict)
    *others, kept = report.get("ends", [{}])
    for end in others:
        console.print(f"  tried  {end['name']}: {end['summary']}", soft_wrap=True)
    if others:
        console.print(f"  kept   {kept['name']}: {kept['summary']}", soft_wrap=True)


def print_complaints(report: Mapping[str, Any], *, most: int = 0) -> None:
    """How many complaints of users are answered rightly now, and those that are not, up to `most`.

    Args:
        report: of a version.
        most: complaints to list.
    """
    complaints = report.get("complaints")
    if not complaints:
        return
    console.print(f"Complaints: {complaints['sentence']}.")
    wrong = [row for row in complaints["rows"] if not row["is_right"]]
    for row in wrong[:most]:
        text = f"  wrong  {row['question']!r}: {row['after']!r}, right is {row['right']!r}"
        console.print(text, markup=False, soft_wrap=True)


def _print_training(training: Mapping[str, Any]) -> None:
    console.print(
        f"Training: {training['steps']} steps, {training['tokens']} tokens in "
        f"{training['seconds']:.0f} s ({training['tokens_per_second']:.0f} tokens/s), "
        f"last loss {training['loss']:.3f}"
    )
    cut = training.get("cut", {})
    if cut.get("tokens"):
        console.print(
            f"  too long: {cut['cut']} rows lost the end of their answer, {cut['shortened']} their "
            f"oldest turns, {cut['tokens']} tokens in all"
        )


def print_matrix(matrix: ForgettingMatrix) -> None:
    """The task x round matrix with its summary."""
    console.print(f"[bold]{matrix.metric} by task and round[/]")
    table = Table("", *matrix.tasks)
    for column in table.columns[1:]:
        column.justify = "right"
    for version, scores in matrix.lines():
        pairs = zip(matrix.tasks, scores, strict=True)
        cells = [cell(score, is_taught=matrix.is_taught(version, task)) for task, score in pairs]
        table.add_row(row_name(version), *cells)
    console.print(table)
    console.print(f"{IN_BRACKETS} Below, in brackets: 95 % intervals, where they are known.")
    for name, meaning in MEANINGS:
        told = with_interval(matrix.summary[name], matrix.intervals.get(name))
        console.print(f"  {name.replace('_', ' ')} {told}  [dim]{meaning}[/]", soft_wrap=True)


def _print_drift(drift: Drift) -> None:
    ratios = _by_version(drift.versions, drift.ratios, drift.ratio_intervals, "x ")
    if ratios:
        console.print(f"General perplexity against the base model's: {ratios}")
    apart = _by_version(drift.versions, drift.divergences, drift.divergence_intervals, digits=3)
    if apart:
        console.print(f"KL to the base model, nats a token: {apart}")


def _by_version(
    versions: Sequence[str],
    values: Sequence[float | None],
    intervals: Mapping[str, "Estimate"],
    sign: str = "",
    digits: int = 2,
) -> str:
    """Values that are known, each after its version and with its interval."""
    known = ((v, value) for v, value in zip(versions, values, strict=True) if value is not None)
    told = (f"{v} {sign}{with_interval(value, intervals.get(v), digits)}" for v, value in known)
    return ", ".join(told)


def _print_data(data: dict[str, Any]) -> None:
    kept = ", ".join(f"{group} {count}" for group, count in data["kept"].items())
    held = ", ".join(f"{group} {count}" for group, count in data["held_out"].items())
    console.print(f"Rows taught: {kept or 'none'}; held out: {held or 'none'}")
    for told in filter(None, (SetReport(**each).unread_warning for each in data["sets"])):
        console.print(f"  unread {told}", markup=False)
    for reason, count in data["dropped"].items():
        console.print(f"  dropped {count}: {reason}")
    for refused in data["refused"]:
        place = f"{refused['file']}:{refused['line']}" if refused["line"] else refused["file"]
        console.print(f"  quarantined {place}: {refused['reason']}", markup=False)


def _print_learned(report: dict[str, Any], intervals: "Intervals") -> None:
    before = {task["task"]: task for task in report["before"]["tasks"]}
    console.print("[bold]Before and after this round[/] (95 % of the new score)")
    table = Table("task", "rows")
    after = [task for task in report["evaluation"]["tasks"] if task["task"] in before]
    names = dict.fromkeys(n for task in after for n in task if n not in ("task", "count"))
    for name in names:
        table.add_column(name, justify="right")
    for task in after:
        old = before[task["task"]]
        sure = intervals.get(task["task"], {})
        changes = [
            f"{number(old.get(n))} -> {with_interval(task.get(n), sure.get(n))}" for n in names
        ]
        table.add_row(task["task"], str(task["count"]), *changes)
    console.print(table)
