"""Preemption: whom a waiting request may send away, by policy, and how that is done.

By priority as it was asked for, never as it aged; or to give a tenant back what others borrowed of its
quota. Fewest first, then youngest. They are asked, have their grace, and are reclaimed when it is over.
"""

from __future__ import annotations

from collections.abc import Callable

from ledger.advance import LEDGER
from ledger.book import Allocation, Book, Pool
from ledger.events import Ending, Reclaimed
from ledger.nodes import Node
from ledger.requests import PRIORITIES
from ledger.rules.answers import Draft
from ledger.rules.capacity import carries, place_on
from ledger.rules.claims import claim
from ledger.rules.leases import end_descendants
from ledger.rules.quotas import borrows_from
from ledger.spaces import Space

VICTIMS_MAX = 64
"""The most allocations that one request may send away."""


def _may_send_away(book: Book, pool: Pool, asking: Allocation) -> Callable[[Allocation], bool]:
    by_priority = pool.policy.preemption == "lower_priority"
    mine = PRIORITIES.index(asking.request.priority)

    def may(victim: Allocation) -> bool:
        if by_priority and PRIORITIES.index(victim.request.priority) < mine:
            return True
        return borrows_from(book, victim, asking)

    return may


def make_room(
    book: Book, space: Space, pool: Pool, asking: Allocation, barred: set[str], now: int
) -> Draft | None:
    """Ask those to go who are in the way, and keep their node for the one who waits; None where nobody
    may be sent away, or it was done already.
    """
    request = asking.request
    if request.parent is not None or request.spread is not None or asking.gang is not None:
        return None
    if pool.policy.preemption == "never" and not book.cohorts:
        return None
    there: dict[str, list[Allocation]] = {}
    may = _may_send_away(book, pool, asking)
    for node_name, ids in space.standing.items():
        for each in ids:
            a = book.allocations[each]
            if a.state == "ending" and node_name == asking.claim:
                return None
            if a.state == "active" and len(a.placements) == 1 and may(a):
                there.setdefault(node_name, []).append(a)
    best: tuple[int, int, str] | None = None
    chosen: list[Allocation] = []
    for name, candidates in there.items():
        node = space.nodes[name]
        if name in barred or node.cordoned or not carries(node, request.select):
            continue
        victims = _fewest(node, candidates, asking)
        if victims is None:
            continue
        age = sum(now - (v.granted_at or now) for v in victims)
        if best is None or (len(victims), age, name) < best:
            best, chosen = (len(victims), age, name), victims
    return None if best is None else _ask(book, space, pool, asking, best[2], chosen, now)


def _fewest(
    node: Node, candidates: list[Allocation], asking: Allocation
) -> list[Allocation] | None:
    """Who must leave a node for the request to fit, youngest first, nobody in vain; None: not enough."""
    shadow, victims = node, []
    youngest = sorted(candidates, key=lambda a: (-(a.granted_at or 0), -a.position))
    for victim in youngest[:VICTIMS_MAX]:
        shadow = shadow.plus(victim.placements[0], -1)
        victims.append(victim)
        if place_on(shadow, asking.request.amounts) is not None:
            break
    else:
        return None
    for victim in list(victims[:-1]):
        back = shadow.plus(victim.placements[0], 1)
        if place_on(back, asking.request.amounts) is not None:
            shadow = back
            victims.remove(victim)
    return victims


def _ask(
    book: Book,
    space: Space,
    pool: Pool,
    asking: Allocation,
    node: str,
    victims: list[Allocation],
    now: int,
) -> Draft:
    draft = Draft(book, now)
    grace = pool.policy.grace_ns
    reason = f"{asking.id} of {asking.holder} comes first"
    for victim in victims:
        if grace or victim.request.process is not None:
            enforced = victim.request.process is not None
            body = Ending("preempted", now + grace, enforced, LEDGER, reason)
            draft.on(victim, body)
        else:
            end_descendants(book, draft, victim, now)
            evidence = {"preempted_by": asking.id}
            draft.on(victim, Reclaimed("preempted", evidence, LEDGER, reason, False))
    if asking.claim != node:
        draft.events += claim(book, asking, space.nodes[node], now, draft.position).events
    return draft
