"""Hold and wait: holders that wait for each other's capacity in a circle, so that none will move."""

from __future__ import annotations

from ledger.book import LIVE, Allocation, Book
from ledger.events import AlertRaised
from ledger.rules.answers import Draft
from ledger.rules.explain import nearest_node

HOLDERS_MAX = 1_000
"""How many holders one search follows."""

Holder = tuple[str, str]


def _holders_in_the_way(book: Book, waiting: Allocation) -> set[Holder]:
    """Who holds what a waiting request lacks, on the node that is nearest to taking it."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    node = None if space is None else nearest_node(space, waiting.request)
    if node is None:
        return set()
    return {
        (a.tenant, a.holder)
        for a in book.allocations.values()
        if a.state in LIVE
        and a.pool == waiting.pool
        and a.request.parent == waiting.request.parent
        and not a.amounts.keys().isdisjoint(waiting.request.amounts)
        and any(p.node == node.name for p in a.placements)
    }


def find_cycle(book: Book, start: Holder) -> list[Holder] | None:
    """A circle of holders, each waiting for the next, that ``start`` is part of; else None."""

    def waits_for(holder: Holder) -> set[Holder]:
        found: set[Holder] = set()
        for allocation_id in book.by_holder.get(holder, {}):
            a = book.allocations[allocation_id]
            if a.state == "waiting":
                found |= _holders_in_the_way(book, a)
        return found - {holder}

    came_from: dict[Holder, Holder] = {}
    frontier = [start]
    while frontier and len(came_from) < HOLDERS_MAX:
        holder = frontier.pop()
        for other in sorted(waits_for(holder)):
            if other == start:
                path = [holder]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if other not in came_from:
                came_from[other] = holder
                frontier.append(other)
    return None


def alert_for(book: Book, waiting: Allocation, now: int) -> Draft | None:
    """The alert that a request which has just begun to wait closes a circle, or None."""
    holds = any(
        book.allocations[each].state in LIVE
        for each in book.by_holder.get((waiting.tenant, waiting.holder), {})
    )
    if not holds:
        return None
    cycle = find_cycle(book, (waiting.tenant, waiting.holder))
    if cycle is None:
        return None
    names = [holder for _, holder in cycle]
    alert = "hold_and_wait:" + ",".join(sorted(names))
    if alert in book.alerts:
        return None
    circle = " waits for ".join([*names, names[0]])
    draft = Draft(book, now)
    draft.add(
        AlertRaised(
            alert[:200],
            f"{circle}: none of them can go on until one gives something back",
            {"holders": names, "closed_by": waiting.id},
        ),
        tenant="",
    )
    return draft
