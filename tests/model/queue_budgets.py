"""Budgets: what is available per period, refills at their very instants, and overdrafts."""

from __future__ import annotations

from ledger.events import Event, Replenished
from tests.model.queue_state import PoolState, World, refill
from tests.model.queue_wrong import wrong_unless


def judge_refill(world: World, event: Event, body: Replenished) -> None:
    """A refill is of a boundary, follows all that ended before it, and leaves what it says."""
    pool = world.pools[event.pool or ""]
    wrong_unless(pool.consumable, event, "it is no budget")
    due, every = pool.refill_due, pool.policy.refill_every_ns
    wrong_unless(due is not None and every is not None, event, "it is not refilled")
    assert due is not None and every is not None
    on_time = event.at >= due and (event.at - due) % every == 0
    wrong_unless(on_time, event, f"it is refilled at {due} and every {every} ns after that")
    for entry in world.holding(pool.name):
        ends = entry.lease if entry.state == "active" else entry.until
        if entry.state == "ending" and entry.by_process:
            continue
        wrong_unless(ends is None or ends >= event.at, event, f"{entry.id} had ended before")
    after = PoolState(pool.name, pool.policy, pool.nodes, True, False, dict(pool.spent), due)
    refill(after, event.at)
    (node,) = pool.nodes.values()
    held: dict[str, int] = {}
    for entry in world.holding(pool.name):
        for resource, amount in entry.amounts.items():
            held[resource] = held.get(resource, 0) + amount
    for resource, capacity in node.capacity.items():
        left = capacity - held.get(resource, 0) - after.spent.get(resource, 0)
        said = body.available.get(resource, 0)
        wrong_unless(said == left, event, f"there are {left} {resource}, not {said}")
        over = after.spent.get(resource, 0) if pool.policy.refill == "reset" else None
        said = body.overdraft.get(resource, 0)
        wrong_unless(
            over is None or said == over, event, f"{over} {resource} too much was spent, not {said}"
        )


def judge_refills_are_written(world: World, now: int, last: Event | None) -> None:
    """No boundary that would have refilled something is left out."""
    for pool in world.pools.values():
        due = pool.refill_due
        if due is None or due > now:
            continue
        spent = any(pool.spent.values())
        wrong_unless(not spent or pool.closed, last, f"{pool.name} was to be refilled at {due}")
