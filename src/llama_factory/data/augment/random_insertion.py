"""Random insertion: synonyms of words of the text appear at other places in it.

Wei and Zou 2019, "EDA", section 2, https://arxiv.org/abs/1901.11196. Differs: where no word has a
synonym in the dictionary, a word of the text is repeated.
"""

from pathlib import Path
from random import Random

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.data.augment.synonyms import read_synonyms
from llama_factory.text.words import TextPiece, cut, how_many, joined, places_of_words


@AUGMENTATIONS.register("random_insertion")
class RandomInsertion(Augmentation):
    """Adds words: their number is a fraction of the words there are."""

    synonyms: Path | None = None
    """Dictionary: one group of synonyms a line, set apart by commas, tabs or spaces. Empty: the
    built-in one, a few hundred groups of English and Chinese words."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        pieces = cut(text)
        words = places_of_words(pieces)
        if not words:
            return text
        synonyms = read_synonyms(self.synonyms)
        texts = {place: pieces[place].text for place in words}
        known = [synonyms[word.lower()] for word in texts.values() if word.lower() in synonyms]
        for _ in range(how_many(len(words), self.rate)):
            place = rng.choice(words)
            word = rng.choice(rng.choice(known)) if known else texts[place]
            _insert_after(pieces, place, word)
        return joined(pieces)


def _insert_after(pieces: list[TextPiece], place: int, word: str) -> None:
    """Put a word behind another, into the same piece, so that no place moves."""
    before = pieces[place].text
    space = "" if cut(word)[-1].is_han and pieces[place].is_han else " "
    pieces[place] = TextPiece(f"{before}{space}{word}", True)
