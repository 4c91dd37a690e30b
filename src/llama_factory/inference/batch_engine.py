"""The engine: many answers at once, one token of each a step. Token ids in, token ids out.

Synchronous and single-threaded, but for `submit` and `cancel`: evaluation calls `step` in a loop,
the server from its worker thread. Text, templates and HTTP are its callers' business.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.inference.constraints import Matcher
from llama_factory.inference.packed import SequenceReader, Span
from llama_factory.inference.prefixes import Prefixes, is_shared_beyond
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Ended, Event, Reason, Request, Ticket, Token
from llama_factory.inference.rows import Row, shared_out
from llama_factory.inference.sampling import Chosen, choose_ahead
from llama_factory.inference.speculation import Lookup


@dataclass(frozen=True)
class Limits:
    """What may be computed and held at once.

    Attributes:
        max_rows: most answers at once.
        chunk_tokens: most tokens of prompts in one step while others are answered.
        read_tokens: the same while nobody is.
        cache_tokens: tokens whose keys and values are held for answers.
        prefix_bytes: for keys and values of prompts that may come again; 0 keeps none.
        keep_answers: whether an answer's keys and values are kept too, for the next turn.
        max_drafts: most tokens that are guessed ahead; 0 guesses none.
        draft_rows: most answers at once for which guessing pays.
    """

    max_rows: int = 64
    chunk_tokens: int = 256
    read_tokens: int = 2048
    cache_tokens: int = 65536
    prefix_bytes: int = 256_000_000
    keep_answers: bool = True
    max_drafts: int = 4
    draft_rows: int = 2


NetworkOf = Callable[[str], SequenceReader]


class BatchEngine:
    """Answers of all versions that share a step."""

    def __init__(self, network_of: NetworkOf, limits: Limits) -> None:
        """Begin with no request.

        Args:
            network_of: what reads the tokens of a version, by its name.
            limits: of computation and memory.
        """
        self.prefixes = Prefixes(limits.prefix_bytes)
        self._network_of = network_of
        self._limits = limits
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()
        self._arrived: list[Row] = []
        self._cancelled: list[Row] = []
        self._timed: list[Row] = []
        self._rows: dict[Ticket, Row] = {}
        self._waiting: list[Row] = []
        self._running: list[Row] = []

    @property
    def is_idle(self) -> bool:
        """Whether no request is left."""
        return not self._rows

    @property
    def num_running(self) -> int:
        """How many requests are being read or answered."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._rows) - len(self._running)

    def submit(self, request: Request, matcher: Matcher | None = None) -> Ticket:
        """Take a request, with its constraint ready to use; for any thread.

        Raises:
            ValueError: the prompt is empty or longer than the network reads, or no token is wanted.
        """
        network = self._network_of(request.version)
        size = len(request.prompt)
        if not 0 < size <= network.context or request.max_tokens < 1:
            raise ValueError(
                f"a prompt of {size} tokens and an answer of {request.max_tokens}: the prompt has "
                f"1 to {network.context}, the answer at least 1"
            )
        row = Row(next(self._tickets), request, matcher, list(request.prompt), network)
        with self._lock:
            self._rows[row.ticket] = row
            self._arrived.append(row)
        return row.ticket

    def cancel(self, ticket: Ticket) -> None:
        """End an answer at the next step; for any thread. One that has ended stays as it is."""
        with self._lock:
            if row := self._rows.get(ticket):
                self._cancelled.append(row)

    def versions(self) -> set[str]:
        """The versions of all requests that have not ended."""
        with self._lock:
            return {row.request.version for row in self._rows.values()}

    def drop(self, version: str, error: Exception) -> list[Event]:
        """Let all answers of a version fail, and forget what it has read; not during a step."""
        events: list[Event] = []
        self._end_left(self._take_arrived(), events)
        for row in [*self._running, *self._waiting]:
            if row.request.version == version:
                self._end(row, "failed", events, error)
        self.prefixes.forget(version)
        return events

    def step(self) -> list[Event]:
        """Read on with every answer and choose its next token, or more where guesses hold.

        Returns:
            What happened, in the order of the tokens of each answer.
        """
        events: list[Event] = []
        self._end_left(self._take_arrived(), events)
        self._admit(events)
        for network, rows in self._planned():
            self._read(network, rows, events)
        return events

    def run(self, requests: Several[Request]) -> Iterator[Event]:
        """All events of requests, from their submission to the last end; see `step`.

        The ticket of the first request is followed by those of the others.
        """
        for request in requests:
            self.submit(request)
        while not self.is_idle:
            yield from self.step()

    # -- who takes part -------------------------------------------------------------------------

    def _take_arrived(self) -> list[Row]:
        """Let what was submitted wait; returns what was cancelled."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
        self._timed += [row for row in arrived if row.request.deadline is not None]
        urgent = [row for row in arrived if row.request.is_urgent]
        self._waiting[:0] = urgent
        self._waiting += [row for row in arrived if not row.request.is_urgent]
        return cancelled

    def _end_left(self, cancelled: list[Row], events: list[Event]) -> None:
        """End what nobody waits for any more; what waits otherwise is not looked at."""
        for row in cancelled:
            if row.ticket in self._rows:
                self._end(row, "cancelled", events)
        now = time.monotonic()
        for row in self._timed:
            if row.ticket in self._rows and (row.request.deadline or 0) <= now:
                self._end(row, "deadline", events)
        self._timed = [row for row in self._timed if row.ticket in self._rows]

    def _admit(self, events: list[Event]) -> None:
        """Let waiting requests begin, in their order, as far as rows and memory last."""
        left = self._limits.cache_tokens - sum(row.num_reserved for row in self._running)
        while len(self._running) > 1 and left < 0:  # the youngest goes back and is read again later
            row = self._running.pop()
            left += row.num_reserved
            self._put_back(row)
        put_off: list[Row] = []
        while self._waiting and len(self._running) + len(put_off) < self._limits.max_rows:
            row = self._waiting[0]
            if row.num_reserved > left and self._running:
                break
            self._waiting.pop(0)
            if self._is_being_read(row):
                put_off.append(row)
                continue
            try:
                self._begin(row)
                left -= row.num_reserved
            except Exception as error:  # noqa: BLE001  # whoever asked is told; others go on
                self._end(row, "failed", events, error)
        self._waiting[:0] = put_off

    def _put_back(self, row: Row) -> None:
        assert row.sequence is not None
        row.network.end(row.sequence)
        row.sequence, row.drafts = None, []
        self._waiting.insert(0, row)

    def _begin(self, row: Row) -> None:
        row.sequence = row.network.begin(row.request.version)
        num_reused = 0
        if row.network.can_take_back and self._limits.prefix_bytes:
            num_reused = self.prefixes.reuse(row.sequence, row.ids)
        if row.num_reused is None:  # what is read again after it was put back is its own
            row.num_reused = num_reused
        self._running.append(row)

    def _is_being_read(self, row: Row) -> bool:
        """Whether more of its beginning is being read for another request of its version."""
        reading = [each for each in self._running if each.num_unread > 1]
        if not reading or not self._limits.prefix_bytes or not row.network.can_take_back:
            return False
        known = self.prefixes.num_known(row.request.version, row.ids)
        return any(
            other.request.version == row.request.version
            and is_shared_beyond(other.ids, row.ids, max(known, other.num_held))
            for other in reading
        )

    # -- what is read ---------------------------------------------------------------------------

    def _planned(self) -> list[tuple[SequenceReader, list[tuple[Row, int]]]]:
        """By network, the rows that it reads now, each with how many of its tokens."""
        answering = [row for row in self._running if row.num_unread == 1]
        reading = [row for row in self._running if row.num_unread > 1]
        is_few = len(self._running) <= self._limits.draft_rows
        for row in answering:
            row.drafts = self._guess(row) if is_few else []
        left = self._limits.chunk_tokens if answering else self._limits.read_tokens
        planned = [(row, 1) for row in answering]
        for row, share in shared_out(reading, left):
            planned.append((row, share))
        networks: dict[int, tuple[SequenceReader, list[tuple[Row, int]]]] = {}
        for row, num_tokens in planned:
            of_network = networks.setdefault(id(row.network), (row.network, []))
            of_network[1].append((row, num_tokens))
        return list(networks.values())

    def _guess(self, row: Row) -> list[int]:
        room = self._room(row) - 1
        if not self._limits.max_drafts or room < 1 or not row.network.can_take_back:
            return []
        if row.lookup is None:
            row.lookup = Lookup(row.ids)
        return row.lookup.propose(min(self._limits.max_drafts, room))

    def _room(self, row: Row) -> int:
        """How many tokens the answer may still have."""
        context = row.network.context - len(row.ids)
        return min(row.request.max_tokens - row.num_answer, context)

    def _read(
        self, network: SequenceReader, rows: list[tuple[Row, int]], events: list[Event]
    ) -> None:
        spans, asked = [], []
        for row, num_tokens in rows:
            assert row.sequence is not None
            held = row.sequence.length
            ids = [*row.ids[held : held + num_tokens], *row.drafts]
            is_last = held + num_tokens == len(row.ids)
            spans.append(Span(row.sequence, ids, 1 + len(row.drafts) if is_last else 0))
            if is_last:
                asked.append(row)
        try:
            logits = network.read(spans)
            for row, num_tokens in rows:
                if num_tokens > 1:
                    self._keep(row, row.num_held)
            self._choose(network, asked, logits, events)
        except Exception as error:  # noqa: BLE001  # whoever asked is told; others go on
            for row, _ in rows:
                if row.ticket in self._rows:
                    self._end(row, "failed", events, error)

    def _choose(
        self, network: SequenceReader, rows: list[Row], logits: Tensor, events: list[Event]
    ) -> None:
        """Choose the tokens of each row, as long as they are those that were guessed."""
        sound = [row for row in rows if self._has_chooser(row, logits, events)]
        if len(sound) < len(rows):
            kept = [row in sound for row in rows for _ in range(1 + len(row.drafts))]
            rows, logits = sound, logits[torch.tensor(kept, device=logits.device)]
        choosers = [row.chooser_for(logits.shape[-1]) for row in rows]
        chosen = choose_ahead(logits, choosers, [row.drafts for row in rows])
        for row, tokens in zip(rows, chosen, strict=True):
            for each in tokens:
                self._record(row, each, events)
            if row.ticket in self._rows:
                self._go_on(network, row, len(tokens) - 1)

    def _has_chooser(self, row: Row, logits: Tensor, events: list[Event]) -> bool:
        """Whether its tokens can be chosen as the request wants; it has failed where not."""
        try:
            row.chooser_for(logits.shape[-1])
        except RequestError as error:
            self._end(row, "failed", events, error)
            return False
        return True

    def _go_on(self, network: SequenceReader, row: Row, num_accepted: int) -> None:
        """Take back what was read of wrong guesses."""
        assert row.sequence is not None
        if row.drafts:
            assert row.lookup is not None
            row.lookup.record(len(row.drafts), num_accepted)
            row.sequence.length = len(row.ids) - 1
            row.drafts = []
        network.settle(row.sequence)

    def _record(self, row: Row, chosen: Chosen, events: list[Event]) -> None:
        """Add a token to an answer."""
        if chosen.error is not None:
            self._end(row, "failed", events, chosen.error)
            return
        row.ids.append(chosen.id)
        if row.lookup is not None:
            row.lookup.push(chosen.id)
        report = (chosen.logprob, chosen.alternatives)
        events.append(Token(row.ticket, chosen.id, *report, row.num_reused or 0))
        if chosen.is_end:
            self._end(row, "stop", events)
        elif self._room(row) < 1:
            self._end(row, "length", events)

    def _keep(self, row: Row, num_tokens: int) -> None:
        can_keep = self._limits.prefix_bytes and row.network.can_take_back
        if row.sequence is not None and can_keep:
            self.prefixes.keep(row.sequence, row.ids[:num_tokens])

    def _end(
        self, row: Row, reason: Reason, events: list[Event], error: Exception | None = None
    ) -> None:
        with self._lock:
            del self._rows[row.ticket]
        rows = self._running if row in self._running else self._waiting
        if row in rows:
            rows.remove(row)
        events.append(Ended(row.ticket, reason, row.num_reused or 0, error))
        if row.sequence is not None:
            if reason != "failed" and self._limits.keep_answers:
                row.sequence.length = min(row.sequence.length, len(row.ids) - 1)
                self._keep(row, len(row.ids) - 1)
            row.network.end(row.sequence)
