"""Tokens of an answer -> its text, where special tokens tell what is text and what is not.

gpt-oss names a channel for every message and Gemma 4 one for its thoughts: without their marks,
which are special tokens and no text, an answer would begin with a channel's name. The marks around
calls of tools are special tokens of some models too, and are shown, or no call could be read.
Loads no heavy library.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llama_factory.model.chat.tool_blocks import MARKS as CALL_MARKS

THOUGHT_MARKS = ("<|channel>", "<channel|>")
"""Around a thought of Gemma 4."""
MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
THOUGHTS, TO = "analysis", "to="


@dataclass(frozen=True)
class ChannelMarks:
    """The tokens around messages and their headers.

    Attributes:
        start: of a message and its header.
        channel: goes on with a header, or begins one.
        message: ends a header; the text follows.
        end: of a message that others follow.
    """

    start: int
    channel: int
    message: int
    end: int


@dataclass(frozen=True)
class ThoughtMarks:
    """The tokens around a thought.

    Attributes:
        start: of a thought.
        end: of a thought; the answer goes on.
    """

    start: int
    end: int


Marks = ChannelMarks | ThoughtMarks | None
"""Of a tokenizer; None where it has no such format."""


def channel_marks(tokenizer: Any) -> Marks:
    """The marks of a tokenizer."""
    if ids := _ids(tokenizer, MARKS):
        return ChannelMarks(*ids)
    ids = _ids(tokenizer, THOUGHT_MARKS)
    return ThoughtMarks(*ids) if ids else None


def _ids(tokenizer: Any, marks: Sequence[str]) -> list[int]:
    """The tokens of marks; none where one of them is missing."""
    ids = [tokenizer.convert_tokens_to_ids(mark) for mark in marks]
    known = [each is not None and tokenizer.convert_ids_to_tokens(each) for each in ids]
    return [*map(int, ids)] if known == [*marks] else []


def answer_text(ids: Sequence[int], tokenizer: Any) -> str:
    """Text of tokens without special ones, but for the marks around calls of tools."""
    shown, hidden = _special(tokenizer, len(tokenizer))
    if shown and not shown.isdisjoint(ids):
        ids = [each for each in ids if each not in hidden]
        return _decode(tokenizer, ids, skips=False)
    return _decode(tokenizer, ids, skips=True)


def _decode(tokenizer: Any, ids: Sequence[int], *, skips: bool) -> str:
    # Cleaning up spaces would change text that was already handed on.
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=skips, clean_up_tokenization_spaces=False)
    )


@lru_cache(maxsize=16)
def _special(tokenizer: Any, num_tokens: int) -> tuple[frozenset[int], frozenset[int]]:
    """Special tokens that are marks of calls, and all others."""
    added = tokenizer.added_tokens_decoder.items()
    special = {int(number): str(token) for number, token in added if token.special}
    shown = frozenset(number for number, text in special.items() if text in CALL_MARKS)
    return shown, frozenset(special) - shown


class FinalChannel:
    """Takes an answer token by token; leaves out thoughts, and headers that are no calls."""

    def __init__(self, marks: Marks, decode: Callable[[Sequence[int]], str]) -> None:
        self._marks = marks
        self._decode = decode
        self._header: list[int] | None = None
        self._is_thought = False

    def push(self, token: int) -> Sequence[int]:
        """The tokens that are text now that one more has come."""
        if isinstance(self._marks, ChannelMarks):
            return self._of_channels(token, self._marks)
        if isinstance(self._marks, ThoughtMarks) and token in (self._marks.start, self._marks.end):
            self._is_thought = token == self._marks.start
            return ()
        return () if self._is_thought else (token,)

    def _of_channels(self, token: int, marks: ChannelMarks) -> Sequence[int]:
        if self._header is None and token in (marks.start, marks.channel):
            self._header = []
        if self._header is None:
            self._is_thought = self._is_thought and token != marks.end
            return () if self._is_thought or token == marks.end else (token,)
        self._header.append(token)
        return self._end_of_header() if token == marks.message else ()

    def _end_of_header(self) -> Sequence[int]:
        header, self._header = self._header or [], None
        text = self._decode(header)
        self._is_thought = THOUGHTS in text and TO not in text
        return header if TO in text else ()


def final_text(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of a whole answer."""
    final = FinalChannel(channel_marks(tokenizer), tokenizer.decode)
    return answer_text([token for each in ids for token in final.push(each)], tokenizer)
