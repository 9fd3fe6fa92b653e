"""A process with all that it started: who belongs to it, and what the whole tree uses.

Children come and go between two looks, and the kernel moves an ended child's processor time into
its parent's account of children when the parent waits for it. The sum over the living of "own
time and ended children's time" therefore counts everything once, except what was never waited
for. ``CpuLedger`` keeps that remainder.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from ledger.identity import ProcessIdentity
from scheduler.processes import gpus, procfs
from scheduler.processes.identity import identify, of_stat
from scheduler.processes.procfs import ProcStat

Key = tuple[int, int]
MemoryKind = Literal["pss", "rss"]

_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class TreeSample:
    """What a tree uses at one moment.

    ``cpu_ns`` is processor time since the root started, by all that belong or belonged to the
    tree; it never goes down. ``memory_bytes`` is PSS when every process's could be read, else
    RSS, in which shared pages count once per process. ``processes`` are those that run.
    ``gpu_memory_bytes`` is None where no card was asked.
    """

    at_ns: int
    cpu_ns: int
    memory_bytes: int
    memory_kind: MemoryKind
    processes: int
    gpu_memory_bytes: int | None = None


def become_subreaper() -> bool:
    """Make orphans among this process's descendants its own children (prctl(2)), Linux only.

    A daemon's double fork then leads to us and not to init, so that it stays in sight. Whoever
    calls this has to wait for such children; ``TreeSampler.reap_orphans`` does. False where the
    system has no such thing. Raises OSError when the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"orphans cannot be adopted: {os.strerror(code)}")
    return True


class TreeTracker:
    """Who belongs to a tree, remembered by identity, so that a daemon still belongs.

    Belonging are: the roots; children of those that belong; in the roots' own sessions,
    everyone; ``members()``, such as a control group's pids; and, of the children of
    ``orphans_of``, those that appear after this tracker. Once seen, a process belongs until its
    end, whoever its parent becomes.
    """

    def __init__(
        self,
        roots: Iterable[ProcessIdentity],
        *,
        orphans_of: int | None = None,
        members: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        self._known: set[Key] = {(root.pid, root.start_time) for root in roots}
        self._members = members
        self._orphans_of = orphans_of
        table = procfs.scan()
        self._not_orphans = {
            stat.key for stat in table.values() if stat.ppid == orphans_of
        } - self._known
        self._sessions: dict[int, int] = {
            pid: start
            for pid, start in self._known
            if pid in table and table[pid].key == (pid, start) and table[pid].session == pid
        }

    def refresh(self) -> list[ProcStat]:
        """Look again: all that belong and still exist, zombies too, parents before children."""
        table = procfs.scan()
        children: dict[int, list[ProcStat]] = {}
        for stat in table.values():
            children.setdefault(stat.ppid, []).append(stat)
        belonging = self._close(self._seeds(table, children), children)
        self._known = set(belonging)
        return _parents_first(belonging)

    def _seeds(
        self, table: dict[int, ProcStat], children: dict[int, list[ProcStat]]
    ) -> list[ProcStat]:
        seeds = [stat for stat in table.values() if stat.key in self._known]
        if self._orphans_of is not None:
            seeds += [
                stat
                for stat in children.get(self._orphans_of, ())
                if stat.key not in self._not_orphans
            ]
        if self._members is not None:
            seeds += [table[pid] for pid in self._members() if pid in table]
        return seeds + self._in_sessions(table)

    def _in_sessions(self, table: dict[int, ProcStat]) -> list[ProcStat]:
        """Everyone in a root's session. Its number is safe while somebody is in the session."""
        found: list[ProcStat] = []
        for session, start in list(self._sessions.items()):
            leader = table.get(session)
            inside = [stat for stat in table.values() if stat.session == session]
            if not inside or (leader is not None and leader.start_time != start):
                del self._sessions[session]
            else:
                found += inside
        return found

    @staticmethod
    def _close(seeds: list[ProcStat], children: dict[int, list[ProcStat]]) -> dict[Key, ProcStat]:
        found = {stat.key: stat for stat in seeds}
        todo = list(found.values())
        while todo:
            parent = todo.pop()
            for child in children.get(parent.pid, ()):
                # An older "child" is a misreading: the table is not read in one instant.
                if child.key not in found and child.start_time >= parent.start_time:
                    found[child.key] = child
                    todo.append(child)
        return found


def _parents_first(belonging: dict[Key, ProcStat]) -> list[ProcStat]:
    pids = {stat.pid for stat in belonging.values()}
    children: dict[int, list[ProcStat]] = {}
    order: list[ProcStat] = []
    for stat in belonging.values():
        if stat.ppid in pids:
            children.setdefault(stat.ppid, []).append(stat)
        else:
            order.append(stat)
    for stat in order:  # grows while it is walked
        order += children.pop(stat.pid, ())
    return order + [stat for rest in children.values() for stat in rest]


@dataclass(slots=True)
class _Account:
    """One living process's times at the last look.

    ``owed_ns`` is what its vanished children had used that its account of ended children does
    not show yet, ``overdue_ns`` the same from the look before.
    """

    own_ns: int
    children_ns: int
    parent: Key | None
    owed_ns: int = 0
    overdue_ns: int = 0


class CpuLedger:
    """Adds up a tree's processor time so that it is complete, counted once, and never falls.

    A process that vanished has been waited for, and then its parent's account of ended children
    grows by its times at the latest by the next look; what does not show up there by then was
    never handed on (the parent ignores SIGCHLD, or the process had become init's child) and is
    kept apart as last seen. Where such a loss falls together with unseen short-lived children of
    the same parent, the smaller of the two goes uncounted: too little, never twice.
    """

    def __init__(self) -> None:
        self._accounts: dict[Key, _Account] = {}
        self._final: dict[Key, int] = {}
        self._kept_ns = 0
        self._total_ns = 0

    @property
    def total_ns(self) -> int:
        """Processor time up to the last look."""
        return self._total_ns

    def look(self, living: Iterable[ProcStat]) -> int:
        """Take in all that exist (zombies too), read parents before children; the new total."""
        now: dict[Key, ProcStat] = {stat.key: stat for stat in living}
        before = self._accounts
        by_pid = {stat.pid: stat.key for stat in now.values()}
        self._accounts = {
            key: _Account(stat.own_cpu_ns, stat.children_cpu_ns, by_pid.get(stat.ppid))
            for key, stat in now.items()
        }
        for key, grown_ns in self._final.items():
            last = before[key]
            self._accounts[key] = _Account(last.own_ns, last.children_ns + grown_ns, None)
        self._final.clear()
        for key in before.keys() & self._accounts.keys():
            self._accounts[key].overdue_ns = before[key].overdue_ns + before[key].owed_ns
        for key in before.keys() - self._accounts.keys():
            self._hand_on(key, before)
        self._settle(before)
        seen = sum(a.own_ns + a.children_ns + a.owed_ns for a in self._accounts.values())
        self._total_ns = max(self._total_ns, self._kept_ns + seen)
        return self._total_ns

    def _hand_on(self, key: Key, before: dict[Key, _Account]) -> None:
        """Owe a vanished process's times to its nearest living ancestor, or keep them."""
        gone = before[key]
        amount = gone.own_ns + gone.children_ns + gone.owed_ns + gone.overdue_ns
        heir = gone.parent
        for _ in range(len(before)):
            if heir is None or heir in self._accounts:
                break
            heir = before[heir].parent if heir in before else None
        if heir is None or heir not in self._accounts:
            self._kept_ns += amount
        else:
            self._accounts[heir].owed_ns += amount

    def _settle(self, before: dict[Key, _Account]) -> None:
        for key, account in self._accounts.items():
            grown = account.children_ns - before[key].children_ns if key in before else 0
            paid = min(max(0, grown), account.overdue_ns)
            self._kept_ns += account.overdue_ns - paid
            account.overdue_ns = 0
            account.owed_ns -= min(max(0, grown - paid), account.owed_ns)

    def reaped(self, pid: int, cpu_ns: int) -> None:
        """An observer outside the tree has waited for ``pid``: its times and its children's.

        It is looked at once more with this figure, as if it had been there: children that it had
        waited for since the last look are in it.
        """
        for key, account in self._accounts.items():
            if key[0] == pid:
                self._final[key] = max(0, cpu_ns - account.own_ns - account.children_ns)
                return
        self._kept_ns += cpu_ns


class TreeSampler:
    """Measures a process and all its descendants, past and present. For one thread.

    ``orphans_of`` is the pid of a subreaper whose new children are this tree's orphans: our own
    pid after ``become_subreaper``, if this tree is all that we started. ``members`` adds pids
    from elsewhere (``Enclosure.pids``). To lose nothing of the last moments, sample once more
    while the root is a zombie (``os.waitid(..., WEXITED | WNOWAIT)``), or tell ``reaped`` what
    ``os.wait4`` said.
    """

    def __init__(
        self,
        root: int | ProcessIdentity,
        *,
        orphans_of: int | None = None,
        members: Callable[[], Iterable[int]] | None = None,
        pss: bool = True,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``pss=False`` takes RSS, which is cheaper. Raises ProcessLookupError without a root."""
        self.root = identify(root) if isinstance(root, int) else root
        self._tracker = TreeTracker([self.root], orphans_of=orphans_of, members=members)
        self._cpu = CpuLedger()
        self._pss = pss
        self._clock_ns = clock_ns

    def sample(self) -> TreeSample:
        """Measure now. A tree that has ended keeps its processor time and uses no memory."""
        # Two readings: one for who belongs, one for the times, parents first. Were a child read
        # before its parent, it could end in between and be counted in both.
        existing = [now for now in map(_again, self._tracker.refresh()) if now is not None]
        cpu_ns = self._cpu.look(existing)
        running = [stat.pid for stat in existing if not stat.ended]
        memory_bytes, kind = self._memory(running)
        return TreeSample(
            at_ns=self._clock_ns(),
            cpu_ns=cpu_ns,
            memory_bytes=memory_bytes,
            memory_kind=kind,
            processes=len(running),
            gpu_memory_bytes=_gpu_memory(running),
        )

    def _memory(self, pids: list[int]) -> tuple[int, MemoryKind]:
        pss_total: int | None = 0 if self._pss else None
        rss_total = 0
        for pid in pids:
            pss, rss = procfs.memory(pid, want_pss=pss_total is not None)
            rss_total += rss
            pss_total = None if pss is None or pss_total is None else pss_total + pss
        return (rss_total, "rss") if pss_total is None else (pss_total, "pss")

    def descendants(self) -> list[ProcessIdentity]:
        """All that belong to the tree and run now, without the root: what it left behind."""
        return [
            of_stat(stat)
            for stat in self._tracker.refresh()
            if not stat.ended and stat.key != (self.root.pid, self.root.start_time)
        ]

    def reaped(self, pid: int, cpu_ns: int) -> None:
        """Tell that ``pid`` of this tree was waited for, with ``ru_utime + ru_stime`` in ns.

        Call it before the next sample; the figure covers what ``pid`` had waited for itself.
        """
        self._cpu.reaped(pid, cpu_ns)

    def reap_orphans(self) -> int:
        """Wait for ended orphans that this process adopted as a subreaper; how many there were.

        The root is left to whoever started it.
        """
        us = os.getpid()
        existing = self._tracker.refresh()
        if any(stat.pid == us for stat in existing):
            return 0  # We belong to the tree ourselves: our children are no orphans.
        count = 0
        for stat in existing:
            if stat.ended and stat.ppid == us and stat.pid != self.root.pid:
                try:
                    pid, _, used = os.wait4(stat.pid, os.WNOHANG)
                except ChildProcessError:
                    continue
                if pid:
                    self.reaped(pid, round((used.ru_utime + used.ru_stime) * 1e9))
                    count += 1
        return count


def _again(stat: ProcStat) -> ProcStat | None:
    try:
        now = procfs.read_stat(stat.pid)
    except PermissionError:
        # It became another user's after the first reading, which stands.
        return stat
    return now if now is not None and now.start_time == stat.start_time else None


def _gpu_memory(pids: list[int]) -> int | None:
    used = gpus.memory_by_pid()
    return None if used is None else sum(used.get(pid, 0) for pid in pids)
