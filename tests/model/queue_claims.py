"""Claims: who must have one, who may, what they keep off, and how long a wait can be after one."""

from __future__ import annotations

from ledger.events import Event, Queued
from ledger.requests import Amounts, Placement, Request
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


def due(world: World, unit: Unit, now: int) -> bool:
    """Whether a place in the queue has been overtaken often enough, or has waited long enough."""
    policy = world.pools[unit.first.pool].policy
    often = max(each.overtaken for each in unit.members) >= policy.overtakes_max
    return often or now - unit.first.asked_at >= policy.claim_after_ns


def claimable(world: World, unit: Unit, now: int) -> bool:
    """Whether nodes could be kept for a place in the queue: none of others, and enough for all of it.

    One that needs several nodes and finds too few keeps those behind it from claiming any.
    """
    pool = world.pools[unit.first.pool]
    taken: set[str] = set()
    for other in world.waiting(pool.name):
        if other.id == unit.id:
            continue
        taken |= other.claim
        policy = pool.policy
        often = max(each.passed for each in other.members) >= policy.overtakes_max
        if not other.simple and not other.claim and (often or due(world, other, now)):
            return False
    choices = [
        [
            node.name
            for node in pool.nodes.values()
            if suits(node, each.request.select) and node.name not in taken
        ]
        for each in unit.members
    ]
    request = unit.first.request
    if len(unit.members) > 1:
        # A gang's claim is found greedily: it is due where each request finds a node of its own.
        return _apart([each.request.amounts for each in unit.members], choices, pool.nodes)
    count = 1 if request.spread is None else request.spread
    if count == 0:
        return any(could_take(pool.nodes[name], request.amounts) for name in choices[0])
    part = parts(request.amounts, count, largest=True)
    return sum(could_take(pool.nodes[name], part) for name in choices[0]) >= count


def _apart(wanted: list[Amounts], choices: list[list[str]], nodes: dict[str, NodeState]) -> bool:
    everywhere = [
        all(could_take(nodes[n], need) for n in names)
        for need, names in zip(wanted, choices, strict=True)
    ]
    return all(everywhere) and all(len(names) >= len(wanted) for names in choices)


class Passing:
    """Counts who passes whom.

    ``overtaken`` counts grants to those that came later and want something in common, while no quota
    held the one that is passed: the bound must hold for these. ``passed`` counts every grant to a
    later one in the pool: an early claim must be justified at least by these.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.passed_over: list[tuple[Event, str, str]] = []
        self.blocked: set[str] = set()

    def begin(self) -> None:
        """A step begins. Whom a quota holds up until then can only claim in its turn."""
        units = [unit for pool in self.world.pools for unit in self.world.waiting(pool)]
        self.blocked = {unit.id for unit in units if over_quota(self.world, unit)}

    def finish(self) -> None:
        """Whoever was passed without a claim that it should have had was served in the same step."""
        for event, id, why in self.passed_over:
            waits = any(e.unit == id and e.state == "waiting" for e in self.world.entries.values())
            wrong_unless(not waits, event, f"it passes {id}, which has {why}")
        self.passed_over = []

    def passes(self, event: Event, unit: Unit, now: int, *, judged: bool) -> None:
        """A grant passes all that came before it. ``judged``: the first of what is granted at once."""
        world = self.world
        policy = world.pools[unit.first.pool].policy
        for other in world.waiting(unit.first.pool):
            if other.id == unit.id or other.position > unit.position:
                continue
            common = bool(other.resources & unit.resources) and not over_quota(world, other)
            could = not other.claim and other.id not in self.blocked
            could = could and common and judged and policy.order == "fair"
            if could and due(world, other, now) and claimable(world, other, now):
                waited = now - other.first.asked_at
                why = f"no claim after {other.first.overtaken} overtakes and {waited} ns"
                self.passed_over.append((event, other.id, why))
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
        fine = any(_could_have_part(node, each.request) for each in unit.members)
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
        if unit.simple and entry.unit not in heirs and not any(_helps(world, unit, n) for n in new):
            claimed = {name for other in world.waiting(entry.pool) for name in other.claim}
            better = [n for n in pool.nodes if n not in claimed and _helps(world, unit, n)]
            # What one ahead of it waits for, that needs several nodes, it must not claim.
            fine = not better or not claimable(world, unit, now)
            wrong_unless(fine, event, f"outside use leaves it no room, as {better} would")
    # One that sends others away may take its claim along to where they make room, or to where
    # somebody goes already.
    stays = unit.simple and policy.order == "fair" and entry.unit not in heirs
    stays = stays and not (new and _going(world, entry.pool, new))
    if old - new and stays and not pool.closed:
        kept = [name for name in old if _helps(world, unit, name)]
        wrong_unless(
            not kept or over_quota(world, unit), event, f"it gives {kept} up, which can still help"
        )


def _could_have_part(node: NodeState, request: Request) -> bool:
    """Whether a node may be kept for a request, or for a part of it.

    What others use outside the ledger may go again: a node is claimed in spite of it.
    """
    count = 1 if request.spread is None else request.spread
    if count == 0:
        return suits(node, request.select)
    part = parts(request.amounts, count, largest=False)
    return suits(node, request.select) and could_take(node, part, outside=False)


def _going(world: World, pool: str, nodes: set[str]) -> bool:
    """Whether somebody is going from one of the nodes already, so that nobody has to be sent away."""
    return any(
        each.state == "ending" and part.node in nodes
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
