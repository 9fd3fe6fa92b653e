"""The doctor on a ledger's surroundings: other ledgers, control groups, sandbox, packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from leasebook import guard
from leasebook.doctor import Finding, machine
from leasebook.settings import state_directory
from scheduler.processes.cgroup import hierarchies


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ledger"
    made.mkdir(mode=0o700)
    return made


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
    assert next(iter(machine.packages())).level == "ok"

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
    for tree in hierarchies():
        for place in (tree.own, tree.own.parent):
            assert not (place / f"leasebook-doctor-{os.getpid()}").exists()


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
