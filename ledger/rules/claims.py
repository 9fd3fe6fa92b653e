"""Claims: nodes that are kept for a request which has waited or was overtaken for long enough.

One node for a request that lands whole, as many as it needs for a gang or a spread. That is what bounds
a wait: on a claimed node nothing lands that competes with the claimant, so it waits for no more than
what is held there now. A claim ends with the wait, and it is given up where it has become useless: where
the nodes cannot take the request any more, or its own quota holds it up.

Nobody has some of the nodes that it needs: all at once, or none. So no two wait for each other. A gang
that finds too few nodes without a claim keeps those behind it from claiming more of them, and gets its
own when those who have claims have been served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.events import Queued
from ledger.identity import ProcessIdentity
from ledger.nodes import Node
from ledger.requests import Amounts, Request
from ledger.rules.answers import Draft
from ledger.rules.budgets import spent_for_good
from ledger.rules.capacity import carries, fits_beside_others, fits_empty, short_by
from ledger.rules.gangs import is_several, requests_of, room_for, total, wants
from ledger.rules.keeping import missing_on, nodes_for, plan_on, usable
from ledger.rules.quotas import quota_blocks
from ledger.spaces import Space

Kept = dict[str, Amounts]
"""Node that is kept → what is missing on it."""

IN_VAIN_MAX = 8
"""How many that need several nodes may find too few of them, before others like them must wait."""
NEVER_MAX = 100
"""The same for those that the pool cannot take at all as it is now."""
REMEMBERED_MAX = 1_000

_NOBODYS: frozenset[str] = frozenset()


def compete(one: Collection[str], other: Collection[str]) -> bool:
    """Whether two requests (their amounts, or the resources in them) want a resource in common."""
    return any(resource in other for resource in one)


def _is_fair(book: Book, waiting: str) -> bool:
    return book.pools[book.allocations[waiting].pool].policy.order == "fair"


def barred_for(
    book: Book, space: Space, amounts: Collection[str], own: Allocation | None = None
) -> frozenset[str]:
    """The nodes that are kept for others than ``own`` who compete with these amounts.

    In strict order nothing passes anyhow: a claim that was made before would only hold up the first.
    """
    if not space.claims or not _is_fair(book, next(iter(space.claims.values()))):
        return _NOBODYS
    key = frozenset(amounts)
    barred = space.barred.get(key)
    if barred is None:
        names: set[str] = set()
        for claimant in dict.fromkeys(space.claims.values()):
            waiting = book.allocations[claimant]
            if compete(wants(book, space, waiting), key):
                names.update(waiting.claims)
        barred = space.barred[key] = frozenset(names)
    return barred.difference(own.claims) if own is not None and own.claims else barred


def next_late_claim(book: Book, space: Space, now: int) -> Draft | None:
    """The next request that has waited long enough, and has room, but stands so far behind that one
    pass does not look at it: with a claim it is looked at. None where there is none. Somebody waits.
    """
    pool = book.pools[book.allocations[next(iter(space.waiting))].pool]
    if len(space.waiting) <= pool.policy.backfill_depth:
        return None
    return next_claim(book, space, now, late=True)


def claim_before(book: Book, space: Space, taker: Allocation, now: int) -> Draft | None:
    """The claim of the next request that is due one and has room, and that ``taker`` would pass by a
    grant now: its turn would come too late. None where there is none.
    """
    return next_claim(book, space, now, late=True, taker=taker)


def next_claim(
    book: Book, space: Space, now: int, *, late: bool = False, taker: Allocation | None = None
) -> Draft | None:
    """The next request for which nodes are due to be kept, or from which they are taken; else None.
    Somebody waits.

    Both measures grow with age, so the look ends at the first request that has neither. Where nothing
    is missing a request is served in its turn and needs no claim (but see :func:`next_late_claim` and
    :func:`claim_before`, which looks at those who came before a ``taker`` and compete with it).
    """
    fair = _is_fair(book, next(iter(space.waiting)))
    useless = _useless(book, space, now) if space.claims else None
    if useless is not None:
        kept = None
        if fair and _is_aged(book, space, useless, now) and not quota_blocks(book, useless):
            ahead = _awaited_ahead(book, space, useless, now)
            kept = _nodes_lacking(book, space, useless, ahead, late=False)
        return claim(book, useless, kept or {}, now)
    if not fair or len(space.claims) >= len(space.nodes):
        return None
    in_vain = _all_have_claims(space)
    wanted = set() if taker is None else wants(book, space, taker)
    awaited: set[str] = set()
    short = never = 0
    for waiting_id in space.waiting:
        if len(in_vain) >= len(space.alike):
            return None
        waiting = book.allocations[waiting_id]
        if taker is not None and waiting.position >= taker.position:
            return None
        shape = space.shapes[waiting_id]
        if waiting.gang is not None:
            # Its first member stands for it, and nobody else is of its shape.
            in_vain.add(shape)
            if waiting.gang != waiting_id:
                continue
        elif shape in in_vain:
            continue
        if not _is_aged(book, space, waiting, now):
            return None
        if waiting.claims or quota_blocks(book, waiting):
            continue
        if taker is not None and not compete(wants(book, space, waiting), wanted):
            continue
        if is_several(waiting) and (short >= IN_VAIN_MAX or never >= NEVER_MAX):
            in_vain.add(shape)
            continue
        kept = _nodes_lacking(book, space, waiting, awaited, late=late)
        if kept:
            return claim(book, waiting, kept, now)
        in_vain.add(shape)
        if kept is None and is_several(waiting):
            mine = _awaited_by(book, space, waiting)
            awaited |= mine
            short += bool(mine)
            never += not mine
    return None


def _all_have_claims(space: Space) -> set[tuple[object, ...]]:
    """The shapes of which nobody waits without a claim."""
    counts = Counter(space.shapes[each] for each in set(space.claims.values()))
    return {shape for shape, count in counts.items() if count == space.alike[shape]}


def _is_aged(book: Book, space: Space, waiting: Allocation, now: int) -> bool:
    policy = book.pools[waiting.pool].policy
    return (
        now - waiting.requested_at >= policy.claim_after_ns
        or space.overtaken(waiting.position) >= policy.overtakes_max
    )


def _useless(book: Book, space: Space, now: int) -> Allocation | None:
    """The first claimant that its nodes serve no more; they are only looked at when they changed."""
    if not book.quotas and space.claims_checked == space.generation:
        return None
    # What is spent of a budget changes no node's size.
    settled = not _is_budget(book, space)
    for claimant in sorted(set(space.claims.values()), key=lambda each: int(each[1:])):
        waiting = book.allocations[claimant]
        if not _serves(book, space, waiting) or quota_blocks(book, waiting):
            return waiting
        if not is_several(waiting):
            amounts = waiting.request.amounts
            if not fits_beside_others(space.nodes[waiting.claims[0]], amounts):
                node = _nearest(space, waiting, _awaited_ahead(book, space, waiting, now))
                if node is not None and fits_beside_others(node, amounts):
                    return waiting
                # Another node may be free of claims sooner than a node changes.
                settled = False
    if settled:
        space.claims_checked = space.generation
    return None


def _serves(book: Book, space: Space, waiting: Allocation) -> bool:
    """Whether the nodes that are kept for a request can take it, once they are empty."""
    if space.claims_checked == space.generation:
        return True
    if not _has_left(book, space, waiting, waiting.claims):
        return False
    if is_several(waiting):
        return plan_on(space, waiting.claims, requests_of(book, space, waiting)) is not None
    return _takes(space.nodes.get(waiting.claims[0]), waiting)


def _is_budget(book: Book, space: Space) -> bool:
    """Whether what is waited for in a space is spent when it is held. Somebody waits."""
    pool = book.pools[book.allocations[next(iter(space.waiting))].pool]
    return pool.consumable and space.parent is None


def _has_left(book: Book, space: Space, waiting: Allocation, names: Collection[str]) -> bool:
    """Whether what was spent of these nodes for good leaves enough for all that waits in one place."""
    if not _is_budget(book, space):
        return True
    pool = book.pools[waiting.pool]
    left: Amounts = {}
    for name in space.nodes.keys() & names:
        gone = spent_for_good(pool, name)
        for resource, amount in space.nodes[name].capacity.items():
            left[resource] = left.get(resource, 0) + amount - gone.get(resource, 0)
    return all(left.get(r, 0) >= amount for r, amount in total(book, waiting).items())


def claim(
    book: Book, waiting: Allocation, kept: Kept, now: int, position: int | None = None
) -> Draft:
    """Draft the fact that nodes are kept for a waiting request, or none any more, after ``position``."""
    draft = Draft(book, now)
    if position is not None:
        draft.position = position
    draft.on(waiting, restated(waiting, kept, waiting.asker))
    return draft


def restated(waiting: Allocation, kept: Kept, asker: ProcessIdentity | None) -> Queued:
    """The fact that a request waits on: with these nodes kept, and this process waiting for it."""
    assert waiting.deadline is not None
    reason = Reason.RESERVED_FOR_WAITING
    return Queued(waiting.request, waiting.deadline, reason, kept, waiting.gang, asker)


def kept_for(book: Book, waiting: Allocation) -> Kept:
    """The nodes that are kept for a waiting request, and what is missing on them."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    if space is None or not waiting.claims:
        return {}
    if is_several(waiting):
        plan = plan_on(space, waiting.claims, requests_of(book, space, waiting))
        lacks = {} if plan is None else missing_on(space, plan)
        return {node: lacks.get(node, {}) for node in waiting.claims}
    there = [n for n in waiting.claims if n in space.nodes]
    return {n: short_by(space.nodes[n], waiting.request.amounts) for n in there}


def _nodes_lacking(
    book: Book, space: Space, waiting: Allocation, awaited: set[str], *, late: bool
) -> Kept | None:
    """The nodes to keep for a request, and what is missing on them. Empty where it has room and needs
    no claim; None where no nodes without a claim could take it. None of those that are ``awaited``.
    """
    if not is_several(waiting):
        node = _nearest(space, waiting, awaited)
        if node is None or not _has_left(book, space, waiting, (node.name,)):
            return None
        missing = short_by(node, waiting.request.amounts)
        return {node.name: missing} if late or missing else {}
    taken = {name for name, who in space.claims.items() if who != waiting.id} | awaited
    requests = requests_of(book, space, waiting)
    names = _nodes_for(space, waiting, requests, frozenset(taken))
    if names is None or not _has_left(book, space, waiting, names):
        return None
    barred = barred_for(book, space, wants(book, space, waiting), waiting)
    if not late and room_for(book, space, book.pools[waiting.pool], waiting, barred) is not None:
        return {}
    plan = plan_on(space, names, requests)
    assert plan is not None
    return missing_on(space, plan)


def _awaited_by(book: Book, space: Space, waiting: Allocation) -> frozenset[str]:
    """The nodes that those behind must not claim, so that there are enough in the end."""
    seen = space.awaited.get(waiting.id)
    if seen is not None and seen[0] == space.generation:
        return seen[1]
    requests = requests_of(book, space, waiting)
    awaited = _NOBODYS
    if _has_left(book, space, waiting, space.nodes) and nodes_for(space, requests, ()) is not None:
        awaited = frozenset(usable(space, requests))
    space.awaited[waiting.id] = (space.generation, awaited)
    return awaited


def _awaited_ahead(book: Book, space: Space, claimant: Allocation, now: int) -> set[str]:
    """The nodes that a claim which moves must leave alone: those ahead of it find too few as it is."""
    awaited: set[str] = set()
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        if waiting.position >= claimant.position or not _is_aged(book, space, waiting, now):
            break
        stands = waiting.gang in (None, waiting_id) and not waiting.claims
        if not stands or not is_several(waiting) or quota_blocks(book, waiting):
            continue
        if _nodes_lacking(book, space, waiting, awaited, late=False) is None:
            awaited |= _awaited_by(book, space, waiting)
    return awaited


def _nodes_for(
    space: Space, waiting: Allocation, requests: list[Request], taken: frozenset[str]
) -> frozenset[str] | None:
    """As :func:`ledger.rules.keeping.nodes_for`, remembering what was in vain: only the sizes of nodes
    and who has claimed them count for that.
    """
    key = (waiting.id, taken)
    if space.claims_in_vain.get(key) == space.generation:
        return None
    names = nodes_for(space, requests, taken)
    if names is None:
        if len(space.claims_in_vain) >= REMEMBERED_MAX:
            space.claims_in_vain.clear()
        space.claims_in_vain[key] = space.generation
    return names


def _takes(node: Node | None, waiting: Allocation) -> bool:
    return (
        node is not None
        and not node.cordoned
        and carries(node, waiting.request.select)
        and fits_empty(node, waiting.request.amounts)
    )


def _nearest(space: Space, waiting: Allocation, awaited: set[str]) -> Node | None:
    """The node on which least is missing that nobody has claimed; by name where that is equal.

    One that outside use makes too small for it only where there is no other.
    """
    amounts = waiting.request.amounts
    best: tuple[bool, int, str] | None = None
    chosen = None
    for node in space.nodes.values():
        if node.name in space.claims or node.name in awaited or not _takes(node, waiting):
            continue
        missing = short_by(node, amounts)
        share = sum(lack * 1_000_000 // amounts[r] for r, lack in missing.items())
        rank = (not fits_beside_others(node, amounts), share, node.name)
        if best is None or rank < best:
            best, chosen = rank, node
    return chosen
