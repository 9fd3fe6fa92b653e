"""What draws on an allocation: a world of its own inside what that allocation holds.

Inside there are nodes, cards, a queue and elastic allocations as in a pool, but no quotas, no use by
others, and nobody to send away. What is drawn ends with the allocation that lends it.
"""

from __future__ import annotations

from ledger.events import Adjusted, Event, Reclaimed, Refused, Withdrawn
from ledger.requests import Request
from tests.model.queue_accounts import cards_balance, over_places
from tests.model.queue_state import Entry, NodeState, PoolState, World
from tests.model.queue_wrong import wrong_unless


class Inside(World):
    """What an allocation lends: its parts are the nodes, and what it does not hold is not there.

    Labels are those of a pool's nodes, and so is a cordon: inside nothing is kept from anybody by them.
    Whether what is drawn on grows on a cordoned node is left open.
    """

    def __init__(self, outer: World, parent: str) -> None:
        super().__init__()
        self.parent, self.outer, self.entries = parent, outer, outer.entries
        self.look()

    @property
    def lender(self) -> Entry:
        """The allocation that is drawn on."""
        assert self.parent is not None
        return self.entries[self.parent]

    def look(self) -> None:
        """See what the lender has now. One that is asked to end, or in a closed pool, lends no more."""
        lender = self.lender
        pool = self.outer.pools[lender.pool]
        nodes = {
            part.node: NodeState(part.node, dict(part.amounts), {}, cards=part.devices or {})
            for part in lender.placements
        }
        lends_no_more = pool.closed or lender.state != "active"
        inside = PoolState(pool.name, pool.policy, nodes, closed=lends_no_more)
        inside.sticky = pool.sticky
        self.pools = {pool.name: inside}

    def cordoned(self, pool: str, node: str) -> bool:
        """As :meth:`tests.model.queue_state.World.cordoned`: of the pool's node."""
        return self.outer.cordoned(pool, node)


def lends(world: World, tenant: str, pool: str | None, request: Request) -> bool:
    """Whether there is such an allocation as a request wants to draw on."""
    parent = world.entries.get(request.parent or "")
    return (
        parent is not None
        and parent.state == "active"
        and (parent.tenant, parent.pool) == (tenant, pool)
    )


def judge_refusal(world: World, event: Event, body: Refused, request: Request) -> None:
    """Who draws on an allocation is refused for what that lacks, and not for what the pool does."""
    if request.parent is None:
        return
    there = lends(world, event.tenant, event.pool, request)
    unknown = body.reason == "no_such_allocation"
    wrong_unless(not (there and unknown), event, f"{request.parent} is there to be drawn on")
    outside = body.reason in ("quota_exceeded", "unmanaged_use")
    wrong_unless(not outside, event, f"{body.reason} is no matter of what draws on another")
    lacking = body.reason in ("insufficient_capacity", "reserved_for_waiting", "exceeds_pool")
    wrong_unless(there or not lacking, event, f"{request.parent} lends nothing")


def judge_lending(world: Inside, event: Event) -> None:
    """Never is more drawn on an allocation than it has: on each of its nodes, on each of its cards."""
    for (_, node, resource), more in over_places(world).items():
        wrong_unless(
            False, event, f"{more} {resource} on {node} more than {world.parent} has there"
        )
    cards_balance(world, event)


def judge_by_hand(world: Inside, event: Event, body: Adjusted, entry: Entry) -> None:
    """Nobody gets more of one that is asked to end, not even by hand."""
    grows = any(amount > entry.amounts.get(r, 0) for r, amount in body.amounts.items())
    still = not world.pools[entry.pool].closed
    wrong_unless(still or not grows, event, f"{world.parent} lends nothing more")


def ends_with_its_lender(event: Event, entry: Entry | None) -> bool:
    """Whether the ledger ends something because of what it draws on."""
    body = event.body
    leaked = isinstance(body, Reclaimed) and body.cause == "leaked"
    gone = isinstance(body, Withdrawn) and body.cause == "withdrawn"
    return event.cause is None and (leaked or gone) and entry is not None


def judge_endings_together(world: World, batch: list[Event], now: int) -> None:
    """What draws on an allocation ends with it: what held has leaked, what did not yet is withdrawn."""
    last = batch[-1] if batch else None
    for entry in world.entries.values():
        parent = world.entries.get(entry.parent or "")
        if entry.state != "ended" and parent is not None:
            wrong_unless(
                parent.state != "ended", last, f"{entry.id} draws on {parent.id}, which has ended"
            )
    for event in batch:
        entry_of = world.entries.get(event.allocation or "")
        if entry_of is not None and ends_with_its_lender(event, entry_of):
            _judge_ending(world, event, entry_of, now)


def _judge_ending(world: World, event: Event, entry: Entry, now: int) -> None:
    leaked = isinstance(event.body, Reclaimed)
    parent = world.entries.get(entry.parent or "")
    if parent is None:
        wrong_unless(not leaked, event, "it drew on nothing")
        return
    ended = parent.ended_at
    wrong_unless(ended is not None, event, f"{parent.id}, which it drew on, goes on")
    began = entry.asked_at if entry.granted_at is None else entry.granted_at
    at = max(ended or 0, min(began, now))
    wrong_unless(event.at == at, event, f"it ends with {parent.id}, at {at}")
    wrong_unless(leaked == entry.confirmed, event, "what held has leaked, what waited is withdrawn")
