"""No input makes reading crash, and no good row outside the damage is lost."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.data.formats import Layout
from llama_factory.data.formats.unread import unread_fields
from llama_factory.data.readers.arrow import as_written
from llama_factory.data.reading import RawRow, Refused, read_examples, to_example

quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(lambda t: f"a{t}")
alpaca = st.builds(lambda q, a: {"instruction": q, "input": "", "output": a}, texts, texts)
talks = st.builds(
    lambda q, a: {
        "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    },
    texts,
    texts,
)
turns = talks.map(lambda row: row["messages"])
objects = st.lists(alpaca, min_size=1, max_size=4) | st.lists(talks, min_size=1, max_size=4)
lists = st.lists(turns, min_size=1, max_size=4)
rows = objects | lists
around = st.tuples(objects, objects) | st.tuples(lists, lists)
"""Rows before and after a damage: objects, or lists of turns."""
garbage = st.one_of(
    st.binary(max_size=40),
    st.text('{}[],:"\\ abc0', max_size=40).map(str.encode),
    st.sampled_from([b'{"instruction": "x', b"[" * 99_999, b"9" * 5000, b'"', b"\xff\xfe", b"\0"]),
)


def read(name, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            found = list(read_examples(path))
        except DataError:
            return []
    assert all(isinstance(row, Example | Refused) for row in found)
    return found


def said(row):
    turns = row if isinstance(row, list) else row.get("messages")
    if turns:
        return (turns[0]["content"], turns[1]["content"])
    return (row["instruction"], row["output"])


def answers(found):
    examples = [row for row in found if isinstance(row, Example) and not row.is_text]
    return [(row.messages[0].content, row.answer) for row in examples]


def assert_all_there(good, found):
    answered = answers(found)
    for row in good:
        assert said(row) in answered


@pytest.mark.slow
@quick
@given(before=rows, damage=garbage.map(lambda b: b.replace(b"\n", b" ")), after=rows)
def test_json_lines_around_a_damaged_line_are_kept(before, damage, after):
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in before]
    lines += [damage] + [json.dumps(row).encode() for row in after]
    assert_all_there([*before, *after], read("a.jsonl", b"\n".join(lines)))


@pytest.mark.slow
@quick
@given(around=around, damage=garbage, indent=st.sampled_from([None, 1, 2]))
def test_rows_of_a_list_around_the_damage_are_kept(around, damage, indent):
    before, after = around
    whole = json.dumps(before, ensure_ascii=False, indent=indent).encode()
    rest = json.dumps(after, indent=indent).encode()[1:]
    found = read("a.json", whole[:-1] + b",\n" + damage + b",\n" + rest)
    assert_all_there([*before, *after], found)


@pytest.mark.slow
@quick
@given(around=around, cut=st.integers(1, 30), indent=st.sampled_from([None, 1, 2]))
def test_rows_of_a_list_after_a_cut_row_are_kept(around, cut, indent):
    before, after = around
    middle = json.dumps(before[0])[:-cut].encode()
    whole = json.dumps(before, ensure_ascii=False, indent=indent).encode()
    rest = json.dumps(after, indent=indent).encode()[1:]
    found = read("a.json", whole[:-1] + b",\n" + middle + b",\n" + rest)
    assert_all_there([*before, *after], found)


@pytest.mark.slow
@quick
@given(before=st.lists(alpaca, min_size=1), damage=garbage, after=st.lists(alpaca, min_size=1))
def test_csv_records_around_a_damaged_line_are_kept(before, damage, after):
    before, after = ([plain(row) for row in part] for part in (before, after))
    damage = damage.replace(b"\n", b" ").replace(b"\r", b" ")
    content = written(before) + damage + b"\n" + written(after).split(b"\n", 1)[1]
    assert_all_there([*before, *after], read("a.csv", content))


def plain(row):
    """Text that spans no lines: a quote in the damage may rightly take in the lines after it."""
    return {name: "".join(filter(str.isalnum, text)) or text[:0] for name, text in row.items()}


def written(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, ["instruction", "input", "output"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.variants
@quick
@given(good=rows, place=st.floats(0, 1), damage=st.binary(min_size=1, max_size=8))
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_damaged_archive_is_never_a_crash(packed, good, place, damage):
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in good)
    if packed == "gz":
        data = gzip.compress(lines)
    else:
        import zstandard

        data = zstandard.compress(lines)
    assert_all_there(good, read(f"a.jsonl.{packed}", data))
    cut = int(place * len(data))
    for broken in (data[:cut], data[:cut] + damage + data[cut:]):
        read(f"a.jsonl.{packed}", broken)


@pytest.mark.variants
@quick
@given(content=st.binary(max_size=300))
@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a"])
def test_any_bytes_are_rows_or_an_error_with_a_reason(name, content):
    read(name, content)


TURN = ["role", "from", "content", "value", "weight", "Role", "thinking", "reasoning_content", "x"]
SCHEMA = ["function", "name", "arguments", "tool_calls", "parameters", "properties", "default"]
SCHEMA += ["const", "type", "anyOf", "enum"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TURN, *SCHEMA]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = ["instruction", "input", "output", "messages", "conversations", "chosen", "rejected"]
FIELDS += ["prompt", "completion", "label", "tools", "images", "text", "history", "system"]
FIELDS += ["group", "weight", "file", "line", "is_desirable", "augmented_by", "id"]
FIELDS += ["question", "Answer", "Label", "context"]


TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "bot"}
TURNS = {"messages": "messages", "system": "system", "tools": "tools", "kto_tag": "label"}
PAIR = {"chosen": "chosen", "rejected": "rejected", "images": "images"}
LAYOUTS = [
    {},
    {"columns": {"prompt": "text"}},
    {"columns": {"prompt": "prompt", "history": "history", "response": "output", **PAIR}},
    {"ranking": True, "columns": {"prompt": "prompt", **PAIR}},
    {"formatting": "sharegpt", "columns": TURNS},
    {"formatting": "openai", "columns": TURNS, "tags": TAGS},
    {"formatting": "sharegpt", "ranking": True, "columns": TURNS | PAIR, "tags": TAGS},
    {"formatting": "sharegpt", "columns": {}, "tags": {}},
]


@pytest.mark.variants
@settings(quick, max_examples=40)
@given(row=st.dictionaries(st.sampled_from(FIELDS), values, max_size=6))
@pytest.mark.parametrize("entry", LAYOUTS)
def test_any_values_in_any_layout_are_a_row_or_refused(entry, row):
    assert_read(row, Layout.of(entry))


def assert_read(row, layout):
    raw = RawRow(1, row)
    found = to_example(raw, group="g", file="f", layout=layout)
    assert isinstance(found, Example | Refused)
    if isinstance(found, Example):
        assert all(isinstance(name, str) for name in unread_fields(row, layout))
    asked = to_example(raw, group="g", file="f", layout=layout, may_lack_answer=True)
    assert asked == found or isinstance(found, Refused)


@pytest.mark.slow
@settings(quick, max_examples=150)
@given(row=st.dictionaries(st.sampled_from(FIELDS), values, max_size=6) | values)
def test_any_values_are_a_row_or_refused(row):
    assert_read(row, None)
    found = read("a.jsonl", json.dumps(row).encode())
    assert len(found) == 1 or not isinstance(row, dict)


@pytest.mark.slow
@settings(quick, max_examples=100)
@given(row=st.dictionaries(st.sampled_from(FIELDS), values, max_size=6))
def test_no_object_of_arrows_has_nulls_that_are_not_meant(row):
    found = as_written(row)
    assert found.keys() == row.keys()
    assert as_written(found) == found
