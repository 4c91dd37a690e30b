"""Parquet and Arrow files, a batch of rows at a time, without the nulls that Arrow adds to rows.

Arrow gives all objects of a column the same fields: those that an object lacks it holds as null. In
the arguments of a call, or the properties of a tool, such nulls would be taught.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from llama_factory.core.errors import DataError
from llama_factory.data import file_sentences as texts
from llama_factory.data.readers import RawRow, Reader, Refused, register_reader
from llama_factory.data.readers.streams import Opened

BATCH_ROWS = 500


def read_parquet(opened: Opened) -> Iterator[RawRow | Refused]:
    """Every row of a Parquet file."""
    import pyarrow.parquet

    with opened.binary() as file, _arrow_errors("Parquet"):
        whole = pyarrow.parquet.ParquetFile(file)
        yield from _rows(whole.schema_arrow, whole.iter_batches(batch_size=BATCH_ROWS))


def read_arrow(opened: Opened) -> Iterator[RawRow | Refused]:
    """Every row of an Arrow file, in the file or the stream format."""
    import pyarrow.ipc

    with opened.binary() as file, _arrow_errors("Arrow"):
        if opened.head.startswith(b"ARROW1"):
            whole = pyarrow.ipc.open_file(file)
            batches = map(whole.get_batch, range(whole.num_record_batches))
        else:
            whole = batches = pyarrow.ipc.open_stream(file)
        yield from _rows(whole.schema, batches)


def _rows(schema: Any, batches: Iterable[Any]) -> Iterator[RawRow]:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise DataError(texts.COLUMN_TWICE(name=twice))
    slices = (
        batch.slice(start, BATCH_ROWS)
        for batch in batches
        for start in range(0, batch.num_rows, BATCH_ROWS)
    )
    values = chain.from_iterable(part.to_pylist() for part in slices)
    shape = ArrowShape.of(schema)
    for number, value in enumerate(values, 1):
        yield RawRow(number, as_written(value, shape))


@dataclass(frozen=True)
class ArrowShape:
    """What of an Arrow type is needed to distinguish added nulls from meant ones.

    Attributes:
        fields: the shape of each field that holds objects.
        always_null: fields that are null in every object, so one object at least has them.
        is_map: whether this is a list of names and values.
        is_known: whether the type is known at all.
    """

    fields: Mapping[str, "ArrowShape"] = field(default_factory=dict)
    always_null: frozenset[str] = frozenset()
    is_map: bool = False
    is_known: bool = True

    @staticmethod
    def of(kind: Any) -> "ArrowShape | None":
        """The shape of a schema, or of a type with the lists around it; None for other types."""
        from pyarrow import Schema, types

        if not isinstance(kind, Schema) and types.is_map(kind):
            return ArrowShape({"": ArrowShape.of(kind.item_type) or ArrowShape()}, is_map=True)
        if not isinstance(kind, Schema) and not types.is_struct(kind):
            inner = getattr(kind, "value_type", None)
            return ArrowShape.of(inner) if inner is not None else None
        found = {part.name: ArrowShape.of(part.type) for part in kind}
        shapes = {name: shape for name, shape in found.items() if shape is not None}
        return ArrowShape(shapes, frozenset(part.name for part in kind if types.is_null(part.type)))


UNKNOWN_SHAPE = ArrowShape(is_known=False)


def as_written(row: Mapping[str, Any], shape: ArrowShape | None = UNKNOWN_SHAPE) -> dict[str, Any]:
    """A row of Arrow's without the nulls that it added; those of the row itself stay.

    A null inside an object stays where the object is a schema that means it: as a default, or the
    only value, of something that may be null.
    """
    shape = shape or UNKNOWN_SHAPE
    unnamed = None if shape.is_known else UNKNOWN_SHAPE
    return {n: _pruned(value, shape.fields.get(n, unnamed)) for n, value in row.items()}


def _pruned(value: Any, shape: ArrowShape | None) -> Any:
    if shape is None or not isinstance(value, list | dict):
        return value
    if shape.is_map and isinstance(value, list) and all(isinstance(v, tuple) for v in value):
        return {name: _pruned(part, shape.fields[""]) for name, part in value}
    if isinstance(value, list):
        return [_pruned(each, shape) for each in value]
    unnamed = None if shape.is_known else UNKNOWN_SHAPE
    return {
        name: _pruned(part, shape.fields.get(name, unnamed))
        for name, part in value.items()
        if part is not None or _is_meant(name, value, shape)
    }


def _is_meant(name: str, schema: Mapping[str, Any], shape: ArrowShape) -> bool:
    """Whether a null has a meaning in a schema."""
    is_written = name in shape.always_null
    if name == "default":
        return is_written or _may_be_null(schema)
    return name == "const" and (_may_be_null(schema) or (is_written and not schema.get("type")))


def _may_be_null(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    if kind == "null" or schema.get("nullable") is True:
        return True
    options = [kind, schema.get("enum")]
    if any(isinstance(each, list) and ("null" in each or None in each) for each in options):
        return True
    others = [schema.get(name) for name in ("anyOf", "oneOf")]
    inner = [each for listed in others if isinstance(listed, list) for each in listed]
    return any(isinstance(each, dict) and _may_be_null(each) for each in inner)


@contextmanager
def _arrow_errors(kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise DataError(texts.NOT_WHOLE(kind=kind, error=first)) from error


register_reader(Reader("Parquet", (".parquet",), read_parquet, (b"PAR1",)))
ARROW_MAGIC = (b"ARROW1", b"\xff\xff\xff\xff")
"""Of a file, and of a stream."""
register_reader(Reader("Arrow", (".arrow", ".feather"), read_arrow, ARROW_MAGIC))
