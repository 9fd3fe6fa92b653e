"""Tables ``tenants`` (what each holds, beside its quota) and ``quotas`` (all limits that are set)."""

from __future__ import annotations

from typing import ClassVar

from projections.tables.base import (
    BEYOND,
    ENDS,
    GRANTS,
    MOVES,
    Handler,
    Projection,
    Rows,
    Seen,
    Table,
    each,
)

TENANTS = Table(
    "tenants",
    {
        "tenant": "TEXT",
        "pool": "TEXT",
        "resource": "TEXT",
        "held": "INTEGER",
        "quota": "INTEGER",
        BEYOND: "TEXT",
    },
    ("tenant", "pool", "resource"),
    sums=("held",),
)
QUOTAS = Table(
    "quotas",
    {
        "tenant": "TEXT",
        "holder": "TEXT",
        "pool": "TEXT",
        "resource": "TEXT",
        "quota": "INTEGER",
        "cohort": "TEXT",
        "set_at": "INTEGER",
        "position": "INTEGER",
    },
    ("tenant", "holder", "pool", "resource"),
)

ALL = ""
"""Stands for all pools, and for a tenant's holders together."""


class Tenants(Projection):
    """What tenants hold now and may hold. Pool ``''`` is all managed pools together.

    A quota is for the tenant as a whole where its holder is ``''``; only those stand in ``tenants``.
    ``held`` stops at 2⁶³ − 1, where ``beyond`` has what it is.
    """

    name: ClassVar[str] = "tenants"
    version: ClassVar[int] = 2
    tables: ClassVar[tuple[Table, ...]] = (TENANTS, QUOTAS)

    def __init__(self) -> None:
        self._tenants = Rows(TENANTS)
        self._quotas = Rows(QUOTAS)
        self.rows = {"tenants": self._tenants, "quotas": self._quotas}

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {**each((*GRANTS, *ENDS, *MOVES), self._flow), "quota_set": self._quota_set}

    def _add(self, tenant: str, pool: str, resource: str, amount: int) -> None:
        key = (tenant, pool, resource)
        row = self._tenants.change(key)
        if row is None:
            row = self._tenants.new(tenant=tenant, pool=pool, resource=resource, held=0)
            self._tenants.put(key, row)
        row["held"] += amount

    def _flow(self, e: Seen) -> None:
        life = e.life
        if life is None or life.parent is not None:
            return
        sums: dict[str, int] = {}
        for span in e.opened:
            if span.until is None:
                sums[span.resource] = sums.get(span.resource, 0) + span.amount
        for span in e.closed:
            sums[span.resource] = sums.get(span.resource, 0) - span.amount
        for span in e.removed:
            if span.until is None:
                sums[span.resource] = sums.get(span.resource, 0) - span.amount
        for resource, amount in sums.items():
            if amount:
                self._add(life.tenant, life.pool, resource, amount)
                if life.kind != "observed":
                    self._add(life.tenant, ALL, resource, amount)

    def _quota_set(self, e: Seen) -> None:
        """It replaces what stood there; empty limits lift it."""
        holder, pool = e.holder or ALL, e.pool or ALL
        limits = e.data["limits"]
        for key, _ in list(self._quotas.under(e.tenant, holder, pool)):
            self._quotas.drop(key)
            self._limit(e.tenant, holder, pool, key[3], None)
        cohort = e.data.get("options", {}).get("cohort") if holder == ALL else None
        for resource, quota in limits.items():
            row = self._quotas.new(
                tenant=e.tenant,
                holder=holder,
                pool=pool,
                resource=resource,
                quota=quota,
                cohort=cohort,
                set_at=e.at,
                position=e.position,
            )
            self._quotas.put((e.tenant, holder, pool, resource), row)
            self._limit(e.tenant, holder, pool, resource, quota)

    def _limit(self, tenant: str, holder: str, pool: str, resource: str, quota: int | None) -> None:
        if holder != ALL:
            return
        self._add(tenant, pool, resource, 0)
        row = self._tenants.get((tenant, pool, resource))
        assert row is not None
        row["quota"] = quota
