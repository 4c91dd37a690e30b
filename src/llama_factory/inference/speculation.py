"""Guesses the next tokens of an answer from what prompt and answer already hold.

Prompt look-up decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): what
followed the last tokens the last time they stood together probably follows again. We index as the
answer grows in place of a search at each step, and guess less where guesses fail.
"""

from collections.abc import Iterable

NGRAMS = (3, 2)
"""Numbers of last tokens that are looked up, the longest first."""
RECENT = 0.8
"""Weight of earlier guesses in the share that was right."""
LEAST_SHARE = 0.2
"""Guesses stop where fewer of them than this are right."""
RETRY = 32
"""After so many tokens without a guess one token is tried again."""


class Lookup:
    """The tokens of one prompt and its answer, and where each of their n-grams last stood."""

    def __init__(self, prompt: Iterable[int]) -> None:
        """Index a prompt."""
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._before: dict[tuple[int, ...], int] = {}
        self._share = 1.0
        self._num_idle = 0
        for token in prompt:
            self.push(token)
        self._num_idle = 0

    def push(self, token: int) -> None:
        """Add the next token of the answer."""
        self._ids.append(token)
        self._num_idle += 1
        place = len(self._ids)
        for size in NGRAMS:
            if place >= size:
                gram = tuple(self._ids[-size:])
                if gram in self._ends:
                    self._before[gram] = self._ends[gram]
                self._ends[gram] = place

    def propose(self, most: int) -> list[int]:
        """The tokens that probably come next.

        Args:
            most: so many at most; fewer where few of the guesses so far were right.

        Returns:
            Token ids, often none.
        """
        most = min(most, self._wanted(most))
        if most < 1:
            return []
        for size in NGRAMS:
            start = self._before.get(tuple(self._ids[-size:]))
            if start is not None and len(self._ids) >= size:
                return self._ids[start : start + most]
        return []

    def _wanted(self, most: int) -> int:
        """How many are worth guessing."""
        if self._share >= LEAST_SHARE:
            return max(1, round(most * self._share))
        return 1 if self._num_idle >= RETRY else 0

    def record(self, num_proposed: int, num_accepted: int) -> None:
        """Learn how many of the proposed tokens were right."""
        if num_proposed:
            share = num_accepted / num_proposed
            self._share = RECENT * self._share + (1 - RECENT) * share
            self._num_idle = 0
