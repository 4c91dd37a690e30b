"""Words near a number that say what it is, in English and Chinese."""

import re

NUMBER_OF_SOMETHING_ELSE = re.compile(
    r"\b(?:order|invoice|tracking|parcel|isbn|imei|serial|part|reference|ref|timestamp|case|ticket"
    r"|version|uuid|commit|sku|barcode)s?\b(?:\s?(?:no\b|num\b|number|id\b|is\b|#))*[\s.:#=\"'-]*$"
    r"|(?:订单|单|流水|工|学|书|编|序列|期|版本|股票代|时间戳|设备|条形?码|统一编)[号码]?[::是为\s]*$",
    re.IGNORECASE,
)
"""The end of a text after which a number counts or names a thing, not a person."""


def words(english: str, chinese: str) -> re.Pattern[str]:
    """A pattern of context words: English ones whole and in any case, Chinese ones anywhere."""
    return re.compile(rf"(?<![a-z])(?:{english})(?![a-z])|{chinese}", re.IGNORECASE)


def stands_near(pattern: re.Pattern[str], text: str, start: int, *, reach: int = 30) -> bool:
    """Whether a pattern is found in the few characters before `start`."""
    return pattern.search(text, max(0, start - reach), start) is not None


def names_something_else(text: str, start: int) -> bool:
    """Whether the words right before `start` say that an order, a version or the like follows."""
    return stands_near(NUMBER_OF_SOMETHING_ELSE, text, start)
