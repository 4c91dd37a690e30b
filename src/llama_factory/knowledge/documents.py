"""A document being read: its blocks of text with their places, its limits, why it is left out."""

import io
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader

from llama_factory.core.errors import DataError
from llama_factory.knowledge.settings import KnowledgeLimits

MEGABYTE = 1_000_000
HEAD_BYTES = 65_536
PIECE_CHARACTERS = 65_536
"""A longer line is read in pieces."""
BLOCK_CHARACTERS = 8_000
"""A longer paragraph is several blocks."""
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
MAX_TITLES = 6
MAX_TITLE_CHARACTERS = 200
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that a screen does not show, or that rearrange it."""


class DocumentError(DataError):
    """A document is left out; the message says why and how to mend it."""


class DocumentLimitError(DocumentError):
    """A document takes more than one may; another way to read it would take as much."""


class DocumentChangedError(DocumentError):
    """A document is being changed while it is read; it is read again later."""


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list, a row: what is not torn apart where it need not be.

    Attributes:
        text: as it stands in the document.
        headings: above it, the highest first.
        line: where it begins, from 1; 0 where the kind of document has no lines.
        page: where it begins, from 1; 0 where the kind of document has no pages.
        lead: what it cannot be understood without, such as the head of its table.
        is_alone: whether it shares no passage with others, as a row of data.
    """

    text: str
    headings: tuple[str, ...] = ()
    line: int = 0
    page: int = 0
    lead: str = ""
    is_alone: bool = False


@dataclass
class OpenedDocument:
    """A file that is read once, within its limits.

    Attributes:
        name: as people are shown it.
        file: its bytes.
        limits: what it may cost.
        clock: seconds, from any beginning.
        notes: what was left out of it.
    """

    name: str
    file: BufferedReader
    limits: KnowledgeLimits
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def seconds_left(self) -> float:
        """Until it has taken too long."""
        return self.limits.seconds - (self.clock() - self._began)

    def check_time(self) -> None:
        """Give up on a document that takes too long.

        Raises:
            DocumentLimitError: its time is over.
        """
        if self.seconds_left < 0:
            raise DocumentLimitError(
                f"took longer than {self.limits.seconds:g} s to read "
                "(knowledge.limits.seconds). Split it, or raise the limit."
            )

    def lines(self) -> Iterator[tuple[int, str]]:
        """Its lines as text with their numbers; a very long one comes in pieces.

        Raises:
            DocumentError: it is no text, or takes too long.
        """
        head = self.file.read(HEAD_BYTES)
        self.file.seek(0)
        encoding = encoding_of(head)
        text = io.TextIOWrapper(self.file, encoding, errors="replace")
        number = 1
        try:
            while line := text.readline(PIECE_CHARACTERS):
                self.check_time()
                yield number, line
                number += line.endswith("\n")
        finally:
            text.detach()


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes: Unicode, else that of Chinese systems.

    Raises:
        DocumentError: these are no bytes of a text.
    """
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise DocumentError("is no text: it holds zero bytes. Save it as UTF-8.")
    for name in ("utf-8", "gb18030"):
        # the last character may be cut in two
        if any(_decodes(head[: len(head) - cut], name) for cut in range(4)):
            return name
    return "utf-8"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def shown_name(name: str) -> str:
    """A file's name whose control characters, line ends and marks of direction are spelt out."""
    return "".join(map(_shown, name))


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    is_unseen = unicodedata.category(character) in _UNSEEN
    return f"\\u{ord(character):04x}" if is_unseen else character


def titles(headings: list[str]) -> tuple[str, ...]:
    """Headings as blocks carry them: those that say something, of bearable length."""
    kept = [" ".join(each.split())[:MAX_TITLE_CHARACTERS] for each in headings]
    return tuple(each for each in kept if each)[:MAX_TITLES]


class HeadingPath:
    """The headings that hold where a document is being read."""

    def __init__(self) -> None:
        self._levels: dict[int, str] = {}
        self.path: tuple[str, ...] = ()

    def enter(self, level: int, title: str) -> None:
        """A heading begins its part; those below or beside it end."""
        self._levels = {at: text for at, text in self._levels.items() if at < level}
        self._levels[level] = title
        self.path = titles([self._levels[at] for at in sorted(self._levels)])
