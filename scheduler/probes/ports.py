"""The port probe: ports of this machine that a process has, without holding them.

A port is in use where a socket that some process has open is bound to it: TCP in any state that has
an owner (a listener, or a connection that keeps others from binding), or UDP. The kernel's tables
(proc(5), ``/proc/net/tcp`` and its like) tell of this network namespace only.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from scheduler.probes.finding import Finding, Held
from scheduler.probes.holders import Processes, program
from scheduler.processes import procfs

_TABLES: Final = ("tcp", "tcp6", "udp", "udp6")
_UNSEEN: Final = "a process that cannot be seen from here"

PORT: Final = "port"


def sockets_by_port() -> dict[int, set[int]] | None:
    """Port → inodes of the sockets bound to it that a process has open; None where unknown."""
    found: dict[int, set[int]] = {}
    told = False
    for table in _TABLES:
        try:
            with open(f"{procfs.PROC}/net/{table}", "rb") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        told = True
        for line in lines:
            fields = line.split()
            inode = int(fields[9])
            if inode:
                found.setdefault(int(fields[1].rpartition(b":")[2], 16), set()).add(inode)
    return found if told else None


def owners(inodes: Collection[int], pids: Iterable[int]) -> dict[int, int]:
    """Socket's inode → the first of these pids that has it open, where that can be seen."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in pids:
        for link in _links(pid):
            inode = wanted.pop(link, None)
            if inode is not None:
                found[inode] = pid
        if not wanted:
            break
    return found


def _links(pid: int) -> Iterator[str]:
    folder = f"{procfs.PROC}/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def look_at_ports(
    nodes: Mapping[str, Sequence[Held]], processes: Processes | None = None
) -> dict[str, Finding] | None:
    """What others have of these ports: node (a port's number) → finding; None where unknown.

    Ports that nobody has, or their holders alone, are left out.
    ``nodes`` says who holds each. A port that is held is somebody else's only where its socket is
    seen to belong to a process outside of the holder's tree. Never raises for what the machine does
    not tell.
    """
    bound = sockets_by_port() if procfs.LINUX else None
    if bound is None:
        return None
    processes = processes or Processes()
    findings: dict[str, Finding] = {}
    busy = {node: bound[int(node)] for node in nodes if int(node) in bound}
    inodes = {inode for sockets in busy.values() for inode in sockets}
    known = owners(inodes, sorted(processes.table)) if inodes else {}
    for node, sockets in busy.items():
        pids = sorted({known[inode] for inode in sockets if inode in known})
        held = nodes[node]
        if held:
            if not all(processes.sees(one) for one in held):
                continue
            pids = _strangers(sockets, pids, held, processes)
            if not pids:
                continue
        findings[node] = Finding(
            {PORT: 1}, {PORT: ", ".join(program(pid) for pid in pids[:3]) or _UNSEEN}
        )
    return findings


def _strangers(
    sockets: set[int], pids: list[int], held: Sequence[Held], processes: Processes
) -> list[int]:
    """Those who have sockets that nobody in the holders' trees has open too."""
    trees = {stat.pid for one in held for stat in processes.tree(one.processes).values()}
    if trees.issuperset(pids):
        return []
    # A socket may be open in several processes, of which only the first was named.
    theirs = owners(sockets, sorted(trees))
    others = sockets - theirs.keys()
    return sorted(set(owners(others, [pid for pid in pids if pid not in trees]).values()))


def is_port(node: str, capacity: Mapping[str, int]) -> bool:
    """Whether a node stands for a port: named by its number, with the resource ``port``."""
    return bool(capacity.get(PORT)) and node.isdecimal() and node.isascii() and len(node) <= 5
