"""Tables ``holders`` and ``tasks``: for whom and for what capacity was held, and what it came to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from projections.tables.base import (
    ENDS,
    GRANTS,
    LIVE,
    MOVES,
    STORED_MAX,
    Handler,
    Projection,
    Row,
    Rows,
    Seen,
    Table,
    each,
)

NS_PER_S = 1_000_000_000

_COUNTS = {
    "allocations": "INTEGER",
    "waiting": "INTEGER",
    "live": "INTEGER",
    "ended": "INTEGER",
    "refused": "INTEGER",
    "wait_ns": "INTEGER",
    "granted_seconds": "TEXT",
    "used_seconds": "TEXT",
    "measured_ns": "INTEGER",
    "first_at": "INTEGER",
    "last_at": "INTEGER",
}
_JSON = ("granted_seconds", "used_seconds")
_ZERO = ("allocations", "waiting", "live", "ended", "refused", "wait_ns")

HOLDERS = Table(
    "holders",
    {
        "tenant": "TEXT",
        "holder": "TEXT",
        **_COUNTS,
        "seen_at": "INTEGER",
        "program": "TEXT",
        "process": "TEXT",
    },
    ("tenant", "holder"),
    (),
    (*_JSON, "process"),
)
TASKS = Table(
    "tasks",
    {
        "tenant": "TEXT",
        "task": "TEXT",
        **_COUNTS,
        "started_at": "INTEGER",
        "started_by": "TEXT",
        "finished_at": "INTEGER",
        "finished_by": "TEXT",
        "outcome": "TEXT",
    },
    ("tenant", "task"),
    (),
    _JSON,
)


_GROUP = {"waiting": "waiting", "ended": "ended", **dict.fromkeys(LIVE, "live")}


class _Parties(Projection):
    """What holders and tasks have in common: counts by state, and sums over closed spans.

    ``granted_seconds`` (resource → base units × seconds) are of spans that have ended; of what draws
    on another allocation nothing is added, since it is granted there.
    """

    version: ClassVar[int] = 3
    column: ClassVar[str]

    def __init__(self) -> None:
        self._rows = Rows(self.tables[0])
        self.rows = {self.tables[0].name: self._rows}

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            **each(("queued", *GRANTS, *ENDS, *MOVES, "confirmed", "ending"), self._live_event),
            "usage_recorded": self._used,
            "renewed": self._renamed,
            "refused": self._refused,
        }

    def _party(self, tenant: str, name: str) -> Row:
        """A party's row, to be changed."""
        key = (tenant, name)
        row = self._rows.change(key)
        if row is None:
            row = self._rows.new(tenant=tenant, **{self.column: name})
            for column in _ZERO:
                row[column] = 0
            row["granted_seconds"] = {}
            self._rows.put(key, row)
        return row

    @staticmethod
    def _seen(row: Row, at: int) -> None:
        if row["first_at"] is None or at < row["first_at"]:
            row["first_at"] = at
        if row["last_at"] is None or at > row["last_at"]:
            row["last_at"] = at

    def _hear(self, row: Row, e: Seen) -> None:
        """Note when it was. What was elsewhere was at its own times, whenever it was written down."""
        if e.life.kind != "observed":
            self._seen(row, e.at)
            return
        times = e.life.heard_of()
        if times:
            self._seen(row, min(times))
            self._seen(row, max(times))

    @abstractmethod
    def _names(self, e: Seen) -> tuple[str | None, str | None]:
        """Whose it was before the event, and whose it is."""

    def _live_event(self, e: Seen) -> None:
        life, was = e.life, e.was
        if life is None:
            return
        before, after = self._names(e)
        if was is not None and before is not None and before != after:
            row = self._party(life.tenant, before)
            row["allocations"] -= 1
            row[_GROUP[was[0]]] -= 1
            row["wait_ns"] -= was[3] or 0
        if after is not None:
            row = self._party(life.tenant, after)
            row[_GROUP[life.state]] += 1
            row["wait_ns"] = min(row["wait_ns"] + (life.wait_ns or 0), STORED_MAX)
            if was is not None and before == after:
                row[_GROUP[was[0]]] -= 1
                row["wait_ns"] -= was[3] or 0
            else:
                row["allocations"] += 1
            self._hear(row, e)
        if e.closed or e.opened or e.removed:
            self._spans(e, life)

    def _renamed(self, e: Seen) -> None:
        """A record of something else may name whose it was, where nobody had said so."""
        if e.was is not None and (e.was[1] != e.life.holder or e.was[2] != e.life.task):
            self._live_event(e)
        elif e.was is not None and e.life.kind == "observed":
            name = self._names(e)[1]
            if name is not None:
                self._hear(self._party(e.life.tenant, name), e)

    def _spans(self, e: Seen, life: Any) -> None:
        """Add what spans came to that have ended, for whose they were at their time."""
        if life.parent is not None:
            return
        if e.ended is None:
            # Once for both tables.
            e.ended = [(span, 1) for span in e.closed]
            e.ended += [(span, 1) for span in e.opened if span.until is not None]
            e.ended += [(span, -1) for span in e.removed if span.until is not None]
        if not e.ended:
            return
        last, granted = None, {}
        for span, sign in e.ended:
            name = span.holder if self.column == "holder" else span.task
            if name is None:
                continue
            if name != last:
                last, granted = name, self._party(life.tenant, name)["granted_seconds"]
            assert span.until is not None
            amount = sign * (span.amount * (span.until - span.since) // NS_PER_S)
            granted[span.resource] = granted.get(span.resource, 0) + amount

    def _used(self, e: Seen) -> None:
        self._renamed(e)
        life = e.life
        if life is None:
            return
        name = getattr(life, self.column)
        if name is None:
            return
        row = self._party(life.tenant, name)
        data = e.data
        used = row["used_seconds"]
        if used is None:
            used = row["used_seconds"] = {}
        for resource, amount in data["used"].items():
            used[resource] = used.get(resource, 0) + amount
        watched = max(0, data["until"] - data["since"] - data.get("gaps_ns", 0))
        row["measured_ns"] = min((row["measured_ns"] or 0) + watched, STORED_MAX)

    def _refused(self, e: Seen) -> None:
        name = getattr(e, self.column)
        if name is None:
            return
        data = e.data
        row = self._party(e.tenant, name)
        row["refused"] += data.get("repeats", 0) + (data.get("repeats_of") is None)
        self._seen(row, e.at)


class Holders(_Parties):
    """Who holds and held. ``process`` is the one last seen, where one was."""

    name: ClassVar[str] = "holders"
    tables: ClassVar[tuple[Table, ...]] = (HOLDERS,)
    column: ClassVar[str] = "holder"

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {**super().handlers(), "holder_seen": self._holder_seen}

    def _names(self, e: Seen) -> tuple[str | None, str | None]:
        return None if e.was is None else e.was[1], e.life.holder

    def _holder_seen(self, e: Seen) -> None:
        assert e.holder is not None
        row = self._party(e.tenant, e.holder)
        row["seen_at"] = e.at
        row["program"] = e.data.get("program") or None
        row["process"] = e.data["process"]
        self._seen(row, e.at)


class Tasks(_Parties):
    """What work capacity was held for. A task that nobody started has no ``started_at``."""

    name: ClassVar[str] = "tasks"
    tables: ClassVar[tuple[Table, ...]] = (TASKS,)
    column: ClassVar[str] = "task"

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            **super().handlers(),
            "task_started": self._started,
            "task_finished": self._finished,
        }

    def _names(self, e: Seen) -> tuple[str | None, str | None]:
        return None if e.was is None else e.was[2], e.life.task

    def _started(self, e: Seen) -> None:
        assert e.task is not None
        row = self._party(e.tenant, e.task)
        row.update(started_at=e.at, started_by=e.data["by"])
        row.update(finished_at=None, finished_by=None, outcome=None)
        self._seen(row, e.at)

    def _finished(self, e: Seen) -> None:
        assert e.task is not None
        row = self._party(e.tenant, e.task)
        outcome = e.data.get("outcome") or None
        row.update(finished_at=e.at, finished_by=e.data["by"], outcome=outcome)
        self._seen(row, e.at)
