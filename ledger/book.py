"""The book: the state that the events add up to. :mod:`ledger.evolve` is what changes it.

Nodes and allocations are values: an event replaces them, it never changes them. So an overlay
(:meth:`Book.fork`) costs a few dict copies, and what was read stays as it was read.
"""

from __future__ import annotations

from heapq import heapify, heappush
from typing import Any

from ledger.policy import Policy
from ledger.quick import dataclass
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Devices, NodeSpec, Placement, Request

LIVE = frozenset({"active", "reserved", "ending"})
"""States in which capacity is held."""

REFUSAL_WINDOW_NS = 1_000_000_000
"""Within this time a repeated refusal is counted, not written again (design, rule 9)."""


class Node:
    """A place in a space: capacity, what is in use, and which cards. Replaced, never changed."""

    __slots__ = ("capacity", "cards", "cards_in_use", "cordoned", "in_use", "labels", "name")

    def __init__(
        self,
        name: str,
        capacity: Amounts,
        labels: dict[str, str],
        cards: Devices,
        in_use: Amounts,
        cards_in_use: Devices,
        cordoned: bool = False,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.labels = labels
        self.cards = cards
        self.in_use = in_use
        self.cards_in_use = cards_in_use
        self.cordoned = cordoned

    def plus(self, placement: Placement, sign: int) -> Node:
        """This node with a placement taken (``sign`` 1) or given back (−1)."""
        in_use = self.in_use.copy()
        for resource, amount in placement.amounts.items():
            in_use[resource] = in_use.get(resource, 0) + sign * amount
        cards_in_use = self.cards_in_use
        if placement.devices:
            cards_in_use = cards_in_use.copy()
            for resource, shares in placement.devices.items():
                used = dict(cards_in_use.get(resource, {}))
                for card, amount in shares.items():
                    left = used.get(card, 0) + sign * amount
                    if left:
                        used[card] = left
                    else:
                        used.pop(card, None)
                cards_in_use[resource] = used
        return Node(
            self.name, self.capacity, self.labels, self.cards, in_use, cards_in_use, self.cordoned
        )

    def resized(self, spec: NodeSpec) -> Node:
        """This node with another capacity; labels stay where the spec names none."""
        labels = self.labels if spec.labels is None else spec.labels
        capacity = {**self.capacity, **spec.capacity}
        return Node(
            self.name,
            capacity,
            labels,
            cards_of(capacity),
            self.in_use,
            self.cards_in_use,
            self.cordoned,
        )

    def with_cordon(self, cordoned: bool) -> Node:
        """This node, cordoned or not."""
        return Node(
            self.name,
            self.capacity,
            self.labels,
            self.cards,
            self.in_use,
            self.cards_in_use,
            cordoned,
        )


def cards_of(capacity: Amounts) -> Devices:
    """The cards that a capacity stands for, numbered from 0, each of :data:`CARD` base units."""
    return {
        resource: {str(index): CARD for index in range(amount // CARD)}
        for resource, amount in capacity.items()
        if resource in CARD_RESOURCES
    }


def node_from(spec: NodeSpec) -> Node:
    """A fresh node from its announcement."""
    return Node(spec.name, spec.capacity, spec.labels or {}, cards_of(spec.capacity), {}, {})


class Space:
    """Somewhere to place: a pool's nodes, or what an allocation lends to those drawn on it.

    ``waiting`` keeps arrival order. ``freed`` says that a waiting request may fit now.
    """

    __slots__ = ("freed", "key", "nodes", "waiting")

    def __init__(self, key: str, nodes: dict[str, Node]) -> None:
        self.key = key
        self.nodes = nodes
        self.waiting: dict[str, None] = {}
        self.freed = False

    def fork(self) -> Space:
        """A copy that can be changed without changing this."""
        copy = Space(self.key, self.nodes.copy())
        copy.waiting = self.waiting.copy()
        copy.freed = self.freed
        return copy


class Pool:
    """A named capacity. ``held`` is what each tenant, and each (tenant, holder), holds in it."""

    __slots__ = ("closed", "consumable", "held", "kind", "name", "opened_at", "policy", "space")

    def __init__(
        self, name: str, kind: str, consumable: bool, policy: Policy, space: Space, opened_at: int
    ) -> None:
        self.name = name
        self.kind = kind
        self.consumable = consumable
        self.policy = policy
        self.space = space
        self.opened_at = opened_at
        self.closed = False
        self.held: dict[tuple[str, str | None], Amounts] = {}

    def fork(self) -> Pool:
        """A copy that can be changed without changing this."""
        copy = Pool(
            self.name, self.kind, self.consumable, self.policy, self.space.fork(), self.opened_at
        )
        copy.closed = self.closed
        copy.held = {key: totals.copy() for key, totals in self.held.items()}
        return copy


@dataclass(frozen=True, slots=True)
class Allocation:
    """A request that waits, holds or held, with all that its events say of it.

    ``token`` is the fencing token (0 while waiting). ``lease_until`` is None for a process-bound
    allocation. ``deadline`` is the end of the wait, of the reservation, or of the grace of an ending.
    """

    id: str
    position: int
    state: str
    tenant: str
    holder: str
    task: str | None
    pool: str
    request: Request
    requested_at: int
    amounts: Amounts
    placements: tuple[Placement, ...] = ()
    token: int = 0
    granted_at: int | None = None
    lease_until: int | None = None
    max_age_until: int | None = None
    deadline: int | None = None
    strategy: str | None = None
    gang: str | None = None
    ending_cause: str | None = None
    enforced: bool = True
    ended_at: int | None = None
    ended_by: str | None = None

    @property
    def due(self) -> int | None:
        """The instant at which time alone ends this state, or None."""
        if self.state == "active":
            return self.lease_until
        return self.deadline if self.state in ("waiting", "reserved") else None


class Book:
    """The current state: pools, live and waiting allocations, quotas, tasks, alerts.

    Ended allocations and command ids are not carried: the log's indexes know them.
    """

    __slots__ = (
        "alerts",
        "allocations",
        "by_holder",
        "checkpoint",
        "due",
        "epoch",
        "holders",
        "ledger_id",
        "lent",
        "pools",
        "position",
        "quotas",
        "recent_refusals",
        "recorded_at",
        "rules",
        "tasks",
    )

    def __init__(self) -> None:
        self.ledger_id = ""
        self.epoch = 0
        self.rules = 0
        self.position = 0
        self.recorded_at = 0
        self.checkpoint = 0
        self.pools: dict[str, Pool] = {}
        self.allocations: dict[str, Allocation] = {}
        self.lent: dict[str, Space] = {}
        self.by_holder: dict[tuple[str, str], dict[str, None]] = {}
        self.quotas: dict[tuple[str, str | None, str | None], Amounts] = {}
        self.tasks: dict[tuple[str, str], int] = {}
        self.alerts: dict[str, dict[str, Any]] = {}
        self.holders: dict[tuple[str, str], Any] = {}
        self.recent_refusals: dict[tuple[Any, ...], tuple[int, int]] = {}
        self.due: list[tuple[int, int, str]] = []

    def fork(self) -> Book:
        """An overlay: a book that can evolve without changing this one."""
        copy = Book()
        copy.ledger_id, copy.epoch, copy.rules = self.ledger_id, self.epoch, self.rules
        copy.position, copy.recorded_at = self.position, self.recorded_at
        copy.checkpoint = self.checkpoint
        copy.pools = {name: pool.fork() for name, pool in self.pools.items()}
        copy.allocations = self.allocations.copy()
        copy.lent = {name: space.fork() for name, space in self.lent.items()}
        copy.by_holder = {key: ids.copy() for key, ids in self.by_holder.items()}
        copy.quotas = self.quotas.copy()
        copy.tasks = self.tasks.copy()
        copy.alerts = self.alerts.copy()
        copy.holders = self.holders.copy()
        copy.recent_refusals = self.recent_refusals.copy()
        copy.due = self.due.copy()
        return copy

    def space_of(self, pool: str, parent: str | None) -> Space | None:
        """Where a request would be placed; None where the pool or the parent is not there.

        What a parent lends is worked out from its placements when the first child asks.
        """
        if parent is None:
            found = self.pools.get(pool)
            return None if found is None else found.space
        space = self.lent.get(parent)
        if space is not None:
            return space
        allocation = self.allocations.get(parent)
        if allocation is None or allocation.state != "active":
            return None
        return Space(parent, {p.node: lending(p) for p in allocation.placements})

    def spaces(self) -> list[Space]:
        """Every space there is, pools first."""
        return [pool.space for pool in self.pools.values()] + list(self.lent.values())

    def set_due(self, allocation: Allocation) -> None:
        """Remember when time alone will end this allocation's state."""
        due = allocation.due
        if due is not None:
            heappush(self.due, (due, allocation.position, allocation.id))

    def renew_reminders(self) -> None:
        """Make the heap of reminders anew, so that it holds one for each allocation at most."""
        live = self.allocations.values()
        self.due = [(a.due, a.position, a.id) for a in live if a.due is not None]
        heapify(self.due)


def lending(placement: Placement) -> Node:
    """The node that an allocation is to what draws on it: its own share, nothing of it lent yet."""
    return Node(placement.node, placement.amounts, {}, placement.devices or {}, {}, {})
