"""What the kinds of private data share: how characters are read, and the words near a number."""

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


NUMBER_OF_SOMETHING_ELSE = re.compile(
    r"\b(?:order|invoice|tracking|parcel|isbn|imei|serial|part|reference|ref|timestamp|case|ticket"
    r"|version|uuid|commit|sku|barcode)s?\b(?:\s?(?:no\b|num\b|number|id\b|is\b|#))*[\s.:#=\"'-]*$"
    r"|(?:订单|单|流水|工|学|书|编|序列|期|版本|股票代|时间戳|设备|条形?码|统一编)[号码]?[::是为\s]*$",
    re.IGNORECASE,
)
"""The end of a text after which a number counts or names a thing, not a person."""


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


def words(english: str, chinese: str) -> re.Pattern[str]:
    """A pattern of context words: English ones whole and in any case, Chinese ones anywhere."""
    return re.compile(rf"(?<![a-z])(?:{english})(?![a-z])|{chinese}", re.IGNORECASE)


def stands_near(pattern: re.Pattern[str], text: str, start: int, *, reach: int = 30) -> bool:
    """Whether a pattern is found in the few characters before `start`."""
    return pattern.search(text, max(0, start - reach), start) is not None


def names_something_else(text: str, start: int) -> bool:
    """Whether the words right before `start` say that an order, a version or the like follows."""
    return stands_near(NUMBER_OF_SOMETHING_ELSE, text, start)
