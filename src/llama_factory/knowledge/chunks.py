"""Blocks of a document -> passages of some 200 to 300 tokens, counted without a model."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from llama_factory.knowledge.documents import Block
from llama_factory.text.words import HAN

OVERLAP = 0.15
"""Fraction of a passage that the next one of the same part begins with."""
TOKENS_A_WORD = 1.3
CHARACTERS_A_TOKEN = 4.5
PIECE_FRACTION = 0.7
"""A text without any end of a sentence is taken in pieces of so many characters a token."""

_HAN = re.compile(f"[{HAN}\u3040-\u30ff\uac00-\ud7af]")
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[。！？；\n])|(?<=[.!?;])(?=\s)")


@dataclass(frozen=True)
class Chunk:
    """What is found as a whole: a passage of a document.

    Attributes:
        text: as it stands in the document; the head of its table before a row.
        headings: above it, the highest first.
        line: where it begins, from 1; 0 where the kind of document has no lines.
        page: where it begins, from 1; 0 where the kind of document has no pages.
    """

    text: str
    headings: tuple[str, ...] = ()
    line: int = 0
    page: int = 0

    @property
    def heading(self) -> str:
        """The way to it through the document's headings."""
        return " > ".join(self.headings)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, whichever model reads it; rather more than fewer."""
    num_han = len(_HAN.findall(text))
    num_words = sum(1 for _ in _WORD.finditer(_HAN.sub(" ", text)))
    others = max(TOKENS_A_WORD * num_words, (len(text) - num_han) / CHARACTERS_A_TOKEN)
    return math.ceil(num_han + others)


@dataclass
class _Piece:
    """A sentence, or a whole short block."""

    text: str
    block: Block
    num_tokens: int


@dataclass
class _Open:
    """A passage that still grows."""

    max_tokens: int
    pieces: list[_Piece] = field(default_factory=list)
    num_tokens: int = 0
    num_new: int = 0

    def holds(self, piece: _Piece) -> bool:
        """Whether a piece belongs into it."""
        if not self.pieces:
            return True
        last = self.pieces[-1].block
        if last.headings != piece.block.headings or last.is_alone or piece.block.is_alone:
            return _are_of_one(last, piece.block) and self._has_room(piece)
        return self._has_room(piece)

    def add(self, piece: _Piece) -> None:
        """One more piece."""
        if not self.pieces and piece.block.lead:
            self.num_tokens += estimated_tokens(piece.block.lead)
        self.pieces.append(piece)
        self.num_tokens += piece.num_tokens
        self.num_new += 1

    def end(self) -> Iterator[Chunk]:
        """The passage, where it holds anything that the one before did not."""
        if not self.num_new:
            return
        first = self.pieces[0].block
        text = _joined(self.pieces)
        text = f"{first.lead}\n{text}" if first.lead else text
        yield Chunk(text, first.headings, first.line, first.page)

    def next(self, piece: _Piece) -> "_Open":
        """The passage after it, which begins with its last sentences if it goes on the same way."""
        after = _Open(self.max_tokens)
        last = self.pieces[-1].block
        is_same = last.headings == piece.block.headings and last.lead == piece.block.lead
        is_alone = last.is_alone or piece.block.is_alone
        if is_same and (_are_of_one(last, piece.block) or not is_alone):
            for each in self._tail(piece):
                after.add(each)
            after.num_new = 0
        return after

    def _tail(self, piece: _Piece) -> list[_Piece]:
        room = min(OVERLAP * self.max_tokens, self.max_tokens - piece.num_tokens)
        kept: list[_Piece] = []
        for each in reversed(self.pieces[1:]):
            room -= each.num_tokens
            if room < 0:
                break
            kept.insert(0, each)
        return kept

    def _has_room(self, piece: _Piece) -> bool:
        return self.num_tokens + piece.num_tokens <= self.max_tokens


def chunks_of(blocks: Iterable[Block], max_tokens: int) -> Iterator[Chunk]:
    """Passages of a document, in order.

    Parts under different headings never share one; a block is torn only where it is longer than a
    passage, and then at the end of a sentence.

    Args:
        blocks: of the document, in order.
        max_tokens: longest passage, estimated.
    """
    passage = _Open(max_tokens)
    for block in blocks:
        for piece in _pieces(block, max_tokens):
            if not passage.holds(piece):
                yield from passage.end()
                passage = passage.next(piece)
            passage.add(piece)
    yield from passage.end()


def _pieces(block: Block, max_tokens: int) -> Iterator[_Piece]:
    """The block itself, or its sentences where it is longer than a passage."""
    num_tokens = estimated_tokens(block.text)
    if num_tokens <= max_tokens:
        yield _Piece(block.text, block, num_tokens)
        return
    line = block.line
    for sentence in _SENTENCE_END.split(block.text):
        for text in _short_enough(sentence, max_tokens):
            if text.strip():
                placed = block if line == block.line else replace(block, line=line)
                yield _Piece(text, placed, estimated_tokens(text))
        line += sentence.count("\n") if block.line else 0


def _short_enough(text: str, max_tokens: int) -> list[str]:
    if estimated_tokens(text) <= max_tokens:
        return [text]
    size = max(1, int(PIECE_FRACTION * max_tokens))
    return re.findall(rf".{{1,{size}}}(?:\s|$)|.{{1,{size}}}", text, flags=re.DOTALL)


def _are_of_one(one: Block, other: Block) -> bool:
    """Whether two are the same block, or parts of one."""
    return one.text is other.text


def _joined(pieces: list[_Piece]) -> str:
    """Sentences of one block as they stood, blocks on lines of their own."""
    text = ""
    for number, piece in enumerate(pieces):
        is_same = number > 0 and _are_of_one(pieces[number - 1].block, piece.block)
        text += ("" if is_same or not number else "\n") + piece.text
    return text.strip()
