"""What the events say is so: pools, nodes, quotas, and everything that waits or holds.

The world of the queue's judge. It follows events with lists and loops, keeps no index and shares no
code with :mod:`ledger` but the shapes of events and the names of a policy's settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.events import (
    Adjusted,
    Allocated,
    CapacityObserved,
    Confirmed,
    Ending,
    Event,
    Expired,
    NodeCordoned,
    NodeJoined,
    NodeLeft,
    NodeUncordoned,
    PolicySet,
    PoolClosed,
    PoolOpened,
    PoolResized,
    Queued,
    QuotaSet,
    Reclaimed,
    Released,
    Renewed,
    Replenished,
    Reserved,
    Transferred,
    Withdrawn,
)
from ledger.policy import Policy
from ledger.requests import Amounts, Devices, Placement, Request

HOLDING = ("active", "reserved", "ending")


@dataclass(slots=True)
class Entry:
    """One request that waits or holds. ``stood`` is what lay on a claimed node when it was claimed."""

    id: str
    position: int
    tenant: str
    holder: str
    task: str | None
    pool: str
    request: Request
    asked_at: int
    state: str
    until: int | None = None
    gang: str | None = None
    amounts: Amounts = field(default_factory=dict)
    placements: tuple[Placement, ...] = ()
    token: int = 0
    granted_at: int | None = None
    lease: int | None = None
    cause: str | None = None
    by_process: bool = False
    by_hand: bool = False
    claim: set[str] = field(default_factory=set)
    stood: dict[str, set[str]] = field(default_factory=dict)
    passed: int = 0
    overtaken: int = 0
    asked_as: str = ""
    confirmed: bool = False
    ended_at: int | None = None

    @property
    def parent(self) -> str | None:
        """The allocation that it draws on, None where it draws on the pool itself."""
        return self.request.parent

    @property
    def unit(self) -> str:
        """The place in the queue that it is, or is a part of."""
        return self.gang or self.id


@dataclass(slots=True)
class Unit:
    """One place in the queue: a request, or all that are granted together."""

    id: str
    members: list[Entry]

    @property
    def position(self) -> int:
        """When it came."""
        return self.members[0].position

    @property
    def first(self) -> Entry:
        """The member that stands for it."""
        return self.members[0]

    @property
    def resources(self) -> set[str]:
        """All that it wants."""
        return {resource for each in self.members for resource in each.request.amounts}

    @property
    def claim(self) -> set[str]:
        """The nodes that are kept for it."""
        return {node for each in self.members for node in each.claim}

    @property
    def simple(self) -> bool:
        """Whether it lands whole on one node."""
        return len(self.members) == 1 and self.first.request.spread in (None, 1)


@dataclass(slots=True)
class NodeState:
    """A node as it was announced, and what others use of it.

    ``cards`` says what of which card there is, None where all of its cards are there.
    """

    name: str
    capacity: Amounts
    labels: dict[str, str]
    cordoned: bool = False
    outside: Amounts = field(default_factory=dict)
    cards: Devices | None = None


@dataclass(slots=True)
class PoolState:
    """A pool. ``spent`` is what of a budget is gone; ``refill_due`` when it is refilled next."""

    name: str
    policy: Policy
    nodes: dict[str, NodeState]
    consumable: bool = False
    closed: bool = False
    spent: Amounts = field(default_factory=dict)
    refill_due: int | None = None
    opened_at: int = 0
    refilled_at: int = 0
    sticky: dict[tuple[str, str], str] = field(default_factory=dict)


class World:
    """Everything that is so after the events told so far.

    Its questions are about what draws on the pools themselves. What draws on the allocation ``parent``
    has a world of its own: see :class:`tests.model.queue_nesting.Inside`.
    """

    parent: str | None = None

    def __init__(self) -> None:
        self.pools: dict[str, PoolState] = {}
        self.entries: dict[str, Entry] = {}
        self.quotas: dict[tuple[str, str | None, str | None], tuple[Amounts, str | None]] = {}

    # --- questions ------------------------------------------------------------------------------

    def holding(self, pool: str | None = None) -> list[Entry]:
        """What holds capacity here, in a pool or in all."""
        return [
            each for each in self.live() if each.parent == self.parent and pool in (None, each.pool)
        ]

    def live(self) -> list[Entry]:
        """What holds anything, whatever it draws on."""
        return [each for each in self.entries.values() if each.state in HOLDING]

    def drawing(self, id: str) -> list[Entry]:
        """What holds a part of what an allocation has."""
        return [each for each in self.live() if each.parent == id]

    def waiting(self, pool: str) -> list[Unit]:
        """The places in a pool's queue, as they came."""
        units: dict[str, Unit] = {}
        for each in self.entries.values():
            if each.state == "waiting" and (each.pool, each.parent) == (pool, self.parent):
                units.setdefault(each.unit, Unit(each.unit, [])).members.append(each)
        for unit in units.values():
            unit.members.sort(key=lambda each: each.position)
        return sorted(units.values(), key=lambda unit: unit.position)

    def held(self, tenant: str, holder: str | None, pool: str | None, resource: str) -> int:
        """What a tenant, or one holder of it, holds of a resource, in a pool or in all."""
        return sum(
            each.amounts.get(resource, 0)
            for each in self.holding(pool)
            if each.tenant == tenant and holder in (None, each.holder)
        )

    def cordoned(self, pool: str, node: str) -> bool:
        """Whether nothing new lands on a node of a pool."""
        return self.pools[pool].nodes[node].cordoned

    # --- what an event changes --------------------------------------------------------------------

    def follow(self, event: Event) -> None:
        """Take one event in."""
        body = event.body
        match body:
            case PoolOpened():
                self._open(event, body)
            case QuotaSet():
                key = (event.tenant, event.holder, event.pool)
                self.quotas.pop(key, None)
                if body.limits:
                    self.quotas[key] = (body.limits, body.options.get("cohort"))
            case _ if event.allocation is not None:
                self._on_entry(event, event.allocation)
            case _ if event.pool is not None and event.pool in self.pools:
                self._on_pool(event, self.pools[event.pool])

    def _open(self, event: Event, body: PoolOpened) -> None:
        assert event.pool is not None
        nodes = {
            spec.name: NodeState(spec.name, dict(spec.capacity), spec.labels or {})
            for spec in body.nodes
        }
        pool = PoolState(event.pool, Policy().changed(body.policy), nodes, body.consumable)
        pool.opened_at = pool.refilled_at = event.at
        pool.refill_due = first_refill(pool.policy, event.at, event.at)
        self.pools[event.pool] = pool

    def _on_pool(self, event: Event, pool: PoolState) -> None:
        match event.body:
            case PolicySet(policy=settings):
                before = pool.policy
                pool.policy = before.changed(settings)
                names = ("refill", "refill_every_ns", "refill_from")
                if any(getattr(before, name) != getattr(pool.policy, name) for name in names):
                    pool.refill_due = first_refill(pool.policy, pool.opened_at, event.at)
            case PoolResized(nodes=specs):
                for spec in specs:
                    node = pool.nodes[spec.name]
                    node.capacity = {**node.capacity, **spec.capacity}
                    node.labels = node.labels if spec.labels is None else spec.labels
                    self._forget_what_stood(pool.name, spec.name)
            case PoolClosed():
                pool.closed = True
            case NodeJoined(node=spec):
                pool.nodes[spec.name] = NodeState(spec.name, dict(spec.capacity), spec.labels or {})
            case NodeLeft(node=name):
                del pool.nodes[name]
            case NodeCordoned(node=name) | NodeUncordoned(node=name):
                pool.nodes[name].cordoned = isinstance(event.body, NodeCordoned)
                self._forget_what_stood(pool.name, name)
            case CapacityObserved(node=name, outside=outside):
                pool.nodes[name].outside = outside
                self._forget_what_stood(pool.name, name)
            case Replenished():
                refill(pool, event.at)

    def _forget_what_stood(self, pool: str, node: str) -> None:
        """A change by an operator ends what a claim on this node could promise."""
        for each in self.entries.values():
            if each.pool == pool:
                each.stood.pop(node, None)

    def _on_entry(self, event: Event, id: str) -> None:
        body = event.body
        if isinstance(body, Queued):
            self._queue(event, body, id)
        elif isinstance(body, Allocated | Reserved):
            self._grant(event, body, id)
        elif id in self.entries:
            self._on_held(event, self.entries[id])

    def _new(self, event: Event, body: Queued | Allocated | Reserved, id: str) -> Entry:
        assert event.pool is not None and event.holder is not None
        entry = Entry(
            id,
            event.position,
            event.tenant,
            event.holder,
            event.task,
            event.pool,
            body.request,
            event.at,
            "waiting",
            gang=body.gang,
            asked_as=asked_as(event),
        )
        self.entries[id] = entry
        return entry

    def _queue(self, event: Event, body: Queued, id: str) -> None:
        known = self.entries.get(id)
        if known is None:
            self._new(event, body, id).until = body.until
            return
        kept = set(body.shortfall)
        wanted = {
            resource
            for each in self.entries.values()
            if each.unit == known.unit
            for resource in each.request.amounts
        }
        for node in kept - known.claim:
            known.stood[node] = {
                each.id
                for each in self.live()
                if (each.pool, each.parent) == (known.pool, known.parent)
                for part in each.placements
                if part.node == node and set(part.amounts) & wanted
            }
        known.claim = kept
        known.until = body.until

    def _grant(self, event: Event, body: Allocated | Reserved, id: str) -> None:
        entry = self.entries.get(id) or self._new(event, body, id)
        entry.amounts, entry.placements = body.amounts, body.placements
        entry.token, entry.claim = event.position, set()
        entry.by_process = body.request.process is not None
        entry.granted_at = event.at
        if isinstance(body, Reserved):
            entry.state, entry.until = "reserved", body.until
        else:
            entry.state, entry.until, entry.lease = "active", None, body.lease_until
        key = body.request.sticky
        if key is not None and len(body.placements) == 1:
            self.pools[entry.pool].sticky[(entry.tenant, key)] = body.placements[0].node

    def _on_held(self, event: Event, entry: Entry) -> None:
        match event.body:
            case Confirmed(lease_until=lease):
                entry.state, entry.until, entry.lease = "active", None, lease
                entry.granted_at = event.at
            case Adjusted(amounts=amounts, placements=placements):
                entry.amounts, entry.placements = amounts, placements
                entry.by_hand = entry.by_hand or event.cause is not None
            case Renewed(lease_until=lease):
                entry.lease = lease
            case Transferred(process=process, lease_until=lease):
                assert event.holder is not None
                entry.holder, entry.token = event.holder, event.position
                if process is not None:
                    entry.by_process, entry.lease = True, None
                elif lease is not None:
                    entry.by_process, entry.lease = False, lease
            case Ending(deadline=deadline, cause=cause):
                entry.state, entry.until, entry.cause = "ending", deadline, cause
            case Released() | Expired() | Reclaimed() | Withdrawn():
                self._end(event, entry)

    def _end(self, event: Event, entry: Entry) -> None:
        pool = self.pools[entry.pool]
        entry.confirmed = entry.state in ("active", "ending")
        own = entry.confirmed and entry.parent is None
        if pool.consumable and own and not isinstance(event.body, Withdrawn):
            consumed = getattr(event.body, "consumed", None)
            for resource, amount in entry.amounts.items():
                used = amount if consumed is None else consumed.get(resource, 0)
                pool.spent[resource] = pool.spent.get(resource, 0) + used
        entry.state, entry.amounts, entry.placements = "ended", {}, ()
        entry.ended_at = event.at


def asked_as(event: Event) -> str:
    """The id of the command that an event is the effect of, and which of a batch's requests it is."""
    cause = event.cause
    if cause is None:
        return ""
    return cause.command_id if cause.item is None else f"{cause.command_id}#{cause.item}"


def first_refill(policy: Policy, since: int, now: int) -> int | None:
    """The first boundary of a schedule after ``now``, at the earliest its start.

    Without a start it runs from ``since``. What was before there was such a schedule counts for nothing.
    """
    if policy.refill is None or policy.refill_every_ns is None:
        return None
    start = since if policy.refill_from is None else policy.refill_from
    if start > now:
        return start
    return start + ((now - start) // policy.refill_every_ns + 1) * policy.refill_every_ns


def refill(pool: PoolState, at: int) -> None:
    """Refill a budget at every boundary up to ``at``."""
    policy = pool.policy
    while pool.refill_due is not None and pool.refill_due <= at:
        assert policy.refill_every_ns is not None
        (node,) = pool.nodes.values()
        per = node.capacity if policy.refill == "reset" else (policy.refill_amounts or {})
        for resource, amount in pool.spent.items():
            pool.spent[resource] = max(0, amount - per.get(resource, 0))
        pool.refilled_at = pool.refill_due
        pool.refill_due += policy.refill_every_ns
