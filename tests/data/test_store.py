import json

import numpy as np
import pyarrow as pa
import pytest

from llama_factory.core import files
from llama_factory.data.row_columns import COLUMNS, Fragment, make_fragment
from llama_factory.data.store import RowFile, RowTable, convert_arrays, join_parts, write_part
from tests.data.rows import as_numpy_files, chat, table_of

ROWS = [chat(f"Question {i}?", f"答案 {i}", group="ab"[i % 2], line=i) for i in range(10)]


def parts(tmp_path):
    write_part(tmp_path / "p0", [make_fragment(ROWS[:3]), make_fragment(ROWS[3:4])])
    write_part(tmp_path / "p1", [make_fragment(ROWS[4:])])
    return [tmp_path / "p0", tmp_path / "p1"]


def joined(tmp_path):
    return join_parts(parts(tmp_path), tmp_path / "joined")


def test_rows_of_all_parts_are_numbered_through(tmp_path):
    table = joined(tmp_path)
    assert len(table) == 10
    assert [table.row(number) for number in (0, 3, 4, 9, 1)] == [ROWS[n] for n in (0, 3, 4, 9, 1)]
    assert [table.groups[g] for g in table.column("group")] == [row.group for row in ROWS]
    assert table.column("line").tolist() == list(range(10))


def test_columns_do_not_depend_on_the_parts(tmp_path):
    split, whole = joined(tmp_path), table_of(tmp_path / "whole", ROWS)
    for name in ("key", "prompt", "question", "answer", "num_characters", "is_testable"):
        assert (split.column(name) == whole.column(name)).all()
    for band in (0, 17):
        assert (split.column("bands", band) == whole.column("bands", band)).all()
        assert (split.column("prompt_bands", band) == whole.column("prompt_bands", band)).all()


def test_chosen_rows_come_as_lines_and_as_columns(tmp_path):
    table = joined(tmp_path)
    keep = np.arange(10) % 3 == 0
    lines = [json.loads(line) for line in b"".join(table.lines(keep)).splitlines()]
    assert lines == [ROWS[n].to_json() for n in (0, 3, 6, 9)]
    table.write_columns(keep, tmp_path / "kept")
    part = RowTable.open(tmp_path / "kept", tmp_path / "none.jsonl")
    assert (len(part), part.has_rows) == (4, False)
    assert (part.column("key") == table.column("key")[keep]).all()
    assert (part.column("bands", 5) == table.column("bands", 5)[keep]).all()


def test_a_table_without_rows_has_empty_columns(tmp_path):
    write_part(tmp_path / "none", [])
    for table in (RowTable.empty(), join_parts([tmp_path / "none"], tmp_path / "joined")):
        assert len(table) == 0
        assert table.column("key").shape == table.column("bands", 0).shape == (0,)


def test_a_table_may_have_more_groups_than_two_bytes_can_count(tmp_path):
    count, one = 2**16 + 1, make_fragment(ROWS[:1])
    columns = np.repeat(one.columns, count)
    columns["group"] = np.arange(count)
    many = Fragment(one.lines * count, columns, tuple(f"g{number}" for number in range(count)))
    write_part(tmp_path / "many", [many])
    table = join_parts([tmp_path / "many"], tmp_path / "joined")
    assert (table.column("group") == columns["group"]).all()


def test_columns_that_earlier_versions_wrote_are_converted(tmp_path):
    as_numpy_files(tmp_path / "old", ROWS)
    convert_arrays(tmp_path / "old", tmp_path / "new")
    table = RowTable.open(tmp_path / "new", tmp_path / "none.jsonl")
    same = table_of(tmp_path / "same", ROWS)
    assert (table.groups, table.signatures) == (same.groups, same.signatures)
    assert all((table.column(name) == same.column(name)).all() for name in COLUMNS.names)


def test_a_file_of_columns_that_is_cut_off_cannot_be_opened(tmp_path):
    table_of(tmp_path / "t", ROWS)
    path = tmp_path / "t" / "columns.arrow"
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises((pa.ArrowInvalid, OSError)):
            RowTable.open(tmp_path / "t", tmp_path / "t" / "rows.jsonl")


LINES = [chat(f"Frage {i} äöü 问题", f"答案\n{i}", line=i) for i in range(7)]


@pytest.fixture
def path(tmp_path):
    files.write_jsonl(tmp_path / "rows.jsonl", (row.to_json() for row in LINES))
    return tmp_path / "rows.jsonl"


def test_a_row_file_is_a_sequence(path):
    rows = RowFile(path)
    assert len(rows) == 7
    assert list(rows) == LINES
    assert [rows[i] for i in (6, 0, -1)] == [LINES[i] for i in (6, 0, -1)]
    assert rows[2:5] == tuple(LINES[2:5])
    assert rows == LINES
    with pytest.raises(IndexError):
        rows[7]


def test_an_order_may_leave_out_and_repeat(path):
    rows = RowFile(path, np.array([3, 3, 0]))
    assert list(rows) == [LINES[3], LINES[3], LINES[0]]
    assert rows[-1] == LINES[0]


def test_a_missing_file_has_no_rows(tmp_path):
    assert list(RowFile(tmp_path / "none.jsonl")) == []
