"""What every log must do when many commands or allocations are looked up at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.log import Log
from ledger.memory_log import MemoryLog
from ledger.sqlite_log import SqliteLog
from tests.rows import append, row_after


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made: Log = MemoryLog()
    if request.param == "sqlite":
        made = SqliteLog.open(tmp_path / "ledger.db", create=True)
    yield made
    made.close()


def test_rows_of_many_commands_are_those_of_each_in_order_without_refusals(log: Log) -> None:
    rows = append(
        log,
        {"command_id": "b"},
        {"command_id": "a", "tenant": "blue"},
        {"command_id": "a", "type": "refused"},
        {"command_id": "a"},
        {"command_id": None},
        {"command_id": "ü\"'🦉"},
        {"command_id": "b"},
    )
    keys = [("default", "a"), ("default", "b"), ("default", "ü\"'🦉"), ("default", "none")]
    with log.transaction() as transaction:
        found = transaction.rows_of_commands([*keys, *keys])
        assert found == [rows[0], rows[3], rows[5], rows[6]]
        assert transaction.rows_of_commands([]) == []
        assert transaction.rows_of_commands([("blue", "a"), ("blue", "b")]) == [rows[1]]


def test_rows_of_many_allocations_are_those_of_each_in_order(log: Log) -> None:
    rows = append(log, *[{"allocation": name} for name in ("A1", "A2", "A1", None, "A3")])
    with log.transaction() as transaction:
        assert transaction.rows_of_allocations(["A3", "A1", "A9"]) == [rows[0], rows[2], rows[4]]
        assert transaction.rows_of_allocations([]) == []


def test_lookups_see_what_their_own_transaction_has_appended(log: Log) -> None:
    append(log, {"command_id": "a"})
    with log.transaction() as transaction:
        row = row_after(transaction.head(), command_id="b", allocation="A1")
        transaction.append([row])
        assert row in transaction.rows_of_commands([("default", "b")])
        assert row in transaction.rows_of_allocations(["A1"])


def test_many_lookups_use_the_indexes(tmp_path: Path) -> None:
    from ledger.sqlite_driver import connect
    from ledger.sqlite_log import _BY_ALLOCATIONS, _BY_COMMANDS

    SqliteLog.open(tmp_path / "ledger.db", create=True).close()
    connection = connect(tmp_path / "ledger.db")
    try:
        for sql, index in (
            (_BY_COMMANDS, "events_by_command"),
            (_BY_ALLOCATIONS, "events_by_allocation"),
        ):
            plan = " ".join(
                row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("[]",))
            )
            assert f"SEARCH e USING INDEX {index}" in plan, plan
    finally:
        connection.close()
