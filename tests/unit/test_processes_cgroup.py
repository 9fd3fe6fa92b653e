"""Reading control groups from copies of file systems: v1, v2, containers, nested limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scheduler.processes.cgroup import CgroupLimits, hierarchies, limits, machine_capacity

V2 = "30 24 0:26 {root} {point} rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = "3{n} 24 0:3{n} {root} {point} rw shared:9 - cgroup cgroup rw,{options}\n"
NO_LIMIT_V1 = "9223372036854771712"


class Machine:
    """A file system with a /proc and control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n")
        self.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/vda rw\nnonsense\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def mounts(self, *lines: str) -> None:
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.writelines(lines)

    def member(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_control_groups_there_are_no_limits(machine: Machine) -> None:
    assert limits(machine.root) == CgroupLimits(None, None, None)
    assert hierarchies(machine.root / "nothing") == []


def test_the_least_limit_on_the_way_up_counts_in_version_2(machine: Machine) -> None:
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member("0::/work.slice/job.scope")
    machine.write("sys/fs/cgroup/work.slice/cpu.max", "150000 100000\n")
    machine.write("sys/fs/cgroup/work.slice/memory.max", "8589934592\n")
    machine.write("sys/fs/cgroup/work.slice/job.scope/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/work.slice/job.scope/memory.max", "4294967296\n")
    assert limits(machine.root) == CgroupLimits(1500, 4 << 30, 2)


def test_a_group_above_may_be_tighter_than_ours(machine: Machine) -> None:
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member("0::/a/b")
    machine.write("sys/fs/cgroup/a/memory.max", "1000000\n")
    machine.write("sys/fs/cgroup/a/b/memory.max", "2000000\n")
    assert limits(machine.root).memory_bytes == 1_000_000


def test_version_1_has_a_hierarchy_for_each_controller(machine: Machine) -> None:
    machine.mounts(
        V1.format(n=1, root="/", point="/sys/fs/cgroup/cpu,cpuacct", options="cpu,cpuacct"),
        V1.format(n=2, root="/", point="/sys/fs/cgroup/memory", options="memory"),
        V2.format(root="/", point="/sys/fs/cgroup/unified"),
    )
    machine.member("4:cpu,cpuacct:/jobs", "3:memory:/jobs/7", "0::/")
    machine.write("sys/fs/cgroup/unified/cgroup.procs", "")
    machine.write("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "50000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    machine.write("sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "268435456\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_LIMIT_V1)
    assert limits(machine.root) == CgroupLimits(500, 256 << 20, 1)


def test_version_1_spells_no_limit_as_an_enormous_number(machine: Machine) -> None:
    machine.mounts(V1.format(n=2, root="/", point="/sys/fs/cgroup/memory", options="memory"))
    machine.member("3:memory:/")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_LIMIT_V1)
    assert limits(machine.root) == CgroupLimits(None, None, 1)


def test_a_container_finds_its_own_group_at_the_mount_point(machine: Machine) -> None:
    """The path in /proc/self/cgroup is the host's; only the container's part is mounted."""
    machine.mounts(
        V1.format(n=2, root="/docker/abc", point="/sys/fs/cgroup/memory", options="memory")
    )
    machine.member("3:memory:/docker/abc")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n")
    assert limits(machine.root).memory_bytes == 1 << 20


def test_a_group_inside_a_container_is_found_below_the_mount_point(machine: Machine) -> None:
    machine.mounts(
        V1.format(n=2, root="/docker/abc", point="/sys/fs/cgroup/memory", options="memory")
    )
    machine.member("3:memory:/docker/abc/inner")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096000\n")
    machine.write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "1024000\n")
    [tree] = hierarchies(machine.root)
    assert tree.own == machine.root / "sys/fs/cgroup/memory/inner"
    assert limits(machine.root).memory_bytes == 1_024_000


@pytest.mark.parametrize("path", ["/../../host.slice", "/docker/unmounted", "/gone (deleted)"])
def test_a_path_that_is_not_below_the_mount_means_the_mount_point(
    machine: Machine, path: str
) -> None:
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member(f"0::{path}")
    machine.write("sys/fs/cgroup/memory.max", "7000000\n")
    [tree] = hierarchies(machine.root)
    assert tree.own == tree.mount
    assert limits(machine.root).memory_bytes == 7_000_000


def test_limits_above_a_containers_mount_are_known_from_the_kernel(machine: Machine) -> None:
    machine.mounts(
        V1.format(n=2, root="/docker/abc", point="/sys/fs/cgroup/memory", options="memory")
    )
    machine.member("3:memory:/docker/abc")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_LIMIT_V1)
    machine.write("sys/fs/cgroup/memory/memory.stat", "rss 5\nhierarchical_memory_limit 3000000\n")
    assert limits(machine.root).memory_bytes == 3_000_000


def test_blanks_in_a_mount_point_are_escaped_in_mountinfo(machine: Machine) -> None:
    machine.mounts(V2.format(root="/", point=r"/sys/fs/c\040group"))
    machine.member("0::/")
    machine.write("sys/fs/c group/memory.max", "5000000\n")
    assert limits(machine.root).memory_bytes == 5_000_000


def test_a_tiny_quota_never_reads_as_no_processor_at_all(machine: Machine) -> None:
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member("0::/")
    machine.write("sys/fs/cgroup/cpu.max", "1 1000000\n")
    assert limits(machine.root).cpu_milli == 1


def test_capacity_names_the_bound_that_holds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    found = machine_capacity(machine.root)
    assert (found.cpu_milli, found.cpu_basis) == (4000, "affinity")
    assert (found.memory_bytes, found.memory_basis) == (16384000 * 1024, "physical memory")
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member("0::/")
    machine.write("sys/fs/cgroup/cpu.max", "250000 100000\n")
    machine.write("sys/fs/cgroup/memory.max", "1000000\n")
    found = machine_capacity(machine.root)
    assert (found.cpu_milli, found.cpu_basis) == (2500, "cgroup v2 quota")
    assert (found.memory_bytes, found.memory_basis) == (1_000_000, "cgroup v2 limit")


def test_a_quota_above_the_affinity_does_not_add_processors(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    machine.mounts(V2.format(root="/", point="/sys/fs/cgroup"))
    machine.member("0::/")
    machine.write("sys/fs/cgroup/cpu.max", "800000 100000\n")
    found = machine_capacity(machine.root)
    assert (found.cpu_milli, found.cpu_basis) == (2000, "processors online")


def test_this_machine_has_some_capacity() -> None:
    found = machine_capacity()
    assert 1 <= found.cpu_milli <= 1000 * (os.cpu_count() or 1)
    assert found.memory_bytes > 1 << 20
