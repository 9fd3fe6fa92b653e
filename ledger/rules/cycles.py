"""Hold and wait: holders that wait for each other's capacity in a circle, so that none will move."""

from __future__ import annotations

from ledger.book import Allocation, Book
from ledger.events import AlertRaised
from ledger.rules.answers import Draft
from ledger.rules.explain import nearest_node

HOLDERS_MAX = 100
"""How many holders one search follows: longer circles than that are not looked for."""
ALERT_MAX = 200
"""The longest name of an alert, in characters."""
WAITING_MAX = 4
"""How many of a holder's waiting requests are looked at, the oldest first."""

Holder = tuple[str, str]


def _holders_in_the_way(book: Book, waiting: Allocation) -> set[Holder]:
    """Who holds what a waiting request lacks, on the node that is nearest to taking it."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    node = None if space is None else nearest_node(space, waiting.request)
    if space is None or node is None:
        return set()
    there = [book.allocations[each] for each in space.standing.get(node.name, ())]
    asked = waiting.request.amounts
    return {(a.tenant, a.holder) for a in there if not a.amounts.keys().isdisjoint(asked)}


def _waiting_of(book: Book, holder: Holder) -> list[Allocation]:
    found = []
    for allocation_id in book.by_holder.get(holder, {}):
        allocation = book.allocations[allocation_id]
        if allocation.state == "waiting":
            found.append(allocation)
            if len(found) >= WAITING_MAX:
                break
    return found


def find_cycle(book: Book, waiting: Allocation) -> list[Holder] | None:
    """A circle of holders, each waiting for the next, that this request closes; else None."""
    start = (waiting.tenant, waiting.holder)
    came_from: dict[Holder, Holder] = {}
    frontier = [start]
    while frontier and len(came_from) < HOLDERS_MAX:
        holder = frontier.pop()
        requests = [waiting] if holder == start else _waiting_of(book, holder)
        blocking: set[Holder] = set()
        for request in requests:
            blocking |= _holders_in_the_way(book, request)
        for other in sorted(blocking - {holder}):
            if other == start:
                path = [holder]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if other not in came_from:
                came_from[other] = holder
                frontier.append(other)
    return None


def _holds_something(book: Book, waiting: Allocation) -> bool:
    key = (waiting.tenant, waiting.holder)
    return any(key in pool.held for pool in book.pools.values())


def alert_for(book: Book, waiting: Allocation, now: int) -> Draft | None:
    """The alert that a request which has just begun to wait closes a circle, or None."""
    if not _holds_something(book, waiting):
        return None
    cycle = find_cycle(book, waiting)
    if cycle is None:
        return None
    names = [holder for _, holder in cycle]
    alert = ("hold_and_wait:" + ",".join(sorted(names)))[:ALERT_MAX]
    if alert in book.alerts:
        return None
    circle = " waits for ".join([*names, names[0]])
    draft = Draft(book, now)
    draft.add(
        AlertRaised(
            alert,
            f"{circle}: none of them can go on until one gives something back",
            {"holders": names, "closed_by": waiting.id},
        ),
        tenant="",
    )
    return draft
