"""Dictionaries of synonyms: a text file with one group of words a line."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from llama_factory.core.errors import DataError

BUILT_IN = Path(__file__).with_name("synonyms.txt")
"""Our own small dictionary, English and Chinese, used where no other is given."""

Synonyms = Mapping[str, tuple[str, ...]]
"""The other words of its groups, by word in lower case."""

HOW = (
    "A dictionary is a UTF-8 text file with one group of synonyms a line, set apart by commas, "
    "tabs or spaces: big, large, huge"
)
_CODE = re.compile(r"[A-Z][a-z]\d\d[A-Z]\d\d([=#@])\s*")
"""Codes of the Chinese thesaurus Cilin; only `=` marks words that mean the same."""


def read_synonyms(path: Path | None = None) -> Synonyms:
    """Read a dictionary, or the built-in one.

    Commas or tabs let words hold spaces ("of course, certainly"); lines that begin with # are
    comments; the codes of Cilin ("Aa01A01= 人 人物") are understood.

    Raises:
        DataError: the file is missing, is no UTF-8 text, or has a line without a second word.
    """
    path = path or BUILT_IN
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {HOW}.") from None
    return _read(path, stamp)


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> Synonyms:
    """Read once for each state of the file; `stamp` is its time of change."""
    groups: dict[str, dict[str, None]] = {}
    for words in _groups(path):
        for word in words:
            others = (other for other in words if other.lower() != word.lower())
            groups.setdefault(word.lower(), {}).update(dict.fromkeys(others))
    if not groups:
        raise DataError(f"{path}: holds no group of synonyms. {HOW}.")
    return {word: tuple(others) for word, others in groups.items()}


def _groups(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(_lines(path), 1):
        words = _words(line)
        if len(words) == 1:
            raise DataError(f"{path}:{number}: '{words[0]}' has no synonym on its line. {HOW}.")
        if words:
            yield words


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8. {HOW}.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {HOW}.") from None


def _words(line: str) -> list[str]:
    coded = _CODE.match(line)
    if line.startswith("#") or (coded and coded[1] != "="):
        return []
    line = line[coded.end() :] if coded else line
    marks = r"[,\t，、;；]" if re.search(r"[,\t，、;；]", line.strip()) else r"\s"
    words = (word.strip() for word in re.split(marks, line))
    return list(dict.fromkeys(filter(None, words)))
