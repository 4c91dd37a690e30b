"""What SQLite leaves to its users."""

import sqlite3
import time

PAUSE_SECONDS = 0.01


def use_write_ahead_log(database: sqlite3.Connection, *, seconds: float) -> None:
    """Let readers and one writer work at the same time, from the next transaction on.

    SQLite's own timeout does not hold here: where another connection is busy with the file, the
    change of mode fails at once (https://sqlite.org/wal.html, "Activating And Configuring").

    Args:
        database: outside a transaction.
        seconds: how long to try.

    Raises:
        sqlite3.OperationalError: the file stayed busy, or the disk is full.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
