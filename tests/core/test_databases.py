"""SQLite's change of mode, beside another connection that is busy with the file."""

import sqlite3

import pytest

from llama_factory.core import databases
from llama_factory.core.databases import use_write_ahead_log


@pytest.fixture
def busy(tmp_path):
    database = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    database.execute("CREATE TABLE t (x)")
    database.execute("BEGIN IMMEDIATE")
    yield database
    database.close()


@pytest.fixture
def database(tmp_path):
    database = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    yield database
    database.close()


def test_it_waits_for_whoever_is_busy(busy, database, monkeypatch):
    monkeypatch.setattr(databases.time, "sleep", lambda _: busy.execute("COMMIT"))
    use_write_ahead_log(database, seconds=60)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.usefixtures("busy")
def test_it_waits_no_longer_than_it_is_told(database):
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_write_ahead_log(database, seconds=0)
