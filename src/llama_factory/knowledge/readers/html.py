"""HTML: what a reader of the page sees, without its menus, scripts and styles."""

from collections.abc import Iterator
from html.parser import HTMLParser

from llama_factory.knowledge.documents import (
    BLOCK_CHARACTERS,
    PIECE_CHARACTERS,
    Block,
    HeadingPath,
    OpenedDocument,
)

LEFT_OUT = frozenset(
    ("script", "style", "nav", "footer", "aside", "noscript", "template", "svg", "iframe", "form")
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = (
    frozenset(HEADINGS)
    | frozenset(
        ("p", "div", "li", "ul", "ol", "tr", "table", "section", "article", "main", "header", "pre")
    )
    | frozenset(("blockquote", "dt", "dd", "dl", "body", "title", "figcaption", "address"))
)
CELLS = frozenset(("td", "th"))
VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr")
)


def read_html(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`."""
    page, waiting = _Page(), ""
    for _, piece in document.lines():
        waiting += piece
        if len(waiting) >= PIECE_CHARACTERS:  # a tag that never ends is looked at again each time
            page.feed(waiting)
            waiting = ""
            yield from page.ready()
    page.feed(waiting)
    page.close()
    page.end_block()
    yield from page.ready()


class _Page(HTMLParser):
    """Blocks of a page, as its tags come."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._headings = HeadingPath()
        self._blocks: list[Block] = []
        self._parts: list[str] = []
        self._size = self._line = 0
        self._heading = 0
        self._skipped, self._depth = "", 0
        self._num_pre = 0

    def ready(self) -> Iterator[Block]:
        """The blocks that have ended."""
        yield from self._blocks
        self._blocks = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
            return
        if tag not in VOID and (tag in LEFT_OUT or _is_hidden(dict(attrs))):
            self._skipped, self._depth = tag, 1
        elif tag in BLOCKS:
            self.end_block()
            self._heading = HEADINGS.get(tag, 0)
            self._num_pre += tag == "pre"
        elif tag in CELLS and self._parts:
            self._parts.append(" | ")
        elif tag == "br":
            self._parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            self._skipped = self._skipped if self._depth else ""
        elif tag in BLOCKS:
            self.end_block()
            self._num_pre = max(0, self._num_pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        text = data if self._num_pre else _joined_lines(data)
        if text.strip() and not self._parts:
            self._line = self.getpos()[0]
        if text.strip() or self._parts:
            self._parts.append(text)
            self._size += len(text)
        if self._size > BLOCK_CHARACTERS:
            self.end_block()

    def end_block(self) -> None:
        """What was open is a block, or a heading."""
        lines = "".join(self._parts).splitlines()
        kept = lines if self._num_pre else [" ".join(line.split()) for line in lines]
        text = "\n".join(kept).strip()
        self._parts, self._size = [], 0
        if text and self._heading:
            self._headings.enter(self._heading, text)
        elif text:
            self._blocks.append(Block(text, self._headings.path, self._line))
        self._heading = 0


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    style = (attributes.get("style") or "").lower().replace(" ", "")
    hidden = "display:none" in style or "visibility:hidden" in style
    return hidden or "hidden" in attributes or attributes.get("aria-hidden") == "true"


def _joined_lines(text: str) -> str:
    """Line ends of the source are spaces of the page."""
    return text.replace("\r", " ").replace("\n", " ")
