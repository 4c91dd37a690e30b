import json
import logging
import pickle

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.data.formats import Layout
from llama_factory.data.readers import RawRow, Refused
from llama_factory.data.sources.files import DataSource, find_sources, rows_of, source_of
from llama_factory.data.sources.hub import HubSet

LINE = json.dumps({"instruction": "问", "output": "答"}) + "\n"


def test_a_file_is_one_set_named_after_it(tmp_path):
    (tmp_path / "faq.test.jsonl").write_text(LINE)
    (source,) = find_sources(tmp_path / "faq.test.jsonl", setting="data.train_path")
    assert source == DataSource("faq", tmp_path / "faq.test.jsonl", is_test=True)
    assert [row.line for row in source.open_rows()] == [1]
    assert source_of(tmp_path / "a.jsonl") == DataSource("a", tmp_path / "a.jsonl")


def test_every_data_file_of_a_folder_is_a_set(tmp_path):
    (tmp_path / "in" / ".cache").mkdir(parents=True)
    names = ["b.csv", "a.jsonl.gz", "in/c", "in/d.json"]
    other = ["README.md", ".hidden.jsonl", "in/.cache/x.jsonl", "in/cat.jpg"]
    about = ["dataset_info.json", "in/state.json"]
    for name in [*names, *other, *about]:
        (tmp_path / name).write_text("# words\n" if name in other else LINE)
    found = find_sources(tmp_path, setting="data.train_path")
    assert [str(source.path.relative_to(tmp_path)) for source in found] == [
        "a.jsonl.gz",
        "b.csv",
        "in/c",
        "in/d.json",
    ]
    assert [source.name for source in found] == ["a", "b", "c", "d"]


def test_files_that_are_nearly_data_are_told(tmp_path, caplog):
    for name in ("a.jsonl", "b.jsnl", "notes.md"):
        (tmp_path / name).write_text(LINE if name == "a.jsonl" else "x")
    with caplog.at_level(logging.WARNING):
        assert len(find_sources(tmp_path, setting="data.train_path")) == 1
    assert "1 files of" in caplog.text
    assert "b.jsnl" in caplog.text
    assert "notes.md" not in caplog.text


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.jsonl").write_text(LINE)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "own.jsonl").write_text(LINE)
    (folder / "inner.jsonl").symlink_to(folder / "own.jsonl")
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    inner, link, own = find_sources(folder, setting="data.train_path")
    assert len(list(rows_of(inner))) == len(list(rows_of(own))) == 1
    told = "a link that leaves the folder '.*' is not followed; copy the file there."
    with pytest.raises(DataError, match=told):
        list(rows_of(link))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "trian.jsonl",
            "data.train_path: '.*trian.jsonl' does not exist. Did you mean 'train.jsonl'",
        ),
        ("empty", "data.train_path: the folder '.*' holds no data file. Known kinds: .parquet"),
        ("none/at/all", "data.train_path: '.*all' does not exist."),
    ],
)
def test_nothing_to_read_is_told(tmp_path, name, told):
    (tmp_path / "train.jsonl").write_text(LINE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=told):
        find_sources(tmp_path / name, setting="data.train_path")


def test_a_folder_can_be_one_set_whose_rows_name_their_files(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, content in (("1.jsonl", LINE * 2), ("2.jsonl", ""), ("3.jsonl", LINE + "{\n" + LINE)):
        (folder / name).write_text(content)
    rows = list(rows_of(DataSource("all", folder)))
    assert [(type(row), row.file, row.line) for row in rows] == [
        (RawRow, "parts/1.jsonl", 1),
        (RawRow, "parts/1.jsonl", 2),
        (Refused, "parts/2.jsonl", 0),
        (RawRow, "parts/3.jsonl", 1),
        (Refused, "parts/3.jsonl", 2),
        (RawRow, "parts/3.jsonl", 3),
    ]


def test_a_set_on_a_hub_is_read_alike(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINE * 2)
    source = DataSource("hub", hub=HubSet(str(tmp_path)), layout=Layout())
    assert [row.line for row in rows_of(source)] == [1, 2]


def test_the_encoding_of_a_set_is_used(tmp_path):
    (tmp_path / "a.txt").write_bytes("中文".encode("gb18030"))
    (row,) = rows_of(DataSource("a", tmp_path / "a.txt", encoding="gb18030"))
    assert row.value == {"text": "中文"}


def test_pictures_lie_beside_the_file_or_where_the_set_says(tmp_path):
    file = tmp_path / "in" / "a.json"
    assert DataSource("a", file).pictures == tmp_path / "in"
    assert DataSource("a", file, picture_folder=tmp_path).pictures == tmp_path
    assert DataSource("a", hub=HubSet("x")).pictures is None


def test_sets_go_to_other_processes(tmp_path):
    source = DataSource("a", tmp_path, HubSet("x"), Layout(), 3, True, "gbk")
    assert pickle.loads(pickle.dumps(source)) == source
