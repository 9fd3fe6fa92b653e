"""Claims: who must have one, who may, what they keep off, and how long a wait can be after one."""

from __future__ import annotations

from ledger.events import Event, Queued
from ledger.requests import Placement
from tests.model.queue_room import (
    could_take,
    kept_for_others,
    over_quota,
    parts,
    room_on,
    suits,
)
from tests.model.queue_state import Entry, NodeState, Unit, World
from tests.model.queue_wrong import wrong_unless


def claimable(world: World, unit: Unit) -> list[NodeState]:
    """The nodes that could be kept for a place in the queue that lands whole on one."""
    pool = world.pools[unit.first.pool]
    request = unit.first.request
    taken = {n for u in world.waiting(pool.name) if u.id != unit.id for n in u.claim}
    return [
        node
        for node in pool.nodes.values()
        if suits(node, request.select)
        and could_take(node, request.amounts)
        and node.name not in taken
    ]


class Passing:
    """Counts who passes whom.

    ``overtaken`` counts grants to those that came later and want something in common, while no quota
    held the one that is passed: the bound must hold for these. ``passed`` counts every grant to a
    later one in the pool: an early claim must be justified at least by these.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def passes(self, event: Event, unit: Unit, now: int, *, judged: bool) -> None:
        """A grant passes all that came before it. ``judged``: the first of what is granted at once."""
        world = self.world
        policy = world.pools[unit.first.pool].policy
        for other in world.waiting(unit.first.pool):
            if other.id == unit.id or other.position > unit.position:
                continue
            common = bool(other.resources & unit.resources) and not over_quota(world, other)
            if common and judged and policy.order == "fair" and other.simple and not other.claim:
                waited = now - other.first.asked_at
                due = (
                    other.first.overtaken >= policy.overtakes_max
                    or waited >= policy.claim_after_ns
                )
                wrong_unless(
                    not (due and claimable(world, other)),
                    event,
                    f"it passes {other.id}, which has no claim after {other.first.overtaken} "
                    f"overtakes and {waited} ns",
                )
            for each in other.members:
                each.passed += 1
                each.overtaken += common


def judge_landing(
    world: World, event: Event, unit: Unit, placements: tuple[Placement, ...]
) -> None:
    """Nothing lands where a claim of somebody else keeps it off; sticky keys stick."""
    for part in placements:
        other = kept_for_others(world, unit, part.node, part.amounts)
        if other is None:
            continue
        claimant = next(u for u in world.waiting(unit.first.pool) if u.id == other)
        wrong_unless(over_quota(world, claimant), event, f"{part.node} is kept for {other}")
    request = unit.first.request
    pool = world.pools[unit.first.pool]
    last = pool.sticky.get((unit.first.tenant, request.sticky or ""))
    if last is None or not unit.simple or last not in pool.nodes or unit.first.gang:
        return
    node = pool.nodes[last]
    free = (
        suits(node, request.select)
        and room_on(world, pool, node).takes(request.amounts)
        and kept_for_others(world, unit, last, request.amounts) is None
    )
    batch = event.cause is not None and event.cause.items is not None
    wrong_unless(
        not free or batch or placements[0].node == last, event, f"{request.sticky} was on {last}"
    )


def judge_claim(
    world: World, event: Event, body: Queued, entry: Entry, now: int, heirs: set[str]
) -> None:
    """A claim is given for a reason, to one at a time, where it can help; and kept while it can."""
    pool = world.pools[entry.pool]
    unit = next(u for u in world.waiting(entry.pool) if u.id == entry.unit)
    new, old = set(body.shortfall), entry.claim
    wrong_unless(body.request == entry.request, event, "the request is what was asked")
    wrong_unless(body.until == entry.until, event, "its place is kept as long as before")
    for name in new:
        node = pool.nodes.get(name)
        wrong_unless(node is not None, event, f"there is no {name}")
        assert node is not None
        wrong_unless(suits(node, entry.request.select), event, f"{name} cannot be selected")
        least = (
            entry.request.amounts
            if not entry.request.spread
            else parts(entry.request.amounts, entry.request.spread, largest=False)
        )
        # What others use outside the ledger may go again: a node is claimed in spite of it.
        fine = could_take(node, least, outside=False) or entry.request.spread == 0
        wrong_unless(fine, event, f"{name} can never take it")
        others = [u.id for u in world.waiting(entry.pool) if u.id != unit.id and name in u.claim]
        wrong_unless(not others, event, f"{name} is kept for {others} already")
    policy = pool.policy
    if new and not old:
        why = (
            entry.passed >= policy.overtakes_max
            or now - entry.asked_at >= policy.claim_after_ns
            or entry.unit in heirs
            or any(each.claim for each in unit.members)
            or _going(world, entry.pool, new)
        )
        wrong_unless(why, event, f"it was passed {entry.passed} times and waited little")
        fair = policy.order == "fair" or entry.unit in heirs or _going(world, entry.pool, new)
        wrong_unless(fair, event, "there are no claims in strict order")
        wrong_unless(not over_quota(world, unit), event, "its own quota holds it up")
    # One that sends others away may take its claim along to where they make room.
    stays = unit.simple and policy.order == "fair" and entry.unit not in heirs
    if old - new and stays and not pool.closed:
        kept = [name for name in old if _helps(world, unit, name)]
        wrong_unless(
            not kept or over_quota(world, unit), event, f"it gives {kept} up, which can still help"
        )


def _going(world: World, pool: str, nodes: set[str]) -> bool:
    """Whether somebody was sent away from one of the nodes already, so that nobody else has to be."""
    return any(
        each.state == "ending" and each.cause == "preempted" and part.node in nodes
        for each in world.holding(pool)
        for part in each.placements
    )


def _helps(world: World, unit: Unit, name: str) -> bool:
    node = world.pools[unit.first.pool].nodes.get(name)
    request = unit.first.request
    return node is not None and suits(node, request.select) and could_take(node, request.amounts)


def judge_waits_after_claims(world: World, now: int, last: Event | None) -> None:
    """Once all that lay on a claimed node is gone, its claimant waits no more."""
    for pool in world.pools.values():
        if pool.policy.order != "fair" or pool.closed or pool.consumable:
            continue
        for unit in world.waiting(pool.name):
            if not unit.simple or over_quota(world, unit):
                continue
            for name, stood in unit.first.stood.items():
                if name in unit.claim and _helps(world, unit, name):
                    left = [id for id in stood if world.entries[id].state != "ended"]
                    wrong_unless(
                        bool(left), last, f"{unit.id} waits on, and all that it waited for is gone"
                    )
