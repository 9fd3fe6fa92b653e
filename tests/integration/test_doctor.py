"""The doctor on a ledger's real files: what it finds wrong, and accepting a clock."""

from __future__ import annotations

import json
import os
import sqlite3 as standard_sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leasebook.doctor import (
    Finding,
    accept_clock,
    as_json,
    as_text,
    examine,
    ledgers,
    machine,
    worst,
)
from leasebook.doctor.finding import guarded, size
from leasebook.settings import key_directory
from ledger import sqlite_driver
from ledger.clock import CLOCK_ALERT, Reading, machine_clock
from ledger.commands import Allocate, OpenPool, RaiseAlert
from ledger.errors import LedgerCorrupt, LedgerUnavailable
from ledger.filesystem import kind_of
from ledger.requests import NodeSpec, Request
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


class OffClock:
    """The machine's clocks with a wall clock that can be set."""

    def __init__(self) -> None:
        self.off = 0
        self._read = machine_clock()

    def __call__(self) -> Reading:
        real = self._read()
        return real._replace(wall=real.wall + self.off)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ledger"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def clock() -> OffClock:
    return OffClock()


@pytest.fixture
def writer(folder: Path, clock: OffClock) -> Iterator[Writer]:
    writer = Writer(SqliteLog.open(folder / "ledger.db", create=True), clock=clock)
    begin(writer.log, "test-ledger", writer)
    writer.execute(
        OpenPool(command_id="open-box", pool="box", nodes=(NodeSpec("box", {"cpu": 4000}),))
    )
    yield writer
    writer.close()


def of(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.name == name]


def one(findings: list[Finding], name: str) -> Finding:
    (finding,) = of(findings, name)
    return finding


# --- the whole -----------------------------------------------------------------------------------


def test_a_sound_ledger_is_found_sound(folder: Path, writer: Writer) -> None:
    findings = examine(folder / "ledger.db")
    names = {finding.name for finding in findings}
    assert names == {
        "packages",
        "sqlite",
        "file system",
        "ledger",
        "permissions",
        "clock",
        "alerts",
        "growth",
        "other ledgers",
        "sandbox",
        "cgroup",
        "bytecode",
    }
    own = [f for f in findings if f.name in ("ledger", "permissions", "alerts", "growth")]
    assert {finding.level for finding in own} == {"ok"}
    ledger = one(findings, "ledger")
    assert ledger.facts["events"] == writer.log.head().position
    assert ledger.facts["journal_mode"] == "wal"


def test_examining_changes_nothing_in_the_ledger(folder: Path, writer: Writer) -> None:
    before = (writer.log.head(), sorted(path.name for path in folder.iterdir()))
    examine(folder / "ledger.db")
    assert (writer.log.head(), sorted(path.name for path in folder.iterdir())) == before


def test_a_ledger_that_is_not_there_yet_is_no_fault_and_is_not_made(folder: Path) -> None:
    path = folder / "below" / "ledger.db"
    findings = examine(path)
    assert one(findings, "ledger").level == "note"
    assert all(finding.level == "ok" for finding in of(findings, "permissions"))
    assert one(findings, "clock").level in ("ok", "note")
    assert one(findings, "file system").facts["free_bytes"] > 0
    assert not path.parent.exists()


def test_without_a_path_the_ledger_that_a_command_would_use_is_examined(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(folder / "ledger.db"))
    assert one(examine(), "ledger").facts["path"] == str(folder / "ledger.db")
    monkeypatch.setenv("LEASEBOOK_LEDGER", "http://127.0.0.1:8421")
    finding = one(examine(), "ledger")
    assert finding.level == "bad"
    assert finding.hint == "give a path"


def test_another_file_is_named_as_what_it_is(folder: Path) -> None:
    path = folder / "notes.txt"
    path.write_text("not a ledger")
    findings = examine(path)
    assert one(findings, "ledger").level == "bad"
    assert "not a ledger" in one(findings, "ledger").message
    assert of(findings, "permissions") == of(findings, "growth") == []


def test_a_damaged_ledger_is_bad_and_says_so_once(folder: Path, writer: Writer) -> None:
    path = folder / "ledger.db"
    writer.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    findings = examine(path)
    assert worst(findings) == "bad"
    assert "damaged" in one(findings, "ledger").message
    assert of(findings, "growth") == []


def test_a_check_that_breaks_is_a_finding_and_hides_no_other(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(machine, "control_groups", broken)
    findings = examine(folder / "ledger.db")
    finding = one(findings, "cgroup")
    assert (finding.level, finding.message) == (
        "warn",
        "could not be examined: RuntimeError: no such thing",
    )
    assert of(findings, "bytecode") != []


def test_damage_found_by_a_check_is_bad_and_its_hint_is_kept() -> None:
    def corrupt() -> Iterator[Finding]:
        raise LedgerCorrupt("position 7 does not follow", "restore a backup")

    def locked() -> Iterator[Finding]:
        raise LedgerUnavailable("locked")

    (finding,) = guarded("ledger", corrupt)
    assert (finding.level, finding.hint) == ("bad", "restore a backup")
    assert guarded("ledger", locked)[0].level == "warn"


# --- SQLite and the file system ------------------------------------------------------------------


def test_an_sqlite_with_the_wal_reset_bug_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(iter(ledgers.sqlite())).facts["version"] == sqlite_driver.SQLITE_VERSION
    monkeypatch.setattr(sqlite_driver, "wal_reset_bug", lambda: True)
    (finding,) = ledgers.sqlite()
    assert finding.level == "warn"
    assert "WAL-reset" in finding.message
    assert "pysqlite3" in finding.hint


def test_a_ledger_left_in_wal_mode_under_such_an_sqlite_is_bad(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "wal_reset_bug", lambda: True)
    (finding,) = ledgers.record(writer.log)
    assert finding.level == "bad"


def test_a_ledger_of_a_newer_format_is_a_warning(folder: Path, writer: Writer) -> None:
    writer.close()
    connection = standard_sqlite3.connect(folder / "ledger.db")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    finding = one(examine(folder / "ledger.db"), "ledger")
    assert finding.level == "warn"
    assert "format 99" in finding.message


@pytest.mark.skipif(kind_of(Path("/dev/shm")) != "tmpfs", reason="no tmpfs at /dev/shm")
def test_a_ledger_in_memory_is_gone_after_a_reboot() -> None:
    (finding,) = ledgers.file_system(Path("/dev/shm/leasebook-doctor/ledger.db"))
    assert finding.facts["type"] == "tmpfs"
    assert finding.level in ("warn", "bad")
    if finding.level == "warn":
        assert "reboot" in finding.message


@pytest.mark.parametrize(
    ("kind", "level", "word"),
    [
        ("nfs4", "bad", "refused"),
        ("fuse.sshfs", "bad", "refused"),
        ("overlay", "note", "container"),
        ("ext4", "ok", "ext4"),
        ("", "ok", "unknown type"),
    ],
)
def test_file_systems_are_told_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str, word: str
) -> None:
    monkeypatch.setattr("ledger.filesystem.kind_of", lambda path: kind)
    monkeypatch.setattr(ledgers, "FREE_BYTES_BAD", 0)
    monkeypatch.setattr(ledgers, "FREE_BYTES_WARN", 0)
    (finding,) = ledgers.file_system(folder / "ledger.db")
    assert finding.level == level
    assert word in finding.message


@pytest.mark.parametrize(
    ("name", "level"), [("FREE_BYTES_WARN", "warn"), ("FREE_BYTES_BAD", "bad")]
)
def test_a_disk_that_is_nearly_full_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: str
) -> None:
    monkeypatch.setattr("ledger.filesystem.kind_of", lambda path: "ext4")
    monkeypatch.setattr(ledgers, name, 2**80)
    (finding,) = ledgers.file_system(folder / "ledger.db")
    assert finding.level == level
    assert "free some space" in finding.hint


# --- permissions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "mode", "level"),
    [("", 0o644, "warn"), ("", 0o666, "bad"), ("-wal", 0o640, "warn"), (".gate", 0o660, "bad")],
)
def test_files_that_others_may_open_are_found(
    folder: Path, writer: Writer, suffix: str, mode: int, level: str
) -> None:
    place = folder / f"ledger.db{suffix}"
    place.chmod(mode)
    finding = one(examine(folder / "ledger.db"), "permissions")
    assert finding.level == level
    assert finding.facts["mode"] == f"{mode:04o}"
    assert finding.hint == f"chmod 600 {place}"


def test_a_cached_view_that_others_may_read_is_found(folder: Path, writer: Writer) -> None:
    place = folder / "ledger.db.views.db"
    place.touch()
    place.chmod(0o604)
    (finding,) = ledgers.permissions(folder / "ledger.db")
    assert str(place) in finding.message


def test_a_key_that_others_may_read_is_bad(folder: Path, writer: Writer) -> None:
    keys = key_directory()
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = keys / "doctor-test"
    key.touch()
    try:
        key.chmod(0o640)
        (finding,) = ledgers.permissions(folder / "ledger.db")
    finally:
        key.unlink()
    assert (finding.level, finding.hint) == ("bad", f"chmod 600 {key}")


def test_a_folder_in_which_others_could_replace_the_ledger_is_bad(
    folder: Path, writer: Writer
) -> None:
    folder.chmod(0o770)
    (finding,) = ledgers.permissions(folder / "ledger.db")
    assert finding.level == "bad"
    folder.chmod(0o1777)
    (finding,) = ledgers.permissions(folder / "ledger.db")
    assert finding.level == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_ledger_is_named_as_such(folder: Path, writer: Writer) -> None:
    os.chown(folder / "ledger.db", 12345, -1)
    (finding,) = ledgers.permissions(folder / "ledger.db")
    assert finding.level == "note"
    assert "12345" in finding.message


# --- the clock and alerts ------------------------------------------------------------------------


def test_a_wall_clock_that_jumped_is_found_and_can_be_accepted(
    folder: Path, writer: Writer, clock: OffClock
) -> None:
    clock.off = 6 * HOUR
    allocated = writer.execute(
        Allocate(
            command_id="a",
            pool="box",
            holder="agent-1",
            request=Request({"cpu": 1000}, ttl_ns=60 * SECOND),
        )
    ).allocation
    assert allocated is not None
    finding = one(examine(folder / "ledger.db"), "alerts")
    assert finding.level == "warn"
    assert finding.message.startswith(CLOCK_ALERT)
    assert "--accept-clock" in finding.hint

    receipt = accept_clock(writer, "operator")
    assert receipt.outcome == "alert_cleared"
    body = receipt.event.body if receipt.event is not None else None
    assert getattr(body, "by", None) == "operator"
    now = writer.read(lambda book, now: now)
    assert abs(now - clock().wall) < HOUR
    after = writer.present(allocated.id)
    # The holder could not have known: its lease goes on by what it had left.
    assert after is not None
    assert after.state == "active"
    assert after.lease_until is not None
    assert after.lease_until > now
    assert one(examine(folder / "ledger.db"), "alerts").level == "ok"


def test_a_jump_that_nobody_has_recorded_yet_is_found(folder: Path, clock: OffClock) -> None:
    clock.off = 6 * HOUR
    log = SqliteLog.open(folder / "ledger.db", create=True)
    begin(log, "test-ledger", Writer(log, clock=clock))
    log.close()
    # Seen from this machine's real clock, the one that wrote was six hours ahead.
    finding = one(examine(folder / "ledger.db"), "clock")
    assert finding.level == "warn"
    assert finding.facts["jump_s"] == pytest.approx(-6 * 3600, abs=60)


def test_whoever_runs_the_command_accepts_unless_another_is_named(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASEBOOK_HOLDER", "ada@box")
    writer.execute(RaiseAlert(command_id="jump", alert=CLOCK_ALERT, message="it jumped"))
    receipt = accept_clock(writer)
    assert receipt.event is not None
    assert getattr(receipt.event.body, "by", None) == "ada@box"


def test_accepting_a_clock_that_never_jumped_changes_nothing(writer: Writer) -> None:
    head = writer.log.head()
    assert accept_clock(writer, "operator").outcome == "unchanged"
    assert writer.log.head() == head


@pytest.mark.parametrize(
    ("ntp", "level", "word"),
    [((True, 5_000), "ok", "says"), ((False, None), "note", "not know"), ((None, None), "ok", "")],
)
def test_what_the_kernel_knows_of_a_time_service_is_told(
    monkeypatch: pytest.MonkeyPatch, ntp: tuple[Any, Any], level: str, word: str
) -> None:
    monkeypatch.setattr(ledgers, "_ntp", lambda: ntp)
    (finding,) = ledgers.wall_clock(None)
    assert finding.level == level
    assert word in finding.message
    assert finding.facts["ntp_synchronised"] is ntp[0]


def test_every_pending_alert_is_a_warning(folder: Path, writer: Writer) -> None:
    for name in ("deadlock", "chain_broken"):
        writer.execute(RaiseAlert(command_id=name, alert=name, message=f"{name} was seen"))
    findings = of(examine(folder / "ledger.db"), "alerts")
    assert [finding.level for finding in findings] == ["warn", "warn"]
    assert {finding.facts["alert"] for finding in findings} == {"deadlock", "chain_broken"}


def test_growth_of_a_young_ledger_is_not_known(folder: Path, writer: Writer) -> None:
    finding = one(examine(folder / "ledger.db"), "growth")
    assert finding.facts["events_per_day"] is None
    assert finding.facts["bytes_per_day"] is None
    assert finding.facts["bytes_per_event"] is None
    assert finding.facts["bytes"] > 0
    assert "too young" in finding.message


# --- how it is shown -----------------------------------------------------------------------------

SAMPLE = [
    Finding("sqlite", "ok", "free of bugs"),
    Finding("file system", "bad", "it is full", "free some space", {"free_bytes": 0}),
    Finding("clock", "note", "it is noon"),
]


def test_text_aligns_names_and_puts_what_to_do_below() -> None:
    assert as_text(SAMPLE).splitlines() == [
        "ok    sqlite       free of bugs",
        "bad   file system  it is full",
        "                   → free some space",
        "note  clock        it is noon",
        "1 bad, 1 note, 1 ok",
    ]
    assert as_text([]) == "nothing was examined"


def test_json_carries_all_that_was_found(folder: Path, writer: Writer) -> None:
    document = json.loads(json.dumps(as_json(SAMPLE)))
    assert document["worst"] == "bad"
    assert document["findings"][1] == {
        "name": "file system",
        "level": "bad",
        "message": "it is full",
        "hint": "free some space",
        "facts": {"free_bytes": 0},
    }
    findings = examine(folder / "ledger.db")
    assert json.loads(json.dumps(as_json(findings)))["worst"] == worst(findings)


@pytest.mark.parametrize(
    ("level", "others"), [("bad", ["warn", "ok"]), ("warn", ["note"]), ("note", ["ok"]), ("ok", [])]
)
def test_the_worst_level_counts(level: str, others: list[str]) -> None:
    findings: list[Any] = [Finding("x", one_level, "") for one_level in [*others, level]]  # type: ignore[arg-type]
    assert worst(findings) == level
    assert worst([]) == "ok"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB")],
)
def test_sizes_are_readable(amount: int, text: str) -> None:
    assert size(amount) == text
    assert size(3.5 * 2**50).endswith("TiB")


# --- what guards the events -----------------------------------------------------------------------


def test_missing_and_foreign_triggers_are_found(folder: Path, writer: Writer) -> None:
    path = folder / "ledger.db"
    assert not [f for f in examine(path) if "guards" in f.message]
    connection = sqlite_driver.sqlite3.connect(path)
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute("CREATE TRIGGER spy AFTER INSERT ON events BEGIN SELECT 1; END")
    connection.execute("CREATE VIEW mine AS SELECT * FROM events")
    connection.commit()
    connection.close()
    found = next(f for f in examine(path) if "guards" in f.message)
    assert found.level == "bad"
    assert found.facts["faults"] == [
        "trigger events_no_delete is missing",
        "trigger spy is not Leasebook's",
    ]


def test_a_changed_index_is_found(folder: Path, writer: Writer) -> None:
    connection = sqlite_driver.sqlite3.connect(folder / "ledger.db")
    connection.execute("DROP INDEX events_by_command")
    connection.execute("CREATE INDEX events_by_command ON events (command_id)")
    connection.commit()
    connection.close()
    found = next(f for f in examine(folder / "ledger.db") if "guards" in f.message)
    assert found.facts["faults"] == ["index events_by_command is another one"]
