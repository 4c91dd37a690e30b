import numpy as np
import pytest

from llama_factory.core import files
from llama_factory.data.store import RowFile
from tests.data.rows import chat

ROWS = [chat(f"Frage {i} äöü 问题", f"答案\n{i}", line=i) for i in range(7)]


@pytest.fixture
def path(tmp_path):
    files.write_jsonl(tmp_path / "rows.jsonl", (row.to_json() for row in ROWS))
    return tmp_path / "rows.jsonl"


def test_a_row_file_is_a_sequence(path):
    rows = RowFile(path)
    assert len(rows) == 7
    assert list(rows) == ROWS
    assert [rows[i] for i in (6, 0, -1)] == [ROWS[i] for i in (6, 0, -1)]
    assert rows[2:5] == tuple(ROWS[2:5])
    assert rows == ROWS
    with pytest.raises(IndexError):
        rows[7]


def test_an_order_may_leave_out_and_repeat(path):
    rows = RowFile(path, np.array([3, 3, 0]))
    assert list(rows) == [ROWS[3], ROWS[3], ROWS[0]]
    assert rows[-1] == ROWS[0]


def test_a_missing_file_has_no_rows(tmp_path):
    assert list(RowFile(tmp_path / "none.jsonl")) == []
