"""Calls of tools that models write between marks and not as JSON: tags, Python, Gemma's own form.

Values stand there as text: one that reads as JSON is taken as that, any other as the text it is.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Calls = list[tuple[str, dict[str, Any]]]
"""Name and arguments of each."""

FUNCTION = re.compile(r"<function=\s*([^\s<>]+?)\s*>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=\s*([^<>]+?)\s*>\n?(.*?)\n?</parameter>", re.DOTALL)
INVOKED = re.compile(r'<invoke name="([^"]+)">(.*?)</invoke>', re.DOTALL)
NAMED = re.compile(r'<parameter name="([^"]+)">(.*?)</parameter>', re.DOTALL)
FIRST_LINE = re.compile(r"\s*([^\s<>{}\[\]]+)\s*((?:<arg_key>.*)?)\Z", re.DOTALL)
KEY_AND_VALUE = re.compile(
    r"<arg_key>\s*(.*?)\s*</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL
)
GEMMA = re.compile(r"\s*call:([^\s{]+)(\{.*\})\s*\Z", re.DOTALL)
GEMMA_QUOTE = '<|"|>'
GEMMA_KEY = re.compile(r"([{,]\s*)([A-Za-z_][\w.-]*)(\s*:)")
GEMMA_NONE = re.compile(r"(?<=[\[,:])\s*None\b")
"""The model's own template writes what is not there as Python does."""


@dataclass(frozen=True)
class ToolBlock:
    """A way to write calls between two marks.

    Attributes:
        end: what closes it.
        read: what stands between the marks -> the calls; none where there is no call.
    """

    end: str
    read: Callable[[str], Calls]


def tagged(text: str) -> Calls:
    """`<function=NAME><parameter=KEY>VALUE</parameter></function>`, several in a row."""
    return [(name, _values(PARAMETER, inner)) for name, inner in FUNCTION.findall(text)]


def invoked(text: str) -> Calls:
    """`<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`, several in a row."""
    return [(name, _values(NAMED, inner)) for name, inner in INVOKED.findall(text)]


def keyed(text: str) -> Calls:
    """`NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`: one call."""
    found = FIRST_LINE.match(text)
    return [(found[1], _values(KEY_AND_VALUE, found[2]))] if found else []


def in_tool_call(text: str) -> Calls:
    """What stands in `<tool_call>` where it is no JSON."""
    return tagged(text) if "<function=" in text else keyed(text)


def json_lines(text: str) -> Calls:
    """A JSON object with `name` and `arguments` on every line."""
    return [*_objects(text.strip().splitlines())]


def pythonic(text: str) -> Calls:
    """`[NAME(KEY=VALUE, ...), ...]` as Python writes it."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    listed = tree.elts if isinstance(tree, ast.List) else [tree]
    found = [_python_call(each) for each in listed]
    return [call for call in found if call] if all(found) else []


def gemma(text: str) -> Calls:
    """`call:NAME{KEY:VALUE,...}`, in which text stands between marks of its own."""
    found = GEMMA.match(text)
    if not found:
        return []
    pieces = found[2].split(GEMMA_QUOTE)
    # every other piece is text; in the others keys stand without quotes
    pieces = [
        json.dumps(each, ensure_ascii=False) if number % 2 else _gemma_json(each)
        for number, each in enumerate(pieces)
    ]
    try:
        arguments = json.loads("".join(pieces))
    except ValueError:
        return []
    return [(found[1], arguments)] if isinstance(arguments, dict) else []


def _gemma_json(text: str) -> str:
    return GEMMA_NONE.sub("null", GEMMA_KEY.sub(r'\1"\2"\3', text))


BLOCKS: Mapping[str, ToolBlock] = {
    "<seed:tool_call>": ToolBlock("</seed:tool_call>", tagged),
    "<minimax:tool_call>": ToolBlock("</minimax:tool_call>", invoked),
    "<tool_calls>": ToolBlock("</tool_calls>", json_lines),
    "<|tool_call_start|>": ToolBlock("<|tool_call_end|>", pythonic),
    "<|tool_call>": ToolBlock("<tool_call|>", gemma),
}
"""What opens a block -> how it goes on. `<tool_call>` is read elsewhere: most write JSON in it."""
MARKS = frozenset([*BLOCKS, *(block.end for block in BLOCKS.values()), GEMMA_QUOTE])
"""What belongs to calls and must be shown to be read; of some models these are special tokens."""


def _values(pattern: "re.Pattern[str]", text: str) -> dict[str, Any]:
    return {key: _value(value) for key, value in pattern.findall(text)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip("\n")


def _objects(lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            arguments = value.get("arguments", {})
            yield value["name"], arguments if isinstance(arguments, dict) else {}


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(node, ast.Call) or node.args:
        return None
    try:
        values = {each.arg: ast.literal_eval(each.value) for each in node.keywords if each.arg}
        json.dumps(values)
    except (ValueError, TypeError):
        return None
    return (ast.unparse(node.func), values) if len(values) == len(node.keywords) else None
