"""How characters are read: full-width ones as plain ones, digits counted past their separators."""

import re

_PLAIN = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_PLAIN |= dict.fromkeys("‐‑‒–—−﹣", "-")
_PLAIN |= dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " ")
_NOT_PLAIN = re.compile(f"[{''.join(_PLAIN)}]")

_NUMBER = re.compile(
    r"[0-9０-９](?:"
    r"(?:[-\s.()（）‐‑–－+/]{0,3}[0-9０-９]){6}"  # seven digits with separators between them
    r"|[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"  # an IPv4 address
    r"|(?<=[A-ZＡ-Ｚ]{2}[0-9０-９])[0-9０-９][ -]?[A-Z0-9Ａ-Ｚ０-９]{4})"  # the start of an IBAN
)
_DIGITS = "1205346789０１２３４５６７８９"
_SEPARATORS = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """The text with full-width characters, dashes and spaces as ASCII; its length stays."""
    return text if text.isascii() else _NOT_PLAIN.sub(lambda found: _PLAIN[found[0]], text)


def compact(value: str) -> str:
    """A value without separators, in small letters."""
    return _SEPARATORS.sub("", plain(value)).lower()


def has_number(text: str) -> bool:
    """Whether a text holds a phone's, card's, account's or machine's worth of digits in a row."""
    return has_digit(text) and _NUMBER.search(text) is not None


def has_digit(text: str) -> bool:
    """Whether a text holds any digit; ten searches for a character beat one for a class."""
    return any(map(text.__contains__, "1205346789" if text.isascii() else _DIGITS))
