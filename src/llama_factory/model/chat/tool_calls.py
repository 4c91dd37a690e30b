"""Calls of tools in an answer, read in whichever form its chat template writes them.

The inverse of what `template.py` renders. Works while the text comes, and loads no heavy library.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from llama_factory.core.types import ToolCall
from llama_factory.model.chat.tool_blocks import BLOCKS, ToolBlock, in_tool_call

TAG, END_TAG, MISTRAL = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
MISTRAL_LIST = '[{"name":'
"""How Mistral's calls begin where its special token was left out of the text."""
REACT = r"Action:[ \t]*(?P<react>[^\n]+?)[ \t]*\n[ \t]*Action Input:"
"""LLaMA-Factory's form for templates that have none of their own."""
HARMONY_PARTS = ("<|start|>", "assistant", "<|channel|>", "commentary", " ", "to=functions.")
"""How gpt-oss begins a call; all but the last may be missing, special tokens among them."""
HARMONY = "".join(f"(?:{re.escape(part)})?" for part in HARMONY_PARTS[:-1]) + r"to=functions\."
HARMONY_MORE = (
    r"[ ]?(?:<\|channel\|>)?(?:commentary)?[ ]?(?:<\|constrain\|>)?(?:json)?(?:<\|message\|>)?[ ]?"
)
"""What may stand between the name of a tool and its arguments."""
HARMONY_END = "<|call|>"
BEGUN_HARMONY = re.compile(HARMONY + r"[^\n{]{0,200}\Z")

TAGGED = ToolBlock(END_TAG, in_tool_call)
"""What `<tool_call>` opens where no JSON follows."""
BARE_KEYS = ('"name"', '"type"', '"function"')
"""What an object on a line of its own begins with, if it is a call."""


@dataclass(frozen=True)
class Spoken:
    """Text of an answer that belongs to no call."""

    text: str


class CallReader:
    """Takes an answer's text as it comes, and separates the calls of known tools from it.

    Text that may yet become a call is held back. What looks like a call and is none, or calls a
    tool of another name, stays text.
    """

    def __init__(self, names: Collection[str]) -> None:
        """Read calls of the tools of these names."""
        self._names = frozenset(names)
        spelt = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
        self._marks = re.compile(
            rf"(?P<end>{END_TAG}|{re.escape(HARMONY_END)})|(?P<tag>{TAG})|(?P<list>{re.escape(MISTRAL)})|{REACT}"
            rf"|(?P<block>{'|'.join(map(re.escape, BLOCKS))})"
            rf"|{HARMONY}(?P<harmony>{spelt}){HARMONY_MORE}(?=\{{)"
            rf"|(?P<plain>{spelt})[ \t]*\n[ \t]*(?=\{{)|(?={re.escape(MISTRAL_LIST)})"
            rf"|(?<=\n)(?P<bare>[ \t]*)(?=\[?[ \t\n]*\{{)"
        )
        begun = [TAG, END_TAG, MISTRAL, MISTRAL_LIST, "Action:", *(f"{name}\n" for name in names)]
        begun += [*BLOCKS, HARMONY_END, *_heads()]
        self._begun = {each[:num] for each in begun for num in range(1, len(each) + 1)}
        self._longest = max(map(len, begun))
        self._held = ""
        self._before = "\n"
        self._has_called = False
        self._scan = _Scan()

    def push(self, text: str) -> list[Spoken | ToolCall]:
        """What is sure once more text has come."""
        self._held += text
        return list(self._taken(is_last=False))

    def finish(self) -> list[Spoken | ToolCall]:
        """What was held back, at the end of the answer."""
        return list(self._taken(is_last=True))

    def _taken(self, *, is_last: bool) -> Iterator[Spoken | ToolCall]:
        at = 0  # of what is held, text that is no call
        while mark := self._marks.search(self._before + self._held, at + 1):
            start, end = mark.start() - 1, mark.end() - 1
            if mark["end"]:
                # A tag without a call before it is text.
                at = end
                if self._has_called:
                    yield from self._drop(start, end)
                    at = 0
                continue
            read = self._read(mark, end, is_last=is_last)
            if read is None:
                yield from self._speak(start)
                return
            calls, end = read
            if calls:
                yield from self._drop(start, end)
                yield from calls
                at = 0
            else:
                at = max(end, start + 1)
        yield from self._speak(len(self._held) if is_last else self._num_sure(), is_last=is_last)

    def _read(
        self, mark: "re.Match[str]", end: int, *, is_last: bool
    ) -> tuple[list[ToolCall], int] | None:
        """The calls after a mark and where they end; none where it is no call; None if unsure."""
        if mark["block"]:
            block = BLOCKS[mark["block"]]
            return self._read_block(block, end, is_last=is_last)
        begin = _after_spaces(self._held, end)
        if mark["bare"] is not None:
            first = _after_spaces(self._held, begin, "[{")
            key = self._held[first : first + len(max(BARE_KEYS, key=len))]
            if not key.startswith(BARE_KEYS):
                is_open = not is_last and any(each.startswith(key) for each in BARE_KEYS)
                return None if is_open else ([], end)
        if begin == len(self._held):
            return ([], end) if is_last else None
        if self._held[begin] in "[{":
            name = mark["react"] or mark["plain"] or mark["harmony"]
            return self._read_json(name, begin, end, is_last=is_last)
        return self._read_block(TAGGED, end, is_last=is_last) if mark["tag"] else ([], end)

    def _read_json(
        self, name: str | None, begin: int, end: int, *, is_last: bool
    ) -> tuple[list[ToolCall], int] | None:
        """The same of JSON that begins at a place, with the tool's name before it or in it."""
        if self._scan.start != begin:
            self._scan = _Scan(begin)
        stop = self._scan.end_in(self._held)
        if stop is None:
            return ([], end) if is_last else None
        calls = self._calls(self._held[begin:stop], name)
        return (calls, stop) if calls else ([], end)

    def _read_block(
        self, block: ToolBlock, start: int, *, is_last: bool
    ) -> tuple[list[ToolCall], int] | None:
        """The same of what stands between two marks; an answer may end without the second."""
        stop = self._held.find(block.end, start)
        if stop < 0 and not is_last:
            return None
        inner = self._held[start:] if stop < 0 else self._held[start:stop]
        found = block.read(inner)
        if not found or any(name not in self._names for name, _ in found):
            return [], start
        calls = [ToolCall(name, json.dumps(each, ensure_ascii=False)) for name, each in found]
        return calls, len(self._held) if stop < 0 else stop + len(block.end)

    def _calls(self, text: str, name: str | None) -> list[ToolCall]:
        try:
            value = json.loads(text)
        except ValueError:
            return []
        if name is not None:
            value = {"name": name, "arguments": value}
        calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
        if any(call is None or call.name not in self._names for call in calls):
            return []
        return [call for call in calls if call]

    def _drop(self, start: int, end: int) -> Iterator[Spoken]:
        """Speak what stands before a call, without the spaces that separate it; drop the call."""
        spoken = self._held[:start].rstrip()
        if spoken:
            yield Spoken(spoken)
        self._has_called = True
        self._held, self._before = self._held[end:].lstrip(), "\n"
        self._scan = _Scan()

    def _speak(self, num: int, *, is_last: bool = False) -> Iterator[Spoken]:
        """Speak the first characters; spaces wait for what follows them, which may be a call."""
        spoken, left = self._held[:num], self._held[num:]
        if not is_last:
            kept = spoken.rstrip()
            spoken, left = kept, spoken[len(kept) :] + left
        if spoken:
            self._before = spoken[-1]
            self._scan.move(len(spoken))
            yield Spoken(spoken)
        self._held = left

    def _num_sure(self) -> int:
        """How much of what is held is the beginning of no mark."""
        text = self._held
        first = max(0, len(text) - self._longest)
        begun = (start for start in range(first, len(text)) if text[start:] in self._begun)
        line = text.rfind("\n") + 1
        before = text.rfind("\n", 0, max(0, line - 1)) + 1
        lines = [each for each in (before, line) if text.startswith("Action:", each)]
        if text[line:].strip() in ("", "["):
            lines.append(line)
        if harmony := BEGUN_HARMONY.search(text):
            lines.append(harmony.start())
        return min([next(begun, len(text)), *lines])


def read_calls(text: str, names: Collection[str]) -> tuple[str, list[ToolCall]]:
    """A whole answer's text without its calls, and the calls."""
    reader = CallReader(names)
    pieces = [*reader.push(text), *reader.finish()]
    spoken = "".join(each.text for each in pieces if isinstance(each, Spoken))
    return spoken, [each for each in pieces if isinstance(each, ToolCall)]


@lru_cache(maxsize=1)
def _heads() -> tuple[str, ...]:
    """Every way in which a call of gpt-oss may begin."""
    *parts, last = HARMONY_PARTS
    ways = product(*[("", part) for part in parts])
    return tuple("".join(way) + last for way in ways)


class _Scan:
    """Finds where a JSON value ends, going on where it stopped when more text has come."""

    def __init__(self, start: int = -1) -> None:
        self.start = self._at = start
        self._depth = 0
        self._is_text = self._is_escaped = False

    def move(self, num: int) -> None:
        """So many characters before the value have gone."""
        self.start, self._at = self.start - num, self._at - num

    def end_in(self, text: str) -> int | None:
        """Where the value ends; None where it does not yet."""
        for at in range(self._at, len(text)):
            if self._is_end(text[at]):
                return at + 1
        self._at = len(text)
        return None

    def _is_end(self, character: str) -> bool:
        if self._is_escaped:
            self._is_escaped = False
        elif self._is_text:
            self._is_escaped = character == "\\"
            self._is_text = character != '"'
        elif character == '"':
            self._is_text = True
        elif character in "[{":
            self._depth += 1
        elif character in "]}":
            self._depth -= 1
            return self._depth == 0
        return False


def _after_spaces(text: str, start: int, more: str = "") -> int:
    end = start
    while end < len(text) and (text[end].isspace() or text[end] in more):
        end += 1
    return end


def _call(value: Any) -> ToolCall | None:
    """A call in one of the shapes that models write; None where it is none."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    name = value.get("name") or inner
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))
