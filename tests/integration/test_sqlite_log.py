"""The SQLite file of a ledger: its schema, its guards, redaction down to the bytes, its size."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import sqlite_driver, sqlite_schema
from ledger.errors import LedgerCorrupt, LedgerReadOnly, LedgerUnavailable, NotALedger
from ledger.gate import NOTE_BYTES_MAX, Gate
from ledger.log import COLUMNS, EMPTY
from ledger.sqlite_driver import sqlite3, wal_reset_bug
from ledger.sqlite_file import choose_journal
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from tests.rows import append, head_of, ordinary_allocation, plain_rows, redact, rows_after

LEDGER = "ledger.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEDGER


@pytest.fixture
def log(path: Path) -> Iterator[SqliteLog]:
    with SqliteLog.open(path, create=True) as made:
        yield made


@pytest.fixture
def raw(log: SqliteLog) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the same file, without our pragmas."""
    connection = sqlite3.connect(log.path, isolation_level=None)
    yield connection
    connection.close()


# The schema as anyone sees it in SQL.


def test_the_events_table_has_the_columns_of_the_contract(raw: sqlite3.Connection) -> None:
    assert tuple(row[1] for row in raw.execute("PRAGMA table_info(events)")) == COLUMNS
    assert raw.execute("SELECT strict FROM pragma_table_list WHERE name='events'").fetchone()[0]


def test_the_file_says_what_it_is(raw: sqlite3.Connection) -> None:
    assert raw.execute("PRAGMA application_id").fetchone()[0].to_bytes(4, "big") == b"LBK1"
    assert raw.execute("PRAGMA user_version").fetchone()[0] == 1
    assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_only_the_two_indexes_of_the_growth_budget_exist(raw: sqlite3.Connection) -> None:
    names = raw.execute("SELECT name FROM pragma_index_list('events') ORDER BY name").fetchall()
    assert names == [("events_by_allocation",), ("events_by_command",)]


def test_both_lookups_use_their_index(log: SqliteLog, raw: sqlite3.Connection) -> None:
    from ledger import sqlite_log

    for sql, parameters, index in (
        (sqlite_log._BY_COMMAND, ("t", "c"), "USING INDEX events_by_command"),
        (sqlite_log._BY_ALLOCATION, ("A1",), "USING INDEX events_by_allocation"),
        (sqlite_log._HEAD, (), "SCAN events"),
        (sqlite_log._PAGE, (1, 2), "USING INTEGER PRIMARY KEY"),
        (sqlite_log._REFUSED_BESIDE, (1, 2, "t", "c", 3), "USING INTEGER PRIMARY KEY"),
    ):
        plan = raw.execute("EXPLAIN QUERY PLAN " + sql, parameters).fetchall()
        assert len(plan) == 1, plan
        assert index in plan[0][3]
        assert "B-TREE" not in plan[0][3]


@pytest.mark.parametrize("recursive_triggers", ["ON", "OFF"])
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 2",
        "UPDATE events SET holder = 'mallory' WHERE position = 2",
        "UPDATE events SET position = 99 WHERE position = 3",
        "UPDATE events SET hash = zeroblob(32)",
        "UPDATE events SET metadata = NULL WHERE position = 1",
        "UPDATE events SET metadata = '{}' WHERE position = 1",
        "UPDATE OR REPLACE events SET position = 1 WHERE position = 2",
        "INSERT OR REPLACE INTO events SELECT * FROM events WHERE position = 2",
        "REPLACE INTO events SELECT * FROM events WHERE position = 3",
        "INSERT INTO events SELECT * FROM events WHERE position = 2"
        " ON CONFLICT DO UPDATE SET holder = 'mallory'",
        "INSERT OR IGNORE INTO events SELECT * FROM events WHERE position = 2",
        "INSERT INTO events SELECT 5, {rest} FROM events WHERE position = 3",
        "INSERT INTO events SELECT NULL, {rest} FROM events WHERE position = 3",
        "INSERT INTO events SELECT 0, {rest} FROM events WHERE position = 3",
        "INSERT INTO events SELECT -1, {rest} FROM events WHERE position = 3",
        "INSERT INTO events SELECT 4, {rest} FROM events WHERE position >= 2",
    ],
)
def test_the_database_itself_refuses_to_change_history(
    log: SqliteLog, raw: sqlite3.Connection, sql: str, recursive_triggers: str
) -> None:
    rows = append(log, {"metadata": '{"k":1}'}, {}, {})
    raw.execute(f"PRAGMA recursive_triggers = {recursive_triggers}")
    with pytest.raises(sqlite3.IntegrityError, match="events: "):
        raw.execute(sql.replace("{rest}", ", ".join(COLUMNS[1:])))
    assert list(log.read()) == rows


@pytest.mark.parametrize("column", ["digest", "hash"])
def test_a_digest_or_hash_of_another_length_is_refused(log: SqliteLog, column: str) -> None:
    short: dict[str, Any] = {column: b"short"}
    row = plain_rows(1)[0]._replace(**short)
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([row])
    assert log.head() == EMPTY


@pytest.mark.parametrize("values", [{"at": "noon"}, {"tenant": None}, {"data": None}])
def test_values_of_another_type_are_refused(log: SqliteLog, values: dict[str, Any]) -> None:
    row = plain_rows(1)[0]._replace(**values)
    with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
        transaction.append([row])
    assert log.head() == EMPTY


def test_the_next_position_can_be_appended_in_sql(log: SqliteLog, raw: sqlite3.Connection) -> None:
    rows = plain_rows(2)
    marks = ", ".join("?" * len(COLUMNS))
    raw.executemany(f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
    assert list(log.read()) == rows


# Redaction.


def test_redaction_may_drop_only_the_metadata_of_the_row_it_names(
    log: SqliteLog, raw: sqlite3.Connection
) -> None:
    fact = {"position": 1, "metadata_sha256": "00" * 32}
    rows = append(
        log, {"metadata": '{"k":1}'}, {"metadata": '{"k":2}'}, {"type": "redacted", "data": fact}
    )
    for sql in (
        "UPDATE events SET metadata = NULL WHERE position = 2",
        "UPDATE events SET metadata = NULL, holder = 'x' WHERE position = 1",
        "UPDATE events SET metadata = NULL, hash = zeroblob(32) WHERE position = 1",
        "UPDATE events SET metadata = '' WHERE position = 1",
        "UPDATE events SET metadata = NULL",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="only a redaction"):
            raw.execute(sql)
    assert list(log.read()) == rows
    raw.execute("UPDATE events SET metadata = NULL WHERE position = 1")
    append(log, {})
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute("UPDATE events SET metadata = NULL WHERE position = 2")


def _bytes_on_disk(path: Path) -> bytes:
    return b"".join(
        file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)
    )


@pytest.mark.parametrize("length", [10, 300, 3_000, 20_000])
def test_redacted_bytes_are_gone_from_every_file(log: SqliteLog, length: int) -> None:
    secrets = [f"<secret-{n}>" + "x" * length + f"</secret-{n}>" for n in range(1, 61)]
    for start in range(0, 60, 7):
        append(log, *[{"metadata": secret} for secret in secrets[start : start + 7]])
    assert b"<secret-33>" in _bytes_on_disk(log.path)
    gone = [*range(3, 60, 3), 1, 60, 59]
    for position in gone:
        redact(log, position)
    assert not log.erasure_pending
    left = _bytes_on_disk(log.path)
    for number in range(1, 61):
        expected = number not in gone
        assert (f"<secret-{number}>".encode() in left) == expected
        assert (f"</secret-{number}>".encode() in left) == expected
    result = verify(log)
    assert (result.ok, result.redacted) == (True, len(gone))


def test_bytes_that_a_reader_keeps_in_the_write_ahead_log_go_with_a_later_commit(
    path: Path, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sqlite_connections.WIPE_PATIENCE_MS", 1)
    append(log, {"metadata": "<secret>"})
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    redact(log, 1)
    pending = [log.erasure_pending]
    assert b"<secret>" in _bytes_on_disk(path)
    reader.close()
    append(log, {})
    assert [*pending, log.erasure_pending] == [True, False]
    assert b"<secret>" not in _bytes_on_disk(path)


# Growth.


def test_an_ordinary_allocation_costs_four_events_and_at_most_two_and_a_half_kib(
    log: SqliteLog, raw: sqlite3.Connection
) -> None:
    def size() -> int:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return log.size_bytes()

    before, head = size(), EMPTY
    for start in range(0, 1_000, 100):
        specs = [spec for n in range(start, start + 100) for spec in ordinary_allocation(n)]
        with log.transaction() as transaction:
            rows = rows_after(head, specs)
            transaction.append(rows)
        head = head_of(rows[-1])
    assert head.position == 4_000
    assert (size() - before) / 1_000 <= 2_560


# Files and who may read them.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_every_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = tmp_path / "new" / LEDGER
        if umask == 0o777:
            path.parent.mkdir()
            path.parent.chmod(0o700)
        with SqliteLog.open(path, create=True) as log:
            append(log, {})
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) == {LEDGER, LEDGER + "-wal", LEDGER + "-shm", LEDGER + ".gate"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_links_to_one_ledger_share_its_gate(tmp_path: Path, log: SqliteLog) -> None:
    link = tmp_path / "elsewhere" / "name.db"
    link.parent.mkdir()
    link.symlink_to(log.path)
    with SqliteLog.open(link) as other:
        assert other.path == log.path
        assert other.gate.path == log.gate.path
        append(other, {})
    assert log.head().position == 1
    assert [file.name for file in link.parent.iterdir()] == ["name.db"]


@pytest.mark.parametrize("name", ["with space.db", "50%.db", "a?b#c.db", "ümläut.db", "-x.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    with SqliteLog.open(tmp_path / name, create=True) as log:
        append(log, {})
    with SqliteLog.open(str(tmp_path / name)) as log:
        assert log.head().position == 1
    assert (tmp_path / name).is_file()


def test_a_missing_ledger_is_not_made_without_being_asked(path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="no ledger at"):
        SqliteLog.open(path)
    with pytest.raises(LedgerUnavailable, match="no ledger at"):
        SqliteLog.open(path, create=True, read_only=True)
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_counts_as_no_ledger_yet(path: Path) -> None:
    path.touch(mode=0o644)
    with pytest.raises(LedgerUnavailable, match="no ledger at"):
        SqliteLog.open(path)
    with SqliteLog.open(path, create=True) as log:
        append(log, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_opening_again_keeps_what_is_there(path: Path) -> None:
    with SqliteLog.open(path, create=True) as log:
        rows = append(log, {}, {})
    with SqliteLog.open(path, create=True) as log:
        assert list(log.read()) == rows


def test_two_who_create_at_once_get_one_ledger(path: Path) -> None:
    opened: list[SqliteLog] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        opened.append(SqliteLog.open(path, create=True))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for number, one in enumerate(opened, 1):
        append(one, {})
        assert opened[0].head().position == number
    for one in opened:
        one.close()


def _text(path: Path) -> None:
    path.write_text("position,type\n1,allocated\n" * 100)


def _other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE events (position INTEGER PRIMARY KEY)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "make", [_text, _other_database, Path.mkdir, os.mkfifo, lambda path: path.write_bytes(b"x")]
)
def test_what_is_no_ledger_is_refused_in_one_line_and_left_alone(path: Path, make: Any) -> None:
    make(path)
    for create in (False, True):
        with pytest.raises(NotALedger) as caught:
            SqliteLog.open(path, create=create)
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message
    assert [file.name for file in path.parent.iterdir()] == [LEDGER]


def test_a_path_below_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for create in (False, True):
        with pytest.raises(LedgerUnavailable):
            SqliteLog.open(tmp_path / "file" / LEDGER, create=create)


# Formats.


def _set_format(path: Path, number: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


@pytest.mark.parametrize(("number", "advice"), [(0, "leasebook upgrade"), (2, "newer Leasebook")])
def test_another_format_is_read_and_never_written(path: Path, number: int, advice: str) -> None:
    with SqliteLog.open(path, create=True) as log:
        rows = append(log, {}, {})
    _set_format(path, number)
    before = path.read_bytes()
    with SqliteLog.open(path, create=True) as log:
        assert (log.format, list(log.read())) == (number, rows)
        assert f"format {number}" in (log.read_only_reason or "")
        with pytest.raises(LedgerReadOnly) as caught, log.transaction():
            pass
        assert advice in caught.value.hint
    assert path.read_bytes() == before


def test_a_program_that_has_it_open_stops_writing_when_the_format_changes(log: SqliteLog) -> None:
    rows = append(log, {})
    _set_format(log.path, 2)
    with pytest.raises(LedgerReadOnly, match="format 2"), log.transaction():
        pass
    assert list(log.read()) == rows


def test_reading_only_refuses_writes_and_leaves_the_file_alone(path: Path) -> None:
    with SqliteLog.open(path, create=True) as log:
        rows = append(log, {})
    before = path.read_bytes()
    with SqliteLog.open(path, read_only=True) as log:
        assert list(log.read()) == rows
        assert verify(log).ok
        with pytest.raises(LedgerReadOnly, match="reading only"), log.transaction():
            pass
    assert path.read_bytes() == before


# SQLite versions.


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.44.99", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.0", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.4", False),
        ("4.0", False),
    ],
)
def test_which_versions_may_corrupt_a_write_ahead_log(version: str, affected: bool) -> None:
    assert wal_reset_bug(version) is affected


def test_an_affected_sqlite_uses_a_rollback_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_journal, "__defaults__", ("3.40.1",))
    with SqliteLog.open(path, create=True) as log:
        append(log, {"metadata": "<secret>"}, {})
        redact(log, 1)
        assert log.journal_mode() != "wal"
        assert not path.with_name(LEDGER + "-wal").exists()
        assert b"<secret>" not in _bytes_on_disk(path)
        assert verify(log).ok
    monkeypatch.undo()
    with SqliteLog.open(path) as log:
        append(log, {})
    with SqliteLog.open(path) as log:
        assert (log.journal_mode(), log.head().position) == ("wal", 4)


def test_the_standard_library_serves_where_the_bundled_one_is_missing(path: Path) -> None:
    code = (
        "import sys; sys.modules['pysqlite3'] = None\n"
        "from ledger.sqlite_driver import sqlite3, wal_reset_bug\n"
        "assert sqlite3.__name__ == 'sqlite3', sqlite3\n"
        "from ledger.sqlite_log import SqliteLog\n"
        "from ledger.verify import verify\n"
        "from tests.rows import append, redact\n"
        "log = SqliteLog.open(sys.argv[1], create=True)\n"
        "append(log, {'metadata': '{}'}, {'command_id': 'c'}); redact(log, 1)\n"
        "assert verify(log).ok and len(log.rows_of_command('default', 'c')) == 1\n"
        "assert (log.journal_mode() == 'wal') is not wal_reset_bug()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=_ROOT)
    with SqliteLog.open(path) as log:
        assert log.head().position == 3


_ROOT = Path(__file__).parents[2]


def test_opening_a_ledger_imports_nothing_heavy(path: Path) -> None:
    code = (
        "import sys\n"
        "from ledger.sqlite_log import SqliteLog\n"
        "SqliteLog.open(sys.argv[1], create=True).close()\n"
        "heavy = {'sqlite_utils', 'pandas', 'pydantic', 'psutil', 'cryptography', 'click'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=_ROOT)


# The gate's note.


def test_half_a_note_reads_as_none(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "x.gate")
    assert gate.read_note() == b""
    with gate:
        gate.write_note(b"n" * NOTE_BYTES_MAX)
    other = Gate(gate.path)
    assert other.read_note() == b"n" * NOTE_BYTES_MAX
    os.truncate(gate.path, 100)
    assert other.read_note() == gate.read_note() == b""
    with gate:
        with pytest.raises(ValueError, match="at most 250"):
            gate.write_note(b"n" * (NOTE_BYTES_MAX + 1))
        gate.write_note(b"new")
    assert other.read_note() == b"new"
    gate.close()


def test_a_sound_file_passes_the_quick_check(log: SqliteLog) -> None:
    append(log, *[{}] * 50)
    assert log.quick_check() == []


def test_one_copy_of_the_library_serves_the_whole_process() -> None:
    assert sqlite3.sqlite_version == sqlite_driver.SQLITE_VERSION
    assert len(sqlite_schema.MIGRATION_NAMES) == sqlite_schema.FORMAT
