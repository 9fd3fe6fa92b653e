"""What a manager can be asked to read, once for the blocking and the awaited manager."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

from leasebook import amending
from leasebook.mapping import pool_out
from leasebook.values import AllocationHandle, MetricsSnapshot, MonitoringFilters, refused
from leasebook.when import rfc3339
from ledger.book import Book
from ledger.codec import from_row
from ledger.errors import InvalidInput, LedgerReadOnly, LedgerUnavailable, Reason, Refused
from ledger.events import Event
from ledger.log import Row
from ledger.receipts import Receipt, why_not_granted
from ledger.writer import Writer
from projections.stories import Story, at_present, story_of_allocation, story_of_refusal

if TYPE_CHECKING:
    from datetime import datetime

    from leasebook.manager import ResourceManager
    from leasebook.moments import Moments, When
    from reports.utilization import Utilization


LIVE_STATES = ("waiting", "reserved", "active", "ending")
"""The states of what is held or waits, in the order in which an allocation goes through them."""


def _no_such(allocation: str) -> Refused:
    return Refused(
        f"there is no allocation {allocation[:40]!r}",
        "see `leasebook list`",
        reason=Reason.NO_SUCH_ALLOCATION,
    )


def _may_be_id(allocation: object) -> bool:
    """Whether a store can look for it at all."""
    return isinstance(allocation, str) and allocation.isprintable()


class Questions:
    """The reading half of a manager's interface. Its docstrings are the managers'."""

    def __init__(self, writer: Writer, manager: ResourceManager | None) -> None:
        self._writer = writer
        self._manager = manager

    def _events_of(self, allocation: str) -> list[Event]:
        return [from_row(row) for row in self._writer.log.rows_of_allocation(allocation)]

    def _at(self, position: int) -> Event | None:
        for row in self._writer.log.read(position - 1, position):
            return from_row(row)
        return None

    def get(self, allocation: str) -> AllocationHandle:
        """An allocation as it is now, ended ones included. Raises Refused (``no_such_allocation``)."""
        present = self._writer.present(allocation) if _may_be_id(allocation) else None
        if present is None:
            raise _no_such(str(allocation))
        metadata = next((e.metadata for e in self._events_of(allocation) if e.metadata), None)
        return AllocationHandle(self._manager, present, metadata)

    def granted(self, allocation: str) -> AllocationHandle:
        """The handle of a request that was waited for. Raises Refused where it was not granted."""
        handle = self.get(allocation)
        if handle.state == "ended" and not handle.fencing_token:
            receipt = Receipt(
                "refused",
                reason=why_not_granted(handle.ended_by),
                message=f"{allocation} left the queue without a grant: {handle.ended_by}",
                hint=f"ask again, or see `leasebook why {allocation}`",
            )
            raise refused(receipt)
        return handle

    def list(
        self,
        *,
        pool: str | None = None,
        holder: str | None = None,
        task: str | None = None,
        tenant: str | None = None,
        state: str | None = None,
    ) -> Seq[AllocationHandle]:
        """What is held or waits now, in order of request; each filter narrows it.

        ``state``: waiting, reserved, active or ending. Raises InvalidInput for another; what has
        ended is in the events.
        """
        if state is not None and state not in LIVE_STATES:
            raise InvalidInput(
                f"nothing that is held or waits has the state {str(state)[:40]!r}",
                f"choose one of {', '.join(LIVE_STATES)}; what has ended is in the events",
            )
        wanted = {"pool": pool, "holder": holder, "task": task, "tenant": tenant, "state": state}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        found = self._writer.read(
            lambda book, now: [
                a
                for a in book.allocations.values()
                if all(getattr(a, name) == value for name, value in wanted.items())
            ]
        )
        found.sort(key=lambda a: a.position)
        return [AllocationHandle(self._manager, a) for a in found]

    def pools(self) -> Seq[dict[str, Any]]:
        """Every pool without its nodes."""
        return self._writer.read(
            lambda book, now: [pool_out(book, p, nodes=False) for p in book.pools.values()]
        )

    def pool(self, name: str) -> dict[str, Any]:
        """One pool with its nodes. Raises Refused (``no_such_pool``)."""

        def shown(book: Book, now: int) -> dict[str, Any] | None:
            pool = book.pools.get(name)
            return None if pool is None else pool_out(book, pool)

        found = self._writer.read(shown)
        if found is None:
            raise Refused(
                f"there is no pool {name[:60]!r}",
                "see `leasebook pool list`",
                reason=Reason.NO_SUCH_POOL,
            )
        return found

    def quotas(self) -> Seq[dict[str, Any]]:
        """Every quota, with what is held under it, in canonical text."""
        from ledger.amounts import format_amounts
        from ledger.rules.quotas import held

        def rows(book: Book, now: int) -> Seq[dict[str, Any]]:
            return [
                {
                    "tenant": tenant,
                    "holder": holder,
                    "pool": pool,
                    "cohort": None if holder else book.cohorts.get((tenant, pool)),
                    "limits": format_amounts(limits),
                    "held": format_amounts(
                        {r: held(book, tenant, holder, pool).get(r, 0) for r in limits}
                    ),
                }
                for (tenant, holder, pool), limits in book.quotas.items()
            ]

        return self._writer.read(rows)

    def story(self, allocation: str) -> Story:
        """All that happened to an allocation. Raises Refused (``no_such_allocation``)."""
        events = self._events_of(allocation) if _may_be_id(allocation) else []
        if not events:
            raise _no_such(str(allocation))
        return self._writer.read(
            lambda book, now: at_present(story_of_allocation(events, now), book, now)
        )

    def why(self, what: str) -> Story:
        """Why an allocation (``A17``) waits or ended, or a request was refused (``R19``).

        Raises Refused (``no_such_allocation``), InvalidInput for another kind of name.
        """
        if what.startswith("A"):
            return self.story(what)
        if not what.startswith("R") or not what[1:].isdecimal() or len(what) > 20:
            raise InvalidInput(
                f"{what[:40]!r} is neither an allocation nor a refusal", "ids look like A17 or R19"
            )
        event = self._at(int(what[1:]))
        if event is None or event.type != "refused":
            raise Refused(
                f"there is no refusal {what}",
                "see `leasebook events --type refused`",
                reason=Reason.NO_SUCH_ALLOCATION,
            )
        return story_of_refusal(event)

    def events(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        type: str | None = None,
        pool: str | None = None,
        holder: str | None = None,
        task: str | None = None,
        tenant: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """The log's events after a position, oldest first; each filter narrows it.

        ``since`` and ``until`` bound ``at`` (ns UTC). Raises LedgerReadOnly at an event of a type that
        only a newer program knows.
        """
        wanted = {"type": type, "pool": pool, "holder": holder, "task": task, "tenant": tenant}
        rows = self.rows(after=after, upto=upto, since=since, until=until, limit=limit, **wanted)
        return map(from_row, rows)

    def rows(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        **wanted: str | None,
    ) -> Iterator[Row]:
        """As :meth:`events`, as they are stored: also those that this program does not know.

        ``wanted`` are columns and their values; None is any.
        """
        columns = [(name, value) for name, value in wanted.items() if value is not None]
        count = 0
        for row in self._writer.log.read(after, upto):
            if (
                (since is not None and row.at < since)
                or (until is not None and row.at >= until)
                or any(getattr(row, name) != value for name, value in columns)
            ):
                continue
            if limit is not None and count >= limit:
                return
            count += 1
            yield row

    def verify(self, notes: tuple[tuple[int, bytes], ...] = ()) -> Any:
        """Prove that the log is whole; ``notes`` are checkpoints kept elsewhere.

        Returns a :class:`ledger.verify.VerifyResult`.
        """
        from ledger.verify import verify

        return verify(self._writer.log, notes=notes)

    def redact(self, position: int, reason: str, *, by: str | None = None) -> Receipt:
        """Erase one event's metadata; its hash stays, so the proof holds.

        Raises InvalidInput where there is no such event, or nothing to erase.
        """
        return amending.redact(self._writer, position, reason, by)

    def correct(
        self,
        position: int,
        reason: str,
        *,
        ended_at: When | datetime | None = None,
        ended_by: str | None = None,
        by: str | None = None,
        command_id: str | None = None,
    ) -> Receipt:
        """Say that the event at ``position`` was wrong, and why. The event stays as it is.

        ``ended_at`` and ``ended_by`` tell when and how its allocation really ended, where that was
        before the record says so: :meth:`at` counts it from then on, unless asked for what was known
        before. The same, said twice, is recorded once. Raises InvalidInput.
        """
        end = None if ended_at is None else self.moments().moment(ended_at).time
        return amending.correct(self._writer, position, reason, end, ended_by, by, command_id)

    def moments(self) -> Moments:
        """The ledger's past, to be asked for the state at a moment."""
        from leasebook.moments import Moments
        from projections.past import Past
        from projections.travel import Travel, observed_pools
        from projections.travel_history import History, TabledHistory

        writer = self._writer
        position = writer.log.head().position
        now, observed = writer.read(lambda book, now: (now, observed_pools(book)))
        views = None if writer.snapshots is None else writer.snapshots.path
        history = History(writer.log) if views is None else TabledHistory(writer.log, views)
        past = Past(writer.log, writer.snapshots)
        travel = Travel(past, now=now, history=history, observed=(position, observed))
        return Moments(travel, now)

    def at(
        self,
        when: When | datetime,
        *,
        as_known_at: When | datetime | None = None,
        pool: str | None = None,
    ) -> dict[str, Any]:
        """The whole fleet at a moment: ``{"position", "time", "pools", "allocations", "queue"}``.

        ``when`` is a time (``"06:49"``, ``"2026-11-22T06:49:00Z"``, ``"30m-ago"``, a datetime) or a
        position (an int, ``"#1234"``). What has been found out since counts, unless ``as_known_at``
        bounds what may be known; ``corrections`` lists it in either case. Raises InvalidInput for a
        moment before the first event or in the future, Refused (``no_such_pool``).
        """
        return self.moments().at(when, as_known_at=as_known_at, pool=pool)

    def diff(
        self, first: When | datetime, second: When | datetime, *, pool: str | None = None
    ) -> dict[str, Any]:
        """What differs between two moments: allocations, pools and nodes, the queue.

        Raises InvalidInput as :meth:`at`, and where the second moment is the earlier one.
        """
        return self.moments().diff(first, second, pool=pool)

    def now_and_position(self) -> tuple[int, int]:
        """Ledger time (ns UTC) and the last position."""
        return self._writer.read(lambda book, now: (now, book.position))

    def report(
        self,
        name: str,
        *,
        by: str | Seq[str] | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> Seq[dict[str, Any]]:
        """The rows of a report: ``efficiency`` (by task), ``compare`` (by strategy), ``utilization``
        (by ``("day", "pool")``, or any of day, hour, pool, node, tenant, holder, task and so on).

        ``since`` and ``until`` (ns UTC) bound the time that is looked at; for the other two, the
        events, and of observed pools what began then. Raises InvalidInput for another name or another
        ``by``, LedgerUnavailable where projections stand still.
        """
        if name == "utilization":
            keys = ("day", "pool") if by is None else (by,) if isinstance(by, str) else by
            return self.utilization(keys, since=since, until=until)[1].rows
        if not (by is None or isinstance(by, str)):
            raise InvalidInput(f"{name[:40]} goes by one thing at a time", "give one name")
        return self.report_of_events(name, by, since=since, until=until)

    def report_of_events(
        self,
        name: str,
        by: str | None = None,
        *,
        after: int = 0,
        upto: int | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> Seq[dict[str, Any]]:
        """As :meth:`report`, of what the log says after one position and up to another.

        Raises InvalidInput for a report that is not made of events, and for another ``by``.
        """
        from reports.compare import compare
        from reports.efficiency import efficiency_by
        from reports.efficiency_uses import told

        now, _ = self.now_and_position()
        rows = self._writer.log.read(0, upto)
        events = told(rows, after=after, since=since, until=until)
        try:
            if name == "efficiency":
                found = efficiency_by(events, by or "task", now=now, since=since, until=until)
                return [row.to_json() for row in found]
            if name == "compare":
                return compare(events, by or "strategy", now=now, since=since, until=until)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        raise InvalidInput(
            f"there is no report {name[:40]!r}", "there are efficiency, compare and utilization"
        )

    def utilization(
        self, by: Seq[str], *, since: int | None = None, until: int | None = None
    ) -> tuple[int, Utilization]:
        """(position, report) of how much was held, from the projections caught up to now.

        Raises InvalidInput for another ``by``, LedgerUnavailable where projections stand still.
        """
        from contextlib import ExitStack, closing
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from projections.engine import Engine
        from reports.utilization import NEEDS, utilization

        snapshots = self._writer.snapshots
        if snapshots is None:
            raise InvalidInput("a ledger in memory has no projections", "open one in a file")
        now, _ = self.now_and_position()
        with ExitStack() as stack:
            engine = stack.enter_context(Engine(self._writer.log, snapshots.path))
            try:
                progress = engine.catch_up()
            except LedgerReadOnly:
                # Who may only read asks tables of his own, which are gone after it.
                folder = Path(stack.enter_context(TemporaryDirectory()))
                engine = stack.enter_context(Engine(self._writer.log, folder / "views.db"))
                progress = engine.catch_up()
            stopped = [name for name in NEEDS if name in progress.failed]
            if stopped:
                raise LedgerUnavailable(
                    f"the projection {stopped[0]} has stopped, so there is no utilization to show",
                    "see `leasebook projections status`",
                )
            with closing(engine.connect()) as views:
                found = utilization(views, by, now=now, since=since, until=until)
        return progress.position, found

    def snapshot(self, filters: MonitoringFilters | None = None) -> MetricsSnapshot:
        """The fleet at this moment."""
        chosen = filters or MonitoringFilters()

        def look(book: Book, now: int) -> MetricsSnapshot:
            pools = [
                pool_out(book, pool)
                for pool in book.pools.values()
                if chosen.pool in (None, pool.name)
            ]
            states = Counter(
                a.state
                for a in book.allocations.values()
                if chosen.pool in (None, a.pool) and chosen.tenant in (None, a.tenant)
            )
            return MetricsSnapshot(rfc3339(now) or "", book.position, tuple(pools), dict(states))

        return self._writer.read(look)
