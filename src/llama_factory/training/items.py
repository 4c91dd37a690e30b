"""The rows of a run as encoded items, which of them cannot be taught, and where each one stands.

An item is what an update takes at a time: a row, a part of a long document, or a pack of rows.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import Sequences
from llama_factory.model.chat.token_cache import Cut, encode_rows
from llama_factory.training.objectives import Objective
from llama_factory.training.objectives.sft import PLAIN
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import ExtraSource, Protection, Share

NEW = "new"
"""Name of the source of this round's own rows."""
MOST_SHOWN = 20
"""Rows that are named one by one."""
MOST_OPEN_PACKS = 64
"""Packs that still take rows while others are filled."""
ROWS_AT_ONCE = 1000
"""Rows among which the longest ones are looked for."""

Part = tuple[int, int]
"""A sequence: number of its row, and its number in the row."""
Kind = tuple[Hashable, ...]
"""Of one row, from the coarsest division to the finest."""


@dataclass(frozen=True)
class RowRef:
    """One row of one source."""

    source: str
    index: int


class Encoded(Protocol):
    """Rows as the sequences they stand for, read as they are asked for."""

    @property
    def cut(self) -> Cut:
        """What they lost because they are too long."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Sequences: ...
    def lengths(self, place: int, /) -> tuple[int, ...]:
        """Tokens of each sequence."""


@dataclass(frozen=True)
class Items:
    """What a source gives to updates, one item for each row of an update.

    Attributes:
        rows: as the sequences they stand for.
        objective: what is minimised on them.
        parts: the sequences of each item; None where an item is a row.
        reference: log-probability of each sequence of an item under the model at the start of the
            run, for items that a run needs it of.
    """

    rows: Encoded
    objective: Objective
    parts: tuple[tuple[Part, ...], ...] | None = None
    reference: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    _num_tokens: dict[int, int] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.rows) if self.parts is None else len(self.parts)

    def __getitem__(self, index: int) -> Sequences:
        if self.parts is None:
            return self.rows[index]
        return tuple(self.rows[row][part] for row, part in self.parts[index])

    def origins(self, index: int) -> list[int]:
        """Numbers of the rows that an item is made of."""
        return [index] if self.parts is None else [row for row, _ in self.parts[index]]

    def num_tokens(self, index: int) -> int:
        """Length of an item, without reading its tokens; asked again it is known."""
        if index not in self._num_tokens:
            self._num_tokens[index] = self._count(index)
        return self._num_tokens[index]

    def _count(self, index: int) -> int:
        if self.parts is None:
            return sum(self.rows.lengths(index))
        return sum(self.rows.lengths(row)[part] for row, part in self.parts[index])

    def reference_of(self, index: int) -> tuple[float, ...]:
        """Log-probability of each sequence under the reference, in nats; zeros where unused."""
        return self.reference.get(index) or (0.0,) * len(self[index])


def by_part(rows: Encoded, objective: Objective) -> Items:
    """Every sequence an item of its own: the parts of long documents."""
    lengths = map(rows.lengths, range(len(rows)))
    parts = [((row, part),) for row, each in enumerate(lengths) for part in range(len(each))]
    return Items(rows, objective, tuple(parts))


def packed(rows: Encoded, objective: Objective, max_tokens: int) -> Items:
    """Sequences put together into items of nearly `max_tokens`; they never see each other.

    Best fit in the order of the rows: a sequence goes into the fullest open pack that has room.
    """
    done: list[list[Part]] = []
    still_open: list[tuple[int, list[Part]]] = []
    for length, part in _parts(rows):
        fitting = [pack for pack in still_open if pack[0] + length <= max_tokens]
        filled, members = max(fitting, key=lambda pack: pack[0], default=(0, []))
        still_open = [pack for pack in still_open if pack[1] is not members]
        still_open.append((filled + length, [*members, part]))
        if len(still_open) > MOST_OPEN_PACKS:
            fullest = max(still_open, key=lambda pack: pack[0])
            still_open.remove(fullest)
            done.append(fullest[1])
    done += [members for _, members in still_open]
    return Items(rows, objective, tuple(map(tuple, sorted(done))))


def packed_longest_first(rows: Encoded, objective: Objective, max_tokens: int) -> Items:
    """Sequences put together as LLaMA-Factory does; here they never see each other.

    Of every thousand, each item takes the longest sequence that still fits, of equal ones the last.
    """
    done: list[tuple[Part, ...]] = []
    parts = _parts(rows)
    while left := sorted(islice(parts, ROWS_AT_ONCE)):
        while left:
            members, room = [], max(max_tokens, left[0][0])
            while num_fitting := bisect_right(left, room, key=itemgetter(0)):
                length, part = left.pop(num_fitting - 1)
                members.append(part)
                room -= length
            done.append(tuple(members))
    return Items(rows, objective, tuple(done))


def _parts(rows: Encoded) -> Iterator[tuple[int, Part]]:
    for row in range(len(rows)):
        for part, length in enumerate(rows.lengths(row)):
            yield length, (row, part)


@dataclass(frozen=True)
class UnfitRow:
    """A row that was left out, and why."""

    row: Example
    reason: str

    def __str__(self) -> str:
        return f"{self.row.file}:{self.row.line}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """The rows of every source.

    Attributes:
        items: what each source gives to updates; NEW is one of them.
        examples: the rows themselves, those that cannot be taught among them.
        unfit: the rows of each source that cannot be taught.
        shares: share of each extra source.
        weights: share of the loss of sources where it is another one.
    """

    items: Mapping[str, Items]
    examples: Mapping[str, Sequence[Example]]
    unfit: Mapping[str, tuple[UnfitRow, ...]]
    shares: Mapping[str, Share]
    weights: Mapping[str, float] = field(default_factory=dict)
    _taught: dict[str, list[int]] = field(default_factory=dict, compare=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of updates, by source."""
        return {name: len(items) for name, items in self.items.items()}

    def num_tokens(self, ref: RowRef) -> int:
        """Length of a row of an update."""
        return self.items[ref.source].num_tokens(ref.index)

    def kinds(self) -> dict[str, list[Kind]]:
        """Group and answer of every row of the extra sources, which are mixed in evenly."""
        return {
            name: [self._kind(name, at) for at in range(self.sizes[name])] for name in self.shares
        }

    def _kind(self, source: str, index: int) -> Kind:
        first = self._place(source, self.items[source].origins(index)[0])
        row = self.examples[source][first]
        return row.group, row.answer

    def places(self, refs: Sequence[RowRef]) -> list[str]:
        """`file:line` of rows, to name them in a message."""
        origins = ((ref, at) for ref in refs for at in self.items[ref.source].origins(ref.index))
        rows = (self.examples[ref.source][self._place(ref.source, at)] for ref, at in origins)
        return sorted({f"{row.file}:{row.line}" for row in rows})

    def _place(self, source: str, index: int) -> int:
        """Where a row that is taught stands among all rows of its source."""
        if not self.unfit[source]:
            return index
        if source not in self._taught:
            left_out = {(each.row.file, each.row.line) for each in self.unfit[source]}
            rows = enumerate(self.examples[source])
            kept = [i for i, row in rows if (row.file, row.line) not in left_out]
            self._taught[source] = kept
        return self._taught[source][index]


@dataclass(frozen=True)
class Encoding:
    """How the rows of a run become items.

    Attributes:
        model: says how text becomes tokens.
        settings: of the run: the objective, and whether rows are packed.
        cache: folder of rows that are tokens already.
    """

    model: AdaptedModel
    settings: TrainingSettings
    cache: Path

    def encode(
        self,
        examples: Sequence[Example],
        objective: Objective,
        progress: Progress,
        max_trained: int | None = None,
    ) -> tuple[Items, tuple[UnfitRow, ...]]:
        """Rows as items, and those that cannot be taught.

        Args:
            examples: the rows.
            objective: what is minimised on them.
            progress: what people see.
            max_trained: trained tokens after which each row is cut off.
        """
        model = self.model
        fitting, misfits = split_fitting(examples, objective)
        rows, unfit = encode_rows(
            objective.rows(fitting),
            model.tokenizer,
            replace(model.options, max_trained=max_trained),
            cache=self.cache,
            progress=progress,
            encoding=objective.encoding,
        )
        left_out = (*misfits, *(UnfitRow(row, code.reason) for row, code in unfit))
        return self._items(rows, objective), left_out

    def _items(self, rows: Encoded, objective: Objective) -> Items:
        wanted = self.settings.packing
        if objective.unit == "token" and (objective.packs if wanted is None else wanted):
            put_together = packed_longest_first if wanted == "longest_first" else packed
            return put_together(rows, objective, self.model.options.max_tokens)
        return (
            by_part(rows, objective)
            if objective.encoding == "documents"
            else Items(rows, objective)
        )


def split_fitting(
    examples: Sequence[Example], objective: Objective
) -> tuple[Sequence[Example], tuple[UnfitRow, ...]]:
    """Rows of the kind that an objective needs, and the others."""
    if not objective.is_choosy:
        return examples, ()
    reasons = [objective.misfit(row) for row in examples]
    if not any(reasons):
        return examples, ()
    pairs = list(zip(examples, reasons, strict=True))
    misfits = tuple(UnfitRow(row, reason) for row, reason in pairs if reason)
    return [row for row, reason in pairs if not reason], misfits


def encode_all(
    encoding: Encoding, examples: Sequence[Example], protection: Protection, progress: Progress
) -> Rows:
    """Items of the new rows and of every source of old ones.

    Raises:
        DataError: none of the new rows can be taught.
    """
    objective = encoding.settings.objective
    items, unfit = encoding.encode(examples, objective, progress)
    if not len(items):
        raise DataError(_nothing_left(unfit, encoding.model))
    _report_unfit(unfit, progress)
    _report_cut(items.rows.cut, len(items.rows), encoding.model, progress)
    rows = Rows({NEW: items}, {NEW: examples}, {NEW: unfit}, {})
    for strategy in protection.strategies:
        for source in strategy.sources(protection.memory):
            rows = _with_source(rows, source, encoding)
    return rows


def _with_source(rows: Rows, source: ExtraSource, encoding: Encoding) -> Rows:
    """Rows of one more source, taught like the new ones where they fit, else as answers."""
    objective = encoding.settings.objective
    if any(map(objective.misfit, source.rows)):
        objective = PLAIN
    items, unfit = encoding.encode(source.rows, objective, SILENT, source.max_trained)
    if not len(items):
        return rows
    name, weight = source.name, source.weight
    return Rows(
        {**rows.items, name: items},
        {**rows.examples, name: source.rows},
        {**rows.unfit, name: unfit},
        {**rows.shares, name: Share(source.share, source.rises)},
        {**rows.weights, **({} if weight is None else {name: weight})},
    )


def _nothing_left(unfit: Sequence[UnfitRow], model: AdaptedModel) -> str:
    return (
        f"No row is left to train on: {len(unfit)} of {len(unfit)} cannot be taught with "
        f"data.max_tokens = {model.options.max_tokens} and this model's chat template. The first "
        f"one, {unfit[0]}."
        if unfit
        else "No row is left to train on: there are none."
    )


def _report_cut(cut: Cut, num_rows: int, model: AdaptedModel, progress: Progress) -> None:
    """Say before the training what rows lose that are too long."""
    if not cut.tokens:
        return
    progress.say(
        f"Too long for data.max_tokens = {model.options.max_tokens}: of {num_rows} rows, {cut.cut} "
        f"without the end of an answer, where they are not taught to stop, and {cut.shortened} "
        f"without their oldest turns; {cut.tokens} tokens in all. Raise it, or shorten the rows."
    )


def _report_unfit(unfit: Sequence[UnfitRow], progress: Progress) -> None:
    for row in unfit[:MOST_SHOWN]:
        progress.say(f"Left out: {row}")
    if len(unfit) > MOST_SHOWN:
        progress.say(f"Left out: {len(unfit) - MOST_SHOWN} more rows for such reasons.")
