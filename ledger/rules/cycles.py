"""Hold and wait: holders that wait for each other's capacity in a circle, so that none will move.

A circle is told only where it is certain. It is a set of holders of whom each waits, and none could be
served if everybody else gave all back: on every node that could take what he asks for, what they hold
themselves leaves too little. It is sought by assuming that all who hold and wait are stuck, and leaving
out whoever is not, until nobody is left out any more; of the rest, those are a circle who are in
nobody's way but each other's (a terminal component of who is in whose way).
"""

from __future__ import annotations

import re

from ledger.advance import LEDGER
from ledger.book import Allocation, Book
from ledger.events import AlertCleared, AlertRaised
from ledger.mix import shape_of
from ledger.nodes import Node
from ledger.quick import dataclass
from ledger.requests import PRIORITIES, Amounts, Request
from ledger.rules.answers import Draft
from ledger.rules.capacity import carries, fits_empty, place_on, short_by
from ledger.rules.elastic import at_least, stretchy
from ledger.rules.placement import shares_of
from ledger.rules.quotas import quota_blocks
from ledger.spaces import Space

HOLDERS_MAX = 64
"""How many holders one search follows: larger circles are not told."""
WAITING_MAX = 4
EACH_MAX = 64
"""Who waits for more than the one, or holds and awaits more than the other in all, does many things at
once: that none of them will go on is not certain."""
LOOKS_MAX = 10_000
"""How many nodes, and allocations on them, one search looks at."""
NAMED_MAX = 8
"""How many of a circle's waiting requests stand in the name of its alert."""

_PREFIX = "hold_and_wait:"
_NAME = re.compile(_PREFIX + r"A\d+(,A\d+)*", re.ASCII)

Holder = tuple[str, str]
_Where = tuple[str, str | None]
Ways = dict[Holder, set[Holder]]
"""Who is stuck → who is in the way of him."""


class _TooMuchError(Exception):
    """The search has become too large to tell anything."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What waits: on ``count`` nodes, such as could take it if they were empty, ``amounts`` on each.

    Whoever has a lower priority than ``spares`` may be sent away for it. ``number`` tells it from the
    others of a search.
    """

    space: Space
    amounts: Amounts
    count: int
    nodes: tuple[str, ...]
    spares: int
    number: int


def _where(space: Space) -> _Where:
    """What tells a space from all others: a pool may bear an allocation's name."""
    return space.key, space.parent


class _Search:
    """Who is stuck behind whom."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._looks = LOOKS_MAX
        self._waiting: dict[Holder, list[Allocation]] = {}
        self._places: dict[Holder, list[list[_Need]]] = {}
        self._needs: dict[tuple[object, ...], _Need | None] = {}
        self._found: dict[int, set[Holder] | None] = {}
        self._nodes: dict[tuple[_Where, str, int], tuple[Node, list[tuple[Holder, Amounts]]]] = {}
        self._least: dict[tuple[_Where, str], dict[str, Amounts]] = {}

    def circle(self, start: Holder) -> frozenset[Holder]:
        """A circle that holds up ``start``, or that it is one of; empty where there is none."""
        try:
            ways = self._follow(start)
        except _TooMuchError:
            return frozenset()
        return _terminal(ways, start) if start in ways else frozenset()

    def _follow(self, start: Holder) -> Ways:
        """Those who are stuck whatever the others give back, of all who may be in the way of one."""
        ways: Ways = {}
        found, seen = [start], {start}
        for holder in found:
            in_the_way = self._stuck(holder, None)
            if in_the_way is None:
                continue
            ways[holder] = in_the_way
            for other in sorted(in_the_way - seen):
                seen.add(other)
                found.append(other)
            if len(found) > HOLDERS_MAX:
                raise _TooMuchError
        while True:
            kept = set(ways)
            self._found.clear()
            self._nodes.clear()
            again = {holder: self._stuck(holder, kept) for holder in sorted(kept)}
            ways = {holder: others for holder, others in again.items() if others is not None}
            if len(ways) == len(kept):
                return ways

    def _stuck(self, holder: Holder, keep: set[Holder] | None) -> set[Holder] | None:
        """Who of those who ``keep`` what they hold (None: all who wait) is in the way of a holder, in
        all that it waits for; None where something of that would be served.
        """
        if keep is None and not self._waits(holder):
            return None
        in_the_way: set[Holder] = set()
        for place in self._places_of(holder):
            stuck = False
            for need in place:
                found = self._without_room(need, keep)
                if found is not None:
                    stuck = True
                    in_the_way |= found
            if not stuck:
                return None
        return in_the_way - {holder}

    def _without_room(self, need: _Need, keep: set[Holder] | None) -> set[Holder] | None:
        """Who is in the way of one need; None where there would be room for it."""
        if need.number not in self._found:
            self._found[need.number] = self._look_for_room(need, keep)
        return self._found[need.number]

    def _look_for_room(self, need: _Need, keep: set[Holder] | None) -> set[Holder] | None:
        in_the_way: set[Holder] = set()
        room = 0
        for name in need.nodes:
            node, there = self._kept(need, name, keep)
            self._look(1)
            if place_on(node, need.amounts) is None:
                lacking = short_by(node, need.amounts)
                in_the_way |= {
                    who for who, amounts in there if not lacking.keys().isdisjoint(amounts)
                }
            else:
                room += 1
                if room >= need.count:
                    return None
        return in_the_way

    def _kept(
        self, need: _Need, name: str, keep: set[Holder] | None
    ) -> tuple[Node, list[tuple[Holder, Amounts]]]:
        """A node as it would be if only those who ``keep`` held anything there, and what each holds."""
        key = (_where(need.space), name, need.spares)
        if key not in self._nodes:
            self._nodes[key] = self._keep(need, name, keep)
        return self._nodes[key]

    def _keep(
        self, need: _Need, name: str, keep: set[Holder] | None
    ) -> tuple[Node, list[tuple[Holder, Amounts]]]:
        there = need.space.standing.get(name, ())
        self._look(len(there))
        least = self._least_of(need.space, name)
        in_use: Amounts = {}
        cards: dict[str, dict[str, int]] = {}
        held = []
        for allocation_id in there:
            a = self._book.allocations[allocation_id]
            who = (a.tenant, a.holder)
            if a.state == "ending" or PRIORITIES.index(a.request.priority) < need.spares:
                continue
            if not (self._waits(who) if keep is None else who in keep):
                continue
            for placed in a.placements:
                if placed.node != name:
                    continue
                amounts = least.get(a.id, placed.amounts)
                held.append((who, amounts))
                for resource, amount in amounts.items():
                    in_use[resource] = in_use.get(resource, 0) + amount
                for resource, shares in (placed.devices or {}).items():
                    if amounts[resource] == placed.amounts[resource]:
                        used = cards.setdefault(resource, {})
                        for card, amount in shares.items():
                            used[card] = used.get(card, 0) + amount
        node = need.space.nodes[name]
        return Node(name, node.capacity, node.labels, node.cards, in_use, cards), held

    def _least_of(self, space: Space, name: str) -> dict[str, Amounts]:
        """Id → what one that is stretched holds on a node when it has given back what it can."""
        if not space.elastic:
            return {}
        key = (_where(space), name)
        if key not in self._least:
            there = stretchy(self._book, space, name)
            self._look(len(space.elastic))
            _, least = at_least(space.nodes[name], there)
            self._least[key] = {each: placed.amounts for each, placed in least.items()}
        return self._least[key]

    def _waits(self, holder: Holder) -> list[Allocation]:
        """What a holder waits for, by arrival; nothing where that is too much to be looked at."""
        waiting = self._waiting.get(holder)
        if waiting is None:
            ids = self._book.by_holder.get(holder, {})
            every = [self._book.allocations[each] for each in ids] if len(ids) <= EACH_MAX else []
            waiting = sorted([a for a in every if a.state == "waiting"], key=lambda a: a.position)
            if len(ids) > EACH_MAX or len(waiting) > WAITING_MAX:
                waiting = []
            self._waiting[holder] = waiting
        return waiting

    def _places_of(self, holder: Holder) -> list[list[_Need]]:
        """What a holder waits for, by place in a queue; of each what capacity could keep it from."""
        places = self._places.get(holder)
        if places is None:
            by_place: dict[str, list[_Need]] = {}
            for waiting in self._waits(holder):
                need = self._need(waiting)
                there = by_place.setdefault(waiting.gang or waiting.id, [])
                if need is not None:
                    there.append(need)
            places = self._places[holder] = list(by_place.values())
        return places

    def _need(self, waiting: Allocation) -> _Need | None:
        """What a request waits for, or None where something else than holders may keep it waiting."""
        book, request = self._book, waiting.request
        pool = book.pools[waiting.pool]
        space = book.space_of(waiting.pool, request.parent)
        if space is None or (pool.consumable and request.parent is None) or request.spread == 0:
            # What is spent of a budget comes back by itself, and nothing of it by giving back.
            return None
        if quota_blocks(book, waiting):
            return None
        if any((waiting.tenant, where) in book.cohorts for where in (None, waiting.pool)):
            # Others may have to give back what they have borrowed of it.
            return None
        preempts = pool.policy.preemption != "never"
        spares = PRIORITIES.index(request.priority) if preempts else 0
        key = (_where(space), shape_of(request), request.spread, spares)
        if key not in self._needs:
            self._needs[key] = self._need_of(space, request, spares)
        return self._needs[key]

    def _need_of(self, space: Space, request: Request, spares: int) -> _Need | None:
        count = request.spread or 1
        parts = shares_of(request.amounts, count) if request.spread else [request.amounts]
        assert parts is not None
        self._look(len(space.nodes))
        nodes = [
            node.name
            for node in space.nodes.values()
            if not node.cordoned and carries(node, request.select) and fits_empty(node, parts[-1])
        ]
        if len(nodes) < count:
            return None
        return _Need(space, parts[-1], count, tuple(nodes), spares, len(self._needs))

    def _look(self, looks: int) -> None:
        self._looks -= looks
        if self._looks < 0:
            raise _TooMuchError

    def oldest(self, holder: Holder) -> Allocation:
        """The first of what a holder waits for."""
        return self._waits(holder)[0]

    def newest(self, holder: Holder) -> Allocation:
        """The last of what a holder waits for."""
        return self._waits(holder)[-1]


def _terminal(ways: Ways, start: Holder) -> frozenset[Holder]:
    """Of all who are in the way of one, directly or not, or of whom he is himself: the first who are in
    nobody's way but each other's. Empty where there are none.
    """
    behind: Ways = {holder: set() for holder in ways}
    for holder, others in ways.items():
        for other in others:
            behind[other].add(holder)
    for holder in [start, *sorted(_reach(ways, start))]:
        reached = _reach(ways, holder)
        if reached and reached <= _reach(behind, holder):
            return frozenset(reached)
    return frozenset()


def _reach(ways: Ways, start: Holder) -> set[Holder]:
    """Whoever one comes to by going on from one to the next; itself only where the way leads back."""
    reached: set[Holder] = set()
    found = [start]
    while found:
        new = ways[found.pop()] - reached
        reached |= new
        found += new
    return reached


def _holders_named(book: Book, alert: str) -> list[Holder]:
    """Whose requests that still wait stand in the name of an alert."""
    named = [book.allocations.get(each) for each in alert.removeprefix(_PREFIX).split(",")]
    found = [(a.tenant, a.holder) for a in named if a is not None and a.state == "waiting"]
    return list(dict.fromkeys(found))


def _cleared(book: Book, now: int, alerts: list[str]) -> Draft:
    draft = Draft(book, now)
    for alert in alerts:
        draft.add(AlertCleared(alert, LEDGER, "those whom it names can go on"), tenant="")
    return draft


def alert_for(book: Book, waiting: Allocation, now: int) -> Draft | None:
    """The alert that a request which has just begun to wait closes a circle, after the end of those
    of which nobody waits any more; None where there is neither.
    """
    named = {a: _holders_named(book, a) for a in sorted(book.alerts) if _NAME.fullmatch(a)}
    draft = _cleared(book, now, [alert for alert, holders in named.items() if not holders])
    told = {holder for holders in named.values() for holder in holders}
    holder = (waiting.tenant, waiting.holder)
    if holder not in told and any(holder in pool.held for pool in book.pools.values()):
        search = _Search(book)
        circle = search.circle(holder)
        if circle and told.isdisjoint(circle):
            draft.add(_raised(search, circle), tenant="")
    return draft if draft.events else None


def _raised(search: _Search, circle: frozenset[Holder]) -> AlertRaised:
    oldest = sorted(map(search.oldest, circle), key=lambda a: a.position)
    closed_by = max(map(search.newest, circle), key=lambda a: a.position)
    names = [a.holder for a in oldest]
    return AlertRaised(
        _PREFIX + ",".join([a.id for a in oldest[:NAMED_MAX]]),
        f"{_listed(names)} each wait for what the others hold:"
        " none of them can go on until one gives something back",
        {"holders": names, "closed_by": closed_by.id},
    )


def _listed(names: list[str]) -> str:
    if len(names) > NAMED_MAX:
        names = [*names[:NAMED_MAX], f"{len(names) - NAMED_MAX} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}"
