"""Variants of rows: the prompt is written differently, what is to be learned stays as it is."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any, TypeVar

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data.augment import AUGMENTATIONS, Augmentation, AugmentPlan

PROMPT_FIELDS = (
    *("instruction", "input", "prompt", "query", "question", "history"),
    *("messages", "conversations", "conversation"),
)
"""Fields that hold what the user writes."""
TEXT_FIELDS = ("text", "content", "sentence")
"""A prompt where the row has an answer as well, as in text classification; else all that the row
teaches, and therefore left alone."""
ANSWER_FIELDS = (
    *("output", "response", "answer", "answers", "label", "labels", "target", "targets"),
    *("completion", "chosen", "rejected", "kto_tag", "summary", "category", "class"),
)
"""Fields that hold what is to be learned. They are never changed, nor are the next ones."""
FIXED_FIELDS = (*ANSWER_FIELDS, "system", "tools")
MARK = "augmented_by"
"""The field of a changed row that names the method."""
USERS = ("user", "human")
CHANGED_ROLES = ("user", TEXT)
"""Roles of the turns of an Example that are written differently."""
ROWS_AT_ONCE = 256
"""Rows under way together, where a method waits for an endpoint; no result depends on it."""

Row = TypeVar("Row")
Change = Callable[[Row, Augmentation, int], Row | None]
"""Row, method and number of the variant -> the variant, or None where nothing changes."""


def variants(
    rows: Iterable[Row], plan: AugmentPlan, change: Change[Row]
) -> Iterator[tuple[Row, list[Row]]]:
    """Each row with its variants, in order; of variants that are the same only the first.

    Args:
        rows: read as needed, never all at once.
        plan: methods and copies.
        change: makes one variant of a row, as `augment_row` or `augment_example` with a seed.
    """
    left = iter(rows)
    while batch := list(islice(left, ROWS_AT_ONCE)):
        of_rows: list[list[Row]] = [[] for _ in batch]
        for method in plan.methods:
            for copy in range(plan.num_copies):
                changed = _changed(batch, method, copy, change)
                for of_row, variant in zip(of_rows, changed, strict=True):
                    if variant is not None and variant not in of_row:
                        of_row.append(variant)
        yield from zip(batch, of_rows, strict=True)


def _changed(
    batch: Sequence[Row], method: Augmentation, copy: int, change: Change[Row]
) -> list[Row | None]:
    if method.num_threads == 1:
        return [change(row, method, copy) for row in batch]
    pool = ThreadPoolExecutor(method.num_threads)
    try:
        return list(pool.map(lambda row: change(row, method, copy), batch))
    finally:
        pool.shutdown(cancel_futures=True)


def augment_example(
    example: Example, method: Augmentation, copy: int = 0, *, seed: int
) -> Example | None:
    """A variant of a row that was read: other user turns, everything else as it was.

    Args:
        example: any row. All of a plain text is taught, so changing it changes what is learned:
            meant for tests of robustness; `write_augmented` leaves plain text out.
        method: how it is changed.
        copy: number of the variant; each one differs.
        seed: the same seed and row give the same change, whatever comes before.

    Returns:
        A new row that carries the method's name, or None where nothing was changed or the row is
        augmented already.
    """
    if example.augmented_by:
        return None
    name = AUGMENTATIONS.name_of(method)
    rng = rng_of((str(seed), name, str(copy), example.key))

    def rewritten(turn: Message) -> Message:
        if turn.role not in CHANGED_ROLES or not turn.content.strip():
            return turn
        return replace(turn, content=method.change(turn.content, rng))

    messages = tuple(map(rewritten, example.messages))
    if messages == example.messages:
        return None
    return replace(example, messages=messages, augmented_by=name)


def augment_row(
    row: Mapping[str, Any],
    method: Augmentation,
    copy: int = 0,
    *,
    seed: int,
    fields: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """A variant of a row in any layout, marked with the method.

    Args:
        row: names and values, as in the file or table that it is from.
        method: how it is changed.
        copy: number of the variant; each one differs.
        seed: the same seed and row give the same change, whatever comes before.
        fields: names of the fields to change; None for the known prompt fields.

    Returns:
        A new row, or None where the method changes nothing or the row is augmented already.
    """
    if row.get(MARK):
        return None
    name = AUGMENTATIONS.name_of(method)
    rng = rng_of((str(seed), name, str(copy), *_texts_of(row, fields)))

    def change(text: str) -> str:
        return method.change(text, rng) if text.strip() else text

    names = prompt_fields(row) if fields is None else [each for each in fields if each in row]
    changed = {each: _rewritten(each, row[each], change) for each in names}
    if all(changed[each] == row[each] for each in names):
        return None
    return {**row, **changed, MARK: name}


def prompt_fields(row: Mapping[str, Any]) -> list[str]:
    """The fields of a row that are its prompt."""
    names = [name for name in PROMPT_FIELDS if row.get(name)]
    has_answer = any(row.get(name) is not None for name in ANSWER_FIELDS)
    return names + [name for name in TEXT_FIELDS if has_answer and row.get(name)]


def known_fields(names: Iterable[str], fields: Sequence[str] | None) -> list[str]:
    """Those fields of a table that `augment_row` reads."""
    known = {*PROMPT_FIELDS, *TEXT_FIELDS, *FIXED_FIELDS, MARK, *(fields or ())}
    return [name for name in names if name in known]


def rng_of(content: Iterable[str]) -> Random:
    """Random numbers that depend on texts alone: not on order, process or machine."""
    digest = hashlib.blake2b(digest_size=16)
    for text in content:
        encoded = text.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return Random(int.from_bytes(digest.digest(), "big"))


def _texts_of(row: Mapping[str, Any], fields: Sequence[str] | None) -> Iterator[str]:
    """The texts of the known fields, the same from a list of dicts and from a table."""
    for name in sorted({*known_fields(row, fields)} - {MARK}):
        yield from _leaves(row[name])


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name in sorted(value):
            yield from _leaves(value[name])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)


def _rewritten(name: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if not isinstance(value, list):
        return value
    rewrite = _rewritten_pair if name == "history" else _rewritten_turn
    return [rewrite(each, change) for each in value]


def _rewritten_pair(pair: Any, change: Callable[[str], str]) -> Any:
    """A question and its answer, as in alpaca's history."""
    if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str):
        return [change(pair[0]), pair[1]]
    return pair


def _rewritten_turn(turn: Any, change: Callable[[str], str]) -> Any:
    """One message as OpenAI or ShareGPT lay it out; a text of its own is a user's."""
    if isinstance(turn, str):
        return change(turn)
    if not isinstance(turn, Mapping) or (turn.get("role") or turn.get("from")) not in USERS:
        return turn
    name = "content" if turn.get("content") is not None else "value"
    content = turn.get(name)
    if isinstance(content, str):
        return {**turn, name: change(content)}
    if isinstance(content, list):
        return {**turn, name: [_rewritten_part(part, change) for part in content]}
    return turn


def _rewritten_part(part: Any, change: Callable[[str], str]) -> Any:
    """One part of a message with pictures."""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {**part, "text": change(part["text"])}
    return part
