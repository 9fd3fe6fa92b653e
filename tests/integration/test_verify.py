"""``verify``: what it proves, and where it says that the first fault lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.log import EMPTY, GENESIS, Row
from ledger.memory_log import MemoryLog
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import PAGE_ROWS, SqliteLog
from ledger.verify import NotedHead, verify
from tests.rows import append, head_of, plain_rows, redact, row_after, rows_after


class Tampered(MemoryLog):
    """A log in memory that gives back whatever rows it is handed."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.given = rows

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        for row in self.given:
            if row.position > after and (upto is None or row.position <= upto):
                yield row


def rechained(rows: list[Row], start: int) -> list[Row]:
    """The rows with digests and hashes made anew from a position on, as a forger would."""
    done = rows[: start - 1]
    last = done[-1].hash if done else GENESIS
    for row in rows[start - 1 :]:
        digest = digest_of(*row[:12], metadata_hash(row.metadata))
        last = link(last, digest)
        done.append(row._replace(digest=digest, hash=last))
    return done


def sample(count: int = 12) -> list[Row]:
    return rows_after(EMPTY, [{"metadata": f'{{"n":{number}}}'} for number in range(count)])


def test_an_empty_log_is_whole() -> None:
    result = verify(MemoryLog())
    assert result.as_json() == {
        "ok": True,
        "events": 0,
        "head": "00" * 32,
        "first_bad": None,
        "redacted": 0,
        "reason": "",
    }


def test_an_untouched_log_is_whole(tmp_path: Path) -> None:
    with SqliteLog.open(tmp_path / "ledger.db", create=True) as log:
        rows = append(log, {"tenant": "", "pool": None}, {"metadata": '{"ü":1}'}, {"task": "t"})
        result = verify(log)
    assert (result.ok, result.events, result.head) == (True, 3, rows[-1].hash)


CHANGES: dict[str, Any] = {
    "at": 1,
    "recorded_at": 1,
    "type": "released",
    "schema": 2**40,
    "tenant": "other",
    "pool": None,
    "allocation": "A99",
    "holder": "mallory",
    "task": "t",
    "command_id": "c",
    "data": "{}",
    "metadata": "{}",
    "digest": bytes(32),
    "hash": bytes(32),
}


@pytest.mark.parametrize("column", CHANGES)
@pytest.mark.parametrize("position", [1, 5, 12])
def test_a_change_of_any_column_is_found_where_it_is(column: str, position: int) -> None:
    rows = sample()
    rows[position - 1] = rows[position - 1]._replace(**{column: CHANGES[column]})
    result = verify(Tampered(rows))
    assert (result.ok, result.first_bad) == (False, position)
    assert f"event {position} " in result.reason
    assert "\n" not in result.reason
    assert result.events == position - 1
    assert result.head == (rows[position - 2].hash if position > 1 else GENESIS)


def test_a_missing_event_is_named() -> None:
    rows = sample()
    del rows[6]
    assert verify(Tampered(rows)).first_bad == 7
    assert verify(Tampered(sample()[1:])).first_bad == 1


@pytest.mark.parametrize("position", [0, -5, -(2**63)])
def test_a_row_below_the_first_position_is_found(tmp_path: Path, position: int) -> None:
    with SqliteLog.open(tmp_path / "ledger.db", create=True) as log:
        rows = append(log, {}, {}, {})
        connection = sqlite3.connect(tmp_path / "ledger.db")
        connection.execute("DROP TRIGGER events_only_next")
        forged = rows[1]._replace(position=position, command_id="forged")
        connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(forged))})", forged)
        connection.commit()
        connection.close()
        result = verify(log)
    assert (result.ok, result.first_bad, result.events) == (False, 1, 0)
    assert f"at position {position}," in result.reason


def test_an_unreadable_row_does_not_put_the_blame_on_a_rightly_redacted_one(tmp_path: Path) -> None:
    with SqliteLog.open(tmp_path / "ledger.db", create=True) as log:
        append(log, {"metadata": '{"n":1}'}, {}, {}, {})
        redact(log, 1)
        connection = sqlite3.connect(tmp_path / "ledger.db")
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET holder = CAST(x'ff' AS TEXT) WHERE position = 3")
        connection.commit()
        connection.close()
        result = verify(log)
    assert (result.ok, result.first_bad, result.redacted) == (False, 3, 1)


def test_two_events_that_changed_places_are_found() -> None:
    rows = sample()
    rows[3], rows[4] = rows[4]._replace(position=4), rows[3]._replace(position=5)
    assert verify(Tampered(rows)).first_bad == 4


@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, 7))
def test_a_flipped_bit_in_any_payload_is_found(position: int, place: int, bit: int) -> None:
    rows = sample()
    data = bytearray(rows[position - 1].data.encode())
    data[place] ^= 1 << bit
    if data.isascii():
        rows[position - 1] = rows[position - 1]._replace(data=data.decode())
        assert verify(Tampered(rows)).first_bad == position


def test_without_a_note_a_cut_or_a_rewrite_of_everything_cannot_show() -> None:
    rows = sample()
    forged = rechained([row._replace(holder="mallory") for row in rows], 1)
    assert verify(Tampered(rows[:8])).ok
    assert verify(Tampered(forged)).ok


def test_a_note_shows_that_the_end_was_cut_off() -> None:
    rows = sample()
    note = NotedHead(12, rows[11].hash)
    assert verify(Tampered(rows), notes=[note]).ok
    result = verify(Tampered(rows[:8]), notes=[note])
    assert (result.ok, result.first_bad, result.events) == (False, 9, 8)
    assert "cut off" in result.reason


def test_a_note_shows_that_events_before_it_were_written_anew() -> None:
    rows = sample()
    changed = rows[:]
    changed[6] = changed[6]._replace(holder="mallory")
    forged = rechained(changed, 7)
    notes = [NotedHead(p, rows[p - 1].hash) for p in (3, 5, 9, 12)]
    result = verify(Tampered(forged), notes=iter(notes))
    assert (result.ok, result.first_bad) == (False, 9)
    assert "from event 6 on" in result.reason
    assert verify(Tampered(forged), notes=notes[:2]).ok


def test_notes_that_contradict_each_other_cannot_both_hold() -> None:
    rows = sample()
    notes = [NotedHead(4, rows[3].hash), NotedHead(4, bytes(32))]
    assert verify(Tampered(rows), notes=notes).first_bad == 4


@pytest.mark.parametrize(
    "note", [NotedHead(-1, bytes(32)), NotedHead(1, b"short"), NotedHead(0, b"x" * 32)]
)
def test_a_note_that_cannot_be_a_head_is_invalid(note: NotedHead) -> None:
    with pytest.raises(InvalidInput):
        verify(MemoryLog(), notes=[note])


def test_the_empty_head_is_a_note_like_any_other() -> None:
    assert verify(Tampered(sample()), notes=[NotedHead(0, GENESIS)]).ok
    assert verify(MemoryLog(), notes=[NotedHead(0, GENESIS)]).ok


def test_redactions_are_counted_and_do_not_break_the_proof() -> None:
    log = MemoryLog(sample())
    before = NotedHead(*log.head()[:2])
    for position in (3, 11, 12):
        redact(log, position)
    result = verify(log, notes=[before])
    assert (result.ok, result.redacted, result.events) == (True, 3, 15)


def redacted_twice() -> MemoryLog:
    """Three events, the first redacted by the fourth, which was redacted itself."""
    log = MemoryLog(sample(3))
    with log.transaction() as transaction:
        fact = {"position": 1, "metadata_sha256": metadata_hash('{"n":0}').hex()}
        row = row_after(transaction.head(), type="redacted", data=fact, metadata='{"by":"me"}')
        transaction.append([row])
        transaction.erase_metadata(1)
    redact(log, 4)
    return log


def test_a_redacted_redaction_still_counts_as_proof() -> None:
    log = redacted_twice()
    result = verify(log)
    assert (result.ok, result.redacted, result.reason) == (True, 2, "")


def test_metadata_that_went_without_a_redaction_is_found() -> None:
    rows = sample()
    rows[4] = rows[4]._replace(metadata=None)
    result = verify(Tampered(rows))
    assert (result.ok, result.first_bad) == (False, 5)
    assert "without a redaction" in result.reason


@pytest.mark.parametrize(
    "fact",
    [
        {"position": 5, "metadata_sha256": "00" * 32},
        {"position": 6, "metadata_sha256": metadata_hash('{"n":4}').hex()},
        {"position": 5, "metadata_sha256": "no hex"},
        {"position": "five", "metadata_sha256": metadata_hash('{"n":4}').hex()},
        {"metadata_sha256": metadata_hash('{"n":4}').hex()},
        {},
    ],
)
def test_a_redaction_that_does_not_fit_proves_nothing(fact: dict[str, Any]) -> None:
    rows = sample()
    rows.append(row_after(head_of(rows[-1]), type="redacted", data=fact))
    rows[4] = rows[4]._replace(metadata=None)
    assert verify(Tampered(rows)).first_bad == 5


def test_a_redaction_that_does_not_itself_verify_is_not_believed() -> None:
    rows = sample()
    fact = {"position": 5, "metadata_sha256": metadata_hash('{"n":4}').hex()}
    rows.append(row_after(head_of(rows[-1]), type="redacted", data=fact)._replace(holder="x"))
    rows[4] = rows[4]._replace(metadata=None)
    assert verify(Tampered(rows)).first_bad == 5


@pytest.mark.parametrize("bad", [8, 12])
def test_a_fault_before_the_redaction_does_not_blame_the_redacted_event(bad: int) -> None:
    log = MemoryLog(sample())
    redact(log, 5)
    rows = list(log.read())
    rows[bad - 1] = rows[bad - 1]._replace(holder="mallory")
    result = verify(Tampered(rows))
    assert (result.ok, result.first_bad, result.redacted) == (False, bad, 1)


def test_redactions_behind_a_fault_prove_what_lies_before_it_though_redacted_themselves() -> None:
    log = redacted_twice()
    rows = list(log.read())
    rows[1] = rows[1]._replace(holder="mallory")
    result = verify(Tampered(rows))
    assert (result.ok, result.first_bad, result.redacted) == (False, 2, 1)


def test_a_damaged_page_is_a_result_with_its_exact_position(tmp_path: Path) -> None:
    class Damaged(Tampered):
        def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
            # As a store does that reads in pages: the whole page fails.
            if after < 7 and (upto is None or upto >= 7):
                raise LedgerCorrupt("page 9 is malformed")
            yield from super().read(after, upto)

    result = verify(Damaged(sample()))
    assert (result.ok, result.first_bad, result.events) == (False, 7, 6)
    assert result.reason == "page 9 is malformed"


@pytest.mark.parametrize(
    "values",
    [{"holder": b"bytes"}, {"data": 7}, {"metadata": b"x"}, {"digest": None}, {"tenant": None}],
)
def test_values_of_a_wrong_kind_are_a_change_like_any_other(values: dict[str, Any]) -> None:
    rows = sample()
    rows[5] = rows[5]._replace(**values)
    result = verify(Tampered(rows))
    assert (result.ok, result.first_bad) == (False, 6)


def test_a_change_made_behind_the_triggers_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with SqliteLog.open(path, create=True) as log, log.transaction() as transaction:
        transaction.append(plain_rows(PAGE_ROWS + 10))
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_no_update")
    bad = PAGE_ROWS + 5
    raw.execute("UPDATE events SET data = data || ' ' WHERE position = ?", (bad,))
    raw.commit()
    raw.close()
    with SqliteLog.open(path) as log:
        result = verify(log)
    assert (result.ok, result.first_bad) == (False, bad)


def test_text_that_is_not_utf8_is_damage_with_a_position(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with SqliteLog.open(path, create=True) as log:
        append(log, *[{}] * 9)
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_no_update")
    raw.execute("UPDATE events SET data = CAST(x'ff00fe' AS TEXT) WHERE position = 4")
    raw.commit()
    raw.close()
    with SqliteLog.open(path) as log:
        result = verify(log)
        with pytest.raises(LedgerCorrupt):
            list(log.read())
    assert (result.ok, result.first_bad) == (False, 4)
