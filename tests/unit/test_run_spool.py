"""The spool: kept safely, recorded once, and only in the ledger that it is for."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook import ResourceManager
from leasebook.run import spool
from ledger.errors import LedgerCorrupt, LedgerUnavailable, LimitExceeded
from tests.command_line import ROOT


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "leasebook"


def unrecorded(ledger: Path, **more: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "id": "018f",
        "ledger": str(ledger),
        "kind": "unrecorded",
        "program": "make",
        "holder": "agent",
        "task": None,
        "why": "the disk was full",
        "exit_code": 0,
        **more,
    }


def unfinished(ledger: Path, manager: ResourceManager) -> dict[str, Any]:
    held = manager.allocate({"cpu": 1}, pool="p", holder="agent")
    now = manager.ledger.writer.read(lambda book, now: now)
    usage = {
        "since": now,
        "until": now + 5,
        "used": {"cpu": 1},
        "peak": {},
        "basis": {},
        "samples": 1,
        "gaps_ns": 0,
        "final": True,
        "exit_code": 3,
    }
    return {
        "id": held.id,
        "ledger": str(ledger),
        "kind": "unfinished",
        "allocation": held.id,
        "tenant": "default",
        "holder": "agent",
        "token": held.fencing_token,
        "usages": [usage],
    }


def test_an_end_that_was_spooled_is_recorded_once(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with leasebook.open(path) as manager:
        manager.open_pool("p", capacity={"cpu": 1})
        entry = unfinished(path, manager)
        spool.add(entry)
        assert spool.record_spooled(manager) == 1
        ended = manager.get(entry["allocation"])
        assert (ended.state, ended.ended_by) == ("ended", "released")
        spool.add(entry)
        assert spool.record_spooled(manager) == 1, "after a crash between recording and removing"
        kinds = [event.type for event in manager.events()]
    assert kinds.count("usage_recorded") == 1
    assert kinds.count("released") == 1


def test_use_is_recorded_also_where_the_allocation_was_taken_back_meanwhile(
    tmp_path: Path,
) -> None:
    path = tmp_path / "l.db"
    with leasebook.open(path) as manager:
        manager.open_pool("p", capacity={"cpu": 1})
        entry = unfinished(path, manager)
        manager.reclaim(entry["allocation"], reason="its run had gone")
        spool.add(entry)
        spool.record_spooled(manager)
        [usage] = manager.events(type="usage_recorded")
        assert usage.body.exit_code == 3


def test_an_unrecorded_run_becomes_an_alert_that_stands_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with leasebook.open(path) as manager:
        spool.add(unrecorded(path))
        assert spool.record_spooled(manager) == 1
        assert spool.record_spooled(manager) == 0
        [raised] = manager.events(type="alert_raised")
        assert "make ran without an allocation: the disk was full" in raised.body.message
        assert raised.body.details["exit_code"] == 0
        assert "task" not in raised.body.details
        assert manager.ledger.writer.read(lambda book, now: not book.alerts)


def test_entries_of_other_ledgers_stay(tmp_path: Path, state: Path) -> None:
    spool.add(unrecorded(tmp_path / "other.db", id="a"))
    spool.add(unrecorded(tmp_path / "mine.db", id="b"))
    with leasebook.open(tmp_path / "mine.db") as manager:
        assert spool.record_spooled(manager) == 1
    [left] = (state / "spool.jsonl").read_text().splitlines()
    assert json.loads(left)["id"] == "a"
    assert stat.S_IMODE((state / "spool.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_line_that_a_crash_cut_off_and_one_that_no_ledger_takes_stop_nothing(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "l.db"
    state.mkdir(parents=True)
    (state / "spool.jsonl").write_text('{"ledger": "/x"\n17\n\n')
    spool.add({"ledger": str(path), "kind": "unfinished"})
    spool.add(unrecorded(path))
    with leasebook.open(path) as manager:
        assert spool.record_spooled(manager) == 2
        assert len(list(manager.events(type="alert_raised"))) == 1
    assert not (state / "spool.jsonl").exists()


def test_what_a_failing_ledger_does_not_take_stays(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    spool.add(unrecorded(path))

    def fail(command: object) -> None:
        raise LedgerUnavailable("the disk is full")

    with leasebook.open(path) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(manager.ledger.writer, "execute", fail)
            with pytest.raises(LedgerUnavailable):
                spool.record_spooled(manager)
        assert (state / "spool.jsonl").exists()
        assert spool.record_spooled(manager) == 1


def test_the_spool_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitExceeded):
        spool.add(unrecorded(tmp_path / "l.db", why="x" * spool.LINE_BYTES_MAX))
    spool.add(unrecorded(tmp_path / "l.db"))
    monkeypatch.setattr(spool, "BYTES_MAX", spool.spool_path().stat().st_size + 1)
    with pytest.raises(LimitExceeded):
        spool.add(unrecorded(tmp_path / "l.db"))


def test_a_state_folder_that_cannot_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        spool.add(unrecorded(tmp_path / "l.db"))
    with leasebook.open(":memory:") as manager:
        assert spool.record_spooled(manager) == 0


def test_a_line_that_a_crash_cut_off_does_not_take_the_next_one_with_it(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "l.db"
    spool.add(unrecorded(path))
    with (state / "spool.jsonl").open("ab") as file:
        file.write(b'{"v": 1, "id": "cut o')
    spool.add(unrecorded(path, id="019a"))
    with leasebook.open(path) as manager:
        assert spool.record_spooled(manager) == 2


def test_a_disk_that_fills_up_in_the_middle_of_a_line_keeps_nothing_of_it(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    spool.add(unrecorded(path))
    before = (state / "spool.jsonl").read_bytes()
    write = os.write
    left = [7, 0]

    def short(fd: int, data: bytes) -> int:
        return write(fd, data[: left.pop(0)])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(spool.SpoolUnusable, match="No space left"):
            spool.add(unrecorded(path, id="019a"))
    assert (state / "spool.jsonl").read_bytes() == before


def test_a_disk_that_fills_up_while_others_are_kept_loses_none_of_them(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    spool.add(unrecorded(path))
    spool.add(unrecorded(tmp_path / "other.db"))
    before = (state / "spool.jsonl").read_bytes()
    with leasebook.open(path) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: 0)
            with pytest.raises(spool.SpoolUnusable):
                spool.record_spooled(manager)
        assert (state / "spool.jsonl").read_bytes() == before
        assert spool.record_spooled(manager) == 1
        assert len(list(manager.events(type="alert_raised"))) == 1


def test_a_damaged_ledger_does_not_cost_the_spool_its_entries(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    spool.add(unrecorded(path))

    def fail(command: object) -> None:
        raise LedgerCorrupt("a page is damaged")

    with leasebook.open(path) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(manager.ledger.writer, "execute", fail)
            with pytest.raises(LedgerCorrupt):
                spool.record_spooled(manager)
        assert spool.record_spooled(manager) == 1


@pytest.mark.parametrize("arguments", [("run", "cpu=100m", "--", "true"), ("sweep",)])
def test_a_spool_that_cannot_be_used_holds_up_nobody(
    arguments: tuple[str, ...], tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "l.db"
    with leasebook.open(path) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
    spool.add(unrecorded(path))
    (state / "spool.lock").unlink()
    (state / "spool.lock").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "leasebook", *arguments[:1], "--ledger", str(path), *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the spool" in done.stderr
    assert (state / "spool.jsonl").exists()
