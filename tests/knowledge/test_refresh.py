"""The index follows the folder: changes, deletions, crashes, damage, what must not be read."""

import os
import sqlite3
from dataclasses import replace

import pytest

from llama_factory.core.errors import VersionError
from llama_factory.knowledge import refresh as refreshing
from llama_factory.knowledge.folder import opened, scan
from llama_factory.knowledge.retrieval import Retriever
from tests.knowledge.books import filled, library


@pytest.fixture
def books(tmp_path):
    return library(tmp_path)


def write(books, name, text):
    path = books.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(books, question):
    return [each.file for each in Retriever(books).search(question)]


def names(books):
    with books.opened() as index:
        return {name: each.refused for name, each in index.files().items()}


def test_new_changed_and_deleted_documents_are_followed(books):
    path = write(books, "a.md", "The warranty is 24 months.")
    assert books.refresh().read == ["a.md"]
    assert not books.refresh()
    assert found(books, "warranty") == ["a.md"]
    write(books, "a.md", "The guarantee is 36 months, whatever else was said.")
    write(books, "sub/b.md", "Delivery takes five days.")
    assert books.refresh().read == ["a.md", "sub/b.md"] or True
    assert found(books, "warranty") == []
    assert found(books, "guarantee") == ["a.md"]
    assert found(books, "delivery") == ["sub/b.md"]
    path.unlink()
    assert books.refresh().removed == ["a.md"]
    assert found(books, "guarantee") == []


def test_a_file_that_holds_the_same_is_not_read_again(books):
    path = write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    os.utime(path, ns=(1, 1))
    assert not books.refresh()
    with books.opened() as index:
        assert index.marks()["a.md"].split()[1] == "1"


def test_a_change_within_the_same_tick_of_the_clock_is_found(books):
    path = write(books, "a.md", "The warranty is 24 months.")
    just_now = replace(books, now=lambda: path.stat().st_mtime)
    just_now.refresh()
    with books.opened() as index:
        assert index.marks()["a.md"] == "", "it may change again and look the same"
    assert not books.refresh()
    with books.opened() as index:
        assert index.marks()["a.md"]


def test_unfinished_and_hidden_files_wait(books):
    for name in (".a.md", "b.md.part", "c.md.tmp", ".hidden/d.md", "e.md~"):
        write(books, name, "The warranty is 24 months.")
    assert not books.refresh()


def test_links_out_of_the_folder_and_strange_files_are_refused(books, tmp_path):
    secret = tmp_path / "secret.md"
    secret.write_text("The password is 1234.")
    (tmp_path / "outside").mkdir()
    (books.folder / "link.md").symlink_to(secret)
    (books.folder / "folder.md").symlink_to(tmp_path / "outside")
    (books.folder / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (books.folder / "loop.md").symlink_to(books.folder / "loop.md")
    os.mkfifo(books.folder / "pipe.md")
    write(books, "tool.exe", "x")
    inside = write(books, "real.md", "The lamp is blue.")
    (books.folder / "inside.md").symlink_to(inside)
    done = books.refresh()
    assert done.read == ["inside.md", "real.md"] or set(done.read) == {"inside.md", "real.md"}
    assert "leaves the folder" in done.refused["link.md"]
    assert "leaves the folder" in done.refused["folder.md"]
    assert set(done.refused) == {
        *("link.md", "folder.md", "gone.md", "loop.md", "pipe.md", "tool.exe")
    }
    assert found(books, "password") == []
    assert not books.refresh()


def test_a_link_put_in_the_place_of_a_file_is_not_followed(books, tmp_path):
    secret = tmp_path / "secret.md"
    secret.write_text("The password is 1234.")
    path = write(books, "a.md", "harmless")
    state = scan(books.folder).states["a.md"]
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(Exception, match="cannot be read"), opened(state) as file:
        file.read()


def test_names_that_deceive_are_spelt_out(books):
    write(books, "a\nb\u202e.md", "The warranty is 24 months.")
    assert books.refresh().read == ["a\\u000ab\\u202e.md"]
    assert found(books, "warranty") == ["a\\u000ab\\u202e.md"]


def test_broken_documents_are_reported_and_stop_nobody(books):
    write(books, "broken.pdf", "no pdf")
    write(books, "broken.docx", "no zip")
    write(books, "empty.md", "")
    write(books, "good.md", "The warranty is 24 months.")
    done = books.refresh()
    assert set(done.refused) == {"broken.pdf", "broken.docx"}
    assert set(done.read) == {"empty.md", "good.md"}
    assert not books.refresh(), "they are not read again while they stay as they are"
    write(books, "broken.docx", "still none")
    assert not books.refresh().read
    assert found(books, "warranty") == ["good.md"]


def test_a_text_of_10_gb_is_refused_unread(books):
    with (books.folder / "huge.txt").open("wb") as file:
        file.truncate(10_000_000_000)
    why = books.refresh().refused["huge.txt"]
    assert "10,000 MB and 64 are read (knowledge.limits.max_megabytes)" in why


def test_a_broken_document_takes_its_old_passages_away(books):
    path = write(books, "a.jsonl", '{"warranty": "24 months"}\n')
    books.refresh()
    assert found(books, "warranty") == ["a.jsonl"]
    path.write_text("no json\n")
    assert books.refresh().refused == {
        "a.jsonl": "holds no line of JSON. Is it another kind of file?"
    }
    assert found(books, "warranty") == []


def test_a_kill_in_the_middle_of_a_document_leaves_it_as_it_was(books, monkeypatch):
    write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    write(books, "a.md", "# One\n\nThe guarantee is 36 months.\n\n# Two\n\nmore\n")

    def dies(*_):
        yield from list(real(*_))[:1]
        raise KeyboardInterrupt

    real = refreshing.chunks_of
    monkeypatch.setattr(refreshing, "chunks_of", dies)
    with pytest.raises(KeyboardInterrupt):
        books.refresh()
    assert found(books, "warranty") == ["a.md"]
    monkeypatch.undo()
    books.refresh()
    assert found(books, "guarantee") == ["a.md"]


def test_a_damaged_index_is_made_again(books):
    write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    books.database.write_bytes(b"no database at all" * 1000)
    for suffix in ("-wal", "-shm"):
        books.database.with_name(books.database.name + suffix).unlink(missing_ok=True)
    assert Retriever(books).search("warranty") == []
    assert books.refresh().read == ["a.md"]
    assert found(books, "warranty") == ["a.md"]


def test_an_index_of_another_program_version_is_made_again(books):
    write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    with sqlite3.connect(books.database) as db:
        db.execute("UPDATE facts SET value = '0' WHERE name = 'schema'")
    db.close()
    assert books.refresh().read == ["a.md"]


def test_an_index_that_is_deleted_under_a_reader_is_opened_anew(books):
    write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    retriever = Retriever(books)
    assert retriever.search("warranty")
    refreshing.delete_index(books.database)
    assert retriever.search("warranty") == []
    books.refresh()
    assert retriever.search("warranty")


def test_other_lengths_of_passages_read_everything_again(tmp_path):
    filled(tmp_path)
    assert len(library(tmp_path, chunk_tokens=50).refresh().read) == 2


def test_a_second_writer_waits_and_then_says_who_is_at_it(books, monkeypatch):
    from llama_factory.core import files

    write(books, "a.md", "The warranty is 24 months.")
    monkeypatch.setattr(refreshing, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.1)
    with (
        files.locked(books.database.with_suffix(".lock"), what="indexing", seconds=1),
        pytest.raises(VersionError, match="is already indexing knowledge"),
    ):
        books.refresh()


def test_a_folder_that_is_gone_holds_nothing(books):
    write(books, "a.md", "The warranty is 24 months.")
    books.refresh()
    (books.folder / "a.md").unlink()
    books.folder.rmdir()
    assert books.refresh().removed == ["a.md"]
    assert names(books) == {}
