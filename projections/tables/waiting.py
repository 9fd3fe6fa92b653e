"""Table ``queue``: the requests that wait now, in order of arrival (``position``)."""

from __future__ import annotations

from typing import ClassVar

from projections.tables.base import ENDS, GRANTS, Handler, Projection, Rows, Seen, Table, each

QUEUE = Table(
    "queue",
    {
        "id": "TEXT",
        "position": "INTEGER",
        "pool": "TEXT",
        "parent": "TEXT",
        "tenant": "TEXT",
        "holder": "TEXT",
        "task": "TEXT",
        "priority": "TEXT",
        "gang": "TEXT",
        "amounts": "TEXT",
        "requested_at": "INTEGER",
        "until_at": "INTEGER",
        "reason": "TEXT",
        "shortfall": "TEXT",
        "kept_node": "TEXT",
    },
    ("id",),
    ("pool, position",),
    ("amounts", "shortfall"),
)


class Queue(Projection):
    """Who waits, and for what. Of observed pools nobody waits here: their past is not our queue."""

    name: ClassVar[str] = "queue"
    tables: ClassVar[tuple[Table, ...]] = (QUEUE,)

    def __init__(self) -> None:
        self._queue = Rows(QUEUE, whole=True)
        self.rows = {"queue": self._queue}

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            "queued": self._queued,
            "time_extended": self._extended,
            **each((*GRANTS, *ENDS), self._left),
        }

    def _queued(self, e: Seen) -> None:
        life, data = e.life, e.data
        if life.kind == "observed":
            return
        known = self._queue.get((life.id,))
        if known is not None:
            # It waits on, and nodes are kept for it from here on: of a gang or a spread, several.
            known["kept_node"] = ",".join(sorted(data.get("shortfall", {}))) or None
            self._queue.put((life.id,), known)
            return
        row = self._queue.new(
            id=life.id,
            position=life.first_position,
            pool=life.pool,
            parent=life.parent,
            tenant=life.tenant,
            holder=life.holder,
            task=life.task,
            priority=life.priority,
            gang=life.gang,
            amounts=life.amounts,
            requested_at=life.requested_at,
            until_at=life.deadline_at,
            reason=data["reason"],
            shortfall=data.get("shortfall", {}),
        )
        self._queue.put((life.id,), row)

    def _left(self, e: Seen) -> None:
        if e.was is not None and e.was[0] == "waiting" and e.life.kind != "observed":
            self._queue.drop((e.life.id,))

    def _extended(self, e: Seen) -> None:
        for life in e.shifted:
            row = self._queue.get((life.id,)) if life.state == "waiting" else None
            if row is not None:
                row["until_at"] = life.deadline_at
                self._queue.put((life.id,), row)
