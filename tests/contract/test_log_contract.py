"""What every log must do. Each test runs against each store."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import LedgerCorrupt, LedgerUnavailable
from ledger.log import EMPTY, Head, Log
from ledger.memory_log import MemoryLog
from ledger.sqlite_log import PAGE_ROWS, SqliteLog
from tests.rows import append, head_of, plain_rows, redact, row_after, rows_after


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made: Log
    if request.param == "memory":
        made = MemoryLog(patience_s=0.2)
    else:
        made = SqliteLog.open(tmp_path / "ledger.db", create=True, patience_s=0.2)
    yield made
    made.close()


def test_a_new_log_is_empty(log: Log) -> None:
    assert log.head() == EMPTY
    assert list(log.read()) == []
    with log.transaction() as transaction:
        assert transaction.head() == EMPTY
        assert list(transaction.read(0)) == []


def test_rows_come_back_as_they_were_appended(log: Log) -> None:
    specs: list[dict[str, Any]] = [
        {"tenant": "", "pool": None, "allocation": None, "holder": None, "type": "ledger_opened"},
        {"task": "t", "command_id": "c", "metadata": '{"k":"ü — \\u0000 🦉"}'},
        {"at": -1, "data": '{"big":9223372036854775807}', "holder": "名前"},
    ]
    rows = append(log, *specs)
    assert list(log.read()) == rows
    assert log.head() == head_of(rows[-1])
    assert [type(value) for value in next(log.read())] == [type(value) for value in rows[0]]


def test_read_gives_the_positions_after_one_up_to_another(log: Log) -> None:
    rows = append(log, *[{}] * 10)
    assert list(log.read(3)) == rows[3:]
    assert list(log.read(3, 7)) == rows[3:7]
    assert list(log.read(0, 0)) == []
    assert list(log.read(7, 3)) == []
    assert list(log.read(10)) == []
    assert list(log.read(99)) == []
    assert list(log.read(8, 99)) == rows[8:]


def test_read_crosses_its_page_size(log: Log) -> None:
    rows = plain_rows(2 * PAGE_ROWS + 1)
    with log.transaction() as transaction:
        transaction.append(rows)
    assert [row.position for row in log.read()] == list(range(1, 2 * PAGE_ROWS + 2))
    with log.transaction() as transaction:
        assert list(transaction.read(PAGE_ROWS - 1)) == rows[PAGE_ROWS - 1 :]
    assert list(log.read(0, PAGE_ROWS)) == rows[:PAGE_ROWS]


def test_a_transaction_sees_its_own_rows_and_readers_do_not_before_the_commit(log: Log) -> None:
    before = append(log, {"allocation": "A1"})
    with log.transaction() as transaction:
        row = row_after(transaction.head(), allocation="A1", command_id="c")
        transaction.append(iter([row]))
        assert transaction.head() == head_of(row)
        assert list(transaction.read(1)) == [row]
        assert transaction.rows_of_command("default", "c") == [row]
        assert transaction.rows_of_allocation("A1") == [*before, row]
        assert log.head() == head_of(before[0])
        assert list(log.read()) == before
        assert log.rows_of_command("default", "c") == []
        assert log.rows_of_allocation("A1") == before
    assert log.head() == head_of(row)
    assert log.rows_of_command("default", "c") == [row]


def test_a_transaction_reads_what_was_appended_since_it_read_last(log: Log) -> None:
    rows: list[Any] = []
    for _ in range(3):
        with log.transaction() as transaction:
            after = len(rows)
            assert list(transaction.read(after + 1)) == []
            assert list(transaction.read(after)) == []
            rows += rows_after(transaction.head(), [{}, {}])
            transaction.append(rows[after:])
            assert list(transaction.read(after)) == rows[after:]
            assert list(transaction.read(after + 1)) == rows[after + 1 :]
            assert list(transaction.read(after + 2)) == []
    with log.transaction() as transaction:
        assert [list(transaction.read(n)) for n in range(7)] == [rows[n:] for n in range(7)]


def test_a_transaction_that_leaves_by_an_exception_has_changed_nothing(log: Log) -> None:
    rows = append(log, {"metadata": "{}", "command_id": "kept"}, {})
    fact = {"position": 1, "metadata_sha256": "00"}
    with pytest.raises(RuntimeError, match="halfway"), log.transaction() as transaction:
        lost = rows_after(
            transaction.head(),
            [{"command_id": "lost", "allocation": "A1"}, {"type": "redacted", "data": fact}],
        )
        transaction.append(lost)
        transaction.erase_metadata(1)
        raise RuntimeError("halfway")
    assert list(log.read()) == rows
    assert log.head() == head_of(rows[-1])
    assert log.rows_of_command("default", "lost") == []
    assert log.rows_of_allocation("A1") == rows[:1]
    assert append(log, {})[0].position == 3


def test_a_transaction_without_rows_changes_nothing(log: Log) -> None:
    rows = append(log, {})
    with log.transaction() as transaction:
        transaction.append([])
    assert list(log.read()) == rows


@pytest.mark.parametrize("position", [-1, 0, 2, 3, 5, 1_000_000])
def test_only_the_next_position_can_be_appended(log: Log, position: int) -> None:
    rows = append(log, {}, {}, {})
    wrong = row_after(head_of(rows[-1]))._replace(position=position)
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([wrong])
    assert list(log.read()) == rows


def test_a_gap_within_one_append_refuses_all_of_it(log: Log) -> None:
    rows = plain_rows(3)
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([rows[0], rows[2]])
    assert log.head() == EMPTY


def test_an_error_while_rows_are_being_made_changes_nothing(log: Log) -> None:
    def half() -> Iterator[Any]:
        yield row_after(EMPTY)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), log.transaction() as transaction:
        transaction.append(half())
    assert log.head() == EMPTY
    assert append(log, {})[0].position == 1


def test_rows_of_a_command_are_found_by_tenant_and_id(log: Log) -> None:
    rows = append(
        log,
        {"command_id": "c", "tenant": "a"},
        {"command_id": "c", "tenant": "b"},
        {"command_id": "d", "tenant": "a"},
        {"command_id": "c", "tenant": "a", "type": "released"},
        {"command_id": None, "tenant": "a"},
    )
    assert log.rows_of_command("a", "c") == [rows[0], rows[3]]
    assert log.rows_of_command("b", "c") == [rows[1]]
    assert log.rows_of_command("c", "c") == []
    with log.transaction() as transaction:
        assert transaction.rows_of_command("a", "d") == [rows[2]]


def test_refusals_alone_leave_a_command_id_unused(log: Log) -> None:
    append(log, {"command_id": "c", "type": "refused"}, {"command_id": "c", "type": "refused"})
    assert log.rows_of_command("default", "c") == []


def test_a_refusal_before_the_command_took_effect_is_no_part_of_it(log: Log) -> None:
    append(log, {"command_id": "c", "type": "refused"})
    granted = append(log, {"command_id": "c"})
    assert log.rows_of_command("default", "c") == granted


def _batch(types: list[str], recorded_at: int) -> list[dict[str, Any]]:
    return [
        {
            "type": type_,
            "command_id": "batch",
            "recorded_at": recorded_at,
            "data": {"item": item, "items": len(types)},
            "allocation": None,
        }
        for item, type_ in enumerate(types)
    ]


@pytest.mark.parametrize(
    "types",
    [
        ["allocated", "refused", "allocated"],
        ["refused", "refused", "queued"],
        ["allocated", "refused", "refused"],
        ["refused"] * 200 + ["allocated"] + ["refused"] * 200,
    ],
)
def test_a_batch_gives_its_refused_items_beside_the_others(log: Log, types: list[str]) -> None:
    first_try = _batch(["refused"] * len(types), 1_000)
    append(log, {}, *first_try, {})
    rows = append(log, {"recorded_at": 2_000}, *_batch(types, 2_000), {"recorded_at": 2_000})
    later = append(log, {"command_id": "other"}, *_batch(["refused"], 3_000))
    assert log.rows_of_command("default", "batch") == rows[1:-1]
    assert log.rows_of_command("default", "other") == later[:1]


def test_rows_of_an_allocation_are_its_whole_story_in_order(log: Log) -> None:
    rows = append(
        log,
        {"allocation": "A1"},
        {"allocation": "A2"},
        {"allocation": "A1", "type": "renewed"},
        {"allocation": None},
        {"allocation": "A1", "type": "released"},
    )
    assert log.rows_of_allocation("A1") == [rows[0], rows[2], rows[4]]
    assert log.rows_of_allocation("A9") == []


def test_redaction_drops_the_metadata_and_nothing_else(log: Log) -> None:
    rows = append(log, {"metadata": '{"secret":1}', "command_id": "c", "allocation": "A1"}, {})
    redacted = redact(log, 1)
    bare = rows[0]._replace(metadata=None)
    assert list(log.read()) == [bare, rows[1], redacted]
    assert log.rows_of_command("default", "c") == [bare]
    assert log.rows_of_allocation("A1") == [bare]


def test_metadata_cannot_be_dropped_without_its_redaction(log: Log) -> None:
    rows = append(log, {"metadata": "{}"}, {"metadata": "{}"})
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.erase_metadata(1)
    fact = {"position": 2, "metadata_sha256": "00"}
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([row_after(transaction.head(), type="redacted", data=fact)])
        transaction.erase_metadata(1)
    assert list(log.read()) == rows


def test_a_redaction_of_nothing_is_an_error(log: Log) -> None:
    append(log, {})
    fact = {"position": 9, "metadata_sha256": "00"}
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([row_after(transaction.head(), type="redacted", data=fact)])
        transaction.erase_metadata(9)
    assert log.head().position == 1


def test_a_reader_that_pauses_between_rows_does_not_hold_up_writers(log: Log) -> None:
    append(log, *[{}] * 5)
    reader = log.read()
    next(reader)
    added = append(log, {})
    assert added[0].position == 6
    assert [row.position for row in reader][:4] == [2, 3, 4, 5]


def test_threads_append_in_turn_and_every_row_is_kept(log: Any) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(25):
                append(log, {"holder": name})
                list(log.read(log.head().position - 1))
        except BaseException as error:  # The assertion below shows it in the main thread.
            failures.append(error)

    log._patience_s = 30.0
    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows = list(log.read())
    assert [row.position for row in rows] == list(range(1, 101))
    assert Counter(row.holder for row in rows) == {f"t{number}": 25 for number in range(4)}


def test_a_transaction_waits_for_another_only_as_long_as_its_patience(log: Log) -> None:
    seen: list[str] = []

    def try_it() -> None:
        try:
            with log.transaction():
                seen.append("entered")
        except LedgerUnavailable as error:
            seen.append(error.message)

    with log.transaction():
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert "0.2 s" in seen[0]
    append(log, {})


def test_closing_twice_is_fine(log: Log) -> None:
    append(log, {})
    log.close()
    log.close()


def test_a_note_at_the_gate_is_read_by_the_next_writer(log: Any) -> None:
    assert log.gate.read_note() == b""
    with log.transaction():
        log.gate.write_note(b"\x00clock")
    with log.transaction():
        assert log.gate.read_note() == b"\x00clock"
        log.gate.write_note(b"x")
        assert log.gate.read_note() == b"x"
    assert Head(*log.head()) == EMPTY
