"""PDF, read page by page in a process of its own: its limits hold whatever the file does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_factory.knowledge.documents import (
    Block,
    DocumentError,
    DocumentLimitError,
    OpenedDocument,
)

PROGRAM = Path(__file__).with_name("pdf_process.py")
LIBRARIES = ("pypdf", "pypdfium2")
"""The second one is asked where the first finds no text."""


def read_pdf(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`."""
    why = "holds no text; it may be a scan. Save it with its text recognised."
    for library in LIBRARIES:
        try:
            pages = _pages(document, library)
        except DocumentLimitError:
            raise
        except DocumentError as error:
            why = str(error)
            continue
        if any(text.strip() for _, text in pages):
            for number, text in pages:
                yield from _paragraphs(text, number)
            return
    raise DocumentError(why)


def _pages(document: OpenedDocument, library: str) -> list[tuple[int, str]]:
    """Page numbers with their texts.

    Raises:
        DocumentError: it is broken, locked, or above a limit.
    """
    document.check_time()
    document.file.seek(0)
    limits = document.limits
    wanted = {
        "library": library,
        "max_pages": limits.max_pages,
        "max_characters": int(limits.max_expanded_megabytes * 1_000_000),
        "memory_bytes": limits.pdf_memory_megabytes * 1_000_000,
        "seconds": int(limits.seconds) + 1,
    }
    command = [sys.executable, "-I", str(PROGRAM), json.dumps(wanted)]
    try:
        done = subprocess.run(
            command,
            stdin=document.file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.1, document.seconds_left),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DocumentLimitError(
            f"took longer than {limits.seconds:g} s to read (knowledge.limits.seconds). Split it, "
            "or raise the limit."
        ) from None
    return _understood(done.stdout, limits.pdf_memory_megabytes)


def _understood(output: bytes, megabytes: int) -> list[tuple[int, str]]:
    """The pages that a process wrote.

    Raises:
        DocumentLimitError: it is above a limit.
        DocumentError: what it wrote instead, or that it died.
    """
    lines: list[Any] = []
    for line in output.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the process died in the middle of it
            break
    if above := next((line["limit"] for line in lines if "limit" in line), ""):
        raise DocumentLimitError(above)
    if not lines or lines[-1].get("end") is not True:
        why = next((line["error"] for line in lines if "error" in line), "")
        raise DocumentError(
            why
            or f"cannot be read: its reader crashed or needed more than {megabytes} MB "
            "(knowledge.limits.pdf_memory_megabytes)."
        )
    return [(line["page"], line["text"]) for line in lines if "page" in line]


def _paragraphs(text: str, page: int) -> Iterator[Block]:
    """Paragraphs as far as empty lines show them."""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        yield Block(paragraph.strip(), page=page)
