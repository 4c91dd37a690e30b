"""The process that reads one PDF from its input and writes a line of JSON a page. Run alone."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any


class _AboveLimitError(Exception):
    pass


def main() -> None:
    """Read a PDF under the limits of the first argument."""
    wanted = json.loads(sys.argv[1])
    _limit(wanted["memory_bytes"], wanted["seconds"])
    logging.disable(logging.CRITICAL)
    try:
        read = {"pypdf": _by_pypdf, "pypdfium2": _by_pypdfium2}[wanted["library"]]
        left = wanted["max_characters"]
        for number, text in enumerate(read(sys.stdin.buffer.read(), wanted["max_pages"]), 1):
            left -= len(text)
            if left < 0:
                raise _AboveLimitError(
                    f"page {number} brings its text above {wanted['max_characters']:,} characters "
                    "(knowledge.limits.max_expanded_megabytes)"
                )
            _write({"page": number, "text": text})
        _write({"end": True})
    except _AboveLimitError as error:
        _write({"limit": f"is too large: {error}."})
    except MemoryError:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - broken files raise whatever there is
        _write({"error": f"is no PDF that can be read ({type(error).__name__}: {error})."[:500]})


def _by_pypdf(data: bytes, max_pages: int) -> Iterator[str]:
    import pypdf

    document = pypdf.PdfReader(io.BytesIO(data))
    if document.is_encrypted and not document.decrypt(""):
        raise ValueError("it is locked with a password. Save it without")
    _require_pages(len(document.pages), max_pages)
    for page in document.pages:
        yield page.extract_text()


def _by_pypdfium2(data: bytes, max_pages: int) -> Iterator[str]:
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    _require_pages(len(document), max_pages)
    for page in document:
        yield page.get_textpage().get_text_bounded()


def _require_pages(num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        raise _AboveLimitError(
            f"{num_pages:,} pages are more than {max_pages:,} (knowledge.limits.max_pages)"
        )


def _limit(memory_bytes: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write(value: dict[str, Any]) -> None:
    text = json.dumps(value) + "\n"
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
