"""Claims: a node that is kept for a request which has waited or was overtaken for long enough.

That is what bounds a wait: on a claimed node nothing lands that competes with the claimant, so it
waits for no more than what is held there now. A claim ends with the wait, and it is given up where it
has become useless: where the node cannot take the request any more, or its own quota holds it up.
"""

from __future__ import annotations

from collections import Counter

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.events import Queued
from ledger.nodes import Node
from ledger.requests import Amounts
from ledger.rules.answers import Draft
from ledger.rules.capacity import carries, fits_empty, short_by
from ledger.rules.gangs import members
from ledger.rules.quotas import gang_over_quota, over_quota
from ledger.spaces import Space


def compete(one: Amounts, other: Amounts) -> bool:
    """Whether two requests want a resource in common."""
    return not one.keys().isdisjoint(other)


def quota_blocks(book: Book, waiting: Allocation) -> bool:
    """Whether a waiting request is held up by its own quota rather than by capacity."""
    if waiting.request.parent is not None or not book.quotas:
        return False
    if waiting.gang is not None:
        space = book.pools[waiting.pool].space
        gang = [(a.tenant, a.holder, a.request.amounts) for a in members(book, space, waiting.gang)]
        return gang_over_quota(book, waiting.pool, gang) is not None
    asked = waiting.request.amounts
    return over_quota(book, waiting.tenant, waiting.holder, waiting.pool, asked) is not None


def _is_fair(book: Book, waiting: str) -> bool:
    return book.pools[book.allocations[waiting].pool].policy.order == "fair"


def barred_for(book: Book, space: Space, amounts: Amounts, own: str | None = None) -> set[str]:
    """The nodes that are kept for others who compete with these amounts.

    In strict order nothing passes anyhow: a claim that was made before would only hold up the first.
    """
    if not space.claims or not _is_fair(book, next(iter(space.claims.values()))):
        return set()
    return {
        node
        for node, claimant in space.claims.items()
        if claimant != own and compete(book.allocations[claimant].request.amounts, amounts)
    }


def next_late_claim(book: Book, space: Space, now: int) -> Draft | None:
    """The next request that has waited long enough, and has room, but stands so far behind that one
    pass does not look at it: with a claim it is looked at. None where there is none.
    """
    if not space.waiting:
        return None
    pool = book.pools[book.allocations[next(iter(space.waiting))].pool]
    if len(space.waiting) <= pool.policy.backfill_depth:
        return None
    return next_claim(book, space, now, late=True)


def next_claim(book: Book, space: Space, now: int, *, late: bool = False) -> Draft | None:
    """The next request to which a node is due to be kept, or from which one is taken; else None.

    Both measures grow with age, so the look ends at the first request that has neither. Where nothing
    is missing a request is served in its turn and needs no claim (but see :func:`next_late_claim`).
    """
    if not space.waiting or not _is_fair(book, next(iter(space.waiting))):
        return None
    useless = _useless(book, space)
    if useless is not None:
        node = _nearest(space, useless) if _is_aged(book, space, useless, now) else None
        if node is not None and (quota_blocks(book, useless) or not _lacks(node, useless)):
            node = None
        return claim(book, useless, node, now)
    if len(space.claims) >= len(space.nodes):
        return None
    without_node = _all_have_claims(space)
    for waiting_id in space.waiting:
        if len(without_node) >= len(space.alike):
            return None
        waiting = book.allocations[waiting_id]
        shape = space.shapes[waiting_id]
        if waiting.gang is not None or waiting.request.spread is not None:
            without_node.add(shape)
            continue
        if not _is_aged(book, space, waiting, now):
            return None
        if waiting.claim is not None or shape in without_node or quota_blocks(book, waiting):
            continue
        node = _nearest(space, waiting)
        if node is None or not (late or _lacks(node, waiting)):
            without_node.add(shape)
            continue
        return claim(book, waiting, node, now)
    return None


def _all_have_claims(space: Space) -> set[tuple[object, ...]]:
    """The shapes of which nobody waits without a claim."""
    counts = Counter(space.shapes[each] for each in space.claims.values())
    return {shape for shape, count in counts.items() if count == space.alike[shape]}


def _is_aged(book: Book, space: Space, waiting: Allocation, now: int) -> bool:
    policy = book.pools[waiting.pool].policy
    return (
        now - waiting.requested_at >= policy.claim_after_ns
        or space.overtaken(waiting.position) >= policy.overtakes_max
    )


def _useless(book: Book, space: Space) -> Allocation | None:
    """The first claimant that its node can serve no more; nodes are only looked at when they changed."""
    if not book.quotas and space.claims_checked == space.generation:
        return None
    for claimant in sorted(space.claims.values(), key=lambda each: int(each[1:])):
        waiting = book.allocations[claimant]
        assert waiting.claim is not None
        if not _takes(space.nodes.get(waiting.claim), waiting) or quota_blocks(book, waiting):
            return waiting
    space.claims_checked = space.generation
    return None


def claim(
    book: Book, waiting: Allocation, node: Node | None, now: int, position: int | None = None
) -> Draft:
    """Draft the fact that a node is kept for a waiting request, or none any more, after ``position``."""
    assert waiting.deadline is not None
    draft = Draft(book, now)
    if position is not None:
        draft.position = position
    kept = {} if node is None else {node.name: short_by(node, waiting.request.amounts)}
    body = Queued(
        waiting.request, waiting.deadline, Reason.RESERVED_FOR_WAITING, kept, waiting.gang
    )
    draft.on(waiting, body)
    return draft


def _lacks(node: Node, waiting: Allocation) -> bool:
    return bool(short_by(node, waiting.request.amounts))


def _takes(node: Node | None, waiting: Allocation) -> bool:
    return (
        node is not None
        and not node.cordoned
        and carries(node, waiting.request.select)
        and fits_empty(node, waiting.request.amounts)
    )


def _nearest(space: Space, waiting: Allocation) -> Node | None:
    """The node on which least is missing that nobody has claimed; by name where that is equal."""
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
