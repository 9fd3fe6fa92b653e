"""When to look at what others use, and what of it is worth recording.

A look is taken for pools whose policy names this machine as its ``probe_host``, at most once a second
for each in one process. What it finds becomes an event only where that matters: where it differs
from the book by more than a twentieth of the node's capacity (for processors half a processor at
least, since load is never still), or where a request that is made now or waits would be decided
differently. So a quiet machine adds nothing to the record.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from weakref import WeakKeyDictionary

from ledger.book import Book, Pool
from ledger.commands import ObserveCapacity
from ledger.nodes import Node
from ledger.requests import Amounts
from ledger.rules.capacity import place_on
from ledger.writer import Writer
from scheduler.probes.finding import Finding, Held, held_on
from scheduler.probes.host import look_at_host
from scheduler.probes.load import Load
from scheduler.probes.ports import PORT, is_port, look_at_ports
from scheduler.processes import procfs
from scheduler.processes.identity import this_host

LOOK_EVERY_S: Final = 1.0
LIMIT: Final = 100
"""How many observations one look records; each is a commit. The rest follows in the next."""

NOTICEABLE_PERCENT: Final = 5
NOTICEABLE_CPU: Final = 500
WAITING_MAX: Final = 100
"""How many of those who wait are asked whether a finding would change their fate."""

_PID: Final = re.compile(r"\(pid (\d+)\)")


@dataclass(frozen=True, slots=True)
class View:
    """A node that a probe looks at, as the book has it now."""

    pool: str
    probe: str
    node: Node
    held: Sequence[Held]
    waiting: Sequence[Amounts]


@dataclass(frozen=True, slots=True)
class Seen:
    """A finding worth recording; ``positions`` are those of its event, none in a dry run."""

    pool: str
    node: str
    finding: Finding
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What one look came to: how many nodes were looked at, what was recorded, whether more is."""

    examined: int = 0
    recorded: tuple[Seen, ...] = ()
    more: bool = False


class Lookout:
    """Looks for one writer's process, remembering when it last did and how busy the machine was."""

    def __init__(self, writer: Writer) -> None:
        self.pid = os.getpid()
        self._writer = writer
        self._lock = threading.Lock()
        self._looked: dict[str, float] = {}
        self._loads: dict[tuple[str, str], Load] = {}

    def is_due(self, pool: str) -> bool:
        """Whether the last look at this pool was a second ago or more."""
        last = self._looked.get(pool)
        return last is None or time.monotonic() - last >= LOOK_EVERY_S

    def look(
        self,
        pools: Collection[str] | None = None,
        asked: Mapping[str, Sequence[Amounts]] | None = None,
        *,
        force: bool = False,
        dry_run: bool = False,
        limit: int = LIMIT,
    ) -> Look:
        """Look at these pools, or at all that have a probe here, and record what matters.

        ``asked`` is what is about to be asked of each pool. Unless forced, pools that were looked at
        within the last second are left out, and whoever comes while another thread looks does not
        wait for it. Raises what :meth:`ledger.writer.Writer.execute` raises for failures of the
        infrastructure; a machine that does not tell is no failure.
        """
        if not self._lock.acquire(blocking=force):
            return Look()
        try:
            if pools is not None and not force:
                pools = [pool for pool in pools if self.is_due(pool)]
            views = self._writer.read(lambda book, now: views_here(book, pools))
            moment = time.monotonic()
            # Pools that another machine looks at count too: not to be asked about each time.
            for pool in {view.pool for view in views} | set(pools or ()):
                self._looked[pool] = moment
            found = [
                Seen(view.pool, view.node.name, finding)
                for view, finding in self._findings(views)
                if matters(view, finding, (asked or {}).get(view.pool, ()))
            ]
            chosen = found[:limit]
            if not dry_run:
                chosen = [self._record(seen) for seen in chosen]
            return Look(len(views), tuple(chosen), len(found) > limit)
        finally:
            self._lock.release()

    def _findings(self, views: Sequence[View]) -> Iterable[tuple[View, Finding]]:
        ports: dict[str, dict[str, Sequence[Held]]] = {}
        for view in views:
            if view.probe == "ports":
                ports.setdefault(view.pool, {})[view.node.name] = view.held
        # The same port may stand in two pools, and what is held of one is outside of the other.
        seen = {pool: look_at_ports(nodes) for pool, nodes in ports.items()}
        for view in views:
            node = view.node
            if view.probe == "host":
                load = self._loads.setdefault((view.pool, node.name), Load())
                doubtful = bool(node.outside.get("cpu"))
                found = look_at_host(node.capacity, view.held, load, doubtful=doubtful)
            else:
                taken = seen[view.pool]
                if taken is None or (node.name not in taken and not node.outside):
                    continue
                found = taken.get(node.name, Finding({PORT: 0}))
            yield view, found.after(node.outside, node.outside_basis)

    def _record(self, seen: Seen) -> Seen:
        receipt = self._writer.execute(
            ObserveCapacity(
                command_id=f"probe-{os.urandom(12).hex()}",
                pool=seen.pool,
                node=seen.node,
                outside=seen.finding.outside,
                basis=seen.finding.basis,
            )
        )
        return Seen(seen.pool, seen.node, seen.finding, receipt.positions)


_LOOKOUTS: WeakKeyDictionary[Writer, Lookout] = WeakKeyDictionary()


def lookout_of(writer: Writer) -> Lookout:
    """The one lookout of a writer in this process; a forked child gets one of its own."""
    found = _LOOKOUTS.get(writer)
    if found is None or found.pid != os.getpid():
        found = _LOOKOUTS[writer] = Lookout(writer)
    return found


def views_here(book: Book, pools: Collection[str] | None = None) -> list[View]:
    """What there is to look at from here: the nodes of these pools, or of all, that a probe is for."""
    names = book.pools if pools is None else [name for name in pools if name in book.pools]
    views = []
    for name in names:
        pool = book.pools[name]
        if pool.policy.probe == "none" or pool.policy.probe_host != this_host():
            continue
        if pool.closed or pool.consumable or pool.kind != "managed":
            continue
        held = held_on(book, name)
        first = islice(pool.space.waiting, WAITING_MAX)
        waiting = [book.allocations[waiting_id].request.amounts for waiting_id in first]
        views += [
            View(name, pool.policy.probe, node, held.get(node.name, ()), waiting)
            for node in _nodes_here(pool)
        ]
    return views


def _nodes_here(pool: Pool) -> list[Node]:
    """The nodes that a probe of this machine is about: its ports; or itself, which is the pool's
    one node, or the one of its name."""
    nodes = pool.space.nodes
    if pool.policy.probe == "ports":
        return [node for node in nodes.values() if is_port(node.name, node.capacity)]
    if len(nodes) == 1:
        return list(nodes.values())
    own = nodes.get(os.uname().nodename)
    return [] if own is None else [own]


def matters(view: View, found: Finding, asked: Iterable[Amounts]) -> bool:
    """Whether a finding is worth an event: noticeably other use, or another decision."""
    node = view.node
    if found.outside == node.outside:
        return _names_the_living(found.basis, node.outside_basis)
    for resource in found.outside.keys() | node.outside.keys():
        least = node.capacity.get(resource, 0) * NOTICEABLE_PERCENT // 100
        if resource == "cpu":
            least = max(least, NOTICEABLE_CPU)
        if abs(found.outside.get(resource, 0) - node.outside.get(resource, 0)) > least:
            return True
    after = node.seen(outside=found.outside)
    return any(
        (place_on(node, amounts) is None) != (place_on(after, amounts) is None)
        for amounts in (*asked, *view.waiting)
    )


def _names_the_living(found: dict[str, str], known: dict[str, str]) -> bool:
    """Whether the same use is now somebody else's: all whom the book names are gone, and others
    can be named. That two lookers see unlike much is no news."""
    if found == known or not _PID.search(" ".join(found.values())):
        return False
    named = _PID.findall(" ".join(known.values()))
    return not any(os.path.exists(f"{procfs.PROC}/{pid}") for pid in named)
