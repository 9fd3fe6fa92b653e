"""Enclosures: real control groups where the system allows, and honest words where not."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.processes import cgroup, enclosure
from scheduler.processes.enclosure import Enclosure, EnclosureUnavailable
from tests.integration.processes_children import child, eventually

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups")

MIB = 1 << 20


@pytest.fixture
def name() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def enclosed(name: str) -> Iterator[Enclosure]:
    """A real one with a fifth of a processor and 48 MiB."""
    try:
        made = Enclosure.create(name, 200, 48 * MIB)
    except EnclosureUnavailable as why:
        pytest.skip(f"no control group can be made here: {why.reason}")
    try:
        yield made
    finally:
        made.kill()
        assert made.remove(), "the test's own group has to go"


def test_what_is_started_inside_stays_inside_and_is_accounted_for(enclosed: Enclosure) -> None:
    code = """
pid = os.fork()
if pid == 0:
    burn(0.05); hear(); os._exit(0)
burn(0.05); say(pid); hear()
"""
    with child(code, preexec_fn=enclosed.join) as it:
        other = it.hear_pid()
        assert set(enclosed.pids()) == {it.pid, other}
        used = enclosed.usage()
        assert used.cpu_ns is None or used.cpu_ns >= 50_000_000
        assert used.memory_bytes is None or used.memory_bytes > 0
        assert not enclosed.remove(0.02), "somebody is inside"
        assert enclosed.kill()
        assert it.wait() == -9
    assert enclosed.pids() == []


def test_the_kernel_ends_who_takes_more_memory_than_granted(enclosed: Enclosure) -> None:
    if "memory" not in enclosed.enforces:
        pytest.skip(f"memory cannot be enforced here: {enclosed.missing['memory']}")
    assert enclosed.oom_events() == 0
    with child("x = b'x' * (200 << 20); say('alive')", preexec_fn=enclosed.join) as it:
        assert it.hear() == []
        assert it.process.wait() == -9
    assert enclosed.oom_events() >= 1
    peak = enclosed.usage().memory_peak_bytes
    assert peak is None or peak <= 49 * MIB


def test_the_kernel_holds_a_command_to_its_share_of_processors(enclosed: Enclosure) -> None:
    if "cpu" not in enclosed.enforces:
        pytest.skip(f"processors cannot be enforced here: {enclosed.missing['cpu']}")
    with child("say('up'); hear(); burn(60)", preexec_fn=enclosed.join) as it:
        it.hear()
        it.say()
        stat = enclosed.groups["cpu"] / "cpu.stat"
        assert eventually(lambda: (cgroup.read_field(stat, "nr_throttled") or 0) >= 2)


def test_a_process_can_be_added_later(enclosed: Enclosure) -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        enclosed.add(it.pid)
        assert enclosed.pids() == [it.pid]


def test_a_fork_bomb_is_killed_whole(enclosed: Enclosure) -> None:
    code = """
say('up'); hear()
end = time.monotonic() + 5
while time.monotonic() < end:
    try: os.fork()
    except OSError: pass
    time.sleep(0.05)
"""
    with child(code, preexec_fn=enclosed.join) as it:
        it.hear()
        it.say()
        assert eventually(lambda: len(enclosed.pids()) >= 4)
        assert enclosed.kill(10)
        it.wait()
    assert enclosed.pids() == []


def test_an_empty_group_left_by_a_crash_is_replaced_and_a_live_one_is_not(
    enclosed: Enclosure, name: str
) -> None:
    with child("say('up'); hear()", preexec_fn=enclosed.join) as it:
        it.hear()
        with pytest.raises(EnclosureUnavailable, match="no group can be made"):
            Enclosure.create(name, 100, MIB * 8)
        assert enclosed.pids() == [it.pid]
    with Enclosure.create(name, 100, MIB * 8) as again:
        assert again.enforces


def test_only_what_was_asked_for_is_limited(name: str) -> None:
    try:
        made = Enclosure.create(name, 500, None)
    except EnclosureUnavailable as why:
        pytest.skip(f"no control group can be made here: {why.reason}")
    with made:
        assert made.enforces == {"cpu"}
        assert "memory" not in made.missing
    assert not any(directory.exists() for directory in made.directories())
    assert made.remove()


@pytest.mark.parametrize("bad", ["", "../up", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_name_that_leads_elsewhere_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot name a group"):
        Enclosure.create(bad, 100, None)


@pytest.mark.parametrize(("cpu", "memory"), [(0, None), (None, -1)])
def test_a_limit_of_nothing_is_refused(cpu: int | None, memory: int | None) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Enclosure.create("x", cpu, memory)


def test_without_control_groups_the_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(EnclosureUnavailable) as caught:
        Enclosure.create("x", 100, None, root=tmp_path)
    assert caught.value.reason == "no control groups are mounted here"


class KernelV2:
    """Version 2's files as the kernel makes and guards them, on a common file system.

    Nothing is enforced; what is tested is what we ask of the kernel, and where.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = root / "cg"
        self.busy: set[Path] = set()
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text("1 0 0:1 / /cg rw - cgroup2 none rw\n")
        self.group(self.top, "cpu memory", "")
        real_write = enclosure._write
        real_removed = enclosure._removed

        def write(path: Path, text: str) -> None:
            if path.name == "cgroup.subtree_control":
                if path.parent in self.busy:
                    raise OSError(errno.EBUSY, "Device or resource busy")
                text = f"{path.read_text()} {text.lstrip('+')}".strip()
                path.write_text(text)
                return
            real_write(path, text)

        def make(path: Path) -> None:
            enabled = (path.parent / "cgroup.subtree_control").read_text()
            self.group(path, enabled, "")

        def removed(directory: Path) -> bool:
            for file in directory.glob("*.*"):
                file.unlink()
            return real_removed(directory)

        monkeypatch.setattr(enclosure, "_write", write)
        monkeypatch.setattr(enclosure, "_make_directory", make)
        monkeypatch.setattr(enclosure, "_removed", removed)

    def group(self, path: Path, controllers: str, enabled: str) -> Path:
        path.mkdir()
        (path / "cgroup.controllers").write_text(controllers)
        (path / "cgroup.subtree_control").write_text(enabled)
        (path / "cgroup.procs").write_text("")
        (path / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1\n")
        if "cpu" in controllers:
            (path / "cpu.max").write_text("max 100000")
        if "memory" in controllers:
            (path / "memory.max").write_text("max")
            (path / "memory.swap.max").write_text("max")
            (path / "memory.current").write_text("4096")
            (path / "memory.peak").write_text("8192")
            (path / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")
        return path

    def member(self, path: str) -> None:
        (self.top.parent / "proc/self/cgroup").write_text(f"0::{path}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelV2:
    return KernelV2(tmp_path, monkeypatch)


def test_version_2_is_limited_below_a_group_that_can_hand_controllers_down(
    kernel: KernelV2, tmp_path: Path
) -> None:
    kernel.member("/")
    made = Enclosure.create("job", 1500, 64 * MIB, root=tmp_path)
    group = kernel.top / "leasebook-job"
    assert made.version == 2
    assert made.enforces == {"cpu", "memory"}
    assert (group / "cpu.max").read_text().startswith("150000 100000")
    assert (group / "memory.max").read_text() == str(64 * MIB)
    assert (group / "memory.swap.max").read_text().startswith("0")
    used = made.usage()
    assert (used.cpu_ns, used.memory_bytes, used.memory_peak_bytes) == (1_500_000, 4096, 8192)
    assert made.oom_events() == 3
    assert made.remove()
    assert not group.exists()


def test_a_share_too_small_for_the_usual_period_gets_a_longer_one(
    kernel: KernelV2, tmp_path: Path
) -> None:
    kernel.member("/")
    made = Enclosure.create("job", 5, None, root=tmp_path)
    assert (made.directories()[0] / "cpu.max").read_text().startswith("5000 1000000")


def test_a_group_that_holds_us_makes_room_beside_it_if_it_has_no_limits(
    kernel: KernelV2, tmp_path: Path
) -> None:
    scope = kernel.group(kernel.top / "our.scope", "cpu memory", "")
    kernel.busy.add(scope)
    kernel.member("/our.scope")
    made = Enclosure.create("job", 1000, None, root=tmp_path)
    assert made.directories() == [kernel.top / "leasebook-job"]


def test_a_command_never_gets_away_from_limits_on_us(kernel: KernelV2, tmp_path: Path) -> None:
    scope = kernel.group(kernel.top / "our.scope", "cpu memory", "")
    (scope / "memory.max").write_text("1000000")
    kernel.busy.add(scope)
    kernel.member("/our.scope")
    with pytest.raises(EnclosureUnavailable, match="delegated"):
        Enclosure.create("job", 1000, None, root=tmp_path)


def test_a_controller_that_is_not_delegated_is_named_as_missing(
    kernel: KernelV2, tmp_path: Path
) -> None:
    inner = kernel.group(kernel.top / "user", "memory", "")
    kernel.member("/user")
    made = Enclosure.create("job", 1000, 64 * MIB, root=tmp_path)
    assert made.enforces == {"memory"}
    assert made.missing == {"cpu": f"the cpu controller is not delegated to {inner}"}
    with pytest.raises(EnclosureUnavailable, match="cpu controller is not delegated"):
        Enclosure.create("other", 1000, None, root=tmp_path)
    assert not (inner / "leasebook-other").exists()


def test_a_limit_that_the_kernel_refuses_is_not_claimed(
    kernel: KernelV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.member("/")
    write = enclosure._write

    def refuse(path: Path, text: str) -> None:
        if path.name == "cpu.max":
            raise OSError(errno.EINVAL, "Invalid argument")
        write(path, text)

    monkeypatch.setattr(enclosure, "_write", refuse)
    made = Enclosure.create("job", 1000, 64 * MIB, root=tmp_path)
    assert made.enforces == {"memory"}
    assert made.missing == {"cpu": "the kernel refused the limit: Invalid argument"}
