"""Sending others away: who may be, how few, how young, and how much of what was borrowed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from itertools import combinations, permutations

from ledger.events import Ending, Event, Reclaimed
from ledger.requests import PRIORITIES
from tests.model.queue_room import (
    over_quota,
    room_on,
    suits,
)
from tests.model.queue_state import Entry, Unit, World
from tests.model.queue_wrong import wrong_unless


class Victims:
    """Collects who is sent away for whom in a step, and judges each heir's choice at its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0
        self.heirs: set[str] = set()
        self.chosen: dict[str, list[tuple[Event, str]]] = {}
        self.then: dict[str, World] = {}

    def begin(self, now: int) -> None:
        """A step begins."""
        self.now, self.heirs, self.chosen, self.then = now, set(), {}, {}

    def sent_away(self, event: Event, victim: Entry, then: World | None = None) -> None:
        """Somebody is asked to go, or goes at once, so that another gets in.

        ``then`` is the world of that choice, where what drew on the victim has been ended since.
        """
        body = event.body
        assert isinstance(body, Ending | Reclaimed)
        heir = self.world.entries.get(body.reason.split(" ")[0])
        wrong_unless(heir is not None, event, "nobody is named who comes first")
        assert heir is not None
        wrong_unless(heir.state == "waiting", event, f"{heir.id} is {heir.state}")
        wrong_unless(heir.pool == victim.pool, event, "another pool's")
        wrong_unless(heir.parent is None, event, f"{heir.id} draws on {heir.parent}")
        wrong_unless(victim.parent is None, event, f"it draws on {victim.parent}")
        wrong_unless(victim.state == "active", event, f"it is {victim.state}")
        wrong_unless(len(victim.placements) == 1, event, "it lies on several nodes")
        unit = next(u for u in self.world.waiting(heir.pool) if u.id == heir.unit)
        fine = all(lower(self.world, victim, each) for each in unit.members) or borrows(
            self.world, victim, unit
        )
        wrong_unless(fine, event, f"{heir.id} may not send it away")
        wrong_unless(not over_quota(self.world, unit), event, f"{heir.id} waits for its quota")
        if isinstance(body, Ending):
            grace = event.at + self.world.pools[victim.pool].policy.grace_ns
            until = grace if victim.lease is None else min(grace, victim.lease)
            wrong_unless(body.deadline == until, event, f"its grace ends at {until}")
        self.heirs.add(heir.unit)
        self.then.setdefault(heir.unit, then or copy.deepcopy(self.world))
        self.chosen.setdefault(heir.unit, []).append((event, victim.id))

    def granted(self, unit: Unit) -> None:
        """In strict order who came before an heir may take the room that was made for it: whoever is
        sent away after that is another choice.
        """
        if self.world.pools[unit.first.pool].policy.order == "fifo":
            for heir in [each for each in self.chosen if each != unit.id]:
                self._close(heir)

    def finish(self) -> None:
        """The fewest, the youngest, and no more of what was borrowed than there is."""
        for heir in list(self.chosen):
            self._close(heir)

    def _close(self, heir: str) -> None:
        chosen, then = self.chosen.pop(heir), self.then.pop(heir)
        event = chosen[-1][0]
        unit = next(u for u in then.waiting(event.pool or "") if u.id == heir)
        ids = [id for _, id in chosen]
        in_turn = self._within(then, unit, ids) or (
            # Of several nodes the statement does not say on which somebody is asked first.
            not unit.simple and any(self._one_by_one(then, unit, o) for o in permutations(ids))
        )
        wrong_unless(in_turn, event, "more goes than was borrowed")
        if unit.simple:
            self._judge(then, unit, ids, event)

    def _judge(self, then: World, unit: Unit, ids: list[str], event: Event) -> None:
        nodes = open_nodes(then, unit)
        here = [name for name in nodes if makes_room(then, unit, name, ids)]
        wrong_unless(bool(here), event, f"{unit.id} finds no room by it")
        if unit.claim:
            # It may stay with its node, though elsewhere fewer would have to go.
            here = [name for name in here if name in unit.claim or not _a_process(then, name, ids)]
        for name in here if unit.claim else nodes:
            for count in range(len(ids)):
                for fewer in combinations(candidates(then, unit, name), count):
                    enough = self._within(then, unit, fewer) and makes_room(then, unit, name, fewer)
                    wrong_unless(not enough, event, f"{list(fewer)} on {name} were enough")
        for name in here:
            for id in ids:
                for other in candidates(then, unit, name):
                    if other in ids or _granted_at(then, other) <= _granted_at(then, id):
                        continue
                    instead = [*(each for each in ids if each != id), other]
                    better = self._within(then, unit, instead) and makes_room(
                        then, unit, name, instead
                    )
                    wrong_unless(not better, event, f"{other} is younger than {id}")

    def _within(self, world: World, unit: Unit, ids: Collection[str]) -> bool:
        """Whether all of these may go together: nobody goes of a tenant that holds no more than its own.

        They go one after the other, the youngest first, and each goes whole: the last of them may be
        larger than what is left of the loan.
        """
        in_order = sorted(ids, key=lambda each: (-_granted_at(world, each), -int(each[1:])))
        return self._one_by_one(world, unit, in_order)

    def _one_by_one(self, world: World, unit: Unit, ids: Sequence[str]) -> bool:
        gone: list[str] = []
        for id in ids:
            victim = world.entries[id]
            if not all(lower(world, victim, each) for each in unit.members) and not any(
                self._over(world, unit, victim.tenant, gone, key) for key in world.quotas
            ):
                return False
            gone.append(id)
        return True

    def _over(
        self,
        world: World,
        unit: Unit,
        tenant: str,
        gone: Collection[str],
        key: tuple[str, str | None, str | None],
    ) -> bool:
        """Whether a tenant is over its quota without some of its allocations and what is going."""
        if key[:2] != (tenant, None):
            return False
        stay = [
            each
            for each in world.holding(key[2])
            if each.tenant == tenant and each.id not in gone and each.state != "ending"
        ]
        return any(
            sum(each.amounts.get(resource, 0) for each in stay) > limit
            for resource, limit in world.quotas[key][0].items()
            if resource in unit.resources
        )


def _a_process(world: World, node: str, ids: Collection[str]) -> bool:
    """Whether room on a node takes the end of a process: a claim is not moved to there."""
    return any(
        each.by_process and (each.state == "ending" or each.id in ids)
        for each in world.holding()
        for part in each.placements
        if part.node == node
    )


def _granted_at(world: World, id: str) -> int:
    """When an allocation became what it is: a hand-over makes nothing younger."""
    at = world.entries[id].granted_at
    assert at is not None
    return at


def lower(world: World, victim: Entry, heir: Entry) -> bool:
    """Whether the policy lets a request send an allocation away: by priority as it was asked."""
    order = PRIORITIES.index
    return world.pools[heir.pool].policy.preemption == "lower_priority" and order(
        victim.request.priority
    ) < order(heir.request.priority)


def borrows(world: World, victim: Entry, unit: Unit) -> bool:
    """Whether an allocation's tenant has borrowed what the owner, within its own, asks for."""
    heir = unit.first
    for key, (limits, cohort) in world.quotas.items():
        if cohort is None or key[0] != victim.tenant or key[1] is not None:
            continue
        mine = world.quotas.get((heir.tenant, None, key[2]))
        if mine is None or mine[1] != cohort or heir.tenant == victim.tenant:
            continue
        for resource in set(limits) & set(mine[0]) & unit.resources & set(victim.amounts):
            wants = sum(each.request.amounts.get(resource, 0) for each in unit.members)
            owned = world.held(heir.tenant, None, key[2], resource) + wants <= mine[0][resource]
            if owned and world.held(victim.tenant, None, key[2], resource) > limits[resource]:
                return True
    return False


def open_nodes(world: World, unit: Unit) -> list[str]:
    """Where somebody may be sent away for a request: on any node that is not claimed by others.

    Room on a node that is kept for somebody else could not be kept for this one, even if they want
    nothing in common: one node is kept for one request at a time.
    """
    pool = world.pools[unit.first.pool]
    kept = {n for u in world.waiting(pool.name) if u.id != unit.id for n in u.claim}
    return [
        node.name
        for node in pool.nodes.values()
        if suits(node, unit.first.request.select) and node.name not in kept
    ]


def candidates(world: World, unit: Unit, node: str) -> list[str]:
    """Who on a node may be sent away for a request: nobody who lies on other nodes too."""
    return [
        each.id
        for each in world.holding(unit.first.pool)
        if each.state == "active"
        and [part.node for part in each.placements] == [node]
        and (lower(world, each, unit.first) or borrows(world, each, unit))
    ]


def makes_room(world: World, unit: Unit, node: str, ids: Collection[str]) -> bool:
    """Whether a request fits on a node without these and without all that is going already."""
    pool = world.pools[unit.first.pool]
    gone = {each.id for each in world.holding(pool.name) if each.state == "ending"} | set(ids)
    room = room_on(world, pool, pool.nodes[node], shrink=True, gone=gone)
    return room.takes(unit.first.request.amounts)
