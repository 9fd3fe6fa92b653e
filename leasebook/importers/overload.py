"""Where what was imported held more than there was: nodes over their capacity, where it is known.

The intervals lie in a file of SQLite's own while an import runs, and are added up at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ledger.commands import Fact
from ledger.requests import Amounts, Placement


@dataclass(frozen=True, slots=True)
class Overload:
    """A node that held more of a resource than it has (base units): the most, and since when."""

    pool: str
    node: str
    resource: str
    held: int
    capacity: int
    at: int


_CREATE = (
    "CREATE TABLE held (key TEXT, pool TEXT, node TEXT, resource TEXT, amount INTEGER,"
    " since INTEGER, until INTEGER)"
)
# At one instant, what ends makes room before what begins takes it.
_PEAKS = """
WITH steps AS (
  SELECT node, resource, since AS at, amount AS delta FROM held WHERE pool = :pool
  UNION ALL
  SELECT node, resource, until, -amount FROM held WHERE pool = :pool AND until IS NOT NULL
), sums AS (
  SELECT node, resource, at, sum(delta) OVER (
    PARTITION BY node, resource ORDER BY at, delta ROWS UNBOUNDED PRECEDING
  ) AS total FROM steps
)
SELECT node, resource, max(total), at FROM sums GROUP BY node, resource ORDER BY node, resource
"""


class Overloads:
    """Keeps the intervals of facts in pools whose nodes are known."""

    def __init__(self) -> None:
        from ledger.sqlite_driver import sqlite3

        # An empty name is a file that goes when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF").fetchall()
        self._database.execute(_CREATE)
        self._database.execute("CREATE INDEX held_by_key ON held (key)")

    def add(self, pool: str, fact: Fact) -> None:
        """Take one fact in, whole or in part."""
        key = f"{fact.tenant}\0{fact.key}"
        began = fact.began_at if fact.began_at is not None else fact.seen_from
        if began is None or not fact.placements:
            if fact.ended_at is not None:
                self._end(key, fact.ended_at)
            return
        parts = [(began, fact.placements), *sorted(fact.moves, key=lambda move: move[0])]
        for index, (since, placements) in enumerate(parts):
            last = index + 1 == len(parts)
            self._hold(key, pool, placements, since, fact.ended_at if last else parts[index + 1][0])

    def _end(self, key: str, at: int) -> None:
        self._database.execute(
            "UPDATE held SET until = ? WHERE key = ? AND until IS NULL", (at, key)
        )

    def _hold(
        self, key: str, pool: str, placements: tuple[Placement, ...], since: int, until: int | None
    ) -> None:
        rows = [
            (key, pool, placement.node, resource, amount, since, until)
            for placement in placements
            for resource, amount in placement.amounts.items()
        ]
        self._database.executemany("INSERT INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def found(self, pool: str, capacity: Mapping[str, Amounts]) -> list[Overload]:
        """The nodes of a pool that held more than their capacity (node → amounts)."""
        found = []
        for node, resource, held, at in self._database.execute(_PEAKS, {"pool": pool}):
            most = capacity.get(node, {}).get(resource)
            if most is not None and held > most:
                found.append(Overload(pool, node, resource, held, most, at))
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
