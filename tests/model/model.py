"""The model's state and what changes it: lists of pools and of everything ever asked for.

Time is in nanoseconds, amounts in base units. The model is told which id, node and cards a grant
got (after :mod:`tests.model.verdicts` has said that they may be so); all else it works out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ledger.requests import Amounts, Devices, NodeSpec, Request
from tests.model.places import IN_CARDS, Site, cards_of

LIVE = ("active", "reserved", "ending")


@dataclass(slots=True)
class Held:
    """One request that waits, holds or held."""

    id: str
    order: int
    tenant: str
    holder: str
    pool: str
    request: Request
    asked_at: int
    state: str = "waiting"
    amounts: Amounts = field(default_factory=dict)
    node: str = ""
    cards: Devices = field(default_factory=dict)
    token: int = 0
    since: int | None = None
    granted_at: int | None = None
    span_began: int | None = None
    lease: int | None = None
    ttl: int | None = None
    by_process: bool = False
    max_age: int | None = None
    deadline: int | None = None
    ending_cause: str | None = None
    ended_at: int | None = None
    ended_by: str | None = None

    @property
    def began(self) -> int:
        """The earliest instant at which it can have ended."""
        if self.granted_at is not None:
            return self.granted_at
        return self.asked_at if self.span_began is None else self.span_began

    @property
    def parent(self) -> str | None:
        """The allocation it draws on."""
        return self.request.parent

    @property
    def due(self) -> int | None:
        """The instant at which time ends it."""
        if self.state == "active":
            return self.lease
        return self.deadline if self.state in ("waiting", "reserved") else None


@dataclass(slots=True)
class PoolModel:
    """A pool: nodes in the order they came."""

    name: str
    kind: str
    nodes: list[NodeSpec]
    cordoned: set[str] = field(default_factory=set)
    closed: bool = False
    strategy: str = "first_fit"
    queue_limit: int = 10_000
    max_age: int | None = None
    max_priority: str = "critical"

    def node(self, name: str) -> NodeSpec | None:
        """The node of that name."""
        return next((node for node in self.nodes if node.name == name), None)


class Model:
    """Everything that is so now, and everything that ever was asked for."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolModel] = {}
        self.now = 0
        self.all: list[Held] = []
        self.quotas: dict[tuple[str, str | None, str | None], Amounts] = {}

    # --- questions ------------------------------------------------------------------------------

    def get(self, id: str) -> Held | None:
        """What has this id, also when it ended."""
        return next((held for held in self.all if held.id == id), None)

    def live(self) -> list[Held]:
        """What holds capacity."""
        return [held for held in self.all if held.state in LIVE]

    def waiting(self, pool: str, parent: str | None) -> list[Held]:
        """The queue for a pool, or for what a parent lends, in order of arrival."""
        queue = [
            held
            for held in self.all
            if held.state == "waiting" and held.pool == pool and held.parent == parent
        ]
        return sorted(queue, key=lambda held: held.order)

    def children(self, id: str) -> list[Held]:
        """What draws on an allocation or waits to."""
        return [held for held in self.all if held.parent == id and held.ended_at is None]

    def sites(self, pool: str, parent: str | None) -> list[Site]:
        """Where a request may land, in order."""
        if parent is not None:
            lender = self.get(parent)
            assert lender is not None
            return [self.lent(lender)]
        found = self.pools[pool]
        on_top = [held for held in self.live() if held.pool == pool and held.parent is None]
        return [
            _site(
                node.name,
                node.capacity,
                cards_of(node.capacity),
                [held for held in on_top if held.node == node.name],
                labels=node.labels or {},
                cordoned=node.name in found.cordoned,
            )
            for node in found.nodes
        ]

    def lent(self, lender: Held) -> Site:
        """The share of a node that an allocation lends to those that draw on it."""
        borrowers = [held for held in self.live() if held.parent == lender.id]
        return _site(lender.node, lender.amounts, lender.cards, borrowers)

    def site_of(self, held: Held) -> Site:
        """The site on which something lies."""
        return next(s for s in self.sites(held.pool, held.parent) if s.name == held.node)

    def over_quota(self, tenant: str, holder: str, pool: str, more: Amounts) -> bool:
        """Whether holding ``more`` breaks one of the hard quotas."""
        return any(
            amount > 0 and self.quota_use(key, resource) + amount > limits[resource]
            for key, limits in self.quotas_on(tenant, holder, pool)
            for resource, amount in more.items()
            if resource in limits
        )

    def never_in_quota(self, tenant: str, holder: str, pool: str, more: Amounts) -> bool:
        """Whether ``more`` breaks a quota even with nothing held."""
        return any(
            amount > limits[resource]
            for _, limits in self.quotas_on(tenant, holder, pool)
            for resource, amount in more.items()
            if resource in limits
        )

    def quotas_on(
        self, tenant: str, holder: str, pool: str
    ) -> Iterator[tuple[tuple[str, str | None, str | None], Amounts]]:
        """The quotas that bind a holder in a pool."""
        for key, limits in self.quotas.items():
            if key[0] == tenant and key[1] in (None, holder) and key[2] in (None, pool):
                yield key, limits

    def quota_use(self, key: tuple[str, str | None, str | None], resource: str) -> int:
        """What counts against a quota: everything live that draws on a pool itself."""
        tenant, holder, pool = key
        return sum(
            held.amounts.get(resource, 0)
            for held in self.live()
            if held.parent is None
            and held.tenant == tenant
            and holder in (None, held.holder)
            and pool in (None, held.pool)
        )

    def stuck_by_quota(self, held: Held) -> bool:
        """Whether a waiting request waits for its quota; such a one blocks nobody."""
        return held.parent is None and self.over_quota(
            held.tenant, held.holder, held.pool, held.request.amounts
        )

    def in_the_way(
        self, pool: str, parent: str | None, wanted: Amounts, before: int | None = None
    ) -> bool:
        """Whether somebody waits (longer than ``before``) for one of the wanted resources."""
        return any(
            set(other.request.amounts) & set(wanted) and not self.stuck_by_quota(other)
            for other in self.waiting(pool, parent)
            if before is None or other.order < before
        )

    # --- changes --------------------------------------------------------------------------------

    def grant(self, held: Held, position: int, node: str, cards: Devices, now: int) -> None:
        """Capacity is given: as an allocation, or set aside where that was asked for."""
        request = held.request
        held.amounts = dict(request.amounts)
        held.node, held.cards, held.token, held.since = node, cards, position, now
        held.by_process, held.ttl = request.process is not None, request.ttl_ns
        if request.reserve_ns is not None:
            held.state, held.deadline = "reserved", now + request.reserve_ns
            held.span_began = now
        else:
            self.begin(held, now)

    def begin(self, held: Held, now: int) -> None:
        """The lease begins."""
        held.state, held.deadline, held.granted_at = "active", None, now
        if held.ttl is None:
            return
        ages = [held.request.max_age_ns, self.pools[held.pool].max_age]
        bounds = [now + age for age in ages if age is not None]
        held.max_age = min(bounds) if bounds else None
        held.lease = min([now + held.ttl, *bounds])

    def oldest(self, held: Held) -> int | None:
        """How long a ttl may bind it at most: as it was told, else from its grant on."""
        ages = [held.request.max_age_ns, self.pools[held.pool].max_age]
        bounds = [held.began + age for age in ages if age is not None]
        if held.max_age is not None:
            return held.max_age
        return min(bounds) if bounds else None

    def renew(self, held: Held, now: int, ttl: int | None) -> None:
        """A lease runs on; it never becomes shorter, and never longer than the maximum age."""
        asked = held.ttl if ttl is None else ttl
        assert held.lease is not None
        wanted = held.lease if asked is None else now + asked
        if held.max_age is not None:
            wanted = min(wanted, held.max_age)
        held.lease = max(held.lease, wanted)

    def end(self, held: Held, at: int, cause: str) -> list[Held]:
        """Something ends, and with it all that draws on it. Returns all that ended."""
        gone = [held]
        for child in self.children(held.id):
            by = "withdrawn" if child.state in ("waiting", "reserved") else "leaked"
            gone += self.end(child, max(at, min(child.began, self.now)), by)
        held.state, held.ended_at, held.ended_by = "ended", at, cause
        return gone

    def pass_time(self, now: int) -> list[Held]:
        """What time has ended by now, each at its own instant, the older first. Returns them."""
        gone: list[Held] = []
        self.now = now
        while True:
            due = [h for h in self.all if h.due is not None and h.due <= now]
            if not due:
                return gone
            first = min(due, key=lambda held: (held.due, held.order))
            assert first.due is not None
            cause = "expired" if first.state == "active" else "timed_out"
            gone += self.end(first, first.due, cause)

    def close(self, pool: str, now: int) -> list[Held]:
        """A pool grants nothing more: whoever waits there waits no longer."""
        self.pools[pool].closed = True
        waiting = [h for h in self.all if h.state == "waiting" and h.pool == pool]
        return [gone for held in waiting for gone in self.end(held, now, "withdrawn")]

    def resize(self, pool: str, specs: tuple[NodeSpec, ...]) -> None:
        """Nodes have other capacities."""
        for spec in specs:
            nodes = self.pools[pool].nodes
            for index, node in enumerate(nodes):
                if node.name == spec.name:
                    labels = node.labels if spec.labels is None else spec.labels
                    nodes[index] = NodeSpec(node.name, {**node.capacity, **spec.capacity}, labels)

    def extend(self, by: int, since: int) -> None:
        """Every lease, wait and grace that ran at ``since`` gains time."""
        for held in self.all:
            began = held.asked_at if held.state == "waiting" else held.since
            if began is None or began > since:
                continue
            if held.lease is not None and held.state == "active":
                held.lease += by
                held.max_age = None if held.max_age is None else held.max_age + by
            elif held.deadline is not None and held.state != "ended" and held.deadline > since:
                held.deadline += by
                if held.state == "reserved" and held.span_began is not None:
                    held.span_began += by


def _site(
    name: str,
    capacity: Amounts,
    cards: Devices,
    lying: list[Held],
    labels: dict[str, str] | None = None,
    cordoned: bool = False,
) -> Site:
    used: Amounts = {}
    cards_used: Devices = {}
    for held in lying:
        for resource, amount in held.amounts.items():
            used[resource] = used.get(resource, 0) + amount
        for resource in IN_CARDS:
            on = cards_used.setdefault(resource, {})
            for card, amount in held.cards.get(resource, {}).items():
                on[card] = on.get(card, 0) + amount
    return Site(name, capacity, used, cards, cards_used, labels or {}, cordoned)
