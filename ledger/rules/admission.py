"""Admission: granting, queueing or refusing what is asked."""

from __future__ import annotations

from ledger.book import Allocation, Book, Node, Pool, Space
from ledger.commands import Allocate
from ledger.errors import Reason
from ledger.events import Allocated, Cause, Queued, Refused, Reserved
from ledger.requests import CARD, PRIORITIES, Amounts, Placement, Request
from ledger.rules.answers import Draft, No
from ledger.rules.capacity import place_on
from ledger.rules.explain import must_wait, never_fits, no_room
from ledger.rules.leases import bounds
from ledger.rules.placement import place
from ledger.rules.quotas import over_quota
from ledger.rules.waiting import in_the_way


def refuse(draft: Draft, command: Allocate, cause: Cause | None, no: No) -> None:
    """Draft the refusal of a request, with the whole request in it."""
    draft.add(
        Refused(
            command.VERB,
            no.reason,
            no.message,
            no.hint,
            command.request,
            no.shortfall,
            no.fits_now,
            no.blockers,
        ),
        tenant=command.tenant,
        pool=command.pool,
        holder=command.holder,
        task=command.task,
        cause=cause,
        metadata=command.metadata,
    )


def _never(book: Book, command: Allocate) -> No | tuple[Pool, Space]:
    """Why this request can never be granted as things are set up; else where it would be placed."""
    pool = book.pools.get(command.pool)
    request = command.request
    if pool is None:
        known = ", ".join(sorted(book.pools)[:8]) or "none yet"
        return No(
            Reason.NO_SUCH_POOL,
            f"there is no pool {command.pool!r}",
            f"open it with `leasebook pool open`; there are: {known}",
        )
    if pool.kind == "observed":
        return No(
            Reason.OBSERVED_POOL,
            f"pool {pool.name} only records what happens elsewhere; it hands nothing out",
            "ask a managed pool",
        )
    if pool.closed:
        return No(
            Reason.NO_SUCH_POOL, f"pool {pool.name} is closed", "ask another pool, or open it again"
        )
    if PRIORITIES.index(request.priority) > PRIORITIES.index(pool.policy.max_priority):
        return No(
            Reason.PRIORITY_NOT_ALLOWED,
            f"pool {pool.name} takes priorities up to {pool.policy.max_priority}",
            f"ask with priority {pool.policy.max_priority} or lower",
        )
    space = book.space_of(command.pool, request.parent)
    if space is None or not _may_draw(book, command):
        return No(
            Reason.NO_SUCH_ALLOCATION,
            f"there is no active allocation {request.parent!r} in {pool.name} to draw on",
            "ask without a parent",
        )
    if request.parent is None:
        over = over_quota(
            book, command.tenant, command.holder, pool.name, request.amounts, ever=True
        )
        if over is not None:
            return over
    never = never_fits(space, request)
    return never if never is not None else (pool, space)


def _may_draw(book: Book, command: Allocate) -> bool:
    """Whether the parent is one that this tenant may draw on in this pool."""
    parent = command.request.parent
    if parent is None:
        return True
    allocation = book.allocations.get(parent)
    return (
        allocation is not None
        and allocation.tenant == command.tenant
        and allocation.pool == command.pool
    )


def _not_now(
    book: Book, space: Space, command: Allocate, strategy: str
) -> No | tuple[Placement, ...]:
    """Where the request goes now, or why it does not."""
    request = command.request
    if request.parent is None:
        over = over_quota(book, command.tenant, command.holder, command.pool, request.amounts)
        if over is not None:
            return over
    if space.waiting:
        first = in_the_way(book, space, request.amounts)
        if first is not None:
            return must_wait(book, space, request, first, command.tenant)
    placements = place(space.nodes.values(), request, request.amounts, strategy)
    if placements is None:
        return no_room(book, space, request, command.tenant)
    return placements


def allocate(book: Book, draft: Draft, command: Allocate, cause: Cause | None) -> None:
    """Draft the outcome of a request: granted, waiting or refused."""
    found = _never(book, command)
    if isinstance(found, No):
        refuse(draft, command, cause, found)
        return
    pool, space = found
    request = command.request
    strategy = request.strategy or pool.policy.strategy
    answer = _not_now(book, space, command, strategy)
    if not isinstance(answer, No):
        _grant(pool, draft, command, cause, answer, strategy)
        return
    if request.wait_ns is None:
        refuse(draft, command, cause, answer)
        return
    if len(space.waiting) >= pool.policy.queue_limit:
        full = No(
            Reason.QUEUE_FULL,
            f"{len(space.waiting)} requests wait for {space.key} already",
            "try again later",
        )
        refuse(draft, command, cause, full)
        return
    draft.add(
        Queued(request, draft.now + request.wait_ns, answer.reason, answer.shortfall),
        tenant=command.tenant,
        pool=command.pool,
        allocation=f"A{draft.position + 1}",
        holder=command.holder,
        task=command.task,
        cause=cause,
        metadata=command.metadata,
    )


def _grant(
    pool: Pool,
    draft: Draft,
    command: Allocate,
    cause: Cause | None,
    placements: tuple[Placement, ...],
    strategy: str,
) -> None:
    request = command.request
    amounts = request.amounts
    body: Allocated | Reserved
    if request.reserve_ns is not None:
        body = Reserved(
            request, amounts, placements, draft.now + request.reserve_ns, None, strategy
        )
    else:
        lease_until, max_age_until = bounds(request, pool.policy, draft.now)
        body = Allocated(request, amounts, placements, lease_until, max_age_until, None, strategy)
    draft.add(
        body,
        tenant=command.tenant,
        pool=command.pool,
        allocation=f"A{draft.position + 1}",
        holder=command.holder,
        task=command.task,
        cause=cause,
        metadata=command.metadata,
    )


def adjustment(
    book: Book, allocation: Allocation, amounts: Amounts
) -> No | tuple[Amounts, tuple[Placement, ...]]:
    """The amounts and placements after an adjust, on the same node and cards; or why not.

    ``amounts`` names the resources that change; 0 gives a resource up.
    """
    wanted = {r: a for r, a in {**allocation.amounts, **amounts}.items() if a}
    more = {r: a - allocation.amounts.get(r, 0) for r, a in wanted.items()}
    more = {r: a for r, a in more.items() if a > 0}
    space = book.space_of(allocation.pool, allocation.request.parent)
    assert space is not None
    if not wanted:
        return No(Reason.INVALID, f"{allocation.id} would hold nothing", "release it instead")
    if len(allocation.placements) != 1:
        return No(
            Reason.INVALID,
            f"{allocation.id} stands on {len(allocation.placements)} nodes and cannot be adjusted",
            "release it and ask anew",
        )
    lent = book.lent.get(allocation.id)
    lent_use = {} if lent is None else lent.nodes[allocation.placements[0].node].in_use
    for resource, amount in lent_use.items():
        if amount > wanted.get(resource, 0):
            return No(
                Reason.INSUFFICIENT_CAPACITY,
                f"{amount} base units of {allocation.id}'s {resource} are lent to what draws on it",
                "let those end first",
                shortfall={allocation.id: {resource: amount - wanted.get(resource, 0)}},
            )
    node = space.nodes[allocation.placements[0].node]
    if more:
        refusal = _may_grow(book, space, allocation, wanted, more)
        if refusal is not None:
            return refusal
    old = allocation.placements[0]
    placement = _place_on_same(node, old, wanted, unconditional=not more)
    if placement is None:
        request = Request(more, select=None)
        return no_room(book, _only(space, old.node), request, allocation.tenant)
    return wanted, (placement,)


def _may_grow(
    book: Book, space: Space, allocation: Allocation, wanted: Amounts, more: Amounts
) -> No | None:
    if allocation.request.parent is None:
        over = over_quota(book, allocation.tenant, allocation.holder, allocation.pool, more)
        if over is not None:
            return over
    never = never_fits(_only(space, allocation.placements[0].node), Request(wanted))
    if never is not None:
        return never
    first = in_the_way(book, space, more)
    if first is not None:
        return must_wait(book, space, Request(more), first, allocation.tenant)
    return None


def _only(space: Space, node: str) -> Space:
    return Space(space.key, {node: space.nodes[node]})


def _place_on_same(
    node: Node, old: Placement, wanted: Amounts, *, unconditional: bool
) -> Placement | None:
    """The new placement on the node that holds the old one, on the old one's cards where it can.

    A shrinking allocation always succeeds (``unconditional``), also on a node that a resize has
    left over-committed: only then can it heal. So it is placed as if the node had grown to fit.
    """
    without = node.plus(old, -1)
    if unconditional:
        without = _roomy(without, node.in_use, old)
    return place_on(without, wanted, old.devices)


def _roomy(node: Node, in_use: Amounts, old: Placement) -> Node:
    capacity = {r: max(node.capacity.get(r, 0), amount) for r, amount in in_use.items()}
    cards = {r: dict(there) for r, there in node.cards.items()}
    for resource, shares in (old.devices or {}).items():
        for card, amount in shares.items():
            cards.setdefault(resource, {}).setdefault(card, max(amount, CARD))
    return Node(
        node.name, capacity, node.labels, cards, node.in_use, node.cards_in_use, node.cordoned
    )
