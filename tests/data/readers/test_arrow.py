import datetime
import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.data.reading import RawRow, Refused, read_examples, read_rows

ROWS = [{"instruction": f"问 {i}", "input": None, "output": "答"} for i in range(1200)]
TALK = {
    "messages": [
        {"role": "user", "content": "q", "tool_calls": None, "weight": None},
        {"role": "assistant", "content": "a", "tool_calls": None, "weight": 0.5},
    ],
    "tools": None,
}


def write(path, rows, kind):
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=500)
        return
    new = ipc.new_file if kind == "file" else ipc.new_stream
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "a"])
def test_columns_are_read_by_what_they_are_not_by_their_name(tmp_path, kind, name):
    write(tmp_path / name, ROWS, kind)
    rows = list(read_rows(tmp_path / name))
    assert rows == [RawRow(number, row) for number, row in enumerate(ROWS, 1)]


def test_empty_cells_are_as_fields_left_out(tmp_path):
    write(tmp_path / "a.parquet", [TALK, ROWS[0]], "parquet")
    rows = list(read_examples(tmp_path / "a.parquet"))
    assert isinstance(rows[0], Example)
    assert [turn.weight for turn in rows[0].messages] == [1.0, 0.5]


def test_a_packed_one_is_unpacked(tmp_path):
    write(tmp_path / "a.parquet", ROWS, "parquet")
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert len(list(read_rows(packed))) == 1200


def test_values_that_json_does_not_know_are_reported(tmp_path):
    row = {"instruction": "a", "output": datetime.date(2024, 1, 2)}
    write(tmp_path / "a.parquet", [row], "parquet")
    (refused,) = read_examples(tmp_path / "a.parquet")
    assert isinstance(refused, Refused)
    assert refused.reason == "'output' must be text, this is a date."
    assert "2024-01-02" in refused.text


@pytest.mark.parametrize(("kind", "name"), [("parquet", "Parquet"), ("file", "Arrow")])
def test_half_a_file_is_reported(tmp_path, kind, name):
    path = tmp_path / "a.parquet"
    write(path, ROWS, kind)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=rf"is no whole {name} file \(.*\). Copy it again."):
        list(read_rows(path))


def test_half_a_stream_keeps_the_rows_before_the_cut(tmp_path):
    write(tmp_path / "a.arrow", ROWS, "stream")
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) * 3 // 4])
    *rows, last = read_rows(tmp_path / "a.arrow")
    assert len(rows) == 700
    assert last.reason.startswith("from here on the file is no whole Arrow file")


def test_a_text_called_parquet_is_reported(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(DataError, match="is no Parquet file although it is called one"):
        list(read_rows(tmp_path / "a.parquet"))


def asked(name, arguments, properties, **more):
    """A row that calls a tool, as one would write it in JSON."""
    function = {"name": name, "parameters": {"type": "object", "properties": properties, **more}}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "a"},
    ]
    return {"messages": turns, "tools": [{"type": "function", "function": function}]}


TEXT, MAYBE = {"type": "string"}, {"type": ["string", "null"], "default": None}
CALLS = [
    asked("weather", {"city": "Oslo"}, {"city": TEXT}),
    asked("rate", {"base": "EUR", "day": 1}, {"base": TEXT, "day": {"type": "integer"}}),
    asked(
        "route",
        {"to": {"town": "Bergen", "by": ["car", None]}, "when": "now"},
        {"to": {"type": "object", "properties": {"town": TEXT, "by": {"type": "array"}}},
         "when": {"type": "string", "enum": ["now", None]}},
        required=["to"],
    ),
    asked("sun", {"place": {"town": "Oslo"}}, {"place": {"type": "object", "nullable": True}}),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_nulls_that_arrow_adds_are_in_no_tool_and_in_no_argument(tmp_path, kind):
    path = tmp_path / "a.parquet"
    write(path, CALLS, kind)
    for row, written in zip(read_examples(path), CALLS, strict=True):
        assert json.loads(row.tools) == written["tools"]
        (call,) = row.messages[1].tool_calls
        arguments = written["messages"][1]["tool_calls"][0]["function"]["arguments"]
        assert json.loads(call.arguments) == arguments


@pytest.mark.parametrize(
    "schema",
    [
        MAYBE,
        {"type": "string", "default": None},
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        {"type": "string", "nullable": True, "default": None},
        {"enum": ["a", None], "default": None},
        {"const": None},
        {"type": "null", "const": None},
    ],
)
@pytest.mark.parametrize("others", [CALLS, []])
def test_nulls_that_a_schema_means_stay(tmp_path, schema, others):
    row = asked("find", {"what": "x"}, {"what": schema})
    write(tmp_path / "a.parquet", [row, *others], "parquet")
    (first, *_) = read_examples(tmp_path / "a.parquet")
    assert json.loads(first.tools) == row["tools"]
    assert json.loads(first.messages[1].tool_calls[0].arguments) == {"what": "x"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (same,) = read_examples(tmp_path / "a.jsonl")
    assert json.loads(same.tools) == row["tools"]


def test_another_rows_default_is_no_null_here(tmp_path):
    rows = [
        asked("a", {"n": 1}, {"n": {"type": "integer", "default": 7}}),
        asked("b", {"n": 1}, {"n": {"type": "integer"}}),
    ]
    write(tmp_path / "a.parquet", rows, "parquet")
    found = [json.loads(row.tools) for row in read_examples(tmp_path / "a.parquet")]
    assert found == [row["tools"] for row in rows]


def test_calls_and_tools_as_text_stay_as_they_are(tmp_path):
    row = asked("f", '{"a": null}', {})
    row["tools"] = '[{"name": "f", "strict": null}]'
    write(tmp_path / "a.parquet", [row], "parquet")
    (found,) = read_examples(tmp_path / "a.parquet")
    assert found.messages[1].tool_calls[0].arguments == '{"a": null}'
    assert found.tools == row["tools"]


def test_a_map_is_an_object(tmp_path):
    kind = pa.schema([
        ("messages", pa.list_(pa.struct([
            ("role", pa.string()), ("content", pa.string()),
            ("tool_calls", pa.list_(pa.struct([
                ("name", pa.string()), ("arguments", pa.map_(pa.string(), pa.string()))])))]))),
    ])  # fmt: skip
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [("city", "Oslo")]}]},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "a"},
    ]
    table = pa.Table.from_pylist([{"messages": turns}], schema=kind)
    parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = read_examples(tmp_path / "a.parquet")
    assert row.messages[1].tool_calls[0].arguments == '{"city": "Oslo"}'


def test_turns_in_other_words_beside_empty_ones_are_read(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "value": "q"}, {"role": "assistant", "value": "a"}]},
    ]
    keys = ("role", "content", "from", "value", "tool_calls", "function_call", "thinking")
    for row in rows:
        row["messages"] = [{name: turn.get(name) for name in keys} for turn in row["messages"]]
    write(tmp_path / "a.parquet", rows, "parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.parquet", "a.jsonl"):
        found = [[turn.content for turn in row.messages] for row in read_examples(tmp_path / name)]
        assert found == [["q", "a"]] * 3


def test_numbers_that_are_none_are_missing(tmp_path):
    nan = float("nan")
    row = {"instruction": "q", "input": nan, "output": "a", "weight": nan, "kto_tag": nan}
    write(tmp_path / "a.parquet", [row], "parquet")
    (found,) = read_examples(tmp_path / "a.parquet")
    assert (found.messages[0].content, found.weight, found.is_desirable) == ("q", 1.0, None)
    write(tmp_path / "a.parquet", [{"instruction": "q", "output": nan}], "parquet")
    (refused,) = read_examples(tmp_path / "a.parquet")
    assert refused.reason == "'output' has no value (it is null or NaN)."


def test_two_columns_of_one_name_are_reported(tmp_path):
    table = pa.table([["q"], ["a"], ["b"]], names=["instruction", "output", "output"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has two columns called 'output'. Rename one."):
        list(read_rows(tmp_path / "a.parquet"))
