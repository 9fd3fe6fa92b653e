"""Admission: granting, queueing or refusing what is asked."""

from __future__ import annotations

from collections.abc import Collection

from ledger.book import Allocation, Book, Pool
from ledger.commands import Allocate
from ledger.errors import Reason
from ledger.events import Allocated, Cause, Queued, Refused, Reserved
from ledger.quick import dataclass
from ledger.requests import PRIORITIES, Placement
from ledger.rules.answers import Draft, No
from ledger.rules.claims import barred_for
from ledger.rules.duplicates import refusal, report, twin_of
from ledger.rules.elastic import make_room, stretch
from ledger.rules.explain import must_wait, never_fits, no_room
from ledger.rules.granting import total_of
from ledger.rules.leases import bounds
from ledger.rules.placement import Wish, place, seed_for, strategy_for
from ledger.rules.quotas import over_quota
from ledger.rules.waiting import in_the_way
from ledger.spaces import Space

Plan = tuple[Placement, ...] | None


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


def never(book: Book, command: Allocate) -> No | tuple[Pool, Space]:
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
    impossible = never_fits(space, request)
    return impossible if impossible is not None else (pool, space)


def _may_draw(book: Book, command: Allocate) -> bool:
    """Whether the parent is one that this tenant may draw on in this pool."""
    parent = command.request.parent
    if parent is None:
        return True
    allocation = book.allocations.get(parent)
    return (
        allocation is not None
        and allocation.state == "active"
        and allocation.tenant == command.tenant
        and allocation.pool == command.pool
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request goes now, and by which strategy."""

    placements: tuple[Placement, ...]
    strategy: str


def _not_now(
    book: Book, space: Space, draft: Draft, command: Allocate, cause: Cause, plan: Plan
) -> No | _Place:
    """Where the request goes now, or why it does not. May draft what makes room for it."""
    request = command.request
    pool = book.pools[command.pool]
    if request.parent is None:
        over = over_quota(book, command.tenant, command.holder, command.pool, request.amounts)
        if over is not None:
            return over
    barred: Collection[str] = ()
    if space.waiting:
        first = in_the_way(book, space, request.amounts, pool.policy.order)
        if first is not None:
            return must_wait(book, space, request, first, command.tenant)
        barred = barred_for(book, space, request.amounts)
    prefer: tuple[str, ...] = ()
    if request.sticky is not None:
        prefer = pool.sticky.get((command.tenant, request.sticky), ())
    seed = seed_for(request, pool.policy, command_of(cause))
    wish = Wish(request, strategy_for(request, pool.policy, seed), seed, barred, prefer)
    placements = place(space, pool.mix, wish) if plan is None else plan
    if placements is None:
        shrunk = make_room(book, space, draft, wish)
        if shrunk is None:
            return no_room(book, space, request, command.tenant, draft.now)
        placements = (shrunk,)
    elif request.most is not None and plan is None:
        placements = _stretch(book, space, command, placements)
    return _Place(placements, wish.strategy)


def _stretch(
    book: Book, space: Space, command: Allocate, placements: tuple[Placement, ...]
) -> tuple[Placement, ...]:
    """An elastic request takes what is free of its range."""
    asking = Allocation(
        "A0",
        0,
        "waiting",
        command.tenant,
        command.holder,
        command.task,
        command.pool,
        command.request,
        0,
        command.request.amounts,
    )
    return stretch(book, space, asking, placements)


def allocate(
    book: Book,
    draft: Draft,
    command: Allocate,
    cause: Cause,
    plan: Plan = None,
    upto: int | None = None,
) -> None:
    """Draft the outcome of a request: granted, waiting or refused. ``plan`` is where it is to go, as
    one of a batch that was packed together; ``upto`` the position after which its batch began.
    """
    found = never(book, command)
    if isinstance(found, No):
        refuse(draft, command, cause, found)
        return
    pool, space = found
    twin = twin_of(book, pool, command, upto)
    if twin is not None and pool.policy.duplicates == "refuse":
        refuse(draft, command, cause, refusal(twin))
        return
    request = command.request
    answer = _not_now(book, space, draft, command, cause, plan)
    if not isinstance(answer, No):
        _grant(pool, draft, command, cause, answer)
    elif request.wait_ns is None:
        refuse(draft, command, cause, answer)
    else:
        enqueue(pool, space, draft, command, cause, answer, None)
    if twin is not None and draft.events[-1].type != "refused":
        _report_twin(book, draft, twin)


def command_of(cause: Cause) -> str:
    """What a request's randomised choices are seeded with: its command's id and item."""
    return cause.command_id if cause.item is None else f"{cause.command_id}#{cause.item}"


def _report_twin(book: Book, draft: Draft, twin: Allocation) -> None:
    second = draft.events[-1].allocation
    assert second is not None
    alert = report(twin, second)
    if alert.alert not in book.alerts:
        draft.add(alert, tenant="")


def queue_full(pool: Pool, space: Space, more: int = 1) -> No | None:
    """Why no more requests may wait, or None."""
    limit = pool.policy.queue_limit
    if len(space.waiting) + more <= limit:
        return None
    return No(
        Reason.QUEUE_FULL,
        f"{len(space.waiting)} requests wait for {space.key} already, and {limit} may",
        "try again later",
    )


def enqueue(
    pool: Pool,
    space: Space,
    draft: Draft,
    command: Allocate,
    cause: Cause,
    why: No,
    gang: str | None,
) -> None:
    """Draft a place in the queue, or the refusal that it is full."""
    request = command.request
    assert request.wait_ns is not None
    full = queue_full(pool, space)
    if full is not None:
        refuse(draft, command, cause, full)
        return
    draft.add(
        Queued(
            request, draft.now + request.wait_ns, why.reason, why.shortfall, gang, command.asker
        ),
        tenant=command.tenant,
        pool=command.pool,
        allocation=f"A{draft.position + 1}",
        holder=command.holder,
        task=command.task,
        cause=cause,
        metadata=command.metadata,
    )


def _grant(pool: Pool, draft: Draft, command: Allocate, cause: Cause, place: _Place) -> None:
    request = command.request
    placements = place.placements
    amounts = total_of(placements)
    body: Allocated | Reserved
    if request.reserve_ns is not None:
        until = draft.now + request.reserve_ns
        body = Reserved(request, amounts, placements, until, None, place.strategy)
    else:
        lease_until, max_age_until = bounds(request, pool.policy, draft.now)
        body = Allocated(
            request, amounts, placements, lease_until, max_age_until, None, place.strategy
        )
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
