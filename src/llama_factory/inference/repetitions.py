"""How large expressions and grammars grow where their counted repetitions are written out.

llguidance writes them out while it follows an answer, and its own limits do not see it:
`(a?){5000}a{5000}` takes more than a minute for one token.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_REPEATED = 2000
"""Most parts that one expression's repetitions may add; twice as many take ten times as long."""
MAX_ALL_REPEATED = 20_000
"""The same for all expressions of a schema together."""
MAX_TERMINAL = 100_000
"""Most parts of a terminal with the terminals that it names, as each place gets its own copy."""
MAX_DEPTH = 50
"""Terminals that name each other, one within the other."""

_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]"  # an escape, a class
    r"|(?P<count>\{\d+(?:,\d*)?\}|~\s*\d+(?:\s*\.\.\s*\d+)?)"
    r"|(?P<name>\b[A-Z_][A-Z_0-9]*\b)|\s+|.",
    re.DOTALL,
)
_RULE = re.compile(r"^[?!]*(\w+)(?:\[[^\]\n]*\])?(?:\.\d+)?[ \t]*:", re.MULTILINE)


def refuse_large_expressions(expressions: list[str]) -> None:
    """Refuse regular expressions that grow too large.

    Raises:
        ValueError: with the first that does.
    """
    total = 0
    for expression in expressions:
        _, repeated = _sizes(expression, lambda name: 1)
        total += repeated
        if repeated > MAX_REPEATED or total > MAX_ALL_REPEATED:
            raise ValueError(_TOO_LARGE.format(_short(expression), repeated, MAX_REPEATED))


def patterns_of(schema: Any) -> Iterator[str]:
    """The regular expressions that a JSON schema holds, wherever in it."""
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(value.get("pattern"), str):
                yield value["pattern"]
            if isinstance(value.get("patternProperties"), dict):
                yield from value["patternProperties"]
            left += value.values()
        elif isinstance(value, list):
            left += value


def refuse_large_grammar(grammar: str) -> None:
    """Refuse a Lark grammar whose terminals grow too large.

    Raises:
        ValueError: with the rule that does.
    """
    starts = [*_RULE.finditer(grammar)]
    ends = [*(each.start() for each in starts[1:]), len(grammar)]
    bodies = {each[1]: grammar[each.end() : end] for each, end in zip(starts, ends, strict=True)}
    known: dict[str, int] = {}

    def size_of(name: str, depth: int = 0) -> int:
        if name not in bodies or name in known:
            return known.get(name, 1)
        if depth > MAX_DEPTH:
            raise ValueError(f"{name!r} names terminals more than {MAX_DEPTH} deep.")
        known[name] = 1  # while it is being measured: a circle
        size, repeated = _sizes(bodies[name], lambda inner: size_of(inner, depth + 1))
        if repeated > MAX_REPEATED or (name.isupper() and size > MAX_TERMINAL):
            raise ValueError(_TOO_LARGE.format(name, max(repeated, size), MAX_REPEATED))
        known[name] = size
        return size

    for name in bodies:
        size_of(name)


_TOO_LARGE = (
    "{!r} comes to {} parts when its repetitions are written out; {} are allowed. Lower the counts "
    "in braces, or use * and +."
)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sizes(text: str, size_of: Callable[[str], int]) -> tuple[int, int]:
    """The parts of an expression written out, and how many of them repetitions add.

    Args:
        text: a regular expression, or the right side of a rule.
        size_of: the parts that a name in capitals stands for.
    """
    sums, repeated, last = [0], 0, 0
    for part in _PART.finditer(text):
        token = part[0]
        if token == "(":
            sums.append(0)
        elif part["count"]:
            more = last * (_highest(token) - 1)
            repeated, last = repeated + more, last + more
            sums[-1] += more
        elif not token.isspace():
            last = sums.pop() if token == ")" and len(sums) > 1 else 1
            last = size_of(token) if part["name"] else last
            sums[-1] += last
    return sum(sums), repeated


def _highest(count: str) -> int:
    """The highest number of a count; nine digits are read, as Python refuses thousands of them."""
    return max(1, *(int(each[:9]) for each in re.findall(r"\d+", count)))
