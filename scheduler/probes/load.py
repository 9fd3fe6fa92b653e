"""Processors that others use: how busy they were between two looks, less what holders' trees ran.

    outside = (Δbusy − Δmanaged) / Δt − slack, from 0 to the node's capacity

``busy`` is the time that the processors this process may run on spent on anything (proc(5),
``/proc/stat``: not idle, not waiting for disks, not stolen by a hypervisor); inside a control group
with a quota, the processor time of that group. ``managed`` is what the trees of holders bound to a
process ran, in full: who takes more processor time than it holds gives way when others come, unlike
with memory. Holders that cannot be told from others are assumed to run all that they hold. ``slack``
is what the pool leaves to others, as for memory.

One look alone says nothing, and then nothing is said.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scheduler.probes.finding import Held
from scheduler.probes.holders import Key, Processes, naming
from scheduler.processes.cgroup import (
    cpu_v1,
    cpu_v2,
    hierarchies,
    machine_capacity,
    read_field,
    read_int,
    read_text,
)

WINDOW_NS: Final = 5_000_000_000
"""Over how long at most the load is averaged: a burst of a second is no lasting use."""

LEAST_NS: Final = 100_000_000
"""Between two looks that are closer, the kernel's ticks (10 ms) are too coarse."""

STEP_MILLI: Final = 100
"""What is found is rounded down to tenths of a processor."""

_TICK_NS: Final = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
_RUNNING: Final = (0, 1, 2, 5, 6)
"""In a line of /proc/stat: user, nice, system, irq and softirq; guests are within user."""


@dataclass(frozen=True, slots=True)
class Note:
    """What one look saw: the counters, each process's time, and who belonged to which holder.

    ``times`` is None where nobody's processes were looked at.
    """

    at_ns: int
    busy_ns: int
    times: dict[Key, int] | None
    trees: dict[str, frozenset[Key]]


class Load:
    """The load of this machine over a few looks. For one thread at a time."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._notes: deque[Note] = deque()

    @property
    def is_new(self) -> bool:
        """Whether nothing was noted in the last seconds, so that a look would say nothing."""
        now = time.monotonic_ns()
        return not any(LEAST_NS <= now - note.at_ns <= WINDOW_NS for note in self._notes)

    def look(
        self, capacity: int, held: Sequence[Held], processes: Processes
    ) -> tuple[int, str] | None:
        """Thousandths of a processor of a node's ``capacity`` that others use, and whose they are.

        None where there is nothing to compare with, or the machine does not tell.
        """
        now = self._note(held, processes)
        if now is None:
            return None
        while self._notes and now.at_ns - self._notes[0].at_ns > WINDOW_NS:
            self._notes.popleft()
        before = self._notes[0] if self._notes else None
        if not self._notes or now.at_ns - self._notes[-1].at_ns >= LEAST_NS:
            self._notes.append(now)
        if before is None or now.at_ns - before.at_ns < LEAST_NS:
            return None
        return _compare(before, now, capacity, held, self._root)

    def _note(self, held: Sequence[Held], processes: Processes) -> Note | None:
        busy_ns = busy(self._root)
        if busy_ns is None:
            return None
        trees = {
            one.allocation: frozenset(processes.tree(one.processes))
            for one in held
            if processes.sees(one)
        }
        times = None
        if trees or self._notes:
            times = {s.key: s.own_cpu_ns + s.children_cpu_ns for s in processes.table.values()}
        return Note(time.monotonic_ns(), busy_ns, times, trees)


def busy(root: Path = Path("/")) -> int | None:
    """Nanoseconds that processors were busy so far, where this process may run; None if unknown."""
    if "quota" in machine_capacity(root).cpu_basis:
        return _group_busy(root)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    total = 0
    found = False
    for line in (read_text(root / "proc/stat") or "").splitlines():
        name, *figures = line.split()
        number = name.removeprefix("cpu")
        if not name.startswith("cpu") or not number.isdigit():
            continue
        if allowed is None or int(number) in allowed:
            found = True
            total += sum(int(figures[i]) for i in _RUNNING if i < len(figures))
    return total * _TICK_NS if found else None


def _group_busy(root: Path) -> int | None:
    """The processor time of the nearest group with a quota; None where none has one."""
    known = hierarchies(root)
    accounts = [h for h in known if "cpuacct" in h.controllers]
    for hierarchy in known:
        for group in hierarchy.upwards():
            if hierarchy.version == 2 and cpu_v2(group) is not None:
                used_us = read_field(group / "cpu.stat", "usage_usec")
                return None if used_us is None else used_us * 1000
            if "cpu" in hierarchy.controllers and cpu_v1(group) is not None and accounts:
                return read_int(accounts[0].own / "cpuacct.usage")
    return None


def _compare(
    before: Note, now: Note, capacity: int, held: Sequence[Held], root: Path
) -> tuple[int, str] | None:
    elapsed_ns = now.at_ns - before.at_ns
    managed_ns = 0
    if now.trees:
        if before.times is None or now.times is None:
            return None
        for allocation, members in now.trees.items():
            # Who ended meanwhile and was waited for is in its parent's account of children.
            earlier = members | before.trees.get(allocation, frozenset())
            grown = sum(now.times.get(key, 0) for key in members)
            managed_ns += max(0, grown - sum(before.times.get(key, 0) for key in earlier))
    assumed = sum(one.amounts.get("cpu", 0) for one in held if one.allocation not in now.trees)
    slack = max(0, machine_capacity(root).cpu_milli - capacity)
    used = (now.busy_ns - before.busy_ns - managed_ns) * 1000 // elapsed_ns
    outside = min(capacity, used - assumed - slack)
    if outside < STEP_MILLI:
        return (0, "")
    return (outside // STEP_MILLI * STEP_MILLI, _whose(before, now, elapsed_ns))


def _whose(before: Note, now: Note, elapsed_ns: int) -> str:
    """The busiest processes that belong to no holder, by what they ran between the looks."""
    if before.times is None or now.times is None:
        return ""
    managed = {key for members in now.trees.values() for key in members}
    ran = {
        pid: (spent - before.times[pid, start]) * 1000 // elapsed_ns
        for (pid, start), spent in now.times.items()
        if (pid, start) in before.times and (pid, start) not in managed
    }
    return naming(lambda pid: ran[pid], ran.keys(), "cpu", STEP_MILLI)
