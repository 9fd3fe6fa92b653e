"""With lifetimes: a trace decided by a whole ledger in memory, queue, waits and endings included.

Each request comes at its time, waits if it may, is held for as long as in the trace counted from its
grant, and is released. The steps are the writer's (:mod:`ledger.step`); only the log is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from ledger.advance import GRANTS
from ledger.book import Book
from ledger.commands import Allocate, AnyCommand, Claim, OpenLedger, OpenPool, Release
from ledger.events import Event, Queued, Refused
from ledger.requests import CARD_RESOURCES, NodeSpec
from ledger.rules.fragmentation import cards_left, fragments, typical_of
from ledger.rules.leases import next_due
from ledger.step import settle_due, take_step
from reports.simulate.jobs import Job
from reports.simulate.traces import SECOND

POOL = "simulation"
BEGIN = 10**18
"""Where a trace's first arrival lies on the ledger's clock (ns)."""
FOREVER_NS = 10 * 365 * 86_400 * SECOND
"""The longest that a ledger lets anything last; no trace may be longer."""
SERIES_MAX = 200
"""How many moments a result's series has at most."""
(CARDS,) = CARD_RESOURCES


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at a second of the trace: shares of capacity in use, and who waited.

    ``fragmented`` is the share of all cards that is idle and of no use to what is usually asked.
    """

    at_s: float
    used: dict[str, float]
    waiting: int
    fragmented: float | None


@dataclass(slots=True)
class Course:
    """What became of a trace. ``waits_s`` are of all that was granted, 0 for those who did not wait.

    Each request is granted, refused, timed out or still waiting at the last arrival, which is where a
    course ends; ``waiting_s`` is for how long each of the last had waited by then. ``used`` is resource
    → share of the capacity in use, over the time from the first arrival to the last one; ``decisions``
    counts requests and releases.
    """

    strategy: str
    jobs: int = 0
    granted: int = 0
    waited: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    timed_out: int = 0
    waits_s: list[float] = field(default_factory=list)
    waiting_s: list[float] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    decisions: int = 0

    def to_json(self) -> dict[str, Any]:
        """The figures and the series, JSON-ready."""
        waits, waiting = sorted(self.waits_s), sorted(self.waiting_s)
        return {
            "strategy": self.strategy,
            "requests": self.jobs,
            "granted": self.granted,
            "waited": self.waited,
            "refused": self.refused,
            "timed_out": self.timed_out,
            "waiting_at_end": len(waiting),
            "waiting_s_median": _rank(waiting, 50),
            "waiting_s_max": waiting[-1] if waiting else None,
            "wait_s_median": _rank(waits, 50),
            "wait_s_p95": _rank(waits, 95),
            "wait_s_max": waits[-1] if waits else None,
            "wait_s_mean": sum(waits) / len(waits) if waits else None,
            "utilization": self.used,
            "decisions": self.decisions,
            "series": [
                {
                    "at_s": s.at_s,
                    "utilization": s.used,
                    "waiting": s.waiting,
                    "fragmented": s.fragmented,
                }
                for s in self.samples
            ],
        }


def _rank(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


class Simulation:
    """One course of a trace through a ledger of its own."""

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        jobs: Sequence[Job],
        strategy: str,
        *,
        wait_ns: int | None = None,
        policy: dict[str, Any] | None = None,
    ) -> None:
        """``jobs`` are in order of arrival; ``wait_ns`` None waits as long as it takes, 0 not at all.

        Raises ValueError for a trace that is longer than a ledger lets anything last.
        """
        self.book = Book()
        self.jobs = jobs
        self.course = Course(strategy, jobs=len(jobs))
        self._wait_ns = FOREVER_NS if wait_ns is None else wait_ns or None
        self._ends: list[tuple[int, int, str]] = []
        self._lasts: dict[str, int | None] = {}
        self._area: dict[str, int] = {}
        self._first = jobs[0].arrived_ns if jobs else 0
        lasted = jobs[-1].arrived_ns - self._first if jobs else 0
        if lasted >= FOREVER_NS:
            raise ValueError(
                f"{lasted // (365 * 86_400 * SECOND)} years lie between the first arrival and the last,"
                " and at most ten are simulated: is a time wrong, or of another kind?"
            )
        self._until = BEGIN + lasted
        self._step = max(1, -(-lasted // SERIES_MAX))
        self._next_sample = BEGIN + self._step
        self._clock = BEGIN
        self._do(OpenLedger(command_id="open", ledger_id="simulation"), BEGIN)
        settings = {**(policy or {}), "strategy": strategy, "queue_limit": 1_000_000}
        opening = OpenPool(command_id="pool", pool=POOL, nodes=tuple(nodes), policy=settings)
        self._do(opening, BEGIN)
        self.course.decisions = 0

    def run(self, progress: Callable[[int], None] | None = None) -> Course:
        """Everything, to the last arrival and all that ends before it."""
        for number, job in enumerate(self.jobs):
            now = BEGIN + job.arrived_ns - self._first
            self._pass_to(now)
            self._arrive(number, job, now)
            if progress is not None and number % 200 == 0:
                progress(number)
        self._sum_up()
        return self.course

    # --- steps -----------------------------------------------------------------------------------

    def _arrive(self, number: int, job: Job, now: int) -> None:
        request = replace(job.request, ttl_ns=FOREVER_NS, wait_ns=self._wait_ns)
        name = f"job-{number}"
        self._lasts[name] = job.lasts_ns
        command = Allocate(
            command_id=name, pool=POOL, holder=job.holder, task=job.task, request=request
        )
        self._do(command, now)

    def _pass_to(self, now: int) -> None:
        """Time passes: whatever ends until then does so at its own time, places in the queue first."""
        while True:
            end = self._ends[0][0] if self._ends else None
            due = next_due(self.book)
            if due is not None and due <= now and (end is None or due <= end):
                self._go_to(due)
                self._take(settle_due(self.book, due))
            elif end is not None and end <= now:
                self._go_to(end)
                self._release(heappop(self._ends)[2], end)
            else:
                break
        self._go_to(now)

    def _release(self, name: str, now: int) -> None:
        claim = Claim(self.book.allocations[name].holder, operator=True)
        self._do(Release(command_id=f"end-{name}", allocation=name, claim=claim), now)

    def _do(self, command: AnyCommand, now: int) -> None:
        self.course.decisions += 1
        step = take_step(self.book, command, now)
        self._take(step.events)
        # The ledger does not write down the same refusal again within a second; here each one counts.
        self._take(step.repeats)

    def _take(self, events: Iterable[Event]) -> None:
        course = self.course
        for event in events:
            body, name = event.body, event.allocation
            if isinstance(body, Refused):
                course.refused[body.reason] = course.refused.get(body.reason, 0) + 1
                if event.cause is not None:
                    self._lasts.pop(event.cause.command_id, None)
            elif isinstance(body, Queued) and event.cause is not None:
                course.waited += 1
                assert name is not None
                # From here on it goes by its allocation's id: its grant has no cause.
                self._lasts[name] = self._lasts.pop(event.cause.command_id, None)
            elif isinstance(body, GRANTS) and name is not None:
                self._granted(event, name, body.queued_at)
            elif event.type == "withdrawn":
                course.timed_out += 1

    def _granted(self, event: Event, name: str, queued_at: int | None) -> None:
        self.course.granted += 1
        waited = 0 if queued_at is None else event.at - queued_at
        self.course.waits_s.append(waited / SECOND)
        key = name if event.cause is None else event.cause.command_id
        lasts = self._lasts.pop(key, None)
        if lasts is not None:
            heappush(self._ends, (event.at + lasts, int(name[1:]), name))

    # --- what is looked at on the way ------------------------------------------------------------

    def _go_to(self, now: int) -> None:
        """What is in use counts until then, and a sample is taken now and then."""
        while self._next_sample <= now:
            self._count_until(self._next_sample)
            self._sample(self._next_sample)
            self._next_sample += self._step
        self._count_until(now)

    def _count_until(self, now: int) -> None:
        by = now - self._clock
        if by <= 0:
            return
        for resource, amount in self._in_use().items():
            self._area[resource] = self._area.get(resource, 0) + amount * by
        self._clock = now

    def _in_use(self) -> dict[str, int]:
        pool = self.book.pools[POOL]
        return pool.held.get(("default", None), {})

    def _sample(self, now: int) -> None:
        space = self.book.pools[POOL].space
        used = {
            resource: round(self._in_use().get(resource, 0) / total, 6)
            for resource, total in sorted(space.totals.items())
            if total
        }
        second, rest = divmod(now - BEGIN + self._first, SECOND)
        at_s = second + rest / SECOND if rest else second
        self.course.samples.append(Sample(at_s, used, len(space.waiting), self._fragmented()))

    def _fragmented(self) -> float | None:
        """The share of all cards that is idle and of no use to what was asked for lately."""
        pool = self.book.pools[POOL]
        total = pool.space.totals.get(CARDS, 0)
        typical = typical_of(pool.mix)
        if not total or typical is None:
            return None
        sum_ = sum(
            fragments(node, cards_left(node).values(), {}, typical)
            for node in pool.space.nodes.values()
        )
        return round(sum_ / typical.total / total, 6)

    def _sum_up(self) -> None:
        lasted = self._until - BEGIN
        space = self.book.pools[POOL].space
        asked = (self.book.allocations[name].requested_at for name in space.waiting)
        self.course.waiting_s = [(self._until - at) / SECOND for at in asked]
        self.course.used = {
            resource: round(self._area.get(resource, 0) / (total * lasted), 6)
            for resource, total in sorted(space.totals.items())
            if total and lasted
        }
