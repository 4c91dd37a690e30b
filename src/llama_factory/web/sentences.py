"""What gate, loop and journal say, in the visitor's language: kinds are translated, values kept.

The English text is the sentence itself; the Chinese ones are in `sentences_zh.json` by kind. What
is wrong with rows, files, folders and settings is kept as a text, and known again by its words.
"""

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from llama_factory.config import setting_sentences
from llama_factory.core.sentences import KINDS, LISTED, Sentence, SentenceKind
from llama_factory.data import (
    entry_sentences,
    file_sentences,
    row_sentences,
)  # their kinds are known from now on

FILES = {"zh": Path(__file__).parent / "sentences_zh.json"}
SEPARATORS = {"zh": "；"}
BY_WORDS = (
    *(row_sentences.ROOM, file_sentences.ROOM, entry_sentences.ROOM),
    *(setting_sentences.ROOM, "problem."),
)
"""Begins of the names of kinds of which texts are known by their words."""
NESTED = ("what", "items", "why", "hint")
"""Values that are such texts themselves."""
DEEPEST = 4
FEWEST_LETTERS = 8
"""A kind that holds another text, and has fewer letters of its own, fits where that is known."""
BETWEEN = re.compile(r"(?<=\.) (?=\S)")
"""Where a sentence may begin after another one."""
LONGEST = 2000
"""Characters of a text that is looked at."""


@cache
def read_translations(language: str) -> Mapping[str, str]:
    """Texts by kind; none of a language that has no file."""
    path = FILES.get(language)
    return json.loads(path.read_text(encoding="utf-8")) if path else {}


def translate_sentence(language: str, text: object) -> str:
    """A sentence in another language.

    Args:
        language: of the visitor.
        text: a `Sentence`, or any text: what is of no kind stays English.
    """
    texts = read_translations(language)
    if not texts or not isinstance(text, str):
        return str(text)
    if not isinstance(text, Sentence):
        return _known_text(language, text) or text
    if text.kind == LISTED:
        parts = (translate_sentence(language, each) for each in text.values.get("parts", ()))
        return SEPARATORS[language].join(parts)
    values = {name: translate_sentence(language, value) for name, value in text.values.items()}
    try:
        return texts[text.kind].format_map(values)
    except (KeyError, IndexError, ValueError):
        return _known_text(language, str(text)) or str(text)


@lru_cache(maxsize=1000)
def _known_text(language: str, text: str, depth: int = 0) -> str | None:
    """A text in another language, where it is one of a kind; None where it is not."""
    texts, known = read_translations(language), _plain_kinds(len(KINDS))
    name = known.get(text, "")
    if name and (depth or not _is_word(name, text)):
        return texts.get(name)
    if len(text) > LONGEST or depth > DEEPEST:
        return None
    if several := _known_sentences(language, text, depth):
        return several
    for kind in _kinds_by_words(len(KINDS)):
        found = kind.values_in(text)
        if found is None:
            continue
        inner = {n: _known_text(language, found[n], depth + 1) for n in NESTED if n in found}
        if inner and not any(inner.values()) and _num_letters(kind) < FEWEST_LETTERS:
            continue
        values = found | {n: value for n, value in inner.items() if value is not None}
        return texts[kind.name].format_map(values) if kind.name in texts else None
    return None


def _known_sentences(language: str, text: str, depth: int) -> str | None:
    """Several problems of a setting after one another; None where not all of them are known."""
    for between in BETWEEN.finditer(text):
        first = _known_text(language, text[: between.start()], depth + 1)
        if first and (rest := _known_text(language, text[between.end() :], depth + 1)):
            return first + rest
    return None


@lru_cache(maxsize=1)
def _plain_kinds(num_kinds: int) -> dict[str, str]:
    """Kinds without values by their text: these are known even where only the text was kept."""
    return {kind.english: name for name, kind in KINDS.items() if "{" not in kind.english}


@lru_cache(maxsize=1)
def _kinds_by_words(num_kinds: int) -> list[SentenceKind]:
    """Those with the most words of their own first: they say more than others that fit as well."""
    found = [kind for name, kind in KINDS.items() if name.startswith(BY_WORDS)]
    return sorted((k for k in found if "{" in k.english), key=_num_letters, reverse=True)


def _num_letters(kind: SentenceKind) -> int:
    return sum(letter.isalpha() for words, _ in kind.pieces for letter in words)


def _is_word(name: str, text: str) -> bool:
    """Whether it is a word within sentences of rows: alone it may be anybody's."""
    return name.startswith(BY_WORDS) and " " not in text
