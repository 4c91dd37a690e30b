"""International bank account numbers (IBAN): country, length, structure and the mod 97 digits."""

import re
from collections.abc import Iterator
from functools import lru_cache

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import has_number

_START = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=IBAN))[A-Z]{2}\d\d(?=[ -]?[A-Z0-9]{4})")
_CHARACTER = re.compile(r"[ -]?[A-Z0-9]")


def _find(text: str) -> Iterator[Span]:
    for start in (match.start() for match in _START.finditer(text)):
        end = _end(text, start, _length(text[start : start + 2]))
        if end and not text[end : end + 1].isdigit() and _is_valid(text[start:end]):
            yield start, end


def _end(text: str, start: int, length: int) -> int:
    """End of the span that holds `length` letters and digits; 0 where there are not as many."""
    end = start
    for _ in range(length):
        match = _CHARACTER.match(text, end)
        if match is None:
            return 0
        end = match.end()
    return end


@lru_cache(maxsize=512)
def _length(country: str) -> int:
    """Length of a country's numbers; 0 for an unknown country."""
    from stdnum import numdb

    info = numdb.get("iban").info(f"{country}00")
    structure = info[0][1].get("bban", "")
    lengths = [int(length) for length in re.findall(r"(\d+)!", structure)]
    return 4 + sum(lengths) if lengths else 0


def _is_valid(number: str) -> bool:
    from stdnum import iban

    return bool(iban.is_valid(number, check_country=False))


register(PrivateKind("iban", _find, (has_number,)))
