import gzip
import json
import os

import pytest
import zstandard

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example, Message
from llama_factory.data.readers.detection import readers_by_suffix
from llama_factory.data.reading import (
    RawRow,
    Refused,
    group_of,
    is_readable,
    is_test_file,
    read_examples,
    read_rows,
    to_example,
)

GOOD = {"instruction": "Ask?", "input": "", "output": "Answer."}


def rows_of(tmp_path, *rows, name="faq.jsonl"):
    path = tmp_path / name
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return list(read_examples(path))


def reason(tmp_path, row):
    (refused,) = rows_of(tmp_path, row)
    assert isinstance(refused, Refused)
    assert refused.file == "faq.jsonl"
    assert refused.line == 1
    return refused.reason


def test_the_input_follows_the_instruction_on_its_own_line(tmp_path):
    (row,) = rows_of(tmp_path, {"instruction": "Sum up.", "input": "Text.", "output": "Short."})
    assert row.messages == (Message("user", "Sum up.\nText."), Message("assistant", "Short."))
    assert (row.group, row.file, row.line) == ("faq", "faq.jsonl", 1)


def test_messages_are_read_as_they_are(tmp_path):
    talk = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好！"}]
    (row,) = rows_of(tmp_path, {"messages": talk, "group": "zh", "weight": 2})
    assert (row.answer, row.group, row.weight) == ("您好！", "zh", 2.0)
    assert Example.from_json(row.to_json()) == row


def test_a_json_list_counts_rows(tmp_path):
    rows = rows_of(tmp_path, json.dumps([GOOD, {"output": "x"}]), name="faq.json")
    assert rows[0].line == 1
    assert (rows[1].file, rows[1].line) == ("faq.json", 2)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"instuction": "a", "output": "b"}, "Did you mean 'instruction'?"),
        ({"问题": "a"}, "fields 问题 are no known layout; expected "),
        ([1], "a row must be a JSON object, this is a list."),
        ('"text"', "a row must be a JSON object, this is text."),
        (GOOD | {"weight": 0}, "'weight' must be a number above 0."),
        (GOOD | {"weight": "heavy"}, "'weight' must be a number above 0."),
        (GOOD | {"weight": True}, "'weight' must be a number above 0."),
        (GOOD | {"weight": 10**400}, "'weight' must be a number above 0."),
        (GOOD | {"weight": float("inf")}, "'weight' must be a number above 0."),
        (GOOD | {"group": ["x"]}, "'group' must be text or a whole number. Rename it"),
        (GOOD | {"group": 0.5}, "'group' must be text or a whole number. Rename it"),
        (GOOD | {"group": True}, "'group' must be text or a whole number. Rename it"),
        (
            GOOD | {"output": "x\ud83d"},
            "'output' holds half of a character (\\ud83d at position 2)",
        ),
    ],
)
def test_a_bad_row_names_what_is_wrong(tmp_path, row, told):
    assert told in reason(tmp_path, row)


def test_the_text_of_a_refused_row_can_be_stored_whatever_it_holds(tmp_path):
    (refused,) = rows_of(tmp_path, GOOD | {"output": "好\ud83d"})
    assert refused.text.encode().decode() == refused.text
    assert "好\\ud83d" in refused.text


@pytest.mark.parametrize("weight", [None, ""])
def test_a_weight_left_empty_is_one(tmp_path, weight):
    (row,) = rows_of(tmp_path, GOOD | {"weight": weight})
    assert row.weight == 1.0


@pytest.mark.parametrize("name", ["id", "ID", "uid", "idx"])
@pytest.mark.parametrize("value", ["doc-1", 0, None, ""])
def test_many_rows_may_carry_the_id_of_one_document(tmp_path, name, value):
    rows = [GOOD | {name: value, "output": answer} for answer in ("One.", "Two.", "Two.")]
    for file in ("faq.jsonl", "faq.json"):
        assert [row.answer for row in rows_of(tmp_path, *rows, name=file)] == [
            "One.",
            "Two.",
            "Two.",
        ]


class TestFiles:
    def test_an_empty_file_is_reported(self, tmp_path):
        for content in ("", "\n \n", "[]"):
            (tmp_path / "a.json").write_text(content)
            with pytest.raises(DataError, match="is empty: it holds no rows"):
                list(read_rows(tmp_path / "a.json"))

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(DataError, match="is a folder where a file is wanted"):
            list(read_rows(tmp_path))

    def test_a_pipe_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "a.jsonl")
        with pytest.raises(DataError, match="is a pipe or device where a file is wanted"):
            list(read_rows(tmp_path / "a.jsonl"))

    def test_a_missing_file_is_reported(self, tmp_path):
        with pytest.raises(DataError, match=r"cannot be read \(No such file"):
            list(read_rows(tmp_path / "a.json"))

    def test_packed_files_are_read_as_they_are(self, tmp_path):
        lines = (json.dumps(GOOD) + "\n").encode() * 1000
        (tmp_path / "faq.test.jsonl.gz").write_bytes(gzip.compress(lines[:100]) + lines[:0])
        (tmp_path / "faq.jsonl.gz").write_bytes(gzip.compress(lines))
        (tmp_path / "faq.jsonl.zst").write_bytes(zstandard.compress(lines) * 2)
        (tmp_path / "lies.jsonl").write_bytes(gzip.compress(lines))
        assert len(list(read_examples(tmp_path / "faq.jsonl.gz"))) == 1000
        assert len(list(read_examples(tmp_path / "faq.jsonl.zst"))) == 2000
        assert len(list(read_examples(tmp_path / "lies.jsonl"))) == 1000

    @pytest.mark.parametrize("packed", ["gz", "zst"])
    def test_a_cut_archive_keeps_the_rows_before_the_cut(self, tmp_path, packed):
        rows = [GOOD | {"output": f"Answer {i * i * 7919 % 10007}."} for i in range(20_000)]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        data = gzip.compress(lines) if packed == "gz" else zstandard.compress(lines)
        path = tmp_path / f"a.jsonl.{packed}"
        path.write_bytes(data[: len(data) // 2])
        *kept, last = read_rows(path)
        assert isinstance(last, Refused)
        assert "data is damaged or cut off" in last.reason
        assert "what follows is lost. Copy the file again." in last.reason
        good = [row.value for row in kept if isinstance(row, RawRow)]
        assert 1000 < len(good) < 20_000
        assert good == rows[: len(good)]

    def test_group_and_tests_follow_from_the_name(self, tmp_path):
        for name in ("faq.jsonl", "faq.test.jsonl", "faq.test.jsonl.gz", "faq.csv.zst"):
            assert group_of(tmp_path / name) == "faq"
        assert is_test_file(tmp_path / "faq.test.jsonl.gz")
        assert not is_test_file(tmp_path / "faq.jsonl.gz")

    def test_readable_is_decided_by_the_name_or_else_the_content(self, tmp_path):
        (tmp_path / "rows").write_text(json.dumps(GOOD))
        (tmp_path / "README.md").write_text("# Data\n")
        (tmp_path / "a.CSV").write_text("x")
        (tmp_path / "a.jsonl.gz").write_bytes(b"")
        found = {path.name for path in tmp_path.iterdir() if is_readable(path)}
        assert found == {"rows", "a.CSV", "a.jsonl.gz"}
        assert {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow"} <= {
            *readers_by_suffix()
        }


class TestPictures:
    ROW = {
        "messages": [
            {"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": "A cat."},
        ],
        "images": ["in/cat.jpg"],
    }

    def test_paths_are_looked_up_beside_the_file(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "cat.jpg").write_bytes(b"x")
        (row,) = rows_of(tmp_path, self.ROW)
        assert row.images == (str((tmp_path / "in" / "cat.jpg").resolve()),)

    def test_a_missing_one_is_named_with_its_path(self, tmp_path):
        told = f"the picture 'in/cat.jpg' is missing; there is no '{tmp_path}/in/cat.jpg'."
        assert reason(tmp_path, self.ROW) == told

    @pytest.mark.parametrize("path", ["../x.jpg", "/etc/passwd", "link.jpg"])
    def test_none_is_taken_from_outside_the_folder(self, tmp_path, path):
        (tmp_path / "link.jpg").symlink_to("/etc/passwd")
        told = reason(tmp_path, self.ROW | {"images": [path]})
        assert f"the picture '{path}' lies outside the folder" in told

    def test_without_a_folder_they_are_taken_as_they_are(self):
        row = to_example(RawRow(1, self.ROW), group="a", file="a", layout=None)
        assert row.images == ("in/cat.jpg",)

    @pytest.mark.parametrize(
        ("images", "told"),
        [
            (["a", "b"], "the row has 2 pictures and 1 <image> marks that stand for them."),
            ([{"bytes": "x"}], "'images' must be a list of paths of pictures, not of an object."),
            (["https://a/b.jpg"], "the picture 'https://a/b.jpg' is an address; save it"),
        ],
    )
    def test_wrong_ones_are_reported(self, tmp_path, images, told):
        assert told in reason(tmp_path, self.ROW | {"images": images})

    def test_films_and_sounds_are_refused(self, tmp_path):
        told = reason(tmp_path, {**self.ROW, "images": [], "videos": ["a.mp4"]})
        assert told == "'videos': only text and pictures can be taught yet."
