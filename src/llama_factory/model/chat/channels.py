"""Answers of models that name a channel for every message, as gpt-oss does: what is the answer.

Without this an answer would begin with the name of its channel, as its marks are special tokens
that are no text. Loads no heavy library.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def channel_marks(tokenizer: Any) -> ChannelMarks | None:
    """The marks of a tokenizer; None where it has no such format."""
    ids = [tokenizer.convert_tokens_to_ids(mark) for mark in MARKS]
    known = [each is not None and tokenizer.convert_ids_to_tokens(each) for each in ids]
    return ChannelMarks(*map(int, ids)) if known == [*MARKS] else None


class FinalChannel:
    """Takes an answer token by token; leaves out thoughts, and headers that are no calls."""

    def __init__(self, marks: ChannelMarks | None, decode: Callable[[Sequence[int]], str]) -> None:
        self._marks = marks
        self._decode = decode
        self._header: list[int] | None = None
        self._is_thought = False

    def push(self, token: int) -> Sequence[int]:
        """The tokens that are text now that one more has come."""
        marks = self._marks
        if marks is None:
            return (token,)
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


def final_tokens(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """The tokens of a whole answer that are its text."""
    final = FinalChannel(channel_marks(tokenizer), tokenizer.decode)
    return [token for each in ids for token in final.push(each)]
