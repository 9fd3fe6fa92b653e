"""Corners of the logs and the writer: interrupts in a commit, abandoned transactions, lost tails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ledger.errors import LedgerCorrupt, LedgerUnavailable
from ledger.log import Log
from ledger.memory_log import MemoryLog
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from tests.ledgers import Ledger
from tests.rows import append, plain_rows


class Standing:
    """A connection that fails at the statements that begin with a word."""

    def __init__(self, connection: Any, word: str, error: BaseException) -> None:
        self._connection, self._word, self._error = connection, word, error

    def execute(self, sql: str, *rest: Any) -> Any:
        if sql.startswith(self._word):
            raise self._error
        return self._connection.execute(sql, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with SqliteLog.open(tmp_path / "ledger.db", create=True) as made:
        yield made


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_transaction_that_was_left_open_is_abandoned_whole_and_the_next_begins(
    tmp_path: Path, kind: str
) -> None:
    log: Log = MemoryLog() if kind == "memory" else SqliteLog.open(tmp_path / "l.db", create=True)
    append(log, {}, {})
    transaction: Any = log.transaction()
    transaction.__enter__()
    transaction.append(plain_rows(1, log.head()))
    log.abandon()
    assert log.head().position == 2
    with log.transaction() as again:
        again.append(plain_rows(1, log.head()))
    assert log.head().position == 3
    log.abandon()
    assert log.head().position == 3
    log.close()


def test_an_interrupt_at_the_commit_changes_nothing_and_lets_others_write(log: SqliteLog) -> None:
    append(log, {})
    transaction: Any = log.transaction()
    with pytest.raises(KeyboardInterrupt), transaction:
        transaction.append(plain_rows(1, log.head()))
        transaction._connection = Standing(transaction._connection, "COMMIT", KeyboardInterrupt())
    assert log.head().position == 1
    append(log, {})
    assert log.head().position == 2


def test_a_read_that_fails_in_a_transaction_is_an_infrastructure_failure(log: SqliteLog) -> None:
    append(log, {})
    failure = sqlite3.OperationalError("disk I/O error")
    transaction: Any = log.transaction()
    with pytest.raises(LedgerUnavailable), transaction:
        transaction._connection = Standing(transaction._connection, "SELECT", failure)
        transaction.head()
    assert log.head().position == 1


def test_a_transaction_that_cannot_begin_is_an_infrastructure_failure_and_holds_nothing_up(
    log: SqliteLog,
) -> None:
    failure = sqlite3.OperationalError("disk I/O error")
    broken = Standing(log._files.writer(), "BEGIN", failure)
    with (
        patch.object(log._files, "writer", return_value=broken),
        pytest.raises(LedgerUnavailable),
        log.transaction(),
    ):
        pass
    append(log, {})
    assert log.head().position == 1


class Losing(Standing):
    """A connection whose commits go where nobody will find them."""

    def execute(self, sql: str, *rest: Any) -> Any:
        return self._connection.execute("ROLLBACK" if sql == "COMMIT" else sql, *rest)


@pytest.mark.parametrize("lost", [False, True])
def test_a_commit_into_a_log_that_was_taken_away_is_acknowledged_only_if_it_is_there(
    log: SqliteLog, lost: bool
) -> None:
    append(log, {})
    transaction: Any = log.transaction()

    def commit() -> None:
        with patch.object(log._files, "lost_its_log", side_effect=[False, True]), transaction:
            transaction.append(plain_rows(1, log.head()))
            if lost:
                transaction._connection = Losing(transaction._connection, "", OSError())

    if lost:
        with pytest.raises(LedgerUnavailable, match="took the write-ahead log"):
            commit()
    else:
        commit()
    assert log.head().position == (1 if lost else 2)
    append(log, {})
    assert log.head().position == (2 if lost else 3)


def test_a_closed_log_takes_the_bytes_of_its_file_alone(tmp_path: Path) -> None:
    with SqliteLog.open(tmp_path / "ledger.db", create=True) as log:
        append(log, {})
    assert log.size_bytes() == (tmp_path / "ledger.db").stat().st_size


def test_a_file_too_damaged_to_be_checked_is_told_as_one_problem(log: SqliteLog) -> None:
    with patch.object(log._files, "select", side_effect=LedgerCorrupt("the file is malformed")):
        assert log.quick_check() == ["the file is malformed"]
    assert log.quick_check() == []


def test_a_guard_that_somebody_dropped_is_missed(log: SqliteLog) -> None:
    assert log.schema_faults() == []
    raw = sqlite3.connect(log.path, isolation_level=None)
    (name,) = raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchone()
    raw.execute(f"DROP TRIGGER {name}")
    raw.close()
    assert any(name in fault for fault in log.schema_faults())


def test_a_snapshot_beyond_the_end_of_a_ledger_that_was_put_back_is_not_used(
    tmp_path: Path,
) -> None:
    with patch("ledger.writer.CHECKPOINT_EVERY", 5):
        ledger = Ledger(tmp_path, "sqlite")
        ledger.pool(n1={"cpu": 8000})
        ledger.close()
        shutil.copy(ledger.path, tmp_path / "early.db")
        ledger.writer = ledger.another()
        for _ in range(12):
            ledger.got(cpu=10)
        ledger.close()
        for left in tmp_path.glob("ledger.db-*"):
            if left.suffix != ".gate":
                left.unlink()
        shutil.copy(tmp_path / "early.db", ledger.path)
        ledger.writer = ledger.another()
        head = ledger.writer.log.head().position
        assert ledger.writer.read(lambda book, now: book.position) == head
        assert ledger.writer.read(lambda book, now: len(book.allocations)) == 0
        ledger.close()
