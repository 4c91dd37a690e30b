"""Tokens -> pieces of text that may be sent at once: whole characters, no part of a stop string."""

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers decode the bytes of half a character to."""


class TextPieces:
    """Hands on text as tokens come, and ends it before a stop string.

    Attributes:
        text: all that was handed on.
        is_stopped: whether a stop string was met.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: tuple[str, ...],
        on_text: Callable[[str], None],
    ) -> None:
        self.text = ""
        self.is_stopped = False
        self._characters = _Characters(decode)
        self._stop = stop
        self._held = ""
        self._on_text = on_text

    def push(self, token: int) -> None:
        """Take the next token."""
        self._take(self._characters.push(token))

    def finish(self) -> None:
        """Hand on what was held back; bytes that never became a character are dropped."""
        self._take(self._characters.flush())
        self._hand_on(self._held)
        self._held = ""

    def _take(self, piece: str) -> None:
        if self.is_stopped:
            return
        held = self._held + piece
        places = [place for stop in self._stop if (place := held.find(stop)) >= 0]
        self.is_stopped = bool(places)
        safe = min(places) if places else len(held) - _num_held_back(held, self._stop)
        self._held = "" if self.is_stopped else held[safe:]
        self._hand_on(held[:safe])

    def _hand_on(self, piece: str) -> None:
        if piece:
            self.text += piece
            self._on_text(piece)


def _num_held_back(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that may be the start of a stop string."""
    ends = (n for each in stop for n in range(1, len(each)) if text.endswith(each[:n]))
    return max(ends, default=0)


class _Characters:
    """Decodes token by token.

    A token alone decodes differently from the same token in context (leading spaces, bytes of one
    character spread over tokens), so each step decodes the few tokens since the last whole
    character together with those before them and keeps the difference.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._new: list[int] = []

    def push(self, token: int) -> str:
        self._new.append(token)
        text = self._undecoded()
        if text.endswith(UNFINISHED):
            return ""
        self._before, self._new = self._new, []
        return text

    def flush(self) -> str:
        return self._undecoded().rstrip(UNFINISHED)

    def _undecoded(self) -> str:
        shown = self._decode(self._before)
        return self._decode(self._before + self._new)[len(shown) :]
