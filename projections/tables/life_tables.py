"""The tables that :mod:`projections.tables.lives` keeps: allocations, and who had what when."""

from __future__ import annotations

from projections.tables.base import Table
from projections.tables.life import LIFE_COLUMNS, LIFE_JSON

SPAN_COLUMNS = {
    "allocation": "TEXT",
    "seq": "INTEGER",
    "pool": "TEXT",
    "node": "TEXT",
    "resource": "TEXT",
    "amount": "INTEGER",
    "since_at": "INTEGER",
    "until_at": "INTEGER",
    "tenant": "TEXT",
    "holder": "TEXT",
    "task": "TEXT",
}
SPAN_KEY = ("allocation", "seq", "node", "resource")
_SPAN_INDEXES = ("pool, since_at", "pool, until_at")

ALLOCATIONS = Table(
    "allocations",
    LIFE_COLUMNS,
    ("id",),
    ("pool, granted_at", "tenant, task"),
    LIFE_JSON,
)
SPANS = Table("spans", SPAN_COLUMNS, SPAN_KEY, _SPAN_INDEXES)
NESTED_SPANS = Table("nested_spans", SPAN_COLUMNS, SPAN_KEY, _SPAN_INDEXES)
POOL_KINDS = Table("pool_kinds", {"pool": "TEXT", "kind": "TEXT"}, ("pool",))
