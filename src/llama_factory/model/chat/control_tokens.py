"""Control tokens in the text of turns: kept apart from those that the chat template writes.

A turn that says `<|im_end|>` must not end itself. While a template writes a conversation, such
words in its turns are replaced by stand-ins, which only this file can read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

MARK = "\ufdd0"
"""Begins a stand-in. Unicode reserves it for such internal use; in a text it gets a stand-in too.
"""
FIRST = 0xF0000
"""The character after it, less this, is the number of a word."""

LOOKED_FOR = re.compile(
    r"""['"]([^'"]+)['"]\s+(?:not\s+)?in\b"""
    r"""|\.(?:split|startswith|endswith|find|replace)\(\s*['"]([^'"]+)['"]"""
)
"""How a template looks for a word in what a turn says."""

STAND_IN = re.compile(MARK + "(.)", re.DOTALL)


@dataclass(frozen=True)
class ControlTokens:
    """Words that are control tokens of one tokenizer.

    Attributes:
        words: the spelling of each, longest first.
    """

    words: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, (MARK, *self.words))))

    @cached_property
    def _stand_ins(self) -> dict[str, str]:
        return {word: MARK + chr(FIRST + i) for i, word in enumerate((MARK, *self.words))}

    def hidden(self, value: Any) -> Any:
        """Text, or whatever JSON holds, with stand-ins for control tokens."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._stand_ins[found[0]], value)
        if isinstance(value, dict):
            return {self.hidden(key): self.hidden(each) for key, each in value.items()}
        return [self.hidden(each) for each in value] if isinstance(value, list) else value

    def word(self, stand_in: str) -> str:
        """What a stand-in stands for."""
        return (MARK, *self.words)[ord(stand_in[1]) - FIRST]

    def shown(self, text: str) -> str:
        """Text with the words themselves again."""
        return STAND_IN.sub(lambda found: self.word(found[0]), text) if MARK in text else text

    def last(self, text: str) -> int:
        """Where the last control token in a text begins; -1 where there is none."""
        return max((found.start() for found in self._pattern.finditer(text)), default=-1)


def find(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: Sequence[str], allowed: Sequence[str]
) -> ControlTokens:
    """The control tokens of a tokenizer.

    Args:
        tokenizer: marks some of its added tokens as special. Others, such as `<think>` in most
            vocabularies, are words that answers may say.
        template: words that it looks for in turns, such as the end of a thought, stay words there.
        ends: what it ends answers with.
        allowed: special tokens that text may write.
    """
    return _found(tokenizer, len(tokenizer), template, tuple(ends), tuple(allowed))


@lru_cache(maxsize=64)
def _found(
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,  # tokens may be added later
    template: str,
    ends: tuple[str, ...],
    allowed: tuple[str, ...],
) -> ControlTokens:
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special} | {*tokenizer.all_special_tokens}
    named = {str(token) for token in tokenizer.special_tokens_map.values()}
    words = ((special - _looked_for(template)) | named | {*ends}) - {*allowed}
    spelt = sorted((word for word in words if word.strip()), key=lambda word: (-len(word), word))
    return ControlTokens(tuple(spelt))


def _looked_for(template: str) -> set[str]:
    """Words that a template looks for in turns; with the end of a tag its beginning, too."""
    found = {word for pair in LOOKED_FOR.findall(template) for word in pair if word}
    begun = {word.replace("/", "", 1) for word in found}
    return found | begun | {word[:1] + "/" + word[1:] for word in begun}
