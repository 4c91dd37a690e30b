"""Random swap: pairs of words change places.

Wei and Zou 2019, "EDA", section 2, https://arxiv.org/abs/1901.11196. Differs: words change places
only with near ones of the same sentence, so that the text can still be understood.
"""

import re
from collections.abc import Iterator
from random import Random

from pydantic import Field

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.text.words import TextPiece, chosen, cut, joined

_END = re.compile(r"[.!?;:。！？；：\n]")


@AUGMENTATIONS.register("random_swap")
class RandomSwap(Augmentation):
    """Swaps a fraction of the words with a neighbour."""

    max_distance: int = Field(3, ge=1)
    """Largest distance, in words, of two words that change places. Higher disturbs more."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        pieces = cut(text)
        partners: dict[int, list[int]] = {}
        for sentence in _sentences(pieces):
            partners |= self._partners(pieces, sentence)
        for place in chosen(list(partners), self.rate, rng):
            other = rng.choice(partners[place])
            pieces[place], pieces[other] = pieces[other], pieces[place]
        return joined(pieces)

    def _partners(self, pieces: list[TextPiece], places: list[int]) -> dict[int, list[int]]:
        """By place of a word: the later ones of its sentence that it can change places with."""
        found = {}
        for number, place in enumerate(places):
            near = places[number + 1 : number + 1 + self.max_distance]
            others = [other for other in near if _differ(pieces[place], pieces[other])]
            if others:
                found[place] = others
        return found


def _differ(word: TextPiece, other: TextPiece) -> bool:
    """Whether two words may be swapped: not equal ones, nor of two scripts, as one needs spaces."""
    return word.is_han == other.is_han and word.text.lower() != other.text.lower()


def _sentences(pieces: list[TextPiece]) -> Iterator[list[int]]:
    """The places of the words, sentence by sentence."""
    places: list[int] = []
    for place, piece in enumerate(pieces):
        if piece.is_word:
            places.append(place)
        elif _END.search(piece.text):
            yield places
            places = []
    yield places
