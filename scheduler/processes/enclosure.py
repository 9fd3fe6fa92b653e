"""A control group of its own for one command: limits that the kernel enforces.

What cannot be enforced is named, never pretended: ``enforces`` says which limits hold,
``missing`` why others do not, and EnclosureUnavailable why there is no enclosure at all. A group
is made below the own group, so that a command never gets away from limits set on us.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from ledger.errors import LeasebookError
from scheduler.processes import cgroup
from scheduler.processes.cgroup import Hierarchy

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_WANTED_V1: Final = ("cpu", "memory", "cpuacct", "freezer")
_PERIOD_US: Final = 100_000
_PERIOD_US_MAX: Final = 1_000_000
_QUOTA_US_MIN: Final = 1_000


class EnclosureUnavailable(LeasebookError):
    """No limit can be enforced here. ``reason`` is the one line that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "the command can run without an enclosure, unenforced")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EnclosureUsage:
    """What all that ever ran inside used; None where the kernel does not count it.

    Memory here is what the group is charged with, page cache included.
    """

    cpu_ns: int | None
    memory_bytes: int | None
    memory_peak_bytes: int | None


@dataclass(slots=True)
class Enclosure:
    """A command's control group. ``groups`` maps a controller to its directory (v2: all to one)."""

    version: int
    groups: Mapping[str, Path]
    enforces: frozenset[str] = frozenset()
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        name: str,
        cpu_milli: int | None,
        memory_bytes: int | None,
        *,
        root: Path = Path("/"),
    ) -> Enclosure:
        """Make a group called ``leasebook-NAME`` with limits; None limits nothing.

        ``name`` is up to 64 letters, digits, ``_``, ``.`` and ``-``. An empty group of that name,
        left by a crash, is replaced. Raises EnclosureUnavailable when neither limit can be
        enforced, and ValueError for a bad name or amount.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a group: use letters, digits, _ . and -")
        wanted = {"cpu": cpu_milli, "memory": memory_bytes}
        if any(amount is not None and amount <= 0 for amount in wanted.values()):
            raise ValueError("a limit has to be above 0")
        mounted = cgroup.hierarchies(root)
        version = 1 if any({"cpu", "memory"} & tree.controllers for tree in mounted) else 2
        make = _make_v1 if version == 1 else _make_v2
        groups, missing = make(mounted, f"leasebook-{name}")
        made = cls(version, groups, missing=missing)
        try:
            made._limit(wanted)
        except EnclosureUnavailable:
            made.remove()
            raise
        return made

    def _limit(self, wanted: Mapping[str, int | None]) -> None:
        setters: dict[str, Callable[[Path, int], None]] = {
            "cpu": _limit_cpu_v1 if self.version == 1 else _limit_cpu_v2,
            "memory": _limit_memory_v1 if self.version == 1 else _limit_memory_v2,
        }
        held = set()
        for what, amount in wanted.items():
            if amount is not None and what in self.groups:
                try:
                    setters[what](self.groups[what], amount)
                    held.add(what)
                except OSError as error:
                    self.missing[what] = f"the kernel refused the limit: {error.strerror or error}"
        asked = {what for what, amount in wanted.items() if amount is not None}
        self.missing = {what: why for what, why in self.missing.items() if what in asked}
        if asked and not held:
            why = "; ".join(f"{what}: {self.missing[what]}" for what in sorted(asked))
            raise EnclosureUnavailable(f"no limit can be enforced here: {why}")
        self.enforces = frozenset(held)

    def resize(self, cpu_milli: int | None, memory_bytes: int | None) -> bool:
        """Set the limits again, in thousandths of a core and bytes; whether the kernel took them.

        Memory cannot be limited below what is in use: the kernel refuses, and the old limit stays.
        """
        wanted = {"cpu": cpu_milli, "memory": memory_bytes}
        try:
            self._limit({what: amount for what, amount in wanted.items() if what in self.enforces})
        except EnclosureUnavailable:
            return False
        return not any(self.missing.get(what) for what in self.enforces)

    def directories(self) -> list[Path]:
        """The groups' directories, each once."""
        return list(dict.fromkeys(self.groups.values()))

    def add(self, pid: int) -> None:
        """Move a process inside; what it starts from now on is inside too. Raises OSError."""
        for directory in self.directories():
            _write(directory / "cgroup.procs", str(pid))

    def join(self) -> None:
        """Move the calling process inside: as ``preexec_fn``, so that nothing starts outside."""
        self.add(0)

    def pids(self) -> list[int]:
        """Who is inside now, in any of the groups."""
        found: set[int] = set()
        for directory in self.directories():
            text = cgroup.read_text(directory / "cgroup.procs") or ""
            found.update(int(pid) for pid in text.split())
        return sorted(found - {0})

    def usage(self) -> EnclosureUsage:
        """What was used inside so far."""
        if self.version == 1:
            memory = self.groups.get("memory", Path())
            return EnclosureUsage(
                cpu_ns=cgroup.read_int(self.groups.get("cpuacct", Path()) / "cpuacct.usage"),
                memory_bytes=cgroup.read_int(memory / "memory.usage_in_bytes"),
                memory_peak_bytes=cgroup.read_int(memory / "memory.max_usage_in_bytes"),
            )
        group = self.directories()[0]
        cpu_us = cgroup.read_field(group / "cpu.stat", "usage_usec")
        return EnclosureUsage(
            cpu_ns=None if cpu_us is None else cpu_us * 1000,
            memory_bytes=cgroup.read_int(group / "memory.current"),
            memory_peak_bytes=cgroup.read_int(group / "memory.peak"),
        )

    def oom_events(self) -> int:
        """How many processes the kernel killed inside for want of memory."""
        if "memory" not in self.groups:
            return 0
        file = "memory.oom_control" if self.version == 1 else "memory.events"
        return cgroup.read_field(self.groups["memory"] / file, "oom_kill") or 0

    def kill(self, timeout_s: float = 2.0) -> bool:
        """KILL all that is inside, and what that starts meanwhile; True when nobody is left."""
        end = time.monotonic() + timeout_s
        frozen = self.groups.get("freezer")
        while self.pids() and time.monotonic() < end:
            try:
                if frozen is not None:
                    _try_write(frozen / "freezer.state", "FROZEN")
                if self.version == 1 or not _try_write(self.directories()[0] / "cgroup.kill", "1"):
                    self._kill_each()
            finally:
                if frozen is not None:
                    _try_write(frozen / "freezer.state", "THAWED")
            time.sleep(0.005)
        return not self.pids()

    def _kill_each(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if not hasattr(os, "pidfd_open"):
                    os.kill(pid, signal.SIGKILL)
                    continue
                fd = os.pidfd_open(pid)
                try:
                    # The descriptor keeps the pid's meaning; being inside is asked once more.
                    if pid in self.pids():
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)

    def remove(self, timeout_s: float = 1.0) -> bool:
        """Remove the groups; False while somebody is inside. Twice is fine."""
        end = time.monotonic() + timeout_s
        while not all(_removed(directory) for directory in self.directories()):
            # A group stays busy for a moment after its last process; living ones do not pass.
            if self.pids() or time.monotonic() >= end:
                return False
            time.sleep(0.005)
        return True

    def __enter__(self) -> Enclosure:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the groups if nobody is inside; ending processes is for the caller to decide."""
        self.remove()


Made = tuple[dict[str, Path], dict[str, str]]


def _make_v1(mounted: list[Hierarchy], name: str) -> Made:
    """A group in each hierarchy that matters: (controller to directory, what is missing why)."""
    groups: dict[str, Path] = {}
    missing = dict.fromkeys(("cpu", "memory"), "its controller is not mounted as version 1")
    for tree in mounted:
        here = [what for what in _WANTED_V1 if what in tree.controllers]
        if not here:
            continue
        try:
            _make_directory(tree.own / name)
        except OSError as error:
            missing.update(dict.fromkeys(here, _cannot_make(tree.own, error)))
            continue
        for what in here:
            groups[what] = tree.own / name
            missing.pop(what, None)
    return groups, missing


def _make_v2(mounted: list[Hierarchy], name: str) -> Made:
    """One group for all: (controller to directory, what is missing why)."""
    tree = next((tree for tree in mounted if tree.version == 2), None)
    if tree is None:
        raise EnclosureUnavailable("no control groups are mounted here")
    parent = _parent_v2(tree)
    try:
        _make_directory(parent / name)
    except OSError as error:
        raise EnclosureUnavailable(_cannot_make(parent, error)) from None
    enabled = _enabled(parent)
    missing = {
        what: f"the {what} controller is not delegated to {parent}"
        for what in ("cpu", "memory")
        if what not in enabled
    }
    return {what: parent / name for what in ("cpu", "memory") if what in enabled}, missing


def _parent_v2(tree: Hierarchy) -> Path:
    """Where a group with controllers may be made: below the own group, or beside it.

    A group that holds processes cannot hand controllers down (the "no internal process" rule,
    cgroup-v2.rst), and ours holds us. Beside it is as good only if it has no limits of its own,
    which a command beside it would get away from.
    """
    if _hand_down(tree.own):
        return tree.own
    beside = tree.own.parent
    unlimited = all(
        cgroup.read_text(tree.own / file) in (None, "max", "max 100000")
        for file in ("cpu.max", "memory.max", "memory.high")
    )
    if tree.own != tree.mount and unlimited and _hand_down(beside):
        return beside
    raise EnclosureUnavailable(
        f"the group {tree.own} cannot hand controllers down: start from a delegated one, "
        "such as systemd-run --user --scope -p Delegate=yes"
    )


def _hand_down(parent: Path) -> bool:
    """Enable what ``parent`` has for its children; whether processor or memory are enabled."""
    available = set((cgroup.read_text(parent / "cgroup.controllers") or "").split())
    for what in ("cpu", "memory"):
        if what in available - _enabled(parent):
            _try_write(parent / "cgroup.subtree_control", f"+{what}")
    return bool(_enabled(parent) & {"cpu", "memory"})


def _enabled(parent: Path) -> set[str]:
    return set((cgroup.read_text(parent / "cgroup.subtree_control") or "").split())


def _cannot_make(parent: Path, error: OSError) -> str:
    return f"no group can be made below {parent}: {error.strerror or error}"


def _make_directory(path: Path) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        # The kernel removes a group only if nobody is inside, so a live one cannot be lost.
        path.rmdir()
        path.mkdir()


def _limit_cpu_v1(group: Path, milli: int) -> None:
    quota_us, period_us = _quota(milli)
    _write(group / "cpu.cfs_period_us", str(period_us))
    _write(group / "cpu.cfs_quota_us", str(quota_us))


def _limit_cpu_v2(group: Path, milli: int) -> None:
    _write(group / "cpu.max", "{} {}".format(*_quota(milli)))


def _quota(milli: int) -> tuple[int, int]:
    """(quota, period) in microseconds; the kernel takes no quota below one millisecond."""
    period_us = _PERIOD_US if milli * _PERIOD_US // 1000 >= _QUOTA_US_MIN else _PERIOD_US_MAX
    return (milli * period_us // 1000, period_us)


def _limit_memory_v1(group: Path, amount: int) -> None:
    # Memory with swap may never be limited below memory: to grow it goes first, to shrink last.
    swap = group / "memory.memsw.limit_in_bytes"
    if swap.exists():
        _try_write(swap, str(amount))
    _write(group / "memory.limit_in_bytes", str(amount))
    if swap.exists():
        _try_write(swap, str(amount))


def _limit_memory_v2(group: Path, amount: int) -> None:
    _write(group / "memory.max", str(amount))
    _try_write(group / "memory.swap.max", "0")


def _write(path: Path, text: str) -> None:
    # Control files are never created: a missing one has to be an error.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _try_write(path: Path, text: str) -> bool:
    try:
        _write(path, text)
    except OSError:
        return False
    return True


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
