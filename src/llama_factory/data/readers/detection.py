"""Which kind of file it is: its content counts before its name."""

import json
from pathlib import Path

from llama_factory.core.errors import DataError, suggest
from llama_factory.data import file_sentences as texts
from llama_factory.data.readers import Reader, readers
from llama_factory.data.readers.json_values import is_wrapped
from llama_factory.data.readers.streams import PACKED_SUFFIXES, Opened

FOREIGN = {
    b"PK\x03\x04": texts.ZIP,
    b"%PDF": texts.PDF,
    b"BZh": texts.BZIP2,
    b"\xfd7zXZ": texts.XZ,
    b"SQLite format 3": texts.DATABASE,
    b"\x80\x04": texts.PICKLE,
    b"\x80\x05": texts.PICKLE,
}
"""How files begin that people take for data files, and what to do with them."""


def detect_reader(opened: Opened) -> Reader:
    """The reader of a file.

    Raises:
        DataError: its kind is not known.
    """
    named = _named_reader(opened.path)
    found = _by_magic(opened.head)
    if found is None:
        text = _text_head(opened)
        found = _by_text(text, named) if text is not None else None
        _refuse_unmarked(opened)
    if found is None and named is not None and not named.magic:
        return named
    if found is None:
        raise DataError(_unknown(opened, named))
    return found


def suffix_of(path: Path) -> str:
    """The suffix without that of compression: `.jsonl` of `faq.jsonl.gz`."""
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def readers_by_suffix() -> dict[str, Reader]:
    """The kind of each known suffix."""
    return {suffix: reader for reader in readers.values() for suffix in reader.suffixes}


def _named_reader(path: Path) -> Reader | None:
    return readers_by_suffix().get(suffix_of(path))


def _by_magic(head: bytes) -> Reader | None:
    for reader in readers.values():
        if head.startswith(reader.magic):
            return reader
    foreign = next((what for magic, what in FOREIGN.items() if head.startswith(magic)), None)
    if foreign is not None:
        raise DataError(foreign())
    return None


def _text_head(opened: Opened) -> str | None:
    """The first characters, or None where this is no text."""
    text = opened.head.decode(opened.encoding, errors="ignore")
    return None if text.count("\0") > len(text) // 8 else text.lstrip("\ufeff")


def _refuse_unmarked(opened: Opened) -> None:
    """UTF-16 without its mark: every other byte of plain text is zero."""
    if not opened.encoding.startswith("utf-8"):
        return
    even, odd = (opened.head[start::2] for start in (0, 1))
    for name, low, high in (("utf-16-le", even, odd), ("utf-16-be", odd, even)):
        if 2 * high.count(0) > len(high) and not low.count(0):
            raise DataError(texts.UNMARKED(encoding=name))


def _by_text(text: str, named: Reader | None) -> Reader | None:
    start = text.lstrip()
    if start[:1] == "[" and start[1:].lstrip()[:1] in ("{", "]", "["):
        return readers["JSON"] if named is None or named.name.startswith("JSON") else None
    if start[:1] != "{":
        return None
    return _of_objects(start, named)


def _of_objects(start: str, named: Reader | None) -> Reader | None:
    """JSON lines, or objects that span lines."""
    lines = start.split("\n")
    whole = [_is_object(line) for line in lines[:5]]
    if is_wrapped(start) and not (len(lines) > 1 and lines[1].strip() and whole[1]):
        return readers["JSON"]
    if any(whole):
        return readers["JSON lines"]
    if named is not None and not named.name.startswith("JSON"):
        return None
    is_spread = lines[0].strip() == "{" or (named is not None and named.name == "JSON")
    return readers["JSON"] if is_spread else readers["JSON lines"]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _unknown(opened: Opened, named: Reader | None) -> str:
    if named is not None:
        return texts.NO_SUCH_KIND(kind=named.name)
    known = readers_by_suffix()
    suffix = suffix_of(opened.path)
    hint = suggest(suffix, known)
    name = suffix or opened.path.name
    return texts.UNKNOWN_KIND(kind=name, hint=hint, known=", ".join(known))
