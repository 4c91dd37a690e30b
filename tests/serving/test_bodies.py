"""JSON is bounded before it is parsed, in time proportional to its size."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.serving.bodies import MAX_DEPTH, MAX_VALUES, BodyNotPlainError, require_plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False).filter(abs),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@pytest.mark.slow
@given(VALUES.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_plain_json_passes(value: object) -> None:
    require_plain(json.dumps(value).encode())
    require_plain(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def test_depth_is_counted_outside_of_texts() -> None:
    require_plain(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    require_plain(json.dumps({"a": '[[[["{{{' * 1000, "b\\": "\\"}).encode())
    with pytest.raises(BodyNotPlainError, match=f"nested {MAX_DEPTH + 1} deep"):
        require_plain(b'{"a":' * (MAX_DEPTH + 1))


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(BodyNotPlainError, match=name.removeprefix("-")):
        require_plain(f'{{"temperature": {name}}}'.encode())
    require_plain(f'{{"text": "{name}"}}'.encode())


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BodyNotPlainError, match="digits"):
        require_plain(b'{"seed": ' + b"9" * 5000 + b"}")


def test_too_many_values_are_refused() -> None:
    with pytest.raises(BodyNotPlainError, match="values"):
        require_plain(b"[" + b"[]," * (MAX_VALUES + 1) + b"0]")


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'"' * 999_999, b'"' + b'\\"' * 500_000, b"9" * 1_000_000, b"[]" * 500_000],
    ids=["lists", "quotes", "escapes", "digits", "pairs"],
)
def test_a_hostile_megabyte_costs_no_more_than_a_plain_one(body: bytes) -> None:
    """Quadratic work would take minutes."""
    began = time.process_time()
    with contextlib.suppress(BodyNotPlainError):
        require_plain(body)
    assert time.process_time() - began < 5
