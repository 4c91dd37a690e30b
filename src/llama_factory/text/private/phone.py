"""Phone numbers: the shapes of China, the US and international ones, validated by `phonenumbers`.

Numbers written the way their own country does need a word such as call or 电话 before them. Lines
of companies that anybody may dial (toll free, shared cost, 400 in China) are not private.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import (
    compact,
    has_number,
    names_something_else,
    plain,
    stands_near,
    words,
)

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

_RUN = re.compile(r"(?<![\d+])(?<!\d[.,:])[+(]{0,2}\d(?:[ ().\-/]{0,3}\d){6,40}(?![\d%])(?!,\d)")
_EXTENSION = re.compile(r" ?(?:x|ext\.? ?|转|分机) ?\d{1,5}(?!\d)", re.IGNORECASE)
_WORDS = words(
    r"(?:tele)?phones?|tel|mobile|cell|call(?:ed|ing)?|dial|fax|whatsapp|text(?:ed)?|contact|sms"
    r"|r[au]ng|ring|reach(?:ed)?|wechat|handset|ph",
    "电话|手机|座机|传真|联系|拨打|致电|微信|热线|总机|来电|短信|固话|打给",
)
_SUM = re.compile(r"(?:[\d)]\s?[+*×/÷^-]|[=≈×÷*])\s?[-+(]?\s?$")
_NO_LOCAL_NUMBER = re.compile(r"[1-9]\d*(?:\.\d+){3}|\d{1,2}([./-])\d{1,2}\1(?:19|20)\d\d.*")
"""A version or a machine's address (a French number with dots begins with 0), or a date."""
_GLUED = re.compile(r"(?<![A-Za-z])(?:tel|phone|mobile|ph|fax|cell|call|tel no)$", re.IGNORECASE)
_REGIONS_WITH_ZERO = ("CN", "GB", "DE", "FR", "JP", "AU", "TW", "KR", "IN")
_REGIONS_WITHOUT_ZERO = ("US", "HK", "SG", "IN")


@dataclass(frozen=True)
class _Shape:
    """A way to write numbers of one region; unsure ones need a context word."""

    pattern: re.Pattern[str]
    region: str | None
    is_sure: bool = True


_SHAPES = (
    _Shape(re.compile(r"\(?(?:\+|(?<!\d)00)\)? ?[1-9](?:[ ().\-/]{0,3}\d){6,14}(?!\d)"), None),
    _Shape(
        re.compile(r"(?<!\d)(?<!\d\.)(?:\(?86\)?[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)"), "CN"
    ),
    _Shape(re.compile(r"(?<!\d)(?:\(0\d{2,3}\) ?|0\d{2,3}[ -])\d{3,4}[ -]?\d{4}(?!\d)"), "CN"),
    _Shape(re.compile(r"(?<!\d)(?:1[ .-])?\([2-9]\d\d\) ?\d{3}[ .-]\d{4}(?!\d)"), "US"),
    _Shape(re.compile(r"(?<!\d)(?:1[ .-])?[2-9]\d\d([ .-])\d{3}\1\d{4}(?!\d)"), "US"),
    _Shape(re.compile(r"(?<!\d)0\d{9,11}(?!\d)"), "CN", is_sure=False),
    _Shape(re.compile(r"(?<!\d)1?[2-9]\d{2}[2-9]\d{6}(?!\d)"), "US", is_sure=False),
)


def _find(text: str) -> Iterator[Span]:
    for run in _RUN.finditer(text):
        if _is_glued(text, run.start()):
            continue
        found = sorted(_in_run(text, run)) or list(_local(text, run))
        for start, end in found:
            extension = _EXTENSION.match(text, end)
            yield start, extension.end() if extension else end


def _is_glued(text: str, start: int) -> bool:
    """Whether letters or a decimal point run into the number; `tel139...` may."""
    before = text[max(0, start - 1) : start]
    if not before or not (before.isascii() and (before.isalnum() or before == "_")):
        return before == "." and text[max(0, start - 2) : start - 1].isdigit()
    return not stands_near(_GLUED, text, start, reach=8)


def _in_run(text: str, run: re.Match[str]) -> Iterator[Span]:
    """Spans of the sure shapes in a run of digits, and of the unsure ones that a word names."""
    is_named = stands_near(_WORDS, text, run.start())
    taken: list[Span] = []
    for shape in _SHAPES:
        for match in shape.pattern.finditer(text, *run.span()):
            if any(match.start() < end and start < match.end() for start, end in taken):
                continue
            span = _checked(text, match, shape, is_named=is_named)
            if span:
                taken.append(span)
    yield from taken


def _checked(text: str, match: re.Match[str], shape: _Shape, *, is_named: bool) -> Span | None:
    """The span of a valid number; an international one may have swallowed what follows it."""
    if not is_named and (not shape.is_sure or _is_counted(text, match)):
        return None
    end = match.end()
    while end > match.start() + 6:
        written = text[match.start() : end]
        if _is_valid(written, shape.region) or _is_american(written, shape, is_named=is_named):
            return match.start(), end
        if shape.region or " " not in written:
            return None
        end = text.rindex(" ", match.start(), end)
    return None


def _is_counted(text: str, match: re.Match[str]) -> bool:
    """Whether the number is an order's or the like, or a part of a sum."""
    is_sum = match[0].isdigit() and stands_near(_SUM, text, match.start(), reach=6)
    return is_sum or names_something_else(text, match.start())


def _local(text: str, run: re.Match[str]) -> Iterator[Span]:
    """The run itself, where a word says phone and a country writes its numbers so."""
    if not stands_near(_WORDS, text, run.start()) or names_something_else(text, run.start()):
        return
    if _NO_LOCAL_NUMBER.fullmatch(run[0]):
        return
    regions = _REGIONS_WITH_ZERO if run[0].lstrip("(")[0] == "0" else _REGIONS_WITHOUT_ZERO
    if any(_is_valid(run[0], region) for region in regions):
        yield run.span()


def _is_valid(written: str, region: str | None) -> bool:
    from phonenumbers import is_valid_number, number_type

    number = _parsed(written, region)
    if number is None or not is_valid_number(number):
        return False
    return number_type(number) in _private_types()


def _is_american(written: str, shape: _Shape, *, is_named: bool) -> bool:
    """Whether a number looks American beyond doubt, though its area code is not in use.

    People invent (555) 123-4567 when they do not want to give theirs, and new codes come.
    """
    from phonenumbers import PhoneNumberType, number_type

    if shape.region != "US" or not shape.is_sure or not (is_named or "(" in written):
        return False
    number = _parsed(written, "US")
    if number is None or written.lstrip("(").startswith("400"):
        return False
    return number_type(number) == PhoneNumberType.UNKNOWN


def _private_types() -> frozenset[int]:
    from phonenumbers import PhoneNumberType as Type

    return frozenset(
        (Type.MOBILE, Type.FIXED_LINE, Type.FIXED_LINE_OR_MOBILE, Type.VOIP, Type.PERSONAL_NUMBER)
    )


def _parsed(written: str, region: str | None) -> "PhoneNumber | None":
    from phonenumbers import NumberParseException, parse

    digits = written.strip("() ")
    if region is None and digits.startswith("00"):
        digits = "+" + digits[2:]
    try:
        return parse(digits, region)
    except NumberParseException:
        return None


def _canonical(value: str) -> str:
    """E.164 where the country is sure, else the digits alone."""
    from phonenumbers import PhoneNumberFormat, format_number

    for shape in _SHAPES:
        match = shape.pattern.match(plain(value))
        number = _parsed(match[0], shape.region) if match else None
        if number is not None:
            return format_number(number, PhoneNumberFormat.E164)
    return compact(value)


register(PrivateKind("phone", _find, (has_number,), _canonical))
