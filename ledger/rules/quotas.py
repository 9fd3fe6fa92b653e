"""Quotas: limits on what a tenant, or one holder of it, holds at once.

A quota is hard, unless its tenant is in a cohort: then it may borrow what the others leave unused, as
long as all together hold no more than their quotas come to. An owner gets its own at once where there is
room, whatever is lent; who borrows gives back only when that capacity is needed. Until then they hold
more together than their quotas come to. What draws on another allocation counts against no quota.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.amounts import format_amounts
from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.requests import Amounts
from ledger.rules.answers import No


def held(book: Book, tenant: str, holder: str | None, pool: str | None) -> Amounts:
    """What a tenant (or one holder of it) holds in a pool, or in all managed pools together."""
    pools = book.pools.values() if pool is None else [book.pools[pool]]
    totals: Amounts = {}
    for each in pools:
        for resource, amount in each.held.get((tenant, holder), {}).items():
            totals[resource] = totals.get(resource, 0) + amount
    return totals


def _cohort(book: Book, tenant: str, pool: str | None) -> tuple[Amounts, Amounts]:
    """(limits, held) of all tenants that share a cohort with this one.

    Of each only what it is limited in: what somebody has no limit for is neither lent nor borrowed.
    """
    name = book.cohorts[tenant, pool]
    limits: Amounts = {}
    has: Amounts = {}
    for (other, where), cohort in book.cohorts.items():
        if cohort != name or where != pool:
            continue
        holds = held(book, other, None, pool)
        for resource, limit in book.quotas.get((other, None, pool), {}).items():
            limits[resource] = limits.get(resource, 0) + limit
            has[resource] = has.get(resource, 0) + holds.get(resource, 0)
    return limits, has


def over_quota(
    book: Book,
    tenant: str,
    holder: str,
    pool: str,
    more: Amounts,
    *,
    ever: bool = False,
    holder_only: bool = False,
) -> No | None:
    """Why ``more`` would break a quota, or None.

    With ``ever``: even if nothing else were held. With ``holder_only`` the tenant's own quota does
    not count, since what changes hands within a tenant is no more than before.
    """
    if not book.quotas:
        return None
    for who in (holder,) if holder_only else (None, holder):
        over = _over(book, tenant, who, pool, more, ever)
        if over is not None:
            return over
    return None


def gang_over_quota(
    book: Book, pool: str, gang: Iterable[tuple[str, str, Amounts]], *, ever: bool = False
) -> No | None:
    """Why (tenant, holder, amounts) together would break a quota: a holder's, or the tenant's."""
    if not book.quotas:
        return None
    totals: dict[tuple[str, str | None], Amounts] = {}
    for tenant, holder, amounts in gang:
        for key in ((tenant, None), (tenant, holder)):
            total = totals.setdefault(key, {})
            for resource, amount in amounts.items():
                total[resource] = total.get(resource, 0) + amount
    for (tenant, who), more in totals.items():
        over = _over(book, tenant, who, pool, more, ever)
        if over is not None:
            return over
    return None


def quota_over(book: Book, waiting: Allocation) -> No | None:
    """Why its own quota holds a waiting request up, or None. The requests of a gang count together;
    what draws on another counts against no quota.
    """
    if waiting.request.parent is not None or not book.quotas:
        return None
    if waiting.gang is None:
        asked = waiting.request.amounts
        return over_quota(book, waiting.tenant, waiting.holder, waiting.pool, asked)
    space = book.pools[waiting.pool].space
    together = [book.allocations[each] for each in space.gangs[waiting.gang]]
    gang = [(a.tenant, a.holder, a.request.amounts) for a in together]
    return gang_over_quota(book, waiting.pool, gang)


def quota_blocks(book: Book, waiting: Allocation) -> bool:
    """Whether a waiting request is held up by its own quota rather than by capacity."""
    return quota_over(book, waiting) is not None


def _over(
    book: Book, tenant: str, who: str | None, pool: str, more: Amounts, ever: bool
) -> No | None:
    for where in (None, pool):
        limits = book.quotas.get((tenant, who, where))
        if limits is None:
            continue
        has = held(book, tenant, who, where)
        if who is None and (tenant, where) in book.cohorts:
            if all(has.get(r, 0) + more.get(r, 0) <= limit for r, limit in limits.items()):
                # Its own quota is its own, whatever others have borrowed of it.
                continue
            together, has = _cohort(book, tenant, where)
            limits = {resource: together[resource] for resource in limits}
        # Sorted, so that a book read back from a store names the same resource.
        for resource, limit in sorted(limits.items()):
            asked = more.get(resource, 0)
            counted = 0 if ever else has.get(resource, 0)
            if asked > 0 and counted + asked > limit:
                return _no(tenant, who, where, resource, limit, has, asked)
    return None


def headroom(book: Book, tenant: str, holder: str, pool: str, resource: str) -> int | None:
    """How much more of a resource quotas let a holder have, or None where none limits it."""
    rooms = []
    for who, where in ((None, None), (None, pool), (holder, None), (holder, pool)):
        limits = book.quotas.get((tenant, who, where), {})
        if resource not in limits:
            continue
        room = limits[resource] - held(book, tenant, who, where).get(resource, 0)
        if who is None and (tenant, where) in book.cohorts:
            together, has = _cohort(book, tenant, where)
            room = max(room, together[resource] - has.get(resource, 0))
        rooms.append(max(0, room))
    return min(rooms, default=None)


def in_common(book: Book, one: Allocation, other: Allocation, resource: str) -> bool:
    """Whether a quota limits both in a resource, so that what the one gets of it the other does not.

    Two of one tenant may have the tenant's in common, or the holder's; those of a cohort what they lend.
    """
    same = one.tenant == other.tenant
    for where in (None, one.pool):
        cohort = book.cohorts.get((one.tenant, where))
        kin = cohort is not None and cohort == book.cohorts.get((other.tenant, where))
        limited = [book.quotas.get((one.tenant, None, where), {})] if same or kin else []
        if same and one.holder == other.holder:
            limited.append(book.quotas.get((one.tenant, one.holder, where), {}))
        if any(resource in limits for limits in limited):
            return True
    return False


Leaving = dict[tuple[str, str | None], Amounts]
"""(tenant, pool or None for all pools) → what it holds but has been asked to give back."""


def borrows_from(book: Book, victim: Allocation, asking: Allocation, leaving: Leaving) -> bool:
    """Whether one allocation stands on quota that its tenant borrows, and the other's owns.

    The owner asks within its own quota; the borrower holds more than its own of a resource that is
    asked for, also when all that is ``leaving`` already has left.
    """
    if victim.tenant == asking.tenant:
        return False
    for where in (None, asking.pool):
        mine = book.cohorts.get((asking.tenant, where))
        if mine is None or book.cohorts.get((victim.tenant, where)) != mine:
            continue
        own = book.quotas.get((asking.tenant, None, where), {})
        has = held(book, asking.tenant, None, where)
        asked = asking.request.amounts
        if any(has.get(r, 0) + a > own[r] for r, a in asked.items() if r in own):
            continue
        theirs = book.quotas.get((victim.tenant, None, where), {})
        borrowed = held(book, victim.tenant, None, where)
        less = leaving.get((victim.tenant, where), {})
        if any(
            borrowed.get(r, 0) - less.get(r, 0) > theirs.get(r, 0)
            for r in asked
            if r in theirs and r in victim.amounts
        ):
            return True
    return False


def _no(
    tenant: str,
    holder: str | None,
    pool: str | None,
    resource: str,
    limit: int,
    has: Amounts,
    asked: int,
) -> No:
    whose = f"tenant {tenant}" if holder is None else f"holder {holder} of tenant {tenant}"
    where = "all pools" if pool is None else f"pool {pool}"
    holds = has.get(resource, 0)
    room = max(0, limit - holds)
    may, does, more = (format_amounts({resource: n})[resource] for n in (limit, holds, asked))
    return No(
        Reason.QUOTA_EXCEEDED,
        f"{whose} may hold {may} {resource} in {where}, holds {does} and asks for {more} more",
        "release something, ask for less, or have the quota raised (`leasebook quota set`)",
        shortfall={"quota": {resource: holds + asked - limit}},
        fits_now={resource: room} if room else {},
    )
