"""The doctor, on real files: what it finds wrong, what it leaves alone, and accepting a clock."""

from __future__ import annotations

import json
import os
import sqlite3 as standard_sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leasebook import guard
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
from leasebook.settings import key_directory, state_directory
from ledger import sqlite_driver
from ledger.clock import CLOCK_ALERT, Reading, machine_clock
from ledger.commands import Allocate, OpenPool, RaiseAlert
from ledger.errors import LedgerCorrupt, LedgerUnavailable
from ledger.filesystem import kind_of
from ledger.log import EMPTY, Head
from ledger.requests import NodeSpec, Request
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin
from tests.rows import START_NS, row_after

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR


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
    assert of(findings, "permissions") == []
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
    assert list(ledgers.sqlite())[0].facts["version"] == sqlite_driver.SQLITE_VERSION
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


# --- growth --------------------------------------------------------------------------------------


def grown(path: Path, count: int, every_ns: int) -> SqliteLog:
    """A log of ``count`` events, one each ``every_ns``."""
    log = SqliteLog.open(path, create=True)
    head, rows = EMPTY, []
    for number in range(count):
        row = row_after(head, recorded_at=START_NS + number * every_ns)
        head = Head(row.position, row.hash, row.recorded_at)
        rows.append(row)
    with log.transaction() as transaction:
        transaction.append(rows)
    return log


def test_growth_is_measured_over_the_last_days_only(folder: Path) -> None:
    # A thousand in one hour long ago, then one every hour for ten days: the last week counts.
    log = grown(folder / "ledger.db", 1_240, HOUR)
    (finding,) = ledgers.growth(log, days=7)
    log.close()
    assert finding.facts["over_days"] == 7
    assert finding.facts["events_per_day"] == 24
    per_event = finding.facts["bytes_per_event"]
    assert per_event == pytest.approx(log_size(folder) / 1_240, rel=0.5)
    assert finding.facts["bytes_per_day"] == pytest.approx(24 * per_event, rel=0.02)
    assert "24 events a day" in finding.message
    assert finding.level == "ok"


def log_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_growth_of_a_young_ledger_is_not_known(folder: Path, writer: Writer) -> None:
    finding = one(examine(folder / "ledger.db"), "growth")
    assert finding.facts["events_per_day"] is None
    assert finding.facts["bytes_per_day"] is None
    assert finding.facts["bytes_per_event"] is None
    assert finding.facts["bytes"] > 0
    assert "too young" in finding.message


def test_a_ledger_younger_than_a_week_is_measured_over_its_life(folder: Path) -> None:
    log = grown(folder / "ledger.db", 50, HOUR)
    (finding,) = ledgers.growth(log)
    log.close()
    assert finding.facts["over_days"] == pytest.approx(49 / 24, abs=0.01)
    assert finding.facts["events_per_day"] == 24
    # Fifty events fill no file: what one takes cannot be told from that.
    assert finding.facts["bytes_per_day"] is None


def test_a_disk_that_growth_will_fill_soon_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = grown(folder / "ledger.db", 1_100, HOUR)
    monkeypatch.setattr(ledgers, "DAYS_LEFT_WARN", 10**12)
    (finding,) = ledgers.growth(log)
    log.close()
    assert finding.level == "warn"
    assert "the disk is full in" in finding.message


# --- other ledgers -------------------------------------------------------------------------------


def home_with_ledger(home: Path) -> Path:
    place = home / ".local" / "state" / "leasebook" / "ledger.db"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x" * 2048)
    return place


def test_ledgers_of_other_users_are_found(tmp_path: Path, folder: Path) -> None:
    theirs = home_with_ledger(tmp_path / "ada")
    own = home_with_ledger(tmp_path / "bob")
    homes = [
        ("ada", tmp_path / "ada"),
        ("ada-too", tmp_path / "ada"),
        ("bob", tmp_path / "bob"),
        ("nobody", Path("/nonexistent")),
    ]
    (finding,) = machine.other_ledgers(own, homes)
    assert finding.level == "note"
    assert finding.facts["user"] == "ada"
    assert finding.facts["path"] == str(theirs)
    assert finding.facts["bytes"] == 2048


def test_a_machine_without_other_ledgers_is_found_so(tmp_path: Path, folder: Path) -> None:
    (finding,) = machine.other_ledgers(folder / "ledger.db", [("ada", tmp_path / "ada")])
    assert finding.level == "ok"


def test_this_users_default_ledger_counts_when_another_one_is_examined(folder: Path) -> None:
    default = state_directory() / "ledger.db"
    default.parent.mkdir(parents=True, exist_ok=True)
    default.touch()
    try:
        (finding,) = machine.other_ledgers(folder / "ledger.db", [])
    finally:
        default.unlink()
    assert finding.facts["user"] == "this user"


def test_homes_that_cannot_be_read_are_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with_ledger(tmp_path / "ada")
    look = Path.stat

    def closed(path: Path, **options: Any) -> os.stat_result:
        if path.is_relative_to(tmp_path / "ada"):
            raise PermissionError(13, "Permission denied")
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", closed)
    (finding,) = machine.other_ledgers(folder / "ledger.db", [("ada", tmp_path / "ada")])
    assert finding.level == "note"
    assert str(tmp_path / "ada") in finding.message
    assert "Permission denied" in finding.message
    assert "root" in finding.hint


def test_homes_on_a_network_are_named_and_not_touched(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with_ledger(tmp_path / "ada")
    table = tmp_path / "mountinfo"
    table.write_text(f"1 1 0:1 / / rw - ext4 d rw\n2 1 0:2 / {tmp_path}/ada rw - autofs map rw\n")
    monkeypatch.setattr("ledger.filesystem.MOUNTS", table)
    (finding,) = machine.other_ledgers(folder / "ledger.db", [("ada", tmp_path / "ada")])
    assert "on autofs" in finding.message


def test_the_users_of_this_machine_are_known() -> None:
    assert any(home.is_absolute() for _, home in machine.users())


# --- the machine ---------------------------------------------------------------------------------


def test_a_foreign_package_in_the_way_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(machine.packages())[0].level == "ok"

    def found() -> None:
        raise guard.ForeignPackage("a foreign package 'ledger' is in the way")

    monkeypatch.setattr(guard, "check_packages", found)
    (finding,) = machine.packages()
    assert finding.level == "bad"
    assert "in the way" in finding.message


def test_control_groups_tell_what_there_is_and_leave_nothing_behind() -> None:
    (finding,) = machine.control_groups()
    assert finding.level in ("ok", "note")
    assert finding.facts["cpu_milli"] > 0
    assert finding.facts["memory_bytes"] > 0
    assert finding.facts["version"] in (None, 1, 2)
    left = [path for path in Path("/sys/fs/cgroup").rglob(f"leasebook-doctor-{os.getpid()}")]
    assert left == []


def test_a_folder_that_cannot_be_written_is_bad() -> None:
    first = next(iter(machine.sandbox(Path("/proc/leasebook"))))
    assert first.level == "bad"
    assert first.facts["tried"] == "/proc"


def test_a_folder_that_can_be_written_stays_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert next(iter(machine.sandbox(folder))).level == "ok"
    # Where the system knows no file without a name.
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    assert next(iter(machine.sandbox(folder))).level == "ok"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "level", "word"),
    [
        ({"Seccomp": "2", "NoNewPrivs": "1"}, "note", "seccomp filter, no new privileges"),
        ({"Seccomp": "0", "NoNewPrivs": "1"}, "note", "no new privileges"),
        ({"Seccomp": "0", "NoNewPrivs": "0"}, "ok", "not filtered"),
        ({}, "ok", "seccomp unknown"),
    ],
)
def test_confinement_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, str], level: str, word: str
) -> None:
    monkeypatch.setattr(machine, "_status", lambda: status)
    finding = list(machine.sandbox(folder))[-1]
    assert finding.level == level
    assert word in finding.message


def test_what_hides_processes_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> Finding:
        return list(machine.sandbox(folder))[1]

    monkeypatch.setattr("scheduler.processes.identity.pid_namespace", lambda: "4026532999")
    monkeypatch.setattr("scheduler.processes.procfs.proc_shows_our_namespace", lambda: True)
    monkeypatch.setattr(machine, "_proc_options", dict)
    assert "a pid namespace of its own" in seen().message
    monkeypatch.setattr(machine, "_proc_options", lambda: {"hidepid": "2"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "hidepid=2" in seen().message
    monkeypatch.setattr("scheduler.processes.procfs.proc_shows_our_namespace", lambda: False)
    assert seen().level == "warn"


def test_the_options_of_proc_are_read_from_the_mount_table(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 27 0:21 / / rw,relatime - ext4 d rw\n"
        "23 22 0:21 / /proc rw,nosuid - proc proc rw,hidepid=invisible,gid=5\n"
        "24 22 0:21 / /else/proc rw - proc proc rw,hidepid=1\n"
    )
    assert machine._proc_options(table) == {"hidepid": "invisible", "gid": "5"}
    assert machine._proc_options(tmp_path / "missing") == {}


def test_modules_without_bytecode_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (finding,) = machine.bytecode()
    assert finding.level == "note"
    assert "PYTHONDONTWRITEBYTECODE" in finding.message
    assert "compileall" in finding.hint
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (finding,) = machine.bytecode()
    assert "PYTHONDONTWRITEBYTECODE" not in finding.message


def test_compiled_modules_are_found_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    home = Path(machine.__file__).parents[2]
    for module in ("ledger/writer.py", "leasebook/settings.py"):
        cache = Path(importlib.util.cache_from_source(str(home / module)))
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.touch()
    (finding,) = machine.bytecode()
    assert finding.level == "ok"


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
