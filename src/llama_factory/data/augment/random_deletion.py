"""Random deletion: words are left out.

Wei and Zou 2019, "EDA", section 2, https://arxiv.org/abs/1901.11196. Differs: a fixed fraction
of the words goes instead of each with a probability, and negations stay.
"""

import re
from random import Random

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.text.words import TextPiece, chosen, cut, joined, places_of_words

_NEGATION = re.compile(
    r"not?|never|none|neither|nor|nothing|nobody|without|except|\w+n['’]t|.*[不没沒无無未非别別勿莫].*",
    re.IGNORECASE,
)


@AUGMENTATIONS.register("random_deletion")
class RandomDeletion(Augmentation):
    """Leaves out a fraction of the words, never the last one and never a negation."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        pieces = cut(text)
        words = places_of_words(pieces)
        spare = [place for place in words if not _NEGATION.fullmatch(pieces[place].text)]
        if len(words) < 2:
            return text
        gone = set(chosen(spare, self.rate, rng))
        if len(gone) == len(words):
            gone.remove(rng.choice(sorted(gone)))
        for place in sorted(gone):
            _leave_out(pieces, place)
        return joined(pieces)


def _leave_out(pieces: list[TextPiece], place: int) -> None:
    """Empty a word, and one of the two spaces that would be left."""
    pieces[place] = TextPiece("", False)
    for beside in (place + 1, place - 1):
        if 0 <= beside < len(pieces) and pieces[beside].text == " ":
            pieces[beside] = TextPiece("", False)
            return
