"""When two questions are worded the same, or nearly: spelling and fillers may differ, nothing else.

Edit distance alone calls "enable it" and "disable it" alike. So besides being few, every edit must
be one of the few kinds that leave the meaning alone; what is not known to be harmless is a change.
"""

import re
import unicodedata

from rapidfuzz.distance import OSA, Levenshtein

MAX_EDITS = 3
"""Characters in which nearly equal questions may differ."""
MIN_WIDTH = 20
"""In a shorter question three characters may be all that matters. Chinese ones count twice."""
_MIN_MISSPELT = 5
"""A word shorter than this turns into another word too easily to be a misspelling of it."""

_MINUS, _SHARP = "\u2212", "\u266f"
"""Signs, which stay, for the hyphen of -5 and the # of C#, which as punctuation would go."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NEGATIVE = re.compile(r"(?<![0-9a-z_])-(?=\.?\d)")
_HASH = re.compile(r"(?<=[a-z])#(?!\w)")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
_WHITESPACE = re.compile(r"\s+")
_POWER = re.compile("[²³¹⁰⁴-⁹]")
_MARK = re.compile(r"(?<=\d)(?P<in_number>[.,:/*-](?=\d)|%| (?=\d))|[\W_]")
_NUMBER = re.compile(rf"{_MINUS}?\d+(?:[.,:/]\d+)*%?")

_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_HAN}]+|\d+|[^\W\d_{_HAN}]+|[^\w\s]")
_IS_HAN = re.compile(rf"[{_HAN}]")
_CONTRACTION = re.compile(r"\b(what|who|where|when|how|it|that|there|here)['’]s\b", re.IGNORECASE)
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")

_HOW_CAN = re.compile(r"\b(how|where) (?:can|could)\b", re.IGNORECASE)
_TELL_ME = re.compile(r"\b(tell|give|show|write|make|get) me\b", re.IGNORECASE)

_FILLERS = frozenset(("a", "an", "the", "my", "of", "so", "pls", "ok", "hi", "hey"))
"""Words that may be there or not; longer ones are more edits than are allowed."""
_HAN_FILLERS = re.compile(r"(?:请问|请|的|了|吗|呢|吧|啊|呀|嘛|一下|哦|呐|唉)+")
_LIKE = tuple(
    map(
        frozenset,
        [
            *(("a", "an", "the"), ("in", "at"), ("on", "at"), ("is", "are")),
            *("帐账", "录陆", "象像", "做作", "您你", "订定", "份分", "粘黏", "的地得"),
        ],
    )
)
"""Words, and Chinese characters, that are written for one another."""
_CONFUSED = frozenset(
    frozenset(pair)
    for pair in (
        *(("contact", "contract"), ("county", "country"), ("desert", "dessert")),
        *(("though", "through"), ("through", "thorough"), ("quiet", "quite")),
        *(("casual", "causal"), ("trail", "trial"), ("martial", "marital")),
        *(("united", "untied"), ("diner", "dinner"), ("costal", "coastal")),
        *(("statue", "statute"), ("statue", "stature"), ("scared", "scarred")),
        *(("scared", "sacred"), ("angel", "angle"), ("reverse", "reserve")),
        *(("planed", "planned"), ("filing", "filling"), ("hoping", "hopping")),
        *(("staring", "starring"), ("message", "massage")),
    )
)
"""Pairs of correct words one letter apart that mean different things."""


def comparable_form(text: str) -> str:
    """A text without case, spacing and punctuation, as far as they carry no meaning.

    Signs, decimal points, the gap between two numbers and the # of C# stay. A text of nothing but
    punctuation stays as it is.
    """
    plain = _canonical(text)
    joined = _WHITESPACE.sub("", _BETWEEN_DIGITS.sub("\0", plain)).replace("\0", " ")
    return _MARK.sub(_meant, joined) or joined


def _numbers(text: str) -> list[str]:
    """All numbers of a text in order, in one spelling."""
    return _NUMBER.findall(_canonical(text))


def num_edits(one: str, other: str) -> int | None:
    """Characters in which two texts differ while they still ask the same.

    Returns:
        0 where they are the same once normalised; None where they ask something else or might.
    """
    first, second = comparable_form(one), comparable_form(other)
    if first == second:
        return 0
    if min(_width(first), _width(second)) < MIN_WIDTH:
        return None
    edits = Levenshtein.distance(first, second, score_cutoff=MAX_EDITS)
    if edits > MAX_EDITS or _numbers(one) != _numbers(other):
        return None
    return edits if _is_harmless(_tokens(one), _tokens(other)) else None


def _width(text: str) -> int:
    return len(text) + len(_IS_HAN.findall(text))


def _canonical(text: str) -> str:
    plain = _THOUSANDS.sub("", _compatible(text).casefold())
    return _HASH.sub(_SHARP, _NEGATIVE.sub(_MINUS, plain))


def _compatible(text: str) -> str:
    """NFKC, which alone would make 102 of 10²."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _POWER.sub(lambda power: f"^{power.group()}", text))


def _meant(match: re.Match[str]) -> str:
    """Marks inside numbers and symbols such as + stay; punctuation and formatting go."""
    mark = match.group()
    if match["in_number"] is not None:
        return mark
    return "" if unicodedata.category(mark)[0] in "PZC" else mark


def _tokens(text: str) -> list[str]:
    """Words as written, runs of Chinese characters cut into single ones, numbers and symbols."""
    plain = _APOSTROPHE.sub("", _CONTRACTION.sub(r"\1 is", _compatible(text)))
    plain = _TELL_ME.sub(r"\1", _HOW_CAN.sub(r"\1 do", plain))
    found = [piece for token in _TOKEN.findall(plain) for piece in _pieces(token)]
    if found and not found[0].isupper():
        found[0] = found[0].lower()
    return found


def _pieces(token: str) -> list[str]:
    if _IS_HAN.match(token):
        return list(token)
    is_sign = len(token) == 1 and unicodedata.category(token)[0] == "P"
    return [] if is_sign else [token]


def _is_harmless(one: list[str], other: list[str]) -> bool:
    """Whether every difference between two rows of tokens is of a kind that changes no meaning."""
    if [token.casefold() for token in one] == [token.casefold() for token in other]:
        return True
    found = Levenshtein.opcodes(one, other, score_hint=MAX_EDITS)
    steps = [step for step in found if step.tag != "equal"]
    return all(
        _is_harmless_change(
            one[step.src_start : step.src_end], other[step.dest_start : step.dest_end]
        )
        for step in steps
    )


def _is_harmless_change(before: list[str], after: list[str]) -> bool:
    """One place: fillers put in or left out, or words replaced one by one by their like."""
    if not before or not after:
        return _are_fillers(before or after)
    if _are_fillers(before) and _are_fillers(after):
        return True
    return len(before) == len(after) and all(map(_are_alike, before, after))


def _are_fillers(tokens: list[str]) -> bool:
    return bool(_HAN_FILLERS.fullmatch("".join(tokens))) or all(
        token in _FILLERS for token in tokens
    )


def _are_alike(one: str, other: str) -> bool:
    """Two words that differ in case, spelling or misspelling only."""
    if one.casefold() == other.casefold():
        return True
    pair = frozenset((one, other))
    if any(pair <= known for known in _LIKE):
        return True
    if not (one.islower() and other.islower()):
        return False  # names differ in a letter or two: Martin and Marvin
    return pair not in _CONFUSED and _is_misspelling(one, other)


def _is_misspelling(one: str, other: str) -> bool:
    """One letter inside a long word left out, doubled or swapped with the next; never replaced.

    A replaced letter makes nitrite of nitrate, and a changed start enables of disables. A final
    s is a plural.
    """
    if one[0] != other[0] or OSA.distance(one, other) != 1:
        return False
    short, long = sorted((one, other), key=len)
    if len(short) < len(long):
        is_plural = long == f"{short}s" and len(short) > 2
        return is_plural or (len(short) >= _MIN_MISSPELT and short[-1] == long[-1])
    is_swap = sorted(one) == sorted(other)
    is_british = one.replace("z", "s") == other.replace("z", "s")
    return len(one) >= _MIN_MISSPELT and (is_swap or is_british)
