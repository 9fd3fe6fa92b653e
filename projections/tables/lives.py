"""Table ``allocations``: one row for each allocation, its whole life; and ``spans``: what it had where.

Everything else that is about who has what follows from here: each event's effect is worked out once,
and left in :class:`~projections.tables.base.Seen` for the projections that come after.

What draws on another allocation stands on that one's capacity, so its spans are kept apart, in
``nested_spans``: a sum over ``spans`` counts nothing twice.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ledger.sqlite_driver import sqlite3
from projections.tables.base import (
    ENDS,
    LIVE,
    Handler,
    Key,
    Projection,
    Rows,
    Seen,
    Span,
    Table,
    each,
    quoted,
)
from projections.tables.life import LIFE_COLUMNS, Life, open_spans, redrawn
from projections.tables.life_tables import (
    ALLOCATIONS,
    NESTED_SPANS,
    POOL_KINDS,
    SPAN_COLUMNS,
    SPAN_KEY,
    SPANS,
)

KEPT = 50_000
"""How many lives are kept at hand from one chunk to the next."""


def _span_row(span: Span, life: Life) -> tuple[Any, ...]:
    # fmt: off
    return (
        life.id, span.seq, life.pool, span.node, span.resource, span.amount, span.since,
        span.until, life.tenant, span.holder, span.task,
    )
    # fmt: on


_CAUSES = {"released": "released", "expired": "expired"}


class Lives(Projection):
    """Allocations, and who had how much where in which interval."""

    name: ClassVar[str] = "allocations"
    version: ClassVar[int] = 3
    tables: ClassVar[tuple[Table, ...]] = (ALLOCATIONS, SPANS, NESTED_SPANS, POOL_KINDS)

    def __init__(self) -> None:
        self.rows = {}
        self._kinds = Rows(POOL_KINDS, whole=True)
        self._lives: dict[str, Life] = {}
        self._dirty: dict[str, Life] = {}
        # Spans to be written, each with its life, and keys of spans that are to go before that.
        self._spans: dict[Span, Life] = {}
        self._gone: list[Key] = []

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            "pool_opened": self._pool_opened,
            "queued": self._queued,
            "allocated": self._granted,
            "reserved": self._granted,
            "confirmed": self._confirmed,
            "adjusted": self._adjusted,
            "renewed": self._renewed,
            "ending": self._ending,
            "transferred": self._transferred,
            "usage_recorded": self._used,
            "corrected": self._corrected,
            "time_extended": self._extended,
            "shared": self._only_seen,
            **each(ENDS, self._ended),
        }

    # --- storage ---------------------------------------------------------------------------------

    def bind(self, reader: sqlite3.Connection, suffix: str) -> None:
        """As :meth:`Projection.bind`."""
        names = ", ".join(LIFE_COLUMNS)
        marks = ", ".join("?" * len(LIFE_COLUMNS))
        table = quoted("allocations" + suffix)
        self._reader = reader
        self._select = f"SELECT {names} FROM {table} WHERE id = ?"
        self._select_live = f"SELECT id FROM {table} WHERE state <> 'ended'"
        self._write = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"
        self._names = ("spans" + suffix, "nested_spans" + suffix)
        self._kinds.bind(reader, suffix)
        self.forget()

    def forget(self) -> None:
        """As :meth:`Projection.forget`."""
        self._lives.clear()
        self._dirty.clear()
        self._spans.clear()
        self._gone.clear()
        self._kinds.forget()

    def flush(self, connection: sqlite3.Connection) -> None:
        """As :meth:`Projection.flush`."""
        self._kinds.flush(connection)
        connection.executemany(self._write, [life.row() for life in self._dirty.values()])
        if self._gone:
            where = " AND ".join(f"{column} = ?" for column in SPAN_KEY)
            for table in self._names:
                connection.executemany(f"DELETE FROM {quoted(table)} WHERE {where}", self._gone)
        rows: tuple[list[Any], list[Any]] = ([], [])
        for span, life in self._spans.items():
            rows[life.parent is not None].append(_span_row(span, life))
        names = ", ".join(SPAN_COLUMNS)
        marks = ", ".join("?" * len(SPAN_COLUMNS))
        for table, some in zip(self._names, rows, strict=True):
            connection.executemany(
                f"INSERT OR REPLACE INTO {quoted(table)} ({names}) VALUES ({marks})", some
            )

    def clean(self) -> None:
        """As :meth:`Projection.clean`."""
        self._kinds.clean()
        self._dirty.clear()
        self._spans.clear()
        self._gone.clear()
        # What has ended is seldom heard of again.
        self._lives = {id_: life for id_, life in self._lives.items() if life.state != "ended"}
        if len(self._lives) > KEPT:
            self._lives = {}

    def _load(self, id_: str) -> Life | None:
        """A life that was written before, with its open spans (all of them in observed pools)."""
        values = self._reader.execute(self._select, (id_,)).fetchone()
        if values is None:
            return None
        life = Life.from_row(values)
        if life.state in LIVE or life.kind == "observed":
            table = self._names[life.parent is not None]
            which = "" if life.kind == "observed" else " AND until_at IS NULL"
            life.spans = [
                Span(*values)
                for values in self._reader.execute(
                    "SELECT seq, node, resource, amount, since_at, until_at, holder, task"
                    f" FROM {quoted(table)} WHERE allocation = ?{which}"
                    " ORDER BY seq, node, resource",
                    (id_,),
                )
            ]
        self._lives[id_] = life
        return life

    def life(self, id_: str) -> Life | None:
        """An allocation as it is now, or None."""
        found = self._lives.get(id_)
        return self._load(id_) if found is None else found

    def _of(self, e: Seen) -> Life | None:
        """The allocation of an event, noted as it was before and as touched."""
        id_ = e.allocation
        assert id_ is not None
        life = self._lives.get(id_)
        if life is None:
            if id_[1:] == str(e.position):
                return None
            life = self._load(id_)
            if life is None:
                return None
        e.life = life
        e.was = (life.state, life.holder, life.task, life.wait_ns)
        life.last_position = e.position
        self._dirty[id_] = life
        return life

    def _known(self, e: Seen) -> Life:
        life = self._of(e)
        if life is None:
            raise ValueError(f"{e.type} is about {e.allocation}, of which nothing is recorded")
        return life

    # --- spans -----------------------------------------------------------------------------------

    def _open(self, e: Seen, life: Life) -> None:
        opened = open_spans(life, e.at)
        life.spans = life.spans + opened if life.kind == "observed" else opened
        for span in opened:
            self._spans[span] = life
        life.seq += 1
        e.opened = opened

    def _close(self, e: Seen, life: Life) -> None:
        closed = []
        for span in life.spans:
            if span.until is None:
                span.until = max(e.at, span.since)
                self._spans[span] = life
                closed.append(span)
        if life.kind != "observed":
            life.spans = []
        e.closed = closed

    def _redraw(self, e: Seen, life: Life) -> None:
        """Draw the spans of an observed allocation anew, after its past turned out otherwise."""
        before = {(s.seq, s.node, s.resource): s for s in life.spans}
        life.spans = redrawn(life)
        life.seq = max((s.seq for s in life.spans), default=-1) + 1
        e.opened, e.removed = [], []
        for index, span in enumerate(life.spans):
            old = before.pop((span.seq, span.node, span.resource), None)
            if old is not None and old.same(span):
                life.spans[index] = old
                continue
            if old is not None:
                e.removed.append(old)
                self._spans.pop(old, None)
            e.opened.append(span)
            self._spans[span] = life
        for key, old in before.items():
            e.removed.append(old)
            self._spans.pop(old, None)
            self._gone.append((life.id, *key))

    # --- events ----------------------------------------------------------------------------------

    def _pool_opened(self, e: Seen) -> None:
        kind = e.data.get("kind", "managed")
        self._kinds.put((e.pool,), {"pool": e.pool, "kind": kind})

    def _begin(self, e: Seen) -> Life:
        found = self._kinds.get((e.pool,))
        if found is None:
            raise ValueError(f"{e.type} is in {e.pool}, a pool that was never opened")
        kind = found["kind"]
        asked = e.data.get("queued_at")
        if asked is None and (kind != "observed" or e.type == "queued"):
            asked = e.at
        life = Life.begun(e, kind, asked)
        self._lives[life.id] = self._dirty[life.id] = life
        e.life = life
        return life

    def _queued(self, e: Seen) -> None:
        life = self._of(e)
        if life is not None:
            return
        life = self._begin(e)
        life.state = "waiting"
        life.amounts = e.data["request"]["amounts"]
        life.deadline_at = e.data["until"]
        life.gang = e.data.get("gang")
        life.queued_recorded_at = e.recorded_at

    def _granted(self, e: Seen) -> None:
        data = e.data
        life = self._of(e)
        new = life is None
        if life is None:
            life = self._begin(e)
        else:
            life.asks(data["request"])
            if life.kind == "observed":
                self._begin_late(e, life)
        if e.type == "allocated":
            life.state, life.granted_at = "active", e.at
            life.expires_at = data.get("lease_until")
            life.deadline_at = None
        else:
            life.state = "reserved"
            life.expires_at = life.deadline_at = data["until"]
        life.max_age_until = data.get("max_age_until")
        life.amounts = data["amounts"]
        life.placements = data["placements"]
        life.strategy = data.get("strategy")
        life.gang = data.get("gang")
        life.token = e.position
        life.granted_recorded_at = e.recorded_at
        if life.kind != "observed":
            assert life.requested_at is not None
            life.wait_ns = max(0, e.at - life.requested_at)
            e.taken = life.placements
            self._open(e, life)
            return
        life.count_wait()
        e.taken = life.placements
        if new:
            self._open(e, life)
        else:
            self._redraw(e, life)

    @staticmethod
    def _begin_late(e: Seen, life: Life) -> None:
        """What was heard of it before was no end: only now it is known to have held at all."""
        life.rename(e)
        life.since_before = 0
        life.ended_at = life.ended_by = life.ended_recorded_at = life.moves = None
        queued_at = e.data.get("queued_at")
        if queued_at is not None:
            life.requested_at = queued_at
        elif life.requested_at is not None and life.requested_at > e.at:
            life.requested_at = None

    def _confirmed(self, e: Seen) -> None:
        life = self._known(e)
        life.state, life.granted_at, life.deadline_at = "active", e.at, None
        life.expires_at = e.data.get("lease_until")
        life.max_age_until = e.data.get("max_age_until")

    def _adjusted(self, e: Seen) -> None:
        life = self._known(e)
        data = e.data
        if life.kind == "observed":
            self._moved(e, life)
            return
        e.let_go, e.taken = life.placements, data["placements"]
        life.amounts, life.placements = data["amounts"], data["placements"]
        self._close(e, life)
        self._open(e, life)

    def _moved(self, e: Seen, life: Life) -> None:
        """It was elsewhere from a time on, which may lie before what was heard of it already."""
        before = life.placements_now()
        life.rename(e)
        life.move(e.at, e.data["amounts"], e.data["placements"])
        self._redraw(e, life)
        self._change_hands(e, before, life)

    @staticmethod
    def _change_hands(e: Seen, before: list[dict[str, Any]] | None, life: Life) -> None:
        after = life.placements_now()
        if before != after:
            e.let_go, e.taken = before, after

    def _renewed(self, e: Seen) -> None:
        data = e.data
        if e.allocation is not None:
            life = self._known(e)
            until = data.get("lease_until")
            if life.kind == "observed" and life.expires_at is not None and until is not None:
                until = max(until, life.expires_at)
            life.expires_at = until
            if life.kind == "observed" and life.rename(e):
                self._redraw(e, life)
            return
        for id_, until in zip(data.get("allocations", ()), data.get("ends", ()), strict=True):
            found = self.life(id_)
            if found is None:
                raise ValueError(f"renewed is about {id_}, of which nothing is recorded")
            found.expires_at = until
            found.last_position = e.position
            self._dirty[id_] = found

    def _ending(self, e: Seen) -> None:
        life = self._known(e)
        life.state, life.deadline_at = "ending", e.data["deadline"]
        life.ending_cause = e.data["cause"]

    def _ended(self, e: Seen) -> None:
        life = self._known(e)
        held = life.state in LIVE
        life.ended_by = _CAUSES.get(e.type) or e.data["cause"]
        life.ended_recorded_at = e.recorded_at
        life.deadline_at = None
        renamed = life.kind == "observed" and life.rename(e)
        if life.state == "ended" or life.moves or renamed:
            before = life.placements_now()
            life.state, life.ended_at = "ended", e.at
            self._redraw(e, life)
            self._change_hands(e, before, life)
            return
        life.state, life.ended_at = "ended", e.at
        if held:
            e.let_go = life.placements
            self._close(e, life)

    def _transferred(self, e: Seen) -> None:
        life = self._known(e)
        assert e.holder is not None
        life.holder, life.task, life.token = e.holder, e.task, e.position
        life.expires_at = e.data.get("lease_until")
        life.max_age_until = e.data.get("max_age_until", life.max_age_until)
        if life.kind == "observed":
            return
        self._close(e, life)
        self._open(e, life)

    def _used(self, e: Seen) -> None:
        if e.allocation is None:
            return
        life = self._known(e)
        life.measure(e.data)
        if life.kind == "observed" and life.rename(e):
            self._redraw(e, life)

    def _corrected(self, e: Seen) -> None:
        life = self._of(e) if e.allocation is not None else None
        if life is None:
            return
        life.corrections += 1
        if life.kind != "observed":
            return
        before = life.placements_now()
        life.rename(e)
        life.correct(e.data.get("facts", {}))
        self._redraw(e, life)
        self._change_hands(e, before, life)

    def _extended(self, e: Seen) -> None:
        """Whatever was to end after the gap began gains by it. Observed pools are not held to ends."""
        since, by_ns = e.data["since"], e.data["by_ns"]
        ids = [row[0] for row in self._reader.execute(self._select_live)]
        shifted = []
        for id_ in {**dict.fromkeys(ids), **dict.fromkeys(self._lives)}:
            life = self.life(id_)
            if life is None or life.state == "ended" or life.kind == "observed":
                continue
            if life.shift(since, by_ns):
                self._dirty[id_] = life
                life.last_position = e.position
                shifted.append(life)
        e.shifted = shifted

    def _only_seen(self, e: Seen) -> None:
        if e.allocation is not None:
            self._of(e)
