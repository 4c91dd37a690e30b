"""Tokens -> pieces of text that may be sent at once: whole characters, no part of a stop string."""

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers decode the bytes of half a character to."""

MAX_UNFINISHED = 64
"""Tokens that may wait for the end of a character; a character has fewer, and decoding all that
wait again at each token would cost more and more."""


class TextPieces:
    """Hands on text as tokens come, and ends it before a stop string.

    Attributes:
        is_stopped: whether a stop string was met.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: tuple[str, ...],
        on_text: Callable[[str], None],
    ) -> None:
        self.is_stopped = False
        self._characters = _Characters(decode)
        self._matches = [_Match(each) for each in stop]
        self._handed_on: list[str] = []
        self._held = ""
        self._on_text = on_text

    @property
    def text(self) -> str:
        """All that was handed on."""
        return "".join(self._handed_on)

    @property
    def is_holding(self) -> bool:
        """Whether text waits for what decides whether it may be handed on."""
        return bool(self._held) or self._characters.is_unfinished

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
        for end, character in enumerate(piece, len(self._held) + 1):
            for match in self._matches:
                match.push(character)
            whole = [len(match.stop) for match in self._matches if match.is_whole]
            if whole:
                self.is_stopped = True
                self._hand_on((self._held + piece)[: end - max(whole)])
                self._held = ""
                return
        held = self._held + piece
        safe = len(held) - max((match.length for match in self._matches), default=0)
        self._held = held[safe:]
        self._hand_on(held[:safe])

    def _hand_on(self, piece: str) -> None:
        if piece:
            self._handed_on.append(piece)
            self._on_text(piece)


class _Match:
    """How much of a stop string the text ends with, character by character.

    Knuth, Morris and Pratt, "Fast pattern matching in strings" (1977): each character costs the
    same on average, however long and repetitive the stop string is.

    Attributes:
        stop: the stop string.
        length: of the longest beginning of it that ends the text.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._shorter = [0]
        for character in stop[1:]:
            self._shorter.append(self._next(self._shorter[-1], character))

    @property
    def is_whole(self) -> bool:
        """Whether the text ends with the whole stop string."""
        return self.length == len(self.stop)

    def push(self, character: str) -> None:
        """Take the next character of the text."""
        self.length = self._next(self.length, character)

    def _next(self, length: int, character: str) -> int:
        while length and self.stop[length] != character:
            length = self._shorter[length - 1]
        return length + 1 if self.stop[length] == character else 0


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

    @property
    def is_unfinished(self) -> bool:
        return bool(self._new)

    def push(self, token: int) -> str:
        self._new.append(token)
        text = self._undecoded()
        if text.endswith(UNFINISHED) and len(self._new) < MAX_UNFINISHED:
            return ""
        self._before, self._new = self._new, []
        return text

    def flush(self) -> str:
        return self._undecoded().rstrip(UNFINISHED)

    def _undecoded(self) -> str:
        shown = self._decode(self._before)
        return self._decode(self._before + self._new)[len(shown) :]
