"""Files of any size are read in the same memory."""

import gzip
import json
import tracemalloc

import pytest

from llama_factory.data.readers.json_values import CHUNK_BYTES
from llama_factory.data.reading import read_rows

NUM_ROWS = 5_000
ROW = {"instruction": "问" * 600, "output": "a" * 500}
LINE = json.dumps(ROW, ensure_ascii=False)


@pytest.mark.variants
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[" + ",\n".join([LINE] * NUM_ROWS) + "]"),
        ("a.jsonl", (LINE + "\n") * NUM_ROWS),
        ("a.jsonl.gz", (LINE + "\n") * NUM_ROWS),
        ("a.csv", "instruction,output\n" + f"{ROW['instruction']},{ROW['output']}\n" * NUM_ROWS),
    ],
    ids=["json", "jsonl", "gzip", "csv"],
)
def test_memory_stays_a_few_chunks(tmp_path, name, text):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    assert len(data) > 40 * CHUNK_BYTES
    tracemalloc.start()
    assert sum(row.value == ROW for row in read_rows(tmp_path / name)) == NUM_ROWS
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * CHUNK_BYTES
