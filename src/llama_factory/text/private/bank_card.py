"""Numbers of bank cards: a known issuer's prefix, its length, and a valid Luhn digit.

One number in ten passes Luhn by chance, so a run of digits after "order number" is left alone.
"""

import re
from collections.abc import Iterator

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import has_number, names_something_else, stands_near, words

_RUN = re.compile(r"(?<![\dA-Za-z_])(?<!\d[.,-])\d(?:[ -]?\d){12,40}(?![\dA-Za-z_])(?![.,]\d)")
_GROUPED = re.compile(
    r"(?<!\d)(?:\d{4}([ -])(?:\d{4}\1){2,3}\d{1,4}|\d{4}([ -])\d{6}\2\d{4,5})(?!\d)"
)
_SOLID = re.compile(r"(?<!\d)\d{13,19}(?!\d)")
_ISSUERS = re.compile(
    r"4\d{15}(?:\d{3})?|(?:5[1-5]|6[25])\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|(?:6011|64[4-9]\d|35(?:2[89]|[3-8]\d))\d{12}|(?:62|9558)\d{14,17}|220[0-4]\d{12}"
)
"""Visa, Mastercard, American Express, Discover, JCB, UnionPay, Mir: prefix and length are sure."""
_RARER = re.compile(r"4\d{12}|3(?:0[0-5]|[689]\d)\d{11}|(?:5[06-8]|6[0-9]|9[0-9]|[34]\d)\d{11,17}")
"""Short Visa, Diners, Maestro, older Chinese cards: need groups of four or a word for a card."""
_WORDS = words(
    r"(?:credit|debit|bank|gift)?[ _]?cards?|visa|mastercard|amex|unionpay|discover|jcb|diners"
    r"|maestro|pan|account|payments?|card[ _]?(?:no|num|number)|payment_method|refund(?:ed)?"
    r"|charged?|paid",
    "卡|账号|账户|帐号|帐户|银行|转账|汇款|付款|收款|打钱|银联|还款|退款",
)

_EXPIRES = re.compile(
    r".{0,12}(?:(?<!\d)(?:0[1-9]|1[0-2]) ?/ ?(?:20)?\d\d(?!\d)|exp|cvv|cvc|有效期|户名)", re.I
)


def _find(text: str) -> Iterator[Span]:
    for run in _RUN.finditer(text):
        for shape in (_GROUPED, _SOLID):
            for match in shape.finditer(text, *run.span()):
                if _is_card(text, match):
                    yield match.span()


def _is_card(text: str, match: re.Match[str]) -> bool:
    number = match[0].replace(" ", "").replace("-", "")
    if not _RARER.fullmatch(number) and not _ISSUERS.fullmatch(number):
        return False
    if not _is_luhn(number):
        return False
    if names_something_else(text, match.start()):
        return False
    is_sure = match.re is _GROUPED or _ISSUERS.fullmatch(number) is not None
    return is_sure or _is_named(text, match)


def _is_named(text: str, match: re.Match[str]) -> bool:
    """Whether the words around a number speak of a card."""
    if stands_near(_WORDS, text, match.start(), reach=40):
        return True
    return bool(
        _EXPIRES.match(text, match.end()) or _WORDS.search(text, match.end(), match.end() + 12)
    )


def _is_luhn(number: str) -> bool:
    from stdnum import luhn

    return bool(luhn.is_valid(number)) and len(set(number)) > 1


register(PrivateKind("bank_card", _find, (has_number,)))
