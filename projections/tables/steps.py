"""Table ``steps``: every change of what is granted and used, per pool, node and resource, over time.

View ``series`` sums them up. ``used`` is the average of each measured stretch, a step up at its begin
and down at its end; where an allocation stands on several nodes, its use was measured over all of
them, and stands under node ``''``. What draws on another allocation is part of that one here.

No average is above 2⁶³ − 1, whatever was said to be used within less than a second. Sums in ``series``
are REAL where they pass 64 bits.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ledger.sqlite_driver import sqlite3
from projections.tables.base import (
    ENDS,
    GRANTS,
    LOW,
    MOVES,
    STORED_MAX,
    Handler,
    Projection,
    Seen,
    Table,
    each,
    quoted,
    whole_sql,
)

NS_PER_S = 1_000_000_000

STEPS = Table(
    "steps",
    {
        "pool": "TEXT",
        "node": "TEXT",
        "resource": "TEXT",
        "at": "INTEGER",
        "position": "INTEGER",
        "granted": "INTEGER",
        "used": "INTEGER",
    },
    ("pool", "node", "resource", "at", "position"),
    clustered=True,
)

SERIES = f"""
SELECT pool, node, resource, at, position,
  {whole_sql("sum(granted_high) OVER running", "sum(granted_low) OVER running")} AS granted,
  {whole_sql("sum(used_high) OVER running", "sum(used_low) OVER running")} AS used
FROM (
  SELECT pool, node, resource, at, max(position) AS position,
    sum(granted >> 32) AS granted_high, sum(granted & {LOW}) AS granted_low,
    sum(used >> 32) AS used_high, sum(used & {LOW}) AS used_low
  FROM steps GROUP BY pool, node, resource, at
)
WINDOW running AS (PARTITION BY pool, node, resource ORDER BY at)
"""
"""One row for each instant at which something changed: what is granted and used from then on."""


class Steps(Projection):
    """What is granted and used, as steps. It only adds rows."""

    name: ClassVar[str] = "steps"
    version: ClassVar[int] = 3
    tables: ClassVar[tuple[Table, ...]] = (STEPS,)
    views: ClassVar[dict[str, str]] = {"series": SERIES}

    def __init__(self) -> None:
        self.rows = {}
        self._new: list[tuple[Any, ...]] = []

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            **each((*GRANTS, *ENDS), self._plain),
            **each(MOVES, self._moved),
            "usage_recorded": self._used,
        }

    def bind(self, reader: sqlite3.Connection, suffix: str) -> None:
        """As :meth:`Projection.bind`."""
        names = ", ".join(STEPS.columns)
        table = quoted("steps" + suffix)
        self._write = f"INSERT INTO {table} ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        self.forget()

    def forget(self) -> None:
        """As :meth:`Projection.forget`."""
        self._new = []

    def flush(self, connection: sqlite3.Connection) -> None:
        """As :meth:`Projection.flush`."""
        self._new.sort()
        connection.executemany(self._write, self._new)

    def clean(self) -> None:
        """As :meth:`Projection.clean`."""
        self._new = []

    def _plain(self, e: Seen) -> None:
        """A grant or an end: the spans of one are all different, so each is a step of its own."""
        life = e.life
        if life.parent is not None:
            return
        if e.removed:
            self._moved(e)
            return
        pool, position, new = life.pool, e.position, self._new
        for span in e.opened:
            new.append((pool, span.node, span.resource, span.since, position, span.amount, 0))
        for span in e.closed:
            new.append((pool, span.node, span.resource, span.until, position, -span.amount, 0))

    def _moved(self, e: Seen) -> None:
        """Several changes may fall on one instant, and may cancel each other out."""
        life = e.life
        if life is None or life.parent is not None:
            return
        sums: dict[tuple[str, str, int], int] = {}

        def add(node: str, resource: str, at: int | None, amount: int) -> None:
            if at is not None:
                key = (node, resource, at)
                sums[key] = sums.get(key, 0) + amount

        for span in e.opened:
            add(span.node, span.resource, span.since, span.amount)
            add(span.node, span.resource, span.until, -span.amount)
        for span in e.closed:
            add(span.node, span.resource, span.until, -span.amount)
        for span in e.removed:
            add(span.node, span.resource, span.since, -span.amount)
            add(span.node, span.resource, span.until, span.amount)
        for (node, resource, at), amount in sums.items():
            if amount:
                self._new.append((life.pool, node, resource, at, e.position, amount, 0))

    def _used(self, e: Seen) -> None:
        life = e.life
        if life is None or life.parent is not None:
            return
        since, until = e.data["since"], e.data["until"]
        if until <= since:
            return
        placements = life.placements or []
        node = placements[0]["node"] if len(placements) == 1 else ""
        pool, position, new = life.pool, e.position, self._new
        for resource, used in e.data["used"].items():
            average = min(used * NS_PER_S // (until - since), STORED_MAX)
            if average:
                new.append((pool, node, resource, since, position, 0, average))
                new.append((pool, node, resource, until, position, 0, -average))
