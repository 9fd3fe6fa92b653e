"""The tables that :mod:`projections.tables.pools` keeps, and the view that adds up a pool's nodes."""

from __future__ import annotations

from projections.tables.base import BEYOND, Table, sum_sql

POOLS = Table(
    "pools",
    {
        "pool": "TEXT",
        "kind": "TEXT",
        "consumable": "INTEGER",
        "closed": "INTEGER",
        "nodes": "INTEGER",
        "opened_at": "INTEGER",
        "closed_at": "INTEGER",
        "refilled_at": "INTEGER",
        "basis": "TEXT",
        "policy": "TEXT",
    },
    ("pool",),
    (),
    ("policy",),
)
NODES = Table(
    "nodes",
    {
        "pool": "TEXT",
        "node": "TEXT",
        "cordoned": "INTEGER",
        "cordoned_at": "INTEGER",
        "cordon_reason": "TEXT",
        "joined_at": "INTEGER",
        "labels": "TEXT",
        "outside_basis": "TEXT",
        "outside_seen_at": "INTEGER",
    },
    ("pool", "node"),
    (),
    ("labels", "outside_basis"),
)
NODE_RESOURCES = Table(
    "node_resources",
    {
        "pool": "TEXT",
        "node": "TEXT",
        "resource": "TEXT",
        "capacity": "INTEGER",
        "in_use": "INTEGER",
        "spent": "INTEGER",
        "outside": "INTEGER",
        "capacity_since_at": "INTEGER",
        BEYOND: "TEXT",
    },
    ("pool", "node", "resource"),
    sums=("in_use", "spent"),
)
DEVICES = Table(
    "devices",
    {
        "pool": "TEXT",
        "node": "TEXT",
        "resource": "TEXT",
        "card": "TEXT",
        "capacity": "INTEGER",
        "in_use": "INTEGER",
        BEYOND: "TEXT",
    },
    ("pool", "node", "resource", "card"),
    sums=("in_use",),
)
CAPACITY = Table(
    "capacity",
    {
        "pool": "TEXT",
        "node": "TEXT",
        "resource": "TEXT",
        "since_at": "INTEGER",
        "until_at": "INTEGER",
        "amount": "INTEGER",
    },
    ("pool", "node", "resource", "since_at"),
)


def _summed(column: str) -> str:
    """SQL of a sum over nodes: exact, or REAL where that or what one of them has passes 64 bits."""
    beyond = f"json_extract({BEYOND}, '$.{column}')"
    return (
        f"CASE count({beyond}) WHEN 0 THEN {sum_sql(column)}"
        f" ELSE total(coalesce({beyond}, {column})) END AS {column}"
    )


POOL_RESOURCES = f"""
SELECT pool, resource, {sum_sql("capacity")} AS capacity,
  {_summed("in_use")},
  {_summed("spent")},
  {sum_sql("outside")} AS outside
FROM node_resources GROUP BY pool, resource
"""
