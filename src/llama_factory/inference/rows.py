"""Requests on their way through the engine, and how the reading of prompts is shared out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llama_factory.inference.constraints import Matcher
from llama_factory.inference.keys_values import Sequence, capacity_for
from llama_factory.inference.packed import SequenceReader
from llama_factory.inference.request import Request, Ticket
from llama_factory.inference.sampling import Chooser
from llama_factory.inference.speculation import Lookup


@dataclass(eq=False)
class Row:
    """A request from its arrival to its end.

    Attributes:
        ids: of the prompt and the answer so far.
        network: reads them.
        num_reused: prompt tokens that it need not read; None before it begins.
        drafts: tokens that are guessed to follow.
    """

    ticket: Ticket
    request: Request
    matcher: Matcher | None
    ids: list[int]
    network: SequenceReader
    chooser: Chooser | None = None
    sequence: Sequence | None = None
    num_reused: int | None = None
    lookup: Lookup | None = None
    drafts: list[int] = field(default_factory=list)

    def chooser_for(self, vocab_size: int) -> Chooser:
        """What chooses its tokens; there is one from its first token to its last."""
        if self.chooser is None:
            self.chooser = Chooser(self.request, vocab_size, self.matcher)
        return self.chooser

    @property
    def num_held(self) -> int:
        """How many of its tokens the network has read."""
        return self.sequence.length if self.sequence else 0

    @property
    def num_unread(self) -> int:
        """How many it has not."""
        return len(self.ids) - self.num_held

    @property
    def num_answer(self) -> int:
        """How many tokens the answer has."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def num_reserved(self) -> int:
        """Tokens for which memory is taken, in the next step at the latest."""
        return capacity_for(len(self.ids) + len(self.drafts))


def shared_out(rows: list[Row], num_tokens: int) -> Iterator[tuple[Row, int]]:
    """How many tokens of each prompt are read now.

    The one that came first gets at least half, so that it ends; then the shortest come first, so
    that a long prompt does not hold up many short ones.
    """
    shortest = sorted(rows[1:], key=lambda row: row.num_unread)
    of_others = sum(row.num_unread for row in shortest)
    left = num_tokens
    for number, row in enumerate([*rows[:1], *shortest]):
        if left <= 0:
            return
        most = left if number else max(1, num_tokens // 2, num_tokens - of_others)
        # Networks that cannot take back read a prompt in one piece.
        share = min(row.num_unread, most) if row.network.can_take_back else row.num_unread
        left -= share
        yield row, share
