"""What allocations held, and what was recorded of their use: the ground of the efficiency report.

An allocation of a managed pool is what its events say, in order. One of an observed pool is what is
known of it by now: its events may be late, out of order and corrected, so they are folded as imports
themselves are, into a :class:`ledger.rules.history.Life`. The tables of the projections, and with them
the report of utilization, tell of the same lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ledger.codec import from_row
from ledger.events import (
    Adjusted,
    Allocated,
    Event,
    Expired,
    PoolOpened,
    Queued,
    Reclaimed,
    Released,
    Reserved,
    Transferred,
    UsageRecorded,
    Withdrawn,
)
from ledger.log import Row
from ledger.requests import Amounts, Request
from ledger.rules.history import Life, amounts_of


@dataclass(slots=True)
class Use:
    """One allocation's grant and use over time, folded from its own events.

    ``spans`` are (since, amounts) in order; the last one lasts until ``ended_at`` (ns UTC). Of an
    ``observed`` one that has not ended (``ended_by`` is None) that is when it was last known to hold,
    and ``nodes`` are where it began.
    """

    allocation: str
    observed: bool = False
    tenant: str = "default"
    holder: str | None = None
    task: str | None = None
    pool: str | None = None
    strategy: str | None = None
    parent: str | None = None
    requested_at: int | None = None
    granted_at: int | None = None
    ended_at: int | None = None
    ended_by: str | None = None
    time_limit_ns: int | None = None
    nodes: tuple[str, ...] = ()
    spans: list[tuple[int, Amounts]] = field(default_factory=list)
    usages: list[UsageRecorded] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Take in one event of this allocation, in order."""
        body = event.body
        if isinstance(body, Queued):
            self._ask(event, body.request)
        elif isinstance(body, Allocated | Reserved):
            self._ask(event, body.request)
            if body.queued_at is not None and len(self.spans) == 0:
                self.requested_at = body.queued_at
            self.strategy = body.strategy
            self.grant(event.at, body.amounts)
        elif isinstance(body, Adjusted):
            self.grant(event.at, body.amounts)
        elif isinstance(body, Transferred):
            self.holder, self.task = event.holder, event.task
        elif isinstance(body, UsageRecorded):
            self.usages.append(body)
        elif isinstance(body, Released):
            self.end(event.at, "released")
        elif isinstance(body, Expired):
            self.end(event.at, "expired")
        elif isinstance(body, Reclaimed | Withdrawn):
            self.end(event.at, body.cause)

    def _ask(self, event: Event, request: Request) -> None:
        if self.requested_at is None:
            self.requested_at = event.at
        self.tenant, self.holder = event.tenant, event.holder
        self.task, self.pool = event.task, event.pool
        self.parent, self.time_limit_ns = request.parent, request.max_age_ns

    def grant(self, at: int, amounts: Amounts) -> None:
        """It holds these amounts from here on."""
        if self.granted_at is None:
            self.granted_at = at
        self.spans.append((at, amounts))

    def end(self, at: int, by: str) -> None:
        """It holds nothing from here on."""
        self.ended_at, self.ended_by = at, by

    def settle(self, life: Life) -> None:
        """It was as its life is known: whatever events said of it before may have been corrected."""
        self.holder, self.task = life.holder, life.task
        # Where nobody knows when it began, nobody knows how long it waited.
        self.requested_at = None if life.is_since_before else life.requested_at
        self.granted_at = life.granted_at
        ended = life.ended_at is not None
        self.ended_at = life.ended_at if ended else life.held_until
        self.ended_by = life.ended_by if ended else None
        self.nodes = tuple(placement.node for placement in life.placements)
        self.spans = _spans_of(life, self.ended_at)
        self.usages = _told_once(life.usages)

    def key(self, by: str) -> str | None:
        """The name of the group that it belongs to."""
        found: str | None = getattr(self, by)
        return found

    def pieces(self, since: int, until: int) -> Iterator[tuple[int, Amounts]]:
        """(ns, amounts) for each part of an interval in which it held the same amounts."""
        for index, (start, amounts) in enumerate(self.spans):
            last = index + 1 == len(self.spans)
            end = self.ended_at if last else self.spans[index + 1][0]
            length = min(until, until if end is None else end) - max(since, start)
            if length > 0:
                yield length, amounts

    def held_ns(self, now: int) -> int:
        """How long it has held anything."""
        if self.granted_at is None:
            return 0
        return max(0, (now if self.ended_at is None else self.ended_at) - self.granted_at)

    def watched_ns(self) -> int:
        """For how much of the time held its use was recorded, whatever records overlap."""
        total = 0
        reached: int | None = None
        for usage in sorted(self.usages, key=lambda usage: usage.since):
            since = usage.since if reached is None else max(usage.since, reached)
            if usage.until <= since:
                continue
            length = usage.until - usage.since
            overlap = sum(ns for ns, _ in self.pieces(since, usage.until))
            total += overlap * max(0, length - usage.gaps_ns) // length
            reached = usage.until
        return total


def _spans_of(life: Life, end: int | None) -> list[tuple[int, Amounts]]:
    """What a life held from when on, as far as it lies between its start and its end."""
    begun = life.granted_at
    if begun is None:
        return []
    spans = [(begun, life.amounts)]
    for at in sorted(life.moves):
        amounts = amounts_of(life.moves[at])
        if at <= begun:
            spans = [(begun, amounts)]
        elif end is None or at < end:
            spans.append((at, amounts))
    return spans


def _told_once(usages: Iterable[UsageRecorded]) -> list[UsageRecorded]:
    """The use that records tell of, where some are of the same stretch or of a part of it.

    Each saw the same processes, one perhaps fewer of them (a step before its job) or for less time (a
    job that still ran): they do not add up, and the one that saw most of a resource is right.
    """
    kept: list[UsageRecorded] = []
    rest: list[UsageRecorded] = []
    # A stretch comes before those within it, and no later one kept ends before an earlier one.
    for usage in sorted(usages, key=lambda usage: (usage.since, -usage.until)):
        if not kept or usage.until > kept[-1].until:
            kept.append(usage)
            continue
        whole = kept[-1]
        most = {r: max(used, usage.used.get(r, 0)) for r, used in whole.used.items()}
        peak = usage.peak | {r: max(p, usage.peak.get(r, 0)) for r, p in whole.peak.items()}
        kept[-1] = replace(whole, used=most, peak=peak, basis=usage.basis | whole.basis)
        more = {r: used for r, used in usage.used.items() if r not in whole.used}
        if more:
            rest.append(replace(usage, used=more, peak={}))
    return [*kept, *_told_once(rest)] if rest else kept


def uses_of(events: Iterable[Event]) -> dict[str, Use]:
    """Every allocation that these events tell of from its beginning, by id, in order.

    Which pools are observed is told by their ``pool_opened``: it has to be among the events.
    """
    uses: dict[str, Use] = {}
    lives: dict[str, Life] = {}
    observed: set[str] = set()
    for event in events:
        note_kind(observed, event)
        name = event.allocation
        if name is None:
            continue
        use = uses.get(name)
        if use is None:
            if not isinstance(event.body, Queued | Allocated | Reserved):
                continue
            use = uses[name] = Use(name, observed=event.pool in observed)
            if use.observed:
                lives[name] = Life()
        use.take(event)
        if use.observed:
            life = lives[name]
            life.apply(event)
            # Only an import asks what was said before, and it is most of what a life weighs.
            life.said.clear()
    for name, life in lives.items():
        uses[name].settle(life)
    return uses


def told(
    rows: Iterable[Row],
    *,
    after: int = 0,
    since: int | None = None,
    until: int | None = None,
    task: str | None = None,
) -> Iterator[Event]:
    """The events after a position and in ``[since, until)`` (ns UTC), of all rows of a log.

    With ``task`` only those of the task. Those of observed pools come whatever their time and task,
    since each may change what others said, and so does each pool's opening, which says of what kind it
    is.
    """
    observed: set[str] = set()
    for row in rows:
        if row.type == PoolOpened.TYPE:
            event = from_row(row)
            note_kind(observed, event)
            yield event
        elif row.position > after and (
            row.pool in observed
            or (
                (since is None or row.at >= since)
                and (until is None or row.at < until)
                and (task is None or row.task == task)
            )
        ):
            yield from_row(row)


def note_kind(observed: set[str], event: Event) -> None:
    """Keep ``observed`` the names of observed pools, as far as events told of them."""
    if isinstance(event.body, PoolOpened) and event.pool is not None:
        observed.discard(event.pool)
        if event.body.kind == "observed":
            observed.add(event.pool)


def begun_within(
    uses: Iterable[Use], since: int | None = None, until: int | None = None
) -> list[Use]:
    """Those that held anything; of observed pools, those that began in ``[since, until)`` (ns UTC).

    Use in an observed pool is told of whole lives, so each counts whole, in one window. Managed ones
    are as their events tell them, which whoever reads these narrows down.
    """
    return [
        use
        for use in uses
        if use.granted_at is not None
        and not (use.observed and since is not None and use.granted_at < since)
        and not (use.observed and until is not None and use.granted_at >= until)
    ]


def outermost(uses: Iterable[Use]) -> list[Use]:
    """Without those that draw on another one of the same group: they lie within it."""
    group = list(uses)
    ids = {use.allocation for use in group}
    return [use for use in group if use.parent not in ids]
