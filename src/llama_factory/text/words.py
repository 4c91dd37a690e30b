"""Texts as words and what lies between them; what must survive as it is never counts as a word."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
KEPT = re.compile(
    r"""
    ```.*?(?:```|\Z)                                          # fenced code
    | `[^`\n]+`                                               # code
    | https?://[^\s<>"'，。；！？、（）【】《》]+             # addresses
    | (?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+
    | \{\{[^{}\n]{0,100}\}\} | \{\w{1,50}\}                   # places to fill in, as in {{name}}
    | <[^<>\s][^<>\n]{0,100}>                                 # marks, as in <image>
    | \$\$.{1,500}?\$\$ | \\\(.{1,500}?\\\) | \\\[.{1,500}?\\\]   # formulas
    """,
    re.VERBOSE | re.DOTALL,
)
"""Spans that no method may change."""

_PIECE = re.compile(
    rf"(?P<kept>{KEPT.pattern})|(?P<han>[{HAN}]+)"
    rf"|(?P<word>[^\W{HAN}]+(?:['’-][^\W{HAN}]+)*)|\s+|.",
    re.VERBOSE | re.DOTALL,
)
_HAN = re.compile(f"[{HAN}]")
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff"
"""Thai, Lao, Burmese, Khmer and kana: written without spaces, and no dictionary for them here."""
_SEARCHED = re.compile(rf"[{HAN}]+|[{_UNSPACED}]+|[^\W_{HAN}{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
MIN_PLURAL = 4
"""Letters of the shortest word that may be a plural."""
_ACCENTS = re.compile("[\u0300-\u036f]")
_ALPHABETIC = re.compile(r"(?:[^\W\d_]|['’-])+")


class TextPiece(NamedTuple):
    """A stretch of a text; the pieces of a text joined are the text."""

    text: str
    is_word: bool

    @property
    def is_han(self) -> bool:
        """Whether it is a Chinese word, written without spaces around it."""
        return self.is_word and is_han(self.text[0])


def is_han(character: str) -> bool:
    """Whether this is a Chinese character."""
    return bool(_HAN.match(character))


def cut(text: str) -> list[TextPiece]:
    """Words, and what lies between them: white space, punctuation, numbers, code, placeholders.

    Names with digits in them (GPT4, B2B) are no words either: to change them changes the question.
    """
    pieces = []
    for match in _PIECE.finditer(text):
        if match["han"]:
            pieces += [TextPiece(word, True) for word in _chinese().lcut(match["han"])]
        else:
            is_word = bool(match["word"] and _ALPHABETIC.fullmatch(match["word"]))
            pieces.append(TextPiece(match[0], is_word))
    return pieces


def jieba_words(text: str) -> list[str]:
    """All of a text as jieba cuts it, marks and white space too; joined it is the text."""
    return list(_chinese().lcut(text))


def search_words(text: str) -> Iterator[str]:
    """The words by which a text is found, cut alike in documents and in questions.

    Case, accents, width of letters and the s of an English plural do not count. Chinese comes as
    jieba cuts it for search: long words, and the shorter ones in them. Kana and Thai come as pairs
    of characters.
    """
    for run in _SEARCHED.findall(_folded(text)):
        if _HAN.match(run):
            yield from _chinese().cut_for_search(run)
        elif _IS_UNSPACED.match(run) and len(run) > 1:
            yield from (run[place : place + 2] for place in range(len(run) - 1))
        else:
            yield _singular(run) if run.isascii() else run


def _singular(word: str) -> str:
    """An English word without the s of its plural (Harman 1991, "How effective is suffixing?")."""
    if len(word) < MIN_PLURAL or not word.endswith("s") or word.endswith(("us", "ss", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    return word[:-1]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", plain).casefold()


def joined(pieces: Sequence[TextPiece]) -> str:
    """The text that the pieces make up."""
    return "".join(piece.text for piece in pieces)


def places_of_words(pieces: Sequence[TextPiece]) -> list[int]:
    """Where the words are."""
    return [place for place, piece in enumerate(pieces) if piece.is_word]


def how_many(count: int, rate: float) -> int:
    """How many of `count` things are changed: their fraction `rate`, and at least one above 0."""
    return min(count, max(1, round(rate * count))) if rate > 0 else 0


def chosen(places: Sequence[int], rate: float, rng: Random) -> list[int]:
    """A fraction of the places, at least one where the rate is above 0, in rising order."""
    return sorted(rng.sample(places, how_many(len(places), rate)))


@lru_cache(maxsize=1)
def _chinese() -> Any:
    """Jieba with its own dictionary, whatever else the process has taught jieba.

    Filled here because jieba itself would trust a cache in the shared temporary folder, which
    any user of the machine can write.
    """
    import jieba

    cutter = jieba.Tokenizer()
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter
