"""Plain text: paragraphs between empty lines."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llama_factory.knowledge.documents import BLOCK_CHARACTERS, Block, OpenedDocument


@dataclass
class Paragraph:
    """Lines that belong together, as they come.

    Attributes:
        lines: so far.
        line: number of the first one.
    """

    lines: list[str] = field(default_factory=list)
    line: int = 0
    _size: int = 0

    def add(self, line: str, number: int) -> None:
        """One more line, or a piece of one."""
        self.line = self.line if self.lines else number
        self.lines.append(line)
        self._size += len(line)

    @property
    def is_full(self) -> bool:
        """Whether it is long enough to be a block by itself."""
        return self._size >= BLOCK_CHARACTERS

    def end(self, headings: tuple[str, ...] = (), lead: str = "") -> Iterator[Block]:
        """The block that it is, if it holds anything; the next one begins."""
        text = "".join(self.lines).strip()
        if text:
            yield Block(text, headings, self.line, lead=lead)
        self.lines, self._size = [], 0


def read_text(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`."""
    paragraph = Paragraph()
    for number, line in document.lines():
        if not line.strip() or paragraph.is_full:
            yield from paragraph.end()
        if line.strip():
            paragraph.add(line, number)
    yield from paragraph.end()
