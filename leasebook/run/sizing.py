"""How much: opening ``local`` for this machine, and a run's amounts where nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from leasebook.settings import LOCAL_POOL
from ledger.amounts import CARD_RESOURCES
from ledger.book import Book
from ledger.errors import Reason, Refused
from ledger.nodes import Node
from ledger.requests import CARD, Amounts

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

KEPT_FREE_PERCENT: Final = 10
"""What ``local`` leaves to everything that runs outside the ledger."""

MIB: Final = 1 << 20
_CPU_LEAST: Final = 1000
_MEMORY_LEAST: Final = 1024 * MIB
_HISTORY_EVENTS: Final = 20_000
"""How far back history is read, so that a long log does not make a run start late."""


def kept_free(amount: int) -> int:
    """An amount without the part that is kept free, rounded down."""
    return amount * (100 - KEPT_FREE_PERCENT) // 100


def machine_pool() -> tuple[dict[str, int], str]:
    """This machine's capacity for a pool in base units, and what the figures come from.

    Processors and memory as the affinity and control groups leave them, 10 % kept free; cards where
    NVML shows them, all of them.
    """
    from scheduler.processes.cgroup import machine_capacity
    from scheduler.processes.gpus import gpus

    here = machine_capacity()
    capacity = {
        "cpu": max(1, kept_free(here.cpu_milli)),
        "memory": max(1, kept_free(here.memory_bytes) // MIB * MIB),
    }
    cards = len(gpus())
    if cards:
        capacity["gpu"] = cards * CARD
    basis = f"cpu: {here.cpu_basis}; memory: {here.memory_basis}; {KEPT_FREE_PERCENT} % kept free"
    return capacity, basis


def ensure_local(manager: ResourceManager) -> str | None:
    """Open ``local`` for this machine unless it is there; what was done, in words, or None.

    Raises Refused, LedgerUnavailable.
    """
    if manager.ledger.writer.read(_is_open):
        return None
    from ledger.amounts import format_amounts
    from ledger.requests import NodeSpec

    capacity, basis = machine_pool()
    node = os.uname().nodename.strip()[:200]
    spec = NodeSpec(node if node.isprintable() and node else LOCAL_POOL, capacity)
    try:
        manager.open_pool(LOCAL_POOL, nodes=[spec], basis=basis, policy={"probe": "host"})
    except Refused as refusal:
        if refusal.reason is Reason.ALREADY_EXISTS and manager.ledger.writer.read(_is_open):
            return None
        raise
    shown = " ".join(f"{name}={text}" for name, text in format_amounts(capacity).items())
    return f"opened pool {LOCAL_POOL} for this machine: {shown} ({basis})"


def _is_open(book: Book, now: int) -> bool:
    pool = book.pools.get(LOCAL_POOL)
    return pool is not None and not pool.closed


def fair_share(node: Node) -> Amounts:
    """Half of what is free on a node, in base units.

    Processors in whole cores where there is more than one, memory in whole MiB; at least one core
    and 1 GiB, or half of the cores and a quarter of the memory of a small node. A node without
    either (ports, browsers, cards) gives one unit of each resource.
    """
    capacity = node.capacity
    free = {r: max(0, _free(node, r)) for r in capacity}
    share: Amounts = {}
    if capacity.get("cpu"):
        half = free["cpu"] // 2
        half = half // 1000 * 1000 if half > 1000 else half
        share["cpu"] = max(1, half, min(_CPU_LEAST, capacity["cpu"] // 2))
    if capacity.get("memory"):
        half = free["memory"] // 2 // MIB * MIB
        share["memory"] = max(1, half, min(_MEMORY_LEAST, capacity["memory"] // 4))
    if not share:
        unit = {r: CARD if r in CARD_RESOURCES else 1 for r in capacity}
        share = {r: min(unit[r], amount) for r, amount in capacity.items() if amount}
    return share


def _free(node: Node, resource: str) -> int:
    """What nobody holds, and nobody was seen to use without asking."""
    taken = node.in_use.get(resource, 0) + node.outside.get(resource, 0)
    return node.capacity.get(resource, 0) - taken


def roomiest(book: Book, pool: str, parent: str | None, select: Mapping[str, str]) -> Node | None:
    """The node with the most free memory and processors that a request may land on."""
    space = book.space_of(pool, parent)
    nodes = [] if space is None else list(space.nodes.values())

    def free(node: Node) -> tuple[int, ...]:
        return _free(node, "cpu"), _free(node, "memory")

    fitting = [
        node
        for node in nodes
        if not node.cordoned
        and any(node.capacity.values())
        and all(node.labels.get(label) == wanted for label, wanted in select.items())
    ]
    return max(fitting, key=free, default=None)


def default_amounts(
    manager: ResourceManager,
    *,
    pool: str,
    parent: str | None = None,
    task: str | None = None,
    tenant: str = "default",
    select: Mapping[str, str] | None = None,
) -> tuple[Amounts, str] | None:
    """What to ask for where nobody says, in base units, and why so much; None where nothing fits.

    A fair share, and where this task has run before and was measured, what that suggests.
    """
    node = manager.ledger.writer.read(lambda book, now: roomiest(book, pool, parent, select or {}))
    share = None if node is None else fair_share(node)
    if not share or node is None:
        return None
    known = _history(manager, task, tenant) if task is not None else {}
    chosen = {r: min(known[r], node.capacity[r]) for r in share if r in known}
    if not chosen:
        return share, "a fair share: half of what is free"
    why = f"as the last runs of {task} suggest"
    return {**share, **chosen}, why if len(chosen) == len(share) else f"{why}, else a fair share"


def _history(manager: ResourceManager, task: str, tenant: str) -> Amounts:
    from reports.efficiency import efficiency_by

    def look(book: Book, now: int) -> tuple[int, int, set[str]]:
        return book.position, now, {p.name for p in book.pools.values() if p.kind == "observed"}

    position, now, observed = manager.ledger.writer.read(look)
    after = max(0, position - _HISTORY_EVENTS)
    found = manager.events(after=after, task=task, tenant=tenant)
    # What ran elsewhere says nothing of this machine.
    events = (event for event in found if event.pool not in observed)
    rows = efficiency_by(events, "task", now=now)
    return dict(rows[0].suggestion) if rows else {}
