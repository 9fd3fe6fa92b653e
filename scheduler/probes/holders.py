"""The processes of this machine at one moment, and which of them belong to holders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from typing import Final

from ledger.amounts import format_amount
from ledger.identity import ProcessIdentity
from scheduler.probes.finding import NAMED_MAX, Held
from scheduler.processes import procfs
from scheduler.processes.identity import boot_id, pid_namespace, this_host
from scheduler.processes.procfs import ProcStat

Key = tuple[int, int]

MIB: Final = 1 << 20
_NAME_MAX: Final = 40


class Processes:
    """One look at all processes, taken when it is first needed."""

    @cached_property
    def table(self) -> dict[int, ProcStat]:
        """Every process that can be seen, by pid."""
        return procfs.scan()

    @cached_property
    def _children(self) -> dict[int, list[ProcStat]]:
        children: dict[int, list[ProcStat]] = {}
        for stat in self.table.values():
            children.setdefault(stat.ppid, []).append(stat)
        return children

    @cached_property
    def _ours(self) -> tuple[str, str, str] | None:
        """What a process's identity must say so that its pid means the same here."""
        if not procfs.proc_shows_our_namespace():
            return None
        return (this_host(), boot_id(), pid_namespace())

    def sees(self, held: Held) -> bool:
        """Whether the processes of a holder can be told here: all are of this host, boot and
        pid namespace, and none is hidden. A holder without any, bound by a ttl, cannot be told
        from others."""
        return bool(held.processes) and all(map(self._shows, held.processes))

    def _shows(self, one: ProcessIdentity) -> bool:
        if (one.host, one.boot_id, one.pid_namespace) != self._ours:
            return False
        # A /proc mounted with hidepid shows nothing of other users; the kernel still answers.
        return one.pid in self.table or not procfs.exists(one.pid)

    def tree(self, roots: Iterable[ProcessIdentity]) -> dict[Key, ProcStat]:
        """All that descend from these processes or are in a session that one of them leads.

        A root that has ended has no tree: who it left behind belongs to nobody any more.
        """
        live = [self.table.get(root.pid) for root in roots if self._lives(root)]
        found = {stat.key: stat for stat in live if stat is not None}
        sessions = {stat.pid for stat in found.values() if stat.session == stat.pid}
        if sessions:
            found |= {s.key: s for s in self.table.values() if s.session in sessions}
        todo = list(found.values())
        while todo:
            parent = todo.pop()
            for child in self._children.get(parent.pid, ()):
                if child.key not in found and child.start_time >= parent.start_time:
                    found[child.key] = child
                    todo.append(child)
        return found

    def _lives(self, root: ProcessIdentity) -> bool:
        stat = self.table.get(root.pid)
        return stat is not None and stat.start_time == root.start_time


def memory_of(pids: Iterable[int]) -> int:
    """Bytes of a tree: PSS where every process's can be read, else RSS (shared pages repeated)."""
    pss_total: int | None = 0
    rss_total = 0
    for pid in pids:
        pss, rss = _memory(pid, pss_total is not None)
        rss_total += rss
        pss_total = None if pss is None or pss_total is None else pss_total + pss
    return rss_total if pss_total is None else pss_total


def _memory(pid: int, want_pss: bool) -> tuple[int | None, int]:
    try:
        return procfs.memory(pid, want_pss=want_pss)
    except OSError:
        return (None, 0)


def rss_of(pid: int) -> int:
    """Resident bytes of one process; 0 where it hides or has gone."""
    return _memory(pid, False)[1]


def program(pid: int) -> str:
    """``name (pid 12)``: a program's name is what its process calls itself (proc(5), comm), never
    its command line."""
    try:
        with open(f"{procfs.PROC}/{pid}/comm", "rb", buffering=0) as file:
            name = file.read(64).decode(errors="replace").strip()
    except OSError:
        name = ""
    shown = "".join(c if c.isprintable() else "?" for c in name)[:_NAME_MAX]
    return f"{shown or 'a process'} (pid {pid})"


def naming(used: Callable[[int], int], pids: Collection[int], resource: str, unit: int) -> str:
    """The largest users among these pids in words, each in whole ``unit``s; empty where none has one."""
    sizes = sorted(((used(pid) // unit * unit, pid) for pid in pids), reverse=True)
    named = [(size, pid) for size, pid in sizes[:NAMED_MAX] if size]
    return ", ".join(f"{program(pid)} {format_amount(resource, size)}" for size, pid in named)
