"""A log that has lost its end, which nothing in what is left of it shows."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

import leasebook
from ledger.log import Row
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from tests.command_line import CommandLine
from tests.ledgers import Ledger, allocate


def _with_a_cut_log(folder: Path) -> tuple[Path, int]:
    """A copy of a ledger whose write-ahead log was cut, as after a crash of the disk; how far the log
    had certainly come."""
    with closing(Ledger(folder, "sqlite")) as ledger:
        ledger.pool(n1={"cpu": 10**6})
        for number in range(40):
            ledger.do(allocate(f"a{number}", 1))
        ledger.clock.run(1)
        come_to = ledger.writer.log.head().position
        ledger.got(1)
        copy = folder / "copy.db"
        shutil.copy(ledger.path, copy)
        shutil.copy(f"{ledger.path}.gate", f"{copy}.gate")
        whole = Path(f"{ledger.path}-wal").read_bytes()
        Path(f"{copy}-wal").write_bytes(whole[: len(whole) // 2])
    return copy, come_to


def test_verify_tells_that_the_end_was_lost(tmp_path: Path) -> None:
    copy, come_to = _with_a_cut_log(tmp_path)
    with SqliteLog.open(copy) as log:
        result = verify(log)
        assert 0 < result.events < come_to
        assert not result.ok
        assert result.reason.endswith(f"but event {come_to} was noted earlier: its end was cut off")


def test_the_next_command_works_and_records_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, come_to = _with_a_cut_log(tmp_path)
    with SqliteLog.open(copy) as log:
        ends = log.head().position
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(copy))
    lb = CommandLine(copy, capsys)
    assert lb("verify").code == 6
    lb.ok("allocate", "box", "cpu=1m", "--holder", "me")
    raised = [json.loads(row.data) for row in _rows(copy) if row.type == "alert_raised"]
    assert [each["alert"] for each in raised].count("log_shortened") == 1
    (lost,) = [each["details"] for each in raised if each["alert"] == "log_shortened"]
    assert lost == {"ended_at": ends, "had_come_to": come_to}
    assert "log_shortened" in lb("doctor").out
    assert lb("verify").code == 0
    lb.ok("allocate", "box", "cpu=1m", "--holder", "me")
    assert sum(row.type == "alert_raised" for row in _rows(copy)) == len(raised)


def _rows(path: Path) -> list[Row]:
    with SqliteLog.open(path, read_only=True) as log:
        return list(log.read())


def test_another_ledger_in_its_place_has_lost_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    for path, count in ((first, 40), (second, 2)):
        with leasebook.open(path) as book:
            book.open_pool("box", capacity={"cpu": 100})
            for _ in range(count):
                book.allocate({"cpu": 1}, pool="box")
            time.sleep(0.3)
            book.allocate({"cpu": 1}, pool="box")
    shutil.copy(f"{first}.gate", f"{second}.gate")
    with SqliteLog.open(second) as log:
        assert verify(log).ok
    with SqliteLog.open(first) as log:
        assert verify(log).ok
    with leasebook.open(second) as book:
        book.allocate({"cpu": 1}, pool="box")
        assert [each.type for each in book.events()].count("alert_raised") == 0
