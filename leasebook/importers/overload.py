"""Where what was imported held more than there was: nodes over their capacity, where it is known.

The intervals lie in a file of SQLite's own while an import runs, and are added up at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import itemgetter

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


Size = tuple[int, Amounts]
"""From when on (ns UTC) a node had which capacity; nothing where it had left."""

_CREATE = (
    "CREATE TABLE held (key TEXT, pool TEXT, node TEXT, resource TEXT, amount INTEGER,"
    " since INTEGER, until INTEGER)"
)
# At one instant, what ends makes room before what begins takes it.
_STEPS = """
SELECT node, resource, since AS at, amount AS delta FROM held WHERE pool = :pool
UNION ALL
SELECT node, resource, until, -amount FROM held WHERE pool = :pool AND until IS NOT NULL
ORDER BY node, resource, at, delta
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
        # Who says anew when it began, says anew what was said of it before: it is not held twice.
        self._database.execute("DELETE FROM held WHERE key = ?", (key,))
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

    def found(self, pool: str, sizes: Mapping[str, Sequence[Size]]) -> list[Overload]:
        """Where the nodes of a pool held more than they had then, at the worst of it."""
        found: list[Overload] = []
        steps = self._database.execute(_STEPS, {"pool": pool})
        for (node, resource), rows in groupby(steps, key=itemgetter(0, 1)):
            # At one instant what there is counts before what is held.
            changes = [(at, -1, amounts.get(resource)) for at, amounts in sizes.get(node, ())]
            held, most = 0, None
            worst: Overload | None = None
            # Added up here, since sums of what others claim may be above what SQLite can hold.
            moves = ((at, index, delta) for index, (_, _, at, delta) in enumerate(rows))
            for at, index, amount in merge(changes, moves):
                if index < 0:
                    most = amount
                else:
                    held += amount or 0
                least = 0 if worst is None else worst.held - worst.capacity
                if most is not None and held - most > least:
                    worst = Overload(pool, node, resource, held, most, at)
            if worst is not None:
                found.append(worst)
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
