"""Synonym replacement: words give way to others of their group in a dictionary.

Wei and Zou 2019, "EDA", section 2, https://arxiv.org/abs/1901.11196. Differs: the dictionary is a
file instead of WordNet, Chinese works as well, and case and the article before a word still fit.
"""

from pathlib import Path
from random import Random

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.data.augment.synonyms import Synonyms, read_synonyms
from llama_factory.text.words import TextPiece, chosen, cut, joined, places_of_words


@AUGMENTATIONS.register("synonym_replacement")
class SynonymReplacement(Augmentation):
    """Writes synonyms for a fraction of the words that have any."""

    synonyms: Path | None = None
    """Dictionary: one group of synonyms a line, set apart by commas, tabs or spaces. Empty: the
    built-in one, a few hundred groups of English and Chinese words."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        pieces = cut(text)
        options = fitting_synonyms(pieces, read_synonyms(self.synonyms))
        for place in chosen(list(options), self.rate, rng):
            word = pieces[place].text
            pieces[place] = TextPiece(in_case_of(word, rng.choice(options[place])), True)
        return joined(pieces)


def fitting_synonyms(pieces: list[TextPiece], synonyms: Synonyms) -> dict[int, tuple[str, ...]]:
    """By place of a word: what can stand for it there. Words without synonyms are left out."""
    options: dict[int, tuple[str, ...]] = {}
    before = ""
    for place in places_of_words(pieces):
        word = pieces[place].text
        others = synonyms.get(word.lower(), ())
        if before in ("a", "an"):
            others = tuple(other for other in others if _begins_alike(other, word))
        if others:
            options[place] = others
        before = word.lower()
    return options


def _begins_alike(word: str, other: str) -> bool:
    """Whether both take the same article, judged by the spelling."""
    return (word[0].lower() in "aeiou") == (other[0].lower() in "aeiou")


def in_case_of(word: str, synonym: str) -> str:
    """The synonym in capitals where the word is."""
    if word.isupper() and len(word) > 1:
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym
