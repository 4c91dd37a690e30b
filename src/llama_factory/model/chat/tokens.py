"""Text -> tokens that know which characters they stand for, and control tokens that turns spell.

A text is cut at borders, which no token crosses: a prompt has the same tokens whether or not an
answer follows it. A turn that contains `<|im_end|>` must not end itself: while a template writes a
conversation, such words in its turns are replaced by stand-ins, which become the tokens of their
plain spelling. Only this file can read stand-ins.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Start and end of a piece of text, in characters."""

MARK = "\ufdd0"
"""Begins a stand-in. Unicode reserves it for such internal use; in a text it gets a stand-in too.
"""
FIRST_STAND_IN = 0xF0000
"""The character after it, less this, is the number of a word."""

LOOKED_FOR = re.compile(
    r"""['"]([^'"]+)['"]\s+(?:not\s+)?in\b"""
    r"""|\.(?:split|startswith|endswith|find|replace)\(\s*['"]([^'"]+)['"]"""
)
"""How a template looks for a word in the text of a turn."""

STAND_IN = re.compile(MARK + "(.)", re.DOTALL)
TAIL = 64
"""Characters before a border, at most, with which the tokens after it are encoded."""
GUARDS = ("]", "\n", "a", "。", "_", "1")
"""Put before a text that must not begin as a text of its own would, with a space added to it."""


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
        return {word: MARK + chr(FIRST_STAND_IN + i) for i, word in enumerate((MARK, *self.words))}

    def hidden(self, value: Any) -> Any:
        """Text, or whatever JSON holds, with stand-ins for control tokens."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._stand_ins[found[0]], value)
        if isinstance(value, dict):
            return {self.hidden(key): self.hidden(each) for key, each in value.items()}
        return [self.hidden(each) for each in value] if isinstance(value, list) else value

    def word(self, stand_in: str) -> str:
        """What a stand-in stands for."""
        return (MARK, *self.words)[ord(stand_in[1]) - FIRST_STAND_IN]

    def shown(self, text: str) -> str:
        """Text with the words themselves again."""
        return STAND_IN.sub(lambda found: self.word(found[0]), text) if MARK in text else text

    def last(self, text: str) -> int:
        """Where the last control token in a text begins; -1 where there is none."""
        return max((found.start() for found in self._pattern.finditer(text)), default=-1)


def find_control_tokens(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: Sequence[str], allowed: Sequence[str]
) -> ControlTokens:
    """The control tokens of a tokenizer.

    Args:
        tokenizer: marks some of its added tokens as special. Others, such as `<think>` in most
            vocabularies, are words that answers may contain.
        template: words that it looks for in turns, such as the end of a thought, stay words there.
        ends: what it ends answers with.
        allowed: special tokens that text may write.
    """
    return _find_control_tokens(tokenizer, len(tokenizer), template, tuple(ends), tuple(allowed))


@lru_cache(maxsize=64)
def _find_control_tokens(
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


@dataclass(frozen=True)
class _Piece:
    """Tokens that go on after a border.

    Attributes:
        ids: token ids.
        places: of each in some text; empty where the tokenizer gives none.
        begin: where in that text the piece begins.
    """

    ids: tuple[int, ...]
    places: Sequence[Span]
    begin: int = 0

    def after(self, count: int, begin: int) -> "_Piece":
        """Without the tokens of what stands before a place."""
        return _Piece(self.ids[count:], self.places[count:], begin)

    def num_ended(self, place: int) -> int:
        """Tokens that end by a place in the piece."""
        return bisect_right(self.places, place + self.begin, key=itemgetter(1))

    def num_begun(self, place: int) -> int:
        """Tokens that begin before a place in the piece."""
        return bisect_left(self.places, place + self.begin, key=itemgetter(0))


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text.

    Attributes:
        tokenizer: encoded them.
        control: control tokens, for which stand-ins may be in the text.
        text: what they stand for.
        borders: places in it, in order, that no token crosses.
        ids: token ids.
        pieces: by where in the text each one begins.
    """

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    text: str
    borders: tuple[int, ...]
    ids: tuple[int, ...]
    pieces: Mapping[int, _Piece]

    def covered(self, span: Span) -> range:
        """The tokens that hold any character of a piece of the text."""
        start, end = span
        if start >= end:
            return range(0)
        return range(self._count(start, begun=False), self._count(end, begun=True))

    def _count(self, place: int, *, begun: bool) -> int:
        """Tokens that begin before a place, or that end by it."""
        count = 0
        starts = [*self.pieces, len(self.text)]
        for (start, piece), end in zip(self.pieces.items(), starts[1:], strict=True):
            if end > place:
                return count + self._count_in(piece, place, start, begun=begun)
            count += len(piece.ids)
        return count

    def _count_in(self, piece: _Piece, place: int, start: int, *, begun: bool) -> int:
        if place <= start:
            return 0
        if not self.tokenizer.is_fast:
            return self._shared(place)[begun] - self._shared(start)[0]
        return piece.num_begun(place - start) if begun else piece.num_ended(place - start)

    def _shared(self, place: int) -> tuple[int, int]:
        """Tokens that end by a place; the same with the one that goes on over it."""
        borders = [border for border in self.borders if border < place]
        before = tokenize(self.tokenizer, self.text[:place], self.control, borders).ids
        first = first_difference(before, self.ids)
        return first, first + (first < len(before))


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    control: ControlTokens,
    borders: Sequence[int] = (),
) -> Tokens:
    """Tokens of a rendered conversation: no start or end token is added.

    Args:
        tokenizer: makes them.
        text: rendered, with stand-ins for control tokens in its turns.
        control: what the stand-ins mean.
        borders: places in the text, in order, that no token crosses.
    """
    cuts = _cuts(text, borders)
    pieces = {start: _piece(tokenizer, text, control, (start, end)) for start, end in cuts}
    ids = tuple(token for piece in pieces.values() for token in piece.ids)
    return Tokens(tokenizer, control, text, tuple(borders), ids, pieces)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, control: ControlTokens) -> list[int]:
    """Tokens of a plain text, begun and ended as the tokenizer does; no word is a control token."""
    hidden = control.hidden(text)
    if hidden == text:
        return list(tokenizer(text, verbose=False)["input_ids"])
    around, bare = list(tokenizer("a")["input_ids"]), list(_ids(tokenizer, len(tokenizer), "a"))
    first = next(i for i in range(len(around)) if around[i : i + len(bare)] == bare)
    inner = tokenize(tokenizer, hidden, control).ids
    return [*around[:first], *inner, *around[first + len(bare) :]]


def _cuts(text: str, borders: Sequence[int]) -> list[Span]:
    """The pieces of a text between borders and stand-ins."""
    places = {0, len(text), *borders}
    if MARK in text:
        places.update(place for found in STAND_IN.finditer(text) for place in found.span())
    ordered = sorted(places)
    return list(pairwise(ordered))


def _piece(
    tokenizer: PreTrainedTokenizerBase, text: str, control: ControlTokens, span: Span
) -> _Piece:
    """The tokens of a piece of text, encoded with what comes before it and nothing after it."""
    start, end = span
    piece = text[start:end]
    if piece.startswith(MARK):
        ids = _spelt(tokenizer, len(tokenizer), control, control.word(piece))
        return _Piece(ids, ((0, end - start),) * len(ids))
    before = _tail(text[:start], control)
    if start == 0:
        return _encode(tokenizer, piece)
    if before:
        known, whole = _ids(tokenizer, len(tokenizer), before), _encode(tokenizer, before + piece)
        if whole.ids[: len(known)] == known and not _swallows(tokenizer, whole.ids, piece):
            return whole.after(len(known), len(before))
    return _encode_alone(tokenizer, piece)


def _tail(before: str, control: ControlTokens) -> str:
    """The end of a text, from its last control token on; empty after a stand-in."""
    begin = max(0, len(before) - TAIL, before.rfind(MARK) + 2 if MARK in before else 0)
    last = before[begin:]
    found = control.last(last)
    return last[found:] if found >= 0 else last


def _swallows(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> bool:
    """Whether white space that a text begins with is gone, as after tokens that strip it."""
    if not text[:1].isspace():
        return False
    return not str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).endswith(text)


def _encode_alone(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> _Piece:
    """Tokens of a text that goes on after something, whatever that is."""
    for guard in _guards(tokenizer):
        known = _ids(tokenizer, len(tokenizer), guard)
        whole = _encode(tokenizer, guard + text, **options)
        if whole.ids[: len(known)] == known:
            return whole.after(len(known), len(guard))
    return _encode(tokenizer, text, **options)


@lru_cache(maxsize=16)
def _guards(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What can stand before a text while it is encoded; nothing where nothing is needed."""

    def decoded(*pieces: str) -> str:
        ids = [token for piece in pieces for token in _encode(tokenizer, piece).ids]
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    if decoded("a", "b") == "ab" and decoded("a", " b") == "a b":
        return ("",)
    return tuple(guard for guard in GUARDS if decoded(guard) == guard)


@lru_cache(maxsize=1024)
def _spelt(
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,  # tokens may be added later
    control: ControlTokens,
    word: str,
) -> tuple[int, ...]:
    """The tokens that spell a control token, none of which is one."""
    refused = {*tokenizer.convert_tokens_to_ids(list(control.words))}
    found: tuple[int, ...] = ()
    for parts in ([word], [word[:1], word[1:]], [*word]):
        pieces = [
            _encode_alone(tokenizer, part, split_special_tokens=True) for part in parts if part
        ]
        found = tuple(token for piece in pieces for token in piece.ids)
        if refused.isdisjoint(found):
            break
    return found


@lru_cache(maxsize=4096)
def _ids(
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,  # tokens may be added later
    text: str,
) -> tuple[int, ...]:
    return _encode(tokenizer, text).ids


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> _Piece:
    if not tokenizer.is_fast:
        found = tokenizer(text, add_special_tokens=False, verbose=False, **options)
        return _Piece(tuple(found["input_ids"]), ())
    found = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False, **options
    )
    return _Piece(tuple(found["input_ids"]), found["offset_mapping"])


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The first place where two texts or lists differ, so how much both begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
