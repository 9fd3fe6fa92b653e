"""Memory that others use: what is taken on the machine, less what holders use of what they hold.

    outside = used − managed − slack, from 0 to the node's capacity

``used`` is ``MemTotal − MemAvailable`` (proc(5): what cannot be given to a new process without
swapping). Inside a control group with a limit below that, the limit is the machine, and ``used`` is
the group's usage less its page cache and what else the kernel gives back on demand, since a full
cache is no shortage (``cgroup-v1/memory.rst`` and ``cgroup-v2.rst``, ``memory.stat``).

``managed`` is, for each holder bound to a process, what its process tree really uses, up to what it
holds: that part is in the node's in-use already. What it uses beyond that was asked of nobody, and
handing it out would grant it twice. Of a holder bound by a ttl, or in another pid namespace, nobody
here knows the processes: all that it holds is assumed to be used by it.

``slack`` is what the pool leaves to others: the machine's size less the node's capacity, a tenth of
the machine where it was opened with ``--host``. Only what goes beyond it takes from the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scheduler.probes.finding import Held
from scheduler.probes.holders import MIB, Processes, memory_of, naming, rss_of
from scheduler.processes.cgroup import Hierarchy, hierarchies, read_field, read_int, read_text

_UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """How much there is and how much of it is taken, in bytes."""

    total: int
    used: int


def machine_memory(root: Path = Path("/")) -> MachineMemory | None:
    """The memory that this process may use, with its use; None where the system does not tell.

    ``root`` is where the file system starts, for reading a copy of one.
    """
    lines = (read_text(root / "proc/meminfo") or "").splitlines()
    figures = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    try:
        total, available = (int(figures[n][0]) * 1024 for n in ("MemTotal", "MemAvailable"))
    except (KeyError, IndexError, ValueError):
        return None
    limited = [
        (limit, usage)
        for hierarchy in hierarchies(root)
        if hierarchy.version == 2 or "memory" in hierarchy.controllers
        for group in hierarchy.upwards()
        if (limit := _limit(hierarchy, group)) is not None and limit < total
        if (usage := _usage(hierarchy, group)) is not None
    ]
    if limited:
        return MachineMemory(*min(limited))
    return MachineMemory(total, max(0, total - available))


def _limit(hierarchy: Hierarchy, group: Path) -> int | None:
    if hierarchy.version == 2:
        return read_int(group / "memory.max")
    own = read_int(group / "memory.limit_in_bytes")
    # The groups above a container's mount point are named by the kernel alone.
    above = read_field(group / "memory.stat", "hierarchical_memory_limit")
    least = min((limit for limit in (own, above) if limit is not None), default=None)
    return None if least is None or not 0 <= least < _UNLIMITED else least


def _usage(hierarchy: Hierarchy, group: Path) -> int | None:
    if hierarchy.version == 2:
        usage, prefix = read_int(group / "memory.current"), ""
    else:
        usage, prefix = read_int(group / "memory.usage_in_bytes"), "total_"
    if usage is None:
        return None
    given_back = (f"{prefix}active_file", f"{prefix}inactive_file", "slab_reclaimable")
    stat = group / "memory.stat"
    return max(0, usage - sum(read_field(stat, name) or 0 for name in given_back))


def memory_outside(
    capacity: int, held: Sequence[Held], processes: Processes, root: Path = Path("/")
) -> tuple[int, str] | None:
    """Whole MiB of a node's ``capacity`` (bytes) that others use, and whose they are.

    None where the machine does not tell. The formula stands at the head of this module.
    """
    machine = machine_memory(root)
    if machine is None:
        return None
    slack = max(0, machine.total - capacity)
    beyond = machine.used - slack
    if beyond < MIB:
        # Whatever holders use: nothing is left for others. Most looks end here.
        return (0, "")
    managed = 0
    within: set[int] = set()
    for one in held:
        granted = one.amounts.get("memory", 0)
        if not processes.sees(one):
            managed += granted
            continue
        pids = {stat.pid for stat in processes.tree(one.processes).values()}
        used = memory_of(pids)
        managed += min(granted, used)
        if used <= granted:
            within |= pids
    outside = min(capacity, beyond - managed)
    if outside < MIB:
        return (0, "")
    others = processes.table.keys() - within
    whose = naming(rss_of, others, "memory", MIB)
    return (outside // MIB * MIB, whose or "processes that cannot be seen from here")
