"""Passport numbers. No pattern is sure alone, so the word passport (护照) must stand near.

Chinese ones (E, G, D, S, P, H and their two-letter series), nine digits (US, UK), and the forms of
one or two letters with six to eight digits that most other countries use.
"""

import re
from collections.abc import Iterator

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import stands_near, words

_NUMBER = re.compile(
    r"(?<![A-Za-z0-9.#-])(?:[A-Z]{1,2} ?\d{6,8}|\d{9}|[A-Z]\d{2}[A-Z]{2}\d{5}"
    r"|(?=[A-Z0-9]*\d[A-Z0-9]*\d)[CFGHJKLMNPRTVWXYZ][CFGHJKLMNPRTVWXYZ0-9]{7}\d"
    r"|(?:MA|[EGDSPHKegdsphk][A-Za-z]?)\d{7,8})(?![A-Za-z0-9]|\.\d|-\d)"
)
_WORDS = words("passports?(?:[ _]?(?:no|num|number|id))?", "护照")
_SOMETHING_ELSE = words(
    "order|invoice|phone|tel|mobile|call|fax|ticket|card|account|flight",
    "电话|手机|订单|身份证|卡号",
)


def _find(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        if _is_named(text, match.start()):
            yield match.span()


def _is_named(text: str, start: int) -> bool:
    """Whether the nearest word of what the number is, is passport."""
    named = [m.end() for m in _WORDS.finditer(text, max(0, start - 40), start)]
    if not named:
        return False
    return not stands_near(_SOMETHING_ELSE, text, start, reach=start - named[-1])


def _names_passports(text: str) -> bool:
    return "护照" in text or "assport" in text or "ASSPORT" in text


register(PrivateKind("passport", _find, (_names_passports,)))
