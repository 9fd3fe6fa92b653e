"""Preemption: whom a waiting request may send away, by policy, and how that is done.

By priority as it was asked for, never as it aged; or to give a tenant back what others borrowed of its
quota. Fewest first, then youngest. They are asked, have their grace, and are reclaimed when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice

from ledger.advance import LEDGER
from ledger.book import Allocation, Book, Pool
from ledger.events import Ending, Reclaimed
from ledger.nodes import Node
from ledger.requests import PRIORITIES, Amounts, Placement
from ledger.rules.answers import Draft
from ledger.rules.capacity import carries, place_on, short_by
from ledger.rules.claims import Kept, claim
from ledger.rules.elastic import at_least, stretchy
from ledger.rules.leases import end_descendants
from ledger.rules.quotas import Leaving, borrows_from
from ledger.spaces import Space

VICTIMS_MAX = 64
"""The most allocations that one request may send away."""
LOOKS_MAX = 1_000
"""How many sets of allocations are tried for one request, to send away fewer or younger ones."""


class Senders:
    """Whom a waiting request may send away, given who has been asked to go already."""

    def __init__(self, book: Book, pool: Pool, asking: Allocation) -> None:
        self._book = book
        self._asking = asking
        self._by_priority = pool.policy.preemption == "lower_priority"
        self._mine = PRIORITIES.index(asking.request.priority)
        self._borrows = any((asking.tenant, where) in book.cohorts for where in (None, pool.name))
        self._leaving: Leaving | None = None

    def choose(
        self, candidates: Iterable[Allocation], besides: Iterable[Allocation] = ()
    ) -> Iterator[Allocation]:
        """Those of the candidates that may be sent away ``besides`` some others, the youngest first,
        one after the other.
        """
        leaving: Leaving = {}
        if self._borrows:
            leaving = {key: amounts.copy() for key, amounts in self._who_leave().items()}
            for a in besides:
                _count_in(leaving, a)
        for a in by_age(candidates):
            if self._may(a, leaving):
                yield a
                if self._borrows:
                    _count_in(leaving, a)

    def _who_leave(self) -> Leaving:
        if self._leaving is None:
            self._leaving = {}
            for a in self._book.allocations.values():
                if a.state == "ending" and a.request.parent is None:
                    _count_in(self._leaving, a)
        return self._leaving

    def together(self, victims: Sequence[Allocation]) -> bool:
        """Whether these, the youngest first, may be sent away together."""
        if not self._borrows:
            return True
        leaving = {key: amounts.copy() for key, amounts in self._who_leave().items()}
        for a in victims:
            if not self._may(a, leaving):
                return False
            _count_in(leaving, a)
        return True

    def each(self, candidates: Iterable[Allocation]) -> list[Allocation]:
        """Those of the candidates that may be sent away if nobody else is, the youngest first."""
        leaving = self._who_leave() if self._borrows else {}
        return [a for a in by_age(candidates) if self._may(a, leaving)]

    def _may(self, a: Allocation, leaving: Leaving) -> bool:
        if self._by_priority and PRIORITIES.index(a.request.priority) < self._mine:
            return True
        return self._borrows and borrows_from(self._book, a, self._asking, leaving)


def will_go(a: Allocation) -> bool:
    """Whether one that was asked to end already will go, whoever asked it and for whom."""
    # Of what is bound to a process only that goes which somebody makes go.
    return a.enforced or a.request.process is None


def by_age(candidates: Iterable[Allocation]) -> list[Allocation]:
    """The youngest first."""
    return sorted(candidates, key=lambda a: (-(a.granted_at or 0), -a.position))


def _count_in(leaving: Leaving, a: Allocation) -> None:
    for key in ((a.tenant, None), (a.tenant, a.pool)):
        total = leaving.setdefault(key, {})
        for resource, amount in a.amounts.items():
            total[resource] = total.get(resource, 0) + amount


def make_room(
    book: Book, space: Space, pool: Pool, asking: Allocation, barred: frozenset[str], now: int
) -> Draft | None:
    """Ask those to go who are in the way, and keep their node for the one who waits; None where nobody
    may be sent away, or where those who are going already are enough.
    """
    request = asking.request
    if request.parent is not None or request.spread is not None or asking.gang is not None:
        return None
    if pool.consumable or (pool.policy.preemption == "never" and not book.cohorts):
        # Of a budget nothing comes back by sending somebody away: what he held counts as spent.
        return None
    # A node has one claim, so what is kept for somebody else cannot be kept for this one too.
    names = {name for name in asking.claims if name in space.standing}
    if len(space.claims) < len(space.nodes):
        names |= space.standing.keys() - space.claims.keys() - barred
    if not names:
        return None
    may = Senders(book, pool, asking)
    looks = LOOKS_MAX
    best: tuple[int, int, str] | None = None
    chosen: list[Allocation] = []
    for name in sorted(names):
        node = space.nodes[name]
        if node.cordoned or not carries(node, request.select):
            continue
        there = [book.allocations[each] for each in space.standing[name]]
        going = [a for a in there if a.state == "ending" and (name == asking.claim or will_go(a))]
        for a in going:
            node = without(node, a)
        # Who is stretched gives back what it can before anybody is sent away for that.
        node, least = at_least(node, stretchy(book, space, name))
        choice = _Choice(node, least, request.amounts)
        victims: list[Allocation] | None = []
        if not choice.fits(()):
            active = [a for a in there if a.state == "active" and len(a.placements) == 1]
            victims = choice.fewest(may.choose(active))
            if victims is None or len(victims) > 1:
                most = VICTIMS_MAX if victims is None else len(victims)
                most = most if best is None else min(most, best[0])
                fewer, looks = choice.search(may, may.each(active), most, looks)
                victims = fewer or victims
        elif name == asking.claim:
            return None
        leaving = going + (victims or [])
        # Without anybody who leaves there is nothing here that was not tried before.
        if victims is None or not leaving:
            continue
        if asking.claims and name != asking.claim and _stays(leaving):
            continue
        age = sum(now - (v.granted_at or now) for v in victims)
        if best is None or (len(victims), age, name) < best:
            best, chosen = (len(victims), age, name), victims
    if best is None:
        return None
    kept = {best[2]: short_by(space.nodes[best[2]], request.amounts)}
    return ask(book, pool, asking, kept, chosen, now)


def _stays(leaving: list[Allocation]) -> bool:
    """Whether some go only when their process does. A claim, which promises an end of the wait, does
    not move to where nothing does."""
    return any(a.request.process is not None for a in leaving)


def without(node: Node, a: Allocation) -> Node:
    """A node without what an allocation holds there."""
    for placement in a.placements:
        if placement.node == node.name:
            node = node.plus(placement, -1)
    return node


class _Choice:
    """Who must leave a node for a request to fit. ``least``: id → what is held of a stretched one."""

    def __init__(self, node: Node, least: dict[str, Placement], amounts: Amounts) -> None:
        self._node, self._least, self._amounts = node, least, amounts

    def fits(self, victims: Iterable[Allocation]) -> bool:
        """Whether the request fits without these."""
        node = self._node
        for a in victims:
            node = node.plus(self._least.get(a.id, a.placements[0]), -1)
        return place_on(node, self._amounts) is not None

    def fewest(self, candidates: Iterator[Allocation]) -> list[Allocation] | None:
        """As :func:`fewest`, with what is stretched at its least."""
        return fewest(
            self._node, candidates, lambda n: place_on(n, self._amounts) is not None, self._least
        )

    def search(
        self, may: Senders, candidates: list[Allocation], most: int, looks: int
    ) -> tuple[list[Allocation] | None, int]:
        """The fewest of the candidates, at most ``most``, of these the youngest, and the looks left.

        None where there are none, or the looks did not do to find them.
        """
        for count in range(1, min(most, len(candidates)) + 1):
            for some in combinations(candidates, count):
                looks -= 1
                if looks < 0:
                    return None, 0
                if self.fits(some) and may.together(some):
                    return [*some], looks
        return None, looks


def fewest(
    node: Node,
    candidates: Iterator[Allocation],
    fits: Callable[[Node], bool],
    least: Mapping[str, Placement] | None = None,
) -> list[Allocation] | None:
    """Who of the candidates, in their order, must leave a node until it ``fits``, nobody in vain; None:
    not enough. ``least``: id → what is held there, where that is less than the allocation says.
    """
    held = least or {}
    shadow = node
    victims: list[Allocation] = []
    for victim in islice(candidates, VICTIMS_MAX):
        shadow = shadow.plus(held.get(victim.id, victim.placements[0]), -1)
        victims.append(victim)
        if fits(shadow):
            break
    else:
        return None
    # The oldest stay first where they can.
    for victim in victims[-2::-1]:
        back = shadow.plus(held.get(victim.id, victim.placements[0]), 1)
        if fits(back):
            shadow = back
            victims.remove(victim)
    return victims


def ask(
    book: Book,
    pool: Pool,
    asking: Allocation,
    kept: Kept,
    victims: list[Allocation],
    now: int,
) -> Draft:
    """Draft that the victims are to go, and that their nodes are kept for the one who asks."""
    draft = Draft(book, now)
    grace = pool.policy.grace_ns
    reason = f"{asking.id} of {asking.holder} comes first"
    for victim in victims:
        if grace or victim.request.process is not None:
            enforced = victim.request.process is not None
            # Being asked to go lengthens no lease.
            until = min(now + grace, victim.lease_until or now + grace)
            body = Ending("preempted", until, enforced, LEDGER, reason)
            draft.on(victim, body)
        else:
            end_descendants(book, draft, victim, now)
            evidence = {"preempted_by": asking.id}
            draft.on(victim, Reclaimed("preempted", evidence, LEDGER, reason, False))
    if asking.claims != tuple(sorted(kept)):
        draft.events += claim(book, asking, kept, now, draft.position).events
    return draft
