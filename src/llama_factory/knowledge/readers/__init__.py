"""Documents as blocks of text, one kind of file a module."""

from collections.abc import Callable, Iterator
from pathlib import PurePath

from llama_factory.core.errors import suggest
from llama_factory.knowledge.documents import MEGABYTE, Block, DocumentError, OpenedDocument
from llama_factory.knowledge.readers.docx import read_docx
from llama_factory.knowledge.readers.html import read_html
from llama_factory.knowledge.readers.markdown import read_markdown
from llama_factory.knowledge.readers.pdf import read_pdf
from llama_factory.knowledge.readers.rows import read_jsonl, read_table
from llama_factory.knowledge.readers.text import read_text

Read = Callable[[OpenedDocument], Iterator[Block]]
READERS: dict[str, Read] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_jsonl,
}
"""By the end of the file's name."""


def reader_of(name: str) -> Read:
    """What reads a file of this name.

    Raises:
        DocumentError: no such files are read.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in READERS:
        hint = suggest(suffix, READERS)
        raise DocumentError(
            f"files of the kind '{suffix}' are not read.{hint} Read are {', '.join(READERS)}."
        )
    return READERS[suffix]


def read_blocks(document: OpenedDocument, num_bytes: int) -> Iterator[Block]:
    """The blocks of a document, one after another; it is never whole in memory.

    Args:
        document: opened at its beginning.
        num_bytes: its size.

    Raises:
        DocumentError: it is broken, or above a limit.
    """
    most = document.limits.max_megabytes
    if num_bytes > most * MEGABYTE:
        raise DocumentError(
            f"has {num_bytes / MEGABYTE:,.0f} MB and {most:g} are read "
            "(knowledge.limits.max_megabytes). Split it, or raise the limit."
        )
    for block in reader_of(document.name)(document):
        document.check_time()
        if block.text.strip():
            yield block
