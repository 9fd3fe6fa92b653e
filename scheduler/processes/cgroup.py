"""What the machine leaves to this process: control groups v1 and v2, affinity, memory.

Control groups nest, and each sets limits of its own, so that the least on the way up counts.
Formats: Linux ``Documentation/admin-guide/cgroup-v1`` and ``cgroup-v2.rst``; proc(5) for
``mountinfo``. ``root`` is where the file system starts, for reading a copy of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scheduler.processes.procfs import psutil_module

UNLIMITED_V1_BYTES: Final = 1 << 62
"""Version 1 has no word for "no limit" and shows the largest whole page below 2 to the 63rd."""


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The least limits from the own group upwards; None is no limit. ``version`` None: no groups.

    ``cpu_milli`` is in thousandths of a processor. ``version`` is 1 as soon as processor or
    memory are version 1's, also where both versions are mounted.
    """

    cpu_milli: int | None
    memory_bytes: int | None
    version: int | None


@dataclass(frozen=True, slots=True)
class MachineCapacity:
    """What may be used here, and what each figure comes from, in words."""

    cpu_milli: int
    memory_bytes: int
    cpu_basis: str
    memory_basis: str


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of groups: where it is mounted, and this process's own group in it.

    ``controllers`` is empty for version 2, which names them in each group.
    """

    version: int
    controllers: frozenset[str]
    mount: Path
    own: Path

    def upwards(self) -> Iterator[Path]:
        """The own group, then its ancestors up to the mount point."""
        yield self.own
        for above in self.own.parents:
            if not above.is_relative_to(self.mount):
                return
            yield above


def hierarchies(root: Path = Path("/")) -> list[Hierarchy]:
    """The trees of groups that this process is in and that are mounted; empty where none are."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = [
            mount
            for line in (root / "proc/self/mountinfo").read_text().splitlines()
            if (mount := _cgroup_mount(line)) is not None
        ]
    except OSError:
        return []
    found = []
    for line in memberships:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        version = 2 if number == "0" and not names else 1
        controllers = frozenset(names.split(",")) if version == 1 else frozenset[str]()
        places = [
            (root / mount_point.lstrip("/"), mount_root)
            for kind, mount_root, mount_point, options in mounts
            if kind == version and controllers <= options
        ]
        place = _own_group(places, path)
        if place is not None:
            found.append(Hierarchy(version, controllers, *place))
    return found


def _cgroup_mount(line: str) -> tuple[int, str, str, frozenset[str]] | None:
    """(version, root of the mount, mount point, its options) of a line of mountinfo."""
    fields = line.split()
    try:
        dash = fields.index("-", 6)
        kind, options = fields[dash + 1], fields[dash + 3]
    except (ValueError, IndexError):
        return None
    if kind not in ("cgroup", "cgroup2"):
        return None
    version = 2 if kind == "cgroup2" else 1
    return (version, _plain(fields[3]), _plain(fields[4]), frozenset(options.split(",")))


def _plain(text: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _own_group(places: Iterable[tuple[Path, str]], path: str) -> tuple[Path, Path] | None:
    """(mount point, own group), the first whose group exists, else a mount point by itself.

    In a container the path can be the host's while only the container's part is mounted, or can
    lead out of it (``/../..``). What is then mounted is the container's own group.
    """
    fallback = None
    for mount, mount_root in places:
        below = path
        if mount_root != "/":
            inside = path == mount_root or path.startswith(mount_root.rstrip("/") + "/")
            below = path[len(mount_root) :] if inside else ""
        if ".." in below.split("/"):
            below = ""
        if below.strip("/") and (own := mount / below.strip("/")).is_dir():
            return (mount, own)
        if fallback is None and mount.is_dir():
            fallback = (mount, mount)
    return fallback


def limits(root: Path = Path("/")) -> CgroupLimits:
    """The limits on this process from its groups and all that can be seen above them."""
    cpu: list[int] = []
    memory: list[int] = []
    versions = set()
    for hierarchy in hierarchies(root):
        if hierarchy.version == 2:
            versions.add(2)
            cpu += _present(cpu_v2(group) for group in hierarchy.upwards())
            memory += _present(_memory_v2(group) for group in hierarchy.upwards())
        if "cpu" in hierarchy.controllers:
            versions.add(1)
            cpu += _present(cpu_v1(group) for group in hierarchy.upwards())
        if "memory" in hierarchy.controllers:
            versions.add(1)
            memory += _present(_memory_v1(group) for group in hierarchy.upwards())
            # The groups above a container's mount point are named by the kernel alone.
            memory += _present([_hierarchical_memory_v1(hierarchy.own)])
    return CgroupLimits(
        cpu_milli=min(cpu, default=None),
        memory_bytes=min(memory, default=None),
        version=min(versions, default=None),
    )


def _present(values: Iterable[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def read_text(path: Path) -> str | None:
    """A control file's text, or None where it is not there or not to be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """A control file's number, or None."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_field(path: Path, name: str) -> int | None:
    """The number after ``name`` in a control file of lines ``name number``, or None."""
    for line in (read_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def cpu_v2(group: Path) -> int | None:
    """A group's own quota in thousandths of a processor (``cpu.max``), rounded down, or None."""
    quota, _, period = (read_text(group / "cpu.max") or "").partition(" ")
    if not quota.isdigit():
        return None
    return _milli(int(quota), int(period) if period.isdigit() else 100_000)


def cpu_v1(group: Path) -> int | None:
    """A group's own quota in thousandths of a processor (``cpu.cfs_quota_us``), or None."""
    quota = read_int(group / "cpu.cfs_quota_us")
    period = read_int(group / "cpu.cfs_period_us")
    if quota is None or quota < 0 or not period:
        return None
    return _milli(quota, period)


def _milli(quota_us: int, period_us: int) -> int | None:
    return max(1, quota_us * 1000 // period_us) if period_us > 0 else None


def _memory_v2(group: Path) -> int | None:
    return read_int(group / "memory.max")


def _memory_v1(group: Path) -> int | None:
    return _limited(read_int(group / "memory.limit_in_bytes"))


def _hierarchical_memory_v1(group: Path) -> int | None:
    return _limited(read_field(group / "memory.stat", "hierarchical_memory_limit"))


def _limited(value: int | None) -> int | None:
    return None if value is None or not 0 <= value < UNLIMITED_V1_BYTES else value


def machine_capacity(root: Path = Path("/")) -> MachineCapacity:
    """What this process may use: the machine's, less what affinity and control groups withhold.

    Nothing is kept free here; whoever opens a pool decides on that.
    """
    limited = limits(root)
    online = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else online
    cpu_milli = allowed * 1000
    cpu_basis = "affinity" if allowed < online else "processors online"
    if limited.cpu_milli is not None and limited.cpu_milli < cpu_milli:
        cpu_milli, cpu_basis = limited.cpu_milli, f"cgroup v{limited.version} quota"
    memory_bytes = _memory_total(root)
    memory_basis = "physical memory"
    if limited.memory_bytes is not None and limited.memory_bytes < memory_bytes:
        memory_bytes, memory_basis = limited.memory_bytes, f"cgroup v{limited.version} limit"
    return MachineCapacity(cpu_milli, memory_bytes, cpu_basis, memory_basis)


def _memory_total(root: Path) -> int:
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return int(psutil_module().virtual_memory().total)
