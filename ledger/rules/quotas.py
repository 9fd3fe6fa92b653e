"""Quotas: hard limits on what a tenant, or one holder of it, holds at once."""

from __future__ import annotations

from ledger.book import Book
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
        for where in (None, pool):
            limits = book.quotas.get((tenant, who, where))
            if limits is None or (where is not None and where not in book.pools):
                continue
            has = {} if ever else held(book, tenant, who, where)
            for resource, limit in limits.items():
                asked = more.get(resource, 0)
                excess = has.get(resource, 0) + asked - limit
                if asked > 0 and excess > 0:
                    return _no(tenant, who, where, resource, limit, has, asked, excess)
    return None


def _no(
    tenant: str,
    holder: str | None,
    pool: str | None,
    resource: str,
    limit: int,
    has: Amounts,
    asked: int,
    excess: int,
) -> No:
    whose = f"tenant {tenant}" if holder is None else f"holder {holder} of tenant {tenant}"
    where = "all pools" if pool is None else f"pool {pool}"
    room = max(0, limit - has.get(resource, 0))
    return No(
        Reason.QUOTA_EXCEEDED,
        f"{whose} may hold {limit} base units of {resource} in {where}, holds"
        f" {has.get(resource, 0)} and asks for {asked} more",
        "release something, ask for less, or have the quota raised (`leasebook quota set`)",
        shortfall={"quota": {resource: excess}},
        fits_now={resource: room} if room else {},
    )
