"""`DataAugmenter`: adds variants to the rows of a list, or of a set of the `datasets` library."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_factory.core import __version__, files
from llama_factory.core.errors import ConfigError, DataError, suggest
from llama_factory.data.augment import AUGMENTATIONS, AugmentPlan, Method, parse_methods
from llama_factory.data.augment.synonyms import BUILT_IN
from llama_factory.data.augment.variants import (
    FIXED_FIELDS,
    MARK,
    augment_row,
    known_fields,
    prompt_fields,
    rng_of,
    variants,
)

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

Data = TypeVar("Data")
TRAIN = "train"
ROWS_A_BATCH = 1000
"""Rows of a table that are in memory together."""


class DataAugmenter:
    """Adds rows that ask the same in other words; what is to be learned from them stays.

    Changed are instruction, input, prompt, query, question, the questions of history, and the
    user's turns in messages or conversations; `text`, `content` or `sentence` where the row has
    an answer or label beside it. Answers, labels, preference pairs, system prompts and tools
    never are.

    Args:
        methods: names, settings as in `{"type": "typo", "rate": 0.1}`, or the methods themselves.
            Each one makes its own rows.
        synonym_dict: dictionary of the methods that use one: a group of synonyms a line. None
            takes the built-in one.
        num_copies: rows that each method makes of one row; higher adds more variety and time.
        seed: same seed and rows give the same result on every machine.
        fields: names of the fields to change; None for those above.
        keep_original: whether the original rows stay, before those made of them.

    Raises:
        ConfigError: a method or setting is unknown, or a field holds answers.
        DataError: the dictionary cannot be read.
    """

    def __init__(
        self,
        methods: Sequence[Method] = ("synonym_replacement",),
        synonym_dict: str | Path | None = None,
        *,
        num_copies: int = 1,
        seed: int = 0,
        fields: Sequence[str] | None = None,
        keep_original: bool = True,
    ) -> None:
        _require_prompts(fields)
        self.plan = AugmentPlan(parse_methods(methods, synonym_dict), num_copies, seed)
        self.fields = None if fields is None else tuple(fields)
        self.keep_original = keep_original

    def process(self, data: Data) -> Data:
        """Augment rows; those made carry `augmented_by: METHOD`.

        Args:
            data: a list of dicts, a `datasets.Dataset`, an `IterableDataset`, or a dict of them, of
                which only the split `train` is augmented; the other splits are passed on as
                they are. Rows that are augmented already are not augmented again.

        Returns:
            The same kind of thing: the original rows, then those made of them; in a stream, which
            is read only once, each row and those made of it. Original rows of a list are the same
            objects; those of a Dataset have an empty `augmented_by`.

        Raises:
            DataError: it is something else, has no `train` split, or nothing to change in any row.
        """
        if isinstance(data, list):
            return cast(Data, self._list(data))
        if isinstance(data, Mapping):
            train = _train_split(data)
            kind: Any = type(data)
            return cast(Data, kind({**data, train: self.process(data[train])}))
        return cast(Data, self._table(data))

    def _variants(
        self, rows: Iterable[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        return variants(
            rows, self.plan, partial(augment_row, seed=self.plan.seed, fields=self.fields)
        )

    def _list(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError(f"row {place} is of type {type(row).__name__}. Rows must be dicts.")
        if rows:
            self._require_fields(dict.fromkeys(name for row in rows for name in row))
        new = [each for _, of_row in self._variants(rows) for each in of_row]
        return [*rows, *new] if self.keep_original else new

    def _table(self, data: Any) -> Any:
        import datasets

        if isinstance(data, datasets.Dataset):
            self._require_fields(data.column_names)
            return self._dataset(data)
        if isinstance(data, datasets.IterableDataset):
            if data.column_names is not None:
                self._require_fields(data.column_names)
            return self._stream(data)
        raise DataError(
            f"process() was given a {type(data).__name__}. It takes a list of dicts, or a Dataset, "
            "IterableDataset or DatasetDict of the `datasets` library."
        )

    def _dataset(self, data: "datasets.Dataset") -> "datasets.Dataset":
        """A dataset followed by the variants of its rows, which are stored where it is."""
        import datasets

        plain = data.with_format("arrow")
        new = plain.map(
            self._batch,
            batched=True,
            batch_size=ROWS_A_BATCH,
            features=_with_mark(data.features),
            new_fingerprint=self._fingerprint(data._fingerprint),
            desc="augmenting",
        )
        if MARK not in new.column_names:  # `map` leaves a set without rows as it is
            new = _marked(new)
        if self.keep_original:
            new = datasets.concatenate_datasets([_marked(plain), new])
        return new.with_format(data.format["type"])

    def _stream(self, data: "datasets.IterableDataset") -> "datasets.IterableDataset":
        """A stream with the variants of its rows; read only once, each row comes before its own."""
        batches = data.with_format("arrow").map(
            partial(self._batch, keep_original=self.keep_original),
            batched=True,
            batch_size=ROWS_A_BATCH,
            features=_with_mark(data.features) if data.features else None,
        )
        return batches.with_format(None)

    def _batch(self, table: "pa.Table", *, keep_original: bool = False) -> "pa.Table":
        """The variants of rows, each row before its own where it is kept.

        Only the columns that `augment_row` reads become Python values; the others, pictures among
        them, are copied as they are stored.
        """
        import pyarrow as pa

        names = known_fields(table.column_names, self.fields)
        places: list[int] = []
        rows: list[dict[str, Any]] = []
        for place, (row, new) in enumerate(self._variants(_rows(table, names))):
            kept = [{**row, MARK: row.get(MARK) or ""}] if keep_original else []
            rows += [*kept, *new]
            places += [place] * (len(kept) + len(new))
        result = table.take(pa.array(places, pa.int64()))
        changeable = [name for name in names if name != MARK]
        for name, column in _columns(table, rows, changeable).items():
            result = result.set_column(result.column_names.index(name), name, column)
        if MARK in result.column_names:
            result = result.drop_columns(MARK)
        return result.append_column(MARK, pa.array([row[MARK] for row in rows], pa.string()))

    def _fingerprint(self, before: str) -> str:
        """Identifies the result for the cache: the data's fingerprint and all that changes it."""
        methods = [f"{AUGMENTATIONS.name_of(m)} {m.model_dump_json()}" for m in self.plan.methods]
        read = [m.synonyms or BUILT_IN for m in self.plan.methods if hasattr(m, "synonyms")]
        settings = (self.plan.num_copies, self.plan.seed, self.fields, self.keep_original)
        parts = (__version__, before, *methods, *map(files.sha256, read))
        return f"{rng_of((*parts, repr(settings))).getrandbits(64):016x}"

    def _require_fields(self, names: Iterable[str]) -> None:
        """Refuse a set in which there is nothing to change."""
        listed = list(names)
        shown = ", ".join(listed) or "(none)"
        for field in self.fields or ():
            if field not in listed:
                hint = suggest(field, listed)
                raise DataError(f"no row has the field '{field}'.{hint} Fields: {shown}.")
        if self.fields is None and not prompt_fields(dict.fromkeys(listed, True)):
            raise DataError(
                f"no prompt to change among the fields {shown}. Name what may be changed, "
                "as in fields=['question']; plain text alone is changed only if it is named."
            )


def _require_prompts(fields: Sequence[str] | None) -> None:
    if isinstance(fields, str):
        raise ConfigError(f"fields must be a list, as in fields=['{fields}'].")
    for field in fields or ():
        if field in FIXED_FIELDS:
            raise ConfigError(
                f"the field '{field}' is never changed: it holds what is to be learned, or what "
                "the answer depends on. Name fields of the prompt, as in fields=['instruction']."
            )


def _train_split(splits: Iterable[str]) -> str:
    """The only split that is augmented."""
    listed = list(splits)
    if TRAIN in listed:
        return TRAIN
    raise DataError(
        f"only the split '{TRAIN}' is augmented, and there is none among {', '.join(listed)}."
        f"{suggest(TRAIN, listed)} Give the split itself, as in process(data['{listed[0]}'])."
    )


def _marked(data: "datasets.Dataset") -> "datasets.Dataset":
    """The dataset with an empty mark in every row, if it has no marks."""
    import datasets

    if MARK in data.column_names:
        return data
    return data.add_column(MARK, [""] * len(data), feature=datasets.Value("string"))


def _with_mark(features: "datasets.Features") -> "datasets.Features":
    import datasets

    others = {name: kind for name, kind in features.items() if name != MARK}
    return datasets.Features({**others, MARK: datasets.Value("string")})


def _rows(table: "pa.Table", names: list[str]) -> Iterator[dict[str, Any]]:
    """The rows as Python values; JSON columns, which are stored as text, are read."""
    import datasets

    features = datasets.Features.from_arrow_schema(table.select(names).schema)
    for row in table.select(names).to_pylist():
        yield features.decode_example(row)


def _columns(
    table: "pa.Table", rows: list[dict[str, Any]], names: list[str]
) -> "dict[str, pa.ChunkedArray]":
    """Columns of rows, stored as those of `table` are."""
    import datasets

    if not names:
        return {}
    features = datasets.Features.from_arrow_schema(table.select(names).schema)
    values = {name: [row[name] for row in rows] for name in names}
    stored = datasets.Dataset.from_dict(values, features=features).with_format("arrow")[:]
    return {name: stored.column(name) for name in names}
