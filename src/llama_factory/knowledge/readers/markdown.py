"""Markdown: headings, paragraphs, items of lists, rows of tables, code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llama_factory.knowledge.documents import Block, HeadingPath, OpenedDocument
from llama_factory.knowledge.readers.text import Paragraph

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)、])\s+\S")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_RULE = re.compile(r"[\s|:-]+$")
MAX_HEADING_CHARACTERS = 300
"""A longer line is no heading."""


def read_markdown(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`."""
    reading = _Markdown()
    for number, line in document.lines():
        yield from reading.take(number, line)
    yield from reading.end()


@dataclass
class _Markdown:
    headings: HeadingPath = field(default_factory=HeadingPath)
    paragraph: Paragraph = field(default_factory=Paragraph)
    fence: str = ""
    table_head: str = ""

    def take(self, number: int, line: str) -> Iterator[Block]:
        """One line; the blocks that end with it."""
        if self.fence:
            yield from self._code(number, line)
        elif fence := _FENCE.match(line):
            # code stays with the paragraph that introduces it
            self.fence = fence[1]
            self.paragraph.add(line, number)
        elif self._is_heading(line):
            yield from self._heading(line)
        elif line.lstrip().startswith("|"):
            yield from self._row(number, line)
        else:
            yield from self._text(number, line)

    def end(self) -> Iterator[Block]:
        """The block that is open."""
        yield from self.paragraph.end(self.headings.path)

    def _code(self, number: int, line: str) -> Iterator[Block]:
        self.paragraph.add(line, number)
        if line.lstrip().startswith(self.fence) and not line.strip().strip(self.fence[0]):
            self.fence = ""
            yield from self.end()
        elif self.paragraph.is_full:
            yield from self.end()

    def _is_heading(self, line: str) -> bool:
        if len(line) > MAX_HEADING_CHARACTERS:
            return False
        if _HEADING.match(line):
            return True
        return len(self.paragraph.lines) == 1 and bool(_UNDERLINE.match(line))

    def _heading(self, line: str) -> Iterator[Block]:
        if found := _HEADING.match(line):
            yield from self.end()
            self.headings.enter(len(found[1]), found[2].strip().rstrip("#").rstrip())
            return
        title = self.paragraph.lines[0].strip()
        self.paragraph = Paragraph()
        self.headings.enter(1 if "=" in line else 2, title)

    def _row(self, number: int, line: str) -> Iterator[Block]:
        """A row of a table stands by itself; what columns mean is said by the table's head."""
        if _RULE.match(line):
            return
        if not self.table_head:
            yield from self.end()
            self.table_head = line.strip()
            return
        yield Block(line.strip(), self.headings.path, number, lead=self.table_head)

    def _text(self, number: int, line: str) -> Iterator[Block]:
        self.table_head = ""
        if not line.strip() or _ITEM.match(line) or self.paragraph.is_full:
            yield from self.end()
        if line.strip():
            self.paragraph.add(line, number)
