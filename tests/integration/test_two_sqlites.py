"""The ledger read with another copy of SQLite in the same process, as pandas and notebooks do it.

The standard library's SQLite does not see the locks of the one that the ledger uses, and removes the
write-ahead log when it closes the file. Nothing that is acknowledged may be lost by that.
"""

from __future__ import annotations

import sqlite3 as standard
import subprocess
import sys
from pathlib import Path

import pytest

import leasebook
from leasebook.manager import ResourceManager
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from tests.rows import row_after

pytestmark = pytest.mark.skipif(
    sqlite3 is standard, reason="this process has one SQLite only, so there is nothing to part"
)


def read_with_the_standard_library(path: Path) -> int:
    connection = standard.connect(path)
    ((count,),) = connection.execute("SELECT count(*) FROM events").fetchall()
    connection.close()
    return int(count)


def events_seen_by_another_process(path: Path) -> int:
    script = (
        "import sys; from ledger.sqlite_log import SqliteLog;"
        "print(SqliteLog.open(sys.argv[1], read_only=True).head().position)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("managers", [1, 2])
def test_what_is_acknowledged_after_somebody_else_closed_the_file_is_there(
    tmp_path: Path, managers: int
) -> None:
    path = tmp_path / "ledger.db"
    books = [leasebook.open(path) for _ in range(managers)]
    books[0].open_pool("box", capacity={"cpu": 100})
    for number in range(4):
        for book in books:
            book.allocate({"cpu": 1}, pool="box", holder=f"h{number}")
        expected = 2 + (number + 1) * managers
        assert read_with_the_standard_library(path) == expected
        assert [len(list(book.events())) for book in books] == [expected] * managers
        assert events_seen_by_another_process(path) == expected
    for book in books:
        book.close()
    with leasebook.open(path) as book:
        assert book.verify().ok
        assert len(list(book.events())) == 2 + 4 * managers


def test_a_reader_sees_what_others_write_after_the_log_was_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as writing, leasebook.open(path, read_only=True) as reading:
        writing.open_pool("box", capacity={"cpu": 100})
        for number in range(3):
            assert len(list(reading.events())) == 2 + number
            read_with_the_standard_library(path)
            writing.allocate({"cpu": 1}, pool="box", holder="h")
            assert len(reading.list()) == number + 1


def test_a_commit_whose_log_was_taken_away_under_it_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as book:
        book.open_pool("box", capacity={"cpu": 100})
    with SqliteLog.open(path) as log:
        for _ in range(3):
            before = log.head().position
            with log.transaction() as transaction:
                transaction.append([row_after(transaction.head())])
                assert read_with_the_standard_library(path) == before
            assert log.head().position == before + 1
            assert events_seen_by_another_process(path) == before + 1


def test_managers_go_on_after_the_log_was_taken_away_while_they_were_opened(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as first:
        first.open_pool("box", capacity={"cpu": 100})
        read_with_the_standard_library(path)
        with leasebook.open(path) as second:
            assert isinstance(second, ResourceManager)
            second.allocate({"cpu": 1}, pool="box", holder="h")
            first.allocate({"cpu": 1}, pool="box", holder="h")
            assert events_seen_by_another_process(path) == 4
