"""Claims: a node that is kept for a request which has waited or was overtaken for long enough.

That is what bounds a wait: on a claimed node nothing lands that competes with the claimant, so it
waits for no more than what is held there now.
"""

from __future__ import annotations

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.events import Queued
from ledger.nodes import Node
from ledger.requests import Amounts
from ledger.rules.answers import Draft
from ledger.rules.capacity import carries, fits_empty, short_by
from ledger.rules.gangs import total
from ledger.rules.quotas import over_quota
from ledger.spaces import Space


def compete(one: Amounts, other: Amounts) -> bool:
    """Whether two requests want a resource in common."""
    return not one.keys().isdisjoint(other)


def quota_blocks(book: Book, waiting: Allocation) -> bool:
    """Whether a waiting request is held up by its own quota rather than by capacity."""
    if waiting.request.parent is not None or not book.quotas:
        return False
    asked = total(book, waiting) if waiting.gang else waiting.request.amounts
    return over_quota(book, waiting.tenant, waiting.holder, waiting.pool, asked) is not None


def barred_for(book: Book, space: Space, amounts: Amounts, own: str | None = None) -> set[str]:
    """The nodes that are kept for others who compete with these amounts."""
    if not space.claims:
        return set()
    return {
        node
        for node, claimant in space.claims.items()
        if claimant != own and compete(book.allocations[claimant].request.amounts, amounts)
    }


def next_claim(book: Book, space: Space, now: int) -> Draft | None:
    """The next request to which a node is due to be kept, or None.

    Both measures grow with age, so the look ends at the first request that has neither. A claim on a
    node that can no longer take the request moves to another.
    """
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        policy = book.pools[waiting.pool].policy
        if policy.order != "fair" or waiting.gang is not None or waiting.request.spread is not None:
            continue
        if (
            space.overtaken(waiting.position) < policy.overtakes_max
            and now - waiting.requested_at < policy.claim_after_ns
        ):
            return None
        if waiting.claim is not None and _takes(space.nodes.get(waiting.claim), waiting):
            continue
        if quota_blocks(book, waiting):
            continue
        node = _nearest(book, space, waiting)
        # Where nothing is missing it will be served in its turn, and needs no claim.
        if node is not None and short_by(node, waiting.request.amounts):
            return claim(book, waiting, node, now)
    return None


def claim(
    book: Book, waiting: Allocation, node: Node, now: int, position: int | None = None
) -> Draft:
    """Draft the fact that a node is kept for a waiting request, as the event after ``position``."""
    assert waiting.deadline is not None
    draft = Draft(book, now)
    if position is not None:
        draft.position = position
    missing = short_by(node, waiting.request.amounts)
    body = Queued(
        waiting.request,
        waiting.deadline,
        Reason.RESERVED_FOR_WAITING,
        {node.name: missing},
        waiting.gang,
    )
    draft.on(waiting, body)
    return draft


def _takes(node: Node | None, waiting: Allocation) -> bool:
    return (
        node is not None
        and not node.cordoned
        and carries(node, waiting.request.select)
        and fits_empty(node, waiting.request.amounts)
    )


def _nearest(book: Book, space: Space, waiting: Allocation) -> Node | None:
    """The node on which least is missing that nobody who competes has claimed; by name when equal."""
    amounts = waiting.request.amounts
    best: tuple[int, str] | None = None
    chosen = None
    for node in space.nodes.values():
        if node.name in space.claims or not _takes(node, waiting):
            continue
        missing = short_by(node, amounts)
        share = sum(lack * 1_000_000 // amounts[r] for r, lack in missing.items())
        if best is None or (share, node.name) < best:
            best, chosen = (share, node.name), node
    return chosen
