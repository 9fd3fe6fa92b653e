"""The book: the state that the events add up to. :mod:`ledger.evolve` is what changes it.

Nodes and allocations are values: an event replaces them, it never changes them. So an overlay
(:meth:`Book.fork`) costs a few dict copies, and what was read stays as it was read.
"""

from __future__ import annotations

from heapq import heapify, heappush
from typing import Any

from ledger.identity import ProcessIdentity
from ledger.mix import Mix
from ledger.nodes import lending
from ledger.policy import Policy
from ledger.quick import dataclass
from ledger.requests import Amounts, Placement, Request
from ledger.spaces import Space

LIVE = frozenset({"active", "reserved", "ending"})
"""States in which capacity is held."""

REFUSAL_WINDOW_NS = 1_000_000_000
"""Within this time a repeated refusal is counted, not written again (design, rule 9)."""


class Pool:
    """A named capacity. ``held`` is what each tenant, and each (tenant, holder), holds in it.

    ``holding``: tenant → holders that hold something. ``habits``: task (or "") → how often and how
    long in all (ns) it was held, for estimates. ``sticky``: (tenant, key) → nodes it had last.
    ``mix``: the shapes of recent requests, counted. Of consumable pools, ``spent`` is node →
    resource → what is gone until the next refill, ``refilled_at`` the last boundary of a period.
    """

    __slots__ = (
        "closed",
        "consumable",
        "habits",
        "held",
        "holding",
        "kind",
        "mix",
        "name",
        "opened_at",
        "policy",
        "refilled_at",
        "space",
        "spent",
        "sticky",
    )

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
        self.holding: dict[str, set[str]] = {}
        self.habits: dict[str, tuple[int, int]] = {}
        self.sticky: dict[tuple[str, str], tuple[str, ...]] = {}
        self.mix = Mix()
        self.spent: dict[str, Amounts] = {}
        self.refilled_at = opened_at
        self.begin_periods(opened_at)

    def begin_periods(self, now: int) -> None:
        """Count periods from ``refill_from`` on, or from the opening: the next boundary after now, at
        the earliest that. Nothing is refilled for a time in which there was no such schedule.
        """
        start, every = self.policy.refill_from, self.policy.refill_every_ns
        if every is not None:
            start = self.opened_at if start is None else start
            self.refilled_at = start + max(-1, (now - start) // every) * every

    @property
    def next_refill(self) -> int | None:
        """When a consumable pool is refilled next, or None."""
        every = self.policy.refill_every_ns
        if every is None or self.closed or self.kind == "observed":
            return None
        return self.refilled_at + every

    def share(self, tenant: str, holder: str | None) -> int:
        """Dominant share, in millionths: the largest part of any resource that is held."""
        totals = self.space.totals
        return max(
            (
                amount * 1_000_000 // totals[resource]
                for resource, amount in self.held.get((tenant, holder), {}).items()
                if totals.get(resource)
            ),
            default=0,
        )

    def fork(self) -> Pool:
        """A copy that can be changed without changing this."""
        copy = Pool(
            self.name, self.kind, self.consumable, self.policy, self.space.fork(), self.opened_at
        )
        copy.closed = self.closed
        copy.held = {key: totals.copy() for key, totals in self.held.items()}
        copy.holding = {tenant: holders.copy() for tenant, holders in self.holding.items()}
        copy.habits = self.habits.copy()
        copy.sticky = self.sticky.copy()
        copy.mix = self.mix.copy()
        copy.spent = self.spent.copy()
        copy.refilled_at = self.refilled_at
        return copy


@dataclass(frozen=True, slots=True)
class Allocation:
    """A request that waits, holds or held, with all that its events say of it.

    ``token`` is the fencing token (0 while waiting). ``lease_until`` is None for a process-bound
    allocation. ``deadline`` is the end of the wait, of the reservation, or of the grace of an ending.
    ``claims`` are the nodes that are kept for a waiting request (for a gang: its first), sorted by name.
    ``asker`` is the process that alone waits for it (see :class:`ledger.commands.Allocate`).
    ``amounts`` of an elastic one lie between its request's ``amounts`` and ``most``. ``command`` seeds
    a waiting request's randomised choices.
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
    claims: tuple[str, ...] = ()
    asker: ProcessIdentity | None = None
    command: str | None = None

    @property
    def claim(self) -> str | None:
        """The node that is kept for a waiting request, the first of several, or None."""
        return self.claims[0] if self.claims else None

    @property
    def due(self) -> int | None:
        """The instant at which time alone ends this state, or None."""
        if self.state == "active":
            return self.lease_until
        if self.state == "ending" and self.request.process is not None:
            # It ends when its process is gone, which time alone does not tell.
            return None
        return self.deadline


class Book:
    """The current state: pools, live and waiting allocations, quotas, tasks, alerts.

    ``quotas``: (tenant, holder, pool) → limits; ``cohorts``: (tenant, pool) → the cohort in which that
    tenant's quota may be borrowed. ``touched``: how many leases were changed since the last checkpoint
    by events that change many; whoever folds has that much more to do than there are events.

    Ended allocations and command ids are not carried: the log's indexes know them.
    """

    __slots__ = (
        "alerts",
        "allocations",
        "by_holder",
        "checkpoint",
        "cohorts",
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
        "touched",
    )

    def __init__(self) -> None:
        self.ledger_id = ""
        self.epoch = 0
        self.rules = 0
        self.position = 0
        self.recorded_at = 0
        self.checkpoint = 0
        self.touched = 0
        self.pools: dict[str, Pool] = {}
        self.allocations: dict[str, Allocation] = {}
        self.lent: dict[str, Space] = {}
        self.by_holder: dict[tuple[str, str], dict[str, None]] = {}
        self.quotas: dict[tuple[str, str | None, str | None], Amounts] = {}
        self.cohorts: dict[tuple[str, str | None], str] = {}
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
        copy.checkpoint, copy.touched = self.checkpoint, self.touched
        copy.pools = {name: pool.fork() for name, pool in self.pools.items()}
        copy.allocations = self.allocations.copy()
        copy.lent = {name: space.fork() for name, space in self.lent.items()}
        copy.by_holder = {key: ids.copy() for key, ids in self.by_holder.items()}
        copy.quotas = self.quotas.copy()
        copy.cohorts = self.cohorts.copy()
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
        if allocation is None or allocation.state not in ("active", "ending"):
            return None
        return Space(parent, {p.node: lending(p) for p in allocation.placements}, parent)

    def spaces(self) -> list[Space]:
        """Every space there is, pools first."""
        return [pool.space for pool in self.pools.values()] + list(self.lent.values())

    def set_refill(self, pool: Pool) -> None:
        """Remember when a consumable pool is refilled next."""
        when = pool.next_refill
        if when is not None:
            heappush(self.due, (when, 0, pool.name))

    def set_due(self, allocation: Allocation) -> None:
        """Remember when time alone will end this allocation's state."""
        due = allocation.due
        if due is not None:
            heappush(self.due, (due, allocation.position, allocation.id))

    def renew_reminders(self) -> None:
        """Make the heap of reminders anew, so that it holds one for each allocation at most."""
        live = self.allocations.values()
        self.due = [(a.due, a.position, a.id) for a in live if a.due is not None]
        self.due += [
            (pool.next_refill, 0, pool.name)
            for pool in self.pools.values()
            if pool.next_refill is not None
        ]
        heapify(self.due)
