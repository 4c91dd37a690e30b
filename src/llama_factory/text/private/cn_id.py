"""Chinese resident identity numbers: 18 characters with a control digit, or the old 15 digits.

An 18-character number needs a known region, a real birthday and the right control digit. The old
form has no control digit, so it also needs a word near it that says what it is.
"""

import re
from collections.abc import Iterator
from datetime import date

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import has_number, stands_near, words

_NUMBER = re.compile(
    r"(?<!\d)(?<!\d\.)[1-9]\d{5}[ -]?(?:(?:18|19|20)\d\d[ -]?\d\d[ -]?\d\d[ -]?\d{3}[ -]?[\dXx]"
    r"|\d{6}[ -]?\d{3})(?![\dA-Za-z])"
)
_WORDS = words(
    r"id|identity|identification|resident|(?:id|identity)[ _]?(?:card|no|number)",
    "身份|证件|户口|居民|一代证",
)


def _find(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        number = match[0].replace(" ", "").replace("-", "").upper()
        if len(number) == 18 and _is_valid(number):
            yield match.span()
        is_named = stands_near(_WORDS, text, match.start())
        if len(number) == 15 and is_named and _is_valid_old(number):
            yield match.span()


def _is_valid(number: str) -> bool:
    from stdnum.cn import ric

    return bool(ric.calc_check_digit(number) == number[-1]) and _is_place_and_day(number)


def _is_valid_old(number: str) -> bool:
    """The old form is the new one without century and control digit."""
    return _is_place_and_day(f"{number[:6]}19{number[6:]}0")


def _is_place_and_day(number: str) -> bool:
    """Whether the region was ever one, and the birthday is a day.

    `ric.validate` also wants the region to have existed at birth, but a card names the region of
    the day it was issued: who was born before Pudong was founded may hold a number of Pudong.
    """
    from stdnum import numdb
    from stdnum.cn import ric
    from stdnum.exceptions import ValidationError

    try:
        is_past = ric.get_birth_date(number) <= date.today()
    except ValidationError:
        return False
    return is_past and any(known for _, known in numdb.get("cn/loc").info(number[:6]))


register(PrivateKind("cn_id", _find, (has_number,)))
