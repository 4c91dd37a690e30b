"""Word documents: a packed folder of XML, unpacked and read in pieces within limits."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO
from xml.parsers import expat

from llama_factory.knowledge.documents import (
    MEGABYTE,
    Block,
    DocumentError,
    HeadingPath,
    OpenedDocument,
)

DOCUMENT, STYLES = "word/document.xml", "word/styles.xml"
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main "
PIECE_BYTES = 65_536
_LEVEL = re.compile(r"(?:heading|标题)\s*([1-9])$", re.IGNORECASE)


def read_docx(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`."""
    try:
        with zipfile.ZipFile(document.file) as packed:
            budget = _Budget(document)
            styles = _Styles()
            if STYLES in packed.namelist():
                with packed.open(STYLES) as part:
                    for _ in _parsed(part, styles, budget):
                        pass
            with packed.open(DOCUMENT) as part:
                yield from _parsed(part, _Body(styles.levels), budget)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        raise DocumentError(
            f"is no Word document that can be read ({error}). Save it again as DOCX."
        ) from error
    except RuntimeError as error:  # zipfile has no class of its own for it
        raise DocumentError(f"cannot be unpacked ({error}). Save it without a password.") from error


class _Budget:
    """How much may still be unpacked."""

    def __init__(self, document: OpenedDocument) -> None:
        self._document = document
        self._most = document.limits.max_expanded_megabytes
        self._left = int(self._most * MEGABYTE)

    def take(self, num_bytes: int) -> None:
        """Count what was unpacked, and the time.

        Raises:
            DocumentError: it is more than one document may come to.
        """
        self._document.check_time()
        self._left -= num_bytes
        if self._left < 0:
            raise DocumentError(
                f"unpacks to more than {self._most:g} MB "
                "(knowledge.limits.max_expanded_megabytes). Save it as text, or raise the limit."
            )


class _Handler:
    """What comes of the tags of a part of a document."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A tag opens; names begin with their namespace."""

    def end(self, tag: str) -> None:
        """A tag closes."""

    def data(self, text: str) -> None:
        """Text between tags."""

    def ready(self) -> Iterator[Block]:
        """The blocks that have ended."""
        yield from ()


def _parsed(part: IO[bytes], handler: _Handler, budget: _Budget) -> Iterator[Block]:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda tag, values: handler.start(_name(tag), values)
    parser.EndElementHandler = lambda tag: handler.end(_name(tag))
    parser.CharacterDataHandler = handler.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        while piece := part.read(PIECE_BYTES):
            budget.take(len(piece))
            parser.Parse(piece)
            yield from handler.ready()
        parser.Parse(b"", True)
        yield from handler.ready()
    except expat.ExpatError as error:
        raise DocumentError(f"holds broken XML ({error}). Save it again as DOCX.") from error


def _refuse_doctype(*_: object) -> None:
    raise DocumentError(
        "declares entities, which Word never does and with which a small file becomes a huge one. "
        "Save it again as DOCX."
    )


def _name(tag: str) -> str:
    return tag.removeprefix(W).removeprefix(STRICT)


def _value(attributes: dict[str, str], name: str) -> str:
    return attributes.get(f"{W}{name}") or attributes.get(f"{STRICT}{name}") or ""


class _Styles(_Handler):
    """Which styles are headings: their ids differ from language to language, names do not."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self._style = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """See `_Handler`."""
        if tag == "style":
            self._style = _value(attributes, "styleId")
        elif tag == "name" and (found := _LEVEL.match(_value(attributes, "val"))):
            self.levels[self._style] = int(found[1])


class _Body(_Handler):
    """Paragraphs, headings, and rows of tables."""

    def __init__(self, levels: dict[str, int]) -> None:
        self._levels = levels
        self._headings = HeadingPath()
        self._blocks: list[Block] = []
        self._parts: list[str] = []
        self._cells: list[str] = []
        self._level = self._num_rows = 0
        self._is_text = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """See `_Handler`."""
        if tag == "t":
            self._is_text = True
        elif tag == "pStyle":
            style = _value(attributes, "val")
            found = _LEVEL.match(style)
            self._level = self._levels.get(style, int(found[1]) if found else 0)
        elif tag in ("tab", "br", "cr"):
            self._parts.append("\t" if tag == "tab" else "\n")
        elif tag == "tr":
            self._num_rows += 1

    def end(self, tag: str) -> None:
        """See `_Handler`."""
        if tag == "t":
            self._is_text = False
        elif tag == "p":
            self._end_paragraph()
        elif tag == "tr" and self._num_rows:
            self._num_rows -= 1
            if not self._num_rows:
                self._blocks.append(Block(" | ".join(self._cells), self._headings.path))
                self._cells = []

    def data(self, text: str) -> None:
        """See `_Handler`."""
        if self._is_text:
            self._parts.append(text)

    def ready(self) -> Iterator[Block]:
        """See `_Handler`."""
        yield from self._blocks
        self._blocks = []

    def _end_paragraph(self) -> None:
        text = "".join(self._parts).strip()
        if text and self._num_rows:
            self._cells.append(text)
        elif text and self._level:
            self._headings.enter(self._level, text)
        elif text:
            self._blocks.append(Block(text, self._headings.path))
        self._parts, self._level = [], 0
