"""Judging a process: every way to an answer, and what counts as evidence."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.canonical import canonical_json
from scheduler.processes import identity as identities
from scheduler.processes import procfs
from scheduler.processes.identity import identify, this_host
from scheduler.processes.liveness import Liveness, NotObservable, observe, watch
from scheduler.processes.procfs import ProcStat, parse_stat

HIGHEST_PID = 2**22
"""One above the highest pid that Linux ever gives."""


def stat_line(name: str, *, pid: int = 7, state: str = "S", threads: int = 1) -> bytes:
    rest = f"{state} 1 7 7 0 -1 0 0 0 0 0 200 100 30 20 20 0 {threads} 0 5555 0 0"
    return f"{pid} ({name}) {rest}".encode()


@given(st.text(min_size=0, max_size=15))
def test_a_programs_name_cannot_shift_the_fields_of_its_stat(name: str) -> None:
    stat = parse_stat(stat_line(name))
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert (stat.pid, stat.ppid, stat.state, stat.start_time) == (7, 1, "S", 5555)
    assert (stat.own_cpu_ns, stat.children_cpu_ns) == (300 * tick_ns, 50 * tick_ns)


def test_a_line_that_is_no_stat_is_refused() -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(b"7 (x) S 1 2")


def test_a_zombie_leader_with_running_threads_has_not_ended() -> None:
    assert not parse_stat(stat_line("x", state="Z", threads=2)).ended
    assert parse_stat(stat_line("x", state="Z", threads=1)).ended
    assert parse_stat(stat_line("x", state="X")).ended


def test_this_process_is_alive_and_its_identity_is_complete() -> None:
    us = identify()
    assert us == identify(os.getpid())
    assert us.pid == os.getpid()
    assert us.start_time > 0
    assert us.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"pid:[{us.pid_namespace}]" == os.readlink("/proc/self/ns/pid")
    assert us.host == this_host()
    assert us.host.startswith(os.uname().nodename)
    seen = observe(us, at_ns=99)
    assert (seen.liveness, seen.how, seen.at_ns) == (Liveness.ALIVE, "running", 99)


def test_the_machine_id_itself_is_never_part_of_the_hosts_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "3d1219c7c4c5404aaa1f6d2a48adfda4"
    monkeypatch.setattr(identities, "_constants", {"/etc/machine-id": secret})
    marked = this_host()
    assert secret[:8] not in marked
    monkeypatch.setattr(identities, "_constants", {"/etc/machine-id": secret[::-1]})
    assert this_host() != marked


@pytest.mark.parametrize("pid", [0, -1, HIGHEST_PID])
def test_identifying_what_is_no_process_raises(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        identify(pid)


@pytest.mark.parametrize(
    ("change", "liveness", "how"),
    [
        ({"host": "elsewhere"}, Liveness.UNKNOWN, "host"),
        ({"host": "elsewhere", "boot_id": "b"}, Liveness.UNKNOWN, "host"),
        ({"pid_namespace": "1"}, Liveness.UNKNOWN, "pid_namespace"),
        ({"pid_namespace": ""}, Liveness.UNKNOWN, "pid_namespace"),
        ({"pid_namespace": "1", "boot_id": "b"}, Liveness.UNKNOWN, "pid_namespace"),
        ({"boot_id": "another boot"}, Liveness.DEAD, "boot_id"),
        ({"pid": HIGHEST_PID}, Liveness.DEAD, "gone"),
        ({"pid": HIGHEST_PID, "start_time": 0}, Liveness.DEAD, "gone"),
        ({"start_time": 1}, Liveness.DEAD, "reused"),
        ({"start_time": 0}, Liveness.UNKNOWN, "start_time"),
        ({"pid": 0}, Liveness.UNKNOWN, "start_time"),
        ({"pid": -1}, Liveness.UNKNOWN, "start_time"),
        ({"boot_id": ""}, Liveness.ALIVE, "running"),
    ],
)
def test_each_difference_leads_to_its_own_judgement(
    change: dict[str, Any], liveness: Liveness, how: str
) -> None:
    seen = observe(replace(identify(), **change))
    assert (seen.liveness, seen.how) == (liveness, how)


def test_a_host_without_a_name_of_its_own_is_not_trusted_to_be_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identities, "this_host", lambda: "localhost")
    seen = observe(replace(identify(), host="localhost", boot_id="another boot"))
    assert (seen.liveness, seen.how) == (Liveness.UNKNOWN, "host")


def test_a_proc_of_another_namespace_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    us = identify()
    monkeypatch.setattr(procfs, "proc_shows_our_namespace", lambda: False)
    seen = observe(replace(us, pid=HIGHEST_PID))
    assert (seen.liveness, seen.how) == (Liveness.UNKNOWN, "proc")
    with pytest.raises(ProcessLookupError, match="pid namespace"):
        identify(1)


def test_a_process_that_proc_hides_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    us = identify()
    monkeypatch.setattr(procfs, "read_stat", lambda pid: None)
    seen = observe(us)
    assert (seen.liveness, seen.how) == (Liveness.UNKNOWN, "hidden")


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (PermissionError(errno.EACCES, "no"), "hidden"),
        (OSError(errno.EMFILE, "too many"), "proc"),
    ],
)
def test_a_failing_look_is_unknown_and_never_dead(
    monkeypatch: pytest.MonkeyPatch, error: OSError, how: str
) -> None:
    us = identify()

    def fail(pid: int) -> ProcStat:
        raise error

    monkeypatch.setattr(procfs, "read_stat", fail)
    seen = observe(us)
    assert (seen.liveness, seen.how) == (Liveness.UNKNOWN, how)


def test_evidence_is_integers_and_text_and_can_be_hashed() -> None:
    evidence = observe(
        replace(identify(), start_time=1), at_ns=1_700_000_000_000_000_001
    ).evidence()
    assert {"pid", "start_time", "boot_id", "pid_namespace", "host", "how"} <= evidence.keys()
    assert evidence["observed_at"] == 1_700_000_000_000_000_001
    assert all(isinstance(value, (int, str)) for value in evidence.values())
    assert canonical_json(evidence)


def test_what_cannot_be_seen_cannot_be_watched() -> None:
    with pytest.raises(NotObservable, match="another host"):
        watch(replace(identify(), host="elsewhere"))


def test_psutil_tells_of_the_same_process_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procfs, "LINUX", False)
    us = identify()
    assert observe(us).liveness is Liveness.ALIVE
    assert observe(replace(us, start_time=us.start_time - 1)).how == "reused"
    assert observe(replace(us, pid=HIGHEST_PID)).how == "gone"
    assert procfs.scan()[os.getpid()].ppid == os.getppid()
    assert procfs.memory(os.getpid())[1] > 1_000_000
    with pytest.raises(ProcessLookupError):
        identify(HIGHEST_PID)


def test_another_users_process_exists_though_it_may_not_be_signalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int, sig: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "kill", refuse)
    assert procfs.exists(1)


def test_a_missing_proc_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(procfs, "PROC", str(tmp_path))
    assert not procfs.proc_shows_our_namespace()
    with pytest.raises(ProcessLookupError, match="mount /proc"):
        identify()


def test_processes_that_hide_or_vanish_are_left_out_of_a_scan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for pid, line in ((7, stat_line("seen")), (8, b""), (9, stat_line("hidden", pid=9))):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_bytes(line)
    (tmp_path / "10").mkdir()
    (tmp_path / "version").write_text("Linux")
    real = procfs._read_stat

    def guarded(name: str) -> ProcStat | None:
        if name == "9":
            raise PermissionError(errno.EACCES, "no")
        return real(name)

    monkeypatch.setattr(procfs, "PROC", str(tmp_path))
    monkeypatch.setattr(procfs, "_read_stat", guarded)
    assert set(procfs.scan()) == {7}


def test_unreadable_pss_of_a_living_process_is_unknown_and_of_a_gone_one_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(procfs, "PROC", str(tmp_path))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("100 50 20 1 0 40 0")
    page = os.sysconf("SC_PAGE_SIZE")
    assert procfs.memory(7) == (None, 50 * page)
    (tmp_path / "7" / "smaps_rollup").write_text("0-f ---p 0 00:00 0 [rollup]\nPss:   12 kB\n")
    assert procfs.memory(7) == (12 * 1024, 50 * page)
    assert procfs.memory(7, want_pss=False) == (None, 50 * page)
    assert procfs.memory(8) == (0, 0)
    assert procfs._pss(8) == 0


def test_a_watch_that_loses_sight_while_it_opens_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real, us = procfs.read_stat, identify()
    looks = iter([real(us.pid)])

    def once(pid: int) -> ProcStat | None:
        try:
            return next(looks)
        except StopIteration:
            raise PermissionError(errno.EACCES, "no") from None

    monkeypatch.setattr(procfs, "read_stat", once)
    with pytest.raises(NotObservable, match="hidden"):
        watch(us)
