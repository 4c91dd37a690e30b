"""How a case of the review is shown: to people in colour, to programs as plain values."""

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

from rapidfuzz.distance import Levenshtein
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llama_factory.core.types import Example
from llama_factory.data.conflict_rules import question_key
from llama_factory.data.review.cases import Case, Choice, Option, Vote, short

SIDE_BY_SIDE = 100
"""Columns from which two answers stand side by side."""
MOST_CHARACTERS = 4000
"""Longer texts are cut on the screen, with a note."""
MOST_PLACES = 4
DIFFERENT = "bold reverse"
PEOPLE = {"first": "first reviewer", "second": "second reviewer", "referee": "referee"}

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u9fff]+|\s+|[^\w\s]")
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def print_case(case: Case, title: str, earlier: Mapping[str, Case]) -> None:
    """All that one needs to decide: question, answers, the rule's proposal, what others said.

    Args:
        case: what is decided.
        title: the line above it.
        earlier: all cases by id, to show what was decided about parts of this one.
    """
    console.print(Rule(Text(title), align="left"))
    if case.kind == "refused":
        console.print(_refused(case))
    else:
        console.print(_questions(case))
        console.print(_options(case))
    if case.kind in ("feedback", "knowledge"):
        console.print(Text(visible(case.why), style="yellow"))
    if case.proposal:
        console.print(
            Text(f"The rule proposes: {describe_choice(case, case.proposal)} ({case.why}).")
        )
    for vote in case.log:
        console.print(_vote(case, vote))
    for part in filter(None, map(earlier.get, case.replaces)):
        for vote in part.log:
            console.print(Text("Before there were more answers, ").append(_vote(part, vote)))


def print_list(cases: list[Case]) -> None:
    """One line a case."""
    table = Table("case", "kind", "waits for", "answers", "question or row")
    for case in cases:
        asked = visible(case.text if case.kind == "refused" else _asked(case.rows[0]))
        snippet = Text(" ".join(asked.split())[:60])
        count = str(len(case.options)) if case.options else "-"
        table.add_row(
            short(case.id), case.kind, PEOPLE.get(case.level or "", case.state), count, snippet
        )
    console.print(table)


def to_json(case: Case) -> dict[str, Any]:
    """A case with its state, its numbered answers and its log."""
    options = [
        {
            "number": number,
            "text": option.text,
            "count": len(option.rows),
            "places": [f"{row.file}:{row.line}" for row in option.rows],
            "by": option.by,
        }
        for number, option in enumerate(case.options, 1)
    ]
    values = case.to_json() | {"state": case.state, "level": case.level, "options": options}
    return values | {"log": [vote.to_json() for vote in case.log]}


def describe_choice(case: Case, choice: Choice) -> str:
    """A choice in words, by the numbers on the screen."""
    if choice.is_unresolved:
        return "leave it unresolved"
    keys = {option.id or option.text: str(n) for n, option in enumerate(case.options, 1)}
    kept = [keys[key] for key in (*choice.keep, choice.edited) if key in keys]
    if kept:
        return f"keep {' and '.join(kept)}"
    return "take the mended row" if choice.edited else "drop all"


def visible(text: str) -> str:
    """A text whose control characters, which could rewrite the screen, are spelt out."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _refused(case: Case) -> Group:
    place = f"{visible(case.file)}:{case.line}"
    row = Panel(Text(_cut(visible(case.text))), title=Text(place), title_align="left")
    edits = [_panel(case, number) for number in range(1, len(case.options) + 1)]
    return Group(row, Text(f"Refused: {case.why}", style="yellow"), *edits)


def _questions(case: Case) -> Group:
    asking: dict[str, Example] = {}
    for row in case.rows:
        asking.setdefault(question_key(row), row)
    variants = list(asking.values())
    asked = [_asked(row) for row in variants]
    others = [*asked[1:2], *asked[:1] * len(asked)]
    panels = [
        Panel(_marked(text, other), title=Text(title), title_align="left")
        for text, other, title in zip(asked, others, _titles(variants), strict=False)
    ]
    return Group(*panels)


def _titles(variants: list[Example]) -> list[str]:
    if len(variants) == 1:
        return ["Question"]
    return [
        f"Question {letter}, as in {visible(row.file)}:{row.line}"
        for letter, row in zip(_letters(), variants, strict=False)
    ]


def _letters() -> Iterator[str]:
    """A to Z, then 27 and so on."""
    return chain("ABCDEFGHIJKLMNOPQRSTUVWXYZ", map(str, count(27)))


def _wording(case: Case, option: Option) -> str:
    """Which of several wordings an answer belongs to: the same answer to another is another row."""
    keys = list(dict.fromkeys(map(question_key, case.rows)))
    if len(keys) < 2:
        return ""
    if option.by:
        return "to all questions, "
    place = keys.index(question_key(option.rows[0]))
    return f"to question {next(islice(_letters(), place, None))}, "


def _asked(row: Example) -> str:
    if len(row.prompt) == 1:
        return row.prompt[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in row.prompt)


def _options(case: Case) -> Group | Table:
    panels = [_panel(case, number) for number in range(1, len(case.options) + 1)]
    if len(panels) != 2 or console.width < SIDE_BY_SIDE:
        return Group(*panels)
    table = Table.grid(expand=True)
    for _ in panels:
        table.add_column(ratio=1)
    table.add_row(*panels)
    return table


def _panel(case: Case, number: int) -> Panel:
    """One answer; what differs from the first one (in the first: from the second) stands out."""
    option = case.options[number - 1]
    others = [each for each in case.options if each is not option]
    text = _marked(option.text, others[0].text) if others else Text(_cut(visible(option.text)))
    return Panel(
        text, title=Text(f"{number}  {_wording(case, option)}{_origin(option)}"), title_align="left"
    )


def _origin(option: Option) -> str:
    if option.by:
        return f"written by {visible(option.by)}"
    places = [f"{visible(row.file)}:{row.line}" for row in option.rows]
    more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
    rows = "1 row" if len(places) == 1 else f"{len(places)} rows"
    return f"{rows}: {', '.join(places[:MOST_PLACES])}{more}"


def _marked(shown: str, other: str) -> Text:
    """A text in which the words that another one has not stand out."""
    if shown == other:
        return Text(_cut(visible(shown)))
    words, others = (_WORDS.findall(_cut(visible(text))) for text in (shown, other))
    text = Text()
    for step in Levenshtein.opcodes(others, words):
        style = "" if step.tag == "equal" else DIFFERENT
        text.append("".join(words[step.dest_start : step.dest_end]), style)
    return text


def _vote(case: Case, vote: Vote) -> Text:
    note = f" “{visible(vote.note)}”" if vote.note else ""
    who = visible(vote.reviewer)
    if vote.level == "taken_back":
        return Text(f"{who} took the last decision back, {vote.when}.{note}", style="cyan")
    who = who if vote.level == "rule" else f"{who} ({PEOPLE[vote.level]})"
    return Text(
        f"{who} decided {vote.when}: {describe_choice(case, vote.choice)}.{note}", style="cyan"
    )


def _cut(text: str) -> str:
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]} ... and {left} more characters"
