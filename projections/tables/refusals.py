"""Table ``refusals``: what was not granted and why; view ``demand``: what that came to by the hour."""

from __future__ import annotations

from typing import ClassVar

from projections.tables.base import LOW, Handler, Projection, Rows, Seen, Table, whole_sql

REFUSALS = Table(
    "refusals",
    {
        "id": "TEXT",
        "position": "INTEGER",
        "at": "INTEGER",
        "recorded_at": "INTEGER",
        "verb": "TEXT",
        "reason": "TEXT",
        "message": "TEXT",
        "tenant": "TEXT",
        "holder": "TEXT",
        "task": "TEXT",
        "pool": "TEXT",
        "allocation": "TEXT",
        "amounts": "TEXT",
        "shortfall": "TEXT",
        "fits_now": "TEXT",
        "repeats": "INTEGER",
    },
    ("id",),
    ("pool, at",),
    ("amounts", "shortfall", "fits_now"),
)

_HIGH = "sum((asked.value >> 32) * (1 + refusals.repeats))"
_LOW = f"sum((asked.value & {LOW}) * (1 + refusals.repeats))"
DEMAND = f"""
SELECT refusals.pool AS pool, refusals.reason AS reason,
  refusals.at / 3600000000000 * 3600000000000 AS hour_at,
  asked.key AS resource,
  {whole_sql(_HIGH, _LOW)} AS amount,
  sum(1 + refusals.repeats) AS requests
FROM refusals, json_each(refusals.amounts) AS asked
WHERE refusals.amounts IS NOT NULL
GROUP BY refusals.pool, refusals.reason, hour_at, asked.key
"""


class Refusals(Projection):
    """Commands that were not granted. ``repeats`` are the same again within the same second."""

    name: ClassVar[str] = "refusals"
    version: ClassVar[int] = 2
    tables: ClassVar[tuple[Table, ...]] = (REFUSALS,)
    views: ClassVar[dict[str, str]] = {"demand": DEMAND}
    follows_lives: ClassVar[bool] = False

    def __init__(self) -> None:
        self._refusals = Rows(REFUSALS)
        self.rows = {"refusals": self._refusals}

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {"refused": self._refused}

    def _refused(self, e: Seen) -> None:
        data = e.data
        first = data.get("repeats_of")
        if first is not None:
            row = self._refusals.get((f"R{first}",))
            if row is None:
                raise ValueError(f"it repeats R{first}, of which nothing is recorded")
            row["repeats"] += data.get("repeats", 0)
            self._refusals.put((row["id"],), row)
            return
        request = data.get("request")
        id_ = f"R{e.position}"
        row = self._refusals.new(
            id=id_,
            position=e.position,
            at=e.at,
            recorded_at=e.recorded_at,
            verb=data["verb"],
            reason=data["reason"],
            message=data["message"],
            tenant=e.tenant,
            holder=e.holder,
            task=e.task,
            pool=e.pool,
            allocation=e.allocation,
            amounts=None if request is None else request["amounts"],
            shortfall=data.get("shortfall", {}),
            fits_now=data.get("fits_now", {}),
            repeats=data.get("repeats", 0),
        )
        self._refusals.put((id_,), row)
