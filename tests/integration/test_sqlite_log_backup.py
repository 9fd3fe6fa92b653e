"""Backups and upgrades: copies that can be trusted, and a ledger that comes through unharmed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ledger import sqlite_schema
from ledger.backup import backup
from ledger.errors import InvalidInput, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable, NotALedger
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from ledger.upgrade import UpgradeResult, migrations, upgrade
from ledger.verify import verify
from tests.rows import append, plain_rows, redact

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with SqliteLog.open(path, create=True) as log, log.transaction() as transaction:
        transaction.append(plain_rows(300, metadata='{"k":1}', command_id="c"))
    return path


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# Backups.


def test_a_backup_is_one_whole_file_for_its_owner_only(path: Path, tmp_path: Path) -> None:
    dest = tmp_path / "copies" / "copy.db"
    dest.parent.mkdir()
    with SqliteLog.open(path) as log:
        append(log, {})
        result = backup(path, dest)
        assert result.head == log.head()
        rows = list(log.read())
    assert _names(dest.parent) == {"copy.db"}
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert result.size_bytes == dest.stat().st_size
    with SqliteLog.open(dest, read_only=True) as copy:
        assert list(copy.read()) == rows
        assert verify(copy, notes=[result.head[:2]]).ok
        assert copy.quick_check() == []


def test_a_backup_can_be_written_on_like_any_ledger(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "copy.db")
    with SqliteLog.open(tmp_path / "copy.db") as copy:
        append(copy, {})
        redact(copy, 1)
        assert copy.journal_mode() == "wal"
        assert verify(copy).ok


def test_a_backup_while_others_write_is_the_ledger_at_one_moment(
    path: Path, tmp_path: Path
) -> None:
    done = threading.Event()

    def work() -> None:
        with SqliteLog.open(path) as writer:
            while not done.is_set():
                append(writer, {}, {}, {})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        heads = [backup(path, tmp_path / f"copy-{n}.db").head for n in range(4)]
    finally:
        done.set()
        thread.join()
    for number, head in enumerate(heads):
        with SqliteLog.open(tmp_path / f"copy-{number}.db", read_only=True) as copy:
            result = verify(copy)
        assert (result.ok, result.events) == (True, head.position)
        assert (head.position - 300) % 3 == 0
    with SqliteLog.open(path) as log:
        assert verify(log, notes=[head[:2] for head in heads]).ok


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link", "the ledger itself"])
def test_a_backup_never_overwrites(path: Path, tmp_path: Path, kind: str) -> None:
    dest = path if kind == "the ledger itself" else tmp_path / "dest"
    if kind == "file":
        dest.write_text("precious")
    elif kind == "folder":
        dest.mkdir()
    elif kind == "dangling link":
        dest.symlink_to(tmp_path / "nowhere")
    before = _names(tmp_path)
    with pytest.raises(InvalidInput, match="exists already"):
        backup(path, dest)
    assert _names(tmp_path) == before
    if kind == "file":
        assert dest.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "copy.db"

    def late(*_: object) -> None:
        dest.write_text("precious")

    monkeypatch.setattr("ledger.backup._require_whole", late)
    before = _names(tmp_path)
    with pytest.raises(InvalidInput, match="exists already"):
        backup(path, dest)
    assert dest.read_text() == "precious"
    assert _names(tmp_path) - before == {"copy.db"}


def test_a_backup_of_nothing_or_to_nowhere_says_so(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="no ledger at"):
        backup(tmp_path / "missing.db", tmp_path / "copy.db")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NotALedger):
        backup(tmp_path / "text", tmp_path / "copy.db")
    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        backup(path, tmp_path / "missing" / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_tampered_ledger_leaves_no_backup(path: Path, tmp_path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_no_update")
    raw.execute("UPDATE events SET holder = 'mallory' WHERE position = 77")
    raw.commit()
    raw.close()
    before = _names(tmp_path)
    with pytest.raises(LedgerCorrupt) as caught:
        backup(path, tmp_path / "copy.db")
    assert caught.value.position == 77
    assert _names(tmp_path) == before


def test_a_full_disk_leaves_no_half_backup(path: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from ledger.backup import backup\n"
        "from ledger.errors import LedgerUnavailable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    backup(sys.argv[1], sys.argv[2])\n"
        "except LedgerUnavailable as error:\n"
        "    print(error.message)\n"
    )
    dest = tmp_path / "copies" / "copy.db"
    dest.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(dest)],
        check=True,
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert str(dest) in done.stdout
    assert _names(dest.parent) == set()


# Upgrades.


def make_format_0(path: Path) -> None:
    """A made-up older format: the same table without an index, a trigger and the bookkeeping."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("DROP INDEX events_by_command")
    raw.execute("DROP TRIGGER events_no_delete")
    raw.execute("DROP TABLE _sqlite_migrations")
    raw.execute("PRAGMA user_version = 0")
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw.close()


def _schema(path: Path) -> list[tuple[str, str]]:
    raw = sqlite3.connect(path)
    rows = raw.execute("SELECT type, name FROM sqlite_schema ORDER BY 1, 2").fetchall()
    raw.close()
    return rows


def test_a_new_ledger_has_nothing_to_upgrade(path: Path) -> None:
    from sqlite_utils import Database

    before = path.read_bytes()
    assert upgrade(path) == UpgradeResult(1, 1, None)
    assert path.read_bytes() == before
    database = Database(path)
    assert migrations().pending(database) == []
    assert [done.name for done in migrations().applied(database)] == ["format_1"]
    schema = database.schema
    migrations().ensure_migrations_table(database)
    assert database.schema == schema
    database.close()


def test_an_upgrade_brings_an_old_ledger_to_the_present_format(path: Path) -> None:
    as_new = _schema(path)
    with SqliteLog.open(path) as log:
        rows = list(log.read())
    make_format_0(path)
    old = path.read_bytes()
    result = upgrade(path)
    assert (result.from_format, result.to_format) == (0, sqlite_schema.FORMAT)
    assert result.backup_path == path.with_name("ledger.db.format-0.backup")
    assert _schema(path) == as_new
    with SqliteLog.open(path) as log:
        assert list(log.read()) == rows
        assert len(log.rows_of_command("default", "c")) == 300
        append(log, {})
        assert verify(log).ok
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute("DELETE FROM events")
    raw.close()
    # The backup is the ledger as it was, in its old format, and can be put in its place.
    with SqliteLog.open(result.backup_path) as saved:
        assert (saved.format, list(saved.read())) == (0, rows)
    assert len(old) == result.backup_path.stat().st_size
    assert upgrade(path) == UpgradeResult(1, 1, None)


def test_two_upgrades_at_once_do_the_work_once(path: Path) -> None:
    make_format_0(path)
    start = threading.Barrier(3)
    results: list[UpgradeResult] = []

    def work() -> None:
        start.wait()
        results.append(upgrade(path))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.from_format for result in results) == [0, 1, 1]
    assert len([name for name in _names(path.parent) if name.endswith(".backup")]) == 1


def test_a_second_upgrade_never_overwrites_the_first_backup(path: Path) -> None:
    make_format_0(path)
    first = upgrade(path).backup_path
    shutil.copy(first or path, path)
    second = upgrade(path).backup_path
    assert first is not None
    assert second == first.with_name("ledger.db.format-0.2.backup")


def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_format_0(path)
    before = _schema(path)
    broken = (*sqlite_schema.STATEMENTS, "CREATE INDEX broken ON events (no_such_column)")
    monkeypatch.setattr("ledger.sqlite_schema.STATEMENTS", broken)
    with pytest.raises(LedgerCorrupt):
        upgrade(path)
    assert [entry for entry in _schema(path) if "migrations" not in entry[1]] == before
    with SqliteLog.open(path) as log:
        assert (log.format, log.head().position) == (0, 300)
    monkeypatch.undo()
    assert upgrade(path).to_format == 1


def test_a_newer_ledger_is_not_upgraded(path: Path) -> None:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA user_version = 2")
    raw.close()
    with pytest.raises(LedgerReadOnly, match="newer than this program's 1"):
        upgrade(path)
    assert len(_names(path.parent)) == 2


def test_writers_that_were_open_meanwhile_go_on_after_the_upgrade(path: Path) -> None:
    with SqliteLog.open(path) as writer:
        append(writer, {})
        make_format_0(path)
        with pytest.raises(LedgerReadOnly, match="format 0"):
            append(writer, {})
        upgrade(path)
        append(writer, {})
        assert verify(writer).ok
    assert os.path.exists(path)
