"""Typing mistakes: slips of the finger in Latin words, homophones in Chinese ones."""

from collections.abc import Iterator
from functools import lru_cache
from random import Random

from pydantic import Field

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.text.words import TextPiece, cut, how_many, is_han, joined

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""The letters of a QWERTY keyboard; each row lies half a key to the right of the one above."""
NUMERALS = frozenset("零〇一二两三四五六七八九十百千万亿")
"""Never mistyped: another number is another question."""


@AUGMENTATIONS.register("typo")
class Typo(Augmentation):
    """Mistypes a fraction of the letters and Chinese characters.

    A letter becomes one beside it on the keyboard, is left out, or typed twice; a Chinese character
    becomes another common one of the same pinyin.
    """

    rate: float = Field(0.05, ge=0, le=1)
    """Fraction of letters and Chinese characters that are mistyped; above 0 at least one is. Higher
    makes rows more varied and harder to understand, lower keeps them closer to the original."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        pieces = cut(text)
        words = {place: list(piece.text) for place, piece in enumerate(pieces) if piece.is_word}
        spots = [(p, i) for p, word in words.items() for i, c in enumerate(word) if _can_slip(c)]
        left = how_many(len(spots), self.rate)
        for place, index in rng.sample(spots, len(spots)) if left else ():
            left -= _mistype(words[place], index, pieces[place], rng)
            if not left:
                break
        typed = (TextPiece("".join(words.get(p, each.text)), True) for p, each in enumerate(pieces))
        changed = joined(list(typed))
        return changed if changed.strip() else text


def _can_slip(character: str) -> bool:
    return character.lower() in neighbours() or (is_han(character) and character not in NUMERALS)


def _mistype(word: list[str], index: int, piece: TextPiece, rng: Random) -> bool:
    """Mistype one character in place; returns whether there was a way to."""
    old = word[index]
    options = [*_homophones(piece.text, index)] if is_han(old) else _slips(word, index)
    if options:
        word[index] = rng.choice(options)
    return bool(options)


def _slips(word: list[str], index: int) -> list[str]:
    """What one slip makes of a letter; words of one or two letters lose none."""
    old = word[index]
    beside = neighbours()[old.lower()]
    options = [*(beside.upper() if old.isupper() else beside), old * 2]
    return [*options, ""] if len(word) > 2 else options


@lru_cache(maxsize=1)
def neighbours() -> dict[str, str]:
    """The keys around each letter."""
    at = {c: (x + y / 2, y) for y, row in enumerate(ROWS) for x, c in enumerate(row)}
    return {
        key: "".join(o for o, (u, v) in at.items() if o != key and abs(u - x) + abs(v - y) <= 1.5)
        for key, (x, y) in at.items()
    }


def _homophones(word: str, index: int) -> str:
    """Common characters that sound like one of a word, as it is read in that word."""
    from pypinyin import lazy_pinyin

    readings = lazy_pinyin(word, errors="ignore")
    if len(readings) != len(word):
        return ""
    return _by_pinyin().get(readings[index], "").replace(word[index], "")


@lru_cache(maxsize=1)
def _by_pinyin() -> dict[str, str]:
    """The common characters by pinyin without tone, which is how people type them."""
    from pypinyin import lazy_pinyin

    sounds: dict[str, str] = {}
    for character in _common():
        sound = lazy_pinyin(character)[0]
        sounds[sound] = sounds.get(sound, "") + character
    return sounds


def _common() -> Iterator[str]:
    """The 3,755 characters of level 1 of GB 2312-80: those in everyday use."""
    last = 0xD7F9
    for high in range(0xB0, 0xD8):
        for low in range(0xA1, 0xFF):
            if high * 256 + low <= last:
                yield bytes((high, low)).decode("gb2312")
